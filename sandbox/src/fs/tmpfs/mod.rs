//! tmpfs: a file system in memory.
//!
//! A tree of [`TmpNode`]s in this process's heap. Contents of small files are bytes here; a file moves to a host file of its own (unnamed, on the
//! exec roots' tmpfs) when it is mapped, executed or large ([`content`]). Used for `/tmp`, `/dev`, `/dev/shm`, the upper layer of a memory
//! overlay, and as the base of any small synthetic tree.
//!
//! Locks: a directory's entries before those of a directory below it; a rename takes the file system's rename lock first.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};
use crate::sync::{Mutex, RwLock};
use crate::vfs::file::File;
use crate::vfs::mount::{Location, MountFlags};
use crate::vfs::node::{
    Attributes, FileSystemStatistics, FileType, LinkTarget, Node, NodeKey, NodeRef, OpenRequest, Permission, SetAttributes, SetTime,
    Timestamp,
};

pub mod content;
mod file;

use content::Content;
pub use file::TmpFile;

/// `TMPFS_MAGIC`.
pub const MAGIC: i64 = 0x0102_1994;
const BLOCK: u64 = 4096;

/// One tmpfs.
pub struct FileSystem {
    device: u64,
    next: AtomicU64,
    /// Bytes that file contents may take; `u64::MAX` for no limit of its own.
    limit: u64,
    used: AtomicU64,
    renames: Mutex<()>,
}

/// A file of a tmpfs.
pub struct TmpNode {
    fs: Arc<FileSystem>,
    inode: u64,
    kind: FileType,
    meta: RwLock<Meta>,
    body: Body,
}

struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    links: u64,
    rdev: u64,
    accessed: Timestamp,
    modified: Timestamp,
    changed: Timestamp,
    born: Timestamp,
    /// Where it stands: directory and name, the last one given.
    place: Option<(Weak<TmpNode>, Vec<u8>)>,
}

enum Body {
    Directory(RwLock<Directory>),
    Regular(Mutex<Content>),
    Symlink(Vec<u8>),
    Special,
}

#[derive(Default)]
struct Directory {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Positions for getdents64 grow with every entry, so that a listing survives changes.
    next: i64,
    removed: bool,
}

struct Entry {
    node: Arc<TmpNode>,
    position: i64,
}

impl FileSystem {
    /// A new file system: its root directory.
    pub fn create(mode: u32, uid: u32, gid: u32, limit: u64) -> Arc<TmpNode> {
        static DEVICE: AtomicU64 = AtomicU64::new(0x40);
        let fs = Arc::new(FileSystem {
            device: DEVICE.fetch_add(1, Ordering::Relaxed),
            next: AtomicU64::new(1),
            limit,
            used: AtomicU64::new(0),
            renames: Mutex::new(()),
        });
        fs.make(FileType::Directory, mode, uid, gid, 0, Body::Directory(RwLock::default()))
    }

    fn make(self: &Arc<Self>, kind: FileType, mode: u32, uid: u32, gid: u32, rdev: u64, body: Body) -> Arc<TmpNode> {
        let now = Timestamp::now();
        let links = if kind == FileType::Directory { 2 } else { 1 };
        let meta = Meta { mode: mode & 0o7777, uid, gid, links, rdev, accessed: now, modified: now, changed: now, born: now, place: None };
        Arc::new(TmpNode { fs: self.clone(), inode: self.next.fetch_add(1, Ordering::Relaxed), kind, meta: RwLock::new(meta), body })
    }

    /// Counts `more` bytes in, `less` out. `ENOSPC` past the limit.
    fn account(&self, less: u64, more: u64) -> Result<()> {
        let result = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
            let used = used.saturating_sub(less).checked_add(more)?;
            (used <= self.limit || more <= less).then_some(used)
        });
        result.map(drop).map_err(|_| Errno::ENOSPC)
    }
}

