//! One connection: a state machine between packets and a host socket.
//!
//! ```text
//!  host asks   Requesting --REQUEST--> Requested --(RESPONSE)--> Open
//!  guest asks  Answering --RESPONSE--> Open
//!  any         --(violation), (both directions over)--> Refused --RST--> Over
//!  any         --(RST)--> Detached --all delivered--> Over
//! ```
//!
//! In parentheses: packets from the guest. What is to be said is state, not a list of packets: [`Connection::next_packet`] makes a packet of the state
//! when there is a buffer for it, so a guest that takes none costs nothing.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::credit::Credit;
use super::packet::{Header, Operation, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND};
use super::sockets::{self, News};

/// A connection's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The host's side.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Requesting,
    Requested,
    Answering,
    Open,
    Refused,
    Detached,
    Over,
}

/// A packet to the guest, as far as the connection knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// What for.
    pub operation: Operation,
    /// Its flags.
    pub flags: u32,
    /// Bytes of payload.
    pub length: usize,
}

impl Outgoing {
    fn plain(operation: Operation) -> Option<Self> {
        Some(Self { operation, flags: 0, length: 0 })
    }
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    ports: Ports,
    phase: Phase,
    /// The host's end; none once both directions are over.
    socket: Option<UnixStream>,
    /// Its client is told `OK port\n` when the guest has granted the connection.
    announce: bool,
    credit: Credit,
    /// The guest has asked for our credit.
    owes_credit: bool,
    /// From the guest, not taken by the host's end yet. At most [`super::CREDIT`] bytes.
    backlog: VecDeque<u8>,
    /// The socket had no room: it is watched for it.
    blocked: bool,
    /// The socket may have something to read.
    readable: bool,
    /// Nothing more comes from the host.
    ended: bool,
    /// The host's end takes no more.
    deaf: bool,
    /// The host's end has been told that nothing more comes from the guest.
    finished: bool,
    /// What the guest has shut down.
    guest_shut: u32,
    /// What it has been told that we did.
    told_shut: u32,
    /// It is in the multiplexer's list of those that have something to say.
    pub listed: bool,
}

impl Connection {
    /// One that the host asks for.
    pub fn ask(ports: Ports, socket: UnixStream, announce: bool) -> Self {
        Self::new(ports, Phase::Requesting, socket, announce)
    }

    /// One that the guest asked for with that packet.
    pub fn answer(ports: Ports, socket: UnixStream, header: &Header) -> Self {
        let mut connection = Self::new(ports, Phase::Answering, socket, false);
        connection.credit.update(header);
        connection
    }

    fn new(ports: Ports, phase: Phase, socket: UnixStream, announce: bool) -> Self {
        Self {
            ports,
            phase,
            socket: Some(socket),
            announce,
            credit: Credit::default(),
            owes_credit: false,
            backlog: VecDeque::new(),
            blocked: false,
            readable: false,
            ended: false,
            deaf: false,
            finished: false,
            guest_shut: 0,
            told_shut: 0,
            listed: false,
        }
    }

    /// Its name.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The host's end.
    pub fn socket(&self) -> Option<&UnixStream> {
        self.socket.as_ref()
    }

    /// Whether room to write is awaited.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether the guest knows nothing of it any more: its name is free.
    pub fn is_detached(&self) -> bool {
        matches!(self.phase, Phase::Detached | Phase::Over)
    }

    /// Whether nothing is left to do for it.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// What an outgoing packet tells of credit.
    pub fn tell_credit(&mut self) -> (u32, u32) {
        self.owes_credit = false;
        self.credit.tell()
    }

