//! Sending signals (kill(2), tgkill(2), rt_sigqueueinfo(2)). Handlers, masks and queues are native.
//!
//! The kernel translates and checks; the host sends, so that `siginfo_t` is the sender's own. The numbers in the registers
//! can reach nothing outside the container's PID namespace. Where a target group has members that the caller may not signal, the kernel
//! sends to the others itself.

use std::sync::Arc;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::task::Process;
use crate::kernel::{fork, signal};
use crate::platform::process;

use Argument::{Number, Pointer, Signal};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_kill, "kill", kill, &[Number, Signal]),
    Entry::new(libc::SYS_tkill, "tkill", tkill, &[Number, Signal]),
    Entry::new(libc::SYS_tgkill, "tgkill", tgkill, &[Number, Number, Signal]),
    Entry::new(libc::SYS_rt_sigqueueinfo, "rt_sigqueueinfo", rt_sigqueueinfo, &[Number, Signal, Pointer]),
    Entry::new(libc::SYS_rt_tgsigqueueinfo, "rt_tgsigqueueinfo", rt_tgsigqueueinfo, &[Number, Number, Signal, Pointer]),
];

fn check_signal(number: i32) -> Result<()> {
    if (0..=64).contains(&number) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn kill(call: &Call) -> Result<Outcome> {
    let (target, number) = (call.int(0), call.int(1));
    check_signal(number)?;
    match target {
        1.. => to_one(call, target, number),
        0 => {
            let group = process::group(call.process.pid)?;
            to_many(call, signal::members(group), number)
        }
        -1 => {
            let others = signal::of_container(&call.process.container).into_iter();
            to_many(call, others.filter(|process| process.inner != 1 && process.pid != call.process.pid).collect(), number)
        }
        i32::MIN => Err(Errno::ESRCH),
        _ => {
            // A group is named by its leader's number, whether the leader lives or not: ask the members.
            let wanted = -target;
            let members = signal::of_container(&call.process.container);
            let of_group = members.into_iter().filter(|process| inner_group(call, process) == Some(wanted)).collect();
            to_many(call, of_group, number)
        }
    }
}

/// A process's group in the container's own numbering. The leader may be dead: then any number that the host still shows is
/// taken from the group's members through /proc.
fn inner_group(call: &Call, process: &Arc<Process>) -> Option<i32> {
    let group = process::group(process.pid).ok()?;
    if group == process.pid {
        return Some(process.inner);
    }
    match fork::inner_number(&call.process.container, group) {
        0 => process::inner_group(process.pid).ok(),
        number => Some(number),
    }
}

fn to_one(call: &Call, target: i32, number: i32) -> Result<Outcome> {
    let process = fork::find(&call.process.container, target).ok_or(Errno::ESRCH);
    let process = match process {
        Ok(process) => process,
        // A thread's number names its process too; a zombie is nobody's any more but the host still knows it.
        Err(_) => match find_thread(call, target) {
            Some(process) => process,
            None => return Ok(Outcome::Continue),
        },
    };
    if !signal::may_signal(&call.process, &call.credentials(), &process, number) {
        return Err(Errno::EPERM);
    }
    if number != 0 {
        signal::expect(&process);
    }
    Ok(Outcome::Continue)
}

fn to_many(call: &Call, targets: Vec<Arc<Process>>, number: i32) -> Result<Outcome> {
    if targets.is_empty() {
        return Err(Errno::ESRCH);
    }
    let who = call.credentials();
    let (allowed, refused): (Vec<_>, Vec<_>) =
        targets.into_iter().partition(|target| signal::may_signal(&call.process, &who, target, number));
    if allowed.is_empty() {
        return Err(Errno::EPERM);
    }
    if refused.is_empty() {
        for process in &allowed {
            signal::expect(process);
        }
        return Ok(Outcome::Continue);
    }
    for process in &allowed {
        if number != 0 {
            let _ = signal::send_to_process(process, number);
        }
    }
    Ok(().into())
}

fn find_thread(call: &Call, inner: i32) -> Option<Arc<Process>> {
    let threads: Vec<_> = crate::kernel::kernel().threads.read().values().cloned().collect();
    threads
        .into_iter()
        .filter(|thread| thread.inner == inner)
        .filter_map(|thread| thread.process())
        .find(|process| Arc::ptr_eq(&process.container, &call.process.container))
}

/// tkill and tgkill: inside one process always allowed; the common case is raise(3) and pthread_kill(3).
fn to_thread(call: &Call, group: Option<i32>, thread: i32, number: i32) -> Result<Outcome> {
    if thread <= 0 || group.is_some_and(|group| group <= 0) {
        return Err(Errno::EINVAL);
    }
    check_signal(number)?;
    if thread == call.thread.inner {
        return Ok(Outcome::Continue);
    }
    let process = match group {
        Some(group) if group == call.process.inner => Some(call.process.clone()),
        Some(group) => fork::find(&call.process.container, group),
        None => find_thread(call, thread).or_else(|| fork::find(&call.process.container, thread)),
    };
    // Not known here: a thread that has not made a call yet, or nobody. The host tells.
    if let Some(process) = process {
        if !signal::may_signal(&call.process, &call.credentials(), &process, number) {
            return Err(Errno::EPERM);
        }
        signal::expect(&process);
    }
    Ok(Outcome::Continue)
}

fn tkill(call: &Call) -> Result<Outcome> {
    to_thread(call, None, call.int(0), call.int(1))
}

fn tgkill(call: &Call) -> Result<Outcome> {
    to_thread(call, Some(call.int(0)), call.int(1), call.int(2))
}

/// The host reads the siginfo again, and itself refuses one that pretends to come from the kernel or from kill(2).
fn rt_sigqueueinfo(call: &Call) -> Result<Outcome> {
    check_signal(call.int(1))?;
    if call.int(0) <= 0 { Err(Errno::ESRCH) } else { to_one(call, call.int(0), call.int(1)) }
}

fn rt_tgsigqueueinfo(call: &Call) -> Result<Outcome> {
    to_thread(call, Some(call.int(0)), call.int(1), call.int(2))
}
