//! getsockopt and setsockopt.
//!
//! What is the same for every family is answered here: the socket's type, and how long calls on it wait. The rest is the
//! family's.

use std::sync::atomic::Ordering;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::net::options::{RECEIVE_TIMEOUT_NEW, SEND_TIMEOUT_NEW, integer, patience, timeval};
use crate::net::socket::{Caller, Socket};

use Argument::{Descriptor, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_getsockopt, "getsockopt", getsockopt, &[Descriptor, Number, Number, Pointer, Pointer]),
    Entry::new(libc::SYS_setsockopt, "setsockopt", setsockopt, &[Descriptor, Number, Number, Pointer, Number]),
];

/// `sizeof(struct linger)`.
const LINGER: usize = 8;
/// The longest option value that is looked at.
const LONGEST: usize = 4096;

fn getsockopt(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    let socket = Socket::of(&file)?;
    let memory = call.memory();
    let room: i32 = memory.read_value(call.address(4))?;
    // IPv6 takes a negative length for a huge one (do_ipv6_getsockopt() in Linux's net/ipv6/ipv6_sockglue.c).
    let negative = if call.int(1) == libc::IPPROTO_IPV6 { Ok(LONGEST) } else { Err(Errno::EINVAL) };
    let room = usize::try_from(room).or(negative)?.min(LONGEST);
    let name = call.int(2);
    let value = match (call.int(1), name) {
        (libc::SOL_SOCKET, libc::SO_TYPE) => socket.kind.to_ne_bytes().to_vec(),
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => socket.domain.to_ne_bytes().to_vec(),
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => socket.protocol_number.to_ne_bytes().to_vec(),
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | RECEIVE_TIMEOUT_NEW) => timeval(socket.patience.lock().receive),
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO | SEND_TIMEOUT_NEW) => timeval(socket.patience.lock().send),
        (level, name) => match socket.protocol.option(&Caller::of(call), level, name, room) {
            Err(Errno::ERANGE) if level == libc::SOL_SOCKET && name == libc::SO_PEERGROUPS => return too_small(call, socket),
            value => value?,
        },
    };
    let length = value.len().min(room);
    memory.write(call.address(3), &value[..length])?;
    memory.write_value(call.address(4), &(length as i32))?;
    Ok(Outcome::Value(0))
}

/// `SO_PEERGROUPS` says how much room it needs.
fn too_small(call: &Call, socket: &Socket) -> Result<Outcome> {
    let needed = socket.protocol.option(&Caller::of(call), libc::SOL_SOCKET, libc::SO_PEERGROUPS, usize::MAX)?.len();
    call.memory().write_value(call.address(4), &(needed as i32))?;
    Err(Errno::ERANGE)
}

fn setsockopt(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    let socket = Socket::of(&file)?;
    let length = usize::try_from(call.int(4)).map_err(|_| Errno::EINVAL)?.min(LONGEST);
    let (level, name) = (call.int(1), call.int(2));
    if level == libc::SOL_SOCKET && name != libc::SO_BINDTODEVICE && length < size_of::<i32>() {
        return Err(Errno::EINVAL);
    }
    let mut value = vec![0; length];
    call.memory().read(call.address(3), &mut value)?;
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | RECEIVE_TIMEOUT_NEW) => socket.patience.lock().receive = patience(&value)?,
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO | SEND_TIMEOUT_NEW) => socket.patience.lock().send = patience(&value)?,
        (libc::SOL_SOCKET, libc::SO_TYPE | libc::SO_DOMAIN | libc::SO_PROTOCOL | libc::SO_ERROR | libc::SO_ACCEPTCONN) => {
            return Err(Errno::ENOPROTOOPT);
        }
        (libc::SOL_SOCKET, libc::SO_LINGER) if length < LINGER => return Err(Errno::EINVAL),
        (level, name) => socket.protocol.set_option(&Caller::of(call), level, name, &value)?,
    }
    if (level, name) == (libc::SOL_SOCKET, libc::SO_RCVLOWAT) {
        // The family may have made less of it.
        let now = integer(&socket.protocol.option(&Caller::of(call), level, name, size_of::<i32>())?)?;
        socket.low_water.store(now, Ordering::Relaxed);
    }
    Ok(Outcome::Value(0))
}
