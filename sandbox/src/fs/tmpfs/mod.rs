//! tmpfs: a file system in memory.
//!
//! A tree of [`TmpNode`]s in this process's heap. Contents of small files are bytes here; a file moves to a host file of its own ([`backing`]) when
//! it is mapped, executed or large ([`content`]). Used for `/tmp`, `/dev`, `/dev/shm`, the upper layer of a memory overlay, and as the base of any
//! small synthetic tree.
//!
//! **Limits** are counted as Linux counts them: pages that are there, not lengths, and files. Pages that appear by a mapping are
//! found when the file is next used.
//!
//! **Removed files** keep their directory, as Linux's do: `..` leads on from a removed working directory, and /proc tells where an open file stood.
//!
//! Locks: a directory's entries before those of a directory below it; a rename takes the file system's rename lock first; a file's contents before its
//! `meta`.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::sync::{Mutex, RwLock};
use crate::vfs::node::{Attributes, FileType, Node, NodeRef, Permission, Timestamp};
use crate::vfs::rights;

mod attributes;
mod backing;
pub mod content;
mod file;
mod node;
mod rename;

use content::{Content, PAGE};
pub use file::TmpFile;

/// `TMPFS_MAGIC`.
pub const MAGIC: i64 = 0x0102_1994;

/// What a tmpfs may hold (tmpfs(5)); `None` for no limit of its own.
#[derive(Clone, Copy, Default, Debug)]
pub struct Limits {
    /// Bytes of contents: rounded up to pages.
    pub bytes: Option<u64>,
    /// Files.
    pub files: Option<u64>,
}

/// One tmpfs.
pub struct FileSystem {
    device: u64,
    next: AtomicU64,
    limits: Limits,
    /// Pages of contents.
    pages: AtomicU64,
    files: AtomicU64,
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
    /// Made without a name, and may still be given one (open(2), `O_TMPFILE`).
    nameable: bool,
    rdev: u64,
    accessed: Timestamp,
    modified: Timestamp,
    changed: Timestamp,
    born: Timestamp,
    /// Where it stands, by the name it was given last; `None` for the root.
    place: Option<Place>,
}

struct Place {
    directory: Above,
    name: Vec<u8>,
}

/// The directory of a name. It holds the file while the name is there, and is held by it afterwards.
enum Above {
    Holding(Weak<TmpNode>),
    Held(Arc<TmpNode>),
}

impl Above {
    fn get(&self) -> Option<Arc<TmpNode>> {
        match self {
            Above::Holding(directory) => directory.upgrade(),
            Above::Held(directory) => Some(directory.clone()),
        }
    }
}

enum Body {
    Directory(RwLock<Directory>),
    Regular(Mutex<Regular>),
    Symlink(Vec<u8>),
    Special,
}

/// A regular file's contents, and for how many pages they have been counted.
#[derive(Default)]
struct Regular {
    content: Content,
    counted: u64,
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
    pub fn create(mode: u32, uid: u32, gid: u32, limits: Limits) -> Arc<TmpNode> {
        static DEVICE: AtomicU64 = AtomicU64::new(0x40);
        let fs = Arc::new(FileSystem {
            device: DEVICE.fetch_add(1, Ordering::Relaxed),
            next: AtomicU64::new(1),
            limits,
            pages: AtomicU64::new(0),
            files: AtomicU64::new(0),
            renames: Mutex::new(()),
        });
        fs.make(FileType::Directory, mode, uid, gid, 0, Body::Directory(RwLock::default()))
    }

    fn make(self: &Arc<Self>, kind: FileType, mode: u32, uid: u32, gid: u32, rdev: u64, body: Body) -> Arc<TmpNode> {
        let now = Timestamp::now();
        self.files.fetch_add(1, Ordering::Relaxed);
        let meta = Meta {
            mode: mode & 0o7777,
            uid,
            gid,
            links: if kind == FileType::Directory { 2 } else { 1 },
            nameable: false,
            rdev,
            accessed: now,
            modified: now,
            changed: now,
            born: now,
            place: None,
        };
        Arc::new(TmpNode { fs: self.clone(), inode: self.next.fetch_add(1, Ordering::Relaxed), kind, meta: RwLock::new(meta), body })
    }

