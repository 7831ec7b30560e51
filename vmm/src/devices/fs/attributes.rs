//! Attributes: of files, of their file systems, and extended ones.

use std::ffi::CStr;
use std::os::fd::AsFd;

use fuse_backend_rs::abi::fuse_abi::{Attr, FATTR_FH, GetxattrOut, Kstatfs, ROOT_ID, SetattrIn, SetattrValid};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};

use super::handle::Open;
use super::host::{self, Attributes};
use super::names::PERMISSIONS;
use super::node::Backing;
use super::serve::{Answer, Server, errno, number, reopen};

/// The root's inode number: no file's, short of the 65,536th device that the host shares.
const ROOT_INODE: u64 = 0xffff << 48 | 1;
/// The longest value and the longest list of extended attributes (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const LONGEST_ATTRIBUTE: usize = 64 << 10;

/// The root: a directory that is nobody's to change.
fn root() -> Attr {
    Attr { ino: ROOT_INODE, mode: libc::S_IFDIR | 0o555, nlink: 2, blksize: 4096, ..Attr::default() }
}

/// The extended attributes that the guest may see and set: users' own, and capabilities of programs, which images need. The rest would be
/// the host's security (`security.selinux`), or is meaningless to a guest that has not negotiated it (access control lists in `system.`).
fn is_served(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"user.") || name == b"security.capability"
}

/// Clears the bits that make a program run as its owner or group, as the host's kernel does when somebody without `CAP_FSETID` writes. This
/// thread has it; that the guest's writer has not is what the guest says (`FUSE_HANDLE_KILLPRIV_V2`).
pub(super) fn drop_privileges(file: impl AsFd) -> Result<(), Errno> {
    let mode = Attributes::of(&file)?.mode();
    let mut privileges = mode & libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        privileges |= mode & libc::S_ISGID;
    }
    if privileges == 0 || mode & libc::S_IFMT != libc::S_IFREG {
        return Ok(());
    }
    fchmod(file, Mode::from_bits_truncate(mode & PERMISSIONS & !privileges))
}

/// A time to set: the one given, now, or none.
fn time(given: bool, now: bool, seconds: u64, nanoseconds: u32) -> Result<TimeSpec, Errno> {
    match (given, now) {
        (_, true) => Ok(TimeSpec::UTIME_NOW),
        (true, false) if nanoseconds < 1_000_000_000 => Ok(TimeSpec::new(seconds as i64, nanoseconds.into())),
        (true, false) => Err(Errno::EINVAL),
        (false, false) => Ok(TimeSpec::UTIME_OMIT),
    }
}

impl Server {
    /// Of a node, or of what is open: a file that was removed may be known by its handle alone.
    pub(super) fn attributes(&mut self, node: u64, handle: Option<u64>) -> Result<Attr, Errno> {
        if node == ROOT_ID {
            return Ok(root());
        }
        let attributes = match handle {
            Some(handle) => match self.handles.get(handle, node)? {
                Open::File { file, .. } | Open::Directory { file, .. } => Attributes::of(file)?,
                Open::Root(_) => return Err(Errno::EBADF),
            },
            None => Attributes::of(self.nodes.get(node)?.backing()?)?,
        };
        let (device, inode) = attributes.identity();
        Ok(attributes.for_guest(self.nodes.inode_number(device, inode)))
    }

    pub(super) fn set_attributes(&mut self, node: u64, wanted: &SetattrIn) -> Result<Attr, Errno> {
        if node == ROOT_ID {
            return Err(Errno::EPERM);
        }
        let valid = SetattrValid::from_bits_truncate(wanted.valid);
        let kind = self.nodes.get(node)?.kind;
        if valid.contains(SetattrValid::MODE) {
            if kind == libc::S_IFLNK {
                return Err(Errno::EOPNOTSUPP);
            }
            // fchmod(2) takes no O_PATH descriptor.
            let name = number(self.writable_backing(node)?);
            let mode = Mode::from_bits_truncate(wanted.mode & PERMISSIONS);
            fchmodat(&self.descriptors, name.as_str(), mode, FchmodatFlags::FollowSymlink)?;
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            let owner = valid.contains(SetattrValid::UID).then(|| Uid::from_raw(wanted.uid));
            let group = valid.contains(SetattrValid::GID).then(|| Gid::from_raw(wanted.gid));
            let flags = AtFlags::AT_EMPTY_PATH | AtFlags::AT_SYMLINK_NOFOLLOW;
            fchownat(self.writable_backing(node)?, c"", owner, group, flags)?;
        }
        if valid.contains(SetattrValid::SIZE) {
            self.set_size(
                node,
                (wanted.valid & FATTR_FH != 0).then_some(wanted.fh),
                wanted.size,
                valid.contains(SetattrValid::KILL_SUIDGID),
            )?;
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME | SetattrValid::ATIME_NOW | SetattrValid::MTIME_NOW) {
            let accessed =
                time(valid.contains(SetattrValid::ATIME), valid.contains(SetattrValid::ATIME_NOW), wanted.atime, wanted.atimensec)?;
            let modified =
                time(valid.contains(SetattrValid::MTIME), valid.contains(SetattrValid::MTIME_NOW), wanted.mtime, wanted.mtimensec)?;
            let name = number(self.writable_backing(node)?);
            utimensat(&self.descriptors, name.as_str(), &accessed, &modified, UtimensatFlags::FollowSymlink)?;
        }
        self.attributes(node, None)
    }

