//! Host directories: the root file system of a container, and its bind mounts.
//!
//! A [`HostNode`] is an `O_PATH` descriptor. Names are resolved by the host, as many as possible in one openat2(2) that can neither follow a
//! symbolic link nor leave the directory; nothing about names is cached, so changes from outside show at once. The host checks
//! permissions, under the caller's identity ([`identity`]).
//!
//! Devices, fifos and sockets that lie in a host directory are never opened natively: the node only says what it is.

use std::any::Any;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;

use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};
use crate::vfs::file::File;
use crate::vfs::mount::{Location, MountFlags};
use crate::vfs::node::{
    Attributes, FileSystemStatistics, FileType, LinkTarget, Node, NodeKey, NodeRef, OpenRequest, Permission, SetAttributes, SetTime,
    Timestamp, Walked,
};

pub mod file;
pub mod identity;

pub use file::HostFile;

/// What the nodes of one host tree have in common.
struct Tree {
    /// The path of the tree's root in this process's own tree, to be cut off what the host shows.
    prefix: Vec<u8>,
    key: NodeKey,
}

/// A file in a host tree.
pub struct HostNode {
    fd: OwnedFd,
    key: NodeKey,
    kind: FileType,
    tree: Arc<Tree>,
}

const PATH_ONLY: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// openat2(2) below a directory, without links. `ELOOP` where there is one, `EXDEV` where the path would leave.
fn open_beneath(directory: BorrowedFd<'_>, path: &CString, flags: OFlag, mode: u32) -> Result<OwnedFd> {
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    /// `RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH`.
    const RESOLVE: u64 = 2 | 4 | 8;
    let how = OpenHow { flags: flags.bits() as u32 as u64, mode: u64::from(mode), resolve: RESOLVE };
    // SAFETY: the path is NUL-terminated and `how` has the size that is passed; both live through the call.
    let fd = unsafe { libc::syscall(libc::SYS_openat2, directory.as_raw_fd(), path.as_ptr(), &how, size_of::<OpenHow>()) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the host has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Errno::EINVAL)
}

/// The path by which a descriptor's file is reopened.
fn reopen_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn kind_of(mode: u32) -> FileType {
    FileType::from_mode(mode).unwrap_or(FileType::Regular)
}

pub(crate) fn attributes_of(fd: BorrowedFd<'_>) -> Result<Attributes> {
    let stat = nix::sys::stat::fstat(fd)?;
    let time = |seconds: i64, nanoseconds: i64| Timestamp { seconds, nanoseconds: nanoseconds as u32 };
    Ok(Attributes {
        device: stat.st_dev,
        inode: stat.st_ino,
        mode: stat.st_mode,
        links: stat.st_nlink,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev,
        size: stat.st_size as u64,
        block_size: stat.st_blksize as u32,
        blocks: stat.st_blocks as u64,
        accessed: time(stat.st_atime, stat.st_atime_nsec),
        modified: time(stat.st_mtime, stat.st_mtime_nsec),
        changed: time(stat.st_ctime, stat.st_ctime_nsec),
        born: None,
    })
}

impl HostNode {
    /// The root of a tree: a directory, or a single file that is bind-mounted.
    pub fn root(fd: OwnedFd) -> Result<NodeRef> {
        let stat = nix::sys::stat::fstat(&fd)?;
        let key = NodeKey { device: stat.st_dev, inode: stat.st_ino };
        let prefix = nix::fcntl::readlink(reopen_path(fd.as_fd()).as_str())?.as_bytes().to_vec();
        Ok(Arc::new(HostNode { fd, key, kind: kind_of(stat.st_mode), tree: Arc::new(Tree { prefix, key }) }))
    }

    fn of(&self, fd: OwnedFd) -> Result<HostNode> {
        let stat = nix::sys::stat::fstat(&fd)?;
        let key = NodeKey { device: stat.st_dev, inode: stat.st_ino };
        Ok(HostNode { fd, key, kind: kind_of(stat.st_mode), tree: self.tree.clone() })
    }