    /// `ENOSPC` where one more file would be too many. Makers that race may exceed the limit by their number.
    fn has_room_for_file(&self) -> Result<()> {
        match self.limits.files {
            Some(most) if self.files.load(Ordering::Relaxed) >= most => Err(Errno::ENOSPC),
            _ => Ok(()),
        }
    }

    fn page_limit(&self) -> Option<u64> {
        self.limits.bytes.map(|bytes| bytes.div_ceil(PAGE))
    }

    /// Counts up to `wanted` pages; says how many fit.
    fn reserve(&self, wanted: u64) -> u64 {
        let Some(limit) = self.page_limit() else { return wanted };
        let mut granted = 0;
        let _ = self.pages.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
            granted = wanted.min(limit.saturating_sub(used));
            Some(used + granted)
        });
        granted
    }
}

impl Regular {
    /// Counts the pages that are there now instead of those that were.
    fn settle(&mut self, fs: &FileSystem) {
        if fs.limits.bytes.is_some() {
            let now = self.content.shape().1;
            fs.pages.fetch_add(now.wrapping_sub(self.counted), Ordering::SeqCst);
            self.counted = now;
        }
    }

    /// Reserves the pages that `start..end` needs; says up to where they fit. `ENOSPC` where not even the first does.
    fn reserve(&mut self, fs: &FileSystem, start: u64, end: u64) -> Result<u64> {
        if fs.limits.bytes.is_none() || start >= end {
            return Ok(end);
        }
        self.settle(fs);
        let missing = self.content.missing(start, end)?;
        let granted = fs.reserve(missing);
        self.counted += granted;
        if granted == missing {
            return Ok(end);
        }
        let mut left = granted;
        let mut at = start;
        while at < end {
            let next = ((at / PAGE + 1) * PAGE).min(end);
            let needed = self.content.missing(at, next)?;
            if needed > left {
                break;
            }
            left -= needed;
            at = next;
        }
        if at > start { Ok(at) } else { Err(Errno::ENOSPC) }
    }
}

impl TmpNode {
    fn directory(&self) -> Result<&RwLock<Directory>> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn regular(&self) -> Option<&Mutex<Regular>> {
        match &self.body {
            Body::Regular(regular) => Some(regular),
            _ => None,
        }
    }

    fn of(node: &NodeRef) -> Result<Arc<TmpNode>> {
        let any: Arc<dyn Any + Send + Sync> = node.clone();
        any.downcast::<TmpNode>().map_err(|_| Errno::EXDEV)
    }

    /// What the rules about rights go by: mode and owner alone, since the entries may be locked by the caller.
    fn rights(&self) -> Attributes {
        let meta = self.meta.read();
        let mode = self.kind.mode() | meta.mode;
        Attributes { uid: meta.uid, gid: meta.gid, ..crate::vfs::anonymous::attributes(self.inode, mode, PAGE as u32) }
    }

    /// Marks contents or entries changed.
    fn touch(&self) {
        let now = Timestamp::now();
        let mut meta = self.meta.write();
        meta.modified = now;
        meta.changed = now;
    }

    /// A node for this directory, made by `who`; it has no name yet.
    fn fresh(&self, kind: FileType, mode: u32, rdev: u64, body: Body, who: &Credentials) -> Result<Arc<TmpNode>> {
        self.fs.has_room_for_file()?;
        let (set_gid, own_gid) = {
            let meta = self.meta.read();
            (meta.mode & libc::S_ISGID != 0, meta.gid)
        };
        let (mode, gid) = if set_gid { (rights::mode_of_new(mode, kind, own_gid, who), own_gid) } else { (mode, who.fsgid) };
        Ok(self.fs.make(kind, mode, who.fsuid, gid, rdev, body))
    }

