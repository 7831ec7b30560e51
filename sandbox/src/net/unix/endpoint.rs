//! One end of a Unix socket: its state, its life, and what poll(2) says of it.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;

use super::super::address::{Passed, SocketAddress, UnixName};
use super::super::socket::{Caller, Identity, Incoming, Kind, Outgoing, Protocol, Request, Socket, next_number};
use super::queue::{Account, DEFAULT_LIMIT, Packet};
use super::{connection, datagram, names, options, rights, stream};
use crate::errno::{Errno, Result};
use crate::kernel::wait::{Ready, WaitQueue};
use crate::sync::Mutex;
use crate::syscalls::Call;
use crate::vfs::file::{Sink, Source};
use crate::vfs::node::NodeRef;

/// To whom an endpoint belongs.
pub enum Link {
    /// To nobody.
    None,
    /// To those who connect.
    Listening(Listening),
    /// To this one. It may have closed since.
    Peer(Arc<Endpoint>),
}

/// A listening endpoint's part.
pub struct Listening {
    /// So many connections wait at most, and one more.
    pub backlog: usize,
    /// Connections that wait for accept(2): our ends of them.
    pub waiting: VecDeque<Arc<Endpoint>>,
    /// Who listens: `SO_PEERCRED` of those who connect.
    pub identity: Identity,
}

/// What changes.
pub struct State {
    /// What it is bound to.
    pub name: Option<UnixName>,
    /// The socket file it is bound to: held, so that its number is not given to another file meanwhile.
    pub node: Option<NodeRef>,
    /// Its peer.
    pub link: Link,
    /// What it has yet to read. The marks of urgent bytes that were received stay in it, empty.
    pub incoming: VecDeque<Packet>,
    /// No more comes in.
    pub read_shut: bool,
    /// No more goes out.
    pub write_shut: bool,
    /// `SO_ERROR`.
    pub error: Option<Errno>,
    /// `SO_PASSCRED`.
    pub pass_credentials: bool,
    /// Nobody has accepted it yet, so that nobody can have asked for credentials on it.
    pub embryo: bool,
    /// `SO_PEERCRED`.
    pub peer_identity: Option<Identity>,
    /// Senders and connectors that found it full.
    pub impatient: Vec<WaitQueue>,
    /// `SO_RCVBUF`, kept for show: what a sender may have under way is limited by its own `SO_SNDBUF`.
    pub receive_limit: usize,
    /// Options that differ from what they are at first ([`options`]).
    pub kept: Vec<(i32, i32)>,
    /// `SO_LINGER`: kept for show.
    pub linger: [i32; 2],
    /// `SO_PEEK_OFF`: where the next look begins; negative for the front, and for staying there.
    pub peek_offset: i32,
    /// Its last descriptor is gone.
    pub closed: bool,
}

impl State {
    /// `SO_PEEK_OFF`, where it is set, moves on with what was looked at, and back with what was taken.
    pub fn move_look(&mut self, peek: bool, length: usize) {
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        if self.peek_offset >= 0 {
            self.peek_offset = if peek { self.peek_offset.saturating_add(length) } else { self.peek_offset.saturating_sub(length).max(0) };
        }
    }
}

/// One end.
pub struct Endpoint {
    /// How it moves data.
    pub kind: Kind,
    /// The number in `socket:[N]`.
    pub number: u64,
    /// Who waits for it.
    pub queue: WaitQueue,
    /// What it has sent.
    pub account: Account,
    /// The rest.
    pub state: Mutex<State>,
}

impl Endpoint {
    /// An endpoint that is not bound, nor connected.
    pub fn new(kind: Kind) -> Arc<Endpoint> {
        let state = State {
            name: None,
            node: None,
            link: Link::None,
            incoming: VecDeque::new(),
            read_shut: false,
            write_shut: false,
            error: None,
            pass_credentials: false,
            embryo: false,
            peer_identity: None,
            impatient: Vec::new(),
            receive_limit: DEFAULT_LIMIT,
            kept: Vec::new(),
            linger: [0; 2],
            peek_offset: -1,
            closed: false,
        };
        let endpoint = Arc::new(Endpoint {
            kind,
            number: next_number(),
            queue: WaitQueue::new(),
            account: Account::default(),
            state: Mutex::new(state),
        });
        names::remember(&endpoint);
        endpoint
    }

    /// Whether connections are made: streams and sequenced packets.
    pub fn is_connected_kind(&self) -> bool {
        self.kind != Kind::Datagram
    }

    /// The peer, dead or alive.
    pub fn peer(&self) -> Option<Arc<Endpoint>> {
        match &self.state.lock().link {
            Link::Peer(peer) => Some(peer.clone()),
            _ => None,
        }
    }

    /// What it is bound to: kept by a closed one, whose messages may still be read.
    pub fn name(&self) -> Option<UnixName> {
        self.state.lock().name.clone()
    }

    /// Whether whoever reads from it may want to know the senders.
    pub fn wants_credentials(&self) -> bool {
        let state = self.state.lock();
        state.pass_credentials || state.embryo
    }

    /// Whether these are the same.
    pub fn is(self: &Arc<Self>, other: &Arc<Endpoint>) -> bool {
        Arc::ptr_eq(self, other)
    }

