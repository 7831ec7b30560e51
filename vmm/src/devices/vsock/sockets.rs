//! What is asked of the host's kernel: sockets that never block, and an epoll of the device's own that watches them.
//!
//! The epoll is one descriptor on the event loop. Sockets come and go here as the guest likes; event-manager keeps a record of every descriptor that it was
//! ever given until the worker goes, so they are not given to it. Everything is watched edge-triggered (epoll(7)): a socket with nothing new
//! wakes nobody, whatever its state, and closing it ends its watch.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// What a descriptor is to the device, and which of its kind. Numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A socket that clients connect to.
    Listener(u64),
    /// A client that has not said yet where it wants to go.
    Client(u64),
    /// A connection's.
    Connection(u64),
}

impl Token {
    fn number(self) -> u64 {
        match self {
            Self::Listener(id) => id << 2,
            Self::Client(id) => (id << 2) | 1,
            Self::Connection(id) => (id << 2) | 2,
        }
    }

    fn from_number(number: u64) -> Self {
        let id = number >> 2;
        match number & 3 {
            0 => Self::Listener(id),
            1 => Self::Client(id),
            _ => Self::Connection(id),
        }
    }
}

/// What is new at a socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// There may be something to read, if only its end.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// The other end is gone altogether.
    pub gone: bool,
}

/// The sockets that are watched.
pub struct Watch {
    epoll: Epoll,
}

impl Watch {
    /// Watches nothing.
    ///
    /// # Errors
    /// The host's.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()? })
    }

    /// Watches a socket for something to read; what is there already is news.
    ///
    /// # Errors
    /// The host's.
    pub fn add(&self, socket: &impl AsRawFd, token: Token) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Add, socket.as_raw_fd(), interest(token, false))
    }

    /// Changes what a watched socket is, and whether room to write is news; what is so already is news again.
    ///
    /// # Errors
    /// The host's.
    pub fn change(&self, socket: &impl AsRawFd, token: Token, room: bool) -> io::Result<()> {
        self.epoll.ctl(ControlOperation::Modify, socket.as_raw_fd(), interest(token, room))
    }

    /// Some of the news; more makes the epoll readable again.
    pub fn news(&self) -> impl Iterator<Item = (Token, News)> + use<> {
        let mut events = [EpollEvent::default(); 64];
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        events.into_iter().take(count).map(|event| {
            let set = event.event_set();
            let gone = set.intersects(EventSet::HANG_UP | EventSet::ERROR);
            let readable = gone || set.intersects(EventSet::IN | EventSet::READ_HANG_UP);
            (Token::from_number(event.data()), News { readable, writable: gone || set.contains(EventSet::OUT), gone })
        })
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

fn interest(token: Token, room: bool) -> EpollEvent {
    let set = EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    EpollEvent::new(if room { set | EventSet::OUT } else { set }, token.number())
}

/// Reads what is there; none: nothing, yet.
///
/// # Errors
/// The socket's.
pub fn read(socket: &UnixStream, bytes: &mut [u8]) -> Result<Option<usize>, Errno> {
    once(|| recv(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT))
}

/// Looks at what is there.
///
/// # Errors
/// The socket's.
pub fn peek(socket: &UnixStream, bytes: &mut [u8]) -> Result<Option<usize>, Errno> {
    once(|| recv(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK))
}

/// Writes what there is room for; none: no room, now.
///
/// # Errors
/// The socket's; `EPIPE` raises no signal.
pub fn write(socket: &UnixStream, bytes: &[u8]) -> Result<Option<usize>, Errno> {
    once(|| send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL))
}

fn once(mut call: impl FnMut() -> Result<usize, Errno>) -> Result<Option<usize>, Errno> {
    loop {
        match call() {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}
