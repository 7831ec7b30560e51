//! The user-space kernel: a confined process of this very binary.

use bulkhead_sandbox::boot;

use super::{Prepared, Start, WallError, listen};
use crate::log;
use crate::state::ProcessHandle;

/// A kernel process before its release.
pub(super) struct Kernel {
    process: boot::Prepared,
    handle: ProcessHandle,
}

/// Makes the process, with its listening socket.
pub(super) fn prepare(start: Start<'_>) -> Result<Kernel, WallError> {
    let control = listen(start.directory)?;
    let (json, debug) = log::settings();
    let process = boot::prepare(boot::SpawnOptions {
        control,
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
