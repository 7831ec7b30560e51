//! A host process that is remembered by number: the number alone may be another's by now.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::host;

/// A process, by its number and the time it started at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessHandle {
    /// Its number on the host.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat` (proc(5)): clock ticks after boot.
    pub start_time: u64,
}

impl ProcessHandle {
    /// The process that has the number now; none when there is none.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start_time: start_time(pid)? })
    }

    /// A handle on the process, if it still runs.
    pub fn open(&self) -> Option<OwnedFd> {
        let pidfd = host::pidfd_open(self.pid).ok()?;
        // Opened first, compared second: the number can not change hands under the handle.
        (start_time(self.pid) == Some(self.start_time) && !has_ended(&pidfd, Duration::ZERO)).then_some(pidfd)
    }

    /// Kills the process and waits until it is gone, for at most `patience`. True when it is gone.
    pub fn kill(&self, patience: Duration) -> bool {
        let Some(pidfd) = self.open() else { return true };
        let _ = host::pidfd_send_signal(&pidfd, libc::SIGKILL);
        has_ended(&pidfd, patience)
    }
}

/// Waits for a process's end, for at most `patience`. True when it has ended.
pub fn has_ended(pidfd: &OwnedFd, patience: Duration) -> bool {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            ready => return ready.is_ok_and(|count| count > 0),
        }
    }
}

fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces and parentheses; the fields after its last one do not. Field 3 comes first.
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_while_it_runs_and_not_after() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let handle = ProcessHandle::of(child.id() as i32).unwrap();
        assert!(handle.open().is_some());
        let other = ProcessHandle { start_time: handle.start_time + 1, ..handle };
        assert!(other.open().is_none(), "another process with the same number");
        assert!(handle.kill(Duration::from_secs(10)));
        assert!(handle.open().is_none(), "a zombie does not run");
        child.wait().unwrap();
        assert!(ProcessHandle::of(handle.pid).is_none());
    }
}
