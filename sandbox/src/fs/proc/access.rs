//! Who may look into a process: `ptrace_may_access()` of kernel/ptrace.c, with the file-system ids of the caller (ptrace(2), "Ptrace access mode checking").

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{caller, first_thread};
use crate::errno::{Errno, Result};
use crate::fs::synthetic::Guard;
use crate::kernel::credentials::{Capability, Credentials};
use crate::kernel::task::Process;

/// `PTRACE_MODE_READ_FSCREDS`: `EACCES` unless `who` may read what `process` keeps to itself. A process always may itself.
pub fn may_read(process: &Process, who: &Credentials) -> Result<()> {
    if caller().is_ok_and(|caller| caller.pid == process.pid) {
        return Ok(());
    }
    let theirs = first_thread(process)?.credentials.read().clone();
    let tracer = who.capable(Capability::SysPtrace);
    let dumpable = process.dumpable.load(Ordering::Relaxed) == 1;
    if tracer || (dumpable && same_identity(who, &theirs) && theirs.permitted.difference(who.permitted).0 == 0) {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

fn same_identity(who: &Credentials, theirs: &Credentials) -> bool {
    [theirs.uid, theirs.euid, theirs.suid].iter().all(|id| *id == who.fsuid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|id| *id == who.fsgid)
}

/// The same as a guard of files.
pub fn guard(process: &Arc<Process>) -> Guard {
    let process = process.clone();
    Arc::new(move |who| may_read(&process, who))
}

/// Lets the process itself, and nobody else (`proc_fd_permission()` in fs/proc/fd.c).
pub fn own(process: &Arc<Process>) -> Guard {
    let process = process.clone();
    Arc::new(move |_| if caller()?.pid == process.pid { Ok(()) } else { Err(Errno::EACCES) })
}

/// The owner of a process's files: its user, or root where it may not be looked into (`task_dump_owner()` in fs/proc/base.c).
pub fn owner(process: &Process) -> (u32, u32) {
    if process.dumpable.load(Ordering::Relaxed) == 1 { user(process) } else { (0, 0) }
}

/// Whom the process runs as: the owner of its directory, dumpable or not.
pub fn user(process: &Process) -> (u32, u32) {
    first_thread(process).map_or((0, 0), |thread| {
        let who = thread.credentials.read();
        (who.euid, who.egid)
    })
}