    /// Takes a packet of the guest's; none: its number means nothing.
    pub fn receive(&mut self, operation: Option<Operation>, header: &Header, payload: &[u8]) {
        if operation == Some(Operation::Reset) {
            return self.detach();
        }
        match (self.phase, operation) {
            // It crossed our reset.
            (Phase::Refused | Phase::Detached | Phase::Over, _) => return,
            (Phase::Requested, Some(Operation::Response)) => {
                self.phase = Phase::Open;
                self.announce();
            }
            (Phase::Open, Some(Operation::Data)) => {
                if self.guest_shut & SHUT_SEND != 0 || self.credit.receive(payload.len()).is_err() {
                    return self.refuse();
                }
                self.deliver(payload);
            }
            (Phase::Open, Some(Operation::CreditUpdate)) => {}
            (Phase::Open, Some(Operation::CreditRequest)) => self.owes_credit = true,
            // A guest may give up before it has our answer.
            (Phase::Open | Phase::Answering, Some(Operation::Shutdown)) => self.guest_shut |= header.flags & SHUT_BOTH,
            _ => return self.refuse(),
        }
        self.credit.update(header);
        self.progress();
    }

    /// Takes news of the host's end.
    pub fn socket_news(&mut self, news: News) {
        self.readable |= news.readable && !self.ended;
        if news.gone {
            // Both directions are shut: it is closed, or both ends said so. What it sent before can still be read.
            self.deafen();
        } else if news.writable && self.blocked {
            self.blocked = false;
            self.flush();
        }
        self.progress();
    }

    /// Breaks it off: the guest did what must not be, or the host can not go on.
    pub fn refuse(&mut self) {
        self.drop_socket();
        self.backlog = VecDeque::new();
        self.phase = Phase::Refused;
    }

    /// The guest has forgotten it.
    fn detach(&mut self) {
        self.phase = Phase::Detached;
        self.guest_shut = SHUT_BOTH;
        self.progress();
    }

    fn announce(&mut self) {
        if let (true, Some(socket)) = (self.announce, &self.socket) {
            // A new socket has room for it.
            let line = format!("OK {}\n", self.ports.host);
            if !matches!(sockets::write(socket, line.as_bytes()), Ok(Some(count)) if count == line.len()) {
                self.deafen();
            }
        }
    }

    /// Passes bytes on, without keeping them if the host's end takes them.
    fn deliver(&mut self, mut payload: &[u8]) {
        if self.backlog.is_empty() && !self.deaf {
            while !payload.is_empty() && !self.blocked {
                let count = self.write(payload);
                payload = &payload[count..];
            }
        }
        if self.deaf {
            self.credit.forward(payload.len());
        } else {
            self.backlog.extend(payload);
        }
    }

    fn flush(&mut self) {
        // Deafness empties it.
        while !self.backlog.is_empty() && !self.blocked {
            let bytes = std::mem::take(&mut self.backlog);
            let count = self.write(bytes.as_slices().0);
            self.backlog = bytes;
            self.backlog.drain(..count);
            if self.deaf {
                self.deafen();
            }
        }
        if self.backlog.is_empty() {
            // Its memory is worth more than the next allocation.
            self.backlog = VecDeque::new();
        }
    }

