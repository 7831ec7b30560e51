//! fork(2), vfork(2), clone(2): allowed natively, followed here.

use std::sync::Arc;

use super::credentials::Credentials;
use super::limits::Limits;
use super::task::{Executable, FileSystemContext};
use crate::vfs::descriptor::DescriptorTable;

/// What a child inherits, taken at its parent's call.
pub struct Snapshot {
    /// The clone flags.
    pub flags: u64,
    /// Identity.
    pub credentials: Arc<Credentials>,
    /// Working directory and kin: shared with `CLONE_FS`, else a copy.
    pub context: Arc<FileSystemContext>,
    /// Descriptors: shared with `CLONE_FILES`, else a copy.
    pub descriptors: Arc<DescriptorTable>,
    /// Limits.
    pub limits: Limits,
    /// The program it runs.
    pub executable: Option<Arc<Executable>>,
    /// The thread's name.
    pub name: [u8; 16],
    /// `PR_SET_DUMPABLE`.
    pub dumpable: i32,
}
