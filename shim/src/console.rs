//! Terminals, on this side: the master of a container's terminal arrives over a console socket, and is joined with the
//! terminal that `bulkhead` itself runs on.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::host;

/// Receives a terminal's master as runc sends it: its name as the message, the descriptor beside it.
///
/// # Errors
/// The connection's; `InvalidData` when no descriptor comes.
pub fn receive_master(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut name = [0; 4096];
    let mut slices = [IoSliceMut::new(&mut name)];
    let mut space = cmsg_space!([RawFd; 1]);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(descriptor) = descriptors.first()
        {
            return host::received(*descriptor);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no terminal came over the console socket"))
}

/// Our own terminal in raw mode; dropped, it is as it was.
#[derive(Debug)]
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Switches standard input over. None where it is no terminal.
    pub fn enter() -> Option<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Gives the container's terminal the size of ours.
pub fn copy_size(master: &OwnedFd) {
    if let Ok(size) = host::window_size(io::stdin().as_fd()) {
        let _ = host::set_window_size(master.as_fd(), size);
    }
}

/// Carries bytes between our standard streams and a terminal's master.
#[derive(Debug)]
pub struct Relay {
    master: OwnedFd,
    /// Read from standard input, not yet taken by the terminal.
    typed: VecDeque<u8>,
    input_ended: bool,
    output_ended: bool,
}

impl Relay {
    /// Between standard input and output and `master`.
    ///
    /// # Errors
    /// `fcntl(2)`'s.
    pub fn new(master: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { master, typed: VecDeque::new(), input_ended: false, output_ended: false })
    }

    /// The terminal's master.
    pub fn master(&self) -> &OwnedFd {
        &self.master
    }

    /// What to poll for: the master, and standard input when there is room for more.
    pub fn interests(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut interests = Vec::new();
        if !self.output_ended {
            let writing = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            interests.push((self.master.as_fd(), PollFlags::POLLIN | writing));
        }
        if self.typed.is_empty() && !self.input_ended {
            interests.push((host::standard_input(), PollFlags::POLLIN));
        }
        interests
    }

    /// Carries what is there. `input` says that standard input is ready.
    pub fn carry(&mut self, input: bool) {
        let mut buffer = [0; 16 << 10];
        if input && !self.input_ended {
            match nix::unistd::read(io::stdin(), &mut buffer) {
                Ok(0) => self.input_ended = true,
                Ok(length) => self.typed.extend(&buffer[..length]),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(_) => self.input_ended = true,
            }
        }
        while !self.typed.is_empty() {
            match nix::unistd::write(&self.master, self.typed.as_slices().0) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => self.typed.clear(),
            }
        }
        self.carry_output();
    }

    /// Carries output until there is none for now. EIO: nobody has the terminal open.
    pub fn carry_output(&mut self) {
        let mut buffer = [0; 16 << 10];
        while !self.output_ended {
            match nix::unistd::read(&self.master, &mut buffer) {
                Ok(0) | Err(Errno::EIO) => self.output_ended = true,
                Ok(length) => self.output_ended = write_all(&buffer[..length]).is_err(),
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
    }
}

fn write_all(bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
