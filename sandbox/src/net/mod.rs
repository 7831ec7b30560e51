//! Sockets (socket(7)).
//!
//! A [`socket::Socket`] is a file with the operations that only sockets have; what it does is its [`socket::Protocol`]'s
//! to say:
//!
//! - [`unix`]: between processes of the pod. Lives wholly in this process; the host knows nothing of it.
//! - [`inet`]: TCP, UDP and ICMP echo. A host socket, opened by the kernel process in the pod's network namespace, never by
//!   the workload; only what stands in a table reaches it.
//! - [`netlink`]: questions about the network, filtered and answered by the host. [`proc`]: the same as text.
//!
//! [`address`] and [`control`] decode `sockaddr` and `cmsghdr` bytes, once. Nothing here blocks: `EAGAIN` goes up to
//! the system call, which waits on the socket's wait queue.
//!
//! Locks: the state of one socket at a time ([`crate::sync`], level 6). Messages are dropped, and observers notified, with none held.

pub mod address;
pub mod control;
pub mod inet;
pub mod netlink;
pub mod options;
pub mod proc;
pub mod settings;
pub mod socket;
#[cfg(test)]
mod testing;
pub mod unix;

use std::sync::Arc;

use crate::errno::{Errno, Result};
pub use proc::{INTERFACE_ATTRIBUTES, interface_attribute, interfaces, proc_names, proc_text};
use socket::{Caller, Socket};

/// socket(2). `kind` without its flags.
pub fn socket(domain: i32, kind: i32, protocol: i32, maker: &Caller) -> Result<Arc<Socket>> {
    // Up to `SOCK_PACKET`; a number that is no type's is the family's to refuse.
    if !(0..=10).contains(&kind) {
        return Err(Errno::EINVAL);
    }
    match domain {
        libc::AF_UNIX => unix::socket(kind, protocol, maker),
        libc::AF_INET | libc::AF_INET6 => inet::socket(domain, kind, protocol, maker),
        libc::AF_NETLINK => netlink::socket(kind, protocol, maker),
        // An unprivileged container's answer; root's container gets the same, having no such right on the network.
        libc::AF_PACKET => Err(Errno::EPERM),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// socketpair(2).
pub fn pair(domain: i32, kind: i32, protocol: i32, maker: &Caller) -> Result<(Arc<Socket>, Arc<Socket>)> {
    match domain {
        libc::AF_UNIX => unix::pair(kind, protocol, maker),
        libc::AF_INET | libc::AF_INET6 | libc::AF_NETLINK => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}
