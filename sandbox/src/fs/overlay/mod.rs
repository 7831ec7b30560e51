//! Overlay: a writable layer over a directory that is left as it is (the kernel's overlayfs(5), for this kernel's own nodes).
//!
//! Both layers are nodes: the lower one usually a host directory, the upper one a tmpfs (`--overlay memory`) or another host directory
//! (`--overlay dir=PATH`). An [`OverlayNode`] is a name in the merged tree: it has an upper node, a lower node, or, for directories, both.
//!
//! - **Copy-up.** The first change of a lower file copies it, and the directories above it, into the upper layer ([`copy_up`]).
//! - **Whiteouts.** A removed lower name is hidden by a character device 0:0 of that name in the upper layer, as overlayfs has it; where the
//!   upper layer can not make one (a host directory, from inside a user namespace) by an empty regular file named `.wh.NAME`, as OCI's image layers have
//!   it. Both are understood in either.
//! - **Opaque directories.** A directory made where a lower one was removed hides what the lower one held: by a file `.wh..wh..opq` in it.
//!
//! While the upper layer holds nothing below a directory, look-ups go straight to the lower layer, as many names at once as it takes.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::sync::{Mutex, RwLock};
use crate::vfs::file::File;
use crate::vfs::mount::Location;
use crate::vfs::node::{
    Attributes, FileSystemStatistics, FileType, LinkTarget, Node, NodeKey, NodeRef, OpenRequest, Permission, SetAttributes, Walked,
};

mod copy;
mod listing;

use copy::copy_up;

/// The name that makes a directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What a whiteout's name begins with, where it is a regular file.
const WHITEOUT: &[u8] = b".wh.";

/// What the nodes of one overlay share.
struct Layers {
    /// Serialises copy-ups and changes of names.
    changes: Mutex<()>,
    device: u64,
    /// Counts copy-ups: a node that has seen fewer looks for its upper side again.
    generation: AtomicU64,
}

/// A name in the merged tree.
pub struct OverlayNode {
    layers: Arc<Layers>,
    parent: RwLock<Option<(Arc<OverlayNode>, Vec<u8>)>>,
    sides: RwLock<Sides>,
    /// The generation at which the sides were last looked at.
    seen: AtomicU64,
    kind: FileType,
    key: NodeKey,
}

#[derive(Clone)]
struct Sides {
    upper: Option<NodeRef>,
    /// Not looked at in an opaque directory.
    lower: Option<NodeRef>,
}

impl Sides {
    /// The side that shows: the upper one where there is one.
    fn shown(&self) -> Result<&NodeRef> {
        self.upper.as_ref().or(self.lower.as_ref()).ok_or(Errno::ENOENT)
    }
}

/// Lays `upper` over `lower`; gives the merged root.
pub fn mount(lower: NodeRef, upper: NodeRef) -> NodeRef {
    static DEVICE: AtomicU64 = AtomicU64::new(0x200);
    let device = DEVICE.fetch_add(1, Ordering::Relaxed);
    let layers = Arc::new(Layers { changes: Mutex::new(()), device, generation: AtomicU64::new(1) });
    let key = NodeKey { device, inode: lower.key().inode };
    // The root directory looks as the lower one did.
    if let Ok(attributes) = lower.attributes() {
        let _ = copy::copy_attributes(&attributes, &upper);
    }
    let sides = RwLock::new(Sides { upper: Some(upper), lower: Some(lower) });
    Arc::new(OverlayNode { layers, parent: RwLock::new(None), sides, seen: AtomicU64::new(0), kind: FileType::Directory, key })
}

/// Whether an upper node hides a lower name.
fn is_whiteout(node: &NodeRef) -> bool {
    node.file_type() == FileType::CharacterDevice && node.attributes().is_ok_and(|attributes| attributes.rdev == 0)
}

fn whiteout_name(name: &[u8]) -> Vec<u8> {
    [WHITEOUT, name].concat()
}

