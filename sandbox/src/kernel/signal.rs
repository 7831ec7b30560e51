//! Signals: native inside the container, with the kernel watching (signal(7)).
//!
//! Signals between processes are sent by the host, once this kernel has checked the emulated credentials, so `siginfo_t` is
//! the real one; handlers, masks and queues are the host's. What is left to do here is to get *parked calls* out of
//! the way. The host does not cancel a received notification for a signal; so whoever makes a signal likely says so
//! ([`expect`]), and the process's parked calls are looked at ([`attend`]): a call whose thread has an unblocked
//! signal pending is interrupted (`ERESTARTSYS`), and the host runs the handler, stops the process, or ends the call, as the
//! signal's disposition says.
//!
//! A signal that the host was just allowed to send (`CONTINUE`) is not pending yet, and a call may be on its way to being
//! parked while a signal arrives. So [`expect`] looks now and a few times more, in growing steps, up to 50 ms.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::container::Container;
use super::credentials::{Capability, Credentials};
use super::task::{Pid, Process, Thread};
use super::timer::{Moment, Timer};
use super::wait::{Observer, Ready};
use super::{fork, kernel, sigmask};
use crate::errno::{Errno, Result};
use crate::platform::process::{self, Status};
use crate::sync::Mutex;

/// Sends a signal from the kernel to one process, then looks at its parked calls.
pub fn send_to_process(process: &Arc<Process>, signal: i32) -> Result<()> {
    process::kill(process.pid.0, signal)?;
    expect(process);
    Ok(())
}

/// Sends a signal from the kernel to a process group (number in the kernel's namespace), then looks at its members' parked calls.
/// `ESRCH` where the group is empty.
pub fn send_to_group(group: Pid, signal: i32) -> Result<()> {
    if group.0 <= 1 {
        return Err(Errno::ESRCH);
    }
    process::kill(-group.0, signal)?;
    expect_group(group);
    Ok(())
}

/// Sends `SIGPIPE` and the like to the very thread whose call is being served.
pub fn send_to_thread(process: Pid, thread: Pid, signal: i32) -> Result<()> {
    process::kill_thread(process, thread, signal)
}

/// The processes of a group, as far as they are known here.
pub fn members(group: Pid) -> Vec<Arc<Process>> {
    fork::reveal();
    let all: Vec<Arc<Process>> = kernel().processes.read().values().cloned().collect();
    all.into_iter().filter(|process| process::group(process.pid) == Ok(group)).collect()
}

/// A signal for every member of this group is on its way.
pub fn expect_group(group: Pid) {
    for process in members(group) {
        expect(&process);
    }
}

/// A parent, or one of its threads, is gone: its children that asked for a signal then (`PR_SET_PDEATHSIG`) get it from the host.
pub fn parent_thread_is_gone(parent: &Process) {
    if !DEATHS_ARE_MINDED.load(Ordering::Relaxed) {
        return;
    }
    let minding: Vec<Arc<Process>> =
        kernel().processes.read().values().filter(|process| process.minds_parent.load(Ordering::Relaxed)).cloned().collect();
    for process in minding.iter().filter(|process| process.parent.load(Ordering::Relaxed) == parent.pid.0) {
        expect(process);
    }
}

/// Notes that a process has asked for a signal at its parent's death.
pub fn mind_parent(process: &Process) {
    process.minds_parent.store(true, Ordering::Relaxed);
    DEATHS_ARE_MINDED.store(true, Ordering::Relaxed);
}

/// Whether any process ever has: spares the others a look at all processes.
static DEATHS_ARE_MINDED: AtomicBool = AtomicBool::new(false);

/// When to look again, in microseconds after [`expect`].
const LOOKS: [u64; 5] = [60, 300, 2_000, 10_000, 50_000];

/// A signal for this process is on its way, or has just arrived: looks at its parked calls, now and a few times more.
pub fn expect(process: &Arc<Process>) {
    attend(process);
    let now = Moment::now();
    let until = now.after(Duration::from_micros(LOOKS[LOOKS.len() - 1])).0;
    if process.attention.swap(until, Ordering::SeqCst) < now.0 {
        Look::arm(Arc::downgrade(process), 0);
    } else {
        // A chain of looks is under way; a fresh one follows this signal from its first, short step.
        Look::arm_short(Arc::downgrade(process));
    }
}

/// One link of the chain of looks.
struct Look {
    process: Weak<Process>,
    step: usize,
    last: bool,
    timer: Mutex<Option<Timer>>,
}

