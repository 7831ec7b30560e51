//! Host files behind memory files: on the exec roots' tmpfs, in no exec root.
//!
//! While such a file is open for writing the host refuses to execute it (`ETXTBSY`, execve(2)), so after an exec it is held for reading only,
//! until the next write.

use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::Whence;

use super::content::PAGE;
use crate::errno::{Errno, Result};
use crate::fs::host::identity;
use crate::vfs::mapped;

/// The directory in which they are made.
const DIRECTORY: &str = "/exec/.files";
/// The same directory through a mount that allows no execution: what is mapped through it natively cannot be made executable afterwards either.
const DATA_DIRECTORY: &str = "/data/.files";

/// One host file.
pub struct Backing {
    fd: OwnedFd,
    writable: bool,
    /// Where it stands: a file that had lost its last name could not be linked into an exec root again. `None` for a memfd.
    number: Option<u64>,
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            if let Ok(backing) = identity_of(&self.fd) {
                mapped::forget(backing);
            }
            identity::assume_kernel();
            let _ = std::fs::remove_file(path(DIRECTORY, number));
        }
    }
}

/// Device and inode of a host file.
pub fn identity_of(file: &OwnedFd) -> Result<(u64, u64)> {
    let stat = nix::sys::stat::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn path(directory: &str, number: u64) -> PathBuf {
    Path::new(directory).join(number.to_string())
}

impl Backing {
    /// A fresh one. Who may execute the file is decided in this kernel, so natively everybody may who can reach it.
    pub fn create() -> Result<Backing> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        identity::assume_kernel();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        match nix::fcntl::open(&path(DIRECTORY, number), flags, Mode::from_bits_truncate(0o755)) {
            Ok(fd) => Ok(Backing { fd, writable: true, number: Some(number) }),
            Err(nix::errno::Errno::ENOENT) => {
                if std::fs::create_dir(DIRECTORY).is_ok() {
                    return Backing::create();
                }
                // Outside of a sandbox (unit tests) there are no exec roots.
                let fd = nix::sys::memfd::memfd_create(c"tmpfs", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
                Ok(Backing { fd, writable: true, number: None })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The same file, opened anew.
    fn reopen(&self, flags: OFlag) -> Result<OwnedFd> {
        identity::assume_kernel();
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(nix::fcntl::open(path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    /// Open for writing. `ETXTBSY` while it is executed.
    pub fn writable(&mut self) -> Result<&OwnedFd> {
        if !self.writable {
            self.fd = self.reopen(OFlag::O_RDWR)?;
            self.writable = true;
        }
        Ok(&self.fd)
    }

    /// Open for reading only.
    pub fn read_only(&mut self) -> Result<&OwnedFd> {
        if self.writable {
            self.fd = self.reopen(OFlag::O_RDONLY)?;
            self.writable = false;
        }
        Ok(&self.fd)
    }

    /// A descriptor for a mapping, with no more rights than asked for.
    pub fn for_mapping(&mut self, writable: bool, executable: bool) -> Result<OwnedFd> {
        let number = self.number;
        let held = if writable { self.writable()? } else { self.read_only()? };
        match number {
            Some(number) if !executable => {
                identity::assume_kernel();
                let access = if writable { OFlag::O_RDWR } else { OFlag::O_RDONLY };
                Ok(nix::fcntl::open(&path(DATA_DIRECTORY, number), access | OFlag::O_CLOEXEC, Mode::empty())?)
            }
            _ => Ok(held.try_clone()?),
        }
    }

    /// Bytes, and pages that are there.
    pub fn shape(&self) -> (u64, u64) {
        nix::sys::stat::fstat(&self.fd).map_or((0, 0), |stat| (stat.st_size as u64, stat.st_blocks as u64 * 512 / PAGE))
    }

    /// Reads at an offset.
    pub fn read(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        Ok(nix::sys::uio::pread(&self.fd, buffer, i64::try_from(at).map_err(|_| Errno::EINVAL)?)?)
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
    pub fn seek(&self, at: u64, data: bool) -> Result<u64> {
        let at = i64::try_from(at).map_err(|_| Errno::ENXIO)?;
        Ok(nix::unistd::lseek(&self.fd, at, if data { Whence::SeekData } else { Whence::SeekHole })? as u64)
    }

    /// How many of these pages, all before the end of the file, are not there.
    pub fn holes(&self, pages: Range<u64>) -> Result<u64> {
        let mut missing = 0;
        let mut page = pages.start;
        while page < pages.end {
            let hole = self.seek(page * PAGE, false)?.div_ceil(PAGE);
            if hole >= pages.end {
                break;
            }
            let data = match self.seek(hole * PAGE, true) {
                Ok(data) => data / PAGE,
                Err(Errno::ENXIO) => pages.end,
                Err(error) => return Err(error),
            };
            missing += data.min(pages.end) - hole;
            page = data;
        }
        Ok(missing)
    }
}
