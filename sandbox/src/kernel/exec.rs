//! execve(2): resolved here, executed by the host's own loader.

use std::sync::Arc;

use super::credentials::Credentials;
use super::task::{Executable, Pid};

/// An exec that the host has been allowed to do, until it is known whether it succeeded.
pub struct PendingExec {
    /// The thread that called.
    pub thread: Pid,
    /// The native number of the planted close-on-exec descriptor: gone once the exec has succeeded.
    pub planted: i32,
    /// What it will run.
    pub executable: Arc<Executable>,
    /// Device and inode that `/proc/PID/exe` must show.
    pub identity: (u64, u64),
    /// Identity after the exec.
    pub credentials: Arc<Credentials>,
    /// New thread name.
    pub name: [u8; 16],
}
