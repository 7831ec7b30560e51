//! Synthetic file systems: trees whose files are made when they are looked at (/proc, /sys).
//!
//! An [`Item`] says what a name is: a directory that lists its items, a file whose text is generated when it is read from its beginning, a link. Nothing is
//! kept between two looks, so a tree costs no memory while nobody looks.

use std::any::Any;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};
use crate::sync::Mutex;
use crate::vfs::anonymous;
use crate::vfs::file::{DirectoryEntry, File, OpenFile, Position, Sink, Source};
use crate::vfs::mount::Location;
use crate::vfs::node::{
    Attributes, FileSystemStatistics, FileType, LinkTarget, Node, NodeKey, NodeRef, OpenRequest, Permission, SetAttributes, permits,
};

/// Makes a file's text.
pub type Read = Arc<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;
/// Takes what is written to a file, whole.
pub type Write = Arc<dyn Fn(&[u8]) -> Result<()> + Send + Sync>;
/// Lists a directory.
pub type List = Arc<dyn Fn() -> Vec<Named> + Send + Sync>;
/// Says where a link leads.
pub type Follow = Arc<dyn Fn() -> Result<LinkTarget> + Send + Sync>;
/// Finds one item of a directory by its name, where that is cheaper than listing all.
pub type Find = Arc<dyn Fn(&str) -> Option<Named> + Send + Sync>;
/// Whether somebody may look inside: asked beyond the permission bits when a file is opened, a directory is searched or listed, a link is followed.
pub type Guard = Arc<dyn Fn(&Credentials) -> Result<()> + Send + Sync>;

/// What a name stands for.
#[derive(Clone)]
pub enum Item {
    /// A directory.
    Directory(List),
    /// A file, with what is written to it where it may be.
    File(Read, Option<Write>),
    /// A symbolic link.
    Link(Follow),
}

/// An item of a directory.
#[derive(Clone)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// What it is.
    pub item: Item,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// What stat(2) shows as its size.
    pub size: u64,
    /// Who may look inside, beyond what the permission bits say.
    pub guard: Option<Guard>,
    /// What writing to it gives where it takes nothing.
    pub refusal: Errno,
    /// Whether it cannot even be opened for writing, whoever asks.
    pub sealed: bool,
    /// Who needs no permission bits.
    pub open_to: Option<Guard>,
    /// Finds an item of the directory by name.
    pub find: Option<Find>,
}

fn named(name: &str, item: Item, mode: u32) -> Named {
    Named {
        name: name.to_owned(),
        item,
        mode,
        owner: (0, 0),
        size: 0,
        guard: None,
        refusal: Errno::EINVAL,
        sealed: false,
        open_to: None,
        find: None,
    }
}

/// A directory that always has these items.
pub fn directory(name: &str, list: impl Fn() -> Vec<Named> + Send + Sync + 'static) -> Named {
    named(name, Item::Directory(Arc::new(list)), 0o555)
}

/// A read-only file.
pub fn file(name: &str, read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Named {
    named(name, Item::File(Arc::new(read), None), 0o444)
}

/// A read-only file whose text never changes.
pub fn constant(name: &str, text: &str) -> Named {
    let text = text.as_bytes().to_vec();
    file(name, move || Ok(text.clone()))
}

/// A link to a path.
pub fn link(name: &str, target: impl Fn() -> Result<LinkTarget> + Send + Sync + 'static) -> Named {
    named(name, Item::Link(Arc::new(target)), 0o777)
}

impl Named {
    /// The same with other permission bits.
    pub fn mode(mut self, mode: u32) -> Named {
        self.mode = mode;
        self
    }

    /// The same with another owner.
    pub fn owner(mut self, owner: (u32, u32)) -> Named {
        self.owner = owner;
        self
    }

    /// The same with another size.
    pub fn size(mut self, size: u64) -> Named {
        self.size = size;
        self
    }

    /// The same, for those alone whom `guard` lets.
    pub fn guarded(mut self, guard: &Guard) -> Named {
        self.guard = Some(guard.clone());
        self
    }

    /// The same, with another answer to being written to.
    pub fn refusing(mut self, error: Errno) -> Named {
        self.refusal = error;
        self
    }

    /// The same, never to be opened for writing.
    pub fn sealed(mut self) -> Named {
        self.sealed = true;
        self
    }

    /// The same, whatever the permission bits say, for those whom `guard` lets.
    pub fn open_to(mut self, guard: &Guard) -> Named {
        self.open_to = Some(guard.clone());
        self
    }

    /// The same, with a quicker way to one item; `find` gives what listing would.
    pub fn finding(mut self, find: impl Fn(&str) -> Option<Named> + Send + Sync + 'static) -> Named {
        self.find = Some(Arc::new(find));
        self
    }

    fn admits(&self, who: &Credentials) -> Result<()> {
        self.guard.as_ref().map_or(Ok(()), |guard| guard(who))
    }

    /// The same, with what is written taken.
    pub fn writable(mut self, write: impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static) -> Named {
        if let Item::File(_, slot) = &mut self.item {
            *slot = Some(Arc::new(write));
            self.mode |= 0o200;
        }
        self
    }
}

/// What the nodes of one tree share.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The magic number (statfs(2)).
    pub magic: i64,
    /// The device number that stat(2) shows.
    pub device: u64,
    /// Whether opening a file for writing that takes nothing is `EACCES`.
    pub strict: bool,
}