    /// Closes it. `reset`: its peer learns that what it sent was never read.
    pub fn close(self: &Arc<Self>, reset: bool) {
        let (link, incoming, name, node, impatient) = {
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            state.closed = true;
            (state.read_shut, state.write_shut) = (true, true);
            let link = std::mem::replace(&mut state.link, Link::None);
            let impatient = std::mem::take(&mut state.impatient);
            (link, std::mem::take(&mut state.incoming), state.name.clone(), state.node.take(), impatient)
        };
        names::forget(self, name.as_ref(), node.as_ref());
        match link {
            Link::Peer(peer) => {
                if self.is_connected_kind() {
                    let mut theirs = peer.state.lock();
                    (theirs.read_shut, theirs.write_shut) = (true, true);
                    // What is empty (the mark of an urgent byte, an empty message) is nothing that was left unread.
                    let empty = incoming.front().is_some_and(|packet| packet.unread().is_empty());
                    let left = incoming.len() > usize::from(empty);
                    if reset || left {
                        theirs.error = Some(Errno::ECONNRESET);
                    }
                    drop(theirs);
                }
                peer.queue.wake(Ready::all());
            }
            Link::Listening(listening) => listening.waiting.iter().for_each(|endpoint| endpoint.close(true)),
            Link::None => {}
        }
        impatient.iter().for_each(|queue| queue.wake(Ready::WRITABLE));
        self.queue.wake(Ready::all());
        rights::discard(incoming.into());
    }

    /// What is ready, bit for bit as unix_poll() and unix_dgram_poll() in Linux's net/unix/af_unix.c say it.
    pub fn poll(self: &Arc<Self>) -> Ready {
        let mut ready = Ready::empty();
        let (listens, peer) = {
            let state = self.state.lock();
            if state.error.is_some() {
                ready |= Ready::ERR;
            }
            if state.read_shut && state.write_shut {
                ready |= Ready::HUP;
            }
            if state.read_shut {
                ready |= Ready::RDHUP | Ready::READABLE;
            }
            if !state.incoming.is_empty() {
                ready |= Ready::READABLE;
            }
            if state.incoming.iter().any(|packet| packet.urgent) {
                ready |= Ready::PRI;
            }
            match &state.link {
                Link::None if self.is_connected_kind() && !state.closed => ready |= Ready::HUP,
                Link::Listening(listening) if !listening.waiting.is_empty() => ready |= Ready::READABLE,
                _ => {}
            }
            match &state.link {
                Link::Listening(_) => (true, None),
                Link::Peer(peer) if self.kind == Kind::Datagram => (false, Some(peer.clone())),
                _ => (false, None),
            }
        };
        if !listens && self.account.is_writable() && peer.is_none_or(|peer| datagram::has_room(self, &peer)) {
            ready |= Ready::WRITABLE | Ready::WRBAND;
        }
        ready
    }
}

/// The protocol of Unix sockets: an endpoint behind a file.
pub struct UnixSocket(pub Arc<Endpoint>);

impl Protocol for UnixSocket {
    fn bind(&self, caller: &Caller, address: &Passed, mode: u32) -> Result<()> {
        names::bind(&self.0, caller, address, mode)
    }

    fn listen(&self, caller: &Caller, backlog: i32) -> Result<()> {
        connection::listen(&self.0, caller, backlog)
    }

    fn connect(&self, caller: &Caller, address: &Passed) -> Result<()> {
        match self.0.kind {
            Kind::Datagram => datagram::connect(&self.0, caller, address),
            _ => connection::connect(&self.0, caller, address),
        }
    }

    fn accept(&self, caller: &Caller) -> Result<(Arc<Socket>, SocketAddress)> {
        let accepted = connection::accept(&self.0)?;
        let peer = SocketAddress::Unix(accepted.peer().and_then(|peer| peer.name()));
        Ok((super::front(accepted, caller), peer))
    }

    fn name(&self) -> Result<SocketAddress> {
        Ok(SocketAddress::Unix(self.0.name()))
    }

    fn peer(&self) -> Result<SocketAddress> {
        let peer = self.0.peer().ok_or(Errno::ENOTCONN)?;
        Ok(SocketAddress::Unix(peer.name()))
    }

    fn send(&self, caller: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize> {
        match self.0.kind {
            Kind::Stream => stream::send(&self.0, caller, message, from),
            _ => datagram::send(&self.0, caller, message, from),
        }
    }

    fn receive(&self, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
        match self.0.kind {
            Kind::Stream => stream::receive(&self.0, request, into),
            _ => datagram::receive(&self.0, request, into),
        }
    }

    fn shutdown(&self, how: i32) -> Result<()> {
        connection::shutdown(&self.0, how)
    }

    fn option(&self, caller: &Caller, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        options::get(&self.0, caller, level, name, room)
    }

    fn set_option(&self, caller: &Caller, level: i32, name: i32, value: &[u8]) -> Result<()> {
        options::set(&self.0, caller, level, name, value)
    }

    fn ioctl(&self, call: &Call, command: u32, argument: u64) -> Result<i64> {
        options::ioctl(&self.0, call, command, argument)
    }

    fn poll(&self) -> Ready {
        self.0.poll()
    }

    fn wait_queue(&self) -> &WaitQueue {
        &self.0.queue
    }

    fn number(&self) -> u64 {
        self.0.number
    }

    fn descriptor_closed(&self) {
        rights::collect_later();
    }

    fn close(&self) {
        self.0.close(false);
        rights::collect_later();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
