//! Routing netlink sockets (netlink(7), rtnetlink(7)): questions about interfaces, addresses, routes and neighbours.
//!
//! A host socket answers, but only questions reach it: every message is parsed, and one whose type is not among [`ASKED`]
//! is answered here: a change with `EPERM`, as the host would answer a process without rights, another question with `EOPNOTSUPP`, as a host
//! that cannot answer it. Other netlink protocols do not exist (`EPROTONOSUPPORT`): what they speak to (audit, netfilter, devices) is no workload's
//! business.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::address::{Passed, SocketAddress};
use super::control;
use super::inet::options::longest;
use super::inet::{HostSocket, host, interface};
use super::socket::{Caller, Incoming, Outgoing, Protocol, Request, Socket};
use crate::errno::{Errno, Result};
use crate::kernel::wait::{Ready, WaitQueue};
use crate::platform::buffer;
use crate::sync::Mutex;
use crate::syscalls::Call;
use crate::vfs::file::{Sink, Source};

/// `sizeof(struct nlmsghdr)`.
const HEADER: usize = 16;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// The longest request, bytes.
const LONGEST: usize = 16 << 10;
/// The most refusals that wait to be read; a caller that does not read them loses the later ones.
const MOST_REFUSALS: usize = 64;

/// The questions that reach the host (include/uapi/linux/rtnetlink.h): RTM_GETLINK, GETADDR, GETROUTE, GETNEIGH, GETRULE, GETNETCONF.
const ASKED: &[u16] = &[18, 22, 26, 30, 34, 82];
/// The first message type that is rtnetlink's (`RTM_BASE`), and the last.
const FIRST: u16 = 16;
/// See [`FIRST`]: `RTM_MAX` of Linux 6.1.
const LAST: u16 = 123;
/// `NLM_F_REQUEST` and `NLM_F_ACK`.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// `NLM_F_CAPPED`: an answer that repeats no more of a message than its header.
const CAPPED: u16 = 0x100;
/// Options of level `SOL_NETLINK`: memberships, PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, GET_STRICT_CHK.
const OPTIONS: &[i32] = &[1, 2, 3, 4, 5, 8, CAP_ACK, 11, 12];
/// `NETLINK_CAP_ACK`.
const CAP_ACK: i32 = 10;

/// A routing netlink socket.
pub struct NetlinkSocket {
    host: HostSocket,
    /// Answers of our own.
    refusals: Mutex<VecDeque<Vec<u8>>>,
    /// `NETLINK_CAP_ACK`.
    capped: AtomicBool,
}

/// socket(2).
pub fn socket(kind: i32, protocol: i32, maker: &Caller) -> Result<Arc<Socket>> {
    if kind != libc::SOCK_RAW && kind != libc::SOCK_DGRAM {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if protocol != libc::NETLINK_ROUTE {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let host = HostSocket::new(host::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?)?;
    let netlink = NetlinkSocket { host, refusals: Mutex::default(), capped: AtomicBool::new(false) };
    Ok(Socket::new(libc::AF_NETLINK, kind, protocol, Box::new(netlink), maker))
}

/// One message of a request.
#[derive(Debug, PartialEq, Eq)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    bytes: &'a [u8],
}

/// What becomes of a message (netlink_rcv_skb() and rtnetlink_rcv_msg() in Linux).
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// The host answers it.
    Ask,
    /// It is answered with this error; `None` acknowledges it.
    Answer(Option<Errno>),
    /// It is passed over.
    Nothing,
}

impl Message<'_> {
    fn fate(&self) -> Fate {
        let acknowledged = if self.flags & ACKNOWLEDGE != 0 { Fate::Answer(None) } else { Fate::Nothing };
        match self.kind {
            _ if self.flags & REQUEST == 0 => acknowledged,
            ..FIRST => acknowledged,
            _ if ASKED.contains(&self.kind) => Fate::Ask,
            LAST.. if self.kind > LAST => Fate::Answer(Some(Errno::EOPNOTSUPP)),
            // Every fourth type asks; the others make, delete and set.
            kind if kind & 3 == 2 => Fate::Answer(Some(Errno::EOPNOTSUPP)),
            _ => Fate::Answer(Some(Errno::EPERM)),
        }
    }
}

/// Takes a request apart, as netlink_rcv_skb() in Linux's net/netlink/af_netlink.c does: what lies about its length ends it.
fn messages(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    while bytes.len() >= HEADER {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        messages.push(Message { kind: word(4), flags: word(6), bytes: &bytes[..length] });
        bytes = &bytes[((length + 3) & !3).min(bytes.len())..];
    }
    messages
}

