//! memfd_create(2): files in memory without a name, with seals. Each is a host memfd, so mapping it is native.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag};
use nix::sys::memfd::MFdFlags;

use super::host::HostFile;
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::vfs::file::{File, Mapping, OpenFile, Position, Sink, Source};
use crate::vfs::node::{Attributes, FileType, OpenRequest};

/// A memfd.
pub struct MemoryFile {
    fd: OwnedFd,
    data: HostFile,
    name: String,
}

/// Makes one, as an open file.
pub fn create(name: &[u8], flags: u32, who: Arc<Credentials>) -> Result<Arc<OpenFile>> {
    let text = String::from_utf8_lossy(name).into_owned();
    let wanted = MFdFlags::from_bits_truncate(flags & libc::MFD_ALLOW_SEALING) | MFdFlags::MFD_CLOEXEC;
    let name = std::ffi::CString::new(name).map_err(|_| Errno::EINVAL)?;
    let fd = nix::sys::memfd::memfd_create(name.as_c_str(), wanted)?;
    let data = HostFile::new(fd.try_clone()?, FileType::Regular);
    Ok(OpenFile::new(Arc::new(MemoryFile { fd, data, name: text }), None, libc::O_RDWR, who))
}

/// F_ADD_SEALS and F_GET_SEALS. `EINVAL` where the file has no seals.
pub fn seals(open: &OpenFile, command: i32, seals: u32) -> Result<i64> {
    let file = open.file.as_any().downcast_ref::<MemoryFile>().ok_or(Errno::EINVAL)?;
    let argument = match command {
        libc::F_GET_SEALS => FcntlArg::F_GET_SEALS,
        _ if !open.writes() => return Err(Errno::EPERM),
        _ => FcntlArg::F_ADD_SEALS(SealFlag::from_bits(seals as i32).ok_or(Errno::EINVAL)?),
    };
    Ok(i64::from(nix::fcntl::fcntl(&file.fd, argument)?))
}

impl File for MemoryFile {
    fn read(&self, open: &OpenFile, into: &mut dyn Sink, at: Position) -> Result<usize> {
        self.data.read(open, into, at)
    }

    fn write(&self, open: &OpenFile, from: &mut dyn Source, at: Position) -> Result<usize> {
        let at = if at == Position::End { Position::At(self.data.end()?) } else { at };
        self.data.write(open, from, at)
    }

    fn end(&self) -> Result<u64> {
        self.data.end()
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, open: &OpenFile, current: u64, offset: i64, whence: i32) -> Result<u64> {
        self.data.seek(open, current, offset, whence)
    }

    fn sync(&self, _: bool) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64) -> Result<()> {
        self.data.allocate(mode, offset, length)
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.data.truncate(length)
    }

    fn attributes(&self) -> Result<Attributes> {
        self.data.attributes()
    }

    fn map(&self, open: &OpenFile, protection: i32, flags: i32) -> Result<Mapping<'_>> {
        self.data.map(open, protection, flags)
    }

    fn host_data(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn description(&self) -> String {
        format!("/memfd:{} (deleted)", self.name)
    }

    fn reopen(&self, _: OpenRequest, _: &Credentials) -> Result<Arc<dyn File>> {
        let fd = self.fd.try_clone()?;
        Ok(Arc::new(MemoryFile { data: HostFile::new(fd.try_clone()?, FileType::Regular), fd, name: self.name.clone() }))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
