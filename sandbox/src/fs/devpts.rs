//! devpts: the file system of a container's pseudo-terminals.

use super::synthetic::{self, Kind};
use crate::vfs::node::NodeRef;

/// One instance of devpts.
#[derive(Default)]
pub struct Instance {}

/// An instance's root.
pub fn root() -> NodeRef {
    synthetic::root(Kind { magic: 0x1cd1, device: 0x16 }, Vec::new)
}