/// `NLMSG_ERROR` about this message (netlink_ack()): an error comes with all of the message, unless the socket wants the header alone.
fn verdict(message: &Message<'_>, error: Option<Errno>, port: u32, capped: bool) -> Vec<u8> {
    let header = &message.bytes[..HEADER];
    let repeated = if error.is_some() && !capped { message.bytes } else { header };
    let flags = if repeated.len() == HEADER { CAPPED } else { 0 };
    let mut answer = Vec::with_capacity(HEADER + 4 + repeated.len());
    answer.extend_from_slice(&((HEADER + 4 + repeated.len()) as u32).to_ne_bytes());
    answer.extend_from_slice(&ERROR.to_ne_bytes());
    answer.extend_from_slice(&flags.to_ne_bytes());
    answer.extend_from_slice(&header[8..12]);
    answer.extend_from_slice(&port.to_ne_bytes());
    answer.extend_from_slice(&error.map_or(0, |error| -error.0).to_ne_bytes());
    answer.extend_from_slice(repeated);
    answer
}

const KERNEL: SocketAddress = SocketAddress::Netlink { port: 0, groups: 0 };

impl NetlinkSocket {
    fn port(&self) -> u32 {
        match host::name(self.host.fd.as_fd(), false) {
            Ok(SocketAddress::Netlink { port, .. }) => port,
            _ => 0,
        }
    }

    fn answer(&self, message: &Message<'_>, error: Option<Errno>) {
        let answer = verdict(message, error, self.port(), self.capped.load(Ordering::Relaxed));
        let mut refusals = self.refusals.lock();
        if refusals.len() < MOST_REFUSALS {
            refusals.push_back(answer);
        }
        drop(refusals);
        self.host.queue.wake(Ready::READABLE);
    }

    fn receive_refusal(&self, request: Request, into: &mut dyn Sink) -> Result<Option<Incoming>> {
        let answer = {
            let mut refusals = self.refusals.lock();
            if request.has(libc::MSG_PEEK) { refusals.front().cloned() } else { refusals.pop_front() }
        };
        let Some(answer) = answer else { return Ok(None) };
        let length = answer.len().min(into.remaining());
        into.put(&answer[..length])?;
        let flags = if length < answer.len() { libc::MSG_TRUNC } else { 0 };
        let length = if request.has(libc::MSG_TRUNC) { answer.len() } else { length };
        Ok(Some(Incoming { length, from: Some(KERNEL), flags, ..Incoming::default() }))
    }
}

impl Protocol for NetlinkSocket {
    fn bind(&self, _: &Caller, address: &Passed, _: u32) -> Result<()> {
        address.netlink()?;
        host::bind(self.host.fd.as_fd(), address)
    }

    fn connect(&self, _: &Caller, address: &Passed) -> Result<()> {
        if address.family() != Some(libc::AF_UNSPEC) && address.netlink()? != (0, 0) {
            return Err(Errno::EPERM);
        }
        host::connect(self.host.fd.as_fd(), address)
    }

    fn name(&self) -> Result<SocketAddress> {
        host::name(self.host.fd.as_fd(), false)
    }

    fn peer(&self) -> Result<SocketAddress> {
        host::name(self.host.fd.as_fd(), true)
    }

