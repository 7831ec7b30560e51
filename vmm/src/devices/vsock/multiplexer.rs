//! All connections: who is meant by a packet, and whose turn it is to say something.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;

use super::connection::{Connection, Ports};
use super::host::Host;
use super::packet::{Header, Operation, STREAM};
use super::ring::Malformed;
use super::sockets::{News, Token, Watch};
use super::{CONNECTIONS, HOST_CID, REFUSALS};

/// Host ports of connections that the host asks for begin here; below are those that somebody listens on.
const FIRST_PORT: u32 = 1 << 30;
/// And end here.
const LAST_PORT: u32 = (1 << 31) - 1;

/// The connections of one activation.
pub struct Multiplexer {
    guest_cid: u64,
    connections: HashMap<u64, Connection>,
    /// Those that the guest knows.
    names: HashMap<Ports, u64>,
    /// Those that may have something to say, each once, in turn.
    talkers: VecDeque<u64>,
    /// Resets for packets that belong to no connection, ready to be sent. At most [`REFUSALS`].
    refusals: VecDeque<Header>,
    next_id: u64,
    next_port: u32,
    watch: Watch,
}

impl Multiplexer {
    /// No connections, with a guest of that address.
    ///
    /// # Errors
    /// The host's.
    pub fn new(guest_cid: u64) -> io::Result<Self> {
        Ok(Self {
            guest_cid,
            connections: HashMap::new(),
            names: HashMap::new(),
            talkers: VecDeque::new(),
            refusals: VecDeque::new(),
            next_id: 0,
            next_port: FIRST_PORT,
            watch: Watch::new()?,
        })
    }

    /// What watches the host's sockets.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Whether there may be something to say to the guest.
    pub fn has_packet(&self) -> bool {
        !self.talkers.is_empty() || !self.refusals.is_empty()
    }

    /// Whether the guest has to take what it is told before it is heard again.
    pub fn is_congested(&self) -> bool {
        self.refusals.len() >= REFUSALS
    }

    /// Asks the guest for a connection to its port. Without room for one the socket is closed. `announce`: its other end awaits `OK hostport\n`;
    /// `watched`: it is watched already, as something else.
    pub fn connect(&mut self, port: u32, socket: UnixStream, announce: bool, watched: bool) {
        let Some(ports) = self.free_port(port) else { return };
        self.insert(Connection::ask(ports, socket, announce), watched);
    }

    fn free_port(&mut self, guest: u32) -> Option<Ports> {
        if self.connections.len() >= CONNECTIONS {
            return None;
        }
        // More candidates than connections: one is free.
        (0..=CONNECTIONS).find_map(|_| {
            let ports = Ports { host: self.next_port, guest };
            self.next_port = if self.next_port == LAST_PORT { FIRST_PORT } else { self.next_port + 1 };
            (!self.names.contains_key(&ports)).then_some(ports)
        })
    }

    /// Takes in a connection; false: it can not be watched.
    fn insert(&mut self, connection: Connection, watched: bool) -> bool {
        let id = self.next_id;
        let token = Token::Connection(id);
        let Some(socket) = connection.socket() else { return false };
        let result = if watched { self.watch.change(socket, token, false) } else { self.watch.add(socket, token) };
        if result.is_err() {
            return false;
        }
        self.next_id += 1;
        self.names.insert(connection.ports(), id);
        self.connections.insert(id, connection);
        self.settle(id, false);
        true
    }

    /// Takes a packet of the guest's.
    pub fn receive(&mut self, header: &Header, payload: &[u8], host: &mut Host) {
        if header.source_cid != self.guest_cid {
            // Not its address: nobody to answer to.
            return;
        }
        let operation = Operation::from_number(header.operation);
        let ports = Ports { host: header.destination_port, guest: header.source_port };
        let known = self.names.get(&ports).copied().filter(|_| header.destination_cid == HOST_CID && header.kind == STREAM);
        match (known, operation) {
            (Some(id), _) => self.with(id, |connection| connection.receive(operation, header, payload)),
            (None, Some(Operation::Reset)) => {}
            (None, Some(Operation::Request)) if header.destination_cid == HOST_CID && header.kind == STREAM => {
                if !self.accept(ports, header, host) {
                    self.refuse(header);
                }
            }
            (None, _) => self.refuse(header),
        }
    }

