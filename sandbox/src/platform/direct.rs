//! The direct set: what a workload may have executed by the host without asking (design, invariant 1).
//!
//! Every other call is notified. A row names a call, the condition on its *registers*, and why the host may execute it: it acts on
//! the caller's own memory, threads, signals or clock, and names nothing else. [`super::filter`] compiles the table; tests
//! interpret what it compiled; the attack tests and the documentation read it.

/// A condition on one argument register. The filter sees the register, so what the host will use is what was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// The low 32 bits without `ignored`, for an argument that C declares `int` or `unsigned int`, are one of `values`.
    OneOf {
        /// Which argument, from 0.
        argument: u32,
        /// Bits that may have any value.
        ignored: u32,
        /// What the rest may be.
        values: &'static [u32],
    },
    /// Of an argument that is an `unsigned long`: all of `set` are one, all of `clear` and of the upper half are zero.
    Flags {
        /// Which argument, from 0.
        argument: u32,
        /// Bits that must be one.
        set: u32,
        /// Bits that must be zero.
        clear: u32,
    },
}

impl Condition {
    /// Whether it holds.
    pub fn holds(&self, arguments: &[u64; 6]) -> bool {
        match *self {
            Condition::OneOf { argument, ignored, values } => values.contains(&(arguments[argument as usize] as u32 & !ignored)),
            Condition::Flags { argument, set, clear } => {
                let value = arguments[argument as usize];
                value >> 32 == 0 && value as u32 & set == set && value as u32 & clear == 0
            }
        }
    }
}

/// One call that the host executes for a workload.
pub struct Row {
    /// Its number on x86-64.
    pub number: i64,
    /// Its name, as in syscalls(2).
    pub name: &'static str,
    /// Must hold; otherwise the call is notified.
    pub only: Option<Condition>,
    /// Why it may be executed natively.
    pub reason: &'static str,
}

const fn row(number: i64, name: &'static str, reason: &'static str) -> Row {
    Row { number, name, only: None, reason }
}

const fn only(number: i64, name: &'static str, only: Condition, reason: &'static str) -> Row {
    Row { number, name, only: Some(only), reason }
}

const MEMORY: &str = "the caller's own memory, which the host manages";
const THREAD: &str = "the calling thread alone";
const SIGNALS: &str = "the caller's own signal state; it sends nothing";
const TIME: &str = "reads a clock or waits for it; every program's, mostly served by the vDSO anyway";
const NUMBERS: &str = "the host's PID namespace answers with the container's numbers";

/// Anonymous memory: no file is named, whatever the descriptor register says. Huge pages would come from a pool of the
/// host's; `MAP_GROWSDOWN` is an obsolete corner of the host's fault handler.
const ANONYMOUS: Condition =
    Condition::Flags { argument: 3, set: libc::MAP_ANONYMOUS as u32, clear: (libc::MAP_HUGETLB | libc::MAP_GROWSDOWN) as u32 };

/// No merging of equal pages (`MADV_MERGEABLE`, a side channel), no poisoning, no hole in a donated file (`MADV_REMOVE`), no
/// page-out on demand.
const ADVICE: Condition = Condition::OneOf {
    argument: 2,
    ignored: 0,
    values: &[
        libc::MADV_NORMAL as u32,
        libc::MADV_RANDOM as u32,
        libc::MADV_SEQUENTIAL as u32,
        libc::MADV_WILLNEED as u32,
        libc::MADV_DONTNEED as u32,
        libc::MADV_FREE as u32,
        libc::MADV_DONTFORK as u32,
        libc::MADV_DOFORK as u32,
        libc::MADV_HUGEPAGE as u32,
        libc::MADV_NOHUGEPAGE as u32,
        libc::MADV_DONTDUMP as u32,
        libc::MADV_DODUMP as u32,
        libc::MADV_COLD as u32,
        libc::MADV_POPULATE_READ as u32,
        libc::MADV_POPULATE_WRITE as u32,
    ],
};

