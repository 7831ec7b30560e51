//! Messages: datagrams, and the messages of sequenced-packet sockets, whole or not at all (unix_dgram_sendmsg() and
//! __unix_dgram_recvmsg() in Linux's net/unix/af_unix.c).

use std::sync::Arc;

use super::super::address::{Passed, SocketAddress, UnixName};
use super::super::control::Record;
use super::super::socket::{Caller, Identity, Incoming, Kind, Outgoing, Request};
use super::endpoint::{Endpoint, Link, State};
use super::queue::{Charge, Packet};
use super::rights::{self, Rights};
use super::{names, options};
use crate::errno::{Errno, Result};
use crate::kernel::wait::Ready;
use crate::vfs::file::{Sink, Source};
use crate::vfs::node::Timestamp;

/// How many messages wait at one socket (`net.unix.max_dgram_qlen`), but for those of its own peer.
const MOST_WAITING: usize = 10;

/// Whether `to` takes one more message from `from` (unix_recvq_full() in Linux's net/unix/af_unix.c).
pub fn has_room(from: &Arc<Endpoint>, to: &Arc<Endpoint>) -> bool {
    if from.is(to) {
        return true;
    }
    let state = to.state.lock();
    let mutual = matches!(&state.link, Link::Peer(peer) if peer.is(from));
    mutual || state.closed || state.incoming.len() <= MOST_WAITING
}

/// connect(2) of a datagram socket: sets where messages go, and whose are let in. `AF_UNSPEC` undoes it.
pub fn connect(endpoint: &Arc<Endpoint>, caller: &Caller, address: &Passed) -> Result<()> {
    let target = match address.family() {
        Some(libc::AF_UNSPEC) => None,
        _ => {
            let name = address.unix()?.ok_or(Errno::EINVAL)?;
            if endpoint.state.lock().pass_credentials {
                names::autobind(endpoint)?;
            }
            let target = names::find(caller, &name, Kind::Datagram)?;
            let theirs = target.state.lock();
            if matches!(&theirs.link, Link::Peer(peer) if !peer.is(endpoint)) {
                return Err(Errno::EPERM);
            }
            drop(theirs);
            Some(target)
        }
    };
    let same = |before: &Arc<Endpoint>| target.as_ref().is_some_and(|target| target.is(before));
    let before = match &endpoint.state.lock().link {
        Link::Peer(before) if !same(before) => Some(before.clone()),
        _ => None,
    };
    let link = target.map_or(Link::None, Link::Peer);
    let replaced = std::mem::replace(&mut endpoint.state.lock().link, link);
    drop(replaced);
    endpoint.queue.wake(Ready::WRITABLE);
    if let Some(before) = before {
        disconnected(endpoint, &before);
    }
    Ok(())
}

/// A socket that was connected is so no more, or with another: what its peer has sent is dropped, and a peer that is connected with it learns that
/// (`ECONNRESET`).
fn disconnected(endpoint: &Arc<Endpoint>, before: &Arc<Endpoint>) {
    let (dropped, impatient) = {
        let mut state = endpoint.state.lock();
        (std::mem::take(&mut state.incoming), std::mem::take(&mut state.impatient))
    };
    if dropped.is_empty() {
        return;
    }
    rights::discard(dropped.into());
    impatient.iter().for_each(|queue| queue.wake(Ready::WRITABLE));
    let mut theirs = before.state.lock();
    if !theirs.closed && matches!(&theirs.link, Link::Peer(peer) if peer.is(endpoint)) {
        theirs.error = Some(Errno::ECONNRESET);
        drop(theirs);
        before.queue.wake(Ready::ERR);
    }
}

