//! What is told about containers: their state, their processes.

use std::fs;
use std::io::Read;

use bulkhead_protocol::call::Refusal;
use bulkhead_protocol::messages::{OutOfMemoryResponse, ProcessInfo, ProcessesResponse, StateResponse, state_response};
use bulkhead_protocol::protobuf::EnumOrUnknown;
use nix::time::{ClockId, clock_gettime};

use super::Agent;

/// The answer to OutOfMemory.
pub(super) fn out_of_memory(count: u64) -> OutOfMemoryResponse {
    OutOfMemoryResponse { count, ..OutOfMemoryResponse::new() }
}

/// Of /proc/PID/status (proc(5)).
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    name: String,
    parent: i32,
    /// The effective one.
    uid: u32,
    /// By its innermost PID namespace, and how many of them know it.
    inner: i32,
    depth: usize,
}

impl Status {
    fn read(pid: i32) -> Option<Self> {
        fs::read_to_string(format!("/proc/{pid}/status")).ok().map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim();
        let numbers: Vec<i32> = field("NSpid").split_whitespace().filter_map(|number| number.parse().ok()).collect();
        Self {
            name: field("Name").to_owned(),
            parent: field("PPid").parse().unwrap_or(0),
            uid: field("Uid").split_whitespace().nth(1).and_then(|uid| uid.parse().ok()).unwrap_or(0),
            inner: numbers.last().copied().unwrap_or(0),
            depth: numbers.len(),
        }
    }
}

/// The arguments that a process was started with, as ps(1) shows them; none where it has no more memory.
fn command_line(pid: i32) -> Option<String> {
    /// More is no list's business.
    const LONGEST: u64 = 4096;
    let mut bytes = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline")).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().rposition(|&byte| byte != 0)? + 1;
    bytes[..end].iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// When a process was started, nanoseconds since the epoch, from its /proc/PID/stat: field 22, ticks since the machine's start.
fn started_at(stat: &str) -> Option<i64> {
    /// `USER_HZ`: what the kernel counts in towards programs, on every machine (time(7)).
    const TICK: i64 = 1_000_000_000 / 100;
    // The second field, the name, may hold anything; the last parenthesis ends it.
    let after = &stat[stat.rfind(')')? + 1..];
    let ticks: i64 = after.split_whitespace().nth(19)?.parse().ok()?;
    let nanoseconds = |clock| {
        let time = clock_gettime(clock).ok()?;
        time.tv_sec().checked_mul(1_000_000_000)?.checked_add(time.tv_nsec())
    };
    let boot = nanoseconds(ClockId::CLOCK_REALTIME)?.checked_sub(nanoseconds(ClockId::CLOCK_BOOTTIME)?)?;
    boot.checked_add(ticks.checked_mul(TICK)?)
}

impl Agent {
    /// The processes of a container.
    pub(super) fn processes_of(&self, id: &str) -> Result<ProcessesResponse, Refusal> {
        let container = self.container(id)?;
        let mut response = ProcessesResponse::new();
        for pid in container.cgroup.processes() {
            // One that has ended meanwhile is none.
            let Some(status) = Status::read(pid) else { continue };
            let parent = Status::read(status.parent).filter(|parent| parent.depth >= status.depth).map_or(0, |parent| parent.inner);
            let exec = self.processes.values().find(|process| process.container == id && process.pid.as_raw() == pid);
            response.processes.push(ProcessInfo {
                pid,
                container_pid: status.inner,
                parent,
                uid: status.uid,
                command: command_line(pid).unwrap_or_else(|| format!("[{}]", status.name)),
                exec_id: exec.map(|process| process.exec.clone()).unwrap_or_default(),
                started_at: fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| started_at(&stat)).unwrap_or(0),
                ..ProcessInfo::new()
            });
        }
        Ok(response)
    }

    /// The state of a container.
    pub(super) fn state(&self, id: &str) -> Result<StateResponse, Refusal> {
        use state_response::Status::{CREATED, PAUSED, RUNNING, STOPPED, UNKNOWN};
        let container = self.container(id)?;
        let mut response = StateResponse::new();
        let status = match self.processes.get(&container.init) {
            None => UNKNOWN,
            Some(init) => {
                response.pid = init.pid.as_raw();
                match init.exit {
                    Some(exit) => {
                        response.exit_status = exit.status;
                        STOPPED
                    }
                    None if container.paused => PAUSED,
                    None if init.stage.is_waiting() => CREATED,
                    None => RUNNING,
                }
            }
        };
        response.status = EnumOrUnknown::new(status);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_process_is_read_as_proc_shows_it() {
        let status = Status::parse("Name:\ta b\nPPid:\t7\nUid:\t1\t2\t3\t4\nNSpid:\t90\t5\n");
        assert_eq!(status, Status { name: "a b".into(), parent: 7, uid: 2, inner: 5, depth: 2 });
        let mine = fs::read_to_string("/proc/self/stat").unwrap();
        let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
        let age = now.tv_sec() - started_at(&mine).unwrap() / 1_000_000_000;
        assert!((0..3600).contains(&age), "{age}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_process_or_none(text in "[ -~\n\t]{0,200}") {
            let _ = (Status::parse(&text), started_at(&text));
        }
    }
}
