//! Answers that a process has ended, which wait for its last output.
//!
//! The word of a process's end and the end of its streams travel on connections of their own. A client that hears the word may stop reading, and would lose what comes
//! after it.

use std::time::{Duration, Instant};

use nix::sys::epoll::EpollTimeout;

use super::client::ClientKind;
use super::pump::{Process, Pump, Stage};
use super::{Entry, Relay};

/// How long the end of a process's output may come after the word of its own.
pub(super) const GRACE: Duration = Duration::from_millis(500);

/// The answer that a process has ended.
pub(super) struct Held {
    pub client: u64,
    pub process: Process,
    pub bytes: Vec<u8>,
    /// When it is given though its output has not ended: somebody else in the container has it open.
    pub until: Instant,
}

impl Relay<'_> {
    /// Gives the answers that have waited long enough; says how long the others wait at most. Where the host takes no more of a process's output, its end is
    /// not told: outside of a virtual machine the process would still be there, writing.
    pub(super) fn release_held(&mut self) -> EpollTimeout {
        if self.held.is_empty() {
            return EpollTimeout::NONE;
        }
        let now = Instant::now();
        let mut next = None;
        for held in std::mem::take(&mut self.held) {
            let outputs: Vec<&Pump> = self.outputs(&held.process).collect();
            if outputs.is_empty() || (held.until <= now && !outputs.iter().any(|pump| pump.is_stuck())) {
                self.answer(&held);
                continue;
            }
            if held.until > now {
                next = Some(next.map_or(held.until, |next: Instant| next.min(held.until)));
            }
            self.held.push(held);
        }
        // Rounded up: a timeout of 0 ms would be a busy loop to the end of the last one.
        next.map_or(EpollTimeout::NONE, |next| EpollTimeout::try_from((next - now).as_millis() as u64 + 1).unwrap_or(EpollTimeout::NONE))
    }

    /// The streams on which something may still come from a process.
    pub(super) fn outputs<'b>(&'b self, process: &'b Process) -> impl Iterator<Item = &'b Pump> {
        self.entries.values().filter_map(move |entry| match entry {
            Entry::Pump(pump) if pump.stage == Stage::Running && pump.has_output() && pump.process == *process => Some(&**pump),
            _ => None,
        })
    }

    pub(super) fn answer(&mut self, held: &Held) {
        let Some(Entry::Client(mut client)) = self.entries.remove(&held.client) else { return };
        if let ClientKind::Calls(calls) = &mut client.kind {
            calls.to_client.push(&held.bytes);
        }
        self.resume(held.client, client);
    }
}
