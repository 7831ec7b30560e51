//! The bytes of a regular file in memory.
//!
//! Small ones are a vector in this process's heap, which costs no descriptor. A file that is mapped, executed, or grows past [`SMALL`] moves to an
//! host file of its own on the exec roots' tmpfs: then mapping it is native, and executing it is a link.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::errno::{Errno, Result};
use crate::fs::host::identity;
use crate::vfs::mapped;

/// Up to here contents stay in the heap, bytes.
const SMALL: u64 = 16 << 10;
/// The directory in which host files are made: on the exec roots' tmpfs, and in no exec root.
const BACKING: &str = "/exec/.files";

/// A file's bytes.
pub enum Content {
    /// In the heap.
    Heap(Vec<u8>),
    /// In a host file.
    Host(Backing),
}

/// The host file of a memory file. While it is open for writing the host refuses to execute it (`ETXTBSY`, execve(2)), so after an exec it is
/// held for reading only, until the next write.
pub struct Backing {
    fd: OwnedFd,
    writable: bool,
    /// Where it stands: a file that had lost its last name could not be linked into an exec root again. `None` for a memfd.
    name: Option<PathBuf>,
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            if let Ok(backing) = identity_of(&self.fd) {
                mapped::forget(backing);
            }
            identity::assume_kernel();
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Device and inode of a host file.
pub fn identity_of(file: &OwnedFd) -> Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A fresh host file.
fn create_file(mode: u32) -> Result<(OwnedFd, Option<PathBuf>)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = Path::new(BACKING).join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    match nix::fcntl::open(&name, flags, Mode::from_bits_truncate(native_mode(mode))) {
        Ok(fd) => Ok((fd, Some(name))),
        Err(nix::errno::Errno::ENOENT) => {
            if std::fs::create_dir(BACKING).is_ok() {
                return create_file(mode);
            }
            // Outside of a sandbox (unit tests) there are no exec roots.
            Ok((nix::sys::memfd::memfd_create(c"tmpfs", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?, None))
        }
        Err(error) => Err(error.into()),
    }
}

impl Backing {
    /// The same file, opened anew.
    fn reopen(&self, flags: OFlag) -> Result<OwnedFd> {
        use std::os::fd::AsRawFd;
        identity::assume_kernel();
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(nix::fcntl::open(path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// Makes it writable. `ETXTBSY` while it is executed.
    fn writable(&mut self) -> Result<&OwnedFd> {
        if !self.writable {
            self.fd = self.reopen(OFlag::O_RDWR)?;
            self.writable = true;
        }
        Ok(&self.fd)
    }
}

impl Default for Content {
    fn default() -> Content {
        Content::Heap(Vec::new())
    }
}

impl Content {
    /// Bytes.
    pub fn length(&self) -> u64 {
        match self {
            Content::Heap(bytes) => bytes.len() as u64,
            Content::Host(backing) => nix::sys::stat::fstat(&backing.fd).map_or(0, |stat| stat.st_size as u64),
        }
    }

    /// Moves it to a host file, if it is not there; gives a descriptor of it.
    pub fn host(&mut self, mode: u32) -> Result<OwnedFd> {
        if let Content::Heap(bytes) = self {
            identity::assume_kernel();
            let (fd, name) = create_file(mode)?;
            let mut at = 0;
            while at < bytes.len() {
                at += nix::sys::uio::pwrite(&fd, &bytes[at..], at as i64)?;
            }
            *self = Content::Host(Backing { fd, writable: true, name });
        }
        match self {
            Content::Host(backing) => Ok(backing.writable()?.try_clone()?),
            Content::Heap(_) => Err(Errno::EIO),
        }
    }

    /// The same for reading only, with nothing of this kernel's in the way of executing it.
    pub fn host_read_only(&mut self, mode: u32) -> Result<OwnedFd> {
        if let Content::Heap(_) = self {
            self.host(mode)?;
        }
        match self {
            Content::Host(backing) => {
                if backing.writable {
                    backing.fd = backing.reopen(OFlag::O_RDONLY)?;
                    backing.writable = false;
                }
                Ok(backing.fd.try_clone()?)
            }
            Content::Heap(_) => Err(Errno::EIO),
        }
    }

    /// Reads at an offset.
    pub fn read(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        match self {
            Content::Heap(bytes) => {
                let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]);
                let length = rest.len().min(buffer.len());
                buffer[..length].copy_from_slice(&rest[..length]);
                Ok(length)
            }
            Content::Host(backing) => Ok(nix::sys::uio::pread(&backing.fd, buffer, i64::try_from(at).map_err(|_| Errno::EINVAL)?)?),
        }
    }

    /// Writes at an offset; what lies between the end and the offset is zero.
    pub fn write(&mut self, bytes: &[u8], at: u64) -> Result<usize> {
        let end = at.checked_add(bytes.len() as u64).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        if end > SMALL && matches!(self, Content::Heap(_)) {
            self.host(0)?;
        }
        match self {
            Content::Heap(held) => {
                let (at, end) = (at as usize, end as usize);
                if held.len() < end {
                    held.resize(end, 0);
                }
                held[at..end].copy_from_slice(bytes);
                Ok(bytes.len())
            }
            Content::Host(backing) => Ok(nix::sys::uio::pwrite(backing.writable()?, bytes, at as i64)?),
        }
    }

    /// Cuts or grows it.
    pub fn resize(&mut self, length: u64) -> Result<()> {
        if length > i64::MAX as u64 {
            return Err(Errno::EFBIG);
        }
        if length > SMALL && matches!(self, Content::Heap(_)) {
            self.host(0)?;
        }
        match self {
            Content::Heap(bytes) => {
                bytes.resize(length as usize, 0);
                bytes.shrink_to_fit();
            }
            Content::Host(backing) => nix::unistd::ftruncate(backing.writable()?, length as i64)?,
        }
        Ok(())
    }

    /// The file's permission bits have changed: natively it must be executable by all, or not at all.
    pub fn mode_changed(&mut self, mode: u32) {
        if let Content::Host(backing) = self {
            identity::assume_kernel();
            let _ = nix::sys::stat::fchmod(&backing.fd, Mode::from_bits_truncate(native_mode(mode)));
        }
    }
}

/// What the host shows of a file's mode: who may execute it is decided here, so natively everybody may who can reach it.
fn native_mode(_: u32) -> u32 {
    0o755
}
