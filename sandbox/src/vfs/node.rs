//! Nodes: what a file system is made of.
//!
//! A [`Node`] is Linux's inode together with its place in its file system's tree: it can be looked up in, opened,
//! changed, and it knows its parent. File systems (`fs/`) implement it; the path walk (`vfs/walk`) and the system calls
//! see nothing else. A [`Location`](super::mount::Location) is a node seen through a mount: Linux's `struct path`.
//!
//! Nodes answer for *their own* permission checks where the host decides (host directories: the worker takes the
//! caller's identity, and the host's own checks hold), and use [`permits`] where they live in this process's memory.

use std::any::Any;
use std::sync::Arc;

use super::file::File;
use super::mount::Location;
use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};

/// A shared node.
pub type NodeRef = Arc<dyn Node>;

/// The kinds of file (inode(7)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum FileType {
    Regular,
    Directory,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Fifo,
    Socket,
}

impl FileType {
    /// From the `S_IFMT` bits of a mode; anything unknown is `EINVAL`.
    pub fn from_mode(mode: u32) -> Result<FileType> {
        Ok(match mode & libc::S_IFMT {
            libc::S_IFREG => FileType::Regular,
            libc::S_IFDIR => FileType::Directory,
            libc::S_IFLNK => FileType::Symlink,
            libc::S_IFCHR => FileType::CharacterDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            _ => return Err(Errno::EINVAL),
        })
    }

    /// The `S_IFMT` bits.
    pub fn mode(self) -> u32 {
        match self {
            FileType::Regular => libc::S_IFREG,
            FileType::Directory => libc::S_IFDIR,
            FileType::Symlink => libc::S_IFLNK,
            FileType::CharacterDevice => libc::S_IFCHR,
            FileType::BlockDevice => libc::S_IFBLK,
            FileType::Fifo => libc::S_IFIFO,
            FileType::Socket => libc::S_IFSOCK,
        }
    }

    /// The `DT_*` value of getdents64(2).
    pub fn directory_entry_type(self) -> u8 {
        (self.mode() >> 12) as u8
    }
}

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
#[allow(missing_docs)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Now, by the host's coarse real-time clock, as Linux stamps files.
    pub fn now() -> Timestamp {
        match nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE) {
            Ok(now) => Timestamp { seconds: now.tv_sec(), nanoseconds: now.tv_nsec() as u32 },
            Err(_) => Timestamp::default(),
        }
    }
}

/// Which file a node is: the pair that stat(2) shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub struct NodeKey {
    pub device: u64,
    pub inode: u64,
}

/// What stat(2) and statx(2) show. `device` and `rdev` in the kernel's 64-bit encoding of `dev_t` (makedev(3)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Attributes {
    pub device: u64,
    pub inode: u64,
    /// `S_IFMT` and permission bits.
    pub mode: u32,
    pub links: u64,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    pub block_size: u32,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
    /// Birth, where the file system keeps it.
    pub born: Option<Timestamp>,
}

/// A new time for utimensat(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// `UTIME_NOW`.
    Now,
    /// This one.
    To(Timestamp),
}

/// A change of attributes. What is `None` stays. The *caller's right* to it is checked by the node.
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs)]
pub struct SetAttributes {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// A chown(2), though it may name neither: it takes set-id bits away all the same.
    pub chown: bool,
    pub accessed: Option<SetTime>,
    pub modified: Option<SetTime>,
}

impl SetAttributes {
    /// Whether it is a chown(2).
    pub fn is_chown(&self) -> bool {
        self.chown || self.uid.is_some() || self.gid.is_some()
    }
}

/// What statfs(2) shows; sizes in blocks.
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs)]
pub struct FileSystemStatistics {
    /// The magic number (statfs(2)).
    pub kind: i64,
    pub block_size: i64,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_length: i64,
}

/// Where a symbolic link leads.
pub enum LinkTarget {
    /// To a path that the walk goes on with.
    Path(Vec<u8>),
    /// Straight to a file (the magic links of /proc), past every check of the way there.
    Place(Location),
    /// Straight to an open file description that has no place of its own (`/proc/PID/fd/N` of a pipe or socket): opening it
    /// opens that object anew; only `readlink` shows the text.
    Object(Arc<super::file::OpenFile>),
}