/// Sends one message.
pub fn send(endpoint: &Arc<Endpoint>, caller: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize> {
    let sequenced = endpoint.kind == Kind::SequencedPacket;
    if sequenced {
        let mut state = endpoint.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if !matches!(state.link, Link::Peer(_)) {
            return Err(Errno::ENOTCONN);
        }
    }
    if message.flags & libc::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    // Sequenced packets ignore an address.
    let name: Option<UnixName> = match &message.to {
        Some(to) if !sequenced => Some(to.unix()?.ok_or(Errno::EINVAL)?),
        _ => None,
    };
    let pass = endpoint.state.lock().pass_credentials;
    if pass && !sequenced {
        names::autobind(endpoint)?;
    }
    let length = from.remaining();
    if length > endpoint.account.limit() - 32 {
        return Err(Errno::EMSGSIZE);
    }
    {
        let mut state = endpoint.state.lock();
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        if state.write_shut {
            return Err(Errno::EPIPE);
        }
    }
    let charge = Charge::new(endpoint, length).ok_or(Errno::EAGAIN)?;
    let rights = Rights::send(caller, &message.rights)?;
    // Whether there is room is known before the bytes are taken, so that a call that waits takes them once.
    let target = target(endpoint, caller, name.as_ref())?;
    admits(endpoint, &target, name.is_some())?;
    let mut data = vec![0; length];
    if from.take(&mut data)? < length {
        return Err(Errno::EFAULT);
    }
    let wanted = pass || target.wants_credentials();
    let identity = message.identity.clone().or_else(|| wanted.then(|| caller.sender()));
    let mut packet = Packet { data, read: 0, identity, rights, sent: None, urgent: false, peeked: false, charge };
    let mut theirs = target.state.lock();
    if theirs.closed {
        drop(theirs);
        drop(packet);
        return Err(refused(endpoint, &target));
    }
    packet.sent = options::wants_time(&theirs).then(Timestamp::now);
    theirs.incoming.push_back(packet);
    drop(theirs);
    target.queue.wake(Ready::READABLE);
    Ok(length)
}

/// To whom a message goes.
fn target(endpoint: &Arc<Endpoint>, caller: &Caller, name: Option<&UnixName>) -> Result<Arc<Endpoint>> {
    match name {
        Some(name) => names::find(caller, name, Kind::Datagram),
        None => endpoint.peer().ok_or(Errno::ENOTCONN),
    }
}

/// Whether `to` takes a message from `endpoint` now.
fn admits(endpoint: &Arc<Endpoint>, to: &Arc<Endpoint>, named: bool) -> Result<()> {
    let mut state = to.state.lock();
    let peer = match &state.link {
        Link::Peer(peer) => Some(peer.is(endpoint)),
        _ => None,
    };
    if peer == Some(false) {
        return Err(Errno::EPERM);
    }
    if state.closed {
        drop(state);
        let error = refused(endpoint, to);
        // Found by its name a moment ago, and gone since.
        return Err(if named { Errno::ECONNREFUSED } else { error });
    }
    if state.read_shut {
        return Err(Errno::EPIPE);
    }
    if peer.is_none() && !endpoint.is(to) && state.incoming.len() > MOST_WAITING {
        state.impatient.push(endpoint.queue.clone());
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

/// The receiver is gone: a connected datagram socket forgets it.
fn refused(endpoint: &Arc<Endpoint>, to: &Arc<Endpoint>) -> Errno {
    if endpoint.kind != Kind::Datagram {
        return Errno::EPIPE;
    }
    let mut state = endpoint.state.lock();
    if !matches!(&state.link, Link::Peer(peer) if peer.is(to)) {
        return Errno::ECONNRESET;
    }
    let link = std::mem::replace(&mut state.link, Link::None);
    drop(state);
    drop(link);
    disconnected(endpoint, to);
    endpoint.queue.wake(Ready::WRITABLE);
    Errno::ECONNREFUSED
}

/// Receives one message; what does not fit is lost (`MSG_TRUNC`).
pub fn receive(endpoint: &Arc<Endpoint>, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
    let sequenced = endpoint.kind == Kind::SequencedPacket;
    let mut state = endpoint.state.lock();
    if sequenced && !matches!(state.link, Link::Peer(_)) {
        return Err(Errno::ENOTCONN);
    }
    if request.has(libc::MSG_OOB) {
        return Err(Errno::EOPNOTSUPP);
    }
    if let Some(error) = state.error.take() {
        return Err(error);
    }
    let peek = request.has(libc::MSG_PEEK);
    let Some((index, skip)) = find(&state, peek) else {
        // A datagram socket that is shut and asked not to wait has nothing, rather than an end.
        let ended = state.read_shut && (sequenced || !request.has(libc::MSG_DONTWAIT));
        return if ended { Ok(Incoming::default()) } else { Err(Errno::EAGAIN) };
    };
    let sender = state.incoming[index].charge.sender.clone();
    let result = take(&mut state, index, skip, request, into);
    let read = if peek { None } else { state.incoming.pop_front() };
    let impatient = std::mem::take(&mut state.impatient);
    drop(state);
    drop(read);
    impatient.iter().for_each(|queue| queue.wake(Ready::WRITABLE));
    let from = if request.name { sender.name() } else { None };
    result.map(|incoming| Incoming { from: from.map(|name| SocketAddress::Unix(Some(name))), ..incoming })
}

/// Which message is next, and how many bytes into it: a look may begin further on (`SO_PEEK_OFF`).
fn find(state: &State, peek: bool) -> Option<(usize, usize)> {
    let mut skip = match usize::try_from(state.peek_offset) {
        Ok(offset) if peek => offset,
        _ => return (!state.incoming.is_empty()).then_some((0, 0)),
    };
    for (index, packet) in state.incoming.iter().enumerate() {
        let length = packet.data.len();
        if skip >= length && (length > 0 || skip > 0 || packet.peeked) {
            skip -= length;
        } else {
            return Some((index, skip));
        }
    }
    None
}

fn take(state: &mut State, index: usize, skip: usize, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
    let pass = state.pass_credentials;
    let stamps = options::wants_time(state).then(|| options::time_format(state));
    let peek = request.has(libc::MSG_PEEK);
    let packet = &mut state.incoming[index];
    let left = packet.data.len() - skip;
    let length = left.min(into.remaining());
    into.put(&packet.data[skip..skip + length])?;
    packet.peeked |= peek;
    let control: Vec<Record> = stamps.map(|format| format(packet.sent.unwrap_or_else(Timestamp::now))).into_iter().collect();
    let incoming = Incoming {
        length: if request.has(libc::MSG_TRUNC) { left } else { length },
        from: None,
        flags: if left > length { libc::MSG_TRUNC } else { 0 },
        identity: pass.then(|| packet.identity.clone().unwrap_or_else(Identity::nobody)),
        rights: if peek { packet.rights.copies() } else { packet.rights.receive() },
        control,
        border: true,
    };
    let whole = packet.data.len();
    state.move_look(peek, if peek { length } else { whole });
    Ok(incoming)
}