    fn set_size(&mut self, node: u64, handle: Option<u64>, size: u64, drops_privileges: bool) -> Result<(), Errno> {
        if let Some(handle) = handle {
            let (file, _) = self.handles.file(handle, node)?;
            file.set_len(size).map_err(errno)?;
            return if drops_privileges { drop_privileges(file) } else { Ok(()) };
        }
        let node = self.nodes.get(node)?;
        if node.kind == libc::S_IFDIR {
            return Err(Errno::EISDIR);
        }
        let (file, _) = self.open_node(node, OFlag::O_WRONLY)?;
        file.set_len(size).map_err(errno)?;
        if drops_privileges { drop_privileges(file) } else { Ok(()) }
    }

    fn writable_backing(&self, node: u64) -> Result<&Backing, Errno> {
        self.nodes.get(node)?.writable()
    }

    pub(super) fn statistics(&self, node: u64) -> Result<Kstatfs, Errno> {
        if node == ROOT_ID {
            return Ok(Kstatfs { bsize: 4096, frsize: 4096, namelen: 255, ..Kstatfs::default() });
        }
        let statistics = fstatvfs(self.nodes.get(node)?.backing()?)?;
        Ok(Kstatfs {
            blocks: statistics.blocks(),
            bfree: statistics.blocks_free(),
            bavail: statistics.blocks_available(),
            files: statistics.files(),
            ffree: statistics.files_free(),
            // Block sizes and name lengths that do not fit do not exist.
            bsize: statistics.block_size() as u32,
            namelen: statistics.name_max() as u32,
            frsize: statistics.fragment_size() as u32,
            ..Kstatfs::default()
        })
    }

    /// Extended attributes are reached by opening the file, which an `O_PATH` descriptor must be for that. Only regular files and
    /// directories have any.
    fn open_for_attributes(&self, backing: impl AsFd, kind: u32) -> Result<std::os::fd::OwnedFd, Errno> {
        match kind {
            libc::S_IFREG | libc::S_IFDIR => reopen(&self.descriptors, backing, OFlag::O_RDONLY),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    pub(super) fn get_attribute(&self, node: u64, name: &CStr, size: u32) -> Result<Answer, Errno> {
        if node == ROOT_ID || !is_served(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.nodes.get(node)?;
        let file = self.open_for_attributes(node.backing()?, node.kind)?;
        let mut value = vec![0; (size as usize).min(LONGEST_ATTRIBUTE)];
        let length = host::get_attribute(file, name, &mut value)?;
        Ok(sized(size, value, length))
    }

    pub(super) fn list_attributes(&self, node: u64, size: u32) -> Result<Answer, Errno> {
        if node == ROOT_ID {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.nodes.get(node)?;
        let file = self.open_for_attributes(node.backing()?, node.kind)?;
        let mut names = vec![0; LONGEST_ATTRIBUTE];
        let length = host::list_attributes(file, &mut names)?;
        names.truncate(length);
        let served: Vec<u8> = names
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| CStr::from_bytes_with_nul(name).is_ok_and(is_served))
            .flatten()
            .copied()
            .collect();
        if size != 0 && served.len() > size as usize {
            return Err(Errno::ERANGE);
        }
        let length = served.len();
        Ok(sized(size, served, length))
    }

    pub(super) fn set_attribute(&self, node: u64, name: &CStr, value: &[u8], flags: u32) -> Result<(), Errno> {
        if node == ROOT_ID || !is_served(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.nodes.get(node)?;
        host::set_attribute(self.open_for_attributes(node.writable()?, node.kind)?, name, value, flags)
    }

    pub(super) fn remove_attribute(&self, node: u64, name: &CStr) -> Result<(), Errno> {
        if node == ROOT_ID || !is_served(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let node = self.nodes.get(node)?;
        host::remove_attribute(self.open_for_attributes(node.writable()?, node.kind)?, name)
    }
}

/// The answer to one who has room for `size` bytes: the value, or its length where there is none.
fn sized(size: u32, mut value: Vec<u8>, length: usize) -> Answer {
    if size == 0 {
        // At most LONGEST_ATTRIBUTE.
        return Answer::of(GetxattrOut { size: length as u32, padding: 0 });
    }
    value.truncate(length);
    Answer::Bytes(value)
}
