//! Internet sockets (ip(7), ipv6(7), tcp(7), udp(7)): TCP, UDP, ICMP echo.
//!
//! Each is a socket of the *host*, in the pod's network namespace, that only this process holds. The host's TCP does the
//! work; this room decides what reaches it: parsed addresses, the options of a table ([`options`]), filtered control data, and bytes,
//! which pass through a buffer of this process, one copy each way.
//!
//! Host sockets never block. The reactor tells each change of their readiness to the socket's wait queue (edge-triggered);
//! whoever waits tries first and sleeps only after `EAGAIN`, so that no change is missed.
//!
//! Rights that the host cannot judge are judged here: ports below `net.ipv4.ip_unprivileged_port_start` need `CAP_NET_BIND_SERVICE` (the pod's
//! namespace lets anyone have them). Raw sockets are `EPERM`: the kernel process has no right to them, so nobody has.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::address::SocketAddress;
use super::control::{self, Encoder, Record};
use super::socket::{Caller, Incoming, Outgoing, Protocol, Request, Socket};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Capability;
use crate::kernel::kernel;
use crate::kernel::reactor::Watch;
use crate::kernel::wait::{Observer, Ready, WaitQueue};
use crate::platform::buffer;
use crate::platform::memory::Address;
use crate::syscalls::Call;
use crate::vfs::file::{Sink, Source};

pub mod host;
pub mod interface;
pub mod options;
#[cfg(test)]
mod tests;

/// Message flags that reach the host when sending; others are none of its business or unsafe to pass.
const SEND_FLAGS: i32 = libc::MSG_OOB | libc::MSG_DONTROUTE | libc::MSG_EOR | libc::MSG_CONFIRM | libc::MSG_MORE;
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
}

/// socket(2). `EPERM` for raw sockets.
pub fn socket(domain: i32, kind: i32, protocol: i32, maker: &Caller) -> Result<Arc<Socket>> {
    if kind == libc::SOCK_RAW {
        return Err(Errno::EPERM);
    }
    let echo = if domain == libc::AF_INET { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
    let protocol = match (kind, protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => libc::IPPROTO_TCP,
        (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => libc::IPPROTO_UDP,
        (libc::SOCK_DGRAM, _) if protocol == echo => echo,
        (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return Err(Errno::EPROTONOSUPPORT),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    front(host::socket(domain, kind, protocol)?, domain, kind, protocol, maker)
}

fn front(fd: OwnedFd, domain: i32, kind: i32, protocol: i32, maker: &Caller) -> Result<Arc<Socket>> {
    let inet = InetSocket { host: HostSocket::new(fd)?, domain, kind, protocol, lingers: AtomicBool::new(false) };
    Ok(Socket::new(domain, kind, protocol, Box::new(inet), maker))
}

/// The first port that needs no right, as the container's sysctls say.
fn first_free_port(caller: &Caller) -> u16 {
    let Some(process) = &caller.process else { return 1024 };
    let sysctls = process.container.sysctls.read();
    sysctls.get("net.ipv4.ip_unprivileged_port_start").and_then(|value| value.trim().parse().ok()).unwrap_or(1024)
}

impl InetSocket {
    fn is_stream(&self) -> bool {
        self.kind == libc::SOCK_STREAM
    }

    /// Addresses of other families are none of the host's business.
    fn check_family(address: &SocketAddress) -> Result<()> {
        match address {
            SocketAddress::Unspecified | SocketAddress::Inet(..) | SocketAddress::Inet6 { .. } => Ok(()),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }
}

/// The records that may reach the host. `EINVAL` for one that may not.
fn outgoing_control(message: &Outgoing) -> Result<Vec<u8>> {
    if message.control.is_empty() {
        return Ok(Vec::new());
    }
    let mut encoder = Encoder::new(control::LONGEST);
    for record in &message.control {
        if !options::may_send(record.level, record.kind) {
            return Err(Errno::EINVAL);
        }
        encoder.add(record);
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
    fn bind(&self, caller: &Caller, address: &SocketAddress) -> Result<()> {
        InetSocket::check_family(address)?;
        let port = address.port().ok_or(Errno::EAFNOSUPPORT)?;
        let privileged = port != 0 && port < first_free_port(caller);
        if privileged && self.protocol != libc::IPPROTO_ICMP && !caller.credentials.capable(Capability::NetBindService) {
            return Err(Errno::EACCES);
        }
        host::bind(self.host.fd.as_fd(), address)
    }

    fn listen(&self, _: &Caller, backlog: i32) -> Result<()> {
        host::listen(self.host.fd.as_fd(), backlog)
    }

    fn connect(&self, _: &Caller, address: &SocketAddress) -> Result<()> {
        InetSocket::check_family(address)?;
        host::connect(self.host.fd.as_fd(), address)
    }

    fn accept(&self, caller: &Caller) -> Result<Arc<Socket>> {
        front(host::accept(self.host.fd.as_fd())?, self.domain, self.kind, self.protocol, caller)
    }

    fn name(&self) -> Result<SocketAddress> {
        host::name(self.host.fd.as_fd(), false)
    }

    fn peer(&self) -> Result<SocketAddress> {
        host::name(self.host.fd.as_fd(), true)
    }

    fn send(&self, _: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize> {
        if message.flags & libc::MSG_FASTOPEN != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(to) = &message.to {
            InetSocket::check_family(to)?;
        }
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
            match host::send(self.host.fd.as_fd(), &buffer[..taken], flags, message.to.as_ref(), &control) {
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
        let flags = request.flags & RECEIVE_FLAGS;
        let fd = self.host.fd.as_fd();
        buffer::with(|buffer| {
            let room = into.remaining().min(buffer.len());
            let buffer = &mut buffer[..room];
            if self.is_stream() && request.control == 0 && !request.has(libc::MSG_ERRQUEUE) {
                let length = host::receive(fd, buffer, flags)?;
                // With MSG_TRUNC a stream's bytes are dropped, and the buffer is as it was (tcp(7)).
                if !request.has(libc::MSG_TRUNC) {
                    into.put(&buffer[..length])?;
                }
                return Ok(Incoming { length, ..Incoming::default() });
            }
            let message = host::receive_message(fd, buffer, flags, request.control.min(CONTROL))?;
            if !(self.is_stream() && request.has(libc::MSG_TRUNC)) {
                into.put(&buffer[..message.length.min(room)])?;
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
        let longest = options::longest(level, name, false)?;
        host::option(self.host.fd.as_fd(), level, name, room.min(longest))
    }

    fn set_option(&self, _: &Caller, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if level == libc::SOL_SOCKET && matches!(name, libc::SO_SNDBUFFORCE | libc::SO_RCVBUFFORCE | libc::SO_MARK) {
            return Err(Errno::EPERM);
        }
        let longest = options::longest(level, name, true)?;
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
            let value = host::number(self.host.fd.as_fd(), command)?;
            call.memory().write_value(Address(argument), &value)?;
            return Ok(0);
        }
        interface::ioctl(call, command, argument)
    }

    fn poll(&self) -> Ready {
        host::ready(self.host.fd.as_fd())
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
