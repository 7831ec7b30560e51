//! Changes of names in the merged tree.
//!
//! Each is prepared first (rights, copies), then done under the lock of changes; the lock of names is written only while the layers' entries are
//! exchanged, so that nobody who looks sees a lower file shine through.

use std::sync::Arc;

use super::copy::copy_up;
use super::listing;
use super::node::{OverlayNode, Sides};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::vfs::node::{FileType, Node, NodeRef, Permission};
use crate::vfs::rights;

/// `RENAME_NOREPLACE`.
const NO_REPLACE: u32 = 1;
/// `RENAME_EXCHANGE`.
const EXCHANGE: u32 = 2;

impl OverlayNode {
    /// The node of a name in this directory, if there is one. The caller keeps the name's meaning as it is.
    fn standing(self: &Arc<Self>, name: &[u8], who: &Credentials) -> Result<Option<Arc<OverlayNode>>> {
        match self.get(name, who) {
            Ok(node) => Ok(Some(node)),
            Err(Errno::ENOENT) if !self.is_removed() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether something new may be made here by this name.
    fn may_add(self: &Arc<Self>, name: &[u8], who: &Credentials) -> Result<()> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.access(Permission::EXECUTE, who)?;
        let _names = self.layers.names.read();
        if self.layers.is_reserved(name) {
            return Err(Errno::EPERM);
        }
        if self.standing(name, who)?.is_some() {
            return Err(Errno::EEXIST);
        }
        self.access(Permission::WRITE, who)
    }

    /// Makes something new in this directory: `make` does it in the upper one.
    pub(super) fn add(
        self: &Arc<Self>,
        name: &[u8],
        who: &Credentials,
        make: impl FnOnce(&NodeRef) -> Result<NodeRef>,
    ) -> Result<Arc<OverlayNode>> {
        self.may_add(name, who)?;
        let upper = copy_up(self, None)?;
        let _changes = self.layers.changes.lock();
        if self.standing(name, who)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let _names = self.layers.names.write();
        let covered = self.layers.uncover(&upper, name)?;
        let made = make(&upper).and_then(|made| {
            if covered && made.file_type() == FileType::Directory {
                self.layers.make_opaque(&made)?;
            }
            Ok(made)
        });
        match made {
            Ok(made) => self.child_of(name, Sides { upper: Some(made), lower: None }),
            Err(error) => {
                if covered {
                    self.layers.cover(&upper, name)?;
                }
                Err(error)
            }
        }
    }

    /// link(2).
    pub(super) fn give_name(self: &Arc<Self>, name: &[u8], target: &Arc<OverlayNode>, who: &Credentials) -> Result<()> {
        if !Arc::ptr_eq(&self.layers, &target.layers) {
            return Err(Errno::EXDEV);
        }
        // A file that has lost its last name in the lower layer has none to be linked by.
        let lost = target.is_removed() && target.sides()?.upper.is_none() && target.attributes()?.links == 0;
        if lost {
            return Err(Errno::ENOENT);
        }
        self.may_add(name, who)?;
        let source = copy_up(target, None)?;
        self.add(name, who, |upper| {
            // The rights have been looked at.
            upper.clone().link(name, &source, &Credentials::kernel())?;
            upper.clone().lookup(name, &Credentials::kernel())
        })
        .map(drop)
    }

    /// Whether a lower file of this name has to be hidden once the upper one is gone.
    fn has_lower(&self, name: &[u8]) -> Result<bool> {
        let sides = self.sides()?;
        let opaque = sides.upper.as_ref().is_some_and(|upper| self.layers.is_opaque(upper));
        Ok(!opaque && sides.lower.is_some_and(|lower| lower.lookup(name, &Credentials::kernel()).is_ok()))
    }

    /// Removes what the upper layer has at a name: whiteouts inside a directory that looks empty go first.
    fn clear_upper(&self, upper: &NodeRef, name: &[u8], node: &NodeRef) -> Result<()> {
        let who = Credentials::kernel();
        let directory = node.file_type() == FileType::Directory;
        if directory {
            for inside in listing::raw_names(node)? {
                node.clone().unlink(&inside, false, &who)?;
            }
        }
        upper.clone().unlink(name, directory, &who)?;
        self.layers.forget(node);
        Ok(())
    }

    /// unlink(2), rmdir(2).
    pub(super) fn take_away(self: &Arc<Self>, name: &[u8], directory: bool, who: &Credentials) -> Result<()> {
        self.access(Permission::EXECUTE, who)?;
        let check = || -> Result<Arc<OverlayNode>> {
            let child = self.get(name, who)?;
            rights::may_remove(&self.attributes()?, &child.attributes()?, who)?;
            match (child.kind, directory) {
                (FileType::Directory, false) => Err(Errno::EISDIR),
                (FileType::Directory, true) if !listing::names(&child)?.is_empty() => Err(Errno::ENOTEMPTY),
                (FileType::Directory, true) => Ok(child),
                (_, true) => Err(Errno::ENOTDIR),
                (_, false) => Ok(child),
            }
        };
        {
            let _names = self.layers.names.read();
            check()?;
        }
        let upper = copy_up(self, None)?;
        let _changes = self.layers.changes.lock();
        let child = check()?;
        let hides = self.has_lower(name)?;
        let _names = self.layers.names.write();
        if let Some(node) = &child.sides()?.upper {
            self.clear_upper(&upper, name, node)?;
        }
        if hides {
            self.layers.cover(&upper, name)?;
        }
        child.detach();
        Ok(())
    }

    /// renameat2(2). The checks come in the order in which Linux has them.
    pub(super) fn rename_to(
        self: &Arc<Self>,
        name: &[u8],
        to: &Arc<OverlayNode>,
        new_name: &[u8],
        flags: u32,
        who: &Credentials,
    ) -> Result<()> {
        if !Arc::ptr_eq(&self.layers, &to.layers) {
            return Err(Errno::EXDEV);
        }
        if flags & !(NO_REPLACE | EXCHANGE) != 0 {
            return Err(Errno::EINVAL);
        }
        self.access(Permission::EXECUTE, who)?;
        to.access(Permission::EXECUTE, who)?;
        if self.layers.is_reserved(new_name) {
            return Err(Errno::EPERM);
        }
        loop {
            let (moved, other) = {
                let _names = self.layers.names.read();
                match self.may_rename(name, to, new_name, flags, who)? {
                    None => return Ok(()),
                    Some(both) => both,
                }
            };
            copy_up(&moved, None)?;
            copy_up(to, None)?;
            copy_up(self, None)?;
            let exchanged = other.as_ref().filter(|_| flags & EXCHANGE != 0);
            if let Some(other) = exchanged {
                copy_up(other, None)?;
            }
            let _changes = self.layers.changes.lock();
            // What was copied must still be what stands there.
            let same = |one: &Option<Arc<OverlayNode>>, two: &Option<Arc<OverlayNode>>| match (one, two) {
                (None, None) => true,
                (Some(one), Some(two)) => Arc::ptr_eq(one, two),
                _ => false,
            };
            match self.may_rename(name, to, new_name, flags, who)? {
                None => return Ok(()),
                Some((now, there)) if Arc::ptr_eq(&now, &moved) && same(&there, &other) => {}
                Some(_) => continue,
            }
            return match exchanged {
                Some(other) => self.exchange(name, &moved, to, new_name, other),
                None => self.replace(name, &moved, to, new_name, other.as_ref()),
            };
        }
    }

    /// What a rename moves, and what stands in its way; `None` where both are one file and nothing is to be done.
    #[allow(clippy::type_complexity)]
    fn may_rename(
        self: &Arc<Self>,
        name: &[u8],
        to: &Arc<OverlayNode>,
        new_name: &[u8],
        flags: u32,
        who: &Credentials,
    ) -> Result<Option<(Arc<OverlayNode>, Option<Arc<OverlayNode>>)>> {
        let moved = self.get(name, who)?;
        let other = to.standing(new_name, who)?;
        match &other {
            Some(_) if flags & NO_REPLACE != 0 => return Err(Errno::EEXIST),
            None if flags & EXCHANGE != 0 => return Err(Errno::ENOENT),
            _ => {}
        }
        if to.is_below(&moved) {
            return Err(Errno::EINVAL);
        }
        if other.as_ref().is_some_and(|other| self.is_below(other)) {
            return Err(if flags & EXCHANGE != 0 { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if other.as_ref().is_some_and(|other| Arc::ptr_eq(other, &moved) || other.key() == moved.key()) {
            return Ok(None);
        }
        rights::may_remove(&self.attributes()?, &moved.attributes()?, who)?;
        let directory = |node: &OverlayNode| node.kind == FileType::Directory;
        match &other {
            Some(other) => {
                rights::may_remove(&to.attributes()?, &other.attributes()?, who)?;
                match (directory(&moved), directory(other)) {
                    _ if flags & EXCHANGE != 0 => {}
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    _ => {}
                }
            }
            None => to.access(Permission::WRITE, who)?,
        }
        let exchanged = other.as_ref().filter(|_| flags & EXCHANGE != 0);
        for node in [Some(&moved), exchanged].into_iter().flatten().filter(|node| directory(node)) {
            // A directory that moves gets another "..": that is writing to it.
            if !Arc::ptr_eq(self, to) {
                node.access(Permission::WRITE, who)?;
            }
            // As overlayfs without redirect_dir: mv(1) copies instead.
            if node.sides()?.lower.is_some() {
                return Err(Errno::EXDEV);
            }
        }
        if let (Some(other), None) = (&other, exchanged)
            && directory(other)
            && !listing::names(other)?.is_empty()
        {
            return Err(Errno::ENOTEMPTY);
        }
        Ok(Some((moved, other)))
    }

    fn is_below(self: &Arc<Self>, other: &Arc<OverlayNode>) -> bool {
        let mut here = Some(self.clone());
        while let Some(node) = here {
            if Arc::ptr_eq(&node, other) {
                return true;
            }
            here = node.place.read().as_ref().map(|place| place.directory.clone());
        }
        false
    }

    fn replace(
        self: &Arc<Self>,
        name: &[u8],
        moved: &Arc<OverlayNode>,
        to: &Arc<OverlayNode>,
        new_name: &[u8],
        other: Option<&Arc<OverlayNode>>,
    ) -> Result<()> {
        let who = Credentials::kernel();
        let layers = &self.layers;
        let (from_upper, to_upper) = (copy_up(self, None)?, copy_up(to, None)?);
        let (hides, leaves) = (to.has_lower(new_name)?, self.has_lower(name)?);
        let upper = moved.shown()?;
        let there = other.map(|other| other.sides()).transpose()?.and_then(|sides| sides.upper);
        let _names = layers.names.write();
        if let Some(there) = there.as_ref().filter(|there| there.file_type() == FileType::Directory) {
            to.clear_upper(&to_upper, new_name, there)?;
        }
        layers.uncover(&to_upper, new_name)?;
        from_upper.clone().rename(name, &to_upper, new_name, 0, &who)?;
        if let Some(there) = &there {
            layers.forget(there);
        }
        if moved.kind == FileType::Directory && hides {
            layers.make_opaque(&upper)?;
        }
        if leaves {
            layers.cover(&from_upper, name)?;
        }
        if let Some(other) = other {
            other.detach();
        }
        moved.move_to(to, new_name);
        Ok(())
    }

    fn exchange(
        self: &Arc<Self>,
        name: &[u8],
        moved: &Arc<OverlayNode>,
        to: &Arc<OverlayNode>,
        new_name: &[u8],
        other: &Arc<OverlayNode>,
    ) -> Result<()> {
        let layers = &self.layers;
        let (from_upper, to_upper) = (copy_up(self, None)?, copy_up(to, None)?);
        let (one, two) = (moved.shown()?, other.shown()?);
        let (hides, leaves) = (to.has_lower(new_name)?, self.has_lower(name)?);
        let _names = layers.names.write();
        from_upper.clone().rename(name, &to_upper, new_name, EXCHANGE, &Credentials::kernel())?;
        if moved.kind == FileType::Directory && hides {
            layers.make_opaque(&one)?;
        }
        if other.kind == FileType::Directory && leaves {
            layers.make_opaque(&two)?;
        }
        moved.move_to(to, new_name);
        other.move_to(self, name);
        Ok(())
    }
}
