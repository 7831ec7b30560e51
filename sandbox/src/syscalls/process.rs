//! Processes: fork and kin, exit, groups and sessions, prctl, seccomp.
//!
//! What the host executes here (`Continue`) is decided by registers alone; what it needs to know of it, this kernel notes
//! before.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::identity::{KEEP_CAPS, commit};
use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capabilities, Capability, Credentials};
use crate::kernel::{exit, fork};

use Argument::{Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_clone, "clone", clone, &[Hex, Pointer, Pointer, Pointer, Hex]),
    Entry::new(libc::SYS_fork, "fork", |call| start(call, 0), &[]),
    Entry::new(libc::SYS_vfork, "vfork", |call| start(call, (libc::CLONE_VM | libc::CLONE_VFORK) as u64), &[]),
    Entry::new(libc::SYS_clone3, "clone3", |_| Err(Errno::ENOSYS), &[Pointer, Number]),
    Entry::new(libc::SYS_exit, "exit", exit_thread, &[Number]),
    Entry::new(libc::SYS_exit_group, "exit_group", exit_group, &[Number]),
    Entry::new(libc::SYS_unshare, "unshare", unshare, &[Hex]),
    Entry::new(libc::SYS_setns, "setns", setns, &[Number, Hex]),
    Entry::new(libc::SYS_setsid, "setsid", native, &[]),
    Entry::new(libc::SYS_getsid, "getsid", native, &[Number]),
    Entry::new(libc::SYS_setpgid, "setpgid", native, &[Number, Number]),
    Entry::new(libc::SYS_getpgid, "getpgid", native, &[Number]),
    Entry::new(libc::SYS_prctl, "prctl", prctl, &[Number, Hex, Hex, Hex, Hex]),
    Entry::new(libc::SYS_arch_prctl, "arch_prctl", arch_prctl, &[Hex, Hex]),
    Entry::new(libc::SYS_seccomp, "seccomp", seccomp, &[Number, Hex, Pointer]),
    Entry::new(libc::SYS_ptrace, "ptrace", |_| Err(Errno::EPERM), &[Number, Number, Pointer, Pointer]),
    Entry::new(libc::SYS_kcmp, "kcmp", |_| Err(Errno::EPERM), &[Number, Number, Number, Number, Number]),
];

/// Groups and sessions are the host's, inside the container's PID namespace: numbers in registers name the caller's own
/// kin there, and nothing else can be reached.
fn native(_: &Call) -> Result<Outcome> {
    Ok(Outcome::Continue)
}

/// The clone flags that a workload may use; the rest make namespaces, trace, or install native descriptors.
const CLONE_ALLOWED: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_VFORK
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED
    | libc::CLONE_UNTRACED
    | libc::CLONE_PARENT
    | libc::CLONE_CHILD_SETTID
    | libc::CLONE_IO) as u64;

/// Flags that make namespaces (clone(2)).
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

fn clone(call: &Call) -> Result<Outcome> {
    // The low byte is the signal at the child's end.
    start(call, call.raw(0) & 0xffff_ff00)
}

/// Lets the host make a child or thread. Decided by the flags in the register; the pointers are for the host to fill with
/// numbers in the caller's own memory.
fn start(call: &Call, flags: u64) -> Result<Outcome> {
    let has = |flag: libc::c_int| flags & flag as u64 != 0;
    // copy_process() in kernel/fork.c, before it looks at rights.
    let contradictory = (has(libc::CLONE_FS) && (has(libc::CLONE_NEWNS) || has(libc::CLONE_NEWUSER)))
        || (has(libc::CLONE_THREAD) && !has(libc::CLONE_SIGHAND))
        || (has(libc::CLONE_SIGHAND) && !has(libc::CLONE_VM))
        || (has(libc::CLONE_THREAD) && (has(libc::CLONE_NEWUSER) || has(libc::CLONE_NEWPID)));
    if contradictory {
        return Err(Errno::EINVAL);
    }
    if flags & NAMESPACES != 0 {
        return Err(Errno::EPERM);
    }
    if flags & !CLONE_ALLOWED != 0 {
        return Err(Errno::EINVAL);
    }
    fork::expect_child(&call.process, &call.thread, flags)?;
    Ok(Outcome::Continue)
}

