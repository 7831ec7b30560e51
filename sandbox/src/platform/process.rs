//! What the host knows about a workload's processes: /proc, pidfds, signals.
//!
//! The host is the truth for who is whose parent, which numbers a process has, and which signals wait for it. This
//! module asks; it keeps nothing. It reads the procfs of the kernel process's own PID namespace, so every number is a [`Pid`].

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::errno::{Errno, Result};
use crate::kernel::task::Pid;

/// What /proc/PID/status tells (proc_pid_status(5)).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// Thread group.
    pub tgid: i32,
    /// Parent process; 0 where it is outside the namespace.
    pub parent: i32,
    /// The thread's number in the innermost PID namespace.
    pub inner: i32,
    /// The state's letter.
    pub state: u8,
    /// Signals pending for the thread, for the process; blocked, ignored, caught. Bit 0 is signal 1.
    pub pending: u64,
    /// Pending for the whole process.
    pub shared_pending: u64,
    /// Blocked by the thread.
    pub blocked: u64,
    /// Ignored.
    pub ignored: u64,
    /// Caught.
    pub caught: u64,
}

impl Status {
    /// Reads it. `ESRCH` where the thread is gone.
    pub fn read(thread: Pid) -> Result<Status> {
        let mut text = [0u8; 4096];
        let length = read_whole(&format!("/proc/{}/status", thread.0), &mut text)?;
        Ok(Status::parse(&text[..length]))
    }

    fn parse(text: &[u8]) -> Status {
        let mut status = Status::default();
        for line in text.split(|&byte| byte == b'\n') {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
            let value = std::str::from_utf8(&line[colon + 1..]).unwrap_or("").trim();
            let number = || value.parse().unwrap_or(0);
            let mask = || u64::from_str_radix(value, 16).unwrap_or(0);
            match &line[..colon] {
                b"State" => status.state = value.bytes().next().unwrap_or(b'?'),
                b"Tgid" => status.tgid = number(),
                b"PPid" => status.parent = number(),
                b"NSpid" => status.inner = value.split_whitespace().next_back().and_then(|last| last.parse().ok()).unwrap_or(0),
                b"SigPnd" => status.pending = mask(),
                b"ShdPnd" => status.shared_pending = mask(),
                b"SigBlk" => status.blocked = mask(),
                b"SigIgn" => status.ignored = mask(),
                b"SigCgt" => status.caught = mask(),
                _ => {}
            }
        }
        status
    }

    /// Whether the process is dead but for its parent's wait.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

fn read_whole(path: &str, into: &mut [u8]) -> Result<usize> {
    let mut file =
        File::open(path).map_err(|error| if error.kind() == std::io::ErrorKind::NotFound { Errno::ESRCH } else { error.into() })?;
    let mut length = 0;
    while length < into.len() {
        match file.read(&mut into[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// The living children that a thread forked, in the order it did (proc_pid_task_children(5)).
pub fn children(process: Pid, thread: Pid) -> Result<Vec<Pid>> {
    let text = std::fs::read_to_string(format!("/proc/{}/task/{}/children", process.0, thread.0)).map_err(|_| Errno::ESRCH)?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid).collect())
}

/// The threads of a process.
pub fn threads(process: Pid) -> Result<Vec<Pid>> {
    let entries = std::fs::read_dir(format!("/proc/{}/task", process.0)).map_err(|_| Errno::ESRCH)?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid).collect())
}

/// Every process of the kernel process's PID namespace.
pub fn all() -> Result<Vec<Pid>> {
    let entries = std::fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid).collect())
}

/// Whether a process has a thread of this number, be it dead but for its process.
pub fn has_thread(process: Pid, thread: Pid) -> bool {
    kill_thread(process, thread, 0) != Err(Errno::ESRCH)
}

/// Whether a thread is there and held by a tracer (`TracerPid` of proc_pid_status(5)).
pub fn is_traced(thread: Pid) -> bool {
    let mut text = [0u8; 4096];
    let Ok(length) = read_whole(&format!("/proc/{}/status", thread.0), &mut text) else { return false };
    let line = text[..length].split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"TracerPid:\t"));
    line.is_some_and(|tracer| tracer != b"0")
}

