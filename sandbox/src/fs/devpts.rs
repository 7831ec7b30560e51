//! devpts: the file system of a container's pseudo-terminals.

/// One instance of devpts.
#[derive(Default)]
pub struct Instance {}
