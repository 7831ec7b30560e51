//! One byte stream between the host and the guest.
//!
//! ```text
//!            handshake                the request's answer
//!  connect ------------> attached ------------------------> running
//! ```
//!
//! A pump is made when a request names its stream: a connection to the agent's streams port, on which the identifier goes and one byte comes back. It carries
//! nothing before the request has been answered: of a refused one, nothing has been taken from the host. Each direction has one buffer, which is filled when it
//! is empty; while it is not, its source is not read. So a slow reader on either side stops its writer, and what is held here is bounded.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use nix::sys::epoll::EpollFlags;

use super::host::Host;
use super::terminal::{self, Size};
use super::watch::{Wanted, Watched};

/// Bytes of one direction's buffer.
const BUFFER: usize = 64 << 10;
/// How many buffers one call of [`Pump::carry`] fills: others wait meanwhile.
const TURN: usize = 8;

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The agent has not taken it; the client whose request names it waits.
    Handshake {
        /// The client's entry.
        client: u64,
    },
    /// The agent has taken it.
    Attached,
    /// It carries bytes.
    Running,
}

/// Which process a stream is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub container: String,
    /// Empty: the container's init.
    pub exec: String,
}

/// A stream that is a process's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Console {
    /// What the guest has been told last.
    pub size: Option<Size>,
}

/// One direction.
#[derive(Debug)]
struct Flow {
    buffer: Vec<u8>,
    sent: usize,
    /// The source has ended; what is in the buffer is the last.
    ended: bool,
}

/// How a flow stands after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It waits for its source.
    Empty,
    /// It waits for its destination.
    Full,
    /// All has arrived.
    Done,
    /// The destination is gone.
    Broken,
}

impl Flow {
    fn new() -> Self {
        Self { buffer: Vec::new(), sent: 0, ended: false }
    }

    fn turn(&mut self, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> State {
        let mut filled = 0;
        loop {
            while self.sent < self.buffer.len() {
                match write(&self.buffer[self.sent..]) {
                    Ok(0) => return State::Broken,
                    Ok(length) => self.sent += length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return State::Full,
                    Err(_) => return State::Broken,
                }
            }
            self.sent = 0;
            self.buffer.clear();
            if self.ended {
                return State::Done;
            }
            self.buffer.resize(BUFFER, 0);
            match read(&mut self.buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    self.buffer.truncate(length);
                    filled += 1;
                    // The destination is waited for, as it may be the only one that tells when the next turn is.
                    if filled == TURN {
                        return State::Full;
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // An idle stream holds no memory.
                    self.buffer = Vec::new();
                    return State::Empty;
                }
                Err(_) => self.ended = true,
            }
            self.buffer.clear();
        }
    }
}

/// A stream.
#[derive(Debug)]
pub(super) struct Pump {
    pub stage: Stage,
    pub process: Process,
    console: Option<Console>,
    guest: Watched<UnixStream>,
    /// None once nothing more comes from it or goes to it.
    host: Option<Watched<Host>>,
    /// From the host to the guest.
    inward: Option<Flow>,
    /// From the guest to the host.
    outward: Option<Flow>,
}

impl Pump {
    /// A stream between a host's end and a guest's, which waits for the agent's byte.
    pub fn new(client: u64, guest: Watched<UnixStream>, host: Watched<Host>, ways: (bool, bool), process: Process) -> io::Result<Self> {
        let mut pump = Self {
            stage: Stage::Handshake { client },
            process,
            console: None,
            guest,
            host: Some(host),
            inward: ways.0.then(Flow::new),
            outward: ways.1.then(Flow::new),
        };
        pump.guest.want(Wanted::Events(EpollFlags::EPOLLIN))?;
        Ok(pump)
    }

    /// The same for a terminal.
    pub fn with_console(self, console: Option<Console>) -> Self {
        Self { console, ..self }
    }

    /// Whether it is a terminal.
    pub fn is_console(&self) -> bool {
        self.console.is_some()
    }

    /// The request has been answered: it may carry bytes. [`Pump::carry`] is next.
    pub fn begin(&mut self) -> io::Result<()> {
        self.stage = Stage::Running;
        // Whether it can be waited for shows when it is watched for the first time.
        self.host.as_mut().map_or(Ok(()), |host| host.want(Wanted::Events(EpollFlags::empty())))
    }

    /// Whether something may still come from the guest.
    pub fn has_output(&self) -> bool {
        self.outward.is_some()
    }

    /// Whether bytes wait until the host takes them.
    pub fn is_stuck(&self) -> bool {
        self.outward.as_ref().is_some_and(|flow| flow.sent < flow.buffer.len())
    }

