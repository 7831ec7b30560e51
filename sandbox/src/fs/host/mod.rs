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
    root: OwnedFd,
}

/// A file in a host tree.
pub struct HostNode {
    fd: OwnedFd,
    key: NodeKey,
    kind: FileType,
    tree: Arc<Tree>,
}

/// What the host is told of a request: access mode, and what it has to do with every write.
const KEPT: i32 = libc::O_ACCMODE | libc::O_APPEND | libc::O_SYNC;
/// What the host puts behind the path of a file whose name is gone (proc(5)).
const DELETED: &[u8] = b" (deleted)";
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
    const WANTED: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    let mut shown = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty NUL-terminated path, and room for one `struct statx`, which zeroed bytes are; both live through the call. Needed: nix has no
    // statx, and fstat(2) does not tell when a file was born.
    let shown = unsafe {
        if libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, WANTED, shown.as_mut_ptr()) < 0 {
            return Err(Errno::last());
        }
        shown.assume_init()
    };
    let time = |time: libc::statx_timestamp| Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
    Ok(Attributes {
        device: libc::makedev(shown.stx_dev_major, shown.stx_dev_minor),
        inode: shown.stx_ino,
        mode: u32::from(shown.stx_mode),
        links: u64::from(shown.stx_nlink),
        uid: shown.stx_uid,
        gid: shown.stx_gid,
        rdev: libc::makedev(shown.stx_rdev_major, shown.stx_rdev_minor),
        size: shown.stx_size,
        block_size: shown.stx_blksize,
        blocks: shown.stx_blocks,
        accessed: time(shown.stx_atime),
        modified: time(shown.stx_mtime),
        changed: time(shown.stx_ctime),
        born: (shown.stx_mask & libc::STATX_BTIME != 0).then(|| time(shown.stx_btime)),
    })
}

/// chmod, chown, utimensat on a host file, with the rights that the thread carries.
pub fn change_attributes(fd: BorrowedFd<'_>, kind: FileType, change: &SetAttributes) -> Result<()> {
    let path = reopen_path(fd);
    if change.is_chown() {
        let (uid, gid) = (change.uid.map(Into::into), change.gid.map(Into::into));
        nix::unistd::fchownat(fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
    }
    if let Some(mode) = change.mode {
        if kind == FileType::Symlink {
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
        let done = unsafe { libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) };
        if done < 0 {
            return Err(Errno::last());
        }
    }
    Ok(())
}

/// copy_file_range(2) between host files: shared where their file system can do that. `None` where it must be done byte by byte.
pub fn copy_range(from: BorrowedFd<'_>, from_at: u64, to: BorrowedFd<'_>, to_at: u64, length: usize) -> Result<Option<usize>> {
    let offset = |at: u64| i64::try_from(at).map_err(|_| Errno::EINVAL);
    let (mut from_at, mut to_at) = (offset(from_at)?, offset(to_at)?);
    // SAFETY: both offsets are ours and live through the call. Needed: nix's wrapper takes owned offsets of another type.
    let moved = unsafe { libc::copy_file_range(from.as_raw_fd(), &mut from_at, to.as_raw_fd(), &mut to_at, length, 0) };
    match usize::try_from(moved) {
        // Files that say they are empty (of /proc, of some network file systems) may not be.
        Ok(0) => Ok(None),
        Ok(moved) => Ok(Some(moved)),
        Err(_) => match Errno::last() {
            Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EBADF | Errno::EPERM => Ok(None),
            error => Err(error),
        },
    }
}

impl HostNode {
    /// The root of a tree: a directory, or a single file that is bind-mounted.
    pub fn root(fd: OwnedFd) -> Result<NodeRef> {
        let stat = nix::sys::stat::fstat(&fd)?;
        let key = NodeKey { device: stat.st_dev, inode: stat.st_ino };
        let prefix = nix::fcntl::readlink(reopen_path(fd.as_fd()).as_str())?.as_bytes().to_vec();
        let tree = Tree { prefix, key, root: fd.try_clone()? };
        Ok(Arc::new(HostNode { fd, key, kind: kind_of(stat.st_mode), tree: Arc::new(tree) }))
    }

    /// Whether it stands at this path of its tree now.
    fn is_at(&self, path: &[u8]) -> bool {
        identity::assume_kernel();
        let found = c_name(path).and_then(|path| open_beneath(self.tree.root.as_fd(), &path, PATH_ONLY, 0));
        found.and_then(|fd| self.of(fd)).is_ok_and(|found| found.key == self.key)
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

    /// The path below the tree's root as the host shows it. `ENOENT` where it is not below; `None` where it is too long for the host to show.
    fn inside(&self) -> Result<Option<Vec<u8>>> {
        if self.key == self.tree.key {
            return Ok(Some(Vec::new()));
        }
        let shown = match nix::fcntl::readlink(reopen_path(self.fd.as_fd()).as_str()) {
            Err(nix::errno::Errno::ENAMETOOLONG) => return Ok(None),
            shown => shown?,
        };
        match shown.as_bytes().strip_prefix(self.tree.prefix.as_slice()) {
            Some([b'/', inside @ ..]) => Ok(Some(inside.to_vec())),
            _ => Err(Errno::ENOENT),
        }
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

    /// The host itself leads nowhere from a directory that was moved out of the tree: `..` from a place that is not below the root of its bind
    /// mount is `ENOENT` (path_connected() in fs/namei.c, since Linux 4.3). What it shows of the path is looked at all the same.
    fn parent(&self) -> Result<Option<NodeRef>> {
        if self.key == self.tree.key {
            return Ok(None);
        }
        self.inside()?;
        identity::assume_kernel();
        let parent = self.of(nix::fcntl::openat(&self.fd, "..", PATH_ONLY, Mode::empty())?)?;
        parent.inside()?;
        Ok(Some(Arc::new(parent)))
    }

    fn path(&self) -> Result<Vec<u8>> {
        let shown = self.inside()?.ok_or(Errno::ENAMETOOLONG)?;
        let gone = if self.is_unlinked() { shown.strip_suffix(DELETED) } else { None };
        Ok(gone.unwrap_or(&shown).to_vec())
    }

    fn is_unlinked(&self) -> bool {
        // One of several names may be gone: the descriptor remembers by which it was found. A name may also end so by itself.
        matches!(self.inside(), Ok(Some(path)) if path.ends_with(DELETED) && !self.is_at(&path))
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
        let kept = KEPT | libc::O_TRUNC | libc::O_NOATIME | libc::O_DIRECTORY;
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
        let kept = OFlag::from_bits_truncate(request.flags & KEPT);
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
        let kept = OFlag::from_bits_truncate(request.flags & (KEPT | libc::O_EXCL));
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
        change_attributes(self.fd.as_fd(), self.kind, change)
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

    fn sync_file_system(&self) -> Result<()> {
        identity::assume_kernel();
        // The tree's root is a directory or a regular file, unless a device or the like is bound: that has nothing to be written.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        match kind_of(nix::sys::stat::fstat(&self.tree.root)?.st_mode) {
            FileType::Regular | FileType::Directory => {}
            _ => return Ok(()),
        }
        let root = nix::fcntl::open(reopen_path(self.tree.root.as_fd()).as_str(), flags, Mode::empty())?;
        // SAFETY: no memory is passed. Needed: nix has no syncfs for a borrowed descriptor.
        if unsafe { libc::syncfs(root.as_raw_fd()) } < 0 { Err(Errno::last()) } else { Ok(()) }
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
