//! Streams: from their arrival to their end.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use bulkhead_protocol::call::{Code, Refusal};
use bulkhead_protocol::messages::Stdio;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::epoll::EpollFlags;
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

use super::{Agent, Running};
use crate::container::{failed, invalid};
use crate::events::Source;
use crate::streams::arrival::{Arrival, Progress};
use crate::streams::pump::Pump;
use crate::streams::relay::{Outcome, Relay};

/// A process's descriptors, and what carries them.
pub(super) struct Streams {
    /// The process's ends, in order.
    pub(super) descriptors: Vec<OwnedFd>,
    /// The agent's.
    pub(super) relays: Vec<Relay>,
    /// The connection for a terminal.
    pub(super) console: Option<OwnedFd>,
}

impl Agent {
    /// Takes a fresh connection, which will say which stream it is.
    pub(super) fn arrive(&mut self, connection: OwnedFd) {
        let number = self.number();
        match self.events.watch(&connection, Source::Arrival(number)) {
            Ok(watch) => {
                self.arrivals.insert(number, Arrival::new(connection, watch));
                self.identify(number, EpollFlags::empty());
            }
            Err(error) => crate::log::error(format_args!("a stream's connection: {error}")),
        }
    }

    /// Reads which stream an arrival is. One that hangs up before a request claims it is forgotten.
    pub(super) fn identify(&mut self, number: u64, seen: EpollFlags) {
        let known = self.attached.iter().find(|(_, arrival)| **arrival == number).map(|(identifier, _)| *identifier);
        let Some(arrival) = self.arrivals.get_mut(&number) else { return };
        let over = match known {
            Some(_) => seen.contains(EpollFlags::EPOLLHUP),
            None => match arrival.progress() {
                Progress::Incomplete => false,
                Progress::Known(identifier) if !self.attached.contains_key(&identifier.number()) => {
                    self.attached.insert(identifier.number(), number);
                    false
                }
                Progress::Known(_) | Progress::Over => true,
            },
        };
        if over {
            self.attached.retain(|_, arrival| *arrival != number);
            if let Some(arrival) = self.arrivals.remove(&number) {
                let (connection, watch) = arrival.into_parts();
                self.events.forget(watch, &connection);
            }
        }
    }

    /// Takes an attached stream for a request that names it.
    fn claim(&mut self, identifier: u32) -> Result<OwnedFd, Refusal> {
        let arrival = self.attached.remove(&identifier).and_then(|arrival| self.arrivals.remove(&arrival));
        let arrival = arrival.ok_or_else(|| Refusal::new(Code::InvalidArgument, format!("stream {identifier} has not been attached")))?;
        let (connection, watch) = arrival.into_parts();
        self.events.forget(watch, &connection);
        Ok(connection)
    }

    /// Claims what a request names and makes the process's descriptors of it.
    pub(super) fn streams(&mut self, stdio: &Stdio, preserved: &[u32]) -> Result<Streams, Refusal> {
        let mut streams = Streams { descriptors: Vec::new(), relays: Vec::new(), console: None };
        let null = || open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed("/dev/null"));
        if stdio.terminal {
            if stdio.console == 0 {
                return Err(invalid("stdio.console: a terminal without a stream"));
            }
            streams.console = Some(self.claim(stdio.console)?);
            for _ in 0..3 {
                streams.descriptors.push(null()?);
            }
        } else {
            for (number, stream) in [stdio.stdin, stdio.stdout, stdio.stderr].into_iter().enumerate() {
                if stream == 0 {
                    streams.descriptors.push(null()?);
                    continue;
                }
                let connection = self.claim(stream)?;
                let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
                let (theirs, pipe) = if number == 0 { (reader, writer) } else { (writer, reader) };
                fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed("pipe"))?;
                streams.descriptors.push(theirs);
                let pump = Pump::default();
                streams.relays.push(if number == 0 {
                    Relay::Input { connection, pipe, pump }
                } else {
                    Relay::Output { connection, pipe, pump }
                });
            }
        }
        for stream in preserved {
            let connection = self.claim(*stream)?;
            // Programs expect what they inherit to block.
            fcntl(&connection, FcntlArg::F_SETFL(OFlag::empty())).map_err(failed("a preserved descriptor"))?;
            streams.descriptors.push(connection);
        }
        Ok(streams)
    }

    /// Sets a relay of a process going.
    pub(super) fn begin_relay(&mut self, process: u64, relay: Relay) {
        let number = self.number();
        let [one, other] = relay.ends();
        let watches = self.events.watch(one, Source::Relay(number)).and_then(|one| {
            let other = self.events.watch(other, Source::Relay(number))?;
            Ok([one, other])
        });
        match watches {
            Ok(watches) => {
                if relay.carries_output()
                    && let Some(process) = self.processes.get_mut(&process)
                {
                    process.undelivered.push(number);
                }
                self.relays.insert(number, Running { relay, process, watches });
                self.relay(number, EpollFlags::empty());
            }
            Err(error) => crate::log::error(format_args!("a stream of a process: {error}")),
        }
    }

    /// A process has its terminal: its console goes.
    pub(super) fn begin_console(&mut self, number: u64, master: OwnedFd) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let Some(connection) = process.console.take() else { return };
        if let Err(error) = fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)) {
            crate::log::error(format_args!("a terminal: {error}"));
        }
        let master = Rc::new(master);
        process.terminal = Some(master.clone());
        self.begin_relay(number, Relay::Console { connection, master, typed: Pump::default(), shown: Pump::default() });
    }

    /// Gives a relay its turn.
    pub(super) fn relay(&mut self, number: u64, seen: EpollFlags) {
        let Some(running) = self.relays.get_mut(&number) else { return };
        let process = running.process;
        let drained = match running.relay.run(seen, &mut self.scratch) {
            Outcome::Open { drained, again } => {
                if again && !self.again.contains(&number) {
                    self.again.push(number);
                }
                drained
            }
            Outcome::Over => {
                if let Some(Running { relay, watches, .. }) = self.relays.remove(&number) {
                    for (watch, end) in watches.into_iter().zip(relay.ends()) {
                        self.events.forget(watch, end);
                    }
                    if matches!(relay, Relay::Console { .. })
                        && let Some(process) = self.processes.get_mut(&process)
                    {
                        process.terminal = None;
                    }
                }
                true
            }
        };
        if let Some(owner) = self.processes.get_mut(&process)
            && drained
            && (owner.exit.is_some() || !self.relays.contains_key(&number))
            && owner.undelivered.contains(&number)
        {
            owner.undelivered.retain(|other| *other != number);
            self.announce(process);
        }
    }

    /// Whether there is this relay; one that is over has delivered everything.
    pub(super) fn relays_of(&self, process: u64) -> Vec<u64> {
        self.processes.get(&process).map(|process| process.undelivered.clone()).unwrap_or_default()
    }

    /// A descriptor's connection is closed without having been used.
    pub(super) fn give_up(&self, streams: Streams) {
        for relay in &streams.relays {
            let [connection, _] = relay.ends();
            let _ = nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&connection.as_fd()), nix::sys::socket::Shutdown::Both);
        }
        drop(streams);
    }
}