bitflags::bitflags! {
    /// What access to a file is asked for (the three bits of access(2)).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Permission: u32 {
        /// Read, list.
        const READ = 4;
        /// Write, change entries.
        const WRITE = 2;
        /// Execute, search.
        const EXECUTE = 1;
    }
}

/// How far a walk over several names got.
pub struct Walked {
    /// The last node reached.
    pub node: NodeRef,
    /// How many names it took, at least one. The walk stops early at a symbolic link (returned as the node).
    pub names: usize,
}

/// What open(2) asks of a node. `flags` are the raw `O_*` bits after validation.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    /// `O_ACCMODE` and status flags.
    pub flags: i32,
}

impl OpenRequest {
    /// Whether the access mode allows reading.
    pub fn reads(self) -> bool {
        matches!(self.flags & libc::O_ACCMODE, libc::O_RDONLY | libc::O_RDWR)
    }

    /// Whether the access mode allows writing.
    pub fn writes(self) -> bool {
        matches!(self.flags & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR)
    }

    /// What the caller must be allowed. The access mode 3 gives no right to read or write (it is for ioctl(2)), but asks for both
    /// (open(2)); cutting a file is writing.
    pub fn permission(self) -> Permission {
        let mut wanted = match self.flags & libc::O_ACCMODE {
            libc::O_RDONLY => Permission::READ,
            libc::O_WRONLY => Permission::WRITE,
            _ => Permission::READ | Permission::WRITE,
        };
        if self.flags & libc::O_TRUNC != 0 {
            wanted |= Permission::WRITE;
        }
        wanted
    }
}

/// A file in a file system. The defaults are those of a node that is no directory and cannot be changed.
///
/// `who` is always the caller; a node checks its rights (search on itself for look-ups, write for changes of entries).
/// Names are single components: never empty, `.`, `..`, nor with a slash; over 255 bytes is `ENAMETOOLONG` (checked by the walk).
#[allow(unused_variables)]
pub trait Node: Any + Send + Sync {
    /// Which file it is.
    fn key(&self) -> NodeKey;

    /// Its kind; never changes.
    fn file_type(&self) -> FileType;

    /// What stat(2) shows.
    fn attributes(&self) -> Result<Attributes>;

    /// The directory that holds it; `None` at the root of its file system.
    fn parent(&self) -> Result<Option<NodeRef>>;

    /// Its path from the root of its file system: no leading slash, empty for the root itself. Of a file whose name has been removed: where it
    /// stood last. `ENOENT` for what never had a name, or stands outside of its tree now.
    fn path(&self) -> Result<Vec<u8>>;

    /// Whether its name has been removed from its file system (the ` (deleted)` of /proc/PID/fd).
    fn is_unlinked(&self) -> bool {
        false
    }

    /// Finds one name in this directory.
    fn lookup(self: Arc<Self>, name: &[u8], who: &Credentials) -> Result<NodeRef> {
        Err(Errno::ENOTDIR)
    }

    /// Finds several names in a row, stopping at the first symbolic link. File systems that can do it in one step do.
    fn lookup_path(self: Arc<Self>, names: &[&[u8]], who: &Credentials) -> Result<Walked> {
        Ok(Walked { node: self.lookup(names[0], who)?, names: 1 })
    }

    /// The target of a symbolic link.
    fn read_link(&self, who: &Credentials) -> Result<LinkTarget> {
        Err(Errno::EINVAL)
    }

    /// Opens it. `location` is where it was found, for what the file remembers. `O_TRUNC` is handled by the node; `O_CREAT`,
    /// `O_EXCL`, `O_NOFOLLOW`, `O_DIRECTORY` by the caller.
    fn open(self: Arc<Self>, location: &Location, request: OpenRequest, who: &Credentials) -> Result<Arc<dyn File>> {
        Err(Errno::ENXIO)
    }

