//! Directories: opening and reading them.

use std::io::{Seek, SeekFrom};
use std::mem::size_of;
use std::os::fd::AsFd;

use fuse_backend_rs::abi::fuse_abi::{Dirent, EntryOut, OpenOut, ROOT_ID};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use vm_memory::ByteValued;

use super::handle::Open;
use super::host::{Attributes, read_directory};
use super::request::Name;
use super::serve::{Server, errno};

/// The most bytes of one answer.
const LONGEST: usize = 64 << 10;

/// Entries on their way to the guest.
struct Listing {
    bytes: Vec<u8>,
    room: usize,
    /// With each entry, what a lookup of it would say (`READDIRPLUS`).
    with_nodes: bool,
}

impl Listing {
    /// Whether an entry with that name still fits.
    fn fits(&self, name: &[u8]) -> bool {
        let node = if self.with_nodes { size_of::<EntryOut>() } else { 0 };
        let length = (size_of::<Dirent>() + name.len()).next_multiple_of(8);
        self.bytes.len() + node + length <= self.room
    }

    /// Adds an entry. `node` is zero where nothing was looked up.
    fn push(&mut self, entry: Dirent, name: &[u8], node: EntryOut) {
        if self.with_nodes {
            self.bytes.extend_from_slice(node.as_slice());
        }
        // A name is no longer than 255 bytes.
        self.bytes.extend_from_slice(Dirent { namelen: name.len() as u32, ..entry }.as_slice());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }
}

impl Server {
    pub(super) fn open_directory(&mut self, node: u64) -> Result<OpenOut, Errno> {
        self.room()?;
        let open = if node == ROOT_ID {
            Open::Root(self.trees.list())
        } else {
            let known = self.nodes.get(node)?;
            if known.kind != libc::S_IFDIR {
                return Err(Errno::ENOTDIR);
            }
            let (file, tree) = self.open_node(known, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            Open::Directory { file, tree }
        };
        Ok(OpenOut { fh: self.handles.insert(node, open), open_flags: 0, passthrough: 0 })
    }

    /// As many entries from `offset` on as fit into `room` bytes; none at the end.
    pub(super) fn read_directory(&mut self, node: u64, handle: u64, offset: u64, room: usize, with_nodes: bool) -> Result<Vec<u8>, Errno> {
        let listing = Listing { bytes: Vec::new(), room: room.min(LONGEST), with_nodes };
        match self.handles.get(handle, node)? {
            Open::Root(_) => self.read_root(node, handle, offset, listing),
            Open::Directory { .. } => self.read_tree(node, handle, offset, listing),
            Open::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    /// The root: offsets count its entries.
    fn read_root(&mut self, node: u64, handle: u64, offset: u64, mut listing: Listing) -> Result<Vec<u8>, Errno> {
        let Open::Root(trees) = self.handles.get(handle, node)? else { return Err(Errno::EBADF) };
        let trees = trees.clone();
        let dots = [&b"."[..], b".."].map(|name| (name, None));
        let entries = dots.into_iter().chain(trees.iter().map(|(name, tree)| (name.as_bytes(), Some((name, tree)))));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, tree)) in entries.enumerate().skip(skip) {
            if !listing.fits(name) {
                break;
            }
            let mut entry = Dirent { ino: 1, off: index as u64 + 1, type_: libc::DT_DIR.into(), ..Dirent::default() };
            let mut found = EntryOut::default();
            if let Some((name, tree)) = tree {
                entry.type_ = Attributes::of(&tree.top)?.kind() >> 12;
                if listing.with_nodes {
                    found = self.lookup_if_possible(node, name);
                }
            }
            if found.nodeid != 0 {
                entry.ino = found.attr.ino;
            }
            listing.push(entry, name, found);
        }
        Ok(listing.bytes)
    }

    /// A directory of the host's: offsets are its file system's.
    fn read_tree(&mut self, node: u64, handle: u64, offset: u64, mut listing: Listing) -> Result<Vec<u8>, Errno> {
        let Open::Directory { file, .. } = self.handles.get(handle, node)? else { return Err(Errno::EBADF) };
        i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        file.seek(SeekFrom::Start(offset)).map_err(errno)?;
        let (device, _) = Attributes::of(&*file)?.identity();
        let mut buffer = std::mem::take(&mut self.entries);
        let result = read_directory(file.as_fd(), &mut buffer).map(|entries| {
            for host in entries {
                if !listing.fits(host.name) {
                    break;
                }
                let mut found = EntryOut::default();
                if listing.with_nodes
                    && let Ok(name) = Name::new(host.name)
                {
                    found = self.lookup_if_possible(node, &name);
                }
                let ino = if found.nodeid == 0 { self.nodes.inode_number(device, host.inode) } else { found.attr.ino };
                listing.push(Dirent { ino, off: host.offset, type_: host.kind.into(), ..Dirent::default() }, host.name, found);
            }
        });
        self.entries = buffer;
        result.map(|()| listing.bytes)
    }

    /// An entry's node, or none (number 0): it may be gone by now, and where no more files can be held the name alone is still worth
    /// having.
    fn lookup_if_possible(&mut self, parent: u64, name: &Name) -> EntryOut {
        self.lookup(parent, name).unwrap_or_default()
    }
}
