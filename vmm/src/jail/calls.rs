//! The host calls that the monitor's threads make once the guest runs, and why.
//!
//! What is not here ends the pod. Among what is nowhere: executing programs, making processes, namespaces, mounts or roots, sockets that are not Unix's, loading
//! modules or BPF, keyrings, performance counters, io_uring, userfaultfd, memory that is executable.

use super::Thread::{self, Control, Devices, Files, Starting, Vcpu};

/// Which calls of a number are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Only {
    /// Those whose argument (counted from 0; low 32 bits) is one of these.
    OneOf(u8, &'static [u32]),
    /// Those whose argument has, under the first mask, the second's bits.
    Masked(u8, u64, u64),
}

/// One host call.
pub struct HostCall {
    /// Its number on x86-64.
    pub number: i64,
    /// Its name.
    pub name: &'static str,
    /// Must hold, where there is one.
    pub only: Option<Only>,
}

/// Calls for one reason.
pub struct Row {
    /// What for.
    pub reason: &'static str,
    /// Which threads.
    pub threads: &'static [Thread],
    /// The calls.
    pub calls: &'static [HostCall],
}

macro_rules! calls {
    ($($reason:expr, $threads:expr => [$($name:ident $(if $only:expr)?),* $(,)?]),* $(,)?) => {
        &[$(Row { reason: $reason, threads: &$threads, calls: &[$(HostCall {
            number: numbers::$name,
            name: stringify!($name),
            only: calls!(@only $($only)?),
        }),*] }),*]
    };
    (@only) => { None };
    (@only $only:expr) => { Some($only) };
}

/// The numbers by their bare names.
#[allow(non_upper_case_globals)]
mod numbers {
    macro_rules! numbers {
        ($($name:ident = $constant:ident),* $(,)?) => { $(pub const $name: i64 = libc::$constant;)* };
    }
    numbers! {
        accept4 = SYS_accept4, brk = SYS_brk, capget = SYS_capget, capset = SYS_capset, clock_gettime = SYS_clock_gettime, clone = SYS_clone, close = SYS_close,
        connect = SYS_connect, epoll_create1 = SYS_epoll_create1, epoll_ctl = SYS_epoll_ctl, epoll_pwait = SYS_epoll_pwait, epoll_wait = SYS_epoll_wait,
        eventfd2 = SYS_eventfd2, exit = SYS_exit, exit_group = SYS_exit_group, fallocate = SYS_fallocate, fchmod = SYS_fchmod, fchmodat = SYS_fchmodat,
        fchmodat2 = SYS_fchmodat2, fchown = SYS_fchown, fchownat = SYS_fchownat, fcntl = SYS_fcntl, fdatasync = SYS_fdatasync, fgetxattr = SYS_fgetxattr,
        flistxattr = SYS_flistxattr, fremovexattr = SYS_fremovexattr, fsetxattr = SYS_fsetxattr, fstat = SYS_fstat, fstatfs = SYS_fstatfs, fsync = SYS_fsync,
        ftruncate = SYS_ftruncate, futex = SYS_futex, getdents64 = SYS_getdents64, getegid = SYS_getegid, geteuid = SYS_geteuid, getpid = SYS_getpid,
        getrandom = SYS_getrandom, getrlimit = SYS_getrlimit, getsockopt = SYS_getsockopt, gettid = SYS_gettid, gettimeofday = SYS_gettimeofday,
        ioctl = SYS_ioctl, linkat = SYS_linkat, lseek = SYS_lseek, madvise = SYS_madvise, mkdirat = SYS_mkdirat, mknodat = SYS_mknodat, mmap = SYS_mmap,
        mprotect = SYS_mprotect, mremap = SYS_mremap, munmap = SYS_munmap, newfstatat = SYS_newfstatat, openat = SYS_openat, openat2 = SYS_openat2,
        poll = SYS_poll, prctl = SYS_prctl, pread64 = SYS_pread64, preadv = SYS_preadv, preadv2 = SYS_preadv2, prlimit64 = SYS_prlimit64,
        pwrite64 = SYS_pwrite64, pwritev = SYS_pwritev, pwritev2 = SYS_pwritev2, read = SYS_read, readlinkat = SYS_readlinkat, readv = SYS_readv,
        recvfrom = SYS_recvfrom, recvmsg = SYS_recvmsg, renameat = SYS_renameat, renameat2 = SYS_renameat2, restart_syscall = SYS_restart_syscall,
        rseq = SYS_rseq, rt_sigaction = SYS_rt_sigaction, rt_sigprocmask = SYS_rt_sigprocmask, rt_sigreturn = SYS_rt_sigreturn,
        sched_getaffinity = SYS_sched_getaffinity, sched_yield = SYS_sched_yield, seccomp = SYS_seccomp, sendmsg = SYS_sendmsg, sendto = SYS_sendto,
        set_robust_list = SYS_set_robust_list, setsockopt = SYS_setsockopt, setfsgid = SYS_setfsgid, setfsuid = SYS_setfsuid, shutdown = SYS_shutdown, sigaltstack = SYS_sigaltstack,
        socket = SYS_socket, socketpair = SYS_socketpair, statx = SYS_statx, symlinkat = SYS_symlinkat, sync_file_range = SYS_sync_file_range, syncfs = SYS_syncfs,
        tgkill = SYS_tgkill, timerfd_create = SYS_timerfd_create, timerfd_settime = SYS_timerfd_settime, umask = SYS_umask, unlinkat = SYS_unlinkat,
        utimensat = SYS_utimensat, write = SYS_write, writev = SYS_writev,
    }
}