    fn send(&self, _: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize> {
        if message.flags & libc::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let length = from.remaining();
        if length == 0 {
            return Err(Errno::ENODATA);
        }
        if let Some(to) = message.to.filter(|to| !to.bytes().is_empty())
            && to.netlink()? != (0, 0)
        {
            return Err(Errno::EPERM);
        }
        if length > LONGEST {
            return Err(Errno::EMSGSIZE);
        }
        let mut request = vec![0; length];
        if from.take(&mut request)? < length {
            return Err(Errno::EFAULT);
        }
        for message in messages(&request) {
            match message.fate() {
                // The host's buffer full in the middle of a request: what was asked so far is answered.
                Fate::Ask => drop(host::send(self.host.fd.as_fd(), message.bytes, 0, Some(&Passed::from(&KERNEL)), &[])?),
                Fate::Answer(error) => self.answer(&message, error),
                Fate::Nothing => {}
            }
        }
        Ok(length)
    }

    fn receive(&self, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
        if let Some(incoming) = self.receive_refusal(request, into)? {
            return Ok(incoming);
        }
        let flags = request.flags & (libc::MSG_PEEK | libc::MSG_TRUNC);
        buffer::with(|buffer| {
            let room = into.remaining().min(buffer.len());
            let message = host::receive_message(self.host.fd.as_fd(), &mut buffer[..room], flags, request.control.min(256))?;
            into.put(&buffer[..message.length.min(room)])?;
            let mut control = control::decode(&message.control).unwrap_or_default();
            // The sender is the host's kernel: nothing in these tells of the pod's processes.
            control.retain(|record| {
                matches!(
                    (record.level, record.kind),
                    (libc::SOL_SOCKET, libc::SCM_CREDENTIALS | libc::SO_TIMESTAMP) | (libc::SOL_NETLINK, 3)
                )
            });
            Ok(Incoming { length: message.length, from: message.from, flags: message.flags, control, ..Incoming::default() })
        })
    }

    fn option(&self, _: &Caller, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        let longest = match level {
            libc::SOL_SOCKET => longest(level, name, false)?,
            // The list of memberships, too.
            libc::SOL_NETLINK if OPTIONS.contains(&name) || name == 9 => 64,
            _ => return Err(Errno::ENOPROTOOPT),
        };
        host::option(self.host.fd.as_fd(), level, name, room.min(longest))
    }

    fn set_option(&self, _: &Caller, level: i32, name: i32, value: &[u8]) -> Result<()> {
        let longest = match level {
            libc::SOL_SOCKET if matches!(name, libc::SO_SNDBUFFORCE | libc::SO_RCVBUFFORCE | libc::SO_MARK) => return Err(Errno::EPERM),
            libc::SOL_SOCKET => longest(level, name, true)?,
            libc::SOL_NETLINK if OPTIONS.contains(&name) => 4,
            _ => return Err(Errno::ENOPROTOOPT),
        };
        let value = &value[..value.len().min(longest)];
        host::set_option(self.host.fd.as_fd(), level, name, value)?;
        if (level, name) == (libc::SOL_NETLINK, CAP_ACK) {
            self.capped.store(value.iter().any(|byte| *byte != 0), Ordering::Relaxed);
        }
        Ok(())
    }

    fn ioctl(&self, call: &Call, command: u32, argument: u64) -> Result<i64> {
        interface::ioctl(call, libc::AF_NETLINK, command, argument)
    }

    fn poll(&self) -> Ready {
        let own = if self.refusals.lock().is_empty() { Ready::empty() } else { Ready::READABLE };
        host::ready(self.host.fd.as_fd()) | own
    }

    fn wait_queue(&self) -> &WaitQueue {
        &self.host.queue
    }

    fn number(&self) -> u64 {
        host::inode(&self.host.fd)
    }

    fn close(&self) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{caller, receive, send};
    use super::*;

    fn request(kind: u16, flags: u16, sequence: u32) -> Vec<u8> {
        let mut bytes = 32u32.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.resize(32, 0);
        bytes
    }

    #[test]
    fn questions_are_answered_and_changes_are_refused() {
        let route = socket(libc::SOCK_RAW, libc::NETLINK_ROUTE, &caller()).unwrap();
        // RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP.
        send(&route, &request(18, 0x301, 7)).unwrap();
        let answer = receive(&route, 65_536).unwrap();
        assert_eq!((&answer[4..6], &answer[8..12]), (&16u16.to_ne_bytes()[..], &7u32.to_ne_bytes()[..]), "RTM_NEWLINK");
        while receive(&route, 65_536).is_ok() {}
        // RTM_NEWLINK.
        send(&route, &request(16, 1, 8)).unwrap();
        assert!(route.protocol.poll().contains(Ready::IN));
        let answer = receive(&route, 65_536).unwrap();
        assert_eq!((&answer[4..6], &answer[16..20]), (&ERROR.to_ne_bytes()[..], &(-libc::EPERM).to_ne_bytes()[..]));
        assert_eq!(&answer[20..], request(16, 1, 8), "the whole message");
        assert!(matches!(socket(libc::SOCK_RAW, libc::NETLINK_AUDIT, &caller()), Err(Errno::EPROTONOSUPPORT)));
    }

    proptest! {
        #[test]
        fn messages_cover_a_prefix_and_nothing_else(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0u32..64) {
            let mut bytes = bytes;
            if bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&length.to_ne_bytes());
            }
            let found = messages(&bytes);
            let covered: usize = found.iter().map(|message| message.bytes.len()).sum();
            prop_assert!(covered <= bytes.len());
            prop_assert!(found.iter().all(|message| message.bytes.len() >= HEADER));
            for message in &found {
                prop_assert_eq!(verdict(message, None, 1, false).len(), 36);
                prop_assert_eq!(verdict(message, Some(Errno::EPERM), 1, false).len(), 20 + message.bytes.len());
                // Nothing but a question that stands in the list goes to the host.
                prop_assert!(message.fate() != Fate::Ask || ASKED.contains(&message.kind) && message.flags & REQUEST != 0);
            }
        }
    }
}
