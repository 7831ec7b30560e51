//! Options and ioctls of Unix sockets.

use std::sync::Arc;

use super::super::control::Record;
use super::super::options::{COOKIE, integer, kept};
use super::super::socket::{Caller, Kind};
use super::endpoint::{Endpoint, Link, State};
use super::queue::doubled;
use super::{stream, urgent};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Capability;
use crate::kernel::wait::Ready;
use crate::platform::memory::Address;
use crate::syscalls::Call;
use crate::vfs::node::Timestamp;

/// The value of a kept option.
fn value(state: &State, name: i32) -> Option<i32> {
    let set = state.kept.iter().find(|(kept, _)| *kept == name).map(|(_, value)| *value);
    set.or_else(|| kept(name).map(|kind| kind.initial()))
}

/// Whether a kept option is on.
pub fn is_set(state: &State, name: i32) -> bool {
    // Few sockets have any, and this is asked for each read.
    !state.kept.is_empty() && value(state, name).unwrap_or(0) != 0
}

/// Whether messages are to show when they were sent.
pub fn wants_time(state: &State) -> bool {
    is_set(state, libc::SO_TIMESTAMP) || is_set(state, libc::SO_TIMESTAMPNS)
}

/// How they show it: `struct timespec` or `struct timeval`.
pub fn time_format(state: &State) -> fn(Timestamp) -> Record {
    if is_set(state, libc::SO_TIMESTAMPNS) {
        |sent| {
            Record::new(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, [sent.seconds, i64::from(sent.nanoseconds)].map(i64::to_ne_bytes).concat())
        }
    } else {
        |sent| {
            Record::new(
                libc::SOL_SOCKET,
                libc::SO_TIMESTAMP,
                [sent.seconds, i64::from(sent.nanoseconds / 1000)].map(i64::to_ne_bytes).concat(),
            )
        }
    }
}

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
        libc::SO_SNDLOWAT => 1,
        libc::SO_PEEK_OFF => state.peek_offset,
        COOKIE => return if room < 8 { Err(Errno::EINVAL) } else { Ok(endpoint.number.to_ne_bytes().to_vec()) },
        libc::SO_LINGER => return Ok(state.linger.map(i32::to_ne_bytes).concat()),
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
        _ => value(&state, name).ok_or(Errno::ENOPROTOOPT)?,
    };
    Ok(value.to_ne_bytes().to_vec())
}

/// setsockopt(2).
pub fn set(endpoint: &Arc<Endpoint>, caller: &Caller, level: i32, name: i32, bytes: &[u8]) -> Result<()> {
    if level != libc::SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    if name == libc::SO_BINDTODEVICE {
        return Err(Errno::ENOPROTOOPT);
    }
    let number = integer(bytes)?;
    match name {
        libc::SO_PASSCRED => endpoint.state.lock().pass_credentials = number != 0,
        libc::SO_SNDBUF => {
            endpoint.account.set_limit(number);
            endpoint.queue.wake(Ready::WRITABLE);
        }
        libc::SO_RCVBUF => endpoint.state.lock().receive_limit = doubled(number).max(2304),
        libc::SO_SNDBUFFORCE | libc::SO_RCVBUFFORCE => {
            if !caller.credentials.capable(Capability::NetAdmin) {
                return Err(Errno::EPERM);
            }
            return set(endpoint, caller, level, if name == libc::SO_SNDBUFFORCE { libc::SO_SNDBUF } else { libc::SO_RCVBUF }, bytes);
        }
        libc::SO_PEEK_OFF => endpoint.state.lock().peek_offset = number,
        // There is never one.
        libc::SO_DETACH_FILTER => {
            return Err(if is_set(&endpoint.state.lock(), libc::SO_LOCK_FILTER) { Errno::EPERM } else { Errno::ENOENT });
        }
        libc::SO_LINGER => {
            let [on, time] = [integer(bytes)?, integer(bytes.get(4..).unwrap_or_default())?];
            let mut state = endpoint.state.lock();
            state.linger = if on != 0 { [1, time] } else { [0, state.linger[1]] };
        }
        _ => {
            let kind = kept(name).ok_or(Errno::ENOPROTOOPT)?;
            let mut state = endpoint.state.lock();
            let before = value(&state, name).unwrap_or(0);
            let now = kind.set(before, number, &caller.credentials)?;
            state.kept.retain(|(kept, _)| *kept != name);
            if now != kind.initial() {
                state.kept.push((name, now));
            }
            // Of the two formats of time one is shown: the last that was asked for.
            let other = [libc::SO_TIMESTAMP, libc::SO_TIMESTAMPNS].into_iter().find(|other| *other != name);
            if matches!(name, libc::SO_TIMESTAMP | libc::SO_TIMESTAMPNS) {
                state.kept.retain(|(kept, _)| Some(*kept) != other);
            }
        }
    }
    Ok(())
}

/// `FIONREAD`, `SIOCOUTQ` and `SIOCATMARK` (unix(7)).
pub fn ioctl(endpoint: &Arc<Endpoint>, call: &Call, command: u32, argument: u64) -> Result<i64> {
    let value = match u64::from(command) {
        libc::FIONREAD => waiting(endpoint)?,
        libc::TIOCOUTQ => endpoint.account.charged(),
        AT_MARK => usize::from(urgent::at_mark(&endpoint.state.lock().incoming)),
        _ => return super::super::inet::interface::ioctl(call, libc::AF_UNIX, command, argument),
    };
    call.memory().write_value(Address(argument), &i32::try_from(value).unwrap_or(i32::MAX))?;
    Ok(0)
}

/// `SIOCATMARK`.
const AT_MARK: u64 = 0x8905;

/// Bytes that the next read finds: all of a stream's, one message's otherwise.
pub fn waiting(endpoint: &Arc<Endpoint>) -> Result<usize> {
    let state = endpoint.state.lock();
    if matches!(state.link, Link::Listening(_)) {
        return Err(Errno::EINVAL);
    }
    Ok(match endpoint.kind {
        Kind::Datagram => state.incoming.front().map_or(0, |packet| packet.data.len()),
        _ => stream::waiting(&state.incoming),
    })
}