/// Hides a lower name. The caller has made sure that nothing stands there in the upper directory.
fn make_whiteout(upper: &NodeRef, name: &[u8]) -> Result<()> {
    let who = Credentials::kernel();
    match upper.clone().make_node(name, libc::S_IFCHR, 0, &who) {
        Err(Errno::EPERM) => upper.clone().make_node(&whiteout_name(name), libc::S_IFREG | 0o600, 0, &who).map(drop),
        made => made.map(drop),
    }
}

/// Uncovers a name that is about to be made.
fn remove_whiteout(upper: &NodeRef, name: &[u8]) -> Result<bool> {
    let who = Credentials::kernel();
    if let Ok(node) = upper.clone().lookup(name, &who)
        && is_whiteout(&node)
    {
        upper.clone().unlink(name, false, &who)?;
        return Ok(true);
    }
    match upper.clone().unlink(&whiteout_name(name), false, &who) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
        Err(error) => Err(error),
    }
}

impl OverlayNode {
    /// Both sides, looked at again where something has been copied up since.
    fn sides(&self) -> Sides {
        let generation = self.layers.generation.load(Ordering::SeqCst);
        let mut sides = self.sides.read().clone();
        if sides.upper.is_some() || self.seen.load(Ordering::SeqCst) == generation {
            return sides;
        }
        let place = self.parent.read().clone();
        if let Some((parent, name)) = place
            && let Ok(found) = parent.find(&name, &Credentials::kernel())
        {
            sides.upper = found.upper;
            sides.lower = sides.lower.or(found.lower);
            *self.sides.write() = sides.clone();
        }
        self.seen.store(generation, Ordering::SeqCst);
        sides
    }

    fn shown(&self) -> Result<NodeRef> {
        self.sides().shown().cloned()
    }

    /// The merged root.
    fn top(&self) -> Result<NodeRef> {
        let mut place = self.parent.read().clone();
        let mut upper = self.sides().upper;
        while let Some((parent, _)) = place {
            upper = parent.sides().upper;
            place = parent.parent.read().clone();
        }
        upper.ok_or(Errno::ENOENT)
    }

    fn of(node: &NodeRef) -> Result<Arc<OverlayNode>> {
        let any: Arc<dyn Any + Send + Sync> = node.clone();
        any.downcast::<OverlayNode>().map_err(|_| Errno::EXDEV)
    }

    fn child_of(self: &Arc<Self>, name: &[u8], sides: Sides) -> Result<Arc<OverlayNode>> {
        let shown = sides.shown()?;
        // A file keeps its lower number when it is copied up, as far as it is known.
        let numbered = sides.lower.as_ref().filter(|lower| lower.file_type() == shown.file_type()).unwrap_or(shown);
        let inode = if sides.lower.is_some() { numbered.key().inode } else { numbered.key().inode | 1 << 62 };
        let kind = shown.file_type();
        Ok(Arc::new(OverlayNode {
            layers: self.layers.clone(),
            parent: RwLock::new(Some((self.clone(), name.to_vec()))),
            sides: RwLock::new(sides),
            seen: AtomicU64::new(self.layers.generation.load(Ordering::SeqCst)),
            kind,
            key: NodeKey { device: self.layers.device, inode },
        }))
    }

