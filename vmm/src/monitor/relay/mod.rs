//! The control relay: the pod's control socket on one side, the agent's ports on the other.
//!
//! ```text
//!  client --ttrpc--------> client ======frames======> agent's control port      a connection for each client's
//!  client --descriptors--> streams
//!     pipes, sockets  <--> pump   <=====bytes======>  agent's streams port      a connection for each stream
//!     console socket  <--> terminal, pump
//!     trees           ---> book   ------names------>  the file-system device
//! ```
//!
//! One thread, one epoll instance, nothing that waits: what would block stays where it is until its descriptor is ready. Every buffer is bounded, and a full one stops
//! its source. What has a descriptor has an *entry*; an event's number says which entry, and which of its two descriptors. An entry is taken out of the
//! table while it is worked on, so it may change others.
//!
//! **What is trusted.** The clients: they are the host's root. Not the agent: what comes from the guest is forwarded as bytes, and looked at only in frames that
//! answer a call which means something here ([`client::settle`]). A guest that lies about its own answers deceives its own pod's commands, and nobody else.
//!
//! What the relay does with its entries is told in the order in which it happens:
//!
//! - [`door`]: a client comes in, and is a caller or attaches descriptors
//! - [`calls`]: its frames go to the agent, and the agent's come back
//! - [`pair`]: a stream that a request names is paired with one of the guest's
//! - [`held`]: the word of a process's end waits for its last output
//! - [`sizes`]: the monitor's own calls, for terminals
//!
//! What an entry is made of:
//!
//! - [`client`]: a connection's frames, both ways
//! - [`attach`]: what a request names; [`book`]: which containers have which trees
//! - [`pump`]: a stream's bytes; [`host`]: the host's end of it; [`terminal`]: consoles
//! - [`watch`]: descriptors on the epoll instance

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

mod attach;
mod book;
mod calls;
mod client;
mod door;
mod held;
mod host;
mod pair;
mod pump;
mod sizes;
mod terminal;
#[cfg(test)]
mod tests;
mod watch;

use book::Book;
use client::{Client, ClientKind};
use held::Held;
use pump::Pump;
use sizes::OwnCalls;
use watch::{Wanted, Watched};

/// Connects to a port of the guest's: our end of a stream, at once. A guest that refuses closes it.
pub type Connector = Box<dyn Fn(u32) -> io::Result<UnixStream>>;

/// Where trees of the host are shown to the guest.
pub trait Trees {
    /// Shows a tree under a name.
    ///
    /// # Errors
    /// The host's.
    fn add(&self, name: &str, tree: OwnedFd) -> io::Result<()>;

    /// Takes it away.
    fn remove(&self, name: &str);
}

/// What the relay stands between.
pub struct Sides<'a> {
    /// The listening control socket.
    pub control: UnixListener,
    /// The agent's ports.
    pub connect: Connector,
    /// The file-system device.
    pub trees: Box<dyn Trees>,
    /// Readable once the guest has ended.
    pub ended: BorrowedFd<'a>,
    /// The agent's first connection, which stays open as long as it lives.
    pub agent: UnixStream,
}

/// Why the relay ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The last container has been deleted: the pod is over.
    Over,
    /// The guest has ended.
    GuestEnded,
    /// The agent has.
    AgentEnded,
}

/// The entry of the listening socket, of the guest's end, of the agent's first connection, and of our own calls.
const DOOR: u64 = 0;
const END: u64 = 1;
const AGENT: u64 = 2;
const OWN: u64 = 3;
/// The first of the clients' and streams'.
const FIRST: u64 = 16;

/// An event's number: of the entry, and of one of its two descriptors.
fn token(entry: u64, guest: bool) -> u64 {
    entry << 1 | u64::from(guest)
}

enum Entry {
    Client(Client),
    Pump(Box<Pump>),
}

/// The relay.
pub struct Relay<'a> {
    epoll: Arc<Epoll>,
    door: Watched<UnixListener>,
    connect: Connector,
    entries: HashMap<u64, Entry>,
    next: u64,
    /// Descriptors that no request has claimed yet.
    attached: HashMap<u32, OwnedFd>,
    book: Book,
    own: Option<OwnCalls>,
    /// Answers that wait for a process's last output.
    held: Vec<Held>,
    outcome: Option<Outcome>,
    _end: Watched<BorrowedFd<'a>>,
    _agent: Watched<UnixStream>,
}

impl<'a> Relay<'a> {
    /// A relay that has not begun.
    ///
    /// # Errors
    /// The host's.
    pub fn new(sides: Sides<'a>) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        sides.control.set_nonblocking(true)?;
        sides.agent.set_nonblocking(true)?;
        let mut door = Watched::new(&epoll, token(DOOR, false), sides.control);
        door.want(Wanted::Events(EpollFlags::EPOLLIN))?;
        let mut end = Watched::new(&epoll, token(END, false), sides.ended);
        end.want(Wanted::Events(EpollFlags::EPOLLIN))?;
        // It says nothing more: only its end is waited for.
        let mut agent = Watched::new(&epoll, token(AGENT, true), sides.agent);
        agent.want(Wanted::Events(EpollFlags::EPOLLRDHUP))?;
        Ok(Self {
            epoll,
            door,
            connect: sides.connect,
            entries: HashMap::new(),
            next: FIRST,
            attached: HashMap::new(),
            book: Book::new(sides.trees),
            own: None,
            held: Vec::new(),
            outcome: None,
            _end: end,
            _agent: agent,
        })
    }

    /// Serves until the pod is over.
    ///
    /// # Errors
    /// `epoll_wait(2)`'s.
    pub fn run(&mut self) -> io::Result<Outcome> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let timeout = self.release_held();
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(Errno::EINTR) => continue,
                count => count?,
            };
            for event in &events[..count] {
                self.handle(event.data() >> 1, event.data() & 1 != 0, event.events());
                if let Some(outcome) = self.outcome {
                    return Ok(outcome);
                }
            }
        }
    }

    fn handle(&mut self, entry: u64, guest: bool, events: EpollFlags) {
        match entry {
            DOOR => self.accept(),
            END => self.outcome = Some(Outcome::GuestEnded),
            AGENT => self.outcome = Some(Outcome::AgentEnded),
            OWN => self.own_calls(),
            // What an event of this very round has ended is not there any more.
            _ => match self.entries.remove(&entry) {
                Some(Entry::Client(client)) => self.serve(entry, client, guest),
                Some(Entry::Pump(pump)) => self.pump(entry, pump, guest, events),
                None => {}
            },
        }
    }

    fn entry(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Something has happened on a client's connection, or on its to the agent.
    fn serve(&mut self, entry: u64, mut client: Client, guest: bool) {
        let stays = match &mut client.kind {
            ClientKind::Unknown => self.recognize(entry, &mut client),
            ClientKind::Streams(_) => self.take_streams(&mut client),
            ClientKind::Calls(_) => self.calls(entry, &mut client, Some(guest)),
        };
        if stays {
            self.entries.insert(entry, Entry::Client(client));
        } else {
            self.end_client(client);
        }
    }

    fn to_guest(&self, port: u32, entry: u64) -> io::Result<Watched<UnixStream>> {
        let socket = (self.connect)(port)?;
        socket.set_nonblocking(true)?;
        Ok(Watched::new(&self.epoll, token(entry, true), socket))
    }
}