/// Never executable, so that injected bytes do not run.
const NOT_EXECUTABLE: Only = Only::Masked(2, libc::PROT_EXEC as u64, 0);
/// Threads only: no process is ever made.
const THREADS: Only = {
    let flags = (libc::CLONE_THREAD | libc::CLONE_VM) as u64;
    Only::Masked(0, flags, flags)
};
/// `PR_SET_NAME`, the names of memory areas that allocators give (`PR_SET_VMA`).
const NAMES: Only = Only::OneOf(0, &[libc::PR_SET_NAME as u32, 0x5356_4d41]);
/// What a thread does that confines itself, beside its name: its capabilities' and its filter's.
const CONFINING: Only = Only::OneOf(
    0,
    &[
        libc::PR_SET_NAME as u32,
        0x5356_4d41,
        libc::PR_SET_NO_NEW_PRIVS as u32,
        libc::PR_CAP_AMBIENT as u32,
        libc::PR_CAPBSET_READ as u32,
        libc::PR_SET_SECCOMP as u32,
    ],
);
/// `SO_RCVTIMEO` and `SO_SNDTIMEO` (asm-generic/socket.h).
const TIMEOUTS: Only = Only::OneOf(2, &[libc::SO_RCVTIMEO as u32, libc::SO_SNDTIMEO as u32]);
const UNIX: Only = Only::OneOf(0, &[libc::AF_UNIX as u32]);
/// Of KVM's calls, once a machine is built (asm/kvm.h, linux/kvm.h): running, registers for the last word about a guest that crashed, and lines and doorbells.
const RUNNING: Only = Only::OneOf(
    1,
    &[
        0x0000_ae80, // KVM_RUN
        0x8090_ae81, // KVM_GET_REGS
        0x8138_ae83, // KVM_GET_SREGS
        0x0000_aead, // KVM_KVMCLOCK_CTRL
        0x4020_ae76, // KVM_IRQFD
        0x4040_ae79, // KVM_IOEVENTFD
    ],
);
/// All of KVM's: `KVMIO`, 0xae, is an ioctl's type (bits 8 to 15 of its number).
const KVM: Only = Only::Masked(1, 0xff00, 0xae00);
/// Whether a socket blocks.
const FIONBIO: u32 = 0x5421;
/// Offloads and the header's size of a tap (`TUNSETOFFLOAD`, `TUNSETVNETHDRSZ`; linux/if_tun.h), which its driver negotiates; and [`FIONBIO`].
const TAPS: Only = Only::OneOf(1, &[0x4004_54d0, 0x4004_54d8, FIONBIO]);
/// Of block devices (linux/fs.h): `BLKSSZGET`, `BLKGETSIZE64`, `BLKDISCARD`, `BLKZEROOUT`.
const DISKS: Only = Only::OneOf(1, &[0x1268, 0x8008_1272, 0x1277, 0x127f]);
/// Of terminals: locks, the slave, modes (the last two are `TCGETS2` and `TCSETS2`), sizes; and [`FIONBIO`]. `TIOCSTI`, which types, is not among them.
const TERMINALS: Only = Only::OneOf(
    1,
    &[
        libc::TIOCSPTLCK as u32,
        libc::TIOCGPTPEER as u32,
        libc::TCGETS as u32,
        libc::TCSETS as u32,
        0x802c_542a,
        0x402c_542b,
        libc::TIOCGWINSZ as u32,
        libc::TIOCSWINSZ as u32,
        FIONBIO,
    ],
);

