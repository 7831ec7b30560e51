//! Regular files: opening, reading, writing.

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, FOPEN_IN_KILL_SUIDGID, FallocateIn, LseekIn, OpenIn, OpenOptions, OpenOut, ROOT_ID, ReadIn, WRITE_KILL_PRIV, WriteIn,
};
use fuse_backend_rs::transport::{Reader, VirtioFsWriter};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use vm_memory::ByteValued;

use super::attributes::drop_privileges;
use super::handle::Open;
use super::host::{Attributes, Identity};
use super::names::{PERMISSIONS, Who};
use super::request::Name;
use super::serve::{MOST_BYTES, Server, errno, reopen};

/// The flags of open(2) that mean something to the host. `O_DIRECT` does not: it asks for the guest's cache to be passed by, and its
/// buffers are not aligned for the host's. `O_CREAT` and `O_EXCL` are requests of their own.
fn open_flags(flags: u32) -> Result<OFlag, Errno> {
    let flags = OFlag::from_bits_truncate(flags as i32);
    if flags & OFlag::O_ACCMODE == OFlag::O_ACCMODE {
        return Err(Errno::EINVAL);
    }
    Ok(flags & (OFlag::O_ACCMODE | OFlag::O_APPEND | OFlag::O_TRUNC | OFlag::O_SYNC | OFlag::O_DSYNC))
}

impl Server {
    pub(super) fn open(&mut self, node: u64, open: &OpenIn) -> Result<OpenOut, Errno> {
        if node == ROOT_ID {
            return Err(Errno::EISDIR);
        }
        self.room()?;
        let flags = open_flags(open.flags)?;
        let known = self.nodes.get(node)?;
        if known.kind == libc::S_IFDIR {
            return Err(Errno::EISDIR);
        }
        let (file, tree) = self.open_node(known, flags)?;
        if flags.contains(OFlag::O_TRUNC) && open.fuse_flags & FOPEN_IN_KILL_SUIDGID != 0 {
            drop_privileges(&file)?;
        }
        // What the guest has cached is good if nothing has changed since it last opened the file.
        let attributes = Attributes::of(&file)?;
        let known = self.nodes.get_mut(node)?;
        let cache = if known.version == Some(attributes.version()) { OpenOptions::KEEP_CACHE } else { OpenOptions::empty() };
        known.version = attributes.is_settled().then(|| attributes.version());
        let fh = self.handles.insert(node, Open::File { file, flags, tree });
        Ok(OpenOut { fh, open_flags: cache.bits(), passthrough: 0 })
    }

    /// Makes and opens a file: an entry's answer, then an opened file's.
    pub(super) fn create(&mut self, (uid, gid): Who, parent: u64, name: &Name, create: &CreateIn) -> Result<Vec<u8>, Errno> {
        self.room()?;
        let flags = open_flags(create.flags)?;
        let created = {
            let directory = self.writable_directory(parent)?;
            let _identity = Identity::assume(uid, gid)?;
            let create_flags = flags | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(directory, name.as_c_str(), create_flags, Mode::from_bits_truncate(create.mode & PERMISSIONS))
                .map(|file| (file, directory.tree))
        };
        let (entry, opened) = match created {
            Ok((file, tree)) => {
                let held = reopen(&self.descriptors, &file, OFlag::O_PATH)?;
                let entry = self.found(tree, false, held)?;
                let fh = self.handles.insert(entry.nodeid, Open::File { file: file.into(), flags, tree });
                (entry, OpenOut { fh, open_flags: 0, passthrough: 0 })
            }
            // Somebody on the host was faster.
            Err(Errno::EEXIST) if !OFlag::from_bits_truncate(create.flags as i32).contains(OFlag::O_EXCL) => {
                let entry = self.lookup(parent, name)?;
                match self.open(entry.nodeid, &OpenIn { flags: create.flags, fuse_flags: create.fuse_flags }) {
                    Ok(opened) => (entry, opened),
                    Err(error) => {
                        self.nodes.forget(entry.nodeid, 1);
                        // Not a file to be opened here: the guest finds out what it is by looking it up itself.
                        return Err(if matches!(error, Errno::ENXIO | Errno::EISDIR) { Errno::ESTALE } else { error });
                    }
                }
            }
            Err(error) => return Err(error),
        };
        Ok([entry.as_slice(), opened.as_slice()].concat())
    }

