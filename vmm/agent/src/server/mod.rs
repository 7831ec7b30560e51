//! The agent at work: one thread, one loop, no lock.
//!
//! [`Agent`] owns everything. Events name what they are about ([`crate::events::Source`]); each is handled to its end without blocking. What takes
//! time (a process that prepares itself, a container that is frozen or killed) is remembered with the [`Reply`] that it owes and goes on when the kernel says so.
//!
//! The rooms: [`connection`] speaks ttrpc, [`service`] says what each request does, [`create`] makes containers and execs, [`process`] and
//! [`container`] are what is known of them, [`reap`] learns how they end, [`end`] forgets them.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bulkhead_protocol::guest::{CONTROL_PORT, STREAMS_PORT};
use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::container::launch::Launcher;
use crate::events::{Events, Source, Watch};
use crate::resources::cgroup::Hierarchy;
use crate::streams::arrival::Arrival;
use crate::streams::relay::Relay;
use crate::transport::Transport;

mod connection;
mod container;
mod create;
mod end;
mod process;
mod reap;
mod report;
mod service;
mod streaming;

use connection::Connection;
use container::Container;
use process::Process;

/// Where things are in the guest.
#[derive(Debug, Clone)]
pub struct Places {
    /// Shared trees, by their stream's number.
    pub shared: PathBuf,
    /// A directory upon which each container's tree is put together, in its own mount namespace.
    pub workspace: PathBuf,
    /// Where cgroup v2 is mounted.
    pub cgroups: PathBuf,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    connection: u64,
    stream: u32,
}

/// Everything that the agent knows.
pub struct Agent {
    events: Events,
    transport: Box<dyn Transport>,
    places: Places,
    hierarchy: Hierarchy,
    launcher: Launcher,
    signals: SignalFd,
    control: OwnedFd,
    streams: OwnedFd,
    boot: Option<OwnedFd>,
    /// Numbers connections, arrivals, relays and processes: none is used twice.
    last: u64,
    connections: HashMap<u64, Connection>,
    arrivals: HashMap<u64, Arrival>,
    /// Streams that have said which they are: the number of their arrival.
    attached: HashMap<u32, u64>,
    relays: HashMap<u64, Running>,
    /// Relays that want another turn.
    again: Vec<u64>,
    processes: HashMap<u64, Process>,
    containers: HashMap<String, Container>,
    /// A container has been made: the guest's own namespaces have their user.
    begun: bool,
    /// Bytes on their way through a relay.
    scratch: Vec<u8>,
}

/// A relay, whose it is, and its watches.
struct Running {
    relay: Relay,
    process: u64,
    watches: [Watch; 2],
}

/// Bytes that a relay reads at once: a pipe's capacity (pipe(7)).
const SCRATCH: usize = 64 << 10;

impl Agent {
    /// Listens. From here on clients can connect; they are served by [`Agent::serve`].
    ///
    /// # Errors
    /// What of the guest is not as it must be.
    pub fn new(transport: Box<dyn Transport>, places: Places) -> anyhow::Result<Self> {
        use anyhow::Context;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().context("blocking SIGCHLD")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?;
        // Before anybody can connect: what is asked for first finds the controllers handed down.
        let hierarchy = Hierarchy::open(&places.cgroups);
        let control = transport.listen(CONTROL_PORT).context("listening for clients")?;
        let streams = transport.listen(STREAMS_PORT).context("listening for streams")?;
        std::fs::create_dir_all(&places.workspace).with_context(|| format!("making {}", places.workspace.display()))?;
        let mut events = Events::new().context("epoll")?;
        events.watch(&signals, Source::Signals)?;
        events.watch(&control, Source::Control)?;
        events.watch(&streams, Source::Streams)?;
        Ok(Self {
            events,
            transport,
            hierarchy,
            places,
            launcher: Launcher::new().context("opening the PID namespace")?,
            signals,
            control,
            streams,
            boot: None,
            last: 0,
            connections: HashMap::new(),
            arrivals: HashMap::new(),
            attached: HashMap::new(),
            relays: HashMap::new(),
            again: Vec::new(),
            processes: HashMap::new(),
            containers: HashMap::new(),
            begun: false,
            scratch: vec![0; SCRATCH],
        })
    }

    /// Serves until the conversation with the monitor ends; without one, for ever.
    ///
    /// # Errors
    /// The kernel's, of what the loop itself needs.
    pub fn serve(mut self, boot: Option<OwnedFd>) -> anyhow::Result<()> {
        if let Some(boot) = &boot {
            nix::fcntl::fcntl(boot, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
            self.events.watch(boot, Source::Boot)?;
        }
        self.boot = boot;
        loop {
            for (watch, seen) in self.events.wait(!self.again.is_empty())? {
                // Handling one event may have ended what another one is about.
                let Some(source) = self.events.source(watch) else { continue };
                if source == Source::Boot && self.is_boot_over() {
                    return Ok(());
                }
                self.handle(source, seen);
            }
            for relay in std::mem::take(&mut self.again) {
                self.relay(relay, EpollFlags::empty());
            }
        }
    }

    fn handle(&mut self, source: Source, seen: EpollFlags) {
        match source {
            Source::Boot => {}
            Source::Signals => self.reap(),
            Source::Control => {
                while let Some(connection) = self.accept(false) {
                    self.connect(connection);
                }
            }
            Source::Streams => {
                while let Some(connection) = self.accept(true) {
                    self.arrive(connection);
                }
            }
            Source::Connection(number) => self.converse(number),
            Source::Arrival(number) => self.identify(number, seen),
            Source::Relay(number) => self.relay(number, seen),
            Source::Gate(number) => self.hear(number),
            Source::Memory(container) => self.memory_ran_out(&container),
            Source::Cgroup(container) => self.cgroup_changed(&container),
        }
    }

    /// Whether the monitor has closed the connection by which it booted the guest. It says nothing on it any more.
    fn is_boot_over(&self) -> bool {
        let mut byte = [0];
        self.boot.as_ref().is_some_and(|boot| match nix::unistd::read(boot, &mut byte) {
            Ok(0) => true,
            Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => false,
            Err(_) => true,
        })
    }

    /// The next connection to one of the ports, from who may give orders.
    fn accept(&self, streams: bool) -> Option<OwnedFd> {
        let listener = if streams { &self.streams } else { &self.control };
        loop {
            match crate::system::accept(listener.as_fd()) {
                Ok(Some(connection)) if self.transport.is_trusted(connection.as_fd()) => return Some(connection),
                Ok(Some(_)) => crate::log::error("a connection from inside the guest is refused"),
                Ok(None) => return None,
                Err(error) => {
                    crate::log::error(format_args!("accept: {error}"));
                    return None;
                }
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}
