//! The host's side of a disk: a file, and what may be done to it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use thiserror::Error;

use super::configuration::SECTOR;
use super::{bounce, host};
use crate::devices::buffers::Buffers;

/// A disk to put into a guest.
#[derive(Debug)]
pub struct Disk {
    /// A regular file or a block device: raw, its first byte is the disk's. With `O_DIRECT` it is used past the host's page cache.
    pub file: File,
    /// Whether the guest may not write. It needn't be what the file was opened for: a writable file may be a read-only disk.
    pub read_only: bool,
}

/// Why a file can't be a disk.
#[derive(Debug, Error)]
pub enum DiskError {
    /// disk is neither a regular file nor a block device
    #[error("disk is neither a regular file nor a block device")]
    Kind,
    /// disk is to be writable, but its file is open for reading only
    #[error("disk is to be writable, but its file is open for reading only")]
    Access,
    /// disk's file is open for writing only
    #[error("disk's file is open for writing only")]
    WriteOnly,
    /// disk's file is open with `O_APPEND`: every write would go to its end
    #[error("disk's file is open with O_APPEND: every write would go to its end")]
    Append,
    /// the host's
    #[error("disk can't be examined")]
    Host(#[from] io::Error),
}

/// A range of bytes that lies within a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    offset: u64,
    length: u64,
}

impl Extent {
    #[cfg(test)]
    pub(super) fn new(offset: u64, length: u64) -> Self {
        Self { offset, length }
    }

    /// Its first byte.
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// Its number of bytes.
    pub fn length(self) -> u64 {
        self.length
    }
}

/// A disk that has been examined.
#[derive(Debug)]
pub struct Image {
    file: File,
    read_only: bool,
    is_device: bool,
    /// In [`SECTOR`]s. What the size was when it was examined; a file that shrinks later answers with errors, one that grows isn't seen to.
    sectors: u64,
    /// In bytes, a power of two from 512 to 4096 or what the device has.
    block_size: u32,
    /// What offsets, lengths and addresses have to be multiples of; 1 without `O_DIRECT`.
    alignment: u32,
}