/// Device and inode of the file a process executes.
pub fn executable_identity(process: Pid) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(format!("/proc/{}/exe", process.0))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A pidfd of a process. It polls readable once the process is dead.
pub fn pidfd_open(process: Pid) -> Result<OwnedFd> {
    // SAFETY: no memory is passed. Needed: no wrapper in the libraries used here.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.0, 0) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the host just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A copy of a descriptor of another process. `EBADF` where it has none at that number.
pub fn pidfd_getfd(pidfd: impl AsFd, number: i32) -> Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), number, 0) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: as in `pidfd_open`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// kill(2) by number: positive a process, negative a group of the kernel process's namespace.
pub fn kill(target: i32, signal: i32) -> Result<()> {
    // SAFETY: no memory is passed. Needed: signal numbers above 31 have no type in the libraries used here.
    if unsafe { libc::kill(target, signal) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// tgkill(2).
pub fn kill_thread(process: Pid, thread: Pid, signal: i32) -> Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::syscall(libc::SYS_tgkill, process.0, thread.0, signal) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// pidfd_send_signal(2) with a whole `siginfo_t`, whose first word is `signal`.
pub fn queue(pidfd: impl AsFd, signal: i32, information: &[i32; 32]) -> Result<()> {
    // SAFETY: `information` is as large as a siginfo_t (128 bytes) and is only read, during the call. Needed: no wrapper.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_fd().as_raw_fd(), signal, information.as_ptr(), 0) };
    if sent < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// rt_tgsigqueueinfo(2): the same to one thread.
pub fn queue_to_thread(process: Pid, thread: Pid, signal: i32, information: &[i32; 32]) -> Result<()> {
    // SAFETY: as in `queue`.
    let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process.0, thread.0, signal, information.as_ptr()) };
    if sent < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// A thread's personality(2).
pub fn personality(thread: Pid) -> Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/{}/personality", thread.0)).map_err(|_| Errno::ESRCH)?;
    u32::from_str_radix(text.trim(), 16).map_err(|_| Errno::EIO)
}

/// Whether all of `start..end` is mapped in a process, by its /proc/PID/maps.
pub fn is_mapped(process: Pid, start: u64, end: u64) -> Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/{}/maps", process.0)).map_err(|_| Errno::ESRCH)?;
    let mut at = start;
    for line in text.lines() {
        if at >= end {
            break;
        }
        let Some((from, to)) = line.split_whitespace().next().and_then(|range| range.split_once('-')) else { continue };
        let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16)) else { continue };
        if from <= at && at < to {
            at = to;
        } else if from > at {
            return Ok(false);
        }
    }
    Ok(at >= end)
}

/// A process's PID namespace, by its inode.
pub fn pid_namespace(process: Pid) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{}/ns/pid", process.0)).map(|metadata| metadata.ino()).map_err(|_| Errno::ESRCH)
}

/// The process group of a process, in the kernel's numbering.
pub fn group(process: Pid) -> Result<Pid> {
    // SAFETY: no memory is passed.
    let group = unsafe { libc::getpgid(process.0) };
    if group < 0 { Err(Errno::last()) } else { Ok(Pid(group)) }
}

/// The process group of a process in the numbering of its own PID namespace (`NSpgid` of proc_pid_status(5)).
pub fn inner_group(process: Pid) -> Result<i32> {
    let mut text = [0u8; 4096];
    let length = read_whole(&format!("/proc/{}/status", process.0), &mut text)?;
    let text = std::str::from_utf8(&text[..length]).unwrap_or("");
    let line = text.lines().find_map(|line| line.strip_prefix("NSpgid:")).ok_or(Errno::ESRCH)?;
    line.split_whitespace().next_back().and_then(|last| last.parse().ok()).ok_or(Errno::ESRCH)
}

/// The session of a process, in the kernel's numbering; 0 where its leader is outside.
pub fn session(process: Pid) -> Result<Pid> {
    // SAFETY: no memory is passed.
    let session = unsafe { libc::getsid(process.0) };
    if session < 0 { Err(Errno::last()) } else { Ok(Pid(session)) }
}

