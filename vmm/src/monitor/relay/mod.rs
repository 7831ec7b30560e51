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
//! - [`client`]: a connection's frames, both ways
//! - [`attach`]: what a request names; [`book`]: which containers have which trees
//! - [`pump`]: a stream's bytes; [`host`]: the host's end of it; [`terminal`]: consoles
//! - [`watch`]: descriptors on the epoll instance

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_launch::log;
use bulkhead_protocol::call::{Code, Method, Refusal, decode_call, encode_request};
use bulkhead_protocol::frame::Frame;
use bulkhead_protocol::guest::{CONTROL_PORT, READY, STREAMS_PORT};
use bulkhead_protocol::messages::ResizeTerminalRequest;
use bulkhead_protocol::streams::{ACKNOWLEDGED, receive_frame};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

mod attach;
mod book;
mod client;
mod host;
mod pump;
mod terminal;
#[cfg(test)]
mod tests;
mod watch;

use attach::{Needs, Stream};
use book::Book;
use client::{Attaching, Calls, Client, ClientKind, Pending, first_bytes, settle};
use pump::{Process, Pump, Stage};
use watch::{Outgoing, Wanted, Watched};

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

/// The answer that a process has ended.
struct Held {
    client: u64,
    process: Process,
    bytes: Vec<u8>,
    /// When it is given though its output has not ended: somebody else in the container has it open.
    until: Instant,
}

/// How long the end of a process's output may come after the word of its own.
const GRACE: Duration = Duration::from_millis(500);

/// Calls that the monitor itself makes; what is answered is of no interest.
struct OwnCalls {
    agent: Watched<UnixStream>,
    out: Outgoing,
    stream: u32,
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

