//! Internet sockets (ip(7), ipv6(7), tcp(7), udp(7)): TCP, UDP, ICMP echo.
//!
//! Each is a socket of the *host*, in the pod's network namespace, that only this process holds. The host's TCP does the
//! work; this room decides what reaches it: parsed addresses, the options of a table ([`options`]), filtered control data, and bytes,
//! which pass through a buffer of this process, one copy each way.
//!
//! Host sockets never block. The reactor tells each change of their readiness to the socket's wait queue (edge-triggered);
//! whoever waits tries first and sleeps only after `EAGAIN`, so that no change is missed.
//!
//! Rights that the host cannot judge are judged here, by [`settings`]: ports below `net.ipv4.ip_unprivileged_port_start` need `CAP_NET_BIND_SERVICE`
//! and ICMP echo a group in `net.ipv4.ping_group_range` (the pod's namespace lets anyone have them). Raw sockets are `EPERM`: the kernel process
//! has no right to them, so nobody has.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::address::{Passed, SocketAddress};
use super::control::{self, Encoder, Record};
use super::settings;
use super::socket::{Caller, Incoming, Outgoing, Protocol, Request, Socket};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Capability;
use crate::kernel::kernel;
use crate::kernel::reactor::Watch;
use crate::kernel::wait::{Observer, Ready, WaitQueue};
use crate::platform::buffer;
use crate::platform::memory::Address;
use crate::sync::Mutex;
use crate::syscalls::Call;
use crate::vfs::file::{Sink, Source};

pub mod host;
pub mod interface;
pub mod options;
#[cfg(test)]
mod tests;

/// Message flags that reach the host when sending; others are none of its business or unsafe to pass.
const SEND_FLAGS: i32 = libc::MSG_OOB | libc::MSG_DONTROUTE | libc::MSG_EOR | libc::MSG_CONFIRM | libc::MSG_MORE | libc::MSG_FASTOPEN;
/// The same when receiving.
const RECEIVE_FLAGS: i32 = libc::MSG_OOB | libc::MSG_PEEK | libc::MSG_TRUNC | libc::MSG_ERRQUEUE;
/// The most ancillary bytes that the host is asked for.
const CONTROL: usize = 512;

/// A host socket and who waits for it.
pub struct HostSocket {
    // Before the descriptor: a watch ends first.
    _watch: Watch,
    /// The host's descriptor.
    pub fd: OwnedFd,
    /// Who waits.
    pub queue: WaitQueue,
}

struct Waker(WaitQueue);

impl Observer for Waker {
    fn notify(&self, ready: Ready) {
        self.0.wake(ready);
    }
}

impl HostSocket {
    /// Has the reactor watch a host socket.
    pub fn new(fd: OwnedFd) -> Result<HostSocket> {
        let queue = WaitQueue::new();
        let interest = Ready::IN | Ready::OUT | Ready::PRI | Ready::RDHUP;
        let watch = kernel().reactor.watch(fd.as_fd(), interest, Arc::new(Waker(queue.clone())))?;
        Ok(HostSocket { _watch: watch, fd, queue })
    }
}

/// An internet socket.
pub struct InetSocket {
    host: HostSocket,
    domain: i32,
    kind: i32,
    protocol: i32,
    /// `SO_LINGER` with a time was set.
    lingers: AtomicBool,
    /// Bytes of a stream that the host gave and the workload's memory did not take (`EFAULT`): they come first.
    unwritten: Mutex<Vec<u8>>,
    /// Whether there are any: spares every other read the lock.
    has_unwritten: AtomicBool,
}

/// One more than the highest protocol number (`IPPROTO_MAX`).
const PROTOCOLS: i32 = 263;