/// A node of a synthetic tree.
pub struct SyntheticNode {
    kind: Kind,
    named: Named,
    path: Vec<u8>,
    parent: Option<NodeRef>,
}

/// The root of a tree: a directory, whose name does not matter.
pub fn root(kind: Kind, directory: Named) -> NodeRef {
    Arc::new(SyntheticNode { kind, named: directory, path: Vec::new(), parent: None })
}

/// Where an entry stands in its directory. Numbers (descriptors, processes) come and go while a reader is under way, and closing what has been read must not
/// move the rest: they stand at a place that their value gives, behind everything that is always there.
fn place(index: i64, name: &[u8]) -> i64 {
    /// More than any directory has of other names.
    const NUMBERS: i64 = 1 << 16;
    let number = std::str::from_utf8(name).ok().and_then(|name| name.parse::<u32>().ok());
    number.map_or(index, |number| NUMBERS + i64::from(number))
}

/// A number for a path, the same at every look (FNV-1a).
fn inode(path: &[u8]) -> u64 {
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 16) | 1
}

impl SyntheticNode {
    /// Why nothing can be made by this name: a name that is not there cannot even be looked up to be made (proc_lookup() in fs/proc/generic.c).
    fn refusal(self: Arc<Self>, name: &[u8], who: &Credentials) -> Errno {
        self.lookup(name, who).err().unwrap_or(Errno::EEXIST)
    }

    fn below(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, &b"/"[..], name].concat() }
    }
}

impl Node for SyntheticNode {
    fn key(&self) -> NodeKey {
        NodeKey { device: self.kind.device, inode: inode(&self.path) }
    }

    fn file_type(&self) -> FileType {
        match self.named.item {
            Item::Directory(_) => FileType::Directory,
            Item::File(..) => FileType::Regular,
            Item::Link(_) => FileType::Symlink,
        }
    }

    fn attributes(&self) -> Result<Attributes> {
        let mode = self.file_type().mode() | self.named.mode;
        let links = if self.file_type() == FileType::Directory { 2 } else { 1 };
        Ok(Attributes {
            device: self.kind.device,
            links,
            uid: self.named.owner.0,
            gid: self.named.owner.1,
            size: self.named.size,
            ..anonymous::attributes(inode(&self.path), mode, 1024)
        })
    }

    fn parent(&self) -> Result<Option<NodeRef>> {
        Ok(self.parent.clone())
    }

    fn path(&self) -> Result<Vec<u8>> {
        Ok(self.path.clone())
    }

    fn lookup(self: Arc<Self>, name: &[u8], who: &Credentials) -> Result<NodeRef> {
        let Item::Directory(list) = &self.named.item else { return Err(Errno::ENOTDIR) };
        self.access(Permission::EXECUTE, who)?;
        self.named.admits(who)?;
        let found = match &self.named.find {
            Some(find) => std::str::from_utf8(name).ok().and_then(|name| find(name)),
            None => list().into_iter().find(|named| named.name.as_bytes() == name),
        };
        let found = found.ok_or(Errno::ENOENT)?;
        Ok(Arc::new(SyntheticNode { kind: self.kind, named: found, path: self.below(name), parent: Some(self.clone()) }))
    }

