//! The host calls that the kernel process makes, after it has confined itself, and why.
//!
//! What is not here kills the pod. Among what is not: executing programs, making processes, namespaces or roots, loading
//! modules or BPF, keyrings, performance counters, io_uring, userfaultfd, memory that is executable.

/// Which calls of a number are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Only {
    /// Those whose argument (counted from 0; low 32 bits) is one of these.
    OneOf(u8, &'static [u32]),
    /// Those whose argument has all bits of the first mask, and none of the second.
    Bits(u8, u64, u64),
}

/// One host call.
pub struct HostCall {
    /// Its number on x86-64.
    pub number: i64,
    /// Its name.
    pub name: &'static str,
    /// Must hold, where there is one.
    pub only: Option<Only>,
    /// What for.
    pub reason: &'static str,
}

macro_rules! calls {
    ($($reason:expr => [$($name:ident $(if $only:expr)?),* $(,)?]),* $(,)?) => {
        &[$($(HostCall {
            number: numbers::$name,
            name: stringify!($name),
            only: calls!(@only $($only)?),
            reason: $reason,
        }),*),*]
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
        read = SYS_read, write = SYS_write, open = SYS_open, close = SYS_close, stat = SYS_stat, fstat = SYS_fstat, lstat = SYS_lstat,
        poll = SYS_poll, lseek = SYS_lseek, mmap = SYS_mmap, mprotect = SYS_mprotect, munmap = SYS_munmap, brk = SYS_brk,
        rt_sigaction = SYS_rt_sigaction, rt_sigprocmask = SYS_rt_sigprocmask, rt_sigreturn = SYS_rt_sigreturn, ioctl = SYS_ioctl,
        pread64 = SYS_pread64, pwrite64 = SYS_pwrite64, readv = SYS_readv, writev = SYS_writev, access = SYS_access,
        sched_yield = SYS_sched_yield, mremap = SYS_mremap, msync = SYS_msync, madvise = SYS_madvise, dup = SYS_dup,
        nanosleep = SYS_nanosleep, getpid = SYS_getpid, sendfile = SYS_sendfile, socket = SYS_socket, connect = SYS_connect,
        sendto = SYS_sendto, recvfrom = SYS_recvfrom, sendmsg = SYS_sendmsg, recvmsg = SYS_recvmsg, shutdown = SYS_shutdown,
        bind = SYS_bind, listen = SYS_listen, getsockname = SYS_getsockname, getpeername = SYS_getpeername, socketpair = SYS_socketpair,
        setsockopt = SYS_setsockopt, getsockopt = SYS_getsockopt, clone = SYS_clone, exit = SYS_exit, wait4 = SYS_wait4,
        kill = SYS_kill, fcntl = SYS_fcntl, flock = SYS_flock, fsync = SYS_fsync, fdatasync = SYS_fdatasync, truncate = SYS_truncate,
        ftruncate = SYS_ftruncate, getcwd = SYS_getcwd, rename = SYS_rename, mkdir = SYS_mkdir, rmdir = SYS_rmdir, link = SYS_link,
        unlink = SYS_unlink, symlink = SYS_symlink, readlink = SYS_readlink, chmod = SYS_chmod, fchmod = SYS_fchmod,
        chown = SYS_chown, fchown = SYS_fchown, lchown = SYS_lchown, umask = SYS_umask, gettimeofday = SYS_gettimeofday,
        getrlimit = SYS_getrlimit, getrusage = SYS_getrusage, sysinfo = SYS_sysinfo, times = SYS_times, ptrace = SYS_ptrace,
        getuid = SYS_getuid, getgid = SYS_getgid, geteuid = SYS_geteuid, getegid = SYS_getegid, getppid = SYS_getppid,
        getpgrp = SYS_getpgrp, setgroups = SYS_setgroups, getpgid = SYS_getpgid, setfsuid = SYS_setfsuid,
        setfsgid = SYS_setfsgid, getsid = SYS_getsid, capget = SYS_capget, capset = SYS_capset, sigaltstack = SYS_sigaltstack,
        mknod = SYS_mknod, statfs = SYS_statfs, fstatfs = SYS_fstatfs, getpriority = SYS_getpriority, setpriority = SYS_setpriority,
        sched_setparam = SYS_sched_setparam, sched_getparam = SYS_sched_getparam, sched_setscheduler = SYS_sched_setscheduler,
        sched_getscheduler = SYS_sched_getscheduler, sched_get_priority_max = SYS_sched_get_priority_max,
        sched_get_priority_min = SYS_sched_get_priority_min, sched_rr_get_interval = SYS_sched_rr_get_interval, prctl = SYS_prctl,
        sync = SYS_sync, mount = SYS_mount, umount2 = SYS_umount2, gettid = SYS_gettid, readahead = SYS_readahead, futex = SYS_futex,
        sched_setaffinity = SYS_sched_setaffinity, sched_getaffinity = SYS_sched_getaffinity, epoll_wait = SYS_epoll_wait,
        epoll_ctl = SYS_epoll_ctl, getdents64 = SYS_getdents64, restart_syscall = SYS_restart_syscall, fadvise64 = SYS_fadvise64,
        clock_gettime = SYS_clock_gettime, clock_getres = SYS_clock_getres, clock_nanosleep = SYS_clock_nanosleep,
        exit_group = SYS_exit_group, tgkill = SYS_tgkill, utimes = SYS_utimes, waitid = SYS_waitid, ioprio_set = SYS_ioprio_set,
        ioprio_get = SYS_ioprio_get, openat = SYS_openat, mkdirat = SYS_mkdirat, mknodat = SYS_mknodat, fchownat = SYS_fchownat,
        newfstatat = SYS_newfstatat, unlinkat = SYS_unlinkat, renameat = SYS_renameat, linkat = SYS_linkat, symlinkat = SYS_symlinkat,
        readlinkat = SYS_readlinkat, fchmodat = SYS_fchmodat, faccessat = SYS_faccessat, set_robust_list = SYS_set_robust_list,
        sync_file_range = SYS_sync_file_range, utimensat = SYS_utimensat, epoll_pwait = SYS_epoll_pwait,
        timerfd_create = SYS_timerfd_create, fallocate = SYS_fallocate, timerfd_settime = SYS_timerfd_settime,
        timerfd_gettime = SYS_timerfd_gettime, accept4 = SYS_accept4, signalfd4 = SYS_signalfd4, eventfd2 = SYS_eventfd2,
        epoll_create1 = SYS_epoll_create1, dup3 = SYS_dup3, pipe2 = SYS_pipe2, preadv = SYS_preadv, pwritev = SYS_pwritev,
        recvmmsg = SYS_recvmmsg, prlimit64 = SYS_prlimit64, syncfs = SYS_syncfs, sendmmsg = SYS_sendmmsg,
        process_vm_readv = SYS_process_vm_readv, process_vm_writev = SYS_process_vm_writev, sched_setattr = SYS_sched_setattr,
        sched_getattr = SYS_sched_getattr, renameat2 = SYS_renameat2, getrandom = SYS_getrandom, memfd_create = SYS_memfd_create,
        copy_file_range = SYS_copy_file_range, preadv2 = SYS_preadv2, pwritev2 = SYS_pwritev2, statx = SYS_statx, rseq = SYS_rseq,
        pidfd_send_signal = SYS_pidfd_send_signal, rt_tgsigqueueinfo = SYS_rt_tgsigqueueinfo, open_tree = SYS_open_tree, move_mount = SYS_move_mount,
        pidfd_open = SYS_pidfd_open, close_range = SYS_close_range, openat2 = SYS_openat2, pidfd_getfd = SYS_pidfd_getfd,
        faccessat2 = SYS_faccessat2, fchmodat2 = SYS_fchmodat2,
    }
}

