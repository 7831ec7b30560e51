//! Listening, connecting, accepting, shutting down.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::address::Passed;
use super::super::socket::{Caller, Identity};
use super::endpoint::{Endpoint, Link, Listening};
use super::names;
use crate::errno::{Errno, Result};
use crate::kernel::wait::Ready;

/// `net.core.somaxconn`'s default since Linux 5.4.
pub const MOST_WAITING: usize = 4096;

/// Connects two fresh endpoints (socketpair(2)).
pub fn join(first: &Arc<Endpoint>, second: &Arc<Endpoint>, identity: Identity) {
    for (one, other) in [(first, second), (second, first)] {
        let mut state = one.state.lock();
        state.link = Link::Peer(other.clone());
        state.peer_identity = Some(identity.clone());
    }
}

/// listen(2). `EINVAL` for one that has no name or is connected; `EOPNOTSUPP` for datagrams.
pub fn listen(endpoint: &Arc<Endpoint>, caller: &Caller, backlog: i32) -> Result<()> {
    if !endpoint.is_connected_kind() {
        return Err(Errno::EOPNOTSUPP);
    }
    // A negative backlog is a huge unsigned one in Linux.
    let backlog = usize::try_from(backlog).unwrap_or(MOST_WAITING).min(MOST_WAITING);
    let mut state = endpoint.state.lock();
    if state.name.is_none() {
        return Err(Errno::EINVAL);
    }
    let impatient = match &mut state.link {
        Link::Peer(_) => return Err(Errno::EINVAL),
        Link::Listening(listening) => {
            listening.backlog = backlog;
            listening.identity = caller.identity();
            std::mem::take(&mut state.impatient)
        }
        Link::None => {
            state.link = Link::Listening(Listening { backlog, waiting: VecDeque::new(), identity: caller.identity() });
            Vec::new()
        }
    };
    drop(state);
    impatient.iter().for_each(|queue| queue.wake(Ready::WRITABLE));
    Ok(())
}

/// connect(2) of a stream or of sequenced packets. `EAGAIN` while the listener's backlog is full.
pub fn connect(endpoint: &Arc<Endpoint>, caller: &Caller, address: &Passed) -> Result<()> {
    let name = address.unix()?.ok_or(Errno::EINVAL)?;
    if endpoint.state.lock().pass_credentials {
        names::autobind(endpoint)?;
    }
    let listener = names::find(caller, &name, endpoint.kind)?;
    let theirs = Endpoint::new(endpoint.kind);
    claim(endpoint, &theirs)?;
    {
        let mut state = theirs.state.lock();
        state.link = Link::Peer(endpoint.clone());
        state.peer_identity = Some(caller.identity());
        state.embryo = true;
    }
    match enqueue(&listener, endpoint, &theirs) {
        Ok(identity) => endpoint.state.lock().peer_identity = Some(identity),
        Err(error) => {
            endpoint.state.lock().link = Link::None;
            theirs.state.lock().link = Link::None;
            theirs.close(false);
            return Err(error);
        }
    }
    listener.queue.wake(Ready::READABLE);
    endpoint.queue.wake(Ready::WRITABLE);
    Ok(())
}

/// Takes an endpoint for a connection.
fn claim(endpoint: &Arc<Endpoint>, theirs: &Arc<Endpoint>) -> Result<()> {
    let mut state = endpoint.state.lock();
    match state.link {
        Link::Peer(_) => Err(Errno::EISCONN),
        Link::Listening(_) => Err(Errno::EINVAL),
        Link::None => {
            state.link = Link::Peer(theirs.clone());
            Ok(())
        }
    }
}

/// Puts a connection's far end before its listener; gives who that is.
fn enqueue(listener: &Arc<Endpoint>, endpoint: &Arc<Endpoint>, theirs: &Arc<Endpoint>) -> Result<Identity> {
    let mut state = listener.state.lock();
    let (name, node, pass, shut) = (state.name.clone(), state.node.clone(), state.pass_credentials, state.read_shut);
    let Link::Listening(listening) = &mut state.link else { return Err(Errno::ECONNREFUSED) };
    if shut {
        return Err(Errno::ECONNREFUSED);
    }
    if listening.waiting.len() > listening.backlog {
        state.impatient.push(endpoint.queue.clone());
        return Err(Errno::EAGAIN);
    }
    {
        // Nobody else knows this endpoint yet: the one place where two are locked.
        let mut fresh = theirs.state.lock();
        (fresh.name, fresh.node, fresh.pass_credentials) = (name, node, pass);
    }
    listening.waiting.push_back(theirs.clone());
    Ok(listening.identity.clone())
}

/// accept(2).
pub fn accept(endpoint: &Arc<Endpoint>) -> Result<Arc<Endpoint>> {
    if !endpoint.is_connected_kind() {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut state = endpoint.state.lock();
    let shut = state.read_shut;
    let Link::Listening(listening) = &mut state.link else { return Err(Errno::EINVAL) };
    let Some(accepted) = listening.waiting.pop_front() else {
        return Err(if shut { Errno::EINVAL } else { Errno::EAGAIN });
    };
    let impatient = std::mem::take(&mut state.impatient);
    drop(state);
    accepted.state.lock().embryo = false;
    impatient.iter().for_each(|queue| queue.wake(Ready::WRITABLE));
    Ok(accepted)
}

/// shutdown(2): what one end shuts for writing, its peer can no longer read.
pub fn shutdown(endpoint: &Arc<Endpoint>, how: i32) -> Result<()> {
    let reads = how == libc::SHUT_RD || how == libc::SHUT_RDWR;
    let writes = how == libc::SHUT_WR || how == libc::SHUT_RDWR;
    let peer = {
        let mut state = endpoint.state.lock();
        state.read_shut |= reads;
        state.write_shut |= writes;
        match &state.link {
            Link::Peer(peer) if endpoint.is_connected_kind() => Some(peer.clone()),
            _ => None,
        }
    };
    if let Some(peer) = peer {
        let mut state = peer.state.lock();
        state.read_shut |= writes;
        state.write_shut |= reads;
        drop(state);
        peer.queue.wake(Ready::all());
    }
    endpoint.queue.wake(Ready::all());
    Ok(())
}