impl Look {
    fn arm(process: Weak<Process>, step: usize) {
        Look::start(process, step, false);
    }

    fn arm_short(process: Weak<Process>) {
        Look::start(process, 0, true);
    }

    fn start(process: Weak<Process>, step: usize, last: bool) {
        let Some(&wait) = LOOKS.get(step) else { return };
        let look = Arc::new(Look { process, step, last, timer: Mutex::new(None) });
        let mut slot = look.timer.lock();
        *slot = Some(kernel().timers.arm(Moment::now().after(Duration::from_micros(wait)), look.clone()));
    }
}

impl Observer for Look {
    fn notify(&self, _ready: Ready) {
        let timer = self.timer.lock().take();
        drop(timer);
        let Some(process) = self.process.upgrade() else { return };
        attend(&process);
        if !self.last {
            let more = Moment::now().0 < process.attention.load(Ordering::SeqCst);
            // Signals that came meanwhile have moved the end: stay at the longest step until they are covered too.
            let next = (self.step + 1).min(LOOKS.len() - 1);
            if more {
                Look::start(self.process.clone(), next, false);
            }
        }
    }
}

/// Interrupts those parked calls of the process whose thread has an unblocked signal pending, and has those look that wait for signals by a signalfd.
///
/// A signal for the whole process is taken by one thread, and only that one may be answered `ERESTARTSYS`. The host prefers
/// the first thread of the group unless it blocks the signal (complete_signal() in kernel/signal.c); where it does and several
/// others do not, nobody can tell which was chosen: those that are parked get `EINTR`, which every program must expect.
pub fn attend(process: &Arc<Process>) {
    process.signal_files.wake();
    let mut threads = process.threads.lock().clone();
    let leaving = process.leaving.lock().clone();
    threads.retain(|thread| !leaving.contains(&thread.tid));
    let parked: Vec<_> = threads.iter().filter_map(|thread| Some((thread, thread.parked.lock().clone()?))).collect();
    if parked.is_empty() {
        return;
    }
    let first_blocks = match threads.as_slice() {
        [_] => 0,
        // The first thread has exited: it takes none.
        _ if leaving.contains(&process.pid) => u64::MAX,
        _ => Status::read(process.pid).map_or(0, |status| status.blocked),
    };
    for (thread, call) in parked {
        let Ok(status) = Status::read(thread.tid) else { continue };
        let mask = *thread.wait_mask.lock();
        if let Some(mask) = mask.filter(|mask| sigmask::wants(&status, *mask)) {
            // Once is enough: whoever looks next finds no mask.
            if thread.wait_mask.lock().take().is_some() {
                sigmask::deliver(thread, mask);
            }
            continue;
        }
        let own = status.pending & !status.blocked;
        let shared = status.shared_pending & !status.blocked;
        if own != 0 || (shared != 0 && (thread.tid == process.pid || threads.len() == 1)) {
            call.interrupt();
        } else if shared & first_blocks != 0 {
            call.interrupt_with(Errno::EINTR);
        }
    }
}

/// Whether `sender` may signal `target` (kill(2)): a user id of the sender is the target's real or saved one, or `CAP_KILL`; `SIGCONT`
/// inside a session always.
pub fn may_signal(sender: &Process, credentials: &Credentials, target: &Process, signal: i32) -> bool {
    if sender.pid == target.pid || credentials.capable(Capability::Kill) {
        return true;
    }
    let Some(theirs) = target.threads.lock().first().map(|thread: &Arc<Thread>| thread.credentials.read().clone()) else { return true };
    if [credentials.uid, credentials.euid].iter().any(|id| *id == theirs.uid || *id == theirs.suid) {
        return true;
    }
    signal == libc::SIGCONT && process::session(sender.pid).is_ok_and(|own| process::session(target.pid) == Ok(own))
}

/// The processes that have numbers for a container's: its own, and those of containers that share its PID namespace.
pub fn in_sight(container: &Arc<Container>) -> Vec<Arc<Process>> {
    fork::reveal();
    kernel().processes.read().values().filter(|process| process.container.sees(container)).cloned().collect()
}

/// The processes of a container.
pub fn of_container(container: &Arc<Container>) -> Vec<Arc<Process>> {
    fork::reveal();
    kernel().processes.read().values().filter(|process| Arc::ptr_eq(&process.container, container)).cloned().collect()
}
