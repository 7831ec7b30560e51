//! Copy-up: a lower file moves to the upper layer before it is changed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::OverlayNode;
use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};
use crate::vfs::file::{OpenFile, Position, Source};
use crate::vfs::mount::{Location, Mount, MountFlags};
use crate::vfs::node::{Attributes, FileType, LinkTarget, NodeRef, OpenRequest, Permission, SetAttributes, SetTime, permits};

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
/// about to be cut off need not be. The caller holds the layers' lock of changes.
pub fn copy_up(node: &OverlayNode, limit: Option<u64>) -> Result<NodeRef> {
    let sides = node.sides();
    if let Some(upper) = sides.upper {
        return Ok(upper);
    }
    let lower = sides.lower.ok_or(Errno::ENOENT)?;
    let (parent, name) = node.parent.read().clone().ok_or(Errno::ENOENT)?;
    let above = copy_up(&parent, None)?;
    let who = Credentials::kernel();
    let attributes = lower.attributes()?;
    let upper = match node.kind {
        FileType::Directory => above.clone().make_directory(&name, attributes.mode & 0o7777, &who)?,
        FileType::Symlink => match lower.read_link(&who)? {
            LinkTarget::Path(target) => above.clone().make_symlink(&name, &target, &who)?,
            _ => return Err(Errno::EPERM),
        },
        FileType::Regular => {
            // Made without a name, so that nobody finds half a file.
            let place = nowhere(&above);
            let request = OpenRequest { flags: libc::O_RDWR };
            let (fresh, file) = above.clone().create_unnamed(attributes.mode & 0o7777, &place, request, &who)?;
            let open = OpenFile::new(file, None, libc::O_RDWR, who.clone());
            copy_bytes(&lower, &open, limit.unwrap_or(u64::MAX))?;
            copy_attributes(&attributes, &fresh)?;
            above.clone().link(&name, &fresh, &who)?;
            fresh
        }
        _ => above.clone().make_node(&name, attributes.mode, attributes.rdev, &who)?,
    };
    if node.kind != FileType::Regular {
        copy_attributes(&attributes, &upper)?;
    }
    node.sides.write().upper = Some(upper.clone());
    node.layers.generation.fetch_add(1, Ordering::SeqCst);
    Ok(upper)
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

/// Whether a name may be removed from a directory: write and search on it, and the sticky bit's rule (inode(7)).
pub fn may_remove(directory: &Attributes, child: &Attributes, who: &Credentials) -> Result<()> {
    permits(directory, Permission::WRITE | Permission::EXECUTE, who)?;
    let sticky = directory.mode & libc::S_ISVTX != 0;
    if sticky && who.fsuid != directory.uid && who.fsuid != child.uid && !who.capable(Capability::Fowner) {
        return Err(Errno::EPERM);
    }
    Ok(())
}