    /// Writes once: how many bytes are done with. Zero: it is blocked now, or deaf.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(socket) = &self.socket else {
            self.deaf = true;
            self.credit.forward(bytes.len());
            return bytes.len();
        };
        match sockets::write(socket, bytes) {
            Ok(Some(count)) => {
                self.credit.forward(count);
                count
            }
            Ok(None) => {
                self.blocked = true;
                0
            }
            Err(_) => {
                self.deaf = true;
                self.credit.forward(bytes.len());
                bytes.len()
            }
        }
    }

    /// The host's end takes no more: what waits for it is in vain.
    fn deafen(&mut self) {
        self.deaf = true;
        self.blocked = false;
        self.credit.forward(self.backlog.len());
        self.backlog = VecDeque::new();
    }

    /// Does what has become possible: shuts the socket's directions, and ends what is at its end.
    fn progress(&mut self) {
        if let Some(socket) = &self.socket {
            if self.guest_shut & SHUT_RECEIVE != 0 && !self.ended {
                // What was sent in vain is thrown away: the other end shall see an end of file when we close, not ECONNRESET. After the
                // shutdown no more can come, so this ends.
                let _ = socket.shutdown(Shutdown::Read);
                let mut bytes = [0; 4096];
                while matches!(sockets::read(socket, &mut bytes), Ok(Some(1..))) {}
                self.ended = true;
                self.readable = false;
            }
            if self.guest_shut & SHUT_SEND != 0 && self.backlog.is_empty() && !self.finished {
                let _ = socket.shutdown(Shutdown::Write);
                self.finished = true;
            }
        }
        if self.ended && (self.deaf || self.finished) {
            self.drop_socket();
        }
        if self.socket.is_none() && self.guest_shut == SHUT_BOTH {
            match self.phase {
                Phase::Detached => self.phase = Phase::Over,
                Phase::Over => {}
                _ => self.phase = Phase::Refused,
            }
        }
    }

    fn drop_socket(&mut self) {
        self.socket = None;
        self.blocked = false;
        self.readable = false;
        self.ended = true;
        self.deaf = true;
    }

    /// What the guest should know that is over; nothing while it has ended everything itself and will get a reset.
    fn shut(&self) -> u32 {
        if self.guest_shut == SHUT_BOTH {
            return 0;
        }
        (u32::from(self.ended) * SHUT_SEND) | (u32::from(self.deaf) * SHUT_RECEIVE)
    }

    /// Whether there may be something to say.
    pub fn has_packet(&self) -> bool {
        match self.phase {
            Phase::Requesting | Phase::Answering | Phase::Refused => true,
            Phase::Requested | Phase::Detached | Phase::Over => false,
            Phase::Open => {
                let says_credit = self.owes_credit || self.credit.must_tell();
                let reads = self.readable && (self.credit.available() > 0 || self.credit.must_ask());
                says_credit || reads || self.shut() & !self.told_shut != 0
            }
        }
    }

    /// The next packet; its payload, read from the host's end, is put into `payload`, which is not empty.
    pub fn next_packet(&mut self, payload: &mut [u8]) -> Option<Outgoing> {
        match self.phase {
            Phase::Requesting => {
                self.phase = Phase::Requested;
                Outgoing::plain(Operation::Request)
            }
            Phase::Answering => {
                self.phase = Phase::Open;
                Outgoing::plain(Operation::Response)
            }
            Phase::Refused => {
                self.phase = Phase::Over;
                Outgoing::plain(Operation::Reset)
            }
            Phase::Requested | Phase::Detached | Phase::Over => None,
            Phase::Open => self.next_of_open(payload),
        }
    }

    fn next_of_open(&mut self, payload: &mut [u8]) -> Option<Outgoing> {
        if self.owes_credit || self.credit.must_tell() {
            return Outgoing::plain(Operation::CreditUpdate);
        }
        let room = payload.len().min(self.credit.available());
        if self.readable && room > 0 {
            if let Some(length) = self.read(&mut payload[..room]) {
                self.credit.spend(length);
                return Some(Outgoing { operation: Operation::Data, flags: 0, length });
            }
        } else if self.readable && self.credit.must_ask() {
            self.credit.ask();
            return Outgoing::plain(Operation::CreditRequest);
        }
        let shut = self.shut();
        if shut & !self.told_shut == 0 {
            return None;
        }
        self.told_shut |= shut;
        Some(Outgoing { operation: Operation::Shutdown, flags: self.told_shut, length: 0 })
    }

    /// Reads from the host's end; none: nothing now, or nothing ever.
    fn read(&mut self, bytes: &mut [u8]) -> Option<usize> {
        match sockets::read(self.socket.as_ref()?, bytes) {
            Ok(Some(count)) if count > 0 => return Some(count),
            Ok(Some(_)) => self.ended = true,
            Ok(None) => {}
            Err(_) => {
                self.ended = true;
                self.deafen();
            }
        }
        self.readable = false;
        self.progress();
        None
    }

    /// Bytes that wait for the host's end.
    #[cfg(test)]
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }
}
