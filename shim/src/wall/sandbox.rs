//! The user-space kernel: a confined process of this very binary.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use bulkhead_protocol::messages::Tree;
use bulkhead_protocol::streams::StreamConnection;
use bulkhead_sandbox::boot;

use super::{Prepared, Start, WallError};
use crate::log;
use crate::state::ProcessHandle;

/// A kernel process before its release.
pub(super) struct Kernel {
    process: boot::Prepared,
    handle: ProcessHandle,
}

/// Makes the process, with its listening socket.
pub(super) fn prepare(start: Start<'_>) -> Result<Kernel, WallError> {
    let failed = |source| WallError::Socket { directory: start.directory.display().to_string(), source };
    let socket = start.directory.join("control.sock");
    // What a wall that is gone has left.
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let place = std::fs::File::open(start.directory).map_err(failed)?;
    // A socket's path may be 108 bytes long; a directory's descriptor has a short name.
    let control = UnixListener::bind(format!("/proc/self/fd/{}/control.sock", place.as_raw_fd())).map_err(failed)?;
    let (json, debug) = log::settings();
    let process = boot::prepare(boot::SpawnOptions {
        control: control.into(),
        log: log::for_wall(start.strace || debug),
        log_format_json: json,
        debug,
        network: Some(start.network),
        cgroups: start.cgroups,
    })?;
    let handle = ProcessHandle::of(process.pid()).ok_or(WallError::Ended)?;
    Ok(Kernel { process, handle })
}

impl Prepared for Kernel {
    fn handle(&self) -> ProcessHandle {
        self.handle
    }

    fn release(self: Box<Self>) -> Result<(), WallError> {
        self.process.release()?;
        Ok(())
    }
}

/// A tree is a descriptor like a stream; the kernel process mounts it in a tree of its own.
pub(super) fn tree(streams: &mut StreamConnection, tree: &OwnedFd) -> io::Result<Tree> {
    let mut attached = Tree::new();
    attached.stream = streams.attach(tree)?.number();
    Ok(attached)
}
