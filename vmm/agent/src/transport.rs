//! How the agent is reached: vsock in a guest; a directory with Unix sockets where there is no guest, so that all of the agent but its boot is
//! tested on any machine.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, VsockAddr, bind, connect, getpeername, listen, socket};

/// A way to be reached.
pub trait Transport {
    /// Listens on a port, without blocking.
    ///
    /// # Errors
    /// bind(2)'s, listen(2)'s.
    fn listen(&self, port: u32) -> io::Result<OwnedFd>;

    /// Whether a connection comes from where the agent takes orders from.
    fn is_trusted(&self, connection: BorrowedFd<'_>) -> bool;
}

/// vsock(7), from inside a guest.
#[derive(Debug)]
pub struct Vsock;

/// How many connections may wait to be accepted: a pod's clients all at once.
const BACKLOG: i32 = 128;

impl Vsock {
    /// Connects to a port of the host's.
    ///
    /// # Errors
    /// connect(2)'s.
    pub fn dial(port: u32) -> io::Result<OwnedFd> {
        let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        connect(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, port))?;
        Ok(socket)
    }
}

impl Transport for Vsock {
    fn listen(&self, port: u32) -> io::Result<OwnedFd> {
        let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port))?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(socket)
    }

    fn is_trusted(&self, connection: BorrowedFd<'_>) -> bool {
        // With a loopback transport in its kernel the guest could dial itself: containers are not who gives orders.
        getpeername::<VsockAddr>(connection.as_raw_fd()).is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST)
    }
}

/// Unix sockets that are named after ports.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl Transport for Directory {
    fn listen(&self, port: u32) -> io::Result<OwnedFd> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(&self.0.join(port.to_string()))?)?;
        listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(socket)
    }

    fn is_trusted(&self, _: BorrowedFd<'_>) -> bool {
        // Whoever may open the directory.
        true
    }
}