    /// Creates a regular file that does not exist yet and opens it (`mode` already without the umask). `EEXIST` where it does.
    fn create(
        self: Arc<Self>,
        name: &[u8],
        mode: u32,
        location: &Location,
        request: OpenRequest,
        who: &Credentials,
    ) -> Result<(NodeRef, Arc<dyn File>)> {
        Err(Errno::EROFS)
    }

    /// `O_TMPFILE`: an open file without a name in this directory.
    fn create_unnamed(
        self: Arc<Self>,
        mode: u32,
        location: &Location,
        request: OpenRequest,
        who: &Credentials,
    ) -> Result<(NodeRef, Arc<dyn File>)> {
        Err(Errno::EOPNOTSUPP)
    }

    /// mkdir(2).
    fn make_directory(self: Arc<Self>, name: &[u8], mode: u32, who: &Credentials) -> Result<NodeRef> {
        Err(Errno::EROFS)
    }

    /// symlink(2).
    fn make_symlink(self: Arc<Self>, name: &[u8], target: &[u8], who: &Credentials) -> Result<NodeRef> {
        Err(Errno::EROFS)
    }

    /// mknod(2): regular files, fifos, sockets, devices. `mode` with its `S_IFMT` bits.
    fn make_node(self: Arc<Self>, name: &[u8], mode: u32, rdev: u64, who: &Credentials) -> Result<NodeRef> {
        Err(Errno::EROFS)
    }

    /// link(2): gives `target`, of the same file system (`EXDEV` otherwise), one more name here.
    fn link(self: Arc<Self>, name: &[u8], target: &NodeRef, who: &Credentials) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// unlink(2), or rmdir(2) where `directory`.
    fn unlink(self: Arc<Self>, name: &[u8], directory: bool, who: &Credentials) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// renameat2(2) from here to `to`, a directory of the same file system (`EXDEV` otherwise). `flags` are `RENAME_*`.
    fn rename(self: Arc<Self>, name: &[u8], to: &NodeRef, new_name: &[u8], flags: u32, who: &Credentials) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// chmod, chown, utimensat.
    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        Err(Errno::EROFS)
    }

    /// truncate(2).
    fn truncate(&self, length: u64, who: &Credentials) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// syncfs(2): what its file system has not written yet goes to the disk. Blocks on the host.
    fn sync_file_system(&self) -> Result<()> {
        Ok(())
    }

    /// statfs(2).
    fn statistics(&self) -> Result<FileSystemStatistics>;

    /// Whether `who` may access it so. `EACCES` otherwise.
    fn access(&self, wanted: Permission, who: &Credentials) -> Result<()> {
        permits(&self.attributes()?, wanted, who)
    }

    /// A host descriptor of the file itself, open for reading (for execution and `/proc/PID/exe` comparisons). Only
    /// regular files have one; memory files make theirs on demand.
    fn host_file(&self) -> Result<std::os::fd::OwnedFd> {
        Err(Errno::EACCES)
    }

    /// The concrete type, for a file system to know its own nodes.
    fn as_any(&self) -> &dyn Any;
}

/// The permission check of path_resolution(7) for nodes that live in memory: owner, group, other, then `CAP_DAC_OVERRIDE`
/// and `CAP_DAC_READ_SEARCH`.
pub fn permits(attributes: &Attributes, wanted: Permission, who: &Credentials) -> Result<()> {
    let shift = if who.fsuid == attributes.uid {
        6
    } else if who.in_group(attributes.gid) {
        3
    } else {
        0
    };
    let granted = Permission::from_bits_truncate(attributes.mode >> shift & 7);
    if granted.contains(wanted) {
        return Ok(());
    }
    let directory = attributes.mode & libc::S_IFMT == libc::S_IFDIR;
    let executable = directory || attributes.mode & 0o111 != 0;
    if who.capable(Capability::DacOverride) && (executable || !wanted.contains(Permission::EXECUTE)) {
        return Ok(());
    }
    let read_only = Permission::READ.bits() | if directory { Permission::EXECUTE.bits() } else { 0 };
    if who.capable(Capability::DacReadSearch) && wanted.bits() & !read_only == 0 {
        return Ok(());
    }
    Err(Errno::EACCES)
}
