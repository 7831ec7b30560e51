//! A name in the merged tree, and how it is found.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::copy::{self, copy_up};
use super::{Layers, listing, whiteout};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::sync::{Mutex, RwLock};
use crate::vfs::file::File;
use crate::vfs::mount::Location;
use crate::vfs::node::{
    Attributes, FileSystemStatistics, FileType, LinkTarget, Node, NodeKey, NodeRef, OpenRequest, Permission, SetAttributes, Walked,
};

/// A name in the merged tree.
pub struct OverlayNode {
    pub(super) layers: Arc<Layers>,
    /// Directory and name; `None` for the root. Of a removed name: the last ones.
    pub(super) place: RwLock<Option<Place>>,
    /// The name is gone.
    removed: AtomicBool,
    sides: RwLock<Known>,
    pub(super) kind: FileType,
    key: OnceLock<NodeKey>,
    /// The nodes below that somebody holds.
    children: Mutex<HashMap<Vec<u8>, Weak<OverlayNode>>>,
    /// Held while it is copied up.
    pub(super) copying: Mutex<()>,
}

#[derive(Clone)]
pub(super) struct Place {
    pub directory: Arc<OverlayNode>,
    pub name: Vec<u8>,
}

#[derive(Clone)]
pub(super) struct Sides {
    pub upper: Option<NodeRef>,
    /// Not looked at in an opaque directory.
    pub lower: Option<NodeRef>,
}

/// What is known of a node's sides.
enum Known {
    Sides(Sides),
    /// A lower directory that a batch of names passed through: looked up when somebody asks.
    Passed,
}

impl Sides {
    /// The side that shows: the upper one where there is one.
    pub fn shown(&self) -> Result<&NodeRef> {
        self.upper.as_ref().or(self.lower.as_ref()).ok_or(Errno::ENOENT)
    }
}

/// Looks a name up in a lower directory of which the merged one has been checked already: its own mode may say less than the upper one's.
pub(super) fn beneath(lower: &NodeRef, name: &[u8], who: &Credentials) -> Result<NodeRef> {
    match lower.clone().lookup(name, who) {
        Err(Errno::EACCES) => lower.clone().lookup(name, &Credentials::kernel()),
        found => found,
    }
}

impl OverlayNode {
    /// The merged root.
    pub(super) fn root(layers: Arc<Layers>, sides: Sides, kind: FileType) -> Arc<OverlayNode> {
        OverlayNode::make(layers, None, Known::Sides(sides), kind)
    }

    fn make(layers: Arc<Layers>, place: Option<Place>, known: Known, kind: FileType) -> Arc<OverlayNode> {
        Arc::new(OverlayNode {
            layers,
            place: RwLock::new(place),
            removed: AtomicBool::new(false),
            sides: RwLock::new(known),
            kind,
            key: OnceLock::new(),
            children: Mutex::default(),
            copying: Mutex::default(),
        })
    }

    /// An upper file without a name, made in this directory.
    pub(super) fn unnamed(self: &Arc<Self>, upper: NodeRef) -> Arc<OverlayNode> {
        let place = Place { directory: self.clone(), name: format!("#{}", upper.key().inode).into_bytes() };
        let kind = upper.file_type();
        let node = OverlayNode::make(self.layers.clone(), Some(place), Known::Sides(Sides { upper: Some(upper), lower: None }), kind);
        node.removed.store(true, Ordering::SeqCst);
        node
    }

    pub(super) fn of(node: &NodeRef) -> Result<Arc<OverlayNode>> {
        let any: Arc<dyn Any + Send + Sync> = node.clone();
        any.downcast::<OverlayNode>().map_err(|_| Errno::EXDEV)
    }

    /// Both sides.
    pub(super) fn sides(&self) -> Result<Sides> {
        if let Known::Sides(sides) = &*self.sides.read() {
            return Ok(sides.clone());
        }
        let mut known = self.sides.write();
        if let Known::Sides(sides) = &*known {
            return Ok(sides.clone());
        }
        let place = self.place.read().clone().ok_or(Errno::ENOENT)?;
        let above = place.directory.sides()?.lower.ok_or(Errno::ENOENT)?;
        let sides = Sides { upper: None, lower: Some(above.lookup(&place.name, &Credentials::kernel())?) };
        *known = Known::Sides(sides.clone());
        Ok(sides)
    }

