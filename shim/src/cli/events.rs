//! `events`: what a container uses, every few seconds, and each time memory runs out; in runc's lines of JSON.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bulkhead_protocol::call::Method;
use bulkhead_protocol::client::Client;
use bulkhead_protocol::messages::{ContainerRequest, OutOfMemoryRequest, OutOfMemoryResponse};
use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use crate::cgroup::{memory, statistics};
use crate::lifecycle::{self, Session, Status};
use crate::oci::id::Id;
use crate::state::Container;

#[derive(Args)]
pub struct Events {
    /// Print statistics this often: 5s, 500ms, 1m
    #[arg(long, default_value = "5s")]
    interval: String,
    /// Print statistics once
    #[arg(long)]
    stats: bool,
    id: String,
}

impl Events {
    pub fn run(self, session: &Session) -> anyhow::Result<i32> {
        let interval = duration(&self.interval).with_context(|| format!("--interval {:?}: not a duration", self.interval))?;
        if interval.is_zero() {
            bail!("--interval {:?}: duration interval must be greater than 0", self.interval);
        }
        let container = session.store.read(&Id::new(&self.id)?)?;
        if lifecycle::status(session, &container) == Status::Stopped {
            bail!("container with id {} is not running", container.id);
        }
        if self.stats {
            return print("stats", &container, Some(statistics(session, &container)?)).map(|_| 0);
        }
        let pidfd = container.stand_in.and_then(|handle| handle.open()).context("container not running")?;
        let mut memory = Memory::watch(session, &container)?;
        let mut next = Instant::now() + interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            match wait(&pidfd, memory.as_ref().map(AsFd::as_fd), left)? {
                Woken::Ended => {
                    // Perhaps because of that: both come at once.
                    if let Some(Ok(times)) = memory.as_mut().map(Memory::last_times) {
                        tell(&container, times)?;
                    }
                    return Ok(0);
                }
                Woken::Memory => match memory.as_mut().map(Memory::ran_out) {
                    Some(Ok(times)) => tell(&container, times)?,
                    // The wall has no more to say: the container's end is seen above.
                    _ => memory = None,
                },
                Woken::Time => {
                    if let Ok(statistics) = statistics(session, &container) {
                        print("stats", &container, Some(statistics))?;
                    }
                    next += interval;
                }
            }
        }
    }
}

fn tell(container: &Container, times: u64) -> anyhow::Result<()> {
    (0..times).try_for_each(|_| print("oom", container, None))
}

fn print(kind: &str, container: &Container, data: Option<Value>) -> anyhow::Result<()> {
    let mut event = json!({ "type": kind, "id": container.id.as_str() });
    if let Some(data) = data {
        event["data"] = data;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{event}")?;
    Ok(out.flush()?)
}

/// What the container has used: its cgroup says so, or its wall.
fn statistics(session: &Session, container: &Container) -> anyhow::Result<Value> {
    let found = match &container.cgroup {
        Some(cgroup) if container.host_cgroup => statistics::of_cgroup(&cgroup.directories),
        _ => {
            let (mut client, _) = lifecycle::client(session, container.id.as_str())?;
            let mut request = ContainerRequest::new();
            request.container_id = container.id.as_str().to_owned();
            statistics::of_wall(&client.stats(&request)?)
        }
    };
    Ok(serde_json::to_value(found)?)
}

enum Woken {
    Ended,
    Memory,
    Time,
}

fn wait(pidfd: &OwnedFd, memory: Option<BorrowedFd<'_>>, left: Duration) -> anyhow::Result<Woken> {
    let mut ready = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    ready.extend(memory.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN)));
    // Rounded up: a time-out that is a little early would be one of nothing.
    let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut ready, timeout) {
        Ok(0) => Ok(Woken::Time),
        Ok(_) if ready[0].any() == Some(true) => Ok(Woken::Ended),
        Ok(_) => Ok(Woken::Memory),
        Err(Errno::EINTR) => wait(pidfd, memory, left),
        Err(error) => Err(error.into()),
    }
}

/// Who tells that memory has run out.
enum Memory {
    /// The container's cgroup on the host.
    Host { watch: memory::Watch, directories: Vec<std::path::PathBuf>, known: u64 },
    /// Its wall, which has been asked.
    Wall { client: Client, id: String, known: u64 },
}

impl Memory {
    fn watch(session: &Session, container: &Container) -> anyhow::Result<Option<Memory>> {
        if let Some(cgroup) = container.cgroup.as_ref().filter(|_| container.host_cgroup) {
            let directories = cgroup.directories.clone();
            let known = memory::kills(&directories);
            return Ok(memory::Watch::new(&directories)?.map(|watch| Memory::Host { watch, directories, known }));
        }
        let client = Client::connect(&session.store.control_socket(&container.pod)).context("container not running")?;
        let mut memory = Memory::Wall { client, id: container.id.as_str().to_owned(), known: 0 };
        memory.ask()?;
        Ok(Some(memory))
    }

    fn ask(&mut self) -> anyhow::Result<()> {
        if let Memory::Wall { client, id, known } = self {
            let mut request = OutOfMemoryRequest::new();
            request.container_id.clone_from(id);
            request.known = *known;
            client.send(Method::OutOfMemory, &request)?;
        }
        Ok(())
    }

    /// The same when the container has ended: only what is known already.
    fn last_times(&mut self) -> anyhow::Result<u64> {
        match self {
            Memory::Host { .. } => self.ran_out(),
            Memory::Wall { client, .. } => {
                let mut ready = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
                if poll(&mut ready, PollTimeout::ZERO)? == 0 { Ok(0) } else { self.ran_out() }
            }
        }
    }

    /// How often it has since the last time.
    fn ran_out(&mut self) -> anyhow::Result<u64> {
        let times = match self {
            Memory::Host { watch, directories, known } => {
                watch.clear();
                let now = memory::kills(directories);
                let times = now.saturating_sub(*known);
                *known = now.max(*known);
                times
            }
            Memory::Wall { client, known, .. } => {
                let answer: OutOfMemoryResponse = client.receive()?;
                let times = answer.count.saturating_sub(*known);
                *known = answer.count;
                times
            }
        };
        self.ask()?;
        Ok(times)
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Memory::Host { watch, .. } => watch.as_fd(),
            Memory::Wall { client, .. } => client.as_fd(),
        }
    }
}

/// `1m30s`, `500ms`, `1.5h`: as Go writes durations.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 6] = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest[end..].starts_with(unit))?;
        seconds += number * factor;
        rest = &rest[end + unit.len()..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, milliseconds) in [("5s", 5000), ("500ms", 500), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0s", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "5", "s", "-5s", "5 s", "5d", "1e400h"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
