//! Terminals.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::container::Container;
use crate::kernel::credentials::Credentials;
use crate::vfs::file::OpenFile;

/// A console.
pub fn console(_: &Arc<Container>, _: Option<OwnedFd>, _: (u16, u16), _: Arc<Credentials>) -> Result<Arc<OpenFile>> {
    Err(Errno::ENOTTY)
}

/// Resizes a console.
pub fn resize(_: &Arc<Container>, _: u16, _: u16) -> Result<()> {
    Err(Errno::ENOTTY)
}
