//! How processes end. One reaper owns waitpid(2): the agent is the parent of every container's process, and of every orphan.

use bulkhead_protocol::messages::WaitResponse;
use nix::sys::epoll::EpollFlags;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::Agent;
use super::process::Exit;
use crate::events::Source;

/// Nanoseconds since the epoch.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

impl Agent {
    /// Takes the ends of all children that have ended.
    pub(super) fn reap(&mut self) {
        // One signal may stand for many children: what counts is who has ended.
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid, code as u32, false),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.ended(pid, 128 + signal as u32, signal as i32 == libc::SIGKILL),
                Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return,
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => {}
                // A signal that nix has no name for (a real-time one) has ended it: the kernel has reaped it all the same.
                Err(nix::errno::Errno::EINVAL) => self.find_ended(),
                Err(error) => return crate::log::error(format_args!("waitpid: {error}")),
            }
        }
    }

    /// Looks for processes that have been reaped without a status that could be read.
    fn find_ended(&mut self) {
        let gone = |pid: Pid| !std::path::Path::new(&format!("/proc/{pid}")).exists();
        let ended: Vec<Pid> =
            self.processes.values().filter(|process| process.exit.is_none() && gone(process.pid)).map(|process| process.pid).collect();
        for pid in ended {
            // Which of them it was is not known.
            self.ended(pid, 128 + libc::SIGRTMIN() as u32, false);
        }
    }

    fn ended(&mut self, pid: Pid, status: u32, killed: bool) {
        let found = self.processes.iter().find(|(_, process)| process.pid == pid && process.exit.is_none()).map(|(number, _)| *number);
        let Some(number) = found else { return };
        // Its last words first: why its program could not be executed.
        self.hear(number);
        let Some(process) = self.processes.get(&number) else { return };
        let id = process.container.clone();
        // Whoever waits for that is told before the process's end is.
        self.memory_ran_out(&id);
        let kills = self.containers.get(&id).map_or(0, |container| container.memory_kills);
        let Some(process) = self.processes.get_mut(&number) else { return };
        let out_of_memory = killed && !process.killed_by_client && kills > process.kills_before;
        process.exit = Some(Exit { status, at: now(), out_of_memory });
        process.pidfd = None;
        for relay in self.relays_of(number) {
            self.relay(relay, EpollFlags::empty());
        }
        self.announce(number);
        self.advance_end(&id);
    }

    /// Tells who waits for a process how it ended, once everything that it wrote is delivered.
    pub(super) fn announce(&mut self, number: u64) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let Some(exit) = process.announced() else { return };
        for reply in std::mem::take(&mut process.waits) {
            self.answer(reply, Ok(Box::new(response(exit))));
        }
    }

    /// Memory may have run out in a container: tells who waits for that.
    pub(super) fn memory_ran_out(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.memory_kills = container.cgroup.memory_kills().max(container.memory_kills);
        let count = container.memory_kills;
        let told: Vec<_> = container.memory_waits.iter().filter(|(_, known)| count > *known).map(|(reply, _)| *reply).collect();
        container.memory_waits.retain(|(_, known)| count <= *known);
        for reply in told {
            self.answer(reply, Ok(Box::new(super::report::out_of_memory(count))));
        }
    }

    /// Kills a process for a client.
    pub(super) fn kill(&mut self, number: u64) {
        if let Some(process) = self.processes.get_mut(&number)
            && let Some(pidfd) = &process.pidfd
        {
            process.killed_by_client = true;
            let _ = crate::system::pidfd_send_signal(std::os::fd::AsFd::as_fd(pidfd), libc::SIGKILL);
        }
    }

    /// Forgets a process that nobody can name any more.
    pub(super) fn forget_process(&mut self, number: u64) {
        if let Some(mut process) = self.processes.remove(&number)
            && let Some((gate, watch)) = process.gate.take()
        {
            debug_assert_eq!(self.events.source(watch), Some(Source::Gate(number)));
            self.events.forget(watch, &gate);
        }
    }
}

/// How a process ended, as a client is told.
pub(super) fn response(exit: Exit) -> WaitResponse {
    WaitResponse { exit_status: exit.status, exited_at: exit.at, out_of_memory: exit.out_of_memory, ..WaitResponse::new() }
}
