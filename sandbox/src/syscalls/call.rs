//! One call of one workload thread.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::kernel::task::{FileSystemState, Process, Thread};
use crate::platform::memory::{Address, Memory};
use crate::platform::notify::NotificationId;
use crate::vfs::descriptor::{Descriptor, DescriptorTable};
use crate::vfs::file::OpenFile;
use crate::vfs::mount::Location;
use crate::vfs::node::FileType;
use crate::vfs::walk::{self, LastName, Walk, WalkFlags};

/// A received system call. Cheap to clone: a parked call keeps one.
#[derive(Clone)]
pub struct Call {
    /// The caller.
    pub thread: Arc<Thread>,
    /// Its process.
    pub process: Arc<Process>,
    /// The call's number.
    pub number: i64,
    /// The registers rdi, rsi, rdx, r10, r8, r9.
    pub arguments: [u64; 6],
    /// Where the call was made from (the instruction behind it).
    pub instruction: Address,
    /// What the host calls it: for donating descriptors and for asking whether it is still waited for.
    pub id: NotificationId,
    /// The paths it has read, where its container is traced.
    pub seen: Option<super::Seen>,
}

impl Call {
    /// The caller's memory.
    pub fn memory(&self) -> Memory {
        Memory::of(self.thread.tid)
    }

    /// An argument as it is.
    pub fn raw(&self, index: usize) -> u64 {
        self.arguments[index]
    }

    /// An argument that C declares `int`.
    pub fn int(&self, index: usize) -> i32 {
        self.arguments[index] as i32
    }

    /// An argument that C declares `unsigned int`.
    pub fn uint(&self, index: usize) -> u32 {
        self.arguments[index] as u32
    }

    /// An argument that is a signed long.
    pub fn long(&self, index: usize) -> i64 {
        self.arguments[index] as i64
    }

    /// An argument that is a pointer.
    pub fn address(&self, index: usize) -> Address {
        Address(self.arguments[index])
    }

    /// An argument that is a descriptor. `EBADF` where it is negative.
    pub fn descriptor(&self, index: usize) -> Result<Descriptor> {
        Descriptor::from_register(self.arguments[index])
    }

    /// An argument that is a path in workload memory. Copied once.
    pub fn path(&self, index: usize) -> Result<Vec<u8>> {
        let path = self.memory().read_path(self.address(index))?;
        if let Some(seen) = &self.seen {
            seen.lock().push((index, path.clone()));
        }
        Ok(path)
    }

    /// The caller's descriptors.
    pub fn descriptors(&self) -> Arc<DescriptorTable> {
        self.thread.descriptors.read().clone()
    }

    /// The open file behind a descriptor argument, for calls that do I/O (`O_PATH` is `EBADF`).
    pub fn file(&self, index: usize) -> Result<Arc<OpenFile>> {
        self.thread.descriptors.read().get_open(self.descriptor(index)?)
    }

    /// The same, for calls that `O_PATH` descriptors take too.
    pub fn any_file(&self, index: usize) -> Result<Arc<OpenFile>> {
        self.thread.descriptors.read().get(self.descriptor(index)?)
    }

    /// `EMFILE` where the caller may have no more descriptors: a call that makes something for one asks first.
    pub fn has_room(&self) -> Result<()> {
        let limit = self.process.limits.read().descriptors();
        self.thread.descriptors.read().has_room(limit)
    }

    /// Gives the caller a descriptor for `file`: the lowest free number.
    pub fn install(&self, file: Arc<OpenFile>, close_on_exec: bool) -> Result<Descriptor> {
        let limit = self.process.limits.read().descriptors();
        self.thread.descriptors.read().insert(file, close_on_exec, 0, limit)
    }

    /// The caller's identity.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.thread.credentials.read().clone()
    }

    /// The caller's root, working directory and umask.
    pub fn context(&self) -> FileSystemState {
        self.thread.context.read().get()
    }

    /// Walks a path from the caller's working directory.
    pub fn resolve(&self, path: &[u8], flags: WalkFlags) -> Result<Location> {
        let context = self.context();
        let who = self.credentials();
        walk::resolve(&Walk { root: &context.root, start: &context.cwd, who: &who, flags }, path)
    }

    /// Where a path relative to a directory descriptor argument starts: `AT_FDCWD`, or an open directory. An absolute path needs none, and an
    /// empty one is `ENOENT` whatever the descriptor is.
    pub fn start(&self, index: usize, path: &[u8]) -> Result<Location> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.starts_with(b"/") || self.int(index) == libc::AT_FDCWD {
            return Ok(self.context().cwd);
        }
        let file = self.any_file(index)?;
        let location = file.location.clone().ok_or(Errno::ENOTDIR)?;
        if location.node.file_type() == FileType::Directory { Ok(location) } else { Err(Errno::ENOTDIR) }
    }

    /// Walks a path from a directory descriptor argument.
    pub fn resolve_at(&self, directory: usize, path: &[u8], flags: WalkFlags) -> Result<Location> {
        let start = self.start(directory, path)?;
        let root = self.context().root;
        let who = self.credentials();
        walk::resolve(&Walk { root: &root, start: &start, who: &who, flags }, path)
    }

    /// Walks a path from a directory descriptor argument up to its last name.
    pub fn resolve_parent_at(&self, directory: usize, path: &[u8]) -> Result<LastName> {
        let start = self.start(directory, path)?;
        let root = self.context().root;
        let who = self.credentials();
        walk::resolve_parent(&Walk { root: &root, start: &start, who: &who, flags: WalkFlags::empty() }, path)
    }

    /// `EPERM` unless the caller has `capability`.
    pub fn require(&self, capability: crate::kernel::credentials::Capability) -> Result<()> {
        if self.thread.credentials.read().capable(capability) { Ok(()) } else { Err(Errno::EPERM) }
    }
}
