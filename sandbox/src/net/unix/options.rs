//! Options and ioctls of Unix sockets.

use std::sync::Arc;

use super::super::options::integer;
use super::super::socket::{Caller, Kind};
use super::endpoint::{Endpoint, Link};
use super::queue::doubled;
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Capability;
use crate::platform::memory::Address;
use crate::syscalls::Call;

/// Options that are kept and shown, and change nothing here (socket(7)).
const KEPT: &[(i32, i32)] = &[
    (libc::SO_REUSEADDR, 0),
    (libc::SO_REUSEPORT, 0),
    (libc::SO_KEEPALIVE, 0),
    (libc::SO_BROADCAST, 0),
    (libc::SO_OOBINLINE, 0),
    (libc::SO_DONTROUTE, 0),
    (libc::SO_TIMESTAMP, 0),
    (libc::SO_TIMESTAMPNS, 0),
    (libc::SO_PRIORITY, 0),
    (libc::SO_RCVLOWAT, 1),
    (libc::SO_BUSY_POLL, 0),
    (libc::SO_NO_CHECK, 0),
    (libc::SO_PASSSEC, 0),
    (libc::SO_PEEK_OFF, -1),
];

/// getsockopt(2). Unix sockets have no level but `SOL_SOCKET`.
pub fn get(endpoint: &Arc<Endpoint>, caller: &Caller, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
    if level != libc::SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut state = endpoint.state.lock();
    let value = match name {
        libc::SO_ERROR => state.error.take().map_or(0, |error| error.0),
        libc::SO_ACCEPTCONN => i32::from(matches!(state.link, Link::Listening(_))),
        libc::SO_PASSCRED => i32::from(state.pass_credentials),
        libc::SO_SNDBUF => endpoint.account.limit() as i32,
        libc::SO_RCVBUF => state.receive_limit as i32,
        // Off, and no seconds.
        libc::SO_LINGER => return Ok(vec![0; 8]),
        libc::SO_PEERCRED => {
            let peer = state.peer_identity.clone();
            drop(state);
            // Nobody: no process, and -1 for user and group.
            return Ok(peer.map_or_else(|| [0i32, -1, -1].map(i32::to_ne_bytes).concat(), |peer| peer.encode(caller)));
        }
        libc::SO_PEERGROUPS => {
            let peer = state.peer_identity.as_ref().ok_or(Errno::ENODATA)?;
            let groups: Vec<u8> = peer.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
            return if groups.len() > room { Err(Errno::ERANGE) } else { Ok(groups) };
        }
        _ => {
            let kept = state.kept.iter().chain(KEPT).find(|(kept, _)| *kept == name);
            kept.map(|(_, value)| *value).ok_or(Errno::ENOPROTOOPT)?
        }
    };
    Ok(value.to_ne_bytes().to_vec())
}

/// setsockopt(2).
pub fn set(endpoint: &Arc<Endpoint>, caller: &Caller, level: i32, name: i32, value: &[u8]) -> Result<()> {
    if level != libc::SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let number = integer(value)?;
    match name {
        libc::SO_PASSCRED => endpoint.state.lock().pass_credentials = number != 0,
        libc::SO_SNDBUF => endpoint.account.set_limit(number),
        libc::SO_RCVBUF => endpoint.state.lock().receive_limit = doubled(number).max(2304),
        libc::SO_SNDBUFFORCE | libc::SO_RCVBUFFORCE => {
            if !caller.credentials.capable(Capability::NetAdmin) {
                return Err(Errno::EPERM);
            }
            return set(endpoint, caller, level, if name == libc::SO_SNDBUFFORCE { libc::SO_SNDBUF } else { libc::SO_RCVBUF }, value);
        }
        libc::SO_LINGER => {}
        _ if KEPT.iter().any(|(kept, _)| *kept == name) => {
            let mut state = endpoint.state.lock();
            state.kept.retain(|(kept, _)| *kept != name);
            state.kept.push((name, number));
        }
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

/// `FIONREAD` and `SIOCOUTQ` (unix(7)).
pub fn ioctl(endpoint: &Arc<Endpoint>, call: &Call, command: u32, argument: u64) -> Result<i64> {
    let value = match u64::from(command) {
        libc::FIONREAD => waiting(endpoint)?,
        libc::TIOCOUTQ => endpoint.account.charged(),
        _ => return super::super::inet::interface::ioctl(call, command, argument),
    };
    call.memory().write_value(Address(argument), &i32::try_from(value).unwrap_or(i32::MAX))?;
    Ok(0)
}

/// Bytes that the next read finds: all of a stream's, one message's otherwise.
pub fn waiting(endpoint: &Arc<Endpoint>) -> Result<usize> {
    let state = endpoint.state.lock();
    if matches!(state.link, Link::Listening(_)) {
        return Err(Errno::EINVAL);
    }
    Ok(match endpoint.kind {
        Kind::Datagram => state.incoming.front().map_or(0, |packet| packet.data.len()),
        _ => state.incoming.iter().map(|packet| packet.unread().len()).sum(),
    })
}
