//! Streams of the host that a container was started with: pipes, sockets, files, terminals, /dev/null.
//!
//! Their open file descriptions belong to others too, so `O_NONBLOCK` is never set on them: before each read and write poll(2) says whether it would
//! block. A regular file's offset is the host description's own, since others may go on where the workload stops (a shell's redirection).

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::kernel::kernel;
use crate::kernel::reactor::Watch;
use crate::kernel::wait::{Observer, Ready, WaitQueue};
use crate::platform::buffer;
use crate::platform::memory::Address;
use crate::syscalls::Call;
use crate::vfs::file::{File, Mapping, OpenFile, Position, Sink, Source};
use crate::vfs::node::{Attributes, FileType, OpenRequest};

/// A stream of the host.
pub struct HostStream {
    fd: Arc<OwnedFd>,
    queue: WaitQueue,
    /// `None` where the host cannot tell readiness (regular files, /dev/null): always ready.
    _watch: Option<Watch>,
    terminal: bool,
    regular: bool,
}

struct Tell(WaitQueue);

impl Observer for Tell {
    fn notify(&self, ready: Ready) {
        self.0.wake(ready);
    }
}

/// Opens a received descriptor as the file description of a workload.
pub fn open(fd: OwnedFd, who: Arc<Credentials>) -> Result<Arc<OpenFile>> {
    let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFL)?;
    let status = flags & (libc::O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK | crate::syscalls::LARGE_FILE);
    Ok(OpenFile::new(Arc::new(HostStream::new(fd)), None, status, who))
}

/// /dev/null.
pub fn null(who: Arc<Credentials>) -> Arc<OpenFile> {
    let device = super::dev::open(libc::makedev(1, 3), FileType::CharacterDevice);
    let file = device.unwrap_or_else(|_| Arc::new(crate::vfs::file::PathOnly));
    OpenFile::new(file, None, libc::O_RDWR, who)
}

impl HostStream {
    fn new(fd: OwnedFd) -> HostStream {
        let queue = WaitQueue::new();
        let watch = kernel().reactor.watch(fd.as_fd(), Ready::IN | Ready::OUT | Ready::RDHUP, Arc::new(Tell(queue.clone()))).ok();
        let terminal = nix::unistd::isatty(&fd).unwrap_or(false);
        let regular = nix::sys::stat::fstat(&fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
        HostStream { fd: Arc::new(fd), queue, _watch: watch, terminal, regular }
    }

    fn ready(&self, wanted: PollFlags) -> PollFlags {
        let mut poll = [PollFd::new(self.fd.as_fd(), wanted)];
        match nix::poll::poll(&mut poll, PollTimeout::ZERO) {
            Ok(_) => poll[0].revents().unwrap_or(PollFlags::empty()),
            Err(_) => PollFlags::POLLERR,
        }
    }
}

impl File for HostStream {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, at: Position) -> Result<usize> {
        if into.remaining() == 0 {
            return Ok(0);
        }
        if !self.regular && self.ready(PollFlags::POLLIN).is_empty() {
            return Err(Errno::EAGAIN);
        }
        buffer::with(|buffer| {
            let wanted = into.remaining().min(buffer.len());
            let read = match at {
                Position::At(at) => nix::sys::uio::pread(&self.fd, &mut buffer[..wanted], at as i64)?,
                _ => nix::unistd::read(&self.fd, &mut buffer[..wanted])?,
            };
            into.put(&buffer[..read])?;
            Ok(read)
        })
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, at: Position) -> Result<usize> {
        if from.remaining() == 0 {
            return Ok(0);
        }
        if !self.regular && self.ready(PollFlags::POLLOUT).is_empty() {
            return Err(Errno::EAGAIN);
        }
        buffer::with(|buffer| {
            // A pipe that polls writable takes a page without blocking (pipe(7)).
            let most = if self.regular { buffer.len() } else { buffer.len().min(4096) };
            let taken = from.take(&mut buffer[..most])?;
            Ok(match at {
                Position::At(at) => nix::sys::uio::pwrite(&self.fd, &buffer[..taken], at as i64)?,
                _ => nix::unistd::write(&self.fd, &buffer[..taken])?,
            })
        })
    }