    fn read_link(&self, who: &Credentials) -> Result<LinkTarget> {
        match &self.named.item {
            Item::Link(follow) => {
                self.named.admits(who)?;
                follow()
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, _: &Location, request: OpenRequest, who: &Credentials) -> Result<Arc<dyn File>> {
        let mut wanted = Permission::empty();
        if request.reads() {
            wanted |= Permission::READ;
        }
        if request.writes() {
            wanted |= Permission::WRITE;
        }
        self.access(wanted, who)?;
        self.named.admits(who)?;
        // kernfs refuses at once what cannot be written, whoever asks; a file of procfs says so when it is written to.
        let sealed = self.kind.strict || self.named.sealed;
        if request.writes() && sealed && matches!(self.named.item, Item::File(_, None)) {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(SyntheticFile { node: self, text: Mutex::new(None) }))
    }

    fn create(self: Arc<Self>, name: &[u8], _: u32, _: &Location, _: OpenRequest, who: &Credentials) -> Result<(NodeRef, Arc<dyn File>)> {
        Err(self.refusal(name, who))
    }

    fn make_directory(self: Arc<Self>, name: &[u8], _: u32, who: &Credentials) -> Result<NodeRef> {
        Err(self.refusal(name, who))
    }

    fn make_symlink(self: Arc<Self>, name: &[u8], _: &[u8], who: &Credentials) -> Result<NodeRef> {
        Err(self.refusal(name, who))
    }

    fn make_node(self: Arc<Self>, name: &[u8], _: u32, _: u64, who: &Credentials) -> Result<NodeRef> {
        Err(self.refusal(name, who))
    }

    fn link(self: Arc<Self>, name: &[u8], _: &NodeRef, who: &Credentials) -> Result<()> {
        Err(self.refusal(name, who))
    }

    fn unlink(self: Arc<Self>, name: &[u8], directory: bool, who: &Credentials) -> Result<()> {
        match (self.lookup(name, who)?.file_type(), directory) {
            (FileType::Directory, false) => Err(Errno::EISDIR),
            (FileType::Directory, true) | (_, false) => Err(Errno::EPERM),
            (_, true) => Err(Errno::ENOTDIR),
        }
    }

    fn rename(self: Arc<Self>, name: &[u8], to: &NodeRef, new_name: &[u8], _: u32, who: &Credentials) -> Result<()> {
        self.lookup(name, who)?;
        to.clone().lookup(new_name, who)?;
        Err(Errno::EPERM)
    }

    /// Modes are what they are. Owners and times may be changed by those who may, and are what they were at the next look (`proc_setattr()`).
    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        let owner = who.fsuid == self.named.owner.0 || who.capable(Capability::Fowner);
        let chown = (change.uid.is_some() || change.gid.is_some()) && !who.capable(Capability::Chown);
        let times = (change.accessed.is_some() || change.modified.is_some()) && !owner;
        if change.mode.is_some() || chown || times { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn truncate(&self, _: u64, _: &Credentials) -> Result<()> {
        // O_TRUNC of a shell's redirection means nothing here.
        Ok(())
    }

    fn access(&self, wanted: Permission, who: &Credentials) -> Result<()> {
        if self.named.open_to.as_ref().is_some_and(|guard| guard(who).is_ok()) {
            return Ok(());
        }
        permits(&self.attributes()?, wanted, who)
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        Ok(FileSystemStatistics { kind: self.kind.magic, block_size: 4096, name_length: 255, ..Default::default() })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open synthetic file or directory.
struct SyntheticFile {
    node: Arc<SyntheticNode>,
    text: Mutex<Option<Vec<u8>>>,
}

impl File for SyntheticFile {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, at: Position) -> Result<usize> {
        let Item::File(read, _) = &self.node.named.item else { return Err(Errno::EISDIR) };
        let (Position::At(start) | Position::Current(start)) = at else { return Err(Errno::EINVAL) };
        let mut text = self.text.lock();
        if start == 0 || text.is_none() {
            *text = Some(read()?);
        }
        let rest = text.as_deref().and_then(|text| text.get(usize::try_from(start).ok()?..)).unwrap_or(&[]);
        let length = rest.len().min(into.remaining());
        into.put(&rest[..length])?;
        Ok(length)
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, _: Position) -> Result<usize> {
        let Item::File(_, Some(write)) = &self.node.named.item else { return Err(self.node.named.refusal) };
        let mut bytes = vec![0u8; from.remaining().min(4096)];
        let taken = from.take(&mut bytes)?;
        write(&bytes[..taken])?;
        Ok(taken)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _: &OpenFile, current: u64, by: i64, whence: i32) -> Result<u64> {
        let base = match whence {
            libc::SEEK_SET => 0,
            libc::SEEK_CUR => current,
            _ => return Err(Errno::EINVAL),
        };
        i64::try_from(base).ok().and_then(|base| base.checked_add(by)).and_then(|to| u64::try_from(to).ok()).ok_or(Errno::EINVAL)
    }

    fn truncate(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn read_directory(&self, from: i64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        let Item::Directory(list) = &self.node.named.item else { return Err(Errno::ENOTDIR) };
        let own = inode(&self.node.path);
        let above = self.node.parent.as_ref().map_or(own, |parent| parent.key().inode);
        let dots = [(".", own), ("..", above)].map(|(name, inode)| (name.as_bytes().to_vec(), inode, libc::DT_DIR));
        let items = list().into_iter().map(|named| {
            let kind = match named.item {
                Item::Directory(_) => libc::DT_DIR,
                Item::File(..) => libc::DT_REG,
                Item::Link(_) => libc::DT_LNK,
            };
            (named.name.clone().into_bytes(), inode(&self.node.below(named.name.as_bytes())), kind)
        });
        for (index, (name, inode, kind)) in dots.into_iter().chain(items).enumerate() {
            let place = place(index as i64, &name);
            if place >= from && !emit(&DirectoryEntry { inode, next: place + 1, kind, name }) {
                break;
            }
        }
        Ok(())
    }

    fn attributes(&self) -> Result<Attributes> {
        self.node.attributes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_numbers_do_not_move() {
        assert_eq!(place(3, b"status"), 3);
        assert_eq!(place(3, b"7"), place(9, b"7"));
        assert!(place(100, b"meminfo") < place(0, b"0") && place(0, b"9") < place(0, b"10"));
    }
}
