//! The system and its limits: uname(2), sysinfo(2), getrlimit(2), the scheduler, extended attributes that are not there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};
use crate::kernel::limits::Limit;
use crate::kernel::task::{Process, Thread};
use crate::kernel::{fork, signal};
use crate::platform::process;

use Argument::{Descriptor, Hex, Number, Path, Pointer};

/// What uname(2) says the kernel is: a release that every C library in use accepts, and a version that says the truth.
pub const RELEASE: &str = "6.1.0-bulkhead";
/// The version.
pub const VERSION: &str = concat!("#1 SMP Bulkhead ", env!("CARGO_PKG_VERSION"), " sandbox");

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_uname, "uname", uname, &[Pointer]),
    Entry::new(libc::SYS_sethostname, "sethostname", |call| set_name(call, |names, text| names.host = text), &[Pointer, Number]),
    Entry::new(libc::SYS_setdomainname, "setdomainname", |call| set_name(call, |names, text| names.domain = text), &[Pointer, Number]),
    Entry::new(libc::SYS_sysinfo, "sysinfo", sysinfo, &[Pointer]),
    Entry::new(libc::SYS_getrlimit, "getrlimit", |call| limits(call, &call.process, call.uint(0), None, Some(1)), &[Number, Pointer]),
    Entry::new(libc::SYS_setrlimit, "setrlimit", |call| limits(call, &call.process, call.uint(0), Some(1), None), &[Number, Pointer]),
    Entry::new(libc::SYS_prlimit64, "prlimit64", prlimit, &[Number, Number, Pointer, Pointer]),
    Entry::new(libc::SYS_sched_getaffinity, "sched_getaffinity", on_own, &[Number, Number, Pointer]),
    Entry::new(libc::SYS_sched_setaffinity, "sched_setaffinity", on_owned, &[Number, Number, Pointer]),
    Entry::new(libc::SYS_sched_getscheduler, "sched_getscheduler", on_own, &[Number]),
    Entry::new(libc::SYS_sched_getparam, "sched_getparam", on_own, &[Number, Pointer]),
    Entry::new(libc::SYS_sched_setscheduler, "sched_setscheduler", on_owned, &[Number, Number, Pointer]),
    Entry::new(libc::SYS_sched_setparam, "sched_setparam", on_owned, &[Number, Pointer]),
    Entry::new(libc::SYS_sched_getattr, "sched_getattr", on_own, &[Number, Pointer, Number, Hex]),
    Entry::new(libc::SYS_sched_setattr, "sched_setattr", on_owned, &[Number, Pointer, Hex]),
    Entry::new(libc::SYS_sched_rr_get_interval, "sched_rr_get_interval", on_own, &[Number, Pointer]),
    Entry::new(libc::SYS_sched_get_priority_max, "sched_get_priority_max", native, &[Number]),
    Entry::new(libc::SYS_sched_get_priority_min, "sched_get_priority_min", native, &[Number]),
    Entry::new(libc::SYS_getpriority, "getpriority", priority, &[Number, Number]),
    Entry::new(libc::SYS_setpriority, "setpriority", set_priority, &[Number, Number, Number]),
    Entry::new(libc::SYS_get_robust_list, "get_robust_list", robust_list, &[Number, Pointer, Pointer]),
    Entry::new(libc::SYS_vhangup, "vhangup", |_| Err(Errno::EPERM), &[]),
    Entry::new(libc::SYS_personality, "personality", personality, &[Hex]),
    Entry::new(libc::SYS_syslog, "syslog", |_| Err(Errno::EPERM), &[Number, Pointer, Number]),
    Entry::new(libc::SYS_reboot, "reboot", |_| Err(Errno::EPERM), &[Hex, Hex, Hex]),
    Entry::new(libc::SYS_swapon, "swapon", |_| Err(Errno::EPERM), &[Path, Hex]),
    Entry::new(libc::SYS_swapoff, "swapoff", |_| Err(Errno::EPERM), &[Path]),
    Entry::new(libc::SYS_mount, "mount", |_| Err(Errno::EPERM), &[Path, Path, Path, Hex, Pointer]),
    Entry::new(libc::SYS_umount2, "umount2", |_| Err(Errno::EPERM), &[Path, Hex]),
    Entry::new(libc::SYS_pivot_root, "pivot_root", |_| Err(Errno::EPERM), &[Path, Path]),
    Entry::new(libc::SYS_acct, "acct", |_| Err(Errno::EPERM), &[Path]),
    Entry::new(libc::SYS_settimeofday, "settimeofday", |_| Err(Errno::EPERM), &[Pointer, Pointer]),
    Entry::new(libc::SYS_clock_settime, "clock_settime", clock_settime, &[Number, Pointer]),
    Entry::new(libc::SYS_clock_gettime, "clock_gettime", processor_clock, &[Number, Pointer]),
    Entry::new(libc::SYS_clock_getres, "clock_getres", processor_clock, &[Number, Pointer]),
    Entry::new(libc::SYS_init_module, "init_module", |_| Err(Errno::EPERM), &[Pointer, Number, Pointer]),
    Entry::new(libc::SYS_getxattr, "getxattr", |_| Err(Errno::EOPNOTSUPP), &[Path, Pointer, Pointer, Number]),
    Entry::new(libc::SYS_lgetxattr, "lgetxattr", |_| Err(Errno::EOPNOTSUPP), &[Path, Pointer, Pointer, Number]),
    Entry::new(libc::SYS_fgetxattr, "fgetxattr", |_| Err(Errno::EOPNOTSUPP), &[Descriptor, Pointer, Pointer, Number]),
    Entry::new(libc::SYS_setxattr, "setxattr", |_| Err(Errno::EOPNOTSUPP), &[Path, Pointer, Pointer, Number, Hex]),
    Entry::new(libc::SYS_lsetxattr, "lsetxattr", |_| Err(Errno::EOPNOTSUPP), &[Path, Pointer, Pointer, Number, Hex]),
    Entry::new(libc::SYS_fsetxattr, "fsetxattr", |_| Err(Errno::EOPNOTSUPP), &[Descriptor, Pointer, Pointer, Number, Hex]),
    Entry::new(libc::SYS_listxattr, "listxattr", |_| Err(Errno::EOPNOTSUPP), &[Path, Pointer, Number]),
    Entry::new(libc::SYS_llistxattr, "llistxattr", |_| Err(Errno::EOPNOTSUPP), &[Path, Pointer, Number]),
    Entry::new(libc::SYS_flistxattr, "flistxattr", |_| Err(Errno::EOPNOTSUPP), &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_removexattr, "removexattr", |_| Err(Errno::EOPNOTSUPP), &[Path, Pointer]),
    Entry::new(libc::SYS_lremovexattr, "lremovexattr", |_| Err(Errno::EOPNOTSUPP), &[Path, Pointer]),
    Entry::new(libc::SYS_fremovexattr, "fremovexattr", |_| Err(Errno::EOPNOTSUPP), &[Descriptor, Pointer]),
];

