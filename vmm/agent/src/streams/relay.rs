//! One standard stream of one process, or its terminal.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::Shutdown;

use super::pump::{Flow, Pump};

/// What is between a connection and a process.
#[derive(Debug)]
pub enum Relay {
    /// Standard input: from the connection into a pipe.
    Input {
        /// From the monitor.
        connection: OwnedFd,
        /// To the process.
        pipe: OwnedFd,
        /// What moves.
        pump: Pump,
    },
    /// Standard output or error: from a pipe into the connection.
    Output {
        /// To the monitor.
        connection: OwnedFd,
        /// From the process.
        pipe: OwnedFd,
        /// What moves.
        pump: Pump,
    },
    /// A terminal: both ways.
    Console {
        /// To and from the monitor.
        connection: OwnedFd,
        /// The master of the container's pseudo-terminal.
        master: Rc<OwnedFd>,
        /// What is typed.
        typed: Pump,
        /// What is shown.
        shown: Pump,
    },
}

/// What a turn left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on. With `drained`, everything that the process has written so far is delivered.
    Open {
        /// The process's output is delivered.
        drained: bool,
        /// It wants another turn.
        again: bool,
    },
    /// It is over, in both directions.
    Over,
}

impl Relay {
    /// The descriptors that it waits for.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        match self {
            Relay::Input { connection, pipe, .. } | Relay::Output { connection, pipe, .. } => [connection.as_fd(), pipe.as_fd()],
            Relay::Console { connection, master, .. } => [connection.as_fd(), master.as_fd()],
        }
    }

    /// Whether a process's end waits for this to be drained.
    pub fn carries_output(&self) -> bool {
        !matches!(self, Relay::Input { .. })
    }

    /// Has its turn. `seen` is what the kernel said of either end.
    pub fn run(&mut self, seen: EpollFlags, scratch: &mut [u8]) -> Outcome {
        match self {
            Relay::Input { connection, pipe, pump } => match pump.run(connection.as_fd(), pipe.as_fd(), scratch) {
                Flow::Ended | Flow::Broken => Outcome::Over,
                // Nobody has the pipe's other end: nobody will read.
                _ if pump_broken(pipe.as_fd(), seen) => Outcome::Over,
                flow => Outcome::Open { drained: true, again: flow == Flow::Again },
            },
            Relay::Output { connection, pipe, pump } => match pump.run(pipe.as_fd(), connection.as_fd(), scratch) {
                Flow::Ended => {
                    let _ = nix::sys::socket::shutdown(connection.as_raw_fd(), Shutdown::Write);
                    Outcome::Over
                }
                Flow::Broken => Outcome::Over,
                flow if hung_up(connection.as_fd()) && flow != Flow::Again => Outcome::Over,
                flow => Outcome::Open { drained: flow == Flow::Empty, again: flow == Flow::Again },
            },
            Relay::Console { connection, master, typed, shown } => {
                let shown = shown.run(master.as_fd(), connection.as_fd(), scratch);
                let typed = match shown {
                    // The terminal is over, or nobody looks at it: closing the master hangs up on whoever has it (tty(4)).
                    Flow::Ended | Flow::Broken => return Outcome::Over,
                    _ => typed.run(connection.as_fd(), master.as_fd(), scratch),
                };
                match typed {
                    Flow::Ended | Flow::Broken => Outcome::Over,
                    typed => Outcome::Open { drained: shown == Flow::Empty, again: shown == Flow::Again || typed == Flow::Again },
                }
            }
        }
    }
}

/// Whether the kernel says of a pipe's writing end that its reading end is closed.
fn pump_broken(pipe: BorrowedFd<'_>, seen: EpollFlags) -> bool {
    seen.contains(EpollFlags::EPOLLERR) && polled(pipe).contains(nix::poll::PollFlags::POLLERR)
}

/// Whether a connection is closed in both directions: nobody will ever take what is written.
fn hung_up(connection: BorrowedFd<'_>) -> bool {
    polled(connection).intersects(nix::poll::PollFlags::POLLHUP | nix::poll::PollFlags::POLLERR)
}

fn polled(descriptor: BorrowedFd<'_>) -> nix::poll::PollFlags {
    let mut asked = [nix::poll::PollFd::new(descriptor, nix::poll::PollFlags::empty())];
    match nix::poll::poll(&mut asked, nix::poll::PollTimeout::ZERO) {
        Ok(_) => asked[0].revents().unwrap_or(nix::poll::PollFlags::empty()),
        Err(_) => nix::poll::PollFlags::empty(),
    }
}
