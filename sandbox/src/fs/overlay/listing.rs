//! Merged directory listings.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::copy::nowhere;
use super::node::OverlayNode;
use super::whiteout::{Entry, is_whiteout};
use super::{Layers, UPPER};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::sync::Mutex;
use crate::vfs::file::{DirectoryEntry, File, OpenFile, Position, Sink, seek_to};
use crate::vfs::node::{Attributes, Node, NodeKey, NodeRef, OpenRequest};

/// The entries of one layer's directory, `.` and `..` left out.
fn raw(node: &NodeRef) -> Result<Vec<DirectoryEntry>> {
    let request = OpenRequest { flags: libc::O_RDONLY | libc::O_DIRECTORY };
    let file = node.clone().open(&nowhere(node), request, &Credentials::kernel())?;
    let mut entries = Vec::new();
    file.read_directory(0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            entries.push(entry.clone());
        }
        true
    })?;
    Ok(entries)
}

/// Every name that a layer's directory really holds, whiteouts among them.
pub fn raw_names(node: &NodeRef) -> Result<Vec<Vec<u8>>> {
    Ok(raw(node)?.into_iter().map(|entry| entry.name).collect())
}

/// Whether a directory's entry is a whiteout of the kind that is a device.
fn is_device_whiteout(directory: &NodeRef, entry: &DirectoryEntry) -> bool {
    entry.kind == libc::DT_CHR && directory.clone().lookup(&entry.name, &Credentials::kernel()).is_ok_and(|node| is_whiteout(&node))
}

/// What the merged directory shows. The caller keeps the names' meanings as they are.
fn merged(node: &OverlayNode) -> Result<Vec<DirectoryEntry>> {
    let (layers, sides) = (&node.layers, node.sides()?);
    let Some(upper) = &sides.upper else {
        let lower = sides.lower.as_ref().ok_or(Errno::ENOENT)?;
        return Ok(raw(lower)?.into_iter().filter(|entry| !is_device_whiteout(lower, entry)).collect());
    };
    let below = match sides.lower.as_ref().filter(|_| !layers.is_opaque(upper)) {
        Some(lower) => raw(lower)?.into_iter().filter(|entry| !is_device_whiteout(lower, entry)).collect(),
        None => Vec::new(),
    };
    let numbers: HashMap<&[u8], &DirectoryEntry> = below.iter().map(|entry| (entry.name.as_slice(), entry)).collect();
    let mut hidden: HashSet<Vec<u8>> = HashSet::new();
    let mut shown = Vec::new();
    for entry in raw(upper)? {
        match layers.meaning(&entry.name) {
            Entry::Mark => continue,
            Entry::Hides(name) => {
                hidden.insert(name.to_vec());
                continue;
            }
            Entry::File => {}
        }
        hidden.insert(entry.name.clone());
        if is_device_whiteout(upper, &entry) {
            continue;
        }
        let inode = number(layers, upper, &entry, numbers.get(entry.name.as_slice()).copied());
        shown.push(DirectoryEntry { inode, ..entry });
    }
    shown.extend(below.iter().filter(|entry| !hidden.contains(&entry.name)).cloned());
    Ok(shown)
}

/// The number that an upper entry's file has in the merged tree.
fn number(layers: &Layers, upper: &NodeRef, entry: &DirectoryEntry, below: Option<&DirectoryEntry>) -> u64 {
    let key = NodeKey { device: upper.key().device, inode: entry.inode };
    let merges = below.filter(|below| entry.kind == libc::DT_DIR && below.kind == libc::DT_DIR);
    match merges {
        Some(below) => match upper.clone().lookup(&entry.name, &Credentials::kernel()) {
            Ok(directory) if layers.is_opaque(&directory) => entry.inode | UPPER,
            _ => below.inode,
        },
        None => layers.key_of_upper(key).inode,
    }
}

/// The names that the merged directory shows. The caller keeps their meanings as they are.
pub fn names(node: &Arc<OverlayNode>) -> Result<Vec<Vec<u8>>> {
    Ok(merged(node)?.into_iter().map(|entry| entry.name).collect())
}

/// An open merged directory. The listing is made when it is read from its beginning, and stays until it is rewound.
pub struct OverlayDirectory {
    node: Arc<OverlayNode>,
    listing: Mutex<Option<Vec<DirectoryEntry>>>,
}

impl OverlayDirectory {
    /// Opens a directory.
    pub fn new(node: Arc<OverlayNode>) -> OverlayDirectory {
        OverlayDirectory { node, listing: Mutex::new(None) }
    }
}

impl File for OverlayDirectory {
    fn read(&self, _: &OpenFile, _: &mut dyn Sink, _: Position) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _: &OpenFile, current: u64, by: i64, whence: i32) -> Result<u64> {
        if whence == libc::SEEK_END {
            return Err(Errno::EINVAL);
        }
        seek_to(current, || Ok(0), by, whence)
    }

    fn read_directory(&self, from: i64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        if self.node.is_removed() {
            return Err(Errno::ENOENT);
        }
        let mut listing = self.listing.lock();
        if from == 0 || listing.is_none() {
            let own = self.node.key().inode;
            let above = self.node.parent()?.map_or(own, |parent| parent.key().inode);
            let dots = [(".", own), ("..", above)].map(|(name, inode)| DirectoryEntry {
                inode,
                next: 0,
                kind: libc::DT_DIR,
                name: name.as_bytes().to_vec(),
            });
            let _names = self.node.layers.names.read();
            *listing = Some(dots.into_iter().chain(merged(&self.node)?).collect());
        }
        let entries = listing.as_deref().unwrap_or(&[]);
        for (index, entry) in entries.iter().enumerate().skip(usize::try_from(from).unwrap_or(0)) {
            if !emit(&DirectoryEntry { next: index as i64 + 1, ..entry.clone() }) {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self, _: bool) -> Result<()> {
        Ok(())
    }

    fn attributes(&self) -> Result<Attributes> {
        self.node.attributes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
