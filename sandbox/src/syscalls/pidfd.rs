//! Processes by descriptor: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2).
//!
//! waitid(2) by `P_PIDFD` is not served: it is `EINVAL`, as on a Linux before 5.4.

use std::sync::Arc;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::fs::pidfd::PidFile;
use crate::kernel::credentials::Capability;
use crate::kernel::task::Process;
use crate::kernel::{fork, signal};
use crate::platform::process::{self, Status};
use crate::vfs::descriptor::Descriptor as Number_;
use crate::vfs::file::OpenFile;

use Argument::{Descriptor, Hex, Number, Pointer, Signal};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_pidfd_open, "pidfd_open", pidfd_open, &[Number, Hex]),
    Entry::new(libc::SYS_pidfd_send_signal, "pidfd_send_signal", pidfd_send_signal, &[Descriptor, Signal, Pointer, Hex]),
    Entry::new(libc::SYS_pidfd_getfd, "pidfd_getfd", pidfd_getfd, &[Descriptor, Descriptor, Hex]),
    Entry::new(libc::SYS_waitid, "waitid", waitid, &[Number, Number, Pointer, Hex, Pointer]),
];

fn pidfd_open(call: &Call) -> Result<Outcome> {
    let (number, flags) = (call.int(0), call.uint(1));
    // PIDFD_NONBLOCK is O_NONBLOCK.
    if number <= 0 || flags & !(libc::O_NONBLOCK as u32) != 0 {
        return Err(Errno::EINVAL);
    }
    let process = match fork::find(&call.process.container, number) {
        Some(process) => Some(process),
        None if is_dead_child(&call.process, number) => None,
        None => return Err(Errno::ESRCH),
    };
    let file = OpenFile::new(PidFile::create(process), None, libc::O_RDWR | flags as i32, call.credentials());
    Ok(Outcome::Value(i64::from(call.install(file, true)?.0)))
}

/// Whether a child with this number awaits its wait(2): such a process is forgotten here and known to the host alone.
fn is_dead_child(parent: &Arc<Process>, inner: i32) -> bool {
    let threads: Vec<_> = parent.threads.lock().iter().map(|thread| thread.tid).collect();
    threads
        .into_iter()
        .flat_map(|thread| process::children(parent.pid, thread).unwrap_or_default())
        .any(|child| Status::read(child).is_ok_and(|status| status.inner == inner && status.is_dead()))
}

fn pidfd_send_signal(call: &Call) -> Result<Outcome> {
    /// `SI_TKILL`: with 0 and above, what only the kernel may claim to others (rt_sigqueueinfo(2)).
    const FROM_TKILL: i32 = -6;
    let number = call.int(1);
    if call.raw(3) as u32 != 0 || !(0..=64).contains(&number) {
        return Err(Errno::EINVAL);
    }
    let target = PidFile::process_of(&*call.file(0)?)?;
    if !Arc::ptr_eq(&target.container, &call.process.container) {
        return Err(Errno::EINVAL);
    }
    let information: Option<[i32; 32]> = match call.address(2).optional() {
        None => None,
        Some(address) => Some(call.memory().read_value(address)?),
    };
    if let Some(information) = &information {
        if information[0] != number {
            return Err(Errno::EINVAL);
        }
        let code = information[2];
        if (code >= 0 || code == FROM_TKILL) && target.pid != call.process.pid {
            return Err(Errno::EPERM);
        }
    }
    if !signal::may_signal(&call.process, &call.credentials(), &target, number) {
        return Err(Errno::EPERM);
    }
    match information {
        // By kill(2) the sender would show as the kernel process: the caller is named instead.
        None => process::queue(&target.pidfd, number, &from_user(call, number))?,
        Some(information) => process::queue(&target.pidfd, number, &information)?,
    }
    if number != 0 {
        signal::expect(&target);
    }
    Ok(().into())
}

/// The `siginfo_t` that a receiver sees: the caller's number and user, by `SI_QUEUE` (the host lets nobody claim `SI_USER`).
fn from_user(call: &Call, number: i32) -> [i32; 32] {
    let mut information = [0; 32];
    information[0] = number;
    information[2] = libc::SI_QUEUE;
    information[4] = call.process.inner;
    information[5] = call.credentials().uid as i32;
    information
}

fn pidfd_getfd(call: &Call) -> Result<Outcome> {
    if call.raw(2) as u32 != 0 {
        return Err(Errno::EINVAL);
    }
    let target = PidFile::process_of(&*call.file(0)?)?;
    if !Arc::ptr_eq(&target.container, &call.process.container) {
        return Err(Errno::EPERM);
    }
    let thread = target.threads.lock().first().cloned().ok_or(Errno::ESRCH)?;
    // PTRACE_MODE_ATTACH_REALCREDS (ptrace(2)).
    let (own, theirs) = (call.credentials(), thread.credentials.read().clone());
    let alike = [theirs.uid, theirs.euid, theirs.suid].iter().all(|id| *id == own.uid)
        && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|id| *id == own.gid)
        && theirs.permitted.difference(own.permitted).0 == 0
        && target.dumpable.load(std::sync::atomic::Ordering::Relaxed) == 1;
    if target.pid != call.process.pid && !alike && !own.capable(Capability::SysPtrace) {
        return Err(Errno::EPERM);
    }
    let table = thread.descriptors.read().clone();
    let file = table.get(Number_::from_register(call.raw(1))?)?;
    Ok(Outcome::Value(i64::from(call.install(file, true)?.0)))
}

/// Everything but `P_PIDFD` is in the direct set and does not come here.
fn waitid(_: &Call) -> Result<Outcome> {
    Err(Errno::EINVAL)
}
