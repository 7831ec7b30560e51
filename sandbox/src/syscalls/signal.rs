//! Sending signals (kill(2), tgkill(2), rt_sigqueueinfo(2)). Handlers, masks and queues are native.
//!
//! The kernel translates and checks; the host sends, so that `siginfo_t` is the sender's own. The numbers in the registers
//! can reach nothing outside the container's PID namespace. Where a target group has members that the caller may not signal, the kernel
//! sends to the others itself.

use std::sync::Arc;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::task::{Pid, Process};
use crate::kernel::{fork, kernel, signal};
use crate::platform::process::{self, Status};

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
    match target {
        1.. => to_one(call, target, number),
        0 => {
            let group = process::group(call.process.pid)?;
            to_many(call, signal::members(group), number)
        }
        -1 => {
            let others = signal::in_sight(&call.process.container).into_iter();
            to_many(call, others.filter(|process| process.inner != 1 && process.pid != call.process.pid).collect(), number)
        }
        i32::MIN => Err(Errno::ESRCH),
        _ => {
            // A group is named by its leader's number, whether the leader lives or not: ask the members.
            let wanted = -target;
            let members = signal::in_sight(&call.process.container);
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
    // A thread's number names its process too.
    let Some(process) = fork::find_either(&call.process.container, target) else { return to_zombie(call, target, number) };
    // In the order of kill_pid_info(): whether there is somebody comes first.
    check_signal(number)?;
    permit(call, &process, number)
}

/// `EPERM` where the caller may not; else the host is let go on, and the target looked at.
fn permit(call: &Call, process: &Arc<Process>, number: i32) -> Result<Outcome> {
    if !signal::may_signal(&call.process, &call.credentials(), process, number) {
        return Err(Errno::EPERM);
    }
    if number != 0 {
        signal::expect(process);
    }
    Ok(Outcome::Continue)
}

/// A process that awaits its parent's wait(2) takes every signal, to no effect. Who is neither that nor known here is nobody: the host is not asked, which
/// would ask nobody whether the caller may.
fn to_zombie(call: &Call, target: i32, number: i32) -> Result<Outcome> {
    let known = |pid: &Pid| kernel().processes.read().contains_key(pid);
    let mut unknown = process::all()?;
    unknown.retain(|pid| !known(pid));
    let is_it = |pid: Pid| {
        let status = Status::read(pid).ok()?;
        let dead = status.inner == target && status.is_dead();
        (dead && process::pid_namespace(pid).ok()? == process::pid_namespace(call.thread.tid).ok()?).then_some(())
    };
    if unknown.into_iter().any(|pid| is_it(pid).is_some()) { check_signal(number).map(Outcome::from) } else { Err(Errno::ESRCH) }
}

fn to_many(call: &Call, targets: Vec<Arc<Process>>, number: i32) -> Result<Outcome> {
    if targets.is_empty() {
        return Err(Errno::ESRCH);
    }
    check_signal(number)?;
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
        None => fork::find_either(&call.process.container, thread),
    };
    match process {
        // Whether the thread is one of that process, the host tells.
        Some(process) => permit(call, &process, number),
        None => to_zombie(call, group.unwrap_or(thread), number),
    }
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
