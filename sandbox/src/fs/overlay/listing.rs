//! Merged directory listings.

use std::any::Any;
use std::collections::HashSet;
use std::sync::Arc;

use super::copy::nowhere;
use super::{OPAQUE, OverlayNode, WHITEOUT, is_whiteout};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::sync::Mutex;
use crate::vfs::file::{DirectoryEntry, File, OpenFile, Position, Sink};
use crate::vfs::node::{Attributes, Node, NodeRef, OpenRequest};

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

/// What the merged directory shows.
fn merged(node: &OverlayNode) -> Result<Vec<DirectoryEntry>> {
    let sides = node.sides();
    let mut hidden: HashSet<Vec<u8>> = HashSet::new();
    let mut shown = Vec::new();
    let mut opaque = false;
    if let Some(upper) = &sides.upper {
        for entry in raw(upper)? {
            if entry.name == OPAQUE {
                opaque = true;
                continue;
            }
            if let Some(name) = entry.name.strip_prefix(WHITEOUT) {
                hidden.insert(name.to_vec());
                continue;
            }
            hidden.insert(entry.name.clone());
            let device = entry.kind == libc::DT_CHR;
            if device && upper.clone().lookup(&entry.name, &Credentials::kernel()).is_ok_and(|node| is_whiteout(&node)) {
                continue;
            }
            shown.push(entry);
        }
    }
    if let (Some(lower), false) = (&sides.lower, opaque) {
        shown.extend(raw(lower)?.into_iter().filter(|entry| !hidden.contains(&entry.name)));
    }
    Ok(shown)
}

/// The names that the merged directory shows.
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
        let base = match whence {
            libc::SEEK_SET => 0,
            libc::SEEK_CUR => current,
            _ => return Err(Errno::EINVAL),
        };
        i64::try_from(base).ok().and_then(|base| base.checked_add(by)).and_then(|to| u64::try_from(to).ok()).ok_or(Errno::EINVAL)
    }

    fn read_directory(&self, from: i64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
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
