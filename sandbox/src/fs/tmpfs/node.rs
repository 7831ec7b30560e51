//! A tmpfs file as the rest of the kernel sees it.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::content::PAGE;
use super::{Above, Body, MAGIC, Place, TmpFile, TmpNode};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::vfs::file::File;
use crate::vfs::mount::{Location, MountFlags};
use crate::vfs::node::{
    Attributes, FileSystemStatistics, FileType, LinkTarget, Node, NodeKey, NodeRef, OpenRequest, Permission, SetAttributes, Timestamp,
};
use crate::vfs::rights;

impl Node for TmpNode {
    fn key(&self) -> NodeKey {
        NodeKey { device: self.fs.device, inode: self.inode }
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn attributes(&self) -> Result<Attributes> {
        // A directory's entries are counted as 20 bytes each (BOGO_DIRENT_SIZE), "." and ".." among them.
        let (size, pages) = match &self.body {
            Body::Directory(directory) => (20 * (2 + directory.read().entries.len() as u64), 0),
            Body::Regular(regular) => regular.lock().content.shape(),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special => (0, 0),
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
            block_size: PAGE as u32,
            blocks: pages * (PAGE / 512),
            accessed: meta.accessed,
            modified: meta.modified,
            changed: meta.changed,
            born: Some(meta.born),
        })
    }

    fn access(&self, wanted: Permission, who: &Credentials) -> Result<()> {
        crate::vfs::node::permits(&self.rights(), wanted, who)
    }

    fn parent(&self) -> Result<Option<NodeRef>> {
        Ok(self.above().map(|above| above as NodeRef))
    }

    fn path(&self) -> Result<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let of = |node: &TmpNode| node.meta.read().place.as_ref().map(|place| (place.directory.get(), place.name.clone()));
        let mut place = of(self);
        while let Some((directory, name)) = place {
            names.push(name);
            let directory = directory.ok_or(Errno::ENOENT)?;
            place = of(&directory);
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    fn is_unlinked(&self) -> bool {
        self.meta.read().links == 0
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
        self.access(request.permission(), who)?;
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
                    self.resize(0, who)?;
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
        let body = Body::empty(FileType::Regular);
        let node = self.insert(name, who, |above| above.fresh(FileType::Regular, mode, 0, body, who))?;
        Ok((node.clone(), Arc::new(TmpFile::new(node))))
    }

    fn create_unnamed(
        self: Arc<Self>,
        mode: u32,
        _: &Location,
        request: OpenRequest,
        who: &Credentials,
    ) -> Result<(NodeRef, Arc<dyn File>)> {
        if self.directory()?.read().removed {
            return Err(Errno::ENOENT);
        }
        self.access(Permission::WRITE | Permission::EXECUTE, who)?;
        let node = self.fresh(FileType::Regular, mode, 0, Body::empty(FileType::Regular), who)?;
        let mut meta = node.meta.write();
        meta.links = 0;
        meta.nameable = request.flags & libc::O_EXCL == 0;
        meta.place = Some(Place { name: format!("#{}", node.inode).into_bytes(), directory: Above::Held(self) });
        drop(meta);
        Ok((node.clone(), Arc::new(TmpFile::new(node))))
    }

    fn make_directory(self: Arc<Self>, name: &[u8], mode: u32, who: &Credentials) -> Result<NodeRef> {
        let body = Body::empty(FileType::Directory);
        Ok(self.insert(name, who, |above| above.fresh(FileType::Directory, mode, 0, body, who))?)
    }

    fn make_symlink(self: Arc<Self>, name: &[u8], target: &[u8], who: &Credentials) -> Result<NodeRef> {
        let body = Body::Symlink(target.to_vec());
        Ok(self.insert(name, who, |above| above.fresh(FileType::Symlink, 0o777, 0, body, who))?)
    }

    fn make_node(self: Arc<Self>, name: &[u8], mode: u32, rdev: u64, who: &Credentials) -> Result<NodeRef> {
        let kind = FileType::from_mode(mode)?;
        Ok(self.insert(name, who, |above| above.fresh(kind, mode, rdev, Body::empty(kind), who))?)
    }

    fn link(self: Arc<Self>, name: &[u8], target: &NodeRef, who: &Credentials) -> Result<()> {
        let target = TmpNode::of(target)?;
        if !Arc::ptr_eq(&self.fs, &target.fs) {
            return Err(Errno::EXDEV);
        }
        self.access(Permission::EXECUTE, who)?;
        let mut directory = self.directory()?.write();
        if directory.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.access(Permission::WRITE, who)?;
        if directory.removed {
            return Err(Errno::ENOENT);
        }
        let mut meta = target.meta.write();
        if meta.links == 0 && !meta.nameable {
            return Err(Errno::ENOENT);
        }
        meta.links += 1;
        meta.nameable = false;
        meta.changed = Timestamp::now();
        meta.place = Some(Place { directory: Above::Holding(Arc::downgrade(&self)), name: name.to_vec() });
        drop(meta);
        directory.add(name, target);
        drop(directory);
        self.touch();
        Ok(())
    }

    fn unlink(self: Arc<Self>, name: &[u8], is_directory: bool, who: &Credentials) -> Result<()> {
        let _renames = self.fs.renames.lock();
        self.access(Permission::EXECUTE, who)?;
        let mut directory = self.directory()?.write();
        let child = directory.entries.get(name).map(|entry| entry.node.clone()).ok_or(Errno::ENOENT)?;
        rights::may_remove(&self.rights(), &child.rights(), who)?;
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
        child.unlinked(&self, name);
        if is_directory {
            self.meta.write().links -= 1;
        }
        self.touch();
        Ok(())
    }

    fn rename(self: Arc<Self>, name: &[u8], to: &NodeRef, new_name: &[u8], flags: u32, who: &Credentials) -> Result<()> {
        self.move_to(name, to, new_name, flags, who)
    }

    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        self.change(change, who)
    }

    fn truncate(&self, length: u64, who: &Credentials) -> Result<()> {
        self.resize(length, who)
    }

    /// Without limits of its own it may take what memory there is: programs that look for room must find it.
    fn statistics(&self) -> Result<FileSystemStatistics> {
        let (blocks, free) = match self.fs.page_limit() {
            Some(limit) => (limit, limit.saturating_sub(self.fs.pages.load(std::sync::atomic::Ordering::Relaxed))),
            None => {
                let memory = nix::sys::sysinfo::sysinfo()?;
                (memory.ram_total() / PAGE, memory.ram_unused() / PAGE)
            }
        };
        let files = self.fs.limits.files.unwrap_or(0);
        Ok(FileSystemStatistics {
            kind: MAGIC,
            block_size: PAGE as i64,
            blocks,
            blocks_free: free,
            blocks_available: free,
            files,
            files_free: files.saturating_sub(self.fs.files.load(std::sync::atomic::Ordering::Relaxed)),
            name_length: 255,
        })
    }

    fn host_file(&self) -> Result<OwnedFd> {
        self.backing(false)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