/// Clocks that are not in the direct set: processor time of a process or thread, whose number is in the clock's id, below three bits that say which time
/// it is (`clock_getcpuclockid(3)`, `MAKE_PROCESS_CPUCLOCK` in include/linux/posix-timers_types.h). Clocks behind descriptors (3) there are none.
fn processor_clock(call: &Call) -> Result<Outcome> {
    const BEHIND_DESCRIPTOR: i32 = 3;
    let clock = call.int(0);
    if clock < 0 && clock & 3 != BEHIND_DESCRIPTOR { Ok(Outcome::Continue) } else { Err(Errno::EINVAL) }
}

/// Decided by registers, about nothing but constants.
fn native(_: &Call) -> Result<Outcome> {
    Ok(Outcome::Continue)
}

/// The scheduler's calls on a thread of the container's own PID namespace, of which the host knows what it may: natively every process there is the
/// same nobody without capabilities.
fn on_own(_: &Call) -> Result<Outcome> {
    Ok(Outcome::Continue)
}

/// The scheduler's calls that change a thread. To the host every process here is the same nobody, so that it would let anyone change anyone: whose thread
/// it is, is decided here.
fn on_owned(call: &Call) -> Result<Outcome> {
    require_owner(call, call.int(0))?;
    Ok(Outcome::Continue)
}

