//! Names: finding, making, moving and removing them.

use std::ffi::CStr;
use std::os::fd::AsFd;

use fuse_backend_rs::abi::fuse_abi::{EntryOut, MkdirIn, MknodIn, ROOT_ID};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, readlinkat, renameat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::host::{Attributes, Identity};
use super::node::Backing;
use super::request::Name;
use super::serve::{Server, entry, errno, number};
use super::tree::TreeId;

/// Who asks: user and group.
pub(super) type Who = (u32, u32);

/// The bits of a mode that are not the type.
pub(super) const PERMISSIONS: u32 = 0o7777;

impl Server {
    /// A directory of a tree's.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`; `EPERM` for the root, whose names are the host's.
    fn directory(&self, node: u64) -> Result<&Backing, Errno> {
        if node == ROOT_ID {
            return Err(Errno::EPERM);
        }
        let node = self.nodes.get(node)?;
        if node.kind != libc::S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        node.backing()
    }

    /// A directory in which names may be made and removed.
    ///
    /// # Errors
    /// Likewise, and `EROFS`.
    pub(super) fn writable_directory(&self, node: u64) -> Result<&Backing, Errno> {
        let directory = self.directory(node)?;
        if directory.read_only { Err(Errno::EROFS) } else { Ok(directory) }
    }

    /// Finds a name, and counts the lookup. Symbolic links are found themselves; they are the guest's to follow.
    pub(super) fn lookup(&mut self, parent: u64, name: &Name) -> Result<EntryOut, Errno> {
        self.room()?;
        let (tree, read_only, file) = if parent == ROOT_ID {
            let tree = self.trees.get(name).ok_or(Errno::ENOENT)?;
            (tree.id, tree.read_only, tree.top.try_clone().map_err(errno)?)
        } else {
            let directory = self.directory(parent)?;
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            (directory.tree, directory.read_only, openat(directory, name.as_c_str(), flags, Mode::empty())?)
        };
        self.found(tree, read_only, file)
    }

    /// Counts a lookup of a file.
    pub(super) fn found(&mut self, tree: TreeId, read_only: bool, file: std::os::fd::OwnedFd) -> Result<EntryOut, Errno> {
        let attributes = Attributes::of(&file)?;
        let (device, inode) = attributes.identity();
        let inode = self.nodes.inode_number(device, inode);
        Ok(entry(self.nodes.found(tree, read_only, file, &attributes), attributes.for_guest(inode)))
    }

    pub(super) fn make_symbolic_link(&mut self, (uid, gid): Who, parent: u64, name: &Name, target: &CStr) -> Result<EntryOut, Errno> {
        self.room()?;
        {
            let directory = self.writable_directory(parent)?;
            let _identity = Identity::assume(uid, gid)?;
            symlinkat(target, directory, name.as_c_str())?;
        }
        self.lookup(parent, name)
    }

    /// A fifo, a socket, an empty file, or a whiteout of overlayfs (a device with the number 0). Other devices are `EPERM`: a volume is no
    /// place from which to reach the host's.
    pub(super) fn make_node(&mut self, (uid, gid): Who, parent: u64, name: &Name, made: &MknodIn) -> Result<EntryOut, Errno> {
        let kind = match made.mode & libc::S_IFMT {
            0 | libc::S_IFREG => SFlag::S_IFREG,
            libc::S_IFIFO => SFlag::S_IFIFO,
            libc::S_IFSOCK => SFlag::S_IFSOCK,
            libc::S_IFCHR if made.rdev == 0 => SFlag::S_IFCHR,
            libc::S_IFCHR | libc::S_IFBLK => return Err(Errno::EPERM),
            _ => return Err(Errno::EINVAL),
        };
        self.room()?;
        {
            let directory = self.writable_directory(parent)?;
            let _identity = Identity::assume(uid, gid)?;
            mknodat(directory, name.as_c_str(), kind, Mode::from_bits_truncate(made.mode & PERMISSIONS), 0)?;
        }
        self.lookup(parent, name)
    }

    pub(super) fn make_directory(&mut self, (uid, gid): Who, parent: u64, name: &Name, made: &MkdirIn) -> Result<EntryOut, Errno> {
        self.room()?;
        {
            let directory = self.writable_directory(parent)?;
            let _identity = Identity::assume(uid, gid)?;
            mkdirat(directory, name.as_c_str(), Mode::from_bits_truncate(made.mode & PERMISSIONS))?;
        }
        self.lookup(parent, name)
    }

    pub(super) fn unlink(&mut self, parent: u64, name: &Name, directory: bool) -> Result<(), Errno> {
        let flag = if directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        unlinkat(self.writable_directory(parent)?, name.as_c_str(), flag)
    }

    /// Trees are file systems of their own in this: from one to another is `EXDEV`.
    pub(super) fn rename(&mut self, from: (u64, &Name), to: (u64, &Name), flags: u32) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        let (old, new) = (self.writable_directory(from.0)?, self.writable_directory(to.0)?);
        if old.tree != new.tree {
            return Err(Errno::EXDEV);
        }
        renameat2(old, from.1.as_c_str(), new, to.1.as_c_str(), flags)
    }

    /// Likewise.
    pub(super) fn link(&mut self, target: u64, parent: u64, name: &Name) -> Result<EntryOut, Errno> {
        if target == ROOT_ID {
            return Err(Errno::EPERM);
        }
        self.room()?;
        let directory = self.writable_directory(parent)?;
        let node = self.nodes.get(target)?;
        node.backing()?;
        let mut result = Err(Errno::EXDEV);
        // Of the mounts in the tree through which the file was reached, the new name's own.
        for backing in node.backings.iter().filter(|backing| backing.tree == directory.tree) {
            // linkat(2) with AT_EMPTY_PATH wants CAP_DAC_READ_SEARCH outside of this process's user namespace.
            result = linkat(&self.descriptors, number(backing).as_str(), directory, name.as_c_str(), AtFlags::AT_SYMLINK_FOLLOW);
            if result != Err(Errno::EXDEV) {
                break;
            }
        }
        result?;
        self.lookup(parent, name)
    }

    pub(super) fn read_link(&self, node: u64) -> Result<Vec<u8>, Errno> {
        if node == ROOT_ID {
            return Err(Errno::EINVAL);
        }
        let node = self.nodes.get(node)?;
        if node.kind != libc::S_IFLNK {
            return Err(Errno::EINVAL);
        }
        Ok(std::os::unix::ffi::OsStringExt::into_vec(readlinkat(node.backing()?.as_fd(), c"")?))
    }
}