impl TmpNode {
    fn directory(&self) -> Result<&RwLock<Directory>> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn content(&self) -> Option<&Mutex<Content>> {
        match &self.body {
            Body::Regular(content) => Some(content),
            _ => None,
        }
    }

    fn of(node: &NodeRef) -> Result<Arc<TmpNode>> {
        let any: Arc<dyn Any + Send + Sync> = node.clone();
        any.downcast::<TmpNode>().map_err(|_| Errno::EXDEV)
    }

    /// Marks contents or entries changed.
    fn touch(&self) {
        let now = Timestamp::now();
        let mut meta = self.meta.write();
        meta.modified = now;
        meta.changed = now;
    }

    /// Puts a fresh node into this directory.
    fn insert(self: &Arc<Self>, name: &[u8], who: &Credentials, make: impl FnOnce(u32, u32) -> Arc<TmpNode>) -> Result<Arc<TmpNode>> {
        self.access(Permission::EXECUTE, who)?;
        let mut directory = self.directory()?.write();
        if directory.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if directory.removed {
            return Err(Errno::ENOENT);
        }
        self.access(Permission::WRITE, who)?;
        let (set_gid, own_gid) = {
            let meta = self.meta.read();
            (meta.mode & libc::S_ISGID != 0, meta.gid)
        };
        let gid = if set_gid { own_gid } else { who.fsgid };
        let node = make(who.fsuid, gid);
        if set_gid && node.kind == FileType::Directory {
            node.meta.write().mode |= libc::S_ISGID;
        }
        node.meta.write().place = Some((Arc::downgrade(self), name.to_vec()));
        directory.add(name, node.clone());
        drop(directory);
        if node.kind == FileType::Directory {
            self.meta.write().links += 1;
        }
        self.touch();
        Ok(node)
    }

    /// Adds a child with the kernel's own rights: for trees that are built, not used.
    pub fn put(self: &Arc<Self>, name: &str, kind: FileType, mode: u32, rdev: u64) -> Result<Arc<TmpNode>> {
        let body = match kind {
            FileType::Directory => Body::Directory(RwLock::default()),
            FileType::Regular => Body::Regular(Mutex::default()),
            _ => Body::Special,
        };
        self.insert(name.as_bytes(), &Credentials::kernel(), |uid, gid| self.fs.make(kind, mode, uid, gid, rdev, body))
    }

    /// The same for a symbolic link.
    pub fn add_link(self: &Arc<Self>, name: &str, target: &str) -> Result<Arc<TmpNode>> {
        let body = Body::Symlink(target.as_bytes().to_vec());
        self.insert(name.as_bytes(), &Credentials::kernel(), |uid, gid| self.fs.make(FileType::Symlink, 0o777, uid, gid, 0, body))
    }