/// socket(2). `EPERM` for raw sockets; `EACCES` for echo sockets of groups that may not have any.
pub fn socket(domain: i32, kind: i32, protocol: i32, maker: &Caller) -> Result<Arc<Socket>> {
    if !(0..PROTOCOLS).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    if kind == libc::SOCK_RAW || kind == PACKET && domain == libc::AF_INET {
        return Err(Errno::EPERM);
    }
    let echo = if domain == libc::AF_INET { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
    let protocol = match (kind, protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => libc::IPPROTO_TCP,
        (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => libc::IPPROTO_UDP,
        (libc::SOCK_DGRAM, _) if protocol == echo => {
            settings::may_ping(&maker.credentials)?;
            echo
        }
        (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    front(host::socket(domain, kind, protocol)?, domain, kind, protocol, maker, false)
}

/// `SOCK_PACKET`: the old name of a packet socket.
const PACKET: i32 = 10;

fn front(fd: OwnedFd, domain: i32, kind: i32, protocol: i32, maker: &Caller, lingers: bool) -> Result<Arc<Socket>> {
    let inet = InetSocket {
        host: HostSocket::new(fd)?,
        domain,
        kind,
        protocol,
        lingers: AtomicBool::new(lingers),
        unwritten: Mutex::default(),
        has_unwritten: AtomicBool::new(false),
    };
    Ok(Socket::new(domain, kind, protocol, Box::new(inet), maker))
}

impl InetSocket {
    fn is_stream(&self) -> bool {
        self.kind == libc::SOCK_STREAM
    }

    /// Gives bytes of a stream to the workload; keeps them where its memory does not take them. A datagram is lost then, in Linux too.
    fn give(&self, request: Request, bytes: &[u8], into: &mut dyn Sink) -> Result<()> {
        into.put(bytes).inspect_err(|_| {
            // All of them, those too that were written: the call fails, and Linux has then taken nothing.
            if !request.has(libc::MSG_PEEK | libc::MSG_OOB) {
                self.unwritten.lock().extend_from_slice(bytes);
                self.has_unwritten.store(true, Ordering::Release);
            }
        })
    }

    /// Receives from the bytes that were kept.
    fn receive_unwritten(&self, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
        let mut kept = self.unwritten.lock();
        let length = kept.len().min(into.remaining());
        if !request.has(libc::MSG_TRUNC) {
            into.put(&kept[..length])?;
        }
        if !request.has(libc::MSG_PEEK) {
            kept.drain(..length);
            self.has_unwritten.store(!kept.is_empty(), Ordering::Release);
        }
        Ok(Incoming { length, ..Incoming::default() })
    }
}

/// The records that may reach the host. `EINVAL` for one that may not.
fn outgoing_control(message: &Outgoing) -> Result<Vec<u8>> {
    if message.control.is_empty() {
        return Ok(Vec::new());
    }
    let mut encoder = Encoder::new(control::LONGEST);
    for record in &message.control {
        if options::may_send(record.level, record.kind)? {
            encoder.add(record);
        }
    }
    Ok(encoder.finish())
}

/// The records of the host's control data that a workload may see.
fn incoming_control(bytes: &[u8]) -> Vec<Record> {
    let mut records = control::decode(bytes).unwrap_or_default();
    records.retain(|record| options::may_receive(record.level, record.kind));
    records
}

impl Protocol for InetSocket {
    fn bind(&self, caller: &Caller, address: &Passed, _: u32) -> Result<()> {
        let privileged = address.port(self.domain).is_some_and(|port| port != 0 && port < settings::first_free_port());
        let echo = matches!(self.protocol, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6);
        if privileged && !echo && !caller.credentials.capable(Capability::NetBindService) {
            return Err(Errno::EACCES);
        }
        host::bind(self.host.fd.as_fd(), &address.for_host())
    }

    fn listen(&self, _: &Caller, backlog: i32) -> Result<()> {
        host::listen(self.host.fd.as_fd(), backlog)
    }

    fn connect(&self, _: &Caller, address: &Passed) -> Result<()> {
        host::connect(self.host.fd.as_fd(), &address.for_host())
    }

    fn accept(&self, caller: &Caller) -> Result<(Arc<Socket>, SocketAddress)> {
        let (fd, from) = host::accept(self.host.fd.as_fd())?;
        // The host gives it what the listener has.
        let lingers = self.lingers.load(Ordering::Relaxed);
        Ok((front(fd, self.domain, self.kind, self.protocol, caller, lingers)?, from))
    }

    fn name(&self) -> Result<SocketAddress> {
        host::name(self.host.fd.as_fd(), false)
    }

    fn peer(&self) -> Result<SocketAddress> {
        host::name(self.host.fd.as_fd(), true)
    }

    fn send(&self, _: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize> {
        let to = message.to.map(|to| to.for_host());
        if !self.is_stream() && from.remaining() > usize::from(u16::MAX) {
            return Err(Errno::EMSGSIZE);
        }
        let control = outgoing_control(message)?;
        let flags = message.flags & SEND_FLAGS;
        let length = from.remaining();
        buffer::with(|buffer| {
            let taken = from.take(buffer)?;
            if !self.is_stream() && taken < length {
                return Err(Errno::EFAULT);
            }
            match host::send(self.host.fd.as_fd(), &buffer[..taken], flags, to.as_ref(), &control) {
                Ok(sent) => {
                    from.give_back(taken - sent);
                    Ok(sent)
                }
                Err(error) => {
                    from.give_back(taken);
                    Err(error)
                }
            }
        })
    }

    fn receive(&self, request: Request, into: &mut dyn Sink) -> Result<Incoming> {
        if self.has_unwritten.load(Ordering::Acquire) && !request.has(libc::MSG_OOB | libc::MSG_ERRQUEUE) {
            return self.receive_unwritten(request, into);
        }
        let flags = request.flags & RECEIVE_FLAGS;
        let fd = self.host.fd.as_fd();
        buffer::with(|buffer| {
            let room = into.remaining().min(buffer.len());
            let buffer = &mut buffer[..room];
            if self.is_stream() && request.control == 0 && !request.has(libc::MSG_ERRQUEUE) {
                let length = host::receive(fd, buffer, flags)?;
                // With MSG_TRUNC a stream's bytes are dropped, and the buffer is as it was (tcp(7)).
                if !request.has(libc::MSG_TRUNC) {
                    self.give(request, &buffer[..length], into)?;
                }
                return Ok(Incoming { length, ..Incoming::default() });
            }
            let message = host::receive_message(fd, buffer, flags, request.control.min(CONTROL))?;
            let got = &buffer[..message.length.min(room)];
            match self.is_stream() {
                true if request.has(libc::MSG_TRUNC) => {}
                true => self.give(request, got, into)?,
                false => into.put(got)?,
            }
            let from = if self.is_stream() && !request.has(libc::MSG_ERRQUEUE) { None } else { message.from };
            let control = incoming_control(&message.control);
            Ok(Incoming { length: message.length, from, flags: message.flags, control, ..Incoming::default() })
        })
    }

    fn shutdown(&self, how: i32) -> Result<()> {
        host::shutdown(self.host.fd.as_fd(), how)
    }

    fn option(&self, _: &Caller, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        if (level, name) == (libc::SOL_SOCKET, libc::SO_PEERCRED) {
            return Ok([0i32, -1, -1].map(i32::to_ne_bytes).concat());
        }
        if self.domain == libc::AF_INET && !options::is_level(level) {
            return Err(Errno::EOPNOTSUPP);
        }
        let longest = options::longest(level, name, false)?;
        host::option(self.host.fd.as_fd(), level, name, room.min(longest))
    }

    fn set_option(&self, _: &Caller, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if level == libc::SOL_SOCKET && matches!(name, libc::SO_SNDBUFFORCE | libc::SO_RCVBUFFORCE | libc::SO_MARK) {
            return Err(Errno::EPERM);
        }
        // The protocol's own level reads a number before it looks at the name; but for names of algorithms.
        let text = level == libc::IPPROTO_TCP && matches!(name, libc::TCP_CONGESTION | libc::TCP_ULP);
        if level == self.protocol && !text && value.len() < size_of::<i32>() {
            return Err(Errno::EINVAL);
        }
        let longest = options::longest(level, name, true)?;
        if (level, name) == (libc::IPPROTO_IP, libc::IP_OPTIONS) && !value.is_empty() {
            return Err(Errno::ENOPROTOOPT);
        }
        let value = &value[..value.len().min(longest)];
        host::set_option(self.host.fd.as_fd(), level, name, value)?;
        if (level, name) == (libc::SOL_SOCKET, libc::SO_LINGER) {
            // Off, or a time of zero (which resets the connection), does not wait.
            let waits = value.get(..4).is_some_and(|on| on != [0; 4]) && value.get(4..8).is_some_and(|time| time != [0; 4]);
            self.lingers.store(waits, Ordering::Relaxed);
        }
        Ok(())
    }

    fn ioctl(&self, call: &Call, command: u32, argument: u64) -> Result<i64> {
        // FIONREAD, SIOCOUTQ, SIOCATMARK, SIOCOUTQNSD.
        if matches!(command, 0x541b | 0x5411 | 0x8905 | 0x894b) {
            let mut value = host::number(self.host.fd.as_fd(), command)?;
            if command == 0x541b {
                value = value.saturating_add(self.unwritten.lock().len() as i32);
            }
            call.memory().write_value(Address(argument), &value)?;
            return Ok(0);
        }
        // SIOCGSTAMP and SIOCGSTAMPNS (socket(7)).
        if matches!(command, 0x8906 | 0x8907) {
            let stamp = host::time_stamp(self.host.fd.as_fd(), command)?;
            call.memory().write_value(Address(argument), &stamp)?;
            return Ok(0);
        }
        interface::ioctl(call, self.domain, command, argument)
    }

    fn poll(&self) -> Ready {
        let kept = if self.has_unwritten.load(Ordering::Acquire) { Ready::READABLE } else { Ready::empty() };
        host::ready(self.host.fd.as_fd()) | kept
    }

    fn wait_queue(&self) -> &WaitQueue {
        &self.host.queue
    }

    fn number(&self) -> u64 {
        host::inode(&self.host.fd)
    }

    fn close(&self) {
        // The host waits in close(2) for a lingering socket, O_NONBLOCK or not (inet_release() in net/ipv4/af_inet.c). Nobody waits
        // for that close here, so the connection ends in the background, as without the option.
        if self.lingers.load(Ordering::Relaxed) {
            let _ = host::set_option(self.host.fd.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &[0; 8]);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
