//! Who goes when memory runs out (proc_pid_oom_score_adj(5)).
//!
//! What a process is charged with its kernel holds too: bytes in pipes and sockets, files in memory. The kernel process must not be the one that the host ends
//! for it, so every process of the workload stands above it by the whole scale: the host's measure is pages used plus thousandths of what there is, and the
//! kernel process cannot use more than there is. The workload sees, keeps and inherits the value that it was given or has set; the host gets that
//! one, or the least that keeps the distance.

use std::sync::OnceLock;

use crate::errno::{Errno, Result};
use crate::kernel::task::Pid;

/// By how much a workload process is more likely to go than its kernel, in thousandths of the memory that there is.
const DISTANCE: i32 = 1000;

/// A process's `oom_score_adj` as the workload knows it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Adjustment {
    /// -1000 to 1000.
    pub value: i32,
    /// What it may be lowered to without `CAP_SYS_RESOURCE`: what somebody who had it has set last.
    least: i32,
}

impl Adjustment {
    /// What config.json gives a container's process.
    pub fn new(value: i32) -> Adjustment {
        Adjustment { value, least: value }
    }

    /// Changes it, as `__set_oom_adj()` in fs/proc/base.c does: `EINVAL` outside of the scale, `EACCES` where only `CAP_SYS_RESOURCE` may.
    pub fn set(&mut self, value: i32, capable: bool) -> Result<()> {
        if !(-1000..=1000).contains(&value) {
            return Err(Errno::EINVAL);
        }
        if value < self.least && !capable {
            return Err(Errno::EACCES);
        }
        self.value = value;
        if capable {
            self.least = value;
        }
        Ok(())
    }

    /// The old scale's (`oom_adj`): -17 to 15.
    pub fn old_value(self) -> i32 {
        if self.value == 1000 { 15 } else { self.value * 17 / 1000 }
    }

    /// From the old scale. `EINVAL` outside of it.
    pub fn from_old(value: i32) -> Result<i32> {
        match value {
            15 => Ok(1000),
            -17..=14 => Ok(value * 1000 / 17),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Has the host know it of a process, as far as the distance allows.
    pub fn apply(self, process: Pid) {
        // It can only be raised by who may not lower it below what the host's root has set: then the higher value stays.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", process.0), self.value.max(least()).to_string());
    }
}

/// The least that a workload process has on the host.
fn least() -> i32 {
    static LEAST: OnceLock<i32> = OnceLock::new();
    *LEAST.get_or_init(|| {
        let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse::<i32>().ok()).unwrap_or(0);
        (own + DISTANCE).min(1000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_lowered_by_who_may() {
        let mut adjustment = Adjustment::new(100);
        assert_eq!(adjustment.set(500, false), Ok(()));
        assert_eq!((adjustment.set(100, false), adjustment.value), (Ok(()), 100));
        assert_eq!(adjustment.set(99, false), Err(Errno::EACCES));
        assert_eq!((adjustment.set(-5, true), adjustment.set(-5, false), adjustment.set(-6, false)), (Ok(()), Ok(()), Err(Errno::EACCES)));
        assert_eq!(adjustment.set(1001, true), Err(Errno::EINVAL));
    }

    #[test]
    fn the_old_scale_is_kept() {
        assert_eq!(
            (Adjustment::from_old(-17), Adjustment::from_old(15), Adjustment::from_old(16)),
            (Ok(-1000), Ok(1000), Err(Errno::EINVAL))
        );
        assert_eq!((Adjustment::new(1000).old_value(), Adjustment::new(-1000).old_value()), (15, -17));
    }
}