/// Shows a file in an exec root, then protects it. No file system is mounted, and no mount's flags become others: see [`crate::boot::tree::fact`].
const SHOWING: Only = Only::OneOf(3, &[libc::MS_BIND as u32, crate::platform::exec_root::PROTECTED.bits() as u32]);
/// Threads only: no process is made after the spawner.
const THREADS: Only = Only::Bits(0, (libc::CLONE_THREAD | libc::CLONE_VM) as u64, 0);
/// Never executable, so that injected bytes do not run.
const NOT_EXECUTABLE: Only = Only::Bits(2, 0, libc::PROT_EXEC as u64);
/// What the pod's network needs; packet, VSOCK, Bluetooth and the rest are not reachable.
const FAMILIES: Only = Only::OneOf(0, &[libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32]);
/// Holding a privileged exec at its stop, delivering a signal under a call's own mask, and having a signalfd's reader take signals.
const TRACING: Only = Only::OneOf(
    0,
    &[
        libc::PTRACE_SEIZE,
        libc::PTRACE_INTERRUPT,
        libc::PTRACE_CONT,
        libc::PTRACE_DETACH,
        libc::PTRACE_GETREGS,
        libc::PTRACE_SETREGS,
        libc::PTRACE_SINGLESTEP,
        libc::PTRACE_SYSCALL,
        libc::PTRACE_GETSIGMASK,
        libc::PTRACE_SETSIGMASK,
    ],
);
/// A thread's name, and names of memory areas, which allocators give.
const NAMES: Only = Only::OneOf(0, &[libc::PR_SET_NAME as u32, libc::PR_GET_NAME as u32, 0x5356_4d41]);

