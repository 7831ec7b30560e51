//! Temporary signal masks: ppoll(2), pselect(2), epoll_pwait(2).
//!
//! Such a call waits with another signal mask than the thread's own, and a signal that only the temporary mask lets through must end it with `EINTR` and
//! run its handler. The thread is parked here, but its mask is the host's, which still blocks that signal. So when one is pending the thread is
//! seized (ptrace(2)) for a moment: the call is answered, the thread stops on its way out, gets the temporary mask, and the host delivers the signal; at the
//! handler's first instruction the mask that the handler's return will restore is put back to the thread's own, and the thread is let go. Other waits cost nothing.

use std::sync::Arc;

use super::task::{Pid, Thread};
use crate::errno::{Errno, Result};
use crate::platform::memory::{Address, Memory};
use crate::platform::process::{self, Status};

/// From the stack pointer at a handler's entry to the saved mask: the return address, then `uc_flags`, `uc_link`, `uc_stack` and the machine context of
/// `struct ucontext` (arch/x86/include/uapi/asm/sigcontext.h).
const SAVED_MASK: u64 = 8 + 8 + 8 + 24 + 256;
/// How often a signal's delivery is looked for, every 50 us.
const TRIES: usize = 400;

/// Whether a signal is pending that the temporary mask lets through and the thread's own does not.
pub fn wants(status: &Status, mask: u64) -> bool {
    (status.pending | status.shared_pending) & !mask & status.blocked != 0
}

/// Ends the thread's parked call and has the host deliver what `mask` lets through. Runs on a thread of its own, since a tracer must wait.
pub fn deliver(thread: &Arc<Thread>, mask: u64) {
    let thread = thread.clone();
    let spawned = std::thread::Builder::new().name("sigmask".into()).stack_size(256 << 10).spawn(move || {
        let _ = run(&thread, mask);
        super::park::run_woken();
    });
    // Without a thread the call goes on waiting: the signal stays pending, as if it had come later.
    drop(spawned);
}

fn run(thread: &Thread, mask: u64) -> Result<()> {
    let tid = thread.tid;
    let own = Status::read(tid)?.blocked;
    process::trace(libc::PTRACE_SEIZE, tid, 0, libc::PTRACE_O_EXITKILL as u64)?;
    let outcome = deliver_traced(thread, mask, own);
    let _ = process::trace(libc::PTRACE_DETACH, tid, 0, 0);
    outcome
}

fn deliver_traced(thread: &Thread, mask: u64, own: u64) -> Result<()> {
    let tid = thread.tid;
    process::trace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
    let parked = thread.parked.lock().clone();
    if let Some(parked) = parked {
        parked.interrupt_with(Errno::EINTR);
        super::park::run_woken();
    }
    stop(tid)?;
    process::set_signal_mask(tid, mask)?;
    process::trace(libc::PTRACE_CONT, tid, 0, 0)?;
    let Some(status) = soon(tid)? else {
        // Another thread of the process has taken the signal: this one goes on with its own mask.
        process::trace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
        stop(tid)?;
        return process::set_signal_mask(tid, own);
    };
    // Into the handler, up to its first instruction.
    process::trace(libc::PTRACE_SINGLESTEP, tid, 0, libc::WSTOPSIG(status) as u64)?;
    let status = stop(tid)?;
    if libc::WSTOPSIG(status) != libc::SIGTRAP {
        return process::set_signal_mask(tid, own);
    }
    let stack = process::stack_pointer(tid)?;
    Memory::of(tid).write_value(Address(stack).offset(SAVED_MASK)?, &own)
}

/// Waits a moment for the stop at a signal's delivery; `None` where it does not come.
fn soon(tid: Pid) -> Result<Option<i32>> {
    for _ in 0..TRIES {
        match process::try_wait_traced(tid)? {
            Some(status) if libc::WIFSTOPPED(status) => return Ok(Some(status)),
            Some(_) => return Err(Errno::ESRCH),
            None => std::thread::sleep(std::time::Duration::from_micros(50)),
        }
    }
    Ok(None)
}

/// Waits for the next stop. `ESRCH` where the thread ends instead.
fn stop(tid: Pid) -> Result<i32> {
    let status = process::wait_traced(tid)?;
    if libc::WIFSTOPPED(status) { Ok(status) } else { Err(Errno::ESRCH) }
}
