//! Streams: bytes in order, without borders (unix_stream_sendmsg() and unix_stream_read_generic() in Linux's
//! net/unix/af_unix.c are the reference for every corner).

use std::sync::Arc;

use super::super::socket::{Caller, Identity, Incoming, Outgoing, Request};
use super::endpoint::{Endpoint, Link, State};
use super::queue::Packet;
use super::rights::Rights;
use crate::errno::{Errno, Result};
use crate::kernel::wait::Ready;
use crate::net::address::SocketAddress;
use crate::vfs::file::{Sink, Source};

/// The longest packet that a stream is cut into, bytes.
const PIECE: usize = 64 << 10;

/// Sends as much as there is room for. `EPIPE` where nobody will read it.
pub fn send(endpoint: &Arc<Endpoint>, caller: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize> {
    if message.flags & libc::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut done = 0;
    loop {
        match send_piece(endpoint, caller, message, done == 0, from) {
            Ok(0) => return Ok(done),
            Ok(sent) => done += sent,
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
    }
}

fn send_piece(endpoint: &Arc<Endpoint>, caller: &Caller, message: &Outgoing, first: bool, from: &mut dyn Source) -> Result<usize> {
    let (peer, name, pass) = {
        let state = endpoint.state.lock();
        let Link::Peer(peer) = &state.link else {
            return Err(if message.to.is_some() { Errno::EOPNOTSUPP } else { Errno::ENOTCONN });
        };
        if message.to.is_some() {
            return Err(Errno::EISCONN);
        }
        if state.write_shut {
            return Err(Errno::EPIPE);
        }
        (peer.clone(), state.name.clone(), state.pass_credentials)
    };
    let length = from.remaining().min(PIECE).min(endpoint.account.limit() / 2);
    if length == 0 {
        return Ok(0);
    }
    let charge = endpoint.account.charge(length).ok_or(Errno::EAGAIN)?;
    let mut data = vec![0; length];
    let taken = from.take(&mut data)?;
    data.truncate(taken);
    let wanted = pass || peer.state.lock().pass_credentials;
    let identity = message.identity.clone().or_else(|| wanted.then(|| caller.identity()));
    let rights = if first { Rights::send(&message.rights) } else { Rights::default() };
    let packet = Packet { data, read: 0, from: name, identity, rights, charge };
    let mut theirs = peer.state.lock();
    if theirs.closed || theirs.read_shut {
        drop(theirs);
        drop(packet);
        return Err(Errno::EPIPE);
    }
    theirs.incoming.push_back(packet);
    drop(theirs);
    peer.queue.wake(Ready::READABLE);
    Ok(taken)
}

/// Reads what there is. A read ends at a packet that carries descriptors, and, where credentials are passed, where the
/// sender changes.
pub fn receive(endpoint: &Arc<Endpoint>, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
    if request.has(libc::MSG_OOB) {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut read = Vec::new();
    let result = {
        let mut state = endpoint.state.lock();
        take(&mut state, request, into, &mut read)
    };
    // Gives the sender its room back, with no lock held.
    drop(read);
    result
}

fn take(state: &mut State, request: Request, into: &mut dyn Sink, read: &mut Vec<Packet>) -> Result<Incoming> {
    if !matches!(state.link, Link::Peer(_)) && !state.closed {
        return Err(Errno::EINVAL);
    }
    let mut incoming = Incoming::default();
    let mut sender: Option<Option<Identity>> = None;
    let peek = request.has(libc::MSG_PEEK);
    while into.remaining() > 0 {
        let pass = state.pass_credentials;
        let Some(packet) = state.incoming.front_mut() else { break };
        if pass && sender.as_ref().is_some_and(|sender| *sender != packet.identity) {
            break;
        }
        let length = packet.unread().len().min(into.remaining());
        if let Err(error) = into.put(&packet.unread()[..length]) {
            if incoming.length > 0 {
                break;
            }
            return Err(error);
        }
        incoming.length += length;
        if sender.is_none() {
            incoming.from = packet.from.clone().map(|name| SocketAddress::Unix(Some(name)));
            sender = Some(packet.identity.clone());
        }
        if peek {
            incoming.rights = packet.rights.copies();
            break;
        }
        packet.read += length;
        let had_rights = !packet.rights.is_empty();
        if had_rights {
            incoming.rights = packet.rights.receive();
        }
        if packet.unread().is_empty() {
            read.extend(state.incoming.pop_front());
        }
        if had_rights {
            break;
        }
    }
    if sender.is_none() && into.remaining() > 0 {
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        return if state.read_shut { Ok(incoming) } else { Err(Errno::EAGAIN) };
    }
    if state.pass_credentials && sender.is_some() {
        incoming.identity = Some(sender.flatten().unwrap_or_else(Identity::nobody));
    }
    Ok(incoming)
}
