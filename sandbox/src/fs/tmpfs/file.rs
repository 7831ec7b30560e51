//! Open files and directories of a tmpfs.

use std::any::Any;
use std::sync::Arc;

use super::backing::identity_of;
use super::{Body, TmpNode};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::kernel::task;
use crate::platform::buffer;
use crate::vfs::file::{DirectoryEntry, File, Mapping, OpenFile, Position, Sink, Source, give, seek_to};
use crate::vfs::mapped;
use crate::vfs::mount::MountFlags;
use crate::vfs::node::{Attributes, FileType, Node, OpenRequest, Timestamp};

/// An open file.
pub struct TmpFile {
    node: Arc<TmpNode>,
}

impl TmpFile {
    /// Opens a node.
    pub fn new(node: Arc<TmpNode>) -> TmpFile {
        TmpFile { node }
    }

    /// Notes a read, as `relatime` does it (mount(8)): where the file has changed since the last one, or a day has passed.
    fn accessed(&self, open: &OpenFile) {
        const DAY: i64 = 24 * 3600;
        let now = Timestamp::now();
        let stale = {
            let meta = self.node.meta.read();
            meta.accessed <= meta.modified || meta.accessed <= meta.changed || now.seconds - meta.accessed.seconds >= DAY
        };
        let wanted = |location: &crate::vfs::mount::Location| !location.mount.has(MountFlags::NO_ACCESS_TIME);
        if stale && open.flags() & libc::O_NOATIME == 0 && open.location.as_ref().is_none_or(wanted) {
            self.node.meta.write().accessed = now;
        }
    }
}

impl File for TmpFile {
    fn read(&self, open: &OpenFile, into: &mut dyn Sink, at: Position) -> Result<usize> {
        let regular = match &self.node.body {
            Body::Regular(regular) => regular,
            Body::Directory(_) => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        };
        let (Position::At(start) | Position::Current(start)) = at else { return Err(Errno::EINVAL) };
        let mut total = 0;
        buffer::with(|buffer| {
            while into.remaining() > 0 {
                let wanted = into.remaining().min(buffer.len());
                let read = regular.lock().content.read(&mut buffer[..wanted], start + total as u64)?;
                let given = match give(into, &buffer[..read]) {
                    Ok(given) => given,
                    Err(_) if total > 0 => break,
                    Err(error) => return Err(error),
                };
                total += given;
                if given < wanted {
                    break;
                }
            }
            self.accessed(open);
            Ok(total)
        })
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, at: Position) -> Result<usize> {
        let Body::Regular(regular) = &self.node.body else { return Err(Errno::EINVAL) };
        // Held to the end: what two processes append does not mix.
        let mut regular = regular.lock();
        let start = match at {
            Position::At(start) | Position::Current(start) => start,
            Position::End => regular.content.length(),
        };
        let mut total = 0;
        let result = buffer::with(|buffer| {
            while from.remaining() > 0 {
                let taken = from.take(buffer)?;
                let position = start.checked_add(total as u64).ok_or(Errno::EFBIG)?;
                let end = position.checked_add(taken as u64).ok_or(Errno::EFBIG)?;
                let fits = regular.reserve(&self.node.fs, position, end)?;
                let length = (fits - position) as usize;
                let written = regular.content.write(&buffer[..length], position);
                regular.settle(&self.node.fs);
                total += written?;
                if length < taken {
                    break;
                }
            }
            Ok(())
        });
        drop(regular);
        if total > 0 {
            self.node.written(&task::current_credentials());
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
        match whence {
            libc::SEEK_DATA | libc::SEEK_HOLE => {
                let regular = self.node.regular().ok_or(Errno::EINVAL)?;
                let at = u64::try_from(by).map_err(|_| Errno::ENXIO)?;
                regular.lock().content.seek(at, whence == libc::SEEK_DATA)
            }
            // dcache_dir_lseek: a directory has no end to count from.
            libc::SEEK_END if self.node.kind == FileType::Directory => Err(Errno::EINVAL),
            _ => seek_to(current, || self.end(), by, whence),
        }
    }

    fn read_directory(&self, from: i64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        let directory = self.node.directory()?;
        let parent = self.node.parent()?.map_or(self.node.inode, |parent| parent.key().inode);
        let mut entries: Vec<DirectoryEntry> = {
            let directory = directory.read();
            if directory.removed {
                return Err(Errno::ENOENT);
            }
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
        let dots = [(1, ".", self.node.inode), (2, "..", parent)];
        for (next, name, inode) in dots {
            if from < next {
                let entry = DirectoryEntry { inode, next, kind: libc::DT_DIR, name: name.as_bytes().to_vec() };
                if !emit(&entry) {
                    return Ok(());
                }
            }
        }
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

    fn allocate(&self, mode: i32, start: u64, length: u64) -> Result<()> {
        if mode & !(libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE) != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = start.checked_add(length).ok_or(Errno::EFBIG)?;
        let mut regular = self.node.regular().ok_or(Errno::ENODEV)?.lock();
        // All of it or nothing.
        if mode & libc::FALLOC_FL_PUNCH_HOLE == 0 && regular.reserve(&self.node.fs, start, end) != Ok(end) {
            regular.settle(&self.node.fs);
            return Err(Errno::ENOSPC);
        }
        let done = regular.content.allocate(mode, start, end);
        regular.settle(&self.node.fs);
        drop(regular);
        done?;
        self.node.written(&task::current_credentials());
        Ok(())
    }

    fn truncate(&self, length: u64) -> Result<()> {
        self.node.resize(length, &task::current_credentials())
    }

    fn attributes(&self) -> Result<Attributes> {
        self.node.attributes()
    }

    fn map(&self, open: &OpenFile, _: i32, _: i32) -> Result<Mapping<'_>> {
        if self.node.kind != FileType::Regular {
            return Err(Errno::ENODEV);
        }
        // The native descriptor must not allow more than the workload's own, nor than its mount does.
        let executable = !open.location.as_ref().is_some_and(|location| location.mount.has(MountFlags::NO_EXECUTE));
        let backing = {
            let mut regular = self.node.regular().ok_or(Errno::ENODEV)?.lock();
            regular.content.backing()?.for_mapping(open.writes(), executable)?
        };
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