    /// Reads straight into the guest's memory.
    pub(super) fn read(&mut self, node: u64, read: &ReadIn, data: &mut VirtioFsWriter<'_>) -> Result<usize, Errno> {
        let (file, _) = self.handles.file(read.fh, node)?;
        let size = (read.size.min(MOST_BYTES) as usize).min(data.available_bytes());
        retry(|| data.write_from_at(&mut *file, size, read.offset))
    }

    /// Writes straight from the guest's memory.
    pub(super) fn write(&mut self, node: u64, write: &WriteIn, data: &mut Reader<'_>) -> Result<u32, Errno> {
        let (file, flags) = self.handles.file(write.fh, node)?;
        if write.size > MOST_BYTES || data.available_bytes() < write.size as usize {
            return Err(Errno::EINVAL);
        }
        let asked = OFlag::from_bits_truncate(write.flags as i32) & OFlag::O_APPEND;
        if *flags & OFlag::O_APPEND != asked {
            // fcntl(2) in the guest has changed it; or the kernel writes pages of a mapping back, which belong where they are.
            fcntl(&*file, FcntlArg::F_SETFL(asked))?;
            *flags = (*flags - OFlag::O_APPEND) | asked;
        }
        if write.fuse_flags & WRITE_KILL_PRIV != 0 {
            drop_privileges(&*file)?;
        }
        let mut written = 0;
        while written < write.size {
            let offset = write.offset.checked_add(written.into()).ok_or(Errno::EFBIG)?;
            match retry(|| data.read_to_at(&mut *file, (write.size - written) as usize, offset)) {
                Ok(0) => break,
                // No more than what was asked.
                Ok(count) => written += count as u32,
                Err(error) if written == 0 => return Err(error),
                // What was written counts; the guest comes again for the rest and gets the error.
                Err(_) => break,
            }
        }
        Ok(written)
    }

    /// A descriptor of the guest's is closed. Some file systems (NFS, quotas) report at close(2) that earlier writes were lost.
    pub(super) fn flush(&mut self, node: u64, handle: u64) -> Result<(), Errno> {
        let (file, _) = self.handles.file(handle, node)?;
        nix::unistd::close(file.try_clone().map_err(errno)?)
    }

    /// Of a file or a directory.
    pub(super) fn synchronise(&mut self, node: u64, handle: u64, data_only: bool) -> Result<(), Errno> {
        let file = match self.handles.get(handle, node)? {
            Open::File { file, .. } | Open::Directory { file, .. } => file,
            Open::Root(_) => return Ok(()),
        };
        if data_only { file.sync_data() } else { file.sync_all() }.map_err(errno)
    }

    pub(super) fn allocate(&mut self, node: u64, allocate: &FallocateIn) -> Result<(), Errno> {
        let (file, _) = self.handles.file(allocate.fh, node)?;
        let mode = FallocateFlags::from_bits(allocate.mode as i32).ok_or(Errno::EOPNOTSUPP)?;
        let (offset, length) = (signed(allocate.offset)?, signed(allocate.length)?);
        fallocate(&*file, mode, offset, length)
    }

    /// Finds data and holes. Positions are the guest's own business.
    pub(super) fn seek(&mut self, node: u64, seek: &LseekIn) -> Result<u64, Errno> {
        let (file, _): (&mut File, _) = self.handles.file(seek.fh, node)?;
        let whence = match seek.whence as i32 {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            _ => return Err(Errno::EINVAL),
        };
        lseek(&*file, signed(seek.offset)?, whence).map(|offset| offset as u64)
    }
}

/// An offset as the host's calls want it.
fn signed(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// Until no signal interrupts.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(errno),
        }
    }
}