    /// Puts a fresh node into this directory.
    fn insert(
        self: &Arc<Self>,
        name: &[u8],
        who: &Credentials,
        make: impl FnOnce(&TmpNode) -> Result<Arc<TmpNode>>,
    ) -> Result<Arc<TmpNode>> {
        self.access(Permission::EXECUTE, who)?;
        let mut directory = self.directory()?.write();
        if directory.removed {
            return Err(Errno::ENOENT);
        }
        if directory.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.access(Permission::WRITE, who)?;
        let node = make(self)?;
        node.meta.write().place = Some(Place { directory: Above::Holding(Arc::downgrade(self)), name: name.to_vec() });
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
        let body = Body::empty(kind);
        self.insert(name.as_bytes(), &Credentials::kernel(), |above| above.fresh(kind, mode, rdev, body, &Credentials::kernel()))
    }

    /// The same for a symbolic link.
    pub fn add_link(self: &Arc<Self>, name: &str, target: &str) -> Result<Arc<TmpNode>> {
        let body = Body::Symlink(target.as_bytes().to_vec());
        let who = Credentials::kernel();
        self.insert(name.as_bytes(), &who, |above| above.fresh(FileType::Symlink, 0o777, 0, body, &who))
    }

    fn above(&self) -> Option<Arc<TmpNode>> {
        self.meta.read().place.as_ref().and_then(|place| place.directory.get())
    }

    /// Whether `other` is this directory or above it.
    fn is_below(self: &Arc<Self>, other: &Arc<TmpNode>) -> bool {
        let mut here = Some(self.clone());
        while let Some(node) = here {
            if Arc::ptr_eq(&node, other) {
                return true;
            }
            here = node.above();
        }
        false
    }

    /// A name in `directory` no longer leads to it.
    fn unlinked(&self, directory: &Arc<TmpNode>, name: &[u8]) {
        let mut meta = self.meta.write();
        meta.links = if self.kind == FileType::Directory { 0 } else { meta.links.saturating_sub(1) };
        meta.changed = Timestamp::now();
        if meta.links == 0 {
            meta.place = Some(Place { directory: Above::Held(directory.clone()), name: name.to_vec() });
        }
    }

    /// The host file behind a regular file, made now if it has none: for reading and writing, or for reading only.
    pub fn backing(&self, writable: bool) -> Result<OwnedFd> {
        let mut regular = self.regular().ok_or(Errno::EACCES)?.lock();
        if writable { regular.content.host() } else { regular.content.host_read_only() }
    }

    /// ftruncate(2), truncate(2), `O_TRUNC`: set-id bits go as with a write.
    fn resize(&self, length: u64, who: &Credentials) -> Result<()> {
        let mut regular = self.regular().ok_or(Errno::EINVAL)?.lock();
        regular.content.resize(length)?;
        regular.settle(&self.fs);
        drop(regular);
        self.written(who);
        Ok(())
    }

    /// Times and set-id bits after a change of contents.
    fn written(&self, who: &Credentials) {
        let now = Timestamp::now();
        let mut meta = self.meta.write();
        meta.mode = rights::mode_after_write(meta.mode, meta.gid, who);
        meta.modified = now;
        meta.changed = now;
    }
}

impl Body {
    /// The body of a new file of a kind.
    fn empty(kind: FileType) -> Body {
        match kind {
            FileType::Directory => Body::Directory(RwLock::default()),
            FileType::Regular => Body::Regular(Mutex::default()),
            _ => Body::Special,
        }
    }
}