/// getpriority(2) of one thread: its nice value.
pub fn priority(thread: Pid) -> Result<i32> {
    // SAFETY: no memory is passed. Raw, for the host's own value: 20 minus the nice value, which is never negative.
    let value = unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, thread.0) };
    if value < 0 { Err(Errno::last()) } else { Ok(20 - value as i32) }
}

/// setpriority(2) of one thread.
pub fn set_priority(thread: Pid, nice: i32) -> Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, thread.0, nice) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// This process's own hard limit.
pub fn own_limit(resource: u32) -> u64 {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: u64::MAX };
    // SAFETY: `limit` is a valid place for the result and lives through the call.
    unsafe { libc::prlimit64(0, resource, std::ptr::null(), &mut limit) };
    limit.rlim_max
}

/// prlimit(2): sets a native limit. Raising one without the right leaves it, as for any unprivileged user.
pub fn set_limit(process: Pid, resource: u32, soft: u64, hard: u64) {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` lives through the call; nothing is written back.
    unsafe { libc::prlimit64(process.0, resource, &limit, std::ptr::null_mut()) };
}

/// ioprio_get(2) of one thread.
pub fn io_priority(thread: Pid) -> Result<i32> {
    // SAFETY: no memory is passed. Needed: no wrapper in the libraries used here.
    let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, thread.0) };
    if priority < 0 { Err(Errno::last()) } else { Ok(priority as i32) }
}

/// The limit that carries marks: not enforced by any Linux since 2.4.25 (getrlimit(2)), inherited by children, changed by nobody but this process.
const MARKED: u32 = libc::RLIMIT_LOCKS;

/// Gives a process a mark, which its children inherit.
pub fn set_mark(process: Pid, mark: u64) -> Result<()> {
    static MOST: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let limit = libc::rlimit64 { rlim_cur: mark, rlim_max: *MOST.get_or_init(|| own_limit(MARKED)) };
    // SAFETY: `limit` lives through the call; nothing is written back.
    if unsafe { libc::prlimit64(process.0, MARKED, &limit, std::ptr::null_mut()) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// The mark that a process has or has inherited.
pub fn mark(process: Pid) -> Result<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result and lives through the call.
    if unsafe { libc::prlimit64(process.0, MARKED, std::ptr::null(), &mut limit) } < 0 { Err(Errno::last()) } else { Ok(limit.rlim_cur) }
}

/// How a child of ours ended, as wait(2) encodes it; the zombie is gone afterwards. `EAGAIN` while it lives, `ECHILD` where it is
/// not our child. Only ends are looked at, never the stops of a traced process.
pub fn reap(process: Pid) -> Result<i32> {
    // SAFETY: all zeroes is a valid `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::__WALL;
    // SAFETY: `info` is a valid place for the result and lives through the call.
    if unsafe { libc::waitid(libc::P_PID, process.0 as libc::id_t, &mut info, options) } < 0 {
        return Err(Errno::last());
    }
    // SAFETY: waitid filled in the SIGCHLD members, or left zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    match info.si_code {
        _ if pid == 0 => Err(Errno::EAGAIN),
        libc::CLD_EXITED => Ok((status & 0xff) << 8),
        libc::CLD_DUMPED => Ok(status & 0x7f | 0x80),
        _ => Ok(status & 0x7f),
    }
}