    /// Gives the answers that have waited long enough; says how long the others wait at most. Where the host takes no more of a process's output, its end is
    /// not told: outside of a virtual machine the process would still be there, writing.
    fn release_held(&mut self) -> EpollTimeout {
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
    fn outputs<'b>(&'b self, process: &'b Process) -> impl Iterator<Item = &'b Pump> {
        self.entries.values().filter_map(move |entry| match entry {
            Entry::Pump(pump) if pump.stage == Stage::Running && pump.has_output() && pump.process == *process => Some(&**pump),
            _ => None,
        })
    }

    fn answer(&mut self, held: &Held) {
        let Some(Entry::Client(mut client)) = self.entries.remove(&held.client) else { return };
        if let ClientKind::Calls(calls) = &mut client.kind {
            calls.to_client.push(&held.bytes);
        }
        self.resume(held.client, client);
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

    fn accept(&mut self) {
        loop {
            let socket = match self.door.get().accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR)) => continue,
                Err(error) => {
                    // Out of descriptors or memory: the client waits until somebody has gone.
                    log::error(&format!("control: accept: {error}"));
                    let _ = self.door.want(Wanted::Nothing);
                    return;
                }
            };
            let entry = self.entry();
            let mut socket = Watched::new(&self.epoll, token(entry, false), socket);
            // Edge-triggered until its kind is known: the first of its bytes are only looked at.
            let wanted = Wanted::Events(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET);
            if socket.get().set_nonblocking(true).is_ok() && socket.want(wanted).is_ok() {
                self.entries.insert(entry, Entry::Client(Client { socket, kind: ClientKind::Unknown }));
            }
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

    fn recognize(&mut self, entry: u64, client: &mut Client) -> bool {
        match first_bytes(client.socket.get()) {
            Err(_) => false,
            Ok(None) => true,
            Ok(Some(true)) => {
                client.kind = ClientKind::Streams(Vec::new());
                client.socket.want(Wanted::Events(EpollFlags::EPOLLIN)).is_ok() && self.take_streams(client)
            }
            Ok(Some(false)) => match self.to_guest(CONTROL_PORT, entry) {
                Ok(agent) => {
                    client.kind = ClientKind::Calls(Box::new(Calls::new(agent)));
                    self.calls(entry, client, Some(false))
                }
                Err(error) => {
                    log::error(&format!("control: connecting to the guest's agent: {error}"));
                    false
                }
            },
        }
    }

    fn to_guest(&self, port: u32, entry: u64) -> io::Result<Watched<UnixStream>> {
        let socket = (self.connect)(port)?;
        socket.set_nonblocking(true)?;
        Ok(Watched::new(&self.epoll, token(entry, true), socket))
    }

    /// Takes descriptors that a client attaches. False: it is gone.
    fn take_streams(&mut self, client: &mut Client) -> bool {
        let ClientKind::Streams(own) = &mut client.kind else { return false };
        loop {
            match receive_frame(client.socket.get().as_fd()) {
                Ok(Some((id, descriptor))) => {
                    self.attached.insert(id.number(), descriptor);
                    own.push(id.number());
                    if !matches!(client.socket.get().write(&[ACKNOWLEDGED]), Ok(1)) {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// Carries frames. `guest`: which side has become ready; none where something else has changed. False: the connection is over.
    fn calls(&mut self, entry: u64, client: &mut Client, guest: Option<bool>) -> bool {
        let ClientKind::Calls(calls) = &mut client.kind else { return false };
        match guest {
            Some(false) if !calls.gone && !calls.read_client(client.socket.get()) => self.client_has_gone(calls),
            Some(true) if !calls.read_agent() => calls.agent = None,
            _ => {}
        }
        loop {
            let answered = self.answers(entry, calls);
            let asked = answered.is_some() && !calls.gone && self.requests(entry, calls);
            if answered.is_none() || !calls.flush(client.socket.get()) {
                return false;
            }
            if self.book.is_over() {
                self.outcome = Some(Outcome::Over);
            }
            // What has been sent makes room for what waits in the decoders.
            if !asked && answered != Some(true) {
                break;
            }
        }
        calls.watch(&mut client.socket).is_ok()
    }

    /// Passes the agent's frames on. Whether there were any; none where they are no frames.
    fn answers(&mut self, entry: u64, calls: &mut Calls) -> Option<bool> {
        let mut any = false;
        loop {
            match calls.answer() {
                Ok(None) => return Some(any),
                Ok(Some(frame)) => {
                    any = true;
                    match calls.pending.remove(&frame.stream) {
                        Some(Pending::Wait(process)) if self.outputs(&process).next().is_some() => {
                            let bytes = settle(&Pending::Wait(process.clone()), &frame).1;
                            self.held.push(Held { client: entry, process, bytes, until: Instant::now() + GRACE });
                        }
                        Some(pending) => {
                            let (outcome, bytes) = settle(&pending, &frame);
                            self.settled(pending, outcome);
                            calls.to_client.push(&bytes);
                        }
                        None => calls.to_client.push(&frame.encode().ok()?),
                    }
                }
                Err(error) => {
                    log::error(&format!("control: from the guest: {error}"));
                    return None;
                }
            }
        }
    }

    /// Passes the client's frames on, up to one that waits for its streams. Whether there were any.
    fn requests(&mut self, entry: u64, calls: &mut Calls) -> bool {
        let mut any = false;
        loop {
            match calls.request() {
                Ok(None) => return any,
                Ok(Some(frame)) => {
                    any = true;
                    if let Err(refusal) = self.request(entry, calls, &frame) {
                        calls.refuse(frame.stream, &refusal);
                    }
                }
                Err(error) => {
                    log::error(&format!("control: {error}"));
                    self.client_has_gone(calls);
                    return any;
                }
            }
        }
    }

    fn request(&mut self, entry: u64, calls: &mut Calls, frame: &Frame) -> Result<(), Refusal> {
        let bytes = frame.encode().map_err(|error| Refusal::new(Code::InvalidArgument, error.to_string()))?;
        // What is no call of the service is the agent's to refuse.
        let Ok(call) = decode_call(frame) else {
            calls.to_agent.push(&bytes);
            return Ok(());
        };
        let (streams, mut pending) = match Needs::of(&call, &mut |identifier| self.attached.remove(&identifier))? {
            Needs::Create { container, streams, trees } => {
                let trees = self.book.begin(&container, trees).map_err(|(name, error)| {
                    Refusal::new(Code::Internal, format!("showing tree {name} of container {container} to the guest: {error}"))
                })?;
                (streams, Pending::Create { container, trees, pumps: Vec::new() })
            }
            Needs::Exec { streams } => (streams, Pending::Exec { pumps: Vec::new() }),
            Needs::Start(process) => {
                self.announce_sizes(&process);
                calls.to_agent.push(&bytes);
                return Ok(());
            }
            Needs::Wait(process) => (Vec::new(), Pending::Wait(process)),
            Needs::Delete { container } => (Vec::new(), Pending::Delete { container }),
            Needs::Nothing => {
                calls.to_agent.push(&bytes);
                return Ok(());
            }
        };
        let left = streams.len();
        for stream in streams {
            let identifier = stream.identifier;
            match self.attach(entry, stream) {
                Ok(pump) => pending.pumps_mut().into_iter().for_each(|pumps| pumps.push(pump)),
                Err(error) => {
                    let refusal = Refusal::new(Code::Internal, format!("attaching stream {identifier}: {error}"));
                    self.settled(pending, Err(refusal.clone()));
                    return Err(refusal);
                }
            }
        }
        let attaching = Attaching { stream: frame.stream, frame: bytes, left, pending };
        if left == 0 {
            forward(calls, attaching)
        } else {
            calls.attaching = Some(attaching)
        }
        Ok(())
    }

    /// Begins a stream's handshake.
    fn attach(&mut self, client: u64, stream: Stream) -> io::Result<u64> {
        let entry = self.entry();
        let guest = self.to_guest(STREAMS_PORT, entry)?;
        // A fresh connection has room for four bytes.
        guest.get().write_all(&stream.identifier.to_le_bytes())?;
        let host = Watched::new(&self.epoll, token(entry, false), stream.host);
        let pump = Pump::new(client, guest, host, stream.ways, stream.process)?.with_console(stream.console);
        self.entries.insert(entry, Entry::Pump(Box::new(pump)));
        Ok(entry)
    }

    /// Something has happened on a stream.
    fn pump(&mut self, entry: u64, mut pump: Box<Pump>, guest: bool, events: EpollFlags) {
        if let Stage::Handshake { client } = pump.stage {
            let answer = pump.handshake();
            match answer {
                Ok(None) => drop(self.entries.insert(entry, Entry::Pump(pump))),
                Ok(Some(READY)) => {
                    self.entries.insert(entry, Entry::Pump(pump));
                    self.attached_one(client, None);
                }
                _ => self.attached_one(client, Some("the guest's agent does not take it")),
            }
            return;
        }
        if pump.notice(guest, events) && self.carry(&mut pump) {
            self.entries.insert(entry, Entry::Pump(pump));
        } else {
            drop(pump);
            self.make_room();
        }
    }

    fn carry(&mut self, pump: &mut Pump) -> bool {
        let stays = pump.stage != Stage::Running || pump.carry().unwrap_or(false);
        if stays {
            self.announce_size(pump);
        }
        stays
    }

    /// A stream of a client's request has been taken, or not. With the last one the request goes on.
    fn attached_one(&mut self, entry: u64, failed: Option<&str>) {
        let Some(Entry::Client(mut client)) = self.entries.remove(&entry) else { return };
        if let ClientKind::Calls(calls) = &mut client.kind
            && let Some(mut attaching) = calls.attaching.take()
        {
            attaching.left -= 1;
            match failed {
                Some(reason) => {
                    let refusal = Refusal::new(Code::Internal, format!("attaching a stream: {reason}"));
                    calls.refuse(attaching.stream, &refusal);
                    self.settled(attaching.pending, Err(refusal));
                }
                None if attaching.left == 0 => forward(calls, attaching),
                None => calls.attaching = Some(attaching),
            }
        }
        self.resume(entry, client);
    }

    /// Something has changed for a client that calls.
    fn resume(&mut self, entry: u64, mut client: Client) {
        if self.calls(entry, &mut client, None) {
            self.entries.insert(entry, Entry::Client(client));
        } else {
            self.end_client(client);
        }
    }

    /// An answer has come.
    fn settled(&mut self, pending: Pending, outcome: Result<(), Refusal>) {
        for &entry in pending.pumps() {
            let Some(Entry::Pump(mut pump)) = self.entries.remove(&entry) else { continue };
            if outcome.is_ok() && pump.begin().is_ok() && self.carry(&mut pump) {
                self.entries.insert(entry, Entry::Pump(pump));
            }
        }
        match (pending, outcome) {
            (Pending::Create { container, .. }, Ok(())) => self.book.created(&container),
            (Pending::Create { container, trees, .. }, Err(_)) => self.book.refused(&container, &trees),
            (Pending::Delete { container }, Ok(())) => self.book.deleted(&container, true),
            (Pending::Delete { container }, Err(refusal)) if refusal.code == Code::NotFound => self.book.deleted(&container, false),
            (Pending::Delete { .. } | Pending::Exec { .. } | Pending::Wait(_), _) => {}
        }
    }

    /// A client has gone: what it has asked is still delivered, what it waits for is not.
    fn client_has_gone(&mut self, calls: &mut Calls) {
        calls.gone = true;
        if let Some(attaching) = calls.attaching.take() {
            let refusal = Refusal::new(Code::Internal, "the client has gone");
            self.settled(attaching.pending, Err(refusal));
        }
        for (_, pending) in calls.pending.drain() {
            for pump in pending.pumps() {
                self.entries.remove(pump);
            }
            if let Pending::Create { container, .. } = pending {
                self.book.abandoned(&container);
            }
        }
    }

    fn end_client(&mut self, mut client: Client) {
        match &mut client.kind {
            ClientKind::Unknown => {}
            ClientKind::Streams(own) => own.iter().for_each(|identifier| drop(self.attached.remove(identifier))),
            ClientKind::Calls(calls) => self.client_has_gone(calls),
        }
        drop(client);
        self.make_room();
    }

    /// Somebody has gone: whoever knocks may come in again.
    fn make_room(&mut self) {
        let _ = self.door.want(Wanted::Events(EpollFlags::EPOLLIN));
    }

    /// Tells the guest the size of a terminal that the client has changed. Nothing tells the slave of a terminal that is nobody's controlling one; so it is asked
    /// whenever bytes go over it.
    fn announce_size(&mut self, pump: &mut Pump) {
        let Some((rows, columns)) = pump.new_size() else { return };
        let mut request = ResizeTerminalRequest::new();
        (request.container_id, request.exec_id) = (pump.process.container.clone(), pump.process.exec.clone());
        (request.rows, request.columns) = (rows.into(), columns.into());
        if let Err(error) = self.resize(&request) {
            log::error(&format!("control: the size of a terminal of container {}: {error}", request.container_id));
            self.own = None;
        }
    }

    /// The same for a process that begins.
    fn announce_sizes(&mut self, process: &Process) {
        let of = |pump: &Pump| pump.is_console() && pump.process == *process;
        let found = self.entries.iter().find(|(_, entry)| matches!(entry, Entry::Pump(pump) if of(pump))).map(|(entry, _)| *entry);
        if let Some(entry) = found
            && let Some(Entry::Pump(mut pump)) = self.entries.remove(&entry)
        {
            self.announce_size(&mut pump);
            self.entries.insert(entry, Entry::Pump(pump));
        }
    }

    fn resize(&mut self, request: &ResizeTerminalRequest) -> io::Result<()> {
        /// An agent that does not read is told no more sizes.
        const MOST: usize = 16 << 10;
        if self.own.is_none() {
            self.own = Some(OwnCalls { agent: self.to_guest(CONTROL_PORT, OWN)?, out: Outgoing::default(), stream: 1 });
        }
        let Some(own) = &mut self.own else { return Ok(()) };
        own.stream = own.stream.wrapping_add(2);
        if own.out.len() < MOST {
            own.out.push(&encode_request(own.stream, Method::ResizeTerminal, request).map_err(io::Error::other)?);
        }
        self.own_calls();
        Ok(())
    }

    /// Sends our own calls, and drops their answers unread.
    fn own_calls(&mut self) {
        let Some(own) = &mut self.own else { return };
        let mut open = match io::Read::read(&mut own.agent.get(), &mut [0; 4096]) {
            Ok(length) => length > 0,
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
        open &= own.out.flush(|bytes| own.agent.get().write(bytes)).is_ok();
        let mut wanted = EpollFlags::EPOLLIN;
        wanted.set(EpollFlags::EPOLLOUT, !own.out.is_empty());
        if !open || own.agent.want(Wanted::Events(wanted)).is_err() {
            self.own = None;
        }
    }
}

/// Sends a request whose streams have all been taken.
fn forward(calls: &mut Calls, attaching: Attaching) {
    calls.to_agent.push(&attaching.frame);
    calls.pending.insert(attaching.stream, attaching.pending);
}