    /// Deletion in a sticky directory takes the owner of the file or of the directory (inode(7)).
    fn may_remove(&self, child: &TmpNode, who: &Credentials) -> Result<()> {
        self.access(Permission::WRITE | Permission::EXECUTE, who)?;
        let meta = self.meta.read();
        let sticky = meta.mode & libc::S_ISVTX != 0;
        if sticky && who.fsuid != meta.uid && who.fsuid != child.meta.read().uid && !who.capable(Capability::Fowner) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Whether `other` is this directory or above it.
    fn is_below(self: &Arc<Self>, other: &Arc<TmpNode>) -> bool {
        let mut here = Some(self.clone());
        while let Some(node) = here {
            if Arc::ptr_eq(&node, other) {
                return true;
            }
            here = node.meta.read().place.as_ref().and_then(|(parent, _)| parent.upgrade());
        }
        false
    }

    fn unlinked(&self) {
        let mut meta = self.meta.write();
        meta.links = meta.links.saturating_sub(1);
        meta.changed = Timestamp::now();
        if meta.links == 0 || self.kind == FileType::Directory {
            meta.place = None;
        }
    }

    /// The host file behind a regular file, made now if it has none: for reading and writing, or for reading only.
    pub fn backing(&self, writable: bool) -> Result<OwnedFd> {
        let mode = self.meta.read().mode;
        let mut content = self.content().ok_or(Errno::EACCES)?.lock();
        if writable { content.host(mode) } else { content.host_read_only(mode) }
    }
}

impl Drop for TmpNode {
    fn drop(&mut self) {
        if let Body::Regular(content) = &mut self.body {
            let _ = self.fs.account(content.get_mut().length(), 0);
        }
    }
}

impl Directory {
    fn add(&mut self, name: &[u8], node: Arc<TmpNode>) {
        self.next += 1;
        self.entries.insert(name.to_vec(), Entry { node, position: self.next + 2 });
    }
}

impl Node for TmpNode {
    fn key(&self) -> NodeKey {
        NodeKey { device: self.fs.device, inode: self.inode }
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn attributes(&self) -> Result<Attributes> {
        let size = match &self.body {
            Body::Directory(directory) => 40 + 20 * directory.read().entries.len() as u64,
            Body::Regular(content) => content.lock().length(),
            Body::Symlink(target) => target.len() as u64,
            Body::Special => 0,
        };
        let meta = self.meta.read();
        Ok(Attributes {
            device: self.fs.device,
            inode: self.inode,
            mode: self.kind.mode() | meta.mode,
            links: meta.links,
            uid: meta.uid,
            gid: meta.gid,
            rdev: meta.rdev,
            size,
            block_size: BLOCK as u32,
            blocks: if self.kind == FileType::Regular { size.div_ceil(BLOCK) * 8 } else { 0 },
            accessed: meta.accessed,
            modified: meta.modified,
            changed: meta.changed,
            born: Some(meta.born),
        })
    }

    /// By mode and owner alone: the entries may be locked by the caller.
    fn access(&self, wanted: Permission, who: &Credentials) -> Result<()> {
        let meta = self.meta.read();
        let mode = self.kind.mode() | meta.mode;
        let shown = Attributes { uid: meta.uid, gid: meta.gid, ..crate::vfs::anonymous::attributes(self.inode, mode, BLOCK as u32) };
        drop(meta);
        crate::vfs::node::permits(&shown, wanted, who)
    }

    fn parent(&self) -> Result<Option<NodeRef>> {
        let meta = self.meta.read();
        match &meta.place {
            None => Ok(None),
            Some((parent, _)) => Ok(parent.upgrade().map(|parent| parent as NodeRef)),
        }
    }

    fn path(&self) -> Result<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut place = self.meta.read().place.as_ref().map(|(parent, name)| (parent.upgrade(), name.clone()));
        if place.is_none() && self.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        while let Some((parent, name)) = place {
            names.push(name);
            let parent = parent.ok_or(Errno::ENOENT)?;
            if parent.is_unlinked() {
                return Err(Errno::ENOENT);
            }
            place = parent.meta.read().place.as_ref().map(|(parent, name)| (parent.upgrade(), name.clone()));
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    fn is_unlinked(&self) -> bool {
        match &self.body {
            Body::Directory(directory) => directory.read().removed,
            _ => self.meta.read().links == 0,
        }
    }

    fn lookup(self: Arc<Self>, name: &[u8], who: &Credentials) -> Result<NodeRef> {
        let directory = self.directory()?;
        self.access(Permission::EXECUTE, who)?;
        directory.read().entries.get(name).map(|entry| entry.node.clone() as NodeRef).ok_or(Errno::ENOENT)
    }

    fn read_link(&self, _: &Credentials) -> Result<LinkTarget> {
        match &self.body {
            Body::Symlink(target) => Ok(LinkTarget::Path(target.clone())),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, location: &Location, request: OpenRequest, who: &Credentials) -> Result<Arc<dyn File>> {
        let mut wanted = Permission::empty();
        if request.reads() {
            wanted |= Permission::READ;
        }
        if request.writes() || request.flags & libc::O_TRUNC != 0 {
            wanted |= Permission::WRITE;
        }
        self.access(wanted, who)?;
        match self.kind {
            FileType::CharacterDevice | FileType::BlockDevice => {
                if location.mount.has(MountFlags::NO_DEVICES) {
                    return Err(Errno::EACCES);
                }
                let rdev = self.meta.read().rdev;
                crate::fs::dev::open(rdev, self.kind)
            }
            FileType::Fifo => crate::fs::pipe::open_fifo(self.key(), request),
            FileType::Socket | FileType::Symlink => Err(Errno::ENXIO),
            FileType::Regular | FileType::Directory => {
                if request.flags & libc::O_TRUNC != 0 && self.kind == FileType::Regular {
                    self.resize(0)?;
                }
                Ok(Arc::new(TmpFile::new(self)))
            }
        }
    }

    fn create(
        self: Arc<Self>,
        name: &[u8],
        mode: u32,
        _: &Location,
        _: OpenRequest,
        who: &Credentials,
    ) -> Result<(NodeRef, Arc<dyn File>)> {
        let body = Body::Regular(Mutex::default());
        let node = self.insert(name, who, |uid, gid| self.fs.make(FileType::Regular, mode, uid, gid, 0, body))?;
        Ok((node.clone(), Arc::new(TmpFile::new(node))))
    }

    fn create_unnamed(self: Arc<Self>, mode: u32, _: &Location, _: OpenRequest, who: &Credentials) -> Result<(NodeRef, Arc<dyn File>)> {
        self.directory()?;
        self.access(Permission::WRITE | Permission::EXECUTE, who)?;
        let node = self.fs.make(FileType::Regular, mode, who.fsuid, who.fsgid, 0, Body::Regular(Mutex::default()));
        node.meta.write().links = 0;
        Ok((node.clone(), Arc::new(TmpFile::new(node))))
    }

    fn make_directory(self: Arc<Self>, name: &[u8], mode: u32, who: &Credentials) -> Result<NodeRef> {
        let body = Body::Directory(RwLock::default());
        Ok(self.insert(name, who, |uid, gid| self.fs.make(FileType::Directory, mode, uid, gid, 0, body))?)
    }

    fn make_symlink(self: Arc<Self>, name: &[u8], target: &[u8], who: &Credentials) -> Result<NodeRef> {
        let body = Body::Symlink(target.to_vec());
        Ok(self.insert(name, who, |uid, gid| self.fs.make(FileType::Symlink, 0o777, uid, gid, 0, body))?)
    }

    fn make_node(self: Arc<Self>, name: &[u8], mode: u32, rdev: u64, who: &Credentials) -> Result<NodeRef> {
        let kind = FileType::from_mode(mode)?;
        let body = if kind == FileType::Regular { Body::Regular(Mutex::default()) } else { Body::Special };
        Ok(self.insert(name, who, |uid, gid| self.fs.make(kind, mode, uid, gid, rdev, body))?)
    }

    fn link(self: Arc<Self>, name: &[u8], target: &NodeRef, who: &Credentials) -> Result<()> {
        let target = TmpNode::of(target)?;
        if !Arc::ptr_eq(&self.fs, &target.fs) {
            return Err(Errno::EXDEV);
        }
        self.access(Permission::WRITE | Permission::EXECUTE, who)?;
        let mut directory = self.directory()?.write();
        if directory.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if directory.removed {
            return Err(Errno::ENOENT);
        }
        directory.add(name, target.clone());
        drop(directory);
        let mut meta = target.meta.write();
        meta.links += 1;
        meta.changed = Timestamp::now();
        meta.place = Some((Arc::downgrade(&self), name.to_vec()));
        drop(meta);
        self.touch();
        Ok(())
    }

    fn unlink(self: Arc<Self>, name: &[u8], is_directory: bool, who: &Credentials) -> Result<()> {
        let _renames = self.fs.renames.lock();
        self.access(Permission::EXECUTE, who)?;
        let mut directory = self.directory()?.write();
        let child = directory.entries.get(name).map(|entry| entry.node.clone()).ok_or(Errno::ENOENT)?;
        self.may_remove(&child, who)?;
        match (&child.body, is_directory) {
            (Body::Directory(_), false) => return Err(Errno::EISDIR),
            (Body::Directory(below), true) => {
                let mut below = below.write();
                if !below.entries.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
                below.removed = true;
            }
            (_, true) => return Err(Errno::ENOTDIR),
            (_, false) => {}
        }
        directory.entries.remove(name);
        drop(directory);
        child.unlinked();
        if is_directory {
            self.meta.write().links -= 1;
        }
        self.touch();
        Ok(())
    }

    fn rename(self: Arc<Self>, name: &[u8], to: &NodeRef, new_name: &[u8], flags: u32, who: &Credentials) -> Result<()> {
        const NO_REPLACE: u32 = 1;
        const EXCHANGE: u32 = 2;
        if flags & !(NO_REPLACE | EXCHANGE) != 0 {
            return Err(Errno::EINVAL);
        }
        let to = TmpNode::of(to)?;
        if !Arc::ptr_eq(&self.fs, &to.fs) {
            return Err(Errno::EXDEV);
        }
        let _renames = self.fs.renames.lock();
        self.access(Permission::EXECUTE, who)?;
        to.access(Permission::EXECUTE, who)?;
        let find = |directory: &Arc<TmpNode>, name: &[u8]| -> Result<Option<Arc<TmpNode>>> {
            Ok(directory.directory()?.read().entries.get(name).map(|entry| entry.node.clone()))
        };
        let moved = find(&self, name)?.ok_or(Errno::ENOENT)?;
        let replaced = find(&to, new_name)?;
        if flags & NO_REPLACE != 0 && replaced.is_some() {
            return Err(Errno::EEXIST);
        }
        if flags & EXCHANGE != 0 && replaced.is_none() {
            return Err(Errno::ENOENT);
        }
        if moved.kind == FileType::Directory && to.is_below(&moved) {
            return Err(Errno::EINVAL);
        }
        self.may_remove(&moved, who)?;
        match &replaced {
            Some(replaced) => to.may_remove(replaced, who)?,
            None => to.access(Permission::WRITE, who)?,
        }
        if replaced.as_ref().is_some_and(|replaced| Arc::ptr_eq(replaced, &moved)) {
            return Ok(());
        }
        if flags & EXCHANGE != 0 {
            let other = replaced.ok_or(Errno::ENOENT)?;
            if other.kind == FileType::Directory && self.is_below(&other) {
                return Err(Errno::EINVAL);
            }
            self.place(name, other, &moved)?;
            to.place(new_name, moved, &self)?;
            return Ok(());
        }
        if let Some(replaced) = &replaced {
            match (&moved.body, &replaced.body) {
                (Body::Directory(_), Body::Directory(below)) => {
                    let mut below = below.write();
                    if !below.entries.is_empty() {
                        return Err(Errno::ENOTEMPTY);
                    }
                    below.removed = true;
                }
                (Body::Directory(_), _) => return Err(Errno::ENOTDIR),
                (_, Body::Directory(_)) => return Err(Errno::EISDIR),
                _ => {}
            }
        }
        self.directory()?.write().entries.remove(name);
        let directory = moved.kind == FileType::Directory;
        if directory {
            self.meta.write().links -= 1;
        }
        if let Some(replaced) = replaced {
            to.directory()?.write().entries.remove(new_name);
            replaced.unlinked();
            if directory {
                to.meta.write().links -= 1;
            }
        }
        if directory {
            to.meta.write().links += 1;
        }
        to.directory()?.write().add(new_name, moved.clone());
        let mut meta = moved.meta.write();
        meta.changed = Timestamp::now();
        meta.place = Some((Arc::downgrade(&to), new_name.to_vec()));
        drop(meta);
        self.touch();
        to.touch();
        Ok(())
    }

    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        let mut meta = self.meta.write();
        let owner = who.fsuid == meta.uid || who.capable(Capability::Fowner);
        if change.uid.is_some() || change.gid.is_some() {
            let uid = change.uid.unwrap_or(meta.uid);
            let gid = change.gid.unwrap_or(meta.gid);
            let own = who.fsuid == meta.uid && uid == meta.uid && (gid == meta.gid || who.in_group(gid));
            if !own && !who.capable(Capability::Chown) {
                return Err(Errno::EPERM);
            }
            meta.uid = uid;
            meta.gid = gid;
            // Set-id bits go when a file changes hands (chown(2)).
            if self.kind != FileType::Directory {
                meta.mode &= !libc::S_ISUID;
                if meta.mode & libc::S_IXGRP != 0 {
                    meta.mode &= !libc::S_ISGID;
                }
            }
        }
        if let Some(mode) = change.mode {
            if self.kind == FileType::Symlink {
                return Err(Errno::EOPNOTSUPP);
            }
            if !owner {
                return Err(Errno::EPERM);
            }
            meta.mode = mode & 0o7777;
            if !who.in_group(meta.gid) && !who.capable(Capability::Fsetid) {
                meta.mode &= !libc::S_ISGID;
            }
        }
        if change.accessed.is_some() || change.modified.is_some() {
            let explicit = [change.accessed, change.modified].iter().any(|time| matches!(time, Some(SetTime::To(_)) | None));
            if !owner {
                if explicit {
                    return Err(Errno::EPERM);
                }
                let mode = self.kind.mode() | meta.mode;
                let writable = Attributes { mode, uid: meta.uid, gid: meta.gid, ..crate::vfs::anonymous::attributes(0, mode, 0) };
                crate::vfs::node::permits(&writable, Permission::WRITE, who)?;
            }
            let time = |time: SetTime| match time {
                SetTime::Now => Timestamp::now(),
                SetTime::To(at) => at,
            };
            if let Some(accessed) = change.accessed {
                meta.accessed = time(accessed);
            }
            if let Some(modified) = change.modified {
                meta.modified = time(modified);
            }
        }
        meta.changed = Timestamp::now();
        let mode = meta.mode;
        drop(meta);
        if let (Some(content), true) = (self.content(), change.mode.is_some()) {
            content.lock().mode_changed(mode);
        }
        Ok(())
    }

    fn truncate(&self, length: u64, _: &Credentials) -> Result<()> {
        self.resize(length)
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        let limited = self.fs.limit != u64::MAX;
        let blocks = if limited { self.fs.limit / BLOCK } else { 0 };
        let used = self.fs.used.load(Ordering::Relaxed).div_ceil(BLOCK);
        Ok(FileSystemStatistics {
            kind: MAGIC,
            block_size: BLOCK as i64,
            blocks,
            blocks_free: blocks.saturating_sub(used),
            blocks_available: blocks.saturating_sub(used),
            files: 0,
            files_free: 0,
            name_length: 255,
        })
    }

    fn host_file(&self) -> Result<OwnedFd> {
        let mode = self.meta.read().mode;
        self.content().ok_or(Errno::EACCES)?.lock().host_read_only(mode)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl TmpNode {
    fn resize(&self, length: u64) -> Result<()> {
        let content = self.content().ok_or(Errno::EINVAL)?;
        let mut content = content.lock();
        self.fs.account(content.length(), length)?;
        content.resize(length)?;
        drop(content);
        self.touch();
        Ok(())
    }

    /// Half of an exchange: `node`, which stood in `from`'s place, now stands here.
    fn place(self: &Arc<Self>, name: &[u8], node: Arc<TmpNode>, _: &Arc<TmpNode>) -> Result<()> {
        let mut directory = self.directory()?.write();
        if let Some(entry) = directory.entries.get_mut(name) {
            entry.node = node.clone();
        }
        drop(directory);
        node.meta.write().place = Some((Arc::downgrade(self), name.to_vec()));
        self.touch();
        Ok(())
    }
}