/// `FUTEX_*` operations without priority inheritance (a history of exploits) and without `FUTEX_FD`; `FUTEX_PRIVATE_FLAG` and
/// `FUTEX_CLOCK_REALTIME` as the caller likes.
const FUTEX: Condition = Condition::OneOf {
    argument: 1,
    ignored: (libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u32,
    values: &[
        libc::FUTEX_WAIT as u32,
        libc::FUTEX_WAKE as u32,
        libc::FUTEX_REQUEUE as u32,
        libc::FUTEX_CMP_REQUEUE as u32,
        libc::FUTEX_WAKE_OP as u32,
        libc::FUTEX_WAIT_BITSET as u32,
        libc::FUTEX_WAKE_BITSET as u32,
    ],
};

/// `ARCH_SET_GS`, `ARCH_SET_FS`, `ARCH_GET_FS`, `ARCH_GET_GS` (asm/prctl.h).
const SEGMENT_BASES: Condition = Condition::OneOf { argument: 0, ignored: 0, values: &[0x1001, 0x1002, 0x1003, 0x1004] };

/// The clocks of time(7) and the caller's own CPU clocks. Not the alarm clocks (they wake a machine), nor negative numbers: those
/// name another process or a descriptor.
const CLOCKS: Condition = Condition::OneOf {
    argument: 0,
    ignored: 0,
    values: &[
        libc::CLOCK_REALTIME as u32,
        libc::CLOCK_MONOTONIC as u32,
        libc::CLOCK_PROCESS_CPUTIME_ID as u32,
        libc::CLOCK_THREAD_CPUTIME_ID as u32,
        libc::CLOCK_MONOTONIC_RAW as u32,
        libc::CLOCK_REALTIME_COARSE as u32,
        libc::CLOCK_MONOTONIC_COARSE as u32,
        libc::CLOCK_BOOTTIME as u32,
        libc::CLOCK_TAI as u32,
    ],
};

/// `P_ALL`, `P_PID`, `P_PGID`; `P_PIDFD` takes a descriptor, which is this kernel's.
const WAITED_FOR: Condition = Condition::OneOf { argument: 0, ignored: 0, values: &[libc::P_ALL, libc::P_PID, libc::P_PGID] };

/// The table, in the order of the call numbers.
///
/// `exit` and `exit_group` are not in it: this kernel releases a process's files before its parent can see it dead.
pub const TABLE: &[Row] = &[
    only(libc::SYS_mmap, "mmap", ANONYMOUS, MEMORY),
    row(libc::SYS_mprotect, "mprotect", MEMORY),
    row(libc::SYS_munmap, "munmap", MEMORY),
    row(libc::SYS_brk, "brk", MEMORY),
    row(libc::SYS_rt_sigaction, "rt_sigaction", SIGNALS),
    row(libc::SYS_rt_sigprocmask, "rt_sigprocmask", SIGNALS),
    row(libc::SYS_rt_sigreturn, "rt_sigreturn", SIGNALS),
    row(libc::SYS_sched_yield, "sched_yield", THREAD),
    row(libc::SYS_mremap, "mremap", MEMORY),
    row(libc::SYS_msync, "msync", "writes back the caller's own mappings of donated files, as it may"),
    only(libc::SYS_madvise, "madvise", ADVICE, MEMORY),
    row(libc::SYS_pause, "pause", SIGNALS),
    row(libc::SYS_nanosleep, "nanosleep", TIME),
    row(libc::SYS_getpid, "getpid", NUMBERS),
    row(libc::SYS_wait4, "wait4", "the caller's own children, in its PID namespace"),
    row(libc::SYS_gettimeofday, "gettimeofday", TIME),
    row(libc::SYS_getrusage, "getrusage", "the caller's own use of resources"),
    row(libc::SYS_times, "times", "the caller's own use of time"),
    row(libc::SYS_getppid, "getppid", NUMBERS),
    row(libc::SYS_getpgrp, "getpgrp", NUMBERS),
    row(libc::SYS_rt_sigpending, "rt_sigpending", SIGNALS),
    row(libc::SYS_rt_sigtimedwait, "rt_sigtimedwait", SIGNALS),
    row(libc::SYS_rt_sigsuspend, "rt_sigsuspend", SIGNALS),
    row(libc::SYS_sigaltstack, "sigaltstack", SIGNALS),
    row(libc::SYS_mlock, "mlock", MEMORY),
    row(libc::SYS_munlock, "munlock", MEMORY),
    row(libc::SYS_mlockall, "mlockall", MEMORY),
    row(libc::SYS_munlockall, "munlockall", MEMORY),
    only(libc::SYS_arch_prctl, "arch_prctl", SEGMENT_BASES, "the thread's own segment bases"),
    row(libc::SYS_gettid, "gettid", NUMBERS),
    row(libc::SYS_time, "time", TIME),
    only(libc::SYS_futex, "futex", FUTEX, "waits on the caller's own memory"),
    row(libc::SYS_set_tid_address, "set_tid_address", THREAD),
    row(libc::SYS_restart_syscall, "restart_syscall", "goes on with a native sleep or futex wait after a stop"),
    only(libc::SYS_clock_gettime, "clock_gettime", CLOCKS, TIME),
    only(libc::SYS_clock_getres, "clock_getres", CLOCKS, TIME),
    only(libc::SYS_clock_nanosleep, "clock_nanosleep", CLOCKS, TIME),
    only(libc::SYS_waitid, "waitid", WAITED_FOR, "the caller's own children, in its PID namespace"),
    row(libc::SYS_set_robust_list, "set_robust_list", THREAD),
    row(libc::SYS_getcpu, "getcpu", "which CPU the thread runs on; the vDSO tells it too"),
    row(libc::SYS_getrandom, "getrandom", "random bytes into the caller's own memory"),
    row(libc::SYS_mlock2, "mlock2", MEMORY),
    row(libc::SYS_rseq, "rseq", THREAD),
];

/// Whether the host executes this call natively.
pub fn is_direct(number: i64, arguments: &[u64; 6]) -> bool {
    TABLE.iter().any(|row| row.number == number && row.only.is_none_or(|condition| condition.holds(arguments)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_say_why() {
        assert!(TABLE.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(TABLE.iter().all(|row| !row.reason.is_empty()));
    }

    #[test]
    fn what_names_something_is_not_direct() {
        let calls = [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_read,
            libc::SYS_close,
            libc::SYS_socket,
            libc::SYS_ioctl,
            libc::SYS_execve,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_prctl,
            libc::SYS_exit_group,
        ];
        assert!(calls.iter().all(|&number| !is_direct(number, &[0; 6])));
    }

    #[test]
    fn files_are_mapped_by_notification() {
        let flags = |flags: i32| [0, 4096, 3, flags as u64, u64::MAX, 0];
        assert!(is_direct(libc::SYS_mmap, &flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)));
        assert!(!is_direct(libc::SYS_mmap, &flags(libc::MAP_PRIVATE)));
        assert!(!is_direct(libc::SYS_mmap, &flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB)));
    }
}