impl Image {
    /// Examines a disk.
    ///
    /// # Errors
    /// It can't be one.
    pub fn open(disk: Disk) -> Result<Self, DiskError> {
        let Disk { mut file, read_only } = disk;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::Kind);
        }
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL).map_err(io::Error::from)?);
        match flags & OFlag::O_ACCMODE {
            OFlag::O_WRONLY => return Err(DiskError::WriteOnly),
            OFlag::O_RDONLY if !read_only => return Err(DiskError::Access),
            _ if !read_only && flags.contains(OFlag::O_APPEND) => return Err(DiskError::Append),
            _ => {}
        }
        let is_device = kind.is_block_device();
        let direct = flags.contains(OFlag::O_DIRECT);
        let block_size = match (is_device, direct) {
            (true, _) => host::block_size(&file)?,
            // 4096 satisfies every disk there is, where the file system doesn't say.
            (false, true) => host::direct_alignment(&file).unwrap_or(4096).max(SECTOR as u32),
            (false, false) => SECTOR as u32,
        };
        if !block_size.is_power_of_two() || !(SECTOR..=1 << 16).contains(&u64::from(block_size)) {
            return Err(io::Error::other(format!("its block size of {block_size} bytes is not a power of two from 512 to 65536")).into());
        }
        // The end is where seeking takes us, for a file and for a device. All input and output names its offset, so the position means nothing.
        let size = file.seek(SeekFrom::End(0))?;
        // Whole blocks, so that the blocks around any extent are in the disk too.
        let sectors = (size - size % u64::from(block_size)) / SECTOR;
        Ok(Self { file, read_only, is_device, sectors, block_size, alignment: if direct { block_size } else { 1 } })
    }

    /// Its capacity in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Its block size in bytes.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether nothing may be written.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The extent of `length` bytes at a sector. Nothing if it isn't wholly in the disk, or not whole sectors.
    pub fn extent(&self, sector: u64, length: u64) -> Option<Extent> {
        let end = sector.checked_add(length / SECTOR)?;
        (length.is_multiple_of(SECTOR) && end <= self.sectors).then(|| Extent { offset: sector * SECTOR, length })
    }

    /// Reads an extent into buffers of its length.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, extent: Extent, buffers: Buffers<'_>) -> io::Result<()> {
        if self.is_aligned(extent, &buffers) {
            return buffers.read_at(self.file.as_fd(), extent.offset);
        }
        bounce::read(&self.file, self.alignment.into(), extent, buffers)
    }

    /// Writes an extent from buffers of its length.
    ///
    /// # Errors
    /// The host's; the disk is read-only.
    pub fn write(&self, extent: Extent, buffers: Buffers<'_>) -> io::Result<()> {
        self.writable()?;
        if self.is_aligned(extent, &buffers) {
            return buffers.write_at(self.file.as_fd(), extent.offset);
        }
        let mut rest = Some(buffers);
        bounce::write(&self.file, self.alignment.into(), extent, |bytes| {
            let (part, others) = rest.take().and_then(|rest| rest.split_at(bytes.len())).ok_or(io::ErrorKind::InvalidInput)?;
            part.copy_to(bytes);
            rest = Some(others);
            Ok(())
        })
    }

    /// Sees to it that what was written stays (fdatasync(2)).
    ///
    /// # Errors
    /// The host's.
    pub fn flush(&self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }

    /// Gives an extent's space back to the host. Its content is unspecified afterwards.
    ///
    /// # Errors
    /// The host's: `Unsupported` where it can't; the disk is read-only.
    pub fn discard(&self, extent: Extent) -> io::Result<()> {
        self.writable()?;
        if !self.is_device {
            return self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, extent);
        }
        // Whole blocks only (BLKDISCARD). Those that the extent covers in part stay, which is allowed: a discard is advice.
        let block = u64::from(self.block_size);
        let (start, end) = (extent.offset.next_multiple_of(block), (extent.offset + extent.length) / block * block);
        if start < end { host::discard(&self.file, start, end - start) } else { Ok(()) }
    }

    /// Makes an extent read as zeros; `unmap` allows to give its space back too.
    ///
    /// # Errors
    /// The host's; the disk is read-only.
    pub fn write_zeroes(&self, extent: Extent, unmap: bool) -> io::Result<()> {
        self.writable()?;
        let block = u64::from(self.block_size);
        let done = if !self.is_device {
            let flag = if unmap { FallocateFlags::FALLOC_FL_PUNCH_HOLE } else { FallocateFlags::FALLOC_FL_ZERO_RANGE };
            self.allocate(flag, extent)
        } else if extent.offset.is_multiple_of(block) && extent.length.is_multiple_of(block) {
            host::zero(&self.file, extent.offset, extent.length)
        } else {
            Err(io::ErrorKind::Unsupported.into())
        };
        match done {
            // A file system without the call, tmpfs for one; parts of blocks.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => bounce::write(&self.file, self.alignment.into(), extent, |bytes| {
                bytes.fill(0);
                Ok(())
            }),
            done => done,
        }
    }

    fn allocate(&self, flag: FallocateFlags, extent: Extent) -> io::Result<()> {
        if extent.length == 0 {
            // fallocate(2) calls that EINVAL.
            return Ok(());
        }
        // In range for off_t: an extent lies in a file.
        let (offset, length) = (extent.offset as i64, extent.length as i64);
        loop {
            match fallocate(&self.file, flag | FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Err(io::ErrorKind::Unsupported.into()),
                result => return Ok(result?),
            }
        }
    }

    fn writable(&self) -> io::Result<()> {
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn is_aligned(&self, extent: Extent, buffers: &Buffers<'_>) -> bool {
        let alignment = self.alignment as usize;
        alignment == 1 || ((extent.offset | extent.length).is_multiple_of(alignment as u64) && buffers.is_aligned(alignment))
    }
}
