//! Open host files and directories.

use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::identity;
use crate::errno::{Errno, Result};
use crate::kernel::task;
use crate::platform::buffer;
use crate::sync::Mutex;
use crate::vfs::file::{DirectoryEntry, File, Mapping, OpenFile, Position, Sink, Source, give, seek_to};
use crate::vfs::node::{Attributes, FileType};

/// A regular file or directory of the host, opened by this process.
pub struct HostFile {
    fd: OwnedFd,
    kind: FileType,
    /// The directory stream's position is the host descriptor's own: one reader at a time.
    listing: Mutex<()>,
}

impl HostFile {
    /// Wraps an open descriptor.
    pub fn new(fd: OwnedFd, kind: FileType) -> HostFile {
        HostFile { fd, kind, listing: Mutex::new(()) }
    }
}

impl HostFile {
    /// Writes at the end, wherever that is by then.
    fn append(&self, bytes: &[u8]) -> Result<usize> {
        let vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: the vector describes `bytes`, which is only read. Needed: nix has no pwritev2, and the description may not be O_APPEND.
        let written = unsafe { libc::pwritev2(self.fd.as_raw_fd(), &vector, 1, 0, libc::RWF_APPEND) };
        usize::try_from(written).map_err(|_| Errno::last())
    }
}

fn offset(at: u64) -> Result<i64> {
    i64::try_from(at).map_err(|_| Errno::EINVAL)
}

impl File for HostFile {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, at: Position) -> Result<usize> {
        if self.kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        let (Position::At(start) | Position::Current(start)) = at else { return Err(Errno::EINVAL) };
        let mut total = 0;
        buffer::with(|buffer| {
            while into.remaining() > 0 {
                let wanted = into.remaining().min(buffer.len());
                let read = nix::sys::uio::pread(&self.fd, &mut buffer[..wanted], offset(start + total as u64)?);
                let given = match read.map_err(Errno::from).and_then(|read| give(into, &buffer[..read])) {
                    Ok(given) => given,
                    Err(_) if total > 0 => break,
                    Err(error) => return Err(error),
                };
                total += given;
                if given < wanted {
                    break;
                }
            }
            Ok(total)
        })
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, at: Position) -> Result<usize> {
        // Whether set-id bits go is a matter of the writer's rights.
        identity::assume(&task::current_credentials());
        let mut total = 0;
        buffer::with(|buffer| {
            while from.remaining() > 0 {
                let taken = match from.take(buffer) {
                    Ok(taken) => taken,
                    Err(_) if total > 0 => break,
                    Err(error) => return Err(error),
                };
                let written = match at {
                    Position::At(start) | Position::Current(start) => {
                        nix::sys::uio::pwrite(&self.fd, &buffer[..taken], offset(start + total as u64)?).map_err(Errno::from)
                    }
                    Position::End => self.append(&buffer[..taken]),
                };
                match written {
                    Ok(written) => {
                        total += written;
                        if written < taken {
                            break;
                        }
                    }
                    Err(_) if total > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(total)
        })
    }

    fn end(&self) -> Result<u64> {
        Ok(super::attributes_of(self.fd.as_fd())?.size)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _: &OpenFile, current: u64, by: i64, whence: i32) -> Result<u64> {
        use nix::unistd::{Whence, lseek};
        let native = |by: i64, whence: Whence| Ok(lseek(&self.fd, by, whence)? as u64);
        match whence {
            libc::SEEK_DATA => native(by, Whence::SeekData),
            libc::SEEK_HOLE => native(by, Whence::SeekHole),
            // What positions a directory has is its file system's to say.
            libc::SEEK_END if self.kind == FileType::Directory => {
                let _listing = self.listing.lock();
                native(by, Whence::SeekEnd)
            }
            _ if self.kind == FileType::Directory => {
                let to = seek_to(current, || Ok(0), by, whence)?;
                let _listing = self.listing.lock();
                native(offset(to)?, Whence::SeekSet)
            }
            _ => seek_to(current, || self.end(), by, whence),
        }
    }

    fn read_directory(&self, from: i64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let _listing = self.listing.lock();
        nix::unistd::lseek(&self.fd, from, nix::unistd::Whence::SeekSet)?;
        buffer::with(|buffer| {
            loop {
                let window = buffer.len().min(32 << 10);
                // SAFETY: the host fills at most `window` bytes of the buffer.
                let read = unsafe { libc::syscall(libc::SYS_getdents64, self.fd.as_raw_fd(), buffer.as_mut_ptr(), window) };
                if read < 0 {
                    return Err(Errno::last());
                }
                if read == 0 {
                    return Ok(());
                }
                let mut rest = &buffer[..read as usize];
                while let Some((entry, length)) = parse(rest) {
                    if !emit(&entry) {
                        return Ok(());
                    }
                    rest = &rest[length..];
                }
            }
        })
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        if data_only {
            nix::unistd::fdatasync(&self.fd)?
        } else {
            nix::unistd::fsync(&self.fd)?
        }
        Ok(())
    }

    fn allocate(&self, mode: i32, start: u64, length: u64) -> Result<()> {
        let flags = nix::fcntl::FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        identity::assume(&task::current_credentials());
        nix::fcntl::fallocate(&self.fd, flags, offset(start)?, offset(length)?)?;
        Ok(())
    }

    fn truncate(&self, length: u64) -> Result<()> {
        identity::assume(&task::current_credentials());
        nix::unistd::ftruncate(&self.fd, offset(length)?)?;
        Ok(())
    }

    fn attributes(&self) -> Result<Attributes> {
        super::attributes_of(self.fd.as_fd())
    }

    fn map(&self, _: &OpenFile, _: i32, _: i32) -> Result<Mapping<'_>> {
        if self.kind == FileType::Regular { Ok(Mapping::Host(self.fd.as_fd())) } else { Err(Errno::ENODEV) }
    }

    fn host_data(&self) -> Option<BorrowedFd<'_>> {
        (self.kind == FileType::Regular).then(|| self.fd.as_fd())
    }

    fn flags_changed(&self, flags: i32) -> Result<()> {
        let kept = nix::fcntl::OFlag::from_bits_truncate(flags & (libc::O_APPEND | libc::O_NOATIME));
        nix::fcntl::fcntl(&self.fd, nix::fcntl::FcntlArg::F_SETFL(kept))?;
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Takes one `struct linux_dirent64` apart.
fn parse(bytes: &[u8]) -> Option<(DirectoryEntry, usize)> {
    let header = bytes.get(..19)?;
    let word = |at: usize| u64::from_ne_bytes(header[at..at + 8].try_into().unwrap_or_default());
    let length = u16::from_ne_bytes([header[16], header[17]]) as usize;
    let name = bytes.get(19..length)?;
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Some((DirectoryEntry { inode: word(0), next: word(8) as i64, kind: header[18], name: name[..end].to_vec() }, length))
}
