//! PID 1 of the pod's PID namespace: the kernel process itself, from its first instruction to serving.

use bulkhead_launch::Words;

use super::launch::Inherited;
use super::{failed, tree};
use crate::platform::{dispatch, spawner};
use crate::{confine, control, kernel, log};

/// Becomes a serving kernel. Returns only with an error; `words` are gone where it has served.
pub(super) fn run(inherited: Inherited, words: &mut Option<Words>) -> Result<(), String> {
    if let Some(log) = inherited.log {
        log::open(log, inherited.json);
        log::set_debug(inherited.debug);
    }
    let _ = nix::sys::prctl::set_name(c"bulkhead-kernel");
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    tree::enter()?;
    // The spawner is forked before anything is dropped and before there is a second thread.
    let listener = spawner::start(tree::EXEC_ROOTS).map_err(failed("starting the spawner"))?;
    let kernel = kernel::initialize().map_err(failed("making the kernel"))?;
    confine::drop_rights().map_err(failed("dropping rights"))?;
    control::listen(inherited.control).map_err(failed("the control socket"))?;
    confine::install(inherited.debug).map_err(failed("confining"))?;
    dispatch::start(listener).map_err(failed("starting the dispatcher"))?;
    words.take().map_or(Ok(()), Words::ready).map_err(failed("speaking to the parent"))?;
    kernel.reactor.run().map_err(failed("the reactor"))
}
