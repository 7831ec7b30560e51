//! Streams: bytes in order, without borders (unix_stream_sendmsg() and unix_stream_read_generic() in Linux's
//! net/unix/af_unix.c are the reference for every corner).
//!
//! Urgent bytes (Linux 5.15) are in [`urgent`](super::urgent).

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::socket::{Caller, Identity, Incoming, Outgoing, Request};
use super::endpoint::{Endpoint, Link, State};
use super::queue::{Charge, Packet};
use super::rights::Rights;
use super::{options, urgent};
use crate::errno::{Errno, Result};
use crate::kernel::wait::Ready;
use crate::net::address::SocketAddress;
use crate::vfs::file::{Sink, Source};

/// The longest packet that a stream is cut into, bytes.
const PIECE: usize = 64 << 10;

/// Sends as much as there is room for. `EPIPE` where nobody will read it.
pub fn send(endpoint: &Arc<Endpoint>, caller: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize> {
    let is_urgent = message.flags & libc::MSG_OOB != 0;
    if is_urgent && from.remaining() == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut done = 0;
    loop {
        // The last byte of an urgent message is its urgent one, and goes alone.
        let left = from.remaining();
        let (length, marked) = match left {
            1 if is_urgent => (1, true),
            _ => (left.saturating_sub(usize::from(is_urgent)), false),
        };
        match send_piece(endpoint, caller, message, done == 0, length, marked, from) {
            Ok(0) => return Ok(done),
            Ok(sent) => done += sent,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
    }
}

fn send_piece(
    endpoint: &Arc<Endpoint>,
    caller: &Caller,
    message: &Outgoing,
    first: bool,
    length: usize,
    marked: bool,
    from: &mut dyn Source,
) -> Result<usize> {
    let (peer, pass) = {
        let mut state = endpoint.state.lock();
        let Link::Peer(peer) = &state.link else {
            return Err(if message.to.is_some() { Errno::EOPNOTSUPP } else { Errno::ENOTCONN });
        };
        if message.to.is_some() {
            return Err(Errno::EISCONN);
        }
        let peer = peer.clone();
        // Who has waited for room learns why there will be none; who has not is told by its own end's state first.
        if (message.waited || !first)
            && let Some(error) = state.error.take()
        {
            return Err(error);
        }
        if state.write_shut {
            return Err(Errno::EPIPE);
        }
        if length > 0
            && let Some(error) = state.error.take()
        {
            return Err(error);
        }
        (peer, state.pass_credentials)
    };
    let length = length.min(PIECE).min(endpoint.account.limit() / 2);
    if length == 0 {
        return Ok(0);
    }
    let charge = Charge::new(endpoint, length).ok_or(Errno::EAGAIN)?;
    let rights = if first { Rights::send(caller, &message.rights)? } else { Rights::default() };
    let mut data = vec![0; length];
    if from.take(&mut data)? < length {
        // A piece is taken whole or not at all.
        return Err(Errno::EFAULT);
    }
    let wanted = pass || peer.wants_credentials();
    let identity = message.identity.clone().or_else(|| wanted.then(|| caller.sender()));
    let packet = Packet { data, read: 0, identity, rights, sent: None, urgent: marked, peeked: false, charge };
    let mut theirs = peer.state.lock();
    if theirs.closed || theirs.read_shut {
        drop(theirs);
        drop(packet);
        return Err(Errno::EPIPE);
    }
    if marked {
        // There is one urgent byte at most: the one before becomes an ordinary one.
        theirs.incoming.iter_mut().for_each(|packet| packet.urgent = false);
    }
    theirs.incoming.push_back(packet);
    drop(theirs);
    peer.queue.wake(if marked { Ready::READABLE | Ready::PRI } else { Ready::READABLE });
    Ok(length)
}

/// Reads what there is. A read ends at a packet that carries descriptors, at an urgent byte, and, where credentials are passed, where
/// the sender changes.
pub fn receive(endpoint: &Arc<Endpoint>, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
    let mut read = Vec::new();
    let mut sender = None;
    let result = {
        let mut state = endpoint.state.lock();
        if !matches!(state.link, Link::Peer(_)) && !state.closed {
            return Err(Errno::EINVAL);
        }
        let inline = options::is_set(&state, libc::SO_OOBINLINE);
        if request.has(libc::MSG_OOB) {
            urgent::receive(&mut state, request, inline, into, &mut read)
        } else {
            Reading { state: &mut state, request, inline, read: &mut read, sender: &mut sender }.run(into)
        }
    };
    // Gives the sender its room back, with no lock held; asks for its name, too, as it is now.
    drop(read);
    let from = sender.and_then(|sender: Arc<Endpoint>| sender.name());
    result.map(|incoming| Incoming { from: from.map(|name| SocketAddress::Unix(Some(name))), ..incoming })
}

/// One read of a stream.
struct Reading<'a> {
    state: &'a mut State,
    request: Request,
    /// `SO_OOBINLINE`.
    inline: bool,
    /// Packets that have been read.
    read: &'a mut Vec<Packet>,
    /// Who has sent the first of it, where the caller asks.
    sender: &'a mut Option<Arc<Endpoint>>,
}

impl Reading<'_> {
    fn run(&mut self, into: &mut dyn Sink) -> Result<Incoming> {
        let peek = self.request.has(libc::MSG_PEEK);
        let pass_credentials = self.state.pass_credentials;
        let mut incoming = Incoming::default();
        let mut sender: Option<Option<Identity>> = None;
        // Where in the queue, and how far in: only a look moves on without taking.
        let mut at = 0;
        let mut skip = if peek { usize::try_from(self.state.peek_offset).unwrap_or(0) } else { 0 };
        loop {
            let Some(index) = urgent::pass(&mut self.state.incoming, at, peek, self.inline, sender.is_some(), self.read) else {
                // The end, or an urgent byte that ends this read.
                incoming.border |= sender.is_some() && !self.state.incoming.is_empty();
                break;
            };
            at = index;
            let packet = &mut self.state.incoming[at];
            if skip >= packet.unread().len() && skip > 0 {
                skip -= packet.unread().len();
                at += 1;
                continue;
            }
            if pass_credentials && sender.as_ref().is_some_and(|sender| *sender != packet.identity) {
                incoming.border = true;
                break;
            }
            let length = (packet.unread().len() - skip).min(into.remaining());
            if let Err(error) = into.put(&packet.unread()[skip..skip + length]) {
                if sender.is_some() {
                    break;
                }
                return Err(error);
            }
            incoming.length += length;
            skip = 0;
            if sender.is_none() {
                *self.sender = self.request.name.then(|| packet.charge.sender.clone());
                sender = Some(packet.identity.clone());
            }
            let carried = !packet.rights.is_empty();
            if peek {
                incoming.rights = packet.rights.copies();
                at += 1;
            } else {
                packet.read += length;
                incoming.rights = packet.rights.receive();
                if packet.unread().is_empty() {
                    self.read.extend(self.state.incoming.pop_front());
                }
            }
            if carried {
                incoming.border = true;
                break;
            }
            if into.remaining() == 0 {
                break;
            }
        }
        self.state.move_look(peek, incoming.length);
        if sender.is_none() {
            if let Some(error) = self.state.error.take() {
                return Err(error);
            }
            return if self.state.read_shut { Ok(incoming) } else { Err(Errno::EAGAIN) };
        }
        incoming.border |= peek;
        if pass_credentials {
            incoming.identity = Some(sender.flatten().unwrap_or_else(Identity::nobody));
        }
        Ok(incoming)
    }
}

/// Bytes that the next reads find (`FIONREAD`).
pub fn waiting(queue: &VecDeque<Packet>) -> usize {
    super::queue::unread(queue)
}
