//! Synthetic file systems: trees whose files are made when they are looked at (/proc, /sys).
//!
//! An [`Item`] says what a name is: a directory that lists its items, a file whose text is generated when it is read from its beginning, a link. Nothing is
//! kept between two looks, so a tree costs no memory while nobody looks.

use std::any::Any;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
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
}

/// A directory that always has these items.
pub fn directory(name: &str, list: impl Fn() -> Vec<Named> + Send + Sync + 'static) -> Named {
    Named { name: name.to_owned(), item: Item::Directory(Arc::new(list)), mode: 0o555, owner: (0, 0) }
}

/// A read-only file.
pub fn file(name: &str, read: impl Fn() -> Result<Vec<u8>> + Send + Sync + 'static) -> Named {
    Named { name: name.to_owned(), item: Item::File(Arc::new(read), None), mode: 0o444, owner: (0, 0) }
}

/// A read-only file whose text never changes.
pub fn constant(name: &str, text: &str) -> Named {
    let text = text.as_bytes().to_vec();
    file(name, move || Ok(text.clone()))
}

/// A link to a path.
pub fn link(name: &str, target: impl Fn() -> Result<LinkTarget> + Send + Sync + 'static) -> Named {
    Named { name: name.to_owned(), item: Item::Link(Arc::new(target)), mode: 0o777, owner: (0, 0) }
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
}

/// A node of a synthetic tree.
pub struct SyntheticNode {
    kind: Kind,
    named: Named,
    path: Vec<u8>,
    parent: Option<NodeRef>,
}

/// The root of a tree.
pub fn root(kind: Kind, list: impl Fn() -> Vec<Named> + Send + Sync + 'static) -> NodeRef {
    Arc::new(SyntheticNode { kind, named: directory("", list), path: Vec::new(), parent: None })
}

/// A number for a path, the same at every look (FNV-1a).
fn inode(path: &[u8]) -> u64 {
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    (hash >> 16) | 1
}

impl SyntheticNode {
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
        let found = list().into_iter().find(|named| named.name.as_bytes() == name).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(SyntheticNode { kind: self.kind, named: found, path: self.below(name), parent: Some(self.clone()) }))
    }

    fn read_link(&self, _: &Credentials) -> Result<LinkTarget> {
        match &self.named.item {
            Item::Link(follow) => follow(),
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
        permits(&self.attributes()?, wanted, who)?;
        if request.writes() && matches!(self.named.item, Item::File(_, None)) {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(SyntheticFile { node: self, text: Mutex::new(None) }))
    }

    fn set_attributes(&self, _: &SetAttributes, _: &Credentials) -> Result<()> {
        Err(Errno::EPERM)
    }

    fn truncate(&self, _: u64, _: &Credentials) -> Result<()> {
        // O_TRUNC of a shell's redirection means nothing here.
        Ok(())
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
        let Item::File(_, Some(write)) = &self.node.named.item else { return Err(Errno::EINVAL) };
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
        for (index, (name, inode, kind)) in dots.into_iter().chain(items).enumerate().skip(usize::try_from(from).unwrap_or(0)) {
            if !emit(&DirectoryEntry { inode, next: index as i64 + 1, kind, name }) {
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
