//! The exec stop: a program that gains rights is looked at before its first instruction.
//!
//! For an ordinary exec it is enough to compare the executed file at the next call. A set-user-ID program must not run one instruction
//! in the wrong file, nor trust its environment. So the calling thread is seized (ptrace(2)) before the host is let go; at the exec stop
//! the file is compared, and the auxiliary vector on its stack is corrected: `AT_SECURE` is 1, so that the dynamic loader ignores `LD_PRELOAD` and
//! its kin, and the `AT_*ID` entries show the emulated identity. Then it is released. An exec that fails comes back to an interrupt stop instead.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::kernel::exec;
use crate::kernel::task::Pid;
use crate::platform::dispatch::dispatcher;
use crate::platform::memory::{Address, Memory};
use crate::platform::process;
use crate::syscalls::{Call, Outcome};

/// `PTRACE_EVENT_EXEC`, as it stands above the stop signal in a wait status.
const EXEC_EVENT: i32 = libc::PTRACE_EVENT_EXEC;
/// How often a thread that is not its process's first one is looked at.
const LOOK: std::time::Duration = std::time::Duration::from_micros(50);
/// How much of the new stack is searched for the auxiliary vector, bytes.
const STACK: u64 = 6 << 20;

/// Lets the host execute the call under supervision and answers it.
pub fn supervise(call: &Call) -> Result<Outcome> {
    let tid = call.thread.tid;
    dispatcher().heed();
    process::trace(libc::PTRACE_SEIZE, tid, 0, (libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL) as u64)?;
    dispatcher().listener().let_go(call.id);
    let _ = process::trace(libc::PTRACE_INTERRUPT, tid, 0, 0);
    loop {
        match next_stop(call) {
            // A thread other than the first one has the process's number after its exec.
            Some(status) if status >> 16 == EXEC_EVENT => return Ok(executed(call)),
            Some(status) if status >> 16 == libc::PTRACE_EVENT_STOP => {
                // An interrupt is taken on the way out of the call: the exec has failed.
                let _ = process::trace(libc::PTRACE_DETACH, tid, 0, 0);
                return Ok(Outcome::Gone);
            }
            Some(status) => {
                let signal = libc::WSTOPSIG(status);
                let _ = process::trace(libc::PTRACE_CONT, tid, 0, signal as u64);
            }
            None => return Ok(Outcome::Gone),
        }
    }
}

/// Waits for the calling thread's next stop; `None` where it ends instead. A thread other than the first one stops at its exec by the process's number, and
/// a wait for its own number would never see that: so both are looked at.
fn next_stop(call: &Call) -> Option<i32> {
    let (tid, pid) = (call.thread.tid, call.process.pid);
    if tid == pid {
        return process::wait_traced(tid).ok().filter(|status| libc::WIFSTOPPED(*status));
    }
    loop {
        match process::try_wait_traced(tid) {
            Ok(Some(status)) => return libc::WIFSTOPPED(status).then_some(status),
            Ok(None) => {}
            // Its number is gone: it is dead, or the first thread now.
            Err(_) => match process::try_wait_stopped(pid) {
                Ok(Some(status)) => return Some(status),
                Ok(None) if call.process.exit.get().is_none() => {}
                _ => return None,
            },
        }
        std::thread::sleep(LOOK);
    }
}

fn executed(call: &Call) -> Outcome {
    let pid = call.process.pid;
    let pending = {
        let mut slot = call.process.exec.lock();
        if slot.as_ref().is_some_and(|pending| pending.thread == call.thread.tid) { slot.take() } else { None }
    };
    let right = pending.is_some_and(|pending| {
        let credentials = pending.credentials.clone();
        exec::complete(&call.process, pending).is_ok() && secure(pid, &credentials).is_ok()
    });
    if !right {
        let _ = process::kill(pid.0, libc::SIGKILL);
    }
    let _ = process::trace(libc::PTRACE_DETACH, pid, 0, 0);
    Outcome::Gone
}

/// Rewrites the auxiliary vector of a program that has just been loaded.
fn secure(pid: Pid, credentials: &Arc<Credentials>) -> Result<()> {
    // From the stack pointer up: argc, arguments, NULL, environment, NULL, then pairs of type and value until AT_NULL.
    let mut at = Address(process::stack_pointer(pid)?);
    let end = at.offset(STACK)?;
    let memory = Memory::of(pid);
    let arguments: u64 = memory.read_value(at)?;
    at = at.offset(arguments.checked_add(2).and_then(|words| words.checked_mul(8)).ok_or(Errno::EFAULT)?)?;
    while memory.read_value::<u64>(at)? != 0 {
        at = at.offset(8)?;
        if at > end {
            return Err(Errno::EFAULT);
        }
    }
    at = at.offset(8)?;
    for _ in 0..64 {
        let [kind, _]: [u64; 2] = memory.read_value(at)?;
        let value = match kind {
            libc::AT_NULL => return Ok(()),
            libc::AT_SECURE => Some(1),
            libc::AT_UID => Some(credentials.uid),
            libc::AT_EUID => Some(credentials.euid),
            libc::AT_GID => Some(credentials.gid),
            libc::AT_EGID => Some(credentials.egid),
            _ => None,
        };
        if let Some(value) = value {
            memory.write_value(at.offset(8)?, &u64::from(value))?;
        }
        at = at.offset(16)?;
    }
    Err(Errno::EFAULT)
}