/// ptrace(2), for requests that pass no memory of ours.
pub fn trace(request: libc::c_uint, thread: Pid, address: u64, data: u64) -> Result<()> {
    // SAFETY: none of the requests made through here (seize, interrupt, continue, step, detach) reads or writes memory of this process.
    if unsafe { libc::ptrace(request, thread.0, address, data) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// ptrace(2), for requests that read a value of ours.
pub fn trace_with(request: libc::c_uint, thread: Pid, address: u64, value: &u64) -> Result<()> {
    // SAFETY: the host reads the eight bytes of `value`, which lives through the call.
    if unsafe { libc::ptrace(request, thread.0, address, std::ptr::from_ref(value)) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// Waits for a traced thread's next stop, or its end; gives the wait status.
pub fn wait_traced(thread: Pid) -> Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` lives through the call.
        let waited = unsafe { libc::waitpid(thread.0, &mut status, libc::__WALL) };
        match waited {
            pid if pid >= 0 => return Ok(status),
            _ if Errno::last() == Errno::EINTR => {}
            _ => return Err(Errno::last()),
        }
    }
}

/// The same without waiting.
pub fn try_wait_traced(thread: Pid) -> Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    match unsafe { libc::waitpid(thread.0, &mut status, libc::__WALL | libc::WNOHANG) } {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(status)),
        _ => Err(Errno::last()),
    }
}

/// The same for a thread of which only stops are looked at, never its end: that is for others to wait for.
pub fn try_wait_stopped(thread: Pid) -> Result<Option<i32>> {
    // SAFETY: all zeroes is a valid `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
    // SAFETY: `info` is a valid place for the result and lives through the call.
    if unsafe { libc::waitid(libc::P_PID, thread.0 as libc::id_t, &mut info, options) } < 0 {
        return Err(Errno::last());
    }
    // SAFETY: waitid filled in the SIGCHLD members, or left zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    // As waitpid(2) has it: what stopped the thread stands above 0x7f.
    Ok((pid != 0).then_some(status << 8 | 0x7f))
}

/// A thread's registers.
pub use libc::user_regs_struct as Registers;

/// A stopped thread's registers.
pub fn registers(thread: Pid) -> Result<Registers> {
    // SAFETY: all zeroes is a valid register set.
    let mut registers: Registers = unsafe { std::mem::zeroed() };
    // SAFETY: the host fills `registers`, whose type is the one that PTRACE_GETREGS writes.
    if unsafe { libc::ptrace(libc::PTRACE_GETREGS, thread.0, 0, &mut registers) } < 0 { Err(Errno::last()) } else { Ok(registers) }
}

/// Changes a stopped thread's registers.
pub fn set_registers(thread: Pid, registers: &Registers) -> Result<()> {
    // SAFETY: the host reads `registers`, whose type is the one that PTRACE_SETREGS takes, and checks what it must not take.
    if unsafe { libc::ptrace(libc::PTRACE_SETREGS, thread.0, 0, std::ptr::from_ref(registers)) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// A stopped thread's stack pointer.
pub fn stack_pointer(thread: Pid) -> Result<u64> {
    registers(thread).map(|registers| registers.rsp)
}

/// A stopped thread's signal mask.
pub fn signal_mask(thread: Pid) -> Result<u64> {
    let mut mask = 0u64;
    // SAFETY: the host writes the eight bytes of `mask`, whose size is passed.
    if unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, thread.0, size_of::<u64>(), &mut mask) } < 0 { Err(Errno::last()) } else { Ok(mask) }
}

/// Changes a stopped thread's signal mask. `SIGKILL` and `SIGSTOP` stay unblocked.
pub fn set_signal_mask(thread: Pid, mask: u64) -> Result<()> {
    trace_with(libc::PTRACE_SETSIGMASK, thread, size_of::<u64>() as u64, &mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_of_this_process() {
        let own = Status::read(Pid(std::process::id() as i32)).unwrap();
        assert_eq!(own.tgid, std::process::id() as i32);
        assert!(!own.is_dead());
    }

    #[test]
    fn mapped_ranges() {
        let own = Pid(std::process::id() as i32);
        let page = vec![0u8; 4096];
        let address = page.as_ptr() as u64 & !4095;
        assert_eq!(is_mapped(own, address, address + 4096), Ok(true));
        assert_eq!(is_mapped(own, 4096, 8192), Ok(false));
        assert_eq!(is_mapped(own, address, (1 << 47) - 4096), Ok(false));
    }

    #[test]
    fn status_text_is_taken_apart() {
        let text = b"Name:\tx y\nState:\tS (sleeping)\nTgid:\t12\nPPid:\t3\nNSpid:\t12\t7\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000200\nSigBlk:\t0000000000010000\nSigIgn:\t0000000000000004\nSigCgt:\t0000000000000008\n";
        let expected = Status {
            tgid: 12,
            parent: 3,
            inner: 7,
            state: b'S',
            pending: 1,
            shared_pending: 0x200,
            blocked: 0x10000,
            ignored: 4,
            caught: 8,
        };
        assert_eq!(Status::parse(text), expected);
    }

    #[test]
    fn a_thread_that_is_gone_is_esrch() {
        assert_eq!(Status::read(Pid(0x3fff_ffff)), Err(Errno::ESRCH));
    }
}
