//! The path walk: path_resolution(7), in one place.
//!
//! [`resolve`] turns a path into a [`Location`]; [`resolve_parent`] stops before the last name, for calls that create or remove it.
//! Symbolic links (40 at most, then `ELOOP`), `..`, mount points, the caller's root directory, and the `RESOLVE_*` restrictions
//! of openat2(2) are all decided here.
//!
//! As many names as possible are handed to the file system at once ([`Node::lookup_path`](super::node::Node::lookup_path)): up to the next
//! mount point, `.` or `..`. The file system stops at a symbolic link, and the walk decides what that means.

use std::collections::VecDeque;
use std::sync::Arc;

use super::mount::{Location, Mount};
use super::node::{FileType, LinkTarget};
use super::{object, rights};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;

bitflags::bitflags! {
    /// How a path is walked.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct WalkFlags: u32 {
        /// Do not follow a symbolic link at the end (`O_NOFOLLOW`, `AT_SYMLINK_NOFOLLOW`): it is the result.
        const NO_FOLLOW = 1;
        /// The result must be a directory (`ENOTDIR`), as with `O_DIRECTORY`.
        const DIRECTORY = 2;
        /// `RESOLVE_NO_SYMLINKS`.
        const NO_SYMLINKS = 4;
        /// `RESOLVE_NO_MAGICLINKS`.
        const NO_MAGIC_LINKS = 8;
        /// `RESOLVE_BENEATH`.
        const BENEATH = 16;
        /// `RESOLVE_IN_ROOT`.
        const IN_ROOT = 32;
        /// `RESOLVE_NO_XDEV`.
        const NO_CROSSING = 64;
    }
}

/// Symbolic links in one walk at most (`MAXSYMLINKS`).
pub const LINKS: usize = 40;
/// The longest name (`NAME_MAX`).
const NAME: usize = 255;

/// Where a walk starts and who walks.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// The caller's root directory: where absolute paths start and `..` stops.
    pub root: &'a Location,
    /// Where relative paths start.
    pub start: &'a Location,
    /// Whose rights count.
    pub who: &'a Credentials,
    /// How.
    pub flags: WalkFlags,
}

/// A directory and a name in it that may or may not exist.
pub struct LastName {
    /// The directory.
    pub directory: Location,
    /// The last component; `.` and `..` are the caller's to refuse; empty for `/`.
    pub name: Vec<u8>,
    /// Whether slashes followed it: it must then be a directory.
    pub slash: bool,
}

/// A walk under way.
struct Walker<'a> {
    walk: Walk<'a>,
    root: Location,
    here: Location,
    names: VecDeque<Vec<u8>>,
    links: usize,
}

/// Finds the file that `path` names. An empty path is `ENOENT`.
pub fn resolve(walk: &Walk<'_>, path: &[u8]) -> Result<Location> {
    let mut walker = Walker::new(walk, path)?;
    let directory = path.ends_with(b"/") || path.ends_with(b"/.") || walk.flags.contains(WalkFlags::DIRECTORY);
    walker.run(path.ends_with(b"/"))?;
    if directory && walker.here.node.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    Ok(walker.here)
}

/// Finds the directory that holds the last name of `path`, with every link before it followed.
pub fn resolve_parent(walk: &Walk<'_>, path: &[u8]) -> Result<LastName> {
    resolve_parent_from(walk, walk.start, path, &mut 0)
}