    /// Takes what is left of a packet that is none.
    pub fn receive_malformed(&mut self, malformed: &Malformed) {
        let Some(header) = malformed.header.filter(|header| header.source_cid == self.guest_cid) else { return };
        let ports = Ports { host: header.destination_port, guest: header.source_port };
        match self.names.get(&ports).copied() {
            Some(id) if header.destination_cid == HOST_CID && header.kind == STREAM => self.with(id, Connection::refuse),
            _ if header.operation == Operation::Reset as u16 => {}
            _ => self.refuse(&header),
        }
    }

    fn accept(&mut self, ports: Ports, header: &Header, host: &mut Host) -> bool {
        if self.connections.len() >= CONNECTIONS {
            return false;
        }
        let Some(socket) = host.open(ports.host) else { return false };
        self.insert(Connection::answer(ports, socket, header), false)
    }

    /// Answers a packet that belongs to no connection, in the name of whom it was for.
    fn refuse(&mut self, header: &Header) {
        // Whoever feeds packets here looks at `is_congested` before.
        debug_assert!(!self.is_congested());
        self.refusals.push_back(Header {
            source_cid: header.destination_cid,
            destination_cid: self.guest_cid,
            source_port: header.destination_port,
            destination_port: header.source_port,
            kind: header.kind,
            operation: Operation::Reset as u16,
            ..Header::default()
        });
    }

    /// Takes news of a connection's socket.
    pub fn socket_news(&mut self, id: u64, news: News) {
        self.with(id, |connection| connection.socket_news(news));
    }

    fn with(&mut self, id: u64, action: impl FnOnce(&mut Connection)) {
        // News may be of a connection that went a moment ago.
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let was_blocked = connection.is_blocked();
        action(connection);
        self.settle(id, was_blocked);
    }

    /// Brings the books in line with a connection that has changed.
    fn settle(&mut self, id: u64, was_blocked: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let ports = connection.ports();
        if let (true, Some(socket)) = (connection.is_blocked() != was_blocked, connection.socket())
            && self.watch.change(socket, Token::Connection(id), connection.is_blocked()).is_err()
        {
            connection.refuse();
        }
        let talks = connection.has_packet();
        if talks != connection.listed {
            connection.listed = talks;
            if talks {
                self.talkers.push_back(id);
            } else {
                // What went silent must not stay: a guest could make many of those.
                self.talkers.retain(|talker| *talker != id);
            }
        }
        let (detached, over) = (connection.is_detached(), connection.is_over());
        if detached && self.names.get(&ports) == Some(&id) {
            self.names.remove(&ports);
        }
        if over {
            self.connections.remove(&id);
        }
    }

    /// The next packet for the guest, its payload in `payload`, which is not empty.
    pub fn next_packet(&mut self, payload: &mut [u8]) -> Option<(Header, usize)> {
        if let Some(refusal) = self.refusals.pop_front() {
            return Some((refusal, 0));
        }
        // Each talker is asked once; who has more to say goes to the end of the line.
        for _ in 0..self.talkers.len() {
            let id = self.talkers.pop_front()?;
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.listed = false;
            let was_blocked = connection.is_blocked();
            let ports = connection.ports();
            let packet = connection.next_packet(payload).map(|outgoing| (outgoing, connection.tell_credit()));
            self.settle(id, was_blocked);
            if let Some((outgoing, (buffer, forwarded))) = packet {
                let header = Header {
                    source_cid: HOST_CID,
                    destination_cid: self.guest_cid,
                    source_port: ports.host,
                    destination_port: ports.guest,
                    length: outgoing.length as u32,
                    kind: STREAM,
                    operation: outgoing.operation as u16,
                    flags: outgoing.flags,
                    buffer,
                    forwarded,
                };
                return Some((header, outgoing.length));
            }
        }
        None
    }

    /// Forgets everything; sockets close.
    pub fn clear(&mut self) {
        self.connections.clear();
        self.names.clear();
        self.talkers.clear();
        self.refusals.clear();
    }

    /// All of them.
    #[cfg(test)]
    pub fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    /// How many entries the books have, connections aside.
    #[cfg(test)]
    pub fn entries(&self) -> [usize; 3] {
        [self.names.len(), self.talkers.len(), self.refusals.len()]
    }
}