    /// Both sides of a name in this directory.
    fn find(&self, name: &[u8], who: &Credentials) -> Result<Sides> {
        let sides = self.sides();
        let upper = match &sides.upper {
            Some(upper) => match upper.clone().lookup(name, who) {
                Ok(node) if is_whiteout(&node) => return Err(Errno::ENOENT),
                Ok(node) => Some(node),
                Err(Errno::ENOENT) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let hidden = || sides.upper.as_ref().is_some_and(|upper| upper.clone().lookup(&whiteout_name(name), who).is_ok());
        let lower = match &sides.lower {
            Some(_) if upper.as_ref().is_some_and(|upper| upper.file_type() != FileType::Directory) => None,
            Some(_) if upper.is_none() && hidden() => None,
            Some(lower) => match lower.clone().lookup(name, who) {
                Ok(node) if upper.is_some() && node.file_type() != FileType::Directory => None,
                Ok(node) => Some(node),
                Err(Errno::ENOENT) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let lower = match &upper {
            Some(upper) if lower.is_some() && upper.clone().lookup(OPAQUE, &Credentials::kernel()).is_ok() => None,
            _ => lower,
        };
        if upper.is_none() && lower.is_none() {
            return Err(Errno::ENOENT);
        }
        Ok(Sides { upper, lower })
    }

    /// This directory in the upper layer, made now if it is not there.
    fn upper_directory(&self) -> Result<NodeRef> {
        copy_up(self, None)
    }

    /// Makes something new in this directory: `make` does it in the upper one.
    fn add(
        self: &Arc<Self>,
        name: &[u8],
        who: &Credentials,
        directory: bool,
        make: impl FnOnce(NodeRef) -> Result<NodeRef>,
    ) -> Result<NodeRef> {
        let _changes = self.layers.changes.lock();
        self.access(Permission::EXECUTE, who)?;
        if self.find(name, who).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.access(Permission::WRITE, who)?;
        let upper = self.upper_directory()?;
        let uncovered = remove_whiteout(&upper, name)?;
        let made = match make(upper.clone()) {
            Ok(made) => made,
            Err(error) => {
                if uncovered {
                    make_whiteout(&upper, name)?;
                }
                return Err(error);
            }
        };
        if directory && uncovered {
            made.clone().make_node(OPAQUE, libc::S_IFREG | 0o600, 0, &Credentials::kernel())?;
        }
        Ok(self.child_of(name, Sides { upper: Some(made), lower: None })?)
    }

    /// Whether a lower file of this name has to be hidden once the upper one is gone.
    fn has_lower(&self, name: &[u8]) -> bool {
        let lower = self.sides().lower;
        lower.is_some_and(|lower| lower.lookup(name, &Credentials::kernel()).is_ok())
    }

    /// Removes what the upper layer has at a name: whiteouts inside a directory that looks empty go first.
    fn clear_upper(upper: &NodeRef, name: &[u8], node: &NodeRef, who: &Credentials) -> Result<()> {
        let directory = node.file_type() == FileType::Directory;
        if directory {
            for inside in listing::raw_names(node)? {
                node.clone().unlink(&inside, false, &Credentials::kernel())?;
            }
        }
        upper.clone().unlink(name, directory, who)
    }
}

impl Node for OverlayNode {
    fn key(&self) -> NodeKey {
        if self.key.inode != 0 {
            return self.key;
        }
        // A directory that a batch of names passed through: its number is looked up when somebody asks.
        let inode = self.sides().lower.map_or(0, |lower| lower.key().inode);
        NodeKey { inode, ..self.key }
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn attributes(&self) -> Result<Attributes> {
        let shown = self.shown()?.attributes()?;
        Ok(Attributes { device: self.key.device, inode: self.key().inode, ..shown })
    }

    fn parent(&self) -> Result<Option<NodeRef>> {
        Ok(self.parent.read().as_ref().map(|(parent, _)| parent.clone() as NodeRef))
    }

    fn path(&self) -> Result<Vec<u8>> {
        if self.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let mut names = Vec::new();
        let mut place = self.parent.read().clone();
        while let Some((parent, name)) = place {
            names.push(name);
            place = parent.parent.read().clone();
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    fn is_unlinked(&self) -> bool {
        self.shown().is_ok_and(|shown| shown.is_unlinked())
    }

    fn lookup(self: Arc<Self>, name: &[u8], who: &Credentials) -> Result<NodeRef> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.access(Permission::EXECUTE, who)?;
        if name.starts_with(WHITEOUT) {
            return Err(Errno::ENOENT);
        }
        let sides = self.find(name, who)?;
        Ok(self.child_of(name, sides)?)
    }

    fn lookup_path(self: Arc<Self>, names: &[&[u8]], who: &Credentials) -> Result<Walked> {
        let mut here = self;
        for (index, name) in names.iter().enumerate() {
            let sides = here.sides();
            if let (None, Some(lower)) = (&sides.upper, &sides.lower) {
                // Nothing of the upper layer is below: the lower one takes all the rest at once.
                let walked = lower.clone().lookup_path(&names[index..], who)?;
                let taken = &names[index..index + walked.names];
                let mut node = here;
                for (place, name) in taken.iter().enumerate() {
                    let last = place + 1 == taken.len();
                    node = if last {
                        node.child_of(name, Sides { upper: None, lower: Some(walked.node.clone()) })?
                    } else {
                        // A directory on the way: found when it is needed.
                        Arc::new(OverlayNode {
                            layers: node.layers.clone(),
                            parent: RwLock::new(Some((node.clone(), name.to_vec()))),
                            sides: RwLock::new(Sides { upper: None, lower: None }),
                            seen: AtomicU64::new(0),
                            kind: FileType::Directory,
                            key: NodeKey { device: node.layers.device, inode: 0 },
                        })
                    };
                }
                return Ok(Walked { node, names: index + walked.names });
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
        let changes = request.writes() || request.flags & libc::O_TRUNC != 0;
        if self.kind == FileType::Directory {
            self.access(Permission::READ, who)?;
            return Ok(Arc::new(listing::OverlayDirectory::new(self)));
        }
        if changes && self.kind == FileType::Regular {
            self.access(Permission::WRITE, who)?;
            let _changes = self.layers.changes.lock();
            let empty = request.flags & libc::O_TRUNC != 0;
            copy_up(&self, empty.then_some(0))?;
        }
        let shown = self.shown()?;
        shown.open(location, request, who)
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
        let node = self.add(name, who, false, |upper| {
            let (node, opened) = upper.create(name, mode, location, request, who)?;
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
        let _changes = self.layers.changes.lock();
        self.access(Permission::WRITE | Permission::EXECUTE, who)?;
        self.upper_directory()?.create_unnamed(mode, location, request, who)
    }

    fn make_directory(self: Arc<Self>, name: &[u8], mode: u32, who: &Credentials) -> Result<NodeRef> {
        self.add(name, who, true, |upper| upper.make_directory(name, mode, who))
    }

    fn make_symlink(self: Arc<Self>, name: &[u8], target: &[u8], who: &Credentials) -> Result<NodeRef> {
        self.add(name, who, false, |upper| upper.make_symlink(name, target, who))
    }

    fn make_node(self: Arc<Self>, name: &[u8], mode: u32, rdev: u64, who: &Credentials) -> Result<NodeRef> {
        // A device 0:0 would be a whiteout.
        if mode & libc::S_IFMT == libc::S_IFCHR && rdev == 0 {
            return Err(Errno::EPERM);
        }
        self.add(name, who, false, |upper| upper.make_node(name, mode, rdev, who))
    }

    fn link(self: Arc<Self>, name: &[u8], target: &NodeRef, who: &Credentials) -> Result<()> {
        let source: NodeRef = match OverlayNode::of(target) {
            Ok(target) => {
                let _changes = self.layers.changes.lock();
                copy_up(&target, None)?
            }
            // A file without a name, of the upper layer itself.
            Err(_) => target.clone(),
        };
        self.add(name, who, false, |upper| {
            upper.clone().link(name, &source, who)?;
            upper.lookup(name, &Credentials::kernel())
        })
        .map(drop)
    }

    fn unlink(self: Arc<Self>, name: &[u8], directory: bool, who: &Credentials) -> Result<()> {
        let _changes = self.layers.changes.lock();
        self.access(Permission::EXECUTE, who)?;
        let sides = self.find(name, who)?;
        let child = self.child_of(name, sides.clone())?;
        copy::may_remove(&self.attributes()?, &child.attributes()?, who)?;
        match (child.kind, directory) {
            (FileType::Directory, false) => return Err(Errno::EISDIR),
            (FileType::Directory, true) => {
                if !listing::names(&child)?.is_empty() {
                    return Err(Errno::ENOTEMPTY);
                }
            }
            (_, true) => return Err(Errno::ENOTDIR),
            (_, false) => {}
        }
        let upper = self.upper_directory()?;
        if let Some(node) = &sides.upper {
            OverlayNode::clear_upper(&upper, name, node, &Credentials::kernel())?;
        }
        if self.has_lower(name) {
            make_whiteout(&upper, name)?;
        }
        Ok(())
    }

    fn rename(self: Arc<Self>, name: &[u8], to: &NodeRef, new_name: &[u8], flags: u32, who: &Credentials) -> Result<()> {
        const NO_REPLACE: u32 = 1;
        let to = OverlayNode::of(to)?;
        if !Arc::ptr_eq(&self.layers, &to.layers) {
            return Err(Errno::EXDEV);
        }
        if flags & !NO_REPLACE != 0 {
            return Err(Errno::EINVAL);
        }
        let _changes = self.layers.changes.lock();
        self.access(Permission::EXECUTE, who)?;
        let moved = self.child_of(name, self.find(name, who)?)?;
        copy::may_remove(&self.attributes()?, &moved.attributes()?, who)?;
        let replaced = match to.find(new_name, who) {
            Ok(sides) => Some(to.child_of(new_name, sides)?),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        match &replaced {
            Some(_) if flags & NO_REPLACE != 0 => return Err(Errno::EEXIST),
            Some(replaced) => copy::may_remove(&to.attributes()?, &replaced.attributes()?, who)?,
            None => to.access(Permission::WRITE | Permission::EXECUTE, who)?,
        }
        if moved.kind == FileType::Directory && moved.sides().lower.is_some() {
            // As overlayfs without redirect_dir: mv(1) copies instead.
            return Err(Errno::EXDEV);
        }
        if let Some(replaced) = &replaced {
            match (moved.kind, replaced.kind) {
                (FileType::Directory, FileType::Directory) if !listing::names(replaced)?.is_empty() => return Err(Errno::ENOTEMPTY),
                (FileType::Directory, FileType::Directory) => {}
                (FileType::Directory, _) => return Err(Errno::ENOTDIR),
                (_, FileType::Directory) => return Err(Errno::EISDIR),
                _ => {}
            }
        }
        copy_up(&moved, None)?;
        let (from_upper, to_upper) = (self.upper_directory()?, to.upper_directory()?);
        let hides = to.has_lower(new_name);
        if let Some(Sides { upper: Some(node), .. }) = replaced.as_ref().map(|replaced| replaced.sides()) {
            if node.key() == moved.shown()?.key() {
                return Ok(());
            }
            if node.file_type() == FileType::Directory {
                OverlayNode::clear_upper(&to_upper, new_name, &node, &Credentials::kernel())?;
            }
        }
        remove_whiteout(&to_upper, new_name)?;
        from_upper.clone().rename(name, &to_upper, new_name, 0, &Credentials::kernel())?;
        if moved.kind == FileType::Directory && hides {
            let _ = moved.shown()?.make_node(OPAQUE, libc::S_IFREG | 0o600, 0, &Credentials::kernel());
        }
        *moved.parent.write() = Some((to.clone(), new_name.to_vec()));
        if self.has_lower(name) {
            make_whiteout(&from_upper, name)?;
        }
        Ok(())
    }

    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        let _changes = self.layers.changes.lock();
        copy_up(self, None)?.set_attributes(change, who)
    }

    fn truncate(&self, length: u64, who: &Credentials) -> Result<()> {
        let _changes = self.layers.changes.lock();
        copy_up(self, Some(length))?.truncate(length, who)
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        // OVERLAYFS_SUPER_MAGIC
        Ok(FileSystemStatistics { kind: 0x794c_7630, ..self.top()?.statistics()? })
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