/// The same for the target of a link that stands in the directory `here`: the restrictions are those of the whole walk. `links` counts
/// those that were followed.
pub fn resolve_parent_from(walk: &Walk<'_>, here: &Location, path: &[u8], links: &mut usize) -> Result<LastName> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let slash = path.ends_with(b"/");
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let start = path[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    let name = path[start..end].to_vec();
    let before = if start == 0 && end > 0 && path[0] != b'/' { &b"."[..] } else { &path[..start.max(1)] };
    let mut walker = Walker::new(walk, before)?;
    if !path.starts_with(b"/") {
        walker.here = here.clone();
    }
    walker.links = *links;
    walker.run(true)?;
    *links = walker.links;
    if walker.here.node.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    if name.len() > NAME {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(LastName { directory: walker.here, name, slash })
}

fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}

/// `path` below `base`; both without a leading slash.
fn join(base: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(base.len() + name.len() + 1);
    joined.extend_from_slice(base);
    if !base.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

fn parent_path(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&[], |at| &path[..at])
}

impl<'a> Walker<'a> {
    fn new(walk: &Walk<'a>, path: &[u8]) -> Result<Walker<'a>> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let in_root = walk.flags.contains(WalkFlags::IN_ROOT);
        let root = if in_root { walk.start } else { walk.root }.clone();
        let absolute = path.starts_with(b"/");
        if absolute && walk.flags.contains(WalkFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        let here = if absolute { root.clone() } else { walk.start.clone() };
        Ok(Walker { walk: *walk, root, here, names: split(path).collect(), links: 0 })
    }

    /// Walks until no name is left. `follow_last`: a link at the end is followed whatever the flags say (a slash stood behind it).
    fn run(&mut self, follow_last: bool) -> Result<()> {
        while let Some(name) = self.names.front() {
            match name.as_slice() {
                b"." => {
                    self.must_be_directory()?;
                    self.names.pop_front();
                }
                b".." => {
                    self.must_be_directory()?;
                    self.names.pop_front();
                    self.up()?;
                }
                _ => self.down(follow_last)?,
            }
        }
        Ok(())
    }

    fn must_be_directory(&self) -> Result<()> {
        if self.here.node.file_type() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        self.here.node.access(super::node::Permission::EXECUTE, self.walk.who)
    }

    /// `..`
    fn up(&mut self) -> Result<()> {
        let restricted = self.walk.flags.contains(WalkFlags::BENEATH);
        if self.here.is(&self.root) || (restricted && self.here.is(self.walk.start)) {
            return if restricted { Err(Errno::EXDEV) } else { Ok(()) };
        }
        let mut here = self.here.clone();
        while here.is_mount_root() {
            let place = here.mount.place.read().clone();
            let Some((mount, path)) = place else { return Ok(()) };
            if self.walk.flags.contains(WalkFlags::NO_CROSSING) {
                return Err(Errno::EXDEV);
            }
            here = mount.at(&path)?;
            if here.is(&self.root) {
                self.here = here;
                return Ok(());
            }
        }
        let Some(parent) = here.node.parent()? else { return Ok(()) };
        let path = Arc::from(parent_path(&here.path));
        self.here = Location { mount: here.mount.clone(), node: parent, path };
        self.cross()
    }

    /// As many names as the file system takes.
    fn down(&mut self, follow_last: bool) -> Result<()> {
        let mut path = self.here.path.to_vec();
        let mut batch = 0;
        let children = self.here.mount.children.read();
        let mut crossing = false;
        for name in &self.names {
            if name.len() > NAME {
                if batch == 0 {
                    drop(children);
                    self.must_be_directory()?;
                    return Err(Errno::ENAMETOOLONG);
                }
                break;
            }
            if name == b"." || name == b".." {
                break;
            }
            if !children.is_empty() {
                path = join(&path, name);
                if children.iter().any(|child| child.is_at(&path)) {
                    crossing = batch == 0;
                    break;
                }
            }
            batch += 1;
        }
        drop(children);
        if crossing {
            // Search permission on the directory counts although what is found is another mount's root.
            self.must_be_directory()?;
            let name = self.names.pop_front().unwrap_or_default();
            let path: Arc<[u8]> = join(&self.here.path, &name).into();
            let covered = Location { mount: self.here.mount.clone(), node: self.here.node.clone(), path };
            self.here = covered;
            return self.cross();
        }
        let names: Vec<&[u8]> = self.names.iter().take(batch).map(Vec::as_slice).collect();
        let walked = self.here.node.clone().lookup_path(&names, self.walk.who)?;
        let taken = walked.names;
        if walked.node.file_type() == FileType::Symlink {
            let last = taken == self.names.len();
            if !(last && !follow_last && self.walk.flags.contains(WalkFlags::NO_FOLLOW)) {
                return self.follow(walked.node, taken);
            }
        }
        let mut path = self.here.path.to_vec();
        for name in self.names.drain(..taken) {
            path = join(&path, &name);
        }
        self.here = Location { mount: self.here.mount.clone(), node: walked.node, path: path.into() };
        Ok(())
    }

    /// Goes to the root of what is mounted here, if anything is.
    fn cross(&mut self) -> Result<()> {
        loop {
            let mounted = self.here.mount.mounted_at(&self.here.path);
            let Some(mounted) = mounted else { return Ok(()) };
            if self.walk.flags.contains(WalkFlags::NO_CROSSING) {
                return Err(Errno::EXDEV);
            }
            self.here = mounted.root_location();
        }
    }

    /// Follows a symbolic link that stands `taken` names further.
    fn follow(&mut self, link: super::node::NodeRef, taken: usize) -> Result<()> {
        self.links += 1;
        if self.links > LINKS || self.walk.flags.contains(WalkFlags::NO_SYMLINKS) {
            return Err(Errno::ELOOP);
        }
        let names: Vec<Vec<u8>> = self.names.drain(..taken).collect();
        if taken > 1 {
            let before: Vec<&[u8]> = names[..taken - 1].iter().map(Vec::as_slice).collect();
            let walked = self.here.node.clone().lookup_path(&before, self.walk.who)?;
            if walked.names != before.len() || walked.node.file_type() != FileType::Directory {
                // Somebody changed the path meanwhile.
                return Err(Errno::ENOENT);
            }
            let path = before.iter().fold(self.here.path.to_vec(), |path, name| join(&path, name));
            self.here = Location { mount: self.here.mount.clone(), node: walked.node, path: path.into() };
        }
        rights::may_follow(&self.here.node, &link, self.walk.who)?;
        match link.read_link(self.walk.who)? {
            LinkTarget::Path(target) => self.go_on_with(&target),
            LinkTarget::Place(location) => self.jump(location),
            LinkTarget::Object(file) => self.jump(object::location(file)),
        }
    }

    /// A link's target stands before the names that are left.
    fn go_on_with(&mut self, target: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.starts_with(b"/") {
            let crosses = self.walk.flags.contains(WalkFlags::NO_CROSSING) && !Arc::ptr_eq(&self.here.mount, &self.root.mount);
            if crosses || self.walk.flags.contains(WalkFlags::BENEATH) {
                return Err(Errno::EXDEV);
            }
            self.here = self.root.clone();
        }
        if target.ends_with(b"/") {
            self.names.push_front(b".".to_vec());
        }
        for name in split(target).rev() {
            self.names.push_front(name);
        }
        Ok(())
    }

    /// A magic link leads straight to its file.
    fn jump(&mut self, to: Location) -> Result<()> {
        if self.walk.flags.contains(WalkFlags::NO_MAGIC_LINKS) {
            return Err(Errno::ELOOP);
        }
        let crosses = self.walk.flags.contains(WalkFlags::NO_CROSSING) && !Arc::ptr_eq(&self.here.mount, &to.mount);
        if crosses || self.walk.flags.intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT) {
            return Err(Errno::EXDEV);
        }
        self.here = to;
        Ok(())
    }
}

impl Mount {
    /// Whether its place in its parent mount is this path.
    pub fn is_at(&self, path: &[u8]) -> bool {
        self.place.read().as_ref().is_some_and(|(_, place)| **place == *path)
    }

    /// What is mounted at a path of this mount: the last one hides the others.
    pub fn mounted_at(&self, path: &[u8]) -> Option<Arc<Mount>> {
        self.children.read().iter().rev().find(|child| child.is_at(path)).cloned()
    }

    /// The file at a canonical path of this mount itself, with the kernel's own rights.
    pub fn at(self: &Arc<Self>, path: &[u8]) -> Result<Location> {
        if path.is_empty() {
            return Ok(self.root_location());
        }
        let who = Credentials::kernel();
        let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let mut node = self.root.clone();
        let mut done = 0;
        while done < names.len() {
            let walked = node.lookup_path(&names[done..], &who)?;
            done += walked.names;
            node = walked.node;
        }
        Ok(Location { mount: self.clone(), node, path: path.into() })
    }

    /// Shows `mount` at a place of this mount.
    pub fn attach(self: &Arc<Self>, path: &[u8], mount: &Arc<Mount>) {
        *mount.place.write() = Some((self.clone(), path.into()));
        self.children.write().push(mount.clone());
    }

    /// Takes a child mount away. False where it is none.
    pub fn detach(&self, mount: &Arc<Mount>) -> bool {
        let mut children = self.children.write();
        let before = children.len();
        children.retain(|child| !Arc::ptr_eq(child, mount));
        *mount.place.write() = None;
        children.len() != before
    }
}

impl Location {
    /// Its path as a process with this root directory sees it: of a file whose name is gone, the last one. `None` where it is outside.
    pub fn shown_path(&self, root: &Location) -> Option<Vec<u8>> {
        let mut here = self.clone();
        let mut names: Vec<u8> = Vec::new();
        loop {
            let own = here.node.path().ok()?;
            let top = if Arc::ptr_eq(&here.mount, &root.mount) { root.node.path().ok()? } else { here.mount.root.path().ok()? };
            let own = own.strip_prefix(top.as_slice())?;
            let own = match own.strip_prefix(b"/") {
                Some(own) => own,
                // "/rootx" is not below "/root".
                None if own.is_empty() || top.is_empty() => own,
                None => return None,
            };
            names = if names.is_empty() { own.to_vec() } else { join(own, &names) };
            if Arc::ptr_eq(&here.mount, &root.mount) {
                let mut path = b"/".to_vec();
                path.extend(names);
                return Some(path);
            }
            let place = here.mount.place.read().clone();
            let (mount, path) = place?;
            let covered = mount.at(&path).ok()?;
            here = covered;
        }
    }
}
