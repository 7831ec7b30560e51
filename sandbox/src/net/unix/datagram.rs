//! Messages: datagrams, and the messages of sequenced-packet sockets, whole or not at all.

use std::sync::Arc;

use super::super::address::SocketAddress;
use super::super::socket::{Caller, Identity, Incoming, Kind, Outgoing, Request};
use super::endpoint::{Endpoint, Link, State};
use super::names;
use super::queue::Packet;
use super::rights::Rights;
use crate::errno::{Errno, Result};
use crate::kernel::wait::Ready;
use crate::vfs::file::{Sink, Source};

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
pub fn connect(endpoint: &Arc<Endpoint>, caller: &Caller, address: &SocketAddress) -> Result<()> {
    let link = match address {
        SocketAddress::Unspecified => Link::None,
        SocketAddress::Unix(Some(name)) => {
            if endpoint.state.lock().pass_credentials {
                names::autobind(endpoint)?;
            }
            let target = names::find(caller, name, Kind::Datagram)?;
            let theirs = target.state.lock();
            if matches!(&theirs.link, Link::Peer(peer) if !peer.is(endpoint)) {
                return Err(Errno::EPERM);
            }
            drop(theirs);
            Link::Peer(target)
        }
        _ => return Err(Errno::EINVAL),
    };
    let before = std::mem::replace(&mut endpoint.state.lock().link, link);
    drop(before);
    endpoint.queue.wake(Ready::WRITABLE);
    Ok(())
}

/// To whom a message goes.
fn target(endpoint: &Arc<Endpoint>, caller: &Caller, message: &Outgoing) -> Result<Arc<Endpoint>> {
    match &message.to {
        Some(to) if endpoint.kind == Kind::Datagram => match to {
            SocketAddress::Unix(Some(name)) => names::find(caller, name, Kind::Datagram),
            _ => Err(Errno::EINVAL),
        },
        // Sequenced packets ignore an address.
        _ => endpoint.peer().ok_or(Errno::ENOTCONN),
    }
}

/// Sends one message.
pub fn send(endpoint: &Arc<Endpoint>, caller: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize> {
    if message.flags & libc::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let to = target(endpoint, caller, message)?;
    let (pass, write_shut) = {
        let state = endpoint.state.lock();
        (state.pass_credentials, state.write_shut)
    };
    if pass && endpoint.kind == Kind::Datagram {
        names::autobind(endpoint)?;
    }
    if write_shut {
        return Err(Errno::EPIPE);
    }
    let length = from.remaining();
    if length > endpoint.account.limit() - 32 {
        return Err(Errno::EMSGSIZE);
    }
    admits(endpoint, &to)?;
    let charge = endpoint.account.charge(length).ok_or(Errno::EAGAIN)?;
    let mut data = vec![0; length];
    if from.take(&mut data)? < length {
        return Err(Errno::EFAULT);
    }
    let wanted = pass || to.state.lock().pass_credentials;
    let identity = message.identity.clone().or_else(|| wanted.then(|| caller.identity()));
    let name = endpoint.state.lock().name.clone();
    let packet = Packet { data, read: 0, from: name, identity, rights: Rights::send(&message.rights), charge };
    let mut theirs = to.state.lock();
    if theirs.closed {
        drop(theirs);
        drop(packet);
        return Err(refused(endpoint, &to));
    }
    theirs.incoming.push_back(packet);
    drop(theirs);
    to.queue.wake(Ready::READABLE);
    Ok(length)
}

/// Whether `to` takes a message from `endpoint` now.
fn admits(endpoint: &Arc<Endpoint>, to: &Arc<Endpoint>) -> Result<()> {
    let mut state = to.state.lock();
    if state.closed {
        drop(state);
        return Err(refused(endpoint, to));
    }
    let peer = match &state.link {
        Link::Peer(peer) => Some(peer.is(endpoint)),
        _ => None,
    };
    if peer == Some(false) {
        return Err(Errno::EPERM);
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
    if matches!(&state.link, Link::Peer(peer) if peer.is(to)) {
        state.link = Link::None;
    }
    Errno::ECONNREFUSED
}

/// Receives one message; what does not fit is lost (`MSG_TRUNC`).
pub fn receive(endpoint: &Arc<Endpoint>, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
    if request.has(libc::MSG_OOB) {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut state = endpoint.state.lock();
    if endpoint.kind == Kind::SequencedPacket && !matches!(state.link, Link::Peer(_)) {
        return Err(Errno::ENOTCONN);
    }
    if state.incoming.is_empty() {
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        return if state.read_shut { Ok(Incoming::default()) } else { Err(Errno::EAGAIN) };
    }
    let result = take(&mut state, request, into);
    let read = if request.has(libc::MSG_PEEK) { None } else { state.incoming.pop_front() };
    let impatient = std::mem::take(&mut state.impatient);
    drop(state);
    drop(read);
    impatient.iter().for_each(|queue| queue.wake(Ready::WRITABLE));
    result
}

fn take(state: &mut State, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
    let pass = state.pass_credentials;
    let Some(packet) = state.incoming.front_mut() else { return Err(Errno::EAGAIN) };
    let length = packet.data.len().min(into.remaining());
    into.put(&packet.data[..length])?;
    let cut = packet.data.len() > length;
    Ok(Incoming {
        length: if request.has(libc::MSG_TRUNC) { packet.data.len() } else { length },
        from: packet.from.clone().map(|name| SocketAddress::Unix(Some(name))),
        flags: if cut { libc::MSG_TRUNC } else { 0 },
        identity: pass.then(|| packet.identity.clone().unwrap_or_else(Identity::nobody)),
        rights: if request.has(libc::MSG_PEEK) { packet.rights.copies() } else { packet.rights.receive() },
        control: Vec::new(),
    })
}