    fn child(&self, name: &[u8]) -> Result<NodeRef> {
        let fd = open_beneath(self.fd.as_fd(), &c_name(name)?, PATH_ONLY, 0)?;
        Ok(Arc::new(self.of(fd)?))
    }

    fn other(node: &NodeRef) -> Result<&HostNode> {
        node.as_any().downcast_ref::<HostNode>().ok_or(Errno::EXDEV)
    }

    /// The host descriptor; `O_PATH`.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Node for HostNode {
    fn key(&self) -> NodeKey {
        self.key
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn attributes(&self) -> Result<Attributes> {
        attributes_of(self.fd.as_fd())
    }

    fn parent(&self) -> Result<Option<NodeRef>> {
        if self.key == self.tree.key {
            return Ok(None);
        }
        // A directory that was moved out of the tree has no parent here: the host's own answer would lead outside.
        self.path()?;
        identity::assume_kernel();
        let fd = nix::fcntl::openat(&self.fd, "..", PATH_ONLY, Mode::empty())?;
        let parent = self.of(fd)?;
        parent.path()?;
        Ok(Some(Arc::new(parent)))
    }

    fn path(&self) -> Result<Vec<u8>> {
        let shown = nix::fcntl::readlink(reopen_path(self.fd.as_fd()).as_str())?;
        let inside = shown.as_bytes().strip_prefix(self.tree.prefix.as_slice()).ok_or(Errno::ENOENT)?;
        match inside.first() {
            None => Ok(Vec::new()),
            Some(b'/') if self.is_unlinked() => Err(Errno::ENOENT),
            Some(b'/') => Ok(inside[1..].to_vec()),
            Some(_) => Err(Errno::ENOENT),
        }
    }

    fn is_unlinked(&self) -> bool {
        nix::sys::stat::fstat(&self.fd).is_ok_and(|stat| stat.st_nlink == 0)
    }

    fn lookup(self: Arc<Self>, name: &[u8], who: &Credentials) -> Result<NodeRef> {
        identity::assume(who);
        self.child(name)
    }

    fn lookup_path(self: Arc<Self>, names: &[&[u8]], who: &Credentials) -> Result<Walked> {
        identity::assume(who);
        if names.len() > 1 {
            let whole = names.join(&b'/');
            match open_beneath(self.fd.as_fd(), &c_name(&whole)?, PATH_ONLY, 0) {
                Ok(fd) => return Ok(Walked { node: Arc::new(self.of(fd)?), names: names.len() }),
                Err(Errno::ELOOP | Errno::EXDEV | Errno::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        // A link is on the way: one name after the other, up to it.
        let mut node: Arc<HostNode> = self;
        for (index, name) in names.iter().enumerate() {
            let fd = open_beneath(node.fd.as_fd(), &c_name(name)?, PATH_ONLY, 0)?;
            node = Arc::new(node.of(fd)?);
            if node.kind == FileType::Symlink {
                return Ok(Walked { node, names: index + 1 });
            }
        }
        Ok(Walked { node, names: names.len() })
    }

    fn read_link(&self, _: &Credentials) -> Result<LinkTarget> {
        let target = nix::fcntl::readlinkat(&self.fd, "")?;
        Ok(LinkTarget::Path(target.as_bytes().to_vec()))
    }

    fn open(self: Arc<Self>, location: &Location, request: OpenRequest, who: &Credentials) -> Result<Arc<dyn File>> {
        match self.kind {
            FileType::Regular | FileType::Directory => {}
            FileType::CharacterDevice | FileType::BlockDevice => {
                if location.mount.has(MountFlags::NO_DEVICES) {
                    return Err(Errno::EACCES);
                }
                return crate::fs::dev::open(self.attributes()?.rdev, self.kind);
            }
            FileType::Fifo => return crate::fs::pipe::open_fifo(self.key, request),
            FileType::Socket | FileType::Symlink => return Err(Errno::ENXIO),
        }
        identity::assume(who);
        let kept = libc::O_ACCMODE | libc::O_TRUNC | libc::O_APPEND | libc::O_NOATIME | libc::O_DIRECTORY;
        let flags = OFlag::from_bits_truncate(request.flags & kept) | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = nix::fcntl::open(reopen_path(self.fd.as_fd()).as_str(), flags, Mode::empty())?;
        Ok(Arc::new(HostFile::new(fd, self.kind)))
    }

    fn create(
        self: Arc<Self>,
        name: &[u8],
        mode: u32,
        _: &Location,
        request: OpenRequest,
        who: &Credentials,
    ) -> Result<(NodeRef, Arc<dyn File>)> {
        identity::assume(who);
        let kept = OFlag::from_bits_truncate(request.flags & (libc::O_ACCMODE | libc::O_APPEND));
        let flags = kept | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = open_beneath(self.fd.as_fd(), &c_name(name)?, flags, mode & 0o7777)?;
        let path = nix::fcntl::open(reopen_path(fd.as_fd()).as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok((Arc::new(self.of(path)?), Arc::new(HostFile::new(fd, FileType::Regular))))
    }

    fn create_unnamed(
        self: Arc<Self>,
        mode: u32,
        _: &Location,
        request: OpenRequest,
        who: &Credentials,
    ) -> Result<(NodeRef, Arc<dyn File>)> {
        identity::assume(who);
        let kept = OFlag::from_bits_truncate(request.flags & (libc::O_ACCMODE | libc::O_APPEND | libc::O_EXCL));
        let fd = nix::fcntl::openat(&self.fd, ".", kept | OFlag::O_TMPFILE | OFlag::O_CLOEXEC, Mode::from_bits_truncate(mode & 0o7777))?;
        let path = nix::fcntl::open(reopen_path(fd.as_fd()).as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok((Arc::new(self.of(path)?), Arc::new(HostFile::new(fd, FileType::Regular))))
    }

    fn make_directory(self: Arc<Self>, name: &[u8], mode: u32, who: &Credentials) -> Result<NodeRef> {
        identity::assume(who);
        nix::sys::stat::mkdirat(&self.fd, c_name(name)?.as_c_str(), Mode::from_bits_truncate(mode & 0o7777))?;
        self.child(name)
    }

    fn make_symlink(self: Arc<Self>, name: &[u8], target: &[u8], who: &Credentials) -> Result<NodeRef> {
        identity::assume(who);
        nix::unistd::symlinkat(c_name(target)?.as_c_str(), &self.fd, c_name(name)?.as_c_str())?;
        self.child(name)
    }

    fn make_node(self: Arc<Self>, name: &[u8], mode: u32, rdev: u64, who: &Credentials) -> Result<NodeRef> {
        identity::assume(who);
        let kind = nix::sys::stat::SFlag::from_bits_truncate(mode & libc::S_IFMT);
        nix::sys::stat::mknodat(&self.fd, c_name(name)?.as_c_str(), kind, Mode::from_bits_truncate(mode & 0o7777), rdev)?;
        self.child(name)
    }

    fn link(self: Arc<Self>, name: &[u8], target: &NodeRef, who: &Credentials) -> Result<()> {
        let target = HostNode::other(target)?;
        identity::assume(who);
        let from = reopen_path(target.fd.as_fd());
        let flags = if target.kind == FileType::Symlink {
            // A link itself cannot be reached through /proc; the host allows this form to the holder of CAP_DAC_READ_SEARCH.
            identity::assume_kernel();
            nix::unistd::linkat(&target.fd, "", &self.fd, c_name(name)?.as_c_str(), AtFlags::AT_EMPTY_PATH)?;
            return Ok(());
        } else {
            AtFlags::AT_SYMLINK_FOLLOW
        };
        nix::unistd::linkat(nix::fcntl::AT_FDCWD, from.as_str(), &self.fd, c_name(name)?.as_c_str(), flags)?;
        Ok(())
    }

    fn unlink(self: Arc<Self>, name: &[u8], directory: bool, who: &Credentials) -> Result<()> {
        identity::assume(who);
        let flags = if directory { nix::unistd::UnlinkatFlags::RemoveDir } else { nix::unistd::UnlinkatFlags::NoRemoveDir };
        nix::unistd::unlinkat(&self.fd, c_name(name)?.as_c_str(), flags)?;
        Ok(())
    }

    fn rename(self: Arc<Self>, name: &[u8], to: &NodeRef, new_name: &[u8], flags: u32, who: &Credentials) -> Result<()> {
        let to = HostNode::other(to)?;
        identity::assume(who);
        let flags = nix::fcntl::RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        nix::fcntl::renameat2(&self.fd, c_name(name)?.as_c_str(), &to.fd, c_name(new_name)?.as_c_str(), flags)?;
        Ok(())
    }

    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        identity::assume(who);
        let path = reopen_path(self.fd.as_fd());
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Into::into), change.gid.map(Into::into));
            nix::unistd::fchownat(&self.fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            if self.kind == FileType::Symlink {
                return Err(Errno::EOPNOTSUPP);
            }
            let mode = Mode::from_bits_truncate(mode & 0o7777);
            nix::sys::stat::fchmodat(nix::fcntl::AT_FDCWD, path.as_str(), mode, nix::sys::stat::FchmodatFlags::FollowSymlink)?;
        }
        if change.accessed.is_some() || change.modified.is_some() {
            let time = |time: Option<SetTime>| match time {
                None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
                Some(SetTime::Now) => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
                Some(SetTime::To(at)) => libc::timespec { tv_sec: at.seconds, tv_nsec: i64::from(at.nanoseconds) },
            };
            let times = [time(change.accessed), time(change.modified)];
            // SAFETY: an empty NUL-terminated path and two times, all alive through the call (AT_EMPTY_PATH: Linux 5.8).
            let done = unsafe { libc::utimensat(self.fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) };
            if done < 0 {
                return Err(Errno::last());
            }
        }
        Ok(())
    }

    fn truncate(&self, length: u64, who: &Credentials) -> Result<()> {
        match self.kind {
            FileType::Directory => return Err(Errno::EISDIR),
            FileType::Regular => {}
            _ => return Err(Errno::EINVAL),
        }
        identity::assume(who);
        nix::unistd::truncate(reopen_path(self.fd.as_fd()).as_str(), i64::try_from(length).map_err(|_| Errno::EINVAL)?)?;
        Ok(())
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        let statistics = nix::sys::statfs::fstatfs(&self.fd)?;
        Ok(FileSystemStatistics {
            kind: statistics.filesystem_type().0,
            block_size: statistics.block_size(),
            blocks: statistics.blocks(),
            blocks_free: statistics.blocks_free(),
            blocks_available: statistics.blocks_available(),
            files: statistics.files(),
            files_free: statistics.files_free(),
            name_length: statistics.maximum_name_length(),
        })
    }

    fn access(&self, wanted: Permission, who: &Credentials) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let attributes = self.attributes()?;
        if crate::vfs::node::permits(&attributes, wanted, who).is_ok() {
            return Ok(());
        }
        // Access control lists may say otherwise: the host knows.
        if who.capable(Capability::DacOverride) {
            return Err(Errno::EACCES);
        }
        identity::assume(who);
        let mode = nix::unistd::AccessFlags::from_bits_truncate(wanted.bits() as i32);
        nix::unistd::faccessat(nix::fcntl::AT_FDCWD, reopen_path(self.fd.as_fd()).as_str(), mode, AtFlags::AT_EACCESS)?;
        Ok(())
    }

    fn host_file(&self) -> Result<OwnedFd> {
        if self.kind != FileType::Regular {
            return Err(Errno::EACCES);
        }
        identity::assume_kernel();
        Ok(nix::fcntl::open(reopen_path(self.fd.as_fd()).as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