/// `EPERM` where the thread with this number in the container is another user's and the caller has no `CAP_SYS_NICE` (sched_setaffinity(2)).
fn require_owner(call: &Call, number: i32) -> Result<()> {
    if number == 0 || number == call.thread.inner {
        return Ok(());
    }
    if number < 0 {
        return Err(Errno::EINVAL);
    }
    let thread = find(call, number).ok_or(Errno::ESRCH)?;
    let theirs = thread.credentials.read().clone();
    if call.credentials().capable(Capability::SysNice) || owns(call, &theirs) { Ok(()) } else { Err(Errno::EPERM) }
}

/// The thread with this number. One that has made no call yet is looked for: pthread_create(3) does this to its threads before they begin.
fn find(call: &Call, number: i32) -> Option<Arc<Thread>> {
    let first = || fork::find(&call.process.container, number)?.threads.lock().first().cloned();
    fork::find_thread(&call.process.container, number).or_else(first)
}

/// Whether the caller's effective user is the real or effective user of the other.
fn owns(call: &Call, other: &Credentials) -> bool {
    let euid = call.credentials().euid;
    other.uid == euid || other.euid == euid
}

/// A process group by its number in the container, 0 for the caller's. `EPERM` where a member is another user's.
fn require_group(call: &Call, number: i32) -> Result<()> {
    let wanted = if number == 0 { process::inner_group(call.process.pid)? } else { number };
    for member in signal::in_sight(&call.process.container) {
        if process::inner_group(member.pid) == Ok(wanted) {
            require_owner(call, member.inner)?;
        }
    }
    Ok(())
}

/// The threads of a real user in the container, 0 for the caller's. `ESRCH` where there is none.
fn of_user(call: &Call, user: u32) -> Result<Vec<Arc<Thread>>> {
    let wanted = if user == 0 { call.credentials().uid } else { user };
    let processes = signal::in_sight(&call.process.container);
    let mut threads: Vec<Arc<Thread>> = processes.iter().flat_map(|process| process.threads.lock().clone()).collect();
    threads.retain(|thread| thread.credentials.read().uid == wanted);
    if threads.is_empty() { Err(Errno::ESRCH) } else { Ok(threads) }
}

/// setpriority(2): as for [`on_owned`]; of a group, every member must be the caller's. Users exist only here: of them, this kernel sets each thread's.
fn set_priority(call: &Call) -> Result<Outcome> {
    match call.int(0) {
        PRIO_PROCESS => require_owner(call, call.int(1))?,
        PRIO_GROUP => require_group(call, call.int(1))?,
        PRIO_USER => return set_user_priority(call).map(Outcome::from),
        _ => return Err(Errno::EINVAL),
    }
    Ok(Outcome::Continue)
}

fn set_user_priority(call: &Call) -> Result<()> {
    let nice = call.int(2).clamp(-20, 19);
    let privileged = call.credentials().capable(Capability::SysNice);
    let mut result = Ok(());
    for thread in of_user(call, call.uint(1))? {
        let Some(process) = thread.process() else { continue };
        // RLIMIT_NICE counts from 20 down (getrlimit(2)).
        let limit = process.limits.read().0[libc::RLIMIT_NICE as usize].soft;
        let raises = nice < process::priority(thread.tid)?;
        result = if !privileged && !owns(call, &thread.credentials.read()) {
            Err(Errno::EPERM)
        } else if !privileged && raises && (20 - nice) as u64 > limit {
            Err(Errno::EACCES)
        } else {
            process::set_priority(thread.tid, nice).and(result)
        };
    }
    result
}

