//! renameat2(2) within a tmpfs. The checks come in the order in which Linux has them (fs/namei.c, do_renameat2 and vfs_rename).

use std::sync::Arc;

use super::{Above, Body, Place, TmpNode};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::vfs::node::{FileType, Node, NodeRef, Permission, Timestamp};
use crate::vfs::rights;

/// `RENAME_NOREPLACE`.
const NO_REPLACE: u32 = 1;
/// `RENAME_EXCHANGE`.
const EXCHANGE: u32 = 2;
/// `RENAME_WHITEOUT`.
const WHITEOUT: u32 = 4;

impl TmpNode {
    fn find(&self, name: &[u8]) -> Result<Option<Arc<TmpNode>>> {
        Ok(self.directory()?.read().entries.get(name).map(|entry| entry.node.clone()))
    }

    fn may_remove(&self, child: &TmpNode, who: &Credentials) -> Result<()> {
        rights::may_remove(&self.rights(), &child.rights(), who)
    }

    /// `old_name` here becomes `new_name` in `to`.
    pub(super) fn move_to(self: Arc<Self>, old_name: &[u8], to: &NodeRef, new_name: &[u8], flags: u32, who: &Credentials) -> Result<()> {
        let to = TmpNode::of(to)?;
        if !Arc::ptr_eq(&self.fs, &to.fs) {
            return Err(Errno::EXDEV);
        }
        let _renames = self.fs.renames.lock();
        self.access(Permission::EXECUTE, who)?;
        to.access(Permission::EXECUTE, who)?;
        let moved = self.find(old_name)?.ok_or(Errno::ENOENT)?;
        let replaced = to.find(new_name)?;
        match &replaced {
            Some(_) if flags & NO_REPLACE != 0 => return Err(Errno::EEXIST),
            None if flags & EXCHANGE != 0 => return Err(Errno::ENOENT),
            _ => {}
        }
        if to.is_below(&moved) {
            return Err(Errno::EINVAL);
        }
        if replaced.as_ref().is_some_and(|replaced| self.is_below(replaced)) {
            return Err(if flags & EXCHANGE != 0 { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if replaced.as_ref().is_some_and(|replaced| Arc::ptr_eq(replaced, &moved)) {
            return Ok(());
        }
        let is_directory = moved.kind == FileType::Directory;
        self.may_remove(&moved, who)?;
        match &replaced {
            Some(replaced) => {
                to.may_remove(replaced, who)?;
                match (is_directory, replaced.kind == FileType::Directory) {
                    _ if flags & EXCHANGE != 0 => {}
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    _ => {}
                }
            }
            None => {
                if to.directory()?.read().removed {
                    return Err(Errno::ENOENT);
                }
                to.access(Permission::WRITE, who)?;
            }
        }
        // A directory that moves gets another "..": that is writing to it.
        if !Arc::ptr_eq(&self, &to) {
            for node in [Some(&moved), replaced.as_ref().filter(|_| flags & EXCHANGE != 0)].into_iter().flatten() {
                if node.kind == FileType::Directory {
                    node.access(Permission::WRITE, who)?;
                }
            }
        }
        match replaced {
            Some(other) if flags & EXCHANGE != 0 => self.exchange(old_name, moved, &to, new_name, other),
            replaced => self.replace(old_name, moved, &to, new_name, replaced, flags, who),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn replace(
        self: &Arc<Self>,
        old_name: &[u8],
        moved: Arc<TmpNode>,
        to: &Arc<TmpNode>,
        new_name: &[u8],
        replaced: Option<Arc<TmpNode>>,
        flags: u32,
        who: &Credentials,
    ) -> Result<()> {
        let whiteout = match flags & WHITEOUT {
            0 => None,
            _ => Some(self.fresh(FileType::CharacterDevice, 0, 0, Body::Special, who)?),
        };
        if let Some(Body::Directory(below)) = replaced.as_ref().map(|replaced| &replaced.body) {
            let mut below = below.write();
            if !below.entries.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            below.removed = true;
        }
        let is_directory = moved.kind == FileType::Directory;
        self.directory()?.write().entries.remove(old_name);
        if let Some(replaced) = &replaced {
            to.directory()?.write().entries.remove(new_name);
            replaced.unlinked(to, new_name);
        }
        to.directory()?.write().add(new_name, moved.clone());
        if is_directory {
            self.meta.write().links -= 1;
            // One directory more here, or in the place of another.
            if replaced.is_none() {
                to.meta.write().links += 1;
            }
        }
        moved.stands(to, new_name);
        if let Some(whiteout) = whiteout {
            whiteout.stands(self, old_name);
            self.directory()?.write().add(old_name, whiteout);
        }
        self.touch();
        to.touch();
        Ok(())
    }

    fn exchange(
        self: &Arc<Self>,
        old_name: &[u8],
        moved: Arc<TmpNode>,
        to: &Arc<TmpNode>,
        new_name: &[u8],
        other: Arc<TmpNode>,
    ) -> Result<()> {
        for (directory, name, node) in [(self, old_name, &other), (to, new_name, &moved)] {
            if let Some(entry) = directory.directory()?.write().entries.get_mut(name) {
                entry.node = node.clone();
            }
            node.stands(directory, name);
        }
        let is_directory = |node: &TmpNode| u64::from(node.kind == FileType::Directory);
        for (directory, comes, goes) in [(self, &other, &moved), (to, &moved, &other)] {
            let mut meta = directory.meta.write();
            meta.links = meta.links + is_directory(comes) - is_directory(goes);
        }
        self.touch();
        to.touch();
        Ok(())
    }

    /// It has a new place.
    fn stands(&self, directory: &Arc<TmpNode>, name: &[u8]) {
        let mut meta = self.meta.write();
        meta.changed = Timestamp::now();
        meta.place = Some(Place { directory: Above::Holding(Arc::downgrade(directory)), name: name.to_vec() });
    }
}