    fn seekable(&self) -> bool {
        self.regular
    }

    fn seek(&self, _: &OpenFile, _: u64, by: i64, whence: i32) -> Result<u64> {
        use nix::unistd::Whence;
        let whence = match whence {
            libc::SEEK_SET => Whence::SeekSet,
            libc::SEEK_CUR => Whence::SeekCur,
            libc::SEEK_END => Whence::SeekEnd,
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(Errno::EINVAL),
        };
        Ok(nix::unistd::lseek(&self.fd, by, whence)? as u64)
    }

    fn end(&self) -> Result<u64> {
        Ok(self.attributes()?.size)
    }

    fn truncate(&self, length: u64) -> Result<()> {
        nix::unistd::ftruncate(&self.fd, i64::try_from(length).map_err(|_| Errno::EINVAL)?)?;
        Ok(())
    }

    fn poll(&self) -> Ready {
        let ready = self.ready(PollFlags::POLLIN | PollFlags::POLLOUT | PollFlags::POLLPRI);
        let mut shown = Ready::from_bits_truncate(ready.bits() as u32);
        if shown.contains(Ready::IN) {
            shown |= Ready::READABLE;
        }
        if shown.contains(Ready::OUT) {
            shown |= Ready::WRITABLE;
        }
        shown
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn ioctl(&self, _: &OpenFile, call: &Call, command: u32, argument: u64) -> Result<i64> {
        let command = u64::from(command);
        if command == libc::FIONREAD {
            let mut count = 0i32;
            // SAFETY: the host writes one int to `count`.
            if unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&*self.fd), libc::FIONREAD, &mut count) } < 0 {
                return Err(Errno::last());
            }
            call.memory().write_value(Address(argument), &count)?;
            return Ok(0);
        }
        if !self.terminal {
            return Err(Errno::ENOTTY);
        }
        terminal_ioctl(self.fd.as_fd(), call, command, argument)
    }

    fn attributes(&self) -> Result<Attributes> {
        super::host::attributes_of(self.fd.as_fd())
    }

    fn map(&self, _: &OpenFile, _: i32, _: i32) -> Result<Mapping<'_>> {
        if self.regular { Ok(Mapping::Host(self.fd.as_fd())) } else { Err(Errno::ENODEV) }
    }

    fn description(&self) -> String {
        let inode = self.attributes().map_or(0, |attributes| attributes.inode);
        match self.attributes().ok().and_then(|attributes| FileType::from_mode(attributes.mode).ok()) {
            Some(FileType::Fifo) => format!("pipe:[{inode}]"),
            Some(FileType::Socket) => format!("socket:[{inode}]"),
            _ if self.terminal => String::from("/dev/console"),
            _ => String::from("/dev/null"),
        }
    }

    fn reopen(&self, _: OpenRequest, _: &Credentials) -> Result<Arc<dyn File>> {
        Ok(Arc::new(HostStream::new(self.fd.try_clone()?)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The terminal calls that read or change nothing but the terminal's settings: what isatty(3) and programs that ask for the size need.
fn terminal_ioctl(fd: BorrowedFd<'_>, call: &Call, command: u64, argument: u64) -> Result<i64> {
    /// Command, bytes, whether the bytes come from the caller.
    const PASSED: [(u64, usize, bool); 6] = [
        (libc::TCGETS, 36, false),
        (libc::TCSETS, 36, true),
        (libc::TCSETSW, 36, true),
        (libc::TCSETSF, 36, true),
        (libc::TIOCGWINSZ, 8, false),
        (libc::TIOCSWINSZ, 8, true),
    ];
    let (_, size, from_caller) = PASSED.iter().find(|(known, _, _)| *known == command).ok_or(Errno::ENOTTY)?;
    let mut bytes = [0u8; 64];
    if *from_caller {
        call.memory().read(Address(argument), &mut bytes[..*size])?;
    }
    // SAFETY: the host reads or writes at most the 60 bytes of the largest of these structures.
    if unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&fd), command, bytes.as_mut_ptr()) } < 0 {
        return Err(Errno::last());
    }
    if !from_caller {
        call.memory().write(Address(argument), &bytes[..*size])?;
    }
    Ok(0)
}