/// Priorities of processes and groups are the host's.
fn priority(call: &Call) -> Result<Outcome> {
    match call.int(0) {
        PRIO_PROCESS | PRIO_GROUP => Ok(Outcome::Continue),
        PRIO_USER => {
            let threads = of_user(call, call.uint(1))?;
            let lowest = threads.iter().filter_map(|thread| process::priority(thread.tid).ok()).min().ok_or(Errno::ESRCH)?;
            Ok(Outcome::Value(i64::from(20 - lowest)))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `PRIO_PROCESS`, `PRIO_PGRP` and `PRIO_USER`.
const PRIO_PROCESS: i32 = 0;
const PRIO_GROUP: i32 = 1;
const PRIO_USER: i32 = 2;

/// get_robust_list(2): where a thread's list begins is for those who may look into it.
fn robust_list(call: &Call) -> Result<Outcome> {
    let number = call.int(0);
    if number != 0 && number != call.thread.inner {
        let thread = find(call, number).ok_or(Errno::ESRCH)?;
        let process = thread.process().ok_or(Errno::ESRCH)?;
        let theirs = thread.credentials.read().clone();
        if process.pid != call.process.pid && !call.credentials().may_access(&theirs, process.dumpable.load(Ordering::Relaxed) == 1) {
            return Err(Errno::EPERM);
        }
    }
    Ok(Outcome::Continue)
}

fn uname(call: &Call) -> Result<Outcome> {
    const FIELD: usize = 65;
    let names = call.process.container.names.read().clone();
    let persona = if PERSONALITIES.load(Ordering::Relaxed) { process::personality(call.thread.tid)? } else { 0 };
    let machine = if persona & PERSONALITY_KIND == LINUX32 { "i686" } else { "x86_64" };
    // kernel/sys.c, override_release(): 3.x is 2.6.40 + x, 4.x and later 2.6.60 + x.
    let release = if persona & UNAME26 != 0 { RELEASE_26 } else { RELEASE };
    let mut bytes = [0u8; FIELD * 6];
    for (index, text) in ["Linux", &names.host, release, VERSION, machine, &names.domain].into_iter().enumerate() {
        let length = text.len().min(FIELD - 1);
        bytes[index * FIELD..index * FIELD + length].copy_from_slice(&text.as_bytes()[..length]);
    }
    call.memory().write(call.address(0), &bytes)?;
    Ok(().into())
}

/// Only the real-time clock can be set at all, and that not from here.
fn clock_settime(call: &Call) -> Result<Outcome> {
    Err(if call.int(0) == libc::CLOCK_REALTIME { Errno::EPERM } else { Errno::EINVAL })
}

fn set_name(call: &Call, change: impl FnOnce(&mut crate::kernel::container::UtsNames, String)) -> Result<Outcome> {
    call.require(Capability::SysAdmin)?;
    let length = usize::try_from(call.int(1)).ok().filter(|length| *length <= 64).ok_or(Errno::EINVAL)?;
    let mut bytes = vec![0u8; length];
    call.memory().read(call.address(0), &mut bytes)?;
    change(&mut call.process.container.names.write(), String::from_utf8_lossy(&bytes).into_owned());
    Ok(().into())
}

fn sysinfo(call: &Call) -> Result<Outcome> {
    let host = nix::sys::sysinfo::sysinfo()?;
    let processes = crate::kernel::signal::of_container(&call.process.container).len() as u16;
    let (one, five, fifteen) = host.load_average();
    let load = |value: f64| (value * 65536.0) as u64;
    let mut words = [0u64; 14];
    words[0] = host.uptime().as_secs();
    words[1] = load(one);
    words[2] = load(five);
    words[3] = load(fifteen);
    words[4] = host.ram_total();
    words[5] = host.ram_unused();
    words[8] = host.swap_total();
    words[9] = host.swap_free();
    words[10] = u64::from(processes);
    // Unit of memory: 1 byte, behind totalhigh and freehigh.
    words[13] = 1;
    call.memory().write_value(call.address(0), &words)?;
    Ok(().into())
}

fn prlimit(call: &Call) -> Result<Outcome> {
    let target = match call.int(0) {
        0 => call.process.clone(),
        pid => fork::find(&call.process.container, pid).ok_or(Errno::ESRCH)?,
    };
    if !Arc::ptr_eq(&target, &call.process) {
        let theirs = target.threads.lock().first().map(|thread| thread.credentials.read().clone()).ok_or(Errno::ESRCH)?;
        let mine = call.credentials();
        let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|id| *id == mine.uid)
            && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|id| *id == mine.gid);
        if !same && !mine.capable(Capability::SysResource) {
            return Err(Errno::EPERM);
        }
    }
    let given = |index: usize| call.address(index).optional().map(|_| index);
    limits(call, &target, call.uint(1), given(2), given(3))
}

/// Limits whose enforcement is the host's: they are set there too.
const NATIVE: [u32; 8] = [
    libc::RLIMIT_CPU,
    libc::RLIMIT_DATA,
    libc::RLIMIT_STACK,
    libc::RLIMIT_AS,
    libc::RLIMIT_MEMLOCK,
    libc::RLIMIT_SIGPENDING,
    libc::RLIMIT_NICE,
    libc::RLIMIT_RTPRIO,
];

fn limits(call: &Call, target: &Arc<Process>, resource: u32, new: Option<usize>, old: Option<usize>) -> Result<Outcome> {
    let before = target.limits.read().get(resource).ok_or(Errno::EINVAL)?;
    if let Some(index) = new {
        let [soft, hard]: [u64; 2] = call.memory().read_value(call.address(index))?;
        if soft > hard {
            return Err(Errno::EINVAL);
        }
        if hard > before.hard && !call.credentials().capable(Capability::SysResource) {
            return Err(Errno::EPERM);
        }
        if resource == libc::RLIMIT_NOFILE && hard > crate::vfs::descriptor::DescriptorTable::MAXIMUM {
            return Err(Errno::EPERM);
        }
        if NATIVE.contains(&resource) {
            process::set_limit(target.pid, resource, soft, hard);
        }
        target.limits.write().0[resource as usize] = Limit { soft, hard };
    }
    if let Some(index) = old {
        call.memory().write_value(call.address(index), &[before.soft, before.hard])?;
    }
    Ok(().into())
}

/// Whether any thread has another personality than Linux's own: then uname(2) asks which.
static PERSONALITIES: AtomicBool = AtomicBool::new(false);
/// `PER_MASK`: whose system calls, beside flags.
const PERSONALITY_KIND: u32 = 0xff;
/// `PER_LINUX32`: a machine of 32 bits by its name.
const LINUX32: u32 = 8;
/// `UNAME26`: a release of 2.6 by its name.
const UNAME26: u32 = 0x0002_0000;
/// [`RELEASE`] as such a program sees it.
const RELEASE_26: &str = "2.6.61-bulkhead";

/// personality(2): Linux's own, of 64 or 32 bits, with flags about the names it sees and its own address space. Not what maps a page at zero, nor the
/// quirks of other systems.
fn personality(call: &Call) -> Result<Outcome> {
    /// `ADDR_NO_RANDOMIZE`, `ADDR_COMPAT_LAYOUT`, `READ_IMPLIES_EXEC`, `ADDR_LIMIT_32BIT`, `ADDR_LIMIT_3GB`.
    const ADDRESSES: u32 = 0x0004_0000 | 0x0020_0000 | 0x0040_0000 | 0x0080_0000 | 0x0800_0000;
    let persona = call.uint(0);
    if persona == u32::MAX {
        return Ok(Outcome::Continue);
    }
    if persona & !(LINUX32 | UNAME26 | ADDRESSES) != 0 {
        return Err(Errno::EPERM);
    }
    if persona != 0 {
        PERSONALITIES.store(true, Ordering::Relaxed);
    }
    Ok(Outcome::Continue)
}