impl Drop for TmpNode {
    fn drop(&mut self) {
        self.fs.files.fetch_sub(1, Ordering::Relaxed);
        // Trees may be deeper than a stack, so what only this node held goes one after the other.
        let mut rest: Vec<Arc<TmpNode>> = Vec::new();
        self.let_go(&mut rest);
        while let Some(node) = rest.pop() {
            if let Some(mut last) = Arc::into_inner(node) {
                last.let_go(&mut rest);
            }
        }
    }
}

impl TmpNode {
    /// Hands over what it holds, and its pages' count.
    fn let_go(&mut self, to: &mut Vec<Arc<TmpNode>>) {
        match &mut self.body {
            Body::Regular(regular) => {
                let counted = std::mem::take(&mut regular.get_mut().counted);
                self.fs.pages.fetch_sub(counted, Ordering::SeqCst);
            }
            Body::Directory(directory) => {
                to.extend(std::mem::take(&mut directory.get_mut().entries).into_values().map(|entry| entry.node));
            }
            _ => {}
        }
        if let Some(Place { directory: Above::Held(directory), .. }) = self.meta.get_mut().place.take() {
            to.push(directory);
        }
    }
}

impl Directory {
    fn add(&mut self, name: &[u8], node: Arc<TmpNode>) {
        self.next += 1;
        self.entries.insert(name.to_vec(), Entry { node, position: self.next + 2 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_may_be_deeper_than_a_stack() {
        let root = FileSystem::create(0o755, 0, 0, Limits::default());
        let fs = root.fs.clone();
        let mut here = root.clone();
        for _ in 0..200_000 {
            here = here.put("d", FileType::Directory, 0o755, 0).unwrap();
        }
        drop(root);
        drop(here);
        assert_eq!(fs.files.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn removed_directories_lead_up() {
        let who = Credentials::kernel();
        let root = FileSystem::create(0o755, 0, 0, Limits::default());
        let outer = root.put("outer", FileType::Directory, 0o755, 0).unwrap();
        let inner = outer.put("inner", FileType::Directory, 0o755, 0).unwrap();
        outer.clone().unlink(b"inner", true, &who).unwrap();
        root.clone().unlink(b"outer", true, &who).unwrap();
        drop(outer);
        assert!(inner.is_unlinked());
        assert_eq!(inner.path().unwrap(), b"outer/inner");
        let above = inner.parent().unwrap().unwrap();
        assert_eq!(above.parent().unwrap().unwrap().key(), root.key());
        assert_eq!(inner.attributes().unwrap().links, 0);
    }

    #[test]
    fn pages_are_counted_where_they_are() {
        let who = Credentials::kernel();
        let root = FileSystem::create(0o755, 0, 0, Limits { bytes: Some(8 * PAGE), files: Some(3) });
        let file = root.put("file", FileType::Regular, 0o644, 0).unwrap();
        let used = || root.fs.pages.load(Ordering::SeqCst);
        file.resize(1 << 30, &who).unwrap();
        assert_eq!(used(), 0);
        let write = |at: u64, length: u64| {
            let mut regular = file.regular().unwrap().lock();
            let end = regular.reserve(&file.fs, at, at + length)?;
            regular.content.write(&vec![1; (end - at) as usize], at)?;
            regular.settle(&file.fs);
            Ok(end - at)
        };
        assert_eq!((write(1 << 29, 1), used()), (Ok(1), 1));
        assert_eq!((write(0, 6 * PAGE), used()), (Ok(6 * PAGE), 7));
        assert_eq!((write(5 * PAGE, 3 * PAGE), used()), (Ok(2 * PAGE), 8));
        assert_eq!((write(0, PAGE), write(10 * PAGE, 1)), (Ok(PAGE), Err(Errno::ENOSPC)));
        root.put("second", FileType::Regular, 0o644, 0).unwrap();
        assert_eq!(root.put("third", FileType::Regular, 0o644, 0).err(), Some(Errno::ENOSPC));
        root.clone().unlink(b"file", false, &who).unwrap();
        drop(file);
        assert_eq!(used(), 0);
    }
}
