//! The host's end of a stream: a descriptor that a client has passed, or the slave of a terminal of ours.
//!
//! The open file description of a passed descriptor belongs to others too (a shell's terminal, a log file), so `O_NONBLOCK` is never set on it. Sockets have
//! a flag for each call; pipes are asked with `RWF_NOWAIT` (preadv2(2); Linux 6.4); what does not know that is asked by poll(2) first, which leaves a gap in
//! which somebody else may take what was there. A regular file never waits for anybody but its disk.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, getsockopt, recv, send, sockopt};
use nix::sys::stat::{SFlag, fstat};

/// What a descriptor is, as far as reading and writing differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Socket,
    Regular,
    /// Pipes, terminals, devices: others'.
    Foreign,
    /// Ours, with `O_NONBLOCK`.
    Own,
}

/// Most bytes of one write to what poll(2) says is writable: a pipe has room for so many then (pipe(7)).
const ATOMIC: usize = 4096;

/// The host's end of a stream.
#[derive(Debug)]
pub(super) struct Host {
    descriptor: OwnedFd,
    kind: Kind,
}

impl Host {
    /// A descriptor that was passed.
    pub fn foreign(descriptor: OwnedFd) -> io::Result<Self> {
        let kind = match SFlag::from_bits_truncate(fstat(&descriptor)?.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFSOCK => Kind::Socket,
            SFlag::S_IFREG => Kind::Regular,
            _ => Kind::Foreign,
        };
        Ok(Self { descriptor, kind })
    }

    /// One of ours, which does not block.
    pub fn own(descriptor: OwnedFd) -> Self {
        Self { descriptor, kind: Kind::Own }
    }

    /// Whether it can be read, and written.
    pub fn access(&self) -> io::Result<(bool, bool)> {
        let flags = OFlag::from_bits_retain(fcntl(&self.descriptor, FcntlArg::F_GETFL)?);
        Ok(match flags & OFlag::O_ACCMODE {
            OFlag::O_RDONLY => (true, false),
            OFlag::O_WRONLY => (false, true),
            _ => (true, true),
        })
    }

    /// Whether it is a socket that waits for connections: no byte stream.
    pub fn listens(&self) -> bool {
        self.kind == Kind::Socket && getsockopt(&self.descriptor, sockopt::AcceptConn).unwrap_or(false)
    }

    /// Reads what is there. 0 at its end, which a terminal that was hung up has as well.
    pub fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let done = match self.kind {
            Kind::Socket => recv(self.descriptor.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT),
            Kind::Regular | Kind::Own => nix::unistd::read(&self.descriptor, bytes),
            Kind::Foreign => match read_now(self.descriptor.as_fd(), bytes) {
                Err(Errno::EOPNOTSUPP) => {
                    self.ready(PollFlags::POLLIN)?;
                    nix::unistd::read(&self.descriptor, bytes)
                }
                done => done,
            },
        };
        match done {
            Err(Errno::EIO) if self.kind != Kind::Regular => Ok(0),
            done => Ok(done?),
        }
    }

    /// Writes what it takes.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(match self.kind {
            Kind::Socket => send(self.descriptor.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?,
            Kind::Regular | Kind::Own => nix::unistd::write(&self.descriptor, bytes)?,
            Kind::Foreign => match write_now(self.descriptor.as_fd(), bytes) {
                Err(Errno::EOPNOTSUPP) => {
                    self.ready(PollFlags::POLLOUT)?;
                    nix::unistd::write(&self.descriptor, &bytes[..bytes.len().min(ATOMIC)])?
                }
                done => done?,
            },
        })
    }

    /// Nothing more will be written to it, though it may still be read.
    pub fn end_writing(&self) {
        if self.kind == Kind::Socket {
            let _ = nix::sys::socket::shutdown(self.descriptor.as_raw_fd(), nix::sys::socket::Shutdown::Write);
        }
    }

    fn ready(&self, wanted: PollFlags) -> Result<(), Errno> {
        match poll(&mut [PollFd::new(self.descriptor.as_fd(), wanted)], PollTimeout::ZERO)? {
            0 => Err(Errno::EAGAIN),
            _ => Ok(()),
        }
    }
}

impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// At the description's own position (preadv2(2)).
const HERE: libc::off_t = -1;

fn read_now(from: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<usize, Errno> {
    let vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: one vector, which describes `bytes`, a buffer that is ours alone during the call. Needed: nix has no preadv2.
    Errno::result(unsafe { libc::preadv2(from.as_raw_fd(), &raw const vector, 1, HERE, libc::RWF_NOWAIT) }).map(|length| length as usize)
}

fn write_now(to: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: one vector, which describes `bytes`; the call only reads them. Needed: nix has no pwritev2.
    Errno::result(unsafe { libc::pwritev2(to.as_raw_fd(), &raw const vector, 1, HERE, libc::RWF_NOWAIT) }).map(|length| length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn is_empty(host: &Host) -> bool {
        host.read(&mut [0; 8]).unwrap_err().kind() == io::ErrorKind::WouldBlock
    }

    #[test]
    fn others_descriptions_never_block_and_stay_as_they_are() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let (reader, writer) = (Host::foreign(reader).unwrap(), Host::foreign(writer).unwrap());
        assert!(is_empty(&reader));
        assert_eq!((reader.access().unwrap(), writer.access().unwrap()), ((true, false), (false, true)));
        let mut taken = 0;
        let full = loop {
            match writer.write(&[7; 10_000]) {
                Ok(length) => taken += length,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(taken >= 4096);
        let flags = fcntl(&writer, FcntlArg::F_GETFL).unwrap();
        assert_eq!(flags & libc::O_NONBLOCK, 0);
        drop(reader);
        assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn sockets_and_files_are_read_to_their_ends() {
        let (here, there) = UnixStream::pair().unwrap();
        let here = Host::foreign(here.into()).unwrap();
        assert!(is_empty(&here) && !here.listens());
        here.end_writing();
        let there = Host::foreign(there.into()).unwrap();
        assert_eq!(there.read(&mut [0; 8]).unwrap(), 0);
        let file = tempfile::tempfile().unwrap();
        let file = Host::foreign(file.into()).unwrap();
        assert_eq!(file.write(b"abc").unwrap(), 3);
        assert_eq!(file.read(&mut [0; 8]).unwrap(), 0);
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        assert!(Host::foreign(listener.into()).unwrap().listens());
    }
}