fn exit_thread(call: &Call) -> Result<Outcome> {
    exit::thread_exits(&call.process, &call.thread);
    Ok(Outcome::Continue)
}

fn exit_group(call: &Call) -> Result<Outcome> {
    exit::exits(&call.process, &call.thread);
    Ok(Outcome::Continue)
}

/// There are no namespaces that could be entered: the container's own are no files here.
fn setns(call: &Call) -> Result<Outcome> {
    call.any_file(0)?;
    Err(Errno::EINVAL)
}

/// `CLONE_NEWTIME` shares its bit with the signal number of clone(2).
const NEW_TIME: u64 = 0x80;

/// Descriptors and working directory can be unshared; new namespaces cannot be made.
fn unshare(call: &Call) -> Result<Outcome> {
    let flags = call.raw(0);
    let known =
        (libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SYSVSEM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM) as u64;
    if flags & !(known | NAMESPACES | NEW_TIME) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & (NAMESPACES | NEW_TIME) != 0 {
        return Err(Errno::EPERM);
    }
    let alone_only = (libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM) as u64;
    if flags & alone_only != 0 && call.process.threads.lock().len() > 1 {
        return Err(Errno::EINVAL);
    }
    if flags & libc::CLONE_FS as u64 != 0 {
        let own = call.thread.context.read().fork();
        *call.thread.context.write() = own;
    }
    if flags & libc::CLONE_FILES as u64 != 0 {
        let own = call.thread.descriptors.read().fork();
        let before = std::mem::replace(&mut *call.thread.descriptors.write(), own);
        drop(before);
    }
    Ok(().into())
}

/// `PR_CAP_AMBIENT` and its subcommands.
const PR_CAP_AMBIENT: i32 = 47;
/// Whether a thread must not wait for memory to be written out (linux/prctl.h).
const PR_SET_IO_FLUSHER: i32 = 57;
/// The same, asked.
const PR_GET_IO_FLUSHER: i32 = 58;
/// `SECBIT_KEEP_CAPS_LOCKED`.
const KEEP_CAPS_LOCKED: u32 = 1 << 5;