    /// It has an upper side now.
    pub(super) fn set_upper(&self, upper: NodeRef) {
        let mut known = self.sides.write();
        let lower = match &*known {
            Known::Sides(sides) => sides.lower.clone(),
            Known::Passed => None,
        };
        *known = Known::Sides(Sides { upper: Some(upper), lower });
    }

    /// The side that shows.
    pub(super) fn shown(&self) -> Result<NodeRef> {
        self.sides()?.shown().cloned()
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// The node below by this name that somebody holds.
    fn held(&self, name: &[u8]) -> Option<Arc<OverlayNode>> {
        self.children.lock().get(name).and_then(Weak::upgrade)
    }

    /// The node of a name below: the one that is held, or a fresh one. The caller keeps the name's meaning as it is.
    fn adopt(self: &Arc<Self>, name: &[u8], known: Known, kind: FileType) -> Arc<OverlayNode> {
        let mut children = self.children.lock();
        if let Some(held) = children.get(name).and_then(Weak::upgrade) {
            return held;
        }
        let place = Place { directory: self.clone(), name: name.to_vec() };
        let node = OverlayNode::make(self.layers.clone(), Some(place), known, kind);
        children.insert(name.to_vec(), Arc::downgrade(&node));
        node
    }

    /// The node of something that has just been made or found.
    pub(super) fn child_of(self: &Arc<Self>, name: &[u8], sides: Sides) -> Result<Arc<OverlayNode>> {
        let kind = sides.shown()?.file_type();
        Ok(self.adopt(name, Known::Sides(sides), kind))
    }

    /// The name does not lead here any more.
    pub(super) fn detach(&self) {
        self.removed.store(true, Ordering::SeqCst);
        if let Some(place) = &*self.place.read() {
            place.directory.children.lock().remove(&place.name);
        }
    }

    /// It has been renamed: it stands by `name` in `directory` now.
    pub(super) fn move_to(self: &Arc<Self>, directory: &Arc<OverlayNode>, name: &[u8]) {
        let mut place = self.place.write();
        if let Some(Place { directory, name }) = &*place {
            let mut children = directory.children.lock();
            if children.get(name).is_some_and(|child| child.as_ptr() == Arc::as_ptr(self)) {
                children.remove(name);
            }
        }
        *place = Some(Place { directory: directory.clone(), name: name.to_vec() });
        directory.children.lock().insert(name.to_vec(), Arc::downgrade(self));
    }

    /// Both sides of a name in this directory, as the layers have it. Search permission has been checked.
    fn find(&self, name: &[u8], who: &Credentials) -> Result<Sides> {
        if self.layers.is_reserved(name) {
            return Err(Errno::ENOENT);
        }
        let sides = self.sides()?;
        let upper = match &sides.upper {
            Some(upper) => match upper.clone().lookup(name, who) {
                Ok(node) if whiteout::is_whiteout(&node) => return Err(Errno::ENOENT),
                Ok(node) => Some(node),
                Err(Errno::ENOENT) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let looked_at = match &upper {
            Some(upper) => upper.file_type() == FileType::Directory && !self.layers.is_opaque(upper),
            None => !sides.upper.as_ref().is_some_and(|upper| self.layers.hides_by_name(upper, name)),
        };
        let lower = match sides.lower.filter(|_| looked_at) {
            None => None,
            Some(lower) => match beneath(&lower, name, who) {
                Ok(node) if upper.is_some() && node.file_type() != FileType::Directory => None,
                Ok(node) if upper.is_none() && whiteout::is_whiteout(&node) => None,
                Ok(node) => Some(node),
                Err(Errno::ENOENT | Errno::ENOTDIR) => None,
                Err(error) => return Err(error),
            },
        };
        if upper.is_none() && lower.is_none() { Err(Errno::ENOENT) } else { Ok(Sides { upper, lower }) }
    }

    /// The node of a name in this directory. Search permission has been checked, and the name's meaning does not change meanwhile.
    pub(super) fn get(self: &Arc<Self>, name: &[u8], who: &Credentials) -> Result<Arc<OverlayNode>> {
        if self.is_removed() {
            return Err(Errno::ENOENT);
        }
        match self.held(name) {
            Some(held) => Ok(held),
            None => self.child_of(name, self.find(name, who)?),
        }
    }

    /// Looks up names that only the lower layer can have: it takes them all at once.
    fn pass(self: &Arc<Self>, lower: &NodeRef, names: &[&[u8]], who: &Credentials) -> Result<Walked> {
        let walked = lower.clone().lookup_path(names, who)?;
        let mut node = self.clone();
        for (index, name) in names[..walked.names].iter().enumerate() {
            node = if index + 1 == walked.names {
                node.child_of(name, Sides { upper: None, lower: Some(walked.node.clone()) })?
            } else {
                node.adopt(name, Known::Passed, FileType::Directory)
            };
        }
        Ok(Walked { node, names: walked.names })
    }
}

impl Node for OverlayNode {
    fn key(&self) -> NodeKey {
        if let Some(key) = self.key.get() {
            return *key;
        }
        match self.sides() {
            Ok(sides) => *self.key.get_or_init(|| self.layers.key_of(sides.upper.as_ref(), sides.lower.as_ref())),
            Err(_) => NodeKey { device: self.layers.device, inode: 0 },
        }
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn attributes(&self) -> Result<Attributes> {
        let key = self.key();
        let sides = self.sides()?;
        let shown = sides.shown()?.attributes()?;
        // A lower file does not know that its name is gone here.
        let links = match (self.is_removed(), self.kind) {
            (true, FileType::Directory) => 0,
            // As overlayfs: subdirectories of both sides are not counted.
            (false, FileType::Directory) if sides.upper.is_some() && sides.lower.is_some() => 1,
            (true, _) if sides.upper.is_none() => shown.links.saturating_sub(1),
            _ => shown.links,
        };
        Ok(Attributes { device: key.device, inode: key.inode, links, ..shown })
    }

    fn parent(&self) -> Result<Option<NodeRef>> {
        Ok(self.place.read().as_ref().map(|place| place.directory.clone() as NodeRef))
    }

    fn path(&self) -> Result<Vec<u8>> {
        let mut names = Vec::new();
        let mut place = self.place.read().clone();
        while let Some(Place { directory, name }) = place {
            names.push(name);
            place = directory.place.read().clone();
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    fn is_unlinked(&self) -> bool {
        self.is_removed()
    }

    fn lookup(self: Arc<Self>, name: &[u8], who: &Credentials) -> Result<NodeRef> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.access(Permission::EXECUTE, who)?;
        let _names = self.layers.names.read();
        Ok(self.get(name, who)?)
    }

    fn lookup_path(self: Arc<Self>, names: &[&[u8]], who: &Credentials) -> Result<Walked> {
        let layers = self.layers.clone();
        let mut here = self;
        for (index, name) in names.iter().enumerate() {
            if here.kind != FileType::Directory {
                return Err(Errno::ENOTDIR);
            }
            let sides = here.sides()?;
            if let (None, Some(lower), false) = (&sides.upper, &sides.lower, here.is_removed()) {
                let meaning = layers.names.read();
                // Nothing of the upper layer is below, unless it has come there since.
                if here.sides()?.upper.is_none() {
                    let walked = here.pass(lower, &names[index..], who)?;
                    drop(meaning);
                    return Ok(Walked { node: walked.node, names: index + walked.names });
                }
            }
            let child = here.lookup(name, who)?;
            if child.file_type() == FileType::Symlink || index + 1 == names.len() {
                return Ok(Walked { node: child, names: index + 1 });
            }
            here = OverlayNode::of(&child)?;
        }
        Err(Errno::ENOENT)
    }

    fn read_link(&self, who: &Credentials) -> Result<LinkTarget> {
        self.shown()?.read_link(who)
    }

    fn open(self: Arc<Self>, location: &Location, request: OpenRequest, who: &Credentials) -> Result<Arc<dyn File>> {
        if self.kind == FileType::Directory {
            self.access(Permission::READ, who)?;
            return Ok(Arc::new(listing::OverlayDirectory::new(self)));
        }
        let changes = request.permission().contains(Permission::WRITE);
        if changes && self.kind == FileType::Regular {
            self.access(request.permission(), who)?;
            let cut = request.flags & libc::O_TRUNC != 0;
            copy_up(&self, cut.then_some(0))?;
        }
        self.shown()?.open(location, request, who)
    }

    fn create(
        self: Arc<Self>,
        name: &[u8],
        mode: u32,
        location: &Location,
        request: OpenRequest,
        who: &Credentials,
    ) -> Result<(NodeRef, Arc<dyn File>)> {
        let mut file = None;
        let node = self.add(name, who, |upper| {
            let (node, opened) = upper.clone().create(name, mode, location, request, who)?;
            file = Some(opened);
            Ok(node)
        })?;
        Ok((node, file.ok_or(Errno::EIO)?))
    }

    fn create_unnamed(
        self: Arc<Self>,
        mode: u32,
        location: &Location,
        request: OpenRequest,
        who: &Credentials,
    ) -> Result<(NodeRef, Arc<dyn File>)> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        if self.is_removed() {
            return Err(Errno::ENOENT);
        }
        self.access(Permission::WRITE | Permission::EXECUTE, who)?;
        let (node, file) = copy_up(&self, None)?.create_unnamed(mode, location, request, who)?;
        Ok((self.unnamed(node), file))
    }

    fn make_directory(self: Arc<Self>, name: &[u8], mode: u32, who: &Credentials) -> Result<NodeRef> {
        Ok(self.add(name, who, |upper| upper.clone().make_directory(name, mode, who))?)
    }

    fn make_symlink(self: Arc<Self>, name: &[u8], target: &[u8], who: &Credentials) -> Result<NodeRef> {
        Ok(self.add(name, who, |upper| upper.clone().make_symlink(name, target, who))?)
    }

    fn make_node(self: Arc<Self>, name: &[u8], mode: u32, rdev: u64, who: &Credentials) -> Result<NodeRef> {
        // A device 0:0 would be a whiteout.
        if mode & libc::S_IFMT == libc::S_IFCHR && rdev == 0 {
            return Err(Errno::EPERM);
        }
        Ok(self.add(name, who, |upper| upper.clone().make_node(name, mode, rdev, who))?)
    }

    fn link(self: Arc<Self>, name: &[u8], target: &NodeRef, who: &Credentials) -> Result<()> {
        self.give_name(name, &OverlayNode::of(target)?, who)
    }

    fn unlink(self: Arc<Self>, name: &[u8], directory: bool, who: &Credentials) -> Result<()> {
        self.take_away(name, directory, who)
    }

    fn rename(self: Arc<Self>, name: &[u8], to: &NodeRef, new_name: &[u8], flags: u32, who: &Credentials) -> Result<()> {
        self.rename_to(name, &OverlayNode::of(to)?, new_name, flags, who)
    }

    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        copy::copy_up(self, None)?.set_attributes(change, who)
    }

    fn truncate(&self, length: u64, who: &Credentials) -> Result<()> {
        copy::copy_up(self, Some(length))?.truncate(length, who)
    }

    fn sync_file_system(&self) -> Result<()> {
        self.layers.upper.sync_file_system()
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        // OVERLAYFS_SUPER_MAGIC
        Ok(FileSystemStatistics { kind: 0x794c_7630, ..self.layers.upper.statistics()? })
    }

    fn access(&self, wanted: Permission, who: &Credentials) -> Result<()> {
        self.shown()?.access(wanted, who)
    }

    fn host_file(&self) -> Result<OwnedFd> {
        self.shown()?.host_file()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for OverlayNode {
    fn drop(&mut self) {
        // Trees may be deeper than a stack: the directories that only this node held go one after the other.
        let mut next = self.forget_place();
        while let Some(directory) = next {
            next = Arc::into_inner(directory).and_then(|mut last| last.forget_place());
        }
    }
}

impl OverlayNode {
    /// Strikes itself out of its directory, and gives that.
    fn forget_place(&mut self) -> Option<Arc<OverlayNode>> {
        let place = self.place.get_mut().take()?;
        let own = std::ptr::from_ref(self);
        let mut children = place.directory.children.lock();
        if children.get(&place.name).is_some_and(|child| child.as_ptr() == own) {
            children.remove(&place.name);
        }
        drop(children);
        Some(place.directory)
    }
}
