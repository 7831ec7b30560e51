//! Unix sockets (unix(7)): streams, datagrams and sequenced packets between the pod's processes.
//!
//! Two [`endpoint::Endpoint`]s that are connected hold each other; each owns the queue of packets that it has yet to read. A packet is
//! charged to its sender ([`queue::Account`]) until it has been read, and that is what limits a sender, as in Linux. A
//! [`socket::Socket`](super::socket::Socket) is the file in front of an endpoint: when its last descriptor goes it closes the endpoint, which
//! lets go of its peer, so that the circle of two is broken there.
//!
//! - [`names`]: who is bound to which path or abstract name;
//! - [`connection`]: listen, connect, accept;
//! - [`stream`] and [`datagram`]: moving bytes and messages; [`urgent`]: the urgent bytes of streams;
//! - [`rights`]: descriptors on their way (`SCM_RIGHTS`), and collecting those that nobody can receive any more.
//!
//! Absent: sockets of the *host* that a bind mount shows. Connecting to one is `ECONNREFUSED`: a host socket would be a way
//! around this kernel. `SIGURG` for urgent bytes.
//!
//! What a workload can make this process hold is bounded as in Linux: bytes under way by each sender's `SO_SNDBUF`, connections by backlogs, messages by
//! `max_dgram_qlen`, descriptors under way by their user's `RLIMIT_NOFILE`. All of it is memory of the pod's own cgroup.
//!
//! Locks: the table of names, then the state of one endpoint at a time, never two; packets are dropped with none held.

use std::sync::Arc;

use super::socket::{Caller, Kind, Socket};
use crate::errno::{Errno, Result};

pub mod connection;
pub mod datagram;
pub mod endpoint;
pub mod names;
pub mod options;
pub mod queue;
pub mod rights;
pub mod stream;
#[cfg(test)]
mod tests;
mod urgent;

use endpoint::{Endpoint, UnixSocket};

/// The kind that socket(2) asks for: `SOCK_RAW` is a datagram socket, as in Linux.
fn kind(number: i32) -> Result<Kind> {
    match number {
        libc::SOCK_STREAM => Ok(Kind::Stream),
        libc::SOCK_DGRAM | libc::SOCK_RAW => Ok(Kind::Datagram),
        libc::SOCK_SEQPACKET => Ok(Kind::SequencedPacket),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// The file in front of an endpoint.
pub fn front(endpoint: Arc<Endpoint>, maker: &Caller) -> Arc<Socket> {
    let kind = endpoint.kind.number();
    Socket::new(libc::AF_UNIX, kind, 0, Box::new(UnixSocket(endpoint)), maker)
}

/// socket(2).
pub fn socket(number: i32, protocol: i32, maker: &Caller) -> Result<Arc<Socket>> {
    if protocol != 0 && protocol != libc::PF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok(front(Endpoint::new(kind(number)?), maker))
}

/// socketpair(2).
pub fn pair(number: i32, protocol: i32, maker: &Caller) -> Result<(Arc<Socket>, Arc<Socket>)> {
    if protocol != 0 && protocol != libc::PF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let kind = kind(number)?;
    let (first, second) = (Endpoint::new(kind), Endpoint::new(kind));
    connection::join(&first, &second, maker.identity());
    Ok((front(first, maker), front(second, maker)))
}
