//! Stage 2: PID 1 of the pod's PID namespace, the kernel process itself.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::{failed, tree};
use crate::platform::{dispatch, spawner};
use crate::{control, kernel, log};

/// Goes from a freshly forked child to a serving kernel. Returns only with an error.
pub fn run(control: OwnedFd, log: Option<OwnedFd>, json: bool, sync: &mut UnixStream) -> Result<(), String> {
    nix::unistd::setsid().map_err(failed("setsid"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    if let Some(log) = log {
        log::open(log, json);
    }
    tree::enter()?;
    raise_descriptor_limit();
    // The spawner is forked before anything is dropped and before there is a second thread.
    let listener = spawner::start(tree::EXEC_ROOTS).map_err(failed("starting the spawner"))?;
    let kernel = kernel::initialize().map_err(failed("making the kernel"))?;
    crate::confine::drop_rights().map_err(failed("dropping rights"))?;
    control::listen(control).map_err(failed("the control socket"))?;
    crate::confine::install().map_err(failed("confining"))?;
    dispatch::start(listener).map_err(failed("starting the dispatcher"))?;
    sync.write_all(b"ready\n").map_err(failed("speaking to the parent"))?;
    sync.shutdown(std::net::Shutdown::Both).map_err(failed("speaking to the parent"))?;
    kernel.reactor.run().map_err(failed("the reactor"))
}

/// Every file that a workload has open is one of ours too.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Raising to the hard limit needs no right.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
