//! memfd_create(2): files in memory without a name, with seals. Each is a host memfd, so mapping it is native.

use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, SealFlag};
use nix::sys::memfd::MFdFlags;

use super::host::{HostFile, identity};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::vfs::file::{File, Mapping, OpenFile, Position, Sink, Source};
use crate::vfs::node::{Attributes, FileSystemStatistics, FileType, OpenRequest, SetAttributes};

/// A memfd. Each description has a host description of its own, since what may be mapped goes by the host's access mode.
pub struct MemoryFile {
    fd: OwnedFd,
    data: HostFile,
    name: String,
}

/// `F_SEAL_EXEC` (Linux 6.3): the execution bits stay as they are.
const SEAL_EXECUTION: u32 = 0x20;

/// Makes one, as an open file. The file is its maker's.
pub fn create(name: &[u8], flags: u32, who: Arc<Credentials>) -> Result<Arc<OpenFile>> {
    let text = String::from_utf8_lossy(name).into_owned();
    identity::assume(&who);
    let wanted = MFdFlags::from_bits_retain(flags | libc::MFD_CLOEXEC);
    let name = std::ffi::CString::new(name).map_err(|_| Errno::EINVAL)?;
    let fd = nix::sys::memfd::memfd_create(name.as_c_str(), wanted)?;
    let data = HostFile::new(fd.try_clone()?, FileType::Regular);
    Ok(OpenFile::new(Arc::new(MemoryFile { fd, data, name: text }), None, libc::O_RDWR | crate::syscalls::LARGE_FILE, who))
}

/// F_ADD_SEALS and F_GET_SEALS. `EINVAL` where the file has no seals.
pub fn seals(open: &OpenFile, command: i32, seals: u32) -> Result<i64> {
    let file = open.file.as_any().downcast_ref::<MemoryFile>().ok_or(Errno::EINVAL)?;
    let argument = match command {
        libc::F_GET_SEALS => FcntlArg::F_GET_SEALS,
        _ if !open.writes() => return Err(Errno::EPERM),
        _ if seals & !(SealFlag::all().bits() as u32 | SEAL_EXECUTION) != 0 => return Err(Errno::EINVAL),
        _ => FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals as i32)),
    };
    Ok(i64::from(nix::fcntl::fcntl(&file.fd, argument)?))
}

impl MemoryFile {
    /// The same file opened anew, with the caller's rights.
    fn opened_by(&self, flags: i32, who: &Credentials) -> Result<OwnedFd> {
        const KEPT: i32 = libc::O_ACCMODE | libc::O_APPEND | libc::O_TRUNC;
        identity::assume(who);
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = OFlag::from_bits_truncate(flags & KEPT) | OFlag::O_CLOEXEC;
        Ok(nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())?)
    }

    /// Whether a file is one: then a host descriptor of it, for execution.
    pub fn executable(file: &dyn File) -> Option<Result<OwnedFd>> {
        let file = file.as_any().downcast_ref::<MemoryFile>()?;
        Some(file.opened_by(libc::O_RDONLY, &Credentials::kernel()))
    }
}

impl File for MemoryFile {
    fn read(&self, open: &OpenFile, into: &mut dyn Sink, at: Position) -> Result<usize> {
        self.data.read(open, into, at)
    }

    fn write(&self, open: &OpenFile, from: &mut dyn Source, at: Position) -> Result<usize> {
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

    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        identity::assume(who);
        super::host::change_attributes(self.fd.as_fd(), FileType::Regular, change)
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        Ok(FileSystemStatistics { kind: super::tmpfs::MAGIC, block_size: 4096, name_length: 255, ..Default::default() })
    }

    fn reopen(&self, request: OpenRequest, who: &Credentials) -> Result<Arc<dyn File>> {
        let fd = self.opened_by(request.flags, who)?;
        Ok(Arc::new(MemoryFile { data: HostFile::new(fd.try_clone()?, FileType::Regular), fd, name: self.name.clone() }))
    }

    fn flags_changed(&self, flags: i32) -> Result<()> {
        self.data.flags_changed(flags)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
