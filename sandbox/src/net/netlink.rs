//! Routing netlink sockets (netlink(7), rtnetlink(7)): questions about interfaces, addresses, routes and neighbours.
//!
//! A host socket answers, but only questions reach it: every message is parsed, and one whose type is not among [`ASKED`]
//! is answered here, with `EPERM`, as the host would answer a process without rights. Other netlink protocols do not exist
//! (`EPROTONOSUPPORT`): what they speak to (audit, netfilter, devices) is no workload's business.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::address::SocketAddress;
use super::control;
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

/// The messages that reach the host (include/uapi/linux/rtnetlink.h): RTM_GETLINK, GETADDR, GETROUTE, GETNEIGH, GETRULE, GETNETCONF, and the
/// control messages NLMSG_NOOP and NLMSG_DONE.
const ASKED: &[u16] = &[18, 22, 26, 30, 34, 82, 1, 3];
/// Options of level `SOL_NETLINK`: memberships, PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, CAP_ACK, EXT_ACK, GET_STRICT_CHK.
const OPTIONS: &[i32] = &[1, 2, 3, 4, 5, 10, 11, 12];
/// Options of level `SOL_SOCKET`.
const SOCKET_OPTIONS: &[i32] =
    &[libc::SO_SNDBUF, libc::SO_RCVBUF, libc::SO_PASSCRED, libc::SO_ERROR, libc::SO_REUSEADDR, libc::SO_TIMESTAMP];

/// A routing netlink socket.
pub struct NetlinkSocket {
    host: HostSocket,
    /// Answers of our own.
    refusals: Mutex<VecDeque<Vec<u8>>>,
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
    let netlink = NetlinkSocket { host, refusals: Mutex::default() };
    Ok(Socket::new(libc::AF_NETLINK, kind, protocol, Box::new(netlink), maker))
}

/// One message of a request.
#[derive(Debug, PartialEq, Eq)]
struct Message<'a> {
    kind: u16,
    bytes: &'a [u8],
}

/// Takes a request apart, as netlink_rcv_skb() in Linux's net/netlink/af_netlink.c does: what lies about its length ends it.
fn messages(mut bytes: &[u8]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    while bytes.len() >= HEADER {
        let length = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        messages.push(Message { kind: u16::from_ne_bytes([bytes[4], bytes[5]]), bytes: &bytes[..length] });
        bytes = &bytes[((length + 3) & !3).min(bytes.len())..];
    }
    messages
}

/// `NLMSG_ERROR` with `EPERM`, about this message.
fn refusal(message: &Message<'_>, port: u32) -> Vec<u8> {
    let header = &message.bytes[..HEADER];
    let mut answer = Vec::with_capacity(36);
    answer.extend_from_slice(&36u32.to_ne_bytes());
    answer.extend_from_slice(&ERROR.to_ne_bytes());
    answer.extend_from_slice(&0u16.to_ne_bytes());
    answer.extend_from_slice(&header[8..12]);
    answer.extend_from_slice(&port.to_ne_bytes());
    answer.extend_from_slice(&(-libc::EPERM).to_ne_bytes());
    answer.extend_from_slice(header);
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

    fn refuse(&self, message: &Message<'_>) {
        let answer = refusal(message, self.port());
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
    fn bind(&self, _: &Caller, address: &SocketAddress) -> Result<()> {
        match address {
            SocketAddress::Netlink { .. } => host::bind(self.host.fd.as_fd(), address),
            _ => Err(Errno::EINVAL),
        }
    }

    fn connect(&self, _: &Caller, address: &SocketAddress) -> Result<()> {
        match *address {
            KERNEL | SocketAddress::Unspecified => host::connect(self.host.fd.as_fd(), address),
            SocketAddress::Netlink { .. } => Err(Errno::EPERM),
            _ => Err(Errno::EINVAL),
        }
    }

    fn name(&self) -> Result<SocketAddress> {
        host::name(self.host.fd.as_fd(), false)
    }

    fn peer(&self) -> Result<SocketAddress> {
        host::name(self.host.fd.as_fd(), true)
    }

    fn send(&self, _: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize> {
        match &message.to {
            None | Some(KERNEL) => {}
            Some(SocketAddress::Netlink { .. }) => return Err(Errno::EPERM),
            Some(_) => return Err(Errno::EINVAL),
        }
        let length = from.remaining();
        if length > LONGEST {
            return Err(Errno::EMSGSIZE);
        }
        let mut request = vec![0; length];
        if from.take(&mut request)? < length {
            return Err(Errno::EFAULT);
        }
        for message in messages(&request) {
            if ASKED.contains(&message.kind) {
                // The host's buffer full in the middle of a request: what was asked so far is answered.
                host::send(self.host.fd.as_fd(), message.bytes, 0, Some(&KERNEL), &[])?;
            } else {
                self.refuse(&message);
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
        let known = match level {
            libc::SOL_SOCKET => SOCKET_OPTIONS.contains(&name),
            // The list of memberships, too.
            libc::SOL_NETLINK => OPTIONS.contains(&name) || name == 9,
            _ => false,
        };
        if known { host::option(self.host.fd.as_fd(), level, name, room.min(64)) } else { Err(Errno::ENOPROTOOPT) }
    }

    fn set_option(&self, _: &Caller, level: i32, name: i32, value: &[u8]) -> Result<()> {
        let known = match level {
            libc::SOL_SOCKET if matches!(name, libc::SO_SNDBUFFORCE | libc::SO_RCVBUFFORCE) => return Err(Errno::EPERM),
            libc::SOL_SOCKET => SOCKET_OPTIONS.contains(&name),
            libc::SOL_NETLINK => OPTIONS.contains(&name),
            _ => false,
        };
        if !known {
            return Err(Errno::ENOPROTOOPT);
        }
        host::set_option(self.host.fd.as_fd(), level, name, &value[..value.len().min(4)])
    }

    fn ioctl(&self, call: &Call, command: u32, argument: u64) -> Result<i64> {
        interface::ioctl(call, command, argument)
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
                prop_assert_eq!(refusal(message, 1).len(), 36);
            }
        }
    }
}
