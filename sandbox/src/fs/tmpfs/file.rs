//! Open files and directories of a tmpfs.

use std::any::Any;
use std::sync::Arc;

use super::content::identity_of;
use super::{Body, TmpNode};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::platform::buffer;
use crate::vfs::file::{DirectoryEntry, File, Mapping, OpenFile, Position, Sink, Source};
use crate::vfs::mapped;
use crate::vfs::node::{Attributes, FileType, Node, OpenRequest};

/// An open file.
pub struct TmpFile {
    node: Arc<TmpNode>,
}

impl TmpFile {
    /// Opens a node.
    pub fn new(node: Arc<TmpNode>) -> TmpFile {
        TmpFile { node }
    }
}

impl File for TmpFile {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, at: Position) -> Result<usize> {
        let content = match &self.node.body {
            Body::Regular(content) => content,
            Body::Directory(_) => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        };
        let (Position::At(start) | Position::Current(start)) = at else { return Err(Errno::EINVAL) };
        let mut total = 0;
        buffer::with(|buffer| {
            while into.remaining() > 0 {
                let wanted = into.remaining().min(buffer.len());
                let read = content.lock().read(&mut buffer[..wanted], start + total as u64)?;
                if read == 0 {
                    break;
                }
                match into.put(&buffer[..read]) {
                    Ok(()) => total += read,
                    Err(_) if total > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(total)
        })
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, at: Position) -> Result<usize> {
        let Body::Regular(content) = &self.node.body else { return Err(Errno::EINVAL) };
        let mut total = 0;
        let result = buffer::with(|buffer| {
            while from.remaining() > 0 {
                let taken = from.take(buffer)?;
                let mut content = content.lock();
                let length = content.length();
                let position = match at {
                    Position::At(start) | Position::Current(start) => start.checked_add(total as u64).ok_or(Errno::EFBIG)?,
                    Position::End => length,
                };
                let end = position.checked_add(taken as u64).ok_or(Errno::EFBIG)?;
                if end > length {
                    self.node.fs.account(length, end)?;
                }
                total += content.write(&buffer[..taken], position)?;
            }
            Ok(())
        });
        if total > 0 {
            self.node.touch();
            return Ok(total);
        }
        result.map(|()| 0)
    }

    fn end(&self) -> Result<u64> {
        Ok(self.node.attributes()?.size)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _: &OpenFile, current: u64, by: i64, whence: i32) -> Result<u64> {
        let size = self.node.attributes()?.size;
        let from = |base: u64| i64::try_from(base).ok().and_then(|base| base.checked_add(by)).filter(|to| *to >= 0).ok_or(Errno::EINVAL);
        let to = match whence {
            libc::SEEK_SET => from(0)?,
            libc::SEEK_CUR => from(current)?,
            libc::SEEK_END => from(size)?,
            // Without holes, all is data and the end is the hole (lseek(2)).
            libc::SEEK_DATA | libc::SEEK_HOLE if self.node.kind == FileType::Regular => {
                if by < 0 || by as u64 >= size {
                    return Err(Errno::ENXIO);
                }
                if whence == libc::SEEK_DATA { by } else { size as i64 }
            }
            _ => return Err(Errno::EINVAL),
        };
        Ok(to as u64)
    }

    fn read_directory(&self, from: i64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        let directory = self.node.directory()?;
        let parent = self.node.parent()?.map_or(self.node.inode, |parent| parent.key().inode);
        let dots = [(1, ".", self.node.inode), (2, "..", parent)];
        for (next, name, inode) in dots {
            if from < next {
                let entry = DirectoryEntry { inode, next, kind: libc::DT_DIR, name: name.as_bytes().to_vec() };
                if !emit(&entry) {
                    return Ok(());
                }
            }
        }
        let mut entries: Vec<DirectoryEntry> = {
            let directory = directory.read();
            let later = directory.entries.iter().filter(|(_, entry)| entry.position > from);
            later
                .map(|(name, entry)| DirectoryEntry {
                    inode: entry.node.inode,
                    next: entry.position,
                    kind: entry.node.kind.directory_entry_type(),
                    name: name.clone(),
                })
                .collect()
        };
        entries.sort_by_key(|entry| entry.next);
        for entry in &entries {
            if !emit(entry) {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self, _: bool) -> Result<()> {
        Ok(())
    }

    fn allocate(&self, mode: i32, offset: u64, length: u64) -> Result<()> {
        /// `FALLOC_FL_KEEP_SIZE`.
        const KEEP_SIZE: i32 = 1;
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        match mode {
            0 if end > self.node.attributes()?.size => self.node.resize(end),
            0 | KEEP_SIZE => Ok(()),
            mode => {
                let host = self.node.backing(true)?;
                let flags = nix::fcntl::FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
                nix::fcntl::fallocate(&host, flags, offset as i64, length as i64)?;
                self.node.touch();
                Ok(())
            }
        }
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.node.resize(length)
    }

    fn attributes(&self) -> Result<Attributes> {
        self.node.attributes()
    }

    fn map(&self, open: &OpenFile, _: i32, _: i32) -> Result<Mapping<'_>> {
        if self.node.kind != FileType::Regular {
            return Err(Errno::ENODEV);
        }
        // The native descriptor must not allow more than the workload's own.
        let backing = self.node.backing(open.writes())?;
        if let Some(location) = &open.location {
            mapped::remember(identity_of(&backing)?, location);
        }
        Ok(Mapping::Owned(backing))
    }

    fn reopen(&self, _: OpenRequest, _: &Credentials) -> Result<Arc<dyn File>> {
        Ok(Arc::new(TmpFile::new(self.node.clone())))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
