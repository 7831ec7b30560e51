//! The control protocol's server.

use std::os::fd::OwnedFd;

use crate::errno::Result;

/// Serves connections to this listening socket, on the reactor.
pub fn listen(socket: OwnedFd) -> Result<()> {
    let _ = socket;
    Ok(())
}
