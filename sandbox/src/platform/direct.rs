//! The direct set: what a workload's threads may have the host execute without asking (design, invariant 1).
//!
//! Every row acts on the caller's own memory, threads, signals or clock, and names nothing else. Arguments are filtered
//! where they are registers. Whatever has no row here is notified, and never reaches the host's kernel unless a handler says
//! `Continue`.

/// Which calls of a number are direct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// All.
    Always,
    /// Those whose argument, masked, is one of these.
    OneOf(u8, u32, &'static [u32]),
    /// Those whose argument is none of these.
    NoneOf(u8, &'static [u32]),
    /// Those whose argument has all the first bits and none of the second.
    Bits(u8, u32, u32),
}

/// One row.
pub struct Direct {
    /// The call's number.
    pub number: i64,
    /// Its name.
    pub name: &'static str,
    /// Which of its calls.
    pub rule: Rule,
    /// Why the host may execute it.
    pub reason: &'static str,
}

const fn row(number: i64, name: &'static str, rule: Rule, reason: &'static str) -> Direct {
    Direct { number, name, rule, reason }
}

const MEMORY: &str = "own memory";
const THREADS: &str = "own threads";
const SIGNALS: &str = "own signals; queues and masks are native";
const TIME: &str = "the clock";
const NUMBERS: &str = "the container's PID namespace answers";

const ANONYMOUS: u32 = libc::MAP_ANONYMOUS as u32;
const HUGE_OR_GROWING: u32 = (libc::MAP_HUGETLB | libc::MAP_GROWSDOWN) as u32;
/// normal, random, sequential, willneed, dontneed, free, dontfork, dofork, hugepage, nohugepage, dontdump, dodump, cold, populate_read,
/// populate_write. Not: remove (a file's), mergeable (a side channel), hwpoison, pageout, wipeonfork.
const ADVICE: &[u32] = &[0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 20, 22, 23];
/// wait, wake, requeue, cmp_requeue, wake_op, wait_bitset, wake_bitset. Not the priority-inheriting ones.
const FUTEX: &[u32] = &[0, 1, 3, 4, 5, 9, 10];
/// Everything but the flags `FUTEX_PRIVATE_FLAG` and `FUTEX_CLOCK_REALTIME`.
const FUTEX_COMMAND: u32 = !(128 | 256);
/// The fixed clocks of clock_gettime(2); per-process clocks name processes and descriptors.
const CLOCKS: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11];
/// `P_PIDFD`.
const PIDFD: &[u32] = &[3];
/// `ARCH_SET_GS`, `ARCH_SET_FS`, `ARCH_GET_FS`, `ARCH_GET_GS`.
const SEGMENTS: &[u32] = &[0x1001, 0x1002, 0x1003, 0x1004];

/// The table.
pub const TABLE: &[Direct] = &[
    row(libc::SYS_mmap, "mmap", Rule::Bits(3, ANONYMOUS, HUGE_OR_GROWING), "anonymous memory; files are notified and donated"),
    row(libc::SYS_munmap, "munmap", Rule::Always, MEMORY),
    row(libc::SYS_mprotect, "mprotect", Rule::Always, MEMORY),
    row(libc::SYS_mremap, "mremap", Rule::Always, MEMORY),
    row(libc::SYS_brk, "brk", Rule::Always, MEMORY),
    row(libc::SYS_msync, "msync", Rule::Always, MEMORY),
    row(libc::SYS_mlock, "mlock", Rule::Always, MEMORY),
    row(libc::SYS_mlock2, "mlock2", Rule::Always, MEMORY),
    row(libc::SYS_munlock, "munlock", Rule::Always, MEMORY),
    row(libc::SYS_madvise, "madvise", Rule::OneOf(2, u32::MAX, ADVICE), MEMORY),
    row(libc::SYS_futex, "futex", Rule::OneOf(1, FUTEX_COMMAND, FUTEX), "own memory; priority inheritance has a history of exploits"),
    row(libc::SYS_set_tid_address, "set_tid_address", Rule::Always, THREADS),
    row(libc::SYS_set_robust_list, "set_robust_list", Rule::Always, THREADS),
    row(libc::SYS_rseq, "rseq", Rule::Always, THREADS),
    row(libc::SYS_arch_prctl, "arch_prctl", Rule::OneOf(0, u32::MAX, SEGMENTS), THREADS),
    row(libc::SYS_sched_yield, "sched_yield", Rule::Always, THREADS),
    row(libc::SYS_getcpu, "getcpu", Rule::Always, THREADS),
    row(libc::SYS_rt_sigaction, "rt_sigaction", Rule::Always, SIGNALS),
    row(libc::SYS_rt_sigprocmask, "rt_sigprocmask", Rule::Always, SIGNALS),
    row(libc::SYS_rt_sigreturn, "rt_sigreturn", Rule::Always, SIGNALS),
    row(libc::SYS_rt_sigpending, "rt_sigpending", Rule::Always, SIGNALS),
    row(libc::SYS_rt_sigsuspend, "rt_sigsuspend", Rule::Always, SIGNALS),
    row(libc::SYS_rt_sigtimedwait, "rt_sigtimedwait", Rule::Always, SIGNALS),
    row(libc::SYS_sigaltstack, "sigaltstack", Rule::Always, SIGNALS),
    row(libc::SYS_pause, "pause", Rule::Always, SIGNALS),
    row(libc::SYS_restart_syscall, "restart_syscall", Rule::Always, "goes on with a direct call that a signal interrupted"),
    row(libc::SYS_clock_gettime, "clock_gettime", Rule::OneOf(0, u32::MAX, CLOCKS), TIME),
    row(libc::SYS_clock_getres, "clock_getres", Rule::OneOf(0, u32::MAX, CLOCKS), TIME),
    row(libc::SYS_gettimeofday, "gettimeofday", Rule::Always, TIME),
    row(libc::SYS_time, "time", Rule::Always, TIME),
    row(libc::SYS_nanosleep, "nanosleep", Rule::Always, TIME),
    row(libc::SYS_clock_nanosleep, "clock_nanosleep", Rule::OneOf(0, u32::MAX, CLOCKS), TIME),
    row(libc::SYS_times, "times", Rule::Always, TIME),
    row(libc::SYS_getrusage, "getrusage", Rule::Always, TIME),
    row(libc::SYS_getpid, "getpid", Rule::Always, NUMBERS),
    row(libc::SYS_gettid, "gettid", Rule::Always, NUMBERS),
    row(libc::SYS_getppid, "getppid", Rule::Always, NUMBERS),
    row(libc::SYS_getpgrp, "getpgrp", Rule::Always, NUMBERS),
    row(libc::SYS_wait4, "wait4", Rule::Always, NUMBERS),
    row(libc::SYS_waitid, "waitid", Rule::NoneOf(0, PIDFD), NUMBERS),
    row(libc::SYS_getrandom, "getrandom", Rule::Always, MEMORY),
];
