//! Calls that are notified, and that a handler may then let the host execute (`CONTINUE`).
//!
//! Together with the direct set ([`super::direct`]) this is all that the host ever executes for a workload. The dispatcher holds handlers to the table: a
//! call that is not in it is never let go, whatever its handler says.

/// One call.
pub struct LetGo {
    /// Its number on x86-64.
    pub number: i64,
    /// Its name, as in syscalls(2).
    pub name: &'static str,
    /// What decides, and why what the host reads again cannot widen it.
    pub reason: &'static str,
}

const fn row(number: i64, name: &'static str, reason: &'static str) -> LetGo {
    LetGo { number, name, reason }
}

const DONATED: &str = "flags and number in registers; the descriptor at that number is one that the kernel has just put there";
const CHILD: &str = "flags in a register; the child is followed";
const EXEC: &str = "the path can only name an executable that the kernel shows; the file is compared afterwards";
const END: &str = "after everything that the process holds has been released";
const GROUPS: &str = "numbers of the container's own PID namespace";
const SIGNAL: &str = "checked against the emulated identity; numbers of the container's own PID namespace";
const OWN: &str = "about the caller's own thread, memory or processor time";

/// The table.
pub const TABLE: &[LetGo] = &[
    row(libc::SYS_mmap, "mmap", DONATED),
    row(libc::SYS_clone, "clone", CHILD),
    row(libc::SYS_fork, "fork", CHILD),
    row(libc::SYS_vfork, "vfork", CHILD),
    row(libc::SYS_execve, "execve", EXEC),
    row(libc::SYS_execveat, "execveat", EXEC),
    row(libc::SYS_exit, "exit", END),
    row(libc::SYS_exit_group, "exit_group", END),
    row(libc::SYS_setsid, "setsid", GROUPS),
    row(libc::SYS_getsid, "getsid", GROUPS),
    row(libc::SYS_setpgid, "setpgid", GROUPS),
    row(libc::SYS_getpgid, "getpgid", GROUPS),
    row(libc::SYS_kill, "kill", SIGNAL),
    row(libc::SYS_tkill, "tkill", SIGNAL),
    row(libc::SYS_tgkill, "tgkill", SIGNAL),
    row(libc::SYS_rt_sigqueueinfo, "rt_sigqueueinfo", SIGNAL),
    row(libc::SYS_rt_tgsigqueueinfo, "rt_tgsigqueueinfo", SIGNAL),
    row(libc::SYS_prctl, "prctl", OWN),
    row(libc::SYS_arch_prctl, "arch_prctl", OWN),
    row(libc::SYS_seccomp, "seccomp", "a further filter only forbids; no listener"),
    row(libc::SYS_setitimer, "setitimer", OWN),
    row(libc::SYS_getitimer, "getitimer", OWN),
    row(libc::SYS_membarrier, "membarrier", OWN),
    row(libc::SYS_mlockall, "mlockall", OWN),
    row(libc::SYS_munlockall, "munlockall", OWN),
    row(libc::SYS_personality, "personality", OWN),
    row(libc::SYS_sched_getaffinity, "sched_getaffinity", GROUPS),
    row(libc::SYS_sched_setaffinity, "sched_setaffinity", GROUPS),
    row(libc::SYS_sched_getscheduler, "sched_getscheduler", GROUPS),
    row(libc::SYS_sched_setscheduler, "sched_setscheduler", GROUPS),
    row(libc::SYS_sched_getparam, "sched_getparam", GROUPS),
    row(libc::SYS_sched_setparam, "sched_setparam", GROUPS),
    row(libc::SYS_sched_getattr, "sched_getattr", GROUPS),
    row(libc::SYS_sched_setattr, "sched_setattr", GROUPS),
    row(libc::SYS_ioprio_get, "ioprio_get", GROUPS),
    row(libc::SYS_ioprio_set, "ioprio_set", GROUPS),
    row(libc::SYS_get_robust_list, "get_robust_list", "an address in the memory of a thread that the caller may look into"),
    row(libc::SYS_sched_rr_get_interval, "sched_rr_get_interval", GROUPS),
    row(libc::SYS_sched_get_priority_max, "sched_get_priority_max", OWN),
    row(libc::SYS_sched_get_priority_min, "sched_get_priority_min", OWN),
    row(libc::SYS_clock_gettime, "clock_gettime", GROUPS),
    row(libc::SYS_clock_getres, "clock_getres", GROUPS),
    row(libc::SYS_getpriority, "getpriority", GROUPS),
    row(libc::SYS_setpriority, "setpriority", GROUPS),
    row(
        libc::SYS_ioprio_set,
        "ioprio_set",
        "checked against the emulated identity; one thread or group of the container's own PID namespace",
    ),
];

/// Whether a call of this number may be let go.
pub fn allows(number: i64) -> bool {
    static INDEX: std::sync::OnceLock<[bool; 512]> = std::sync::OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut index = [false; 512];
        for row in TABLE {
            index[row.number as usize] = true;
        }
        index
    });
    usize::try_from(number).is_ok_and(|number| index.get(number) == Some(&true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_names_a_file_or_a_socket_is_let_go() {
        for number in
            [libc::SYS_open, libc::SYS_openat, libc::SYS_read, libc::SYS_write, libc::SYS_socket, libc::SYS_ioctl, libc::SYS_mount]
        {
            assert!(!allows(number));
        }
        assert!(allows(libc::SYS_clone) && !allows(-1) && !allows(1 << 40));
    }
}
