//! Resource limits (getrlimit(2)). What the host enforces natively (stack, data, address space, CPU) is set there as
//! well; what concerns kernel objects of ours (descriptors, file size, pipe buffers) is enforced here.

/// One limit: soft and hard, `u64::MAX` for none (`RLIM_INFINITY`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// The sixteen limits, by their numbers in `<bits/resource.h>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits(pub [Limit; 16]);

impl Limits {
    /// The limit with this number, or `None` for a number there is not.
    pub fn get(&self, resource: u32) -> Option<Limit> {
        self.0.get(resource as usize).copied()
    }

    /// `RLIMIT_NOFILE`'s soft value: one more than the highest descriptor that may be opened.
    pub fn descriptors(&self) -> u64 {
        self.0[libc::RLIMIT_NOFILE as usize].soft
    }

    /// `RLIMIT_FSIZE`'s soft value, bytes.
    pub fn file_size(&self) -> u64 {
        self.0[libc::RLIMIT_FSIZE as usize].soft
    }
}

/// How many tasks, and signals in flight, a user may have: half of what the machine has room for (`fork_init()` in kernel/fork.c).
fn tasks() -> u64 {
    static TASKS: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *TASKS.get_or_init(|| {
        let most = std::fs::read_to_string(crate::boot::tree::fact("sys/kernel/threads-max"))
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        most.map_or(u64::MAX, |most| most / 2)
    })
}

impl Default for Limits {
    /// Linux's own defaults for init, with runc's usual 1024 descriptors soft and 1048576 hard.
    fn default() -> Limits {
        let none = Limit { soft: u64::MAX, hard: u64::MAX };
        let mut limits = [none; 16];
        limits[libc::RLIMIT_STACK as usize].soft = 8 << 20;
        limits[libc::RLIMIT_CORE as usize].soft = 0;
        limits[libc::RLIMIT_NOFILE as usize] = Limit { soft: 1024, hard: 1 << 20 };
        limits[libc::RLIMIT_MEMLOCK as usize] = Limit { soft: 8 << 20, hard: 8 << 20 };
        let tasks = tasks();
        limits[libc::RLIMIT_NPROC as usize] = Limit { soft: tasks, hard: tasks };
        limits[libc::RLIMIT_SIGPENDING as usize] = Limit { soft: tasks, hard: tasks };
        limits[libc::RLIMIT_MSGQUEUE as usize] = Limit { soft: 819_200, hard: 819_200 };
        limits[libc::RLIMIT_NICE as usize] = Limit { soft: 0, hard: 0 };
        limits[libc::RLIMIT_RTPRIO as usize] = Limit { soft: 0, hard: 0 };
        Limits(limits)
    }
}