fn prctl(call: &Call) -> Result<Outcome> {
    let argument = call.raw(1);
    let zero_from = |first: usize| if (first..5).all(|index| call.raw(index) == 0) { Ok(()) } else { Err(Errno::EINVAL) };
    match call.int(0) {
        libc::PR_SET_PDEATHSIG => {
            // Its parked calls are to be looked at then.
            crate::kernel::signal::mind_parent(&call.process);
            Ok(Outcome::Continue)
        }
        // About the caller's own native thread or process: parent-death signal, timer slack, huge pages, who adopts orphans, its time-stamp
        // counter, speculation, write-xor-execute. Results go to the caller's own memory.
        libc::PR_GET_PDEATHSIG
        | libc::PR_GET_TSC
        | libc::PR_SET_TSC
        | libc::PR_GET_TID_ADDRESS
        | libc::PR_MCE_KILL
        | libc::PR_MCE_KILL_GET
        | libc::PR_GET_SPECULATION_CTRL
        | libc::PR_SET_SPECULATION_CTRL
        | libc::PR_SET_MDWE
        | libc::PR_GET_MDWE
        | libc::PR_SET_TIMERSLACK
        | libc::PR_GET_TIMERSLACK
        | libc::PR_SET_THP_DISABLE
        | libc::PR_GET_THP_DISABLE
        | libc::PR_SET_CHILD_SUBREAPER
        | libc::PR_GET_CHILD_SUBREAPER => Ok(Outcome::Continue),
        libc::PR_SET_NAME => {
            let mut name = [0u8; 16];
            let text = match call.memory().read_string(call.address(1), 16) {
                Err(Errno::ENAMETOOLONG) => call.memory().read_value::<[u8; 16]>(call.address(1))?.to_vec(),
                text => text?,
            };
            let length = text.len().min(15);
            name[..length].copy_from_slice(&text[..length]);
            *call.thread.name.lock() = name;
            Ok(().into())
        }
        libc::PR_GET_NAME => {
            let name = *call.thread.name.lock();
            call.memory().write_value(call.address(1), &name)?;
            Ok(().into())
        }
        libc::PR_GET_DUMPABLE => Ok(Outcome::Value(i64::from(call.process.dumpable.load(Ordering::Relaxed)))),
        libc::PR_SET_DUMPABLE if argument <= 1 => {
            call.process.dumpable.store(argument as i32, Ordering::Relaxed);
            Ok(().into())
        }
        libc::PR_GET_KEEPCAPS => Ok(Outcome::Value(i64::from(call.credentials().securebits & KEEP_CAPS != 0))),
        libc::PR_SET_KEEPCAPS if argument <= 1 => {
            let mut after = (*call.credentials()).clone();
            if after.securebits & KEEP_CAPS_LOCKED != 0 {
                return Err(Errno::EPERM);
            }
            after.securebits = if argument == 1 { after.securebits | KEEP_CAPS } else { after.securebits & !KEEP_CAPS };
            commit(call, after);
            Ok(().into())
        }
        // PR_TIMING_STATISTICAL is all there is.
        libc::PR_GET_TIMING => Ok(().into()),
        libc::PR_SET_TIMING if argument == 0 => Ok(().into()),
        libc::PR_SET_MM => call.require(Capability::SysResource).and(Err(Errno::EINVAL)),
        PR_SET_IO_FLUSHER | PR_GET_IO_FLUSHER => call.require(Capability::SysResource).and(Err(Errno::EINVAL)),
        libc::PR_GET_SECUREBITS => Ok(Outcome::Value(i64::from(call.credentials().securebits))),
        libc::PR_SET_SECUREBITS => set_securebits(call, argument),
        libc::PR_CAPBSET_READ => Ok(Outcome::Value(i64::from(call.credentials().bounding.has(capability(argument)?)))),
        libc::PR_CAPBSET_DROP => {
            call.require(Capability::Setpcap)?;
            let dropped = Capabilities::NONE.with(capability(argument)?);
            let mut after = (*call.credentials()).clone();
            after.bounding = after.bounding.difference(dropped);
            commit(call, after);
            Ok(().into())
        }
        PR_CAP_AMBIENT => ambient(call),
        libc::PR_SET_NO_NEW_PRIVS => {
            zero_from(2)?;
            if argument != 1 {
                return Err(Errno::EINVAL);
            }
            let mut after = (*call.credentials()).clone();
            after.no_new_privs = true;
            commit(call, after);
            Ok(().into())
        }
        libc::PR_GET_NO_NEW_PRIVS => {
            zero_from(1)?;
            Ok(Outcome::Value(i64::from(call.credentials().no_new_privs)))
        }
        // 2: SECCOMP_MODE_FILTER, ours. No way leads from it to strict mode, as in every container that has a profile.
        libc::PR_GET_SECCOMP => Ok(Outcome::Value(2)),
        libc::PR_SET_SECCOMP if argument == 2 => install_filter(call, 2),
        _ => Err(Errno::EINVAL),
    }
}

/// arch_prctl(2): what is not a segment base. Whether CPUID works, and which extended states the process may use (arch/x86/include/uapi/asm/prctl.h).
fn arch_prctl(call: &Call) -> Result<Outcome> {
    /// `ARCH_GET_CPUID`; `ARCH_GET_XCOMP_SUPP`, `ARCH_GET_XCOMP_PERM`, `ARCH_REQ_XCOMP_PERM`.
    const QUESTIONS: [i32; 4] = [0x1011, 0x1021, 0x1022, 0x1023];
    if QUESTIONS.contains(&call.int(0)) { Ok(Outcome::Continue) } else { Err(Errno::EINVAL) }
}

fn capability(number: u64) -> Result<Capability> {
    CAPABILITIES.get(usize::try_from(number).unwrap_or(usize::MAX)).copied().ok_or(Errno::EINVAL)
}