/// The table.
pub const CALLS: &[HostCall] = calls! {
    "receives and answers the workload's calls; sizes and modes of terminals; names and addresses of interfaces" => [ioctl],
    "copies between its own and workload memory" => [process_vm_readv, process_vm_writev],
    "knows workload processes, takes their mark of a successful exec" => [pidfd_open, pidfd_getfd, getpgid, getsid, waitid, wait4],
    "holds a thread whose program gains rights; delivers a signal under a waiting call's mask; takes signals for a signalfd" => [ptrace if TRACING],
    "passes on signals; tells threads of their timers" => [kill, tgkill, pidfd_send_signal, rt_tgsigqueueinfo],
    "sets and reads scheduling and limits of workload threads" => [
        sched_setparam, sched_getparam, sched_setscheduler, sched_getscheduler, sched_get_priority_max, sched_get_priority_min,
        sched_rr_get_interval, sched_setaffinity, sched_getaffinity, sched_setattr, sched_getattr, getpriority, setpriority,
        ioprio_set, ioprio_get, prlimit64, getrlimit,
    ],
    "takes a caller's identity, so that the host judges access to host files" => [setfsuid, setfsgid, setgroups, capget, capset],
    "opens and looks at files of the pod's trees and of /proc" => [
        open, openat, openat2, stat, fstat, lstat, newfstatat, statx, statfs, fstatfs, access, faccessat, faccessat2, readlink,
        readlinkat, getdents64, lseek, getcwd,
    ],
    "reads and writes them" => [
        read, readv, pread64, preadv, preadv2, write, writev, pwrite64, pwritev, pwritev2, sendfile, copy_file_range, readahead,
        fadvise64, fsync, fdatasync, sync, syncfs, sync_file_range, msync, truncate, ftruncate, fallocate,
    ],
    "changes them for callers that may" => [
        rename, renameat, renameat2, mkdir, mkdirat, rmdir, link, linkat, unlink, unlinkat, symlink, symlinkat, mknod, mknodat, chmod,
        fchmod, fchmodat, fchmodat2, chown, fchown, lchown, fchownat, utimes, utimensat, umask, flock,
    ],
    "mounts trees that the client sends, and executables in exec roots" => [mount if SHOWING, umount2, open_tree, move_mount],
    "handles its own descriptors" => [close, close_range, dup, dup3, fcntl, pipe2, memfd_create],
    "the pod's sockets" => [
        socket if FAMILIES, socketpair if Only::OneOf(0, &[libc::AF_UNIX as u32]), bind, connect, listen, accept4, getsockname,
        getpeername, setsockopt, getsockopt, sendto, recvfrom, sendmsg, recvmsg, sendmmsg, recvmmsg, shutdown,
    ],
    "waits for host events" => [
        poll, epoll_create1, epoll_ctl, epoll_wait, epoll_pwait, eventfd2, timerfd_create, timerfd_settime, timerfd_gettime,
        signalfd4,
    ],
    "clocks" => [clock_gettime, clock_getres, clock_nanosleep, nanosleep, gettimeofday],
    "numbers that /proc and sysinfo(2) show" => [sysinfo, getrusage, times],
    "who it is itself" => [getpid, gettid, getppid, getpgrp, getuid, geteuid, getgid, getegid],
    "its own memory" => [brk, mmap if NOT_EXECUTABLE, mprotect if NOT_EXECUTABLE, munmap, mremap, madvise],
    "its own threads" => [
        clone if THREADS, exit, exit_group, futex, set_robust_list, rseq, sched_yield, prctl if NAMES, restart_syscall,
    ],
    "its own signals" => [rt_sigaction, rt_sigprocmask, rt_sigreturn, sigaltstack],
    "random numbers for hash tables and addresses" => [getrandom],
};
