//! Urgent bytes of streams (`MSG_OOB`, Linux 5.15): manage_oob() and unix_stream_recv_urg() in net/unix/af_unix.c, whose rules these are.
//!
//! The last byte of a message that is sent with `MSG_OOB` lies in the queue as a packet of its own. An ordinary read stops before it; the next one
//! skips and drops it, or takes it as a byte like others where `SO_OOBINLINE` is set. Received with `MSG_OOB` it leaves an empty packet, the mark, where
//! an ordinary read stops too.

use std::collections::VecDeque;

use super::super::socket::{Incoming, Request};
use super::endpoint::State;
use super::queue::Packet;
use crate::errno::{Errno, Result};
use crate::vfs::file::Sink;

/// Receives the urgent byte. `EINVAL` where there is none, or where it is read in its place.
pub fn receive(state: &mut State, request: Request, inline: bool, into: &mut dyn Sink, read: &mut Vec<Packet>) -> Result<Incoming> {
    let found = state.incoming.iter().position(|packet| packet.urgent).filter(|_| !inline);
    let mut index = found.ok_or(Errno::EINVAL)?;
    let byte = state.incoming[index].data[0];
    if !request.has(libc::MSG_PEEK) {
        // A mark right before it has served.
        if index > 0 && state.incoming[index - 1].is_mark() {
            read.extend(state.incoming.remove(index - 1));
            index -= 1;
        }
        state.incoming[index].urgent = false;
        state.incoming[index].read = 1;
    }
    if into.remaining() == 0 {
        return Err(Errno::EFAULT);
    }
    into.put(&[byte])?;
    Ok(Incoming { length: 1, flags: libc::MSG_OOB, border: true, ..Incoming::default() })
}

/// Where an ordinary read goes on that stands at `at`: past marks and urgent bytes. `None` where nothing is left, or where one of them ends
/// the read, which has `begun`.
pub fn pass(queue: &mut VecDeque<Packet>, at: usize, peek: bool, inline: bool, begun: bool, read: &mut Vec<Packet>) -> Option<usize> {
    let mut at = at;
    if queue.get(at)?.is_mark() {
        let more = queue.iter().any(|packet| packet.urgent);
        if begun && !more {
            return None;
        }
        if peek {
            at += 1;
        } else {
            read.extend(queue.remove(at));
        }
    }
    if !queue.get(at)?.urgent {
        return Some(at);
    }
    if begun {
        return None;
    }
    if peek {
        at += usize::from(!inline);
    } else {
        queue[at].urgent = false;
        if !inline {
            read.extend(queue.remove(at));
        }
    }
    queue.get(at).map(|_| at)
}

/// `SIOCATMARK`: whether the next ordinary read begins at the mark.
pub fn at_mark(queue: &VecDeque<Packet>) -> bool {
    let Some(front) = queue.front() else { return false };
    let pending = queue.iter().position(|packet| packet.urgent);
    front.urgent || front.is_mark() && matches!(pending, None | Some(1))
}
