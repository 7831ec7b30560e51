//! Copy-up: a lower file moves to the upper layer before it is changed.

use std::sync::Arc;

use super::node::{OverlayNode, Place};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::vfs::file::{OpenFile, Position, Source};
use crate::vfs::mount::{Location, Mount, MountFlags};
use crate::vfs::node::{Attributes, FileType, LinkTarget, Node, NodeRef, OpenRequest, SetAttributes, SetTime};

/// A location for calls on layers that want one: no mount that anybody sees.
pub fn nowhere(node: &NodeRef) -> Location {
    Mount::new(node.clone(), MountFlags::empty(), "none", "none", "").root_location()
}

/// Owner, mode and times of a file, given to another.
pub fn copy_attributes(from: &Attributes, to: &NodeRef) -> Result<()> {
    let who = Credentials::kernel();
    to.set_attributes(&SetAttributes { uid: Some(from.uid), gid: Some(from.gid), ..Default::default() }, &who)?;
    let link = from.mode & libc::S_IFMT == libc::S_IFLNK;
    let change = SetAttributes {
        mode: (!link).then_some(from.mode & 0o7777),
        accessed: Some(SetTime::To(from.accessed)),
        modified: Some(SetTime::To(from.modified)),
        ..Default::default()
    };
    to.set_attributes(&change, &who)
}

/// The upper side of a node, made now if there is none, with all the directories above it. Of a regular file at most `limit` bytes are copied: what is
/// about to be cut off need not be. What has no name any more is copied, but does not get one.
pub fn copy_up(node: &OverlayNode, limit: Option<u64>) -> Result<NodeRef> {
    if let Some(upper) = node.sides()?.upper {
        return Ok(upper);
    }
    // From the node up to the first directory that the upper layer has, then down again.
    let mut missing = Vec::new();
    let mut place = node.place.read().clone();
    while let Some(Place { directory, .. }) = place {
        if directory.sides()?.upper.is_some() {
            break;
        }
        place = directory.place.read().clone();
        missing.push(directory);
    }
    for directory in missing.iter().rev() {
        copy_one(directory, None)?;
    }
    copy_one(node, limit)
}

/// The same where the directory above is in the upper layer already.
fn copy_one(node: &OverlayNode, limit: Option<u64>) -> Result<NodeRef> {
    let _copying = node.copying.lock();
    let sides = node.sides()?;
    if let Some(upper) = sides.upper {
        return Ok(upper);
    }
    let lower = sides.lower.ok_or(Errno::ENOENT)?;
    let directory = node.place.read().clone().ok_or(Errno::ENOENT)?.directory;
    let above = directory.sides()?.upper.ok_or(Errno::ENOENT)?;
    let attributes = lower.attributes()?;
    let copy = match node.kind {
        // Long work, with nobody's way blocked; made without a name, so that nobody finds half a file.
        FileType::Regular => Some(copy_file(&above, &lower, &attributes, limit.unwrap_or(u64::MAX))?),
        _ => None,
    };
    let layers = &node.layers;
    let _changes = layers.changes.lock();
    let _names = layers.names.write();
    let name = node.place.read().clone().ok_or(Errno::ENOENT)?.name;
    let who = Credentials::kernel();
    let upper = match (copy, node.kind) {
        (Some(copy), _) => {
            if !node.is_removed() {
                above.clone().link(&name, &copy, &who)?;
            }
            copy
        }
        // Nothing of it can be told from the lower one, but by who stands in it.
        _ if node.is_removed() => return Err(Errno::ENOENT),
        (None, FileType::Directory) => above.clone().make_directory(&name, attributes.mode & 0o7777, &who)?,
        (None, FileType::Symlink) => match lower.read_link(&who)? {
            LinkTarget::Path(target) => above.clone().make_symlink(&name, &target, &who)?,
            _ => return Err(Errno::EPERM),
        },
        (None, _) => above.clone().make_node(&name, attributes.mode, attributes.rdev, &who)?,
    };
    if node.kind != FileType::Regular {
        copy_attributes(&attributes, &upper)?;
    }
    // Of several names for a lower file only this one is changed: they are different files from now on.
    if node.kind != FileType::Directory && attributes.links == 1 {
        let (copy, origin) = (upper.key(), node.key());
        layers.origins.lock().insert(copy, origin);
    }
    node.set_upper(upper.clone());
    Ok(upper)
}

/// A copy of a regular file in the upper layer, without a name.
fn copy_file(above: &NodeRef, lower: &NodeRef, attributes: &Attributes, limit: u64) -> Result<NodeRef> {
    /// From here on others are served meanwhile, bytes.
    const LONG: u64 = 1 << 20;
    if attributes.size.min(limit) > LONG {
        crate::platform::heed();
    }
    let who = Credentials::kernel();
    let request = OpenRequest { flags: libc::O_RDWR };
    let (fresh, file) = above.clone().create_unnamed(attributes.mode & 0o7777, &nowhere(above), request, &who)?;
    let open = OpenFile::new(file, None, libc::O_RDWR, who);
    copy_bytes(lower, &open, limit)?;
    copy_attributes(attributes, &fresh)?;
    Ok(fresh)
}

/// Bytes of ours for a file to take.
struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = buffer.len().min(self.0.len());
        let (now, later) = self.0.split_at(length);
        buffer[..length].copy_from_slice(now);
        self.0 = later;
        Ok(length)
    }
}

fn copy_bytes(lower: &NodeRef, to: &Arc<OpenFile>, limit: u64) -> Result<()> {
    let from = lower.host_file()?;
    let mut buffer = vec![0u8; 256 << 10];
    let mut at = 0u64;
    while at < limit {
        let wanted = usize::try_from(limit - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = nix::sys::uio::pread(&from, &mut buffer[..wanted], at as i64)?;
        if read == 0 {
            break;
        }
        let mut bytes = Bytes(&buffer[..read]);
        while Source::remaining(&bytes) > 0 {
            let written = to.file.write(to, &mut bytes, Position::At(at))?;
            at += written as u64;
        }
    }
    Ok(())
}