    /// Reads the agent's byte. None: it has not come.
    pub fn handshake(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        match self.guest.get().read(&mut byte) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                self.stage = Stage::Attached;
                self.guest.want(Wanted::Nothing)?;
                Ok(Some(byte[0]))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Carries what is there. False: the stream is over.
    pub fn carry(&mut self) -> io::Result<bool> {
        let Some(host) = &mut self.host else {
            // All that is still waited for is that the guest lets go.
            return Ok(false);
        };
        let mut guest = self.guest.get();
        let inward = self.inward.as_mut().map(|flow| flow.turn(|bytes| host.get().read(bytes), |bytes| guest.write(bytes)));
        let mut guest = self.guest.get();
        let outward = self.outward.as_mut().map(|flow| flow.turn(|bytes| guest.read(bytes), |bytes| host.get().write(bytes)));
        let console = self.console.is_some();
        match inward {
            // Who has let go of a terminal's master has hung up.
            Some(State::Done | State::Broken) if console => return Ok(false),
            Some(State::Done) => {
                let _ = self.guest.get().shutdown(Shutdown::Write);
                self.inward = None;
            }
            Some(State::Broken) => self.inward = None,
            _ => {}
        }
        match outward {
            Some(State::Done | State::Broken) if console => return Ok(false),
            Some(State::Done) => {
                host.get().end_writing();
                self.outward = None;
            }
            Some(State::Broken) => return Ok(false),
            _ => {}
        }
        let mut host_events = EpollFlags::empty();
        let mut guest_events = EpollFlags::empty();
        match inward {
            Some(State::Empty) => {
                host_events |= EpollFlags::EPOLLIN;
                guest_events |= EpollFlags::EPOLLRDHUP;
            }
            Some(State::Full) => guest_events |= EpollFlags::EPOLLOUT,
            _ => {}
        }
        match outward {
            Some(State::Empty) => guest_events |= EpollFlags::EPOLLIN,
            Some(State::Full) if host.is_pollable() => host_events |= EpollFlags::EPOLLOUT,
            // A file takes everything: only this turn was over. The guest's connection, which is not written to, says at once that the next one is.
            Some(State::Full) => guest_events |= EpollFlags::EPOLLOUT,
            _ => {}
        }
        if self.inward.is_none() && self.outward.is_none() {
            // What is in the guest's connection stays there until the guest has read it; it is closed by the agent.
            self.host = None;
            self.guest.want(Wanted::Events(EpollFlags::EPOLLRDHUP))?;
            return Ok(inward == Some(State::Done));
        }
        // An output that waits for the guest still sees that its reader is gone: an error is reported unasked.
        let watches_reader = self.inward.is_none() && outward == Some(State::Empty);
        let wanted = |events: EpollFlags, always: bool| if events.is_empty() && !always { Wanted::Nothing } else { Wanted::Events(events) };
        host.want(wanted(host_events, watches_reader))?;
        self.guest.want(wanted(guest_events, false))?;
        Ok(true)
    }

    /// Looks at an event that may say what no read or write would find: the other end of an idle stream is gone. False: the stream is over.
    pub fn notice(&self, from_guest: bool, events: EpollFlags) -> bool {
        let gone = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
        if from_guest {
            // Nobody reads what is typed, or written to standard input, any more.
            !(self.outward.is_none() && events.intersects(gone | EpollFlags::EPOLLRDHUP))
        } else {
            !(self.inward.is_none() && events.intersects(gone))
        }
    }

    /// The size that the client has given the terminal, where the guest has not been told of it yet.
    pub fn new_size(&mut self) -> Option<Size> {
        let console = self.console.as_mut()?;
        let size = terminal::size(self.host.as_ref()?.get())?;
        (console.size.replace(size) != Some(size)).then_some(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_reads_when_it_is_empty_and_ends_when_all_has_arrived() {
        let mut flow = Flow::new();
        let blocked = || Err(io::Error::from(io::ErrorKind::WouldBlock));
        let mut arrived = Vec::new();
        let abc = |bytes: &mut [u8]| {
            bytes[..3].copy_from_slice(b"abc");
            Ok(3)
        };
        let state = flow.turn(abc, |_| blocked());
        assert_eq!(state, State::Full);
        let state = flow.turn(|_| panic!("its source is not read while it is full"), |_| blocked());
        assert_eq!(state, State::Full);
        let mut room = 2;
        let mut write = |bytes: &[u8]| {
            let length = bytes.len().min(room);
            room = usize::MAX;
            arrived.extend_from_slice(&bytes[..length]);
            Ok(length)
        };
        assert_eq!(flow.turn(|_| blocked(), &mut write), State::Empty);
        assert_eq!(flow.buffer.capacity(), 0);
        assert_eq!(flow.turn(|_| Ok(0), &mut write), State::Done);
        assert_eq!(arrived, b"abc");
        let mut flow = Flow::new();
        assert_eq!(flow.turn(|bytes| Ok(bytes.len()), |_| Err(io::ErrorKind::BrokenPipe.into())), State::Broken);
    }

    #[test]
    fn a_source_that_never_ends_lets_others_have_their_turn() {
        let mut flow = Flow::new();
        let mut written = 0;
        let write = |bytes: &[u8]| {
            written += bytes.len();
            Ok(bytes.len())
        };
        assert_eq!(flow.turn(|bytes| Ok(bytes.len()), write), State::Full);
        assert_eq!(written, BUFFER * (TURN - 1));
    }
}