use Capability as C;
/// Every capability, at its number.
const CAPABILITIES: [Capability; 41] = [
    C::Chown,
    C::DacOverride,
    C::DacReadSearch,
    C::Fowner,
    C::Fsetid,
    C::Kill,
    C::Setgid,
    C::Setuid,
    C::Setpcap,
    C::LinuxImmutable,
    C::NetBindService,
    C::NetBroadcast,
    C::NetAdmin,
    C::NetRaw,
    C::IpcLock,
    C::IpcOwner,
    C::SysModule,
    C::SysRawio,
    C::SysChroot,
    C::SysPtrace,
    C::SysPacct,
    C::SysAdmin,
    C::SysBoot,
    C::SysNice,
    C::SysResource,
    C::SysTime,
    C::SysTtyConfig,
    C::Mknod,
    C::Lease,
    C::AuditWrite,
    C::AuditControl,
    C::Setfcap,
    C::MacOverride,
    C::MacAdmin,
    C::Syslog,
    C::WakeAlarm,
    C::BlockSuspend,
    C::AuditRead,
    C::Perfmon,
    C::Bpf,
    C::CheckpointRestore,
];

/// The six bits of which every second locks the one before it (capabilities(7)); two more pairs for ambient sets.
fn set_securebits(call: &Call, bits: u64) -> Result<Outcome> {
    const ALL: u64 = 0xff;
    const LOCKS: u64 = 0xaa;
    let before = call.credentials();
    let old = u64::from(before.securebits);
    let unlocks = old & LOCKS & !bits != 0;
    let changes_locked = ((old & LOCKS) >> 1) & (old ^ bits) != 0;
    if bits & !ALL != 0 || unlocks || changes_locked || !before.capable(Capability::Setpcap) {
        return Err(Errno::EPERM);
    }
    let mut after = (*before).clone();
    after.securebits = bits as u32;
    commit(call, after);
    Ok(().into())
}

fn ambient(call: &Call) -> Result<Outcome> {
    /// `SECBIT_NO_CAP_AMBIENT_RAISE`.
    const NO_RAISE: u32 = 1 << 6;
    let mut after: Credentials = (*call.credentials()).clone();
    let which = call.raw(2);
    if call.raw(3) != 0 || call.raw(4) != 0 || (call.raw(1) == 4 && which != 0) {
        return Err(Errno::EINVAL);
    }
    match call.raw(1) {
        4 => after.ambient = Capabilities::NONE,
        1 => return Ok(Outcome::Value(i64::from(after.ambient.has(capability(which)?)))),
        2 => {
            let wanted = capability(which)?;
            if !after.permitted.has(wanted) || !after.inheritable.has(wanted) || after.securebits & NO_RAISE != 0 {
                return Err(Errno::EPERM);
            }
            after.ambient = after.ambient.with(wanted);
        }
        3 => after.ambient = after.ambient.difference(Capabilities::NONE.with(capability(which)?)),
        _ => return Err(Errno::EINVAL),
    }
    commit(call, after);
    Ok(().into())
}

/// seccomp(2): the workload's own filters go on top of ours. The host takes the strictest answer, so they can only forbid.
fn seccomp(call: &Call) -> Result<Outcome> {
    const SET_MODE_FILTER: u32 = 1;
    const GET_ACTION_AVAIL: u32 = 2;
    /// `TSYNC`, `LOG`, `SPEC_ALLOW`, `TSYNC_ESRCH`: none makes a listener.
    const FLAGS: u64 = 1 | 2 | 4 | 16;
    match call.uint(0) {
        SET_MODE_FILTER if call.raw(1) & !FLAGS == 0 => install_filter(call, 2),
        GET_ACTION_AVAIL if call.raw(1) == 0 => Ok(Outcome::Continue),
        _ => Err(Errno::EINVAL),
    }
}

/// Natively `no_new_privs` is always set, so the emulated state is what decides here. The program is read by the host from
/// memory that may still change: whatever it reads only adds refusals.
fn install_filter(call: &Call, program: usize) -> Result<Outcome> {
    /// `BPF_MAXINSNS`.
    const LONGEST: u16 = 4096;
    // In the order of seccomp_prepare_filter(): the head of the program, then the right.
    let [head, _]: [u64; 2] = call.memory().read_value(call.address(program))?;
    if head as u16 == 0 || head as u16 > LONGEST {
        return Err(Errno::EINVAL);
    }
    let who: Arc<Credentials> = call.credentials();
    if who.no_new_privs || who.capable(Capability::SysAdmin) { Ok(Outcome::Continue) } else { Err(Errno::EACCES) }
}