const ALL: [Thread; 5] = Thread::ALL;
/// The main thread is one after the other; the first starts virtual processors.
const MAIN: [Thread; 2] = [Control, Starting];

/// The table.
pub const CALLS: &[Row] = calls! {
    "its own memory", ALL => [brk, mmap if NOT_EXECUTABLE, mprotect if NOT_EXECUTABLE, munmap, mremap, madvise],
    "other threads, and its own end", ALL => [futex, sched_yield, rseq, set_robust_list, restart_syscall, exit, exit_group, gettid, getpid],
    "signals: to have a virtual processor come back; to abort", ALL => [tgkill, rt_sigprocmask, rt_sigreturn, sigaltstack],
    "clocks", ALL => [clock_gettime, gettimeofday],
    "random numbers for hash tables, and for the guest", ALL => [getrandom],
    "kicks, interrupts, streams, taps, log lines", ALL => [read, write, readv, writev],
    "what is ready", ALL => [epoll_create1, epoll_ctl, epoll_wait, epoll_pwait, poll, eventfd2, timerfd_create, timerfd_settime],
    "its own descriptors", ALL => [close, fcntl, fstat, lseek],
    "names of threads and memory areas", ALL => [prctl if NAMES],
    "the guest's instructions", [Vcpu, Starting] => [ioctl if RUNNING],
    "streams", [Devices, Control, Starting, Vcpu] => [socketpair if UNIX, recvfrom, sendto, recvmsg, sendmsg, shutdown, getsockopt],
    "clients", [Devices, Control, Starting] => [accept4],
    "connections of the guest's to Unix sockets of the host's, where a directory was given", [Devices] => [socket if UNIX, connect],
    "what a driver negotiates", [Devices, Vcpu, Starting] => [ioctl if TAPS],
    "files by descriptor", [Files] => [
        pread64, pwrite64, preadv, pwritev, preadv2, pwritev2, fsync, fdatasync, syncfs, sync_file_range, fallocate, ftruncate, getdents64, fgetxattr, fsetxattr,
        flistxattr, fremovexattr, fchmod, fchown, fstatfs,
    ],
    "files by name, below a directory that is open", [Files] => [
        openat, openat2, newfstatat, statx, readlinkat, mkdirat, mknodat, symlinkat, linkat, unlinkat, renameat, renameat2, fchmodat, fchmodat2, fchownat,
        utimensat, umask,
    ],
    "files are made as the guest's user", [Files] => [setfsuid, setfsgid, geteuid, getegid, capget, capset],
    "how many descriptors there may be", [Files] => [getrlimit, prlimit64],
    "disks", [Files] => [ioctl if DISKS],
    "how long the agent may take to be ready", MAIN => [setsockopt if TIMEOUTS],
    "trees that are given: what they are", MAIN => [newfstatat, statx],
    "terminals", MAIN => [openat, ioctl if TERMINALS],
    "streams of the host's that are not to wait", MAIN => [preadv2, pwritev2],
    "the machine is started: its threads", [Starting] => [
        clone if THREADS, ioctl if KVM, rt_sigaction, sched_getaffinity, prlimit64,
    ],
    "a thread confines itself", [Starting] => [capget, capset, seccomp, prctl if CONFINING],
};
