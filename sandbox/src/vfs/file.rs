//! Open files.
//!
//! A [`File`] is the behaviour of an opened object (Linux's `file_operations`); an [`OpenFile`] is the open file description
//! (open(2)) that descriptors refer to: behaviour, offset, status flags, place. Files never block: an operation that cannot
//! go on gives `EAGAIN`, and the system call waits on [`File::wait_queue`] when the description is not `O_NONBLOCK`.

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use super::mount::Location;
use super::node::{Attributes, FileSystemStatistics, NodeKey, SetAttributes};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::sync::Mutex;
use crate::syscalls::Call;

/// Where bytes that a file gives go: workload memory, or a buffer of ours.
pub trait Sink {
    /// How many bytes it still takes.
    fn remaining(&self) -> usize;
    /// Takes all of `bytes` (never more than [`Sink::remaining`]). `EFAULT` where workload memory is not writable: then nothing or
    /// a prefix was taken, as [`Sink::remaining`] tells.
    fn put(&mut self, bytes: &[u8]) -> Result<()>;
}

/// Gives `bytes` to a sink; says how many it took. An error only where it took none: what has arrived counts (read(2) into memory that ends).
pub fn give(into: &mut dyn Sink, bytes: &[u8]) -> Result<usize> {
    let before = into.remaining();
    match into.put(bytes) {
        Ok(()) => Ok(bytes.len()),
        Err(error) if into.remaining() == before => Err(error),
        Err(_) => Ok(before - into.remaining()),
    }
}

/// Where bytes that a file takes come from.
pub trait Source {
    /// How many bytes it still has.
    fn remaining(&self) -> usize;
    /// Fills the front of `buffer` with what comes next and returns how much that is: all of it, where so much remains.
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize>;
    /// The last `length` bytes that [`Source::take`] gave found no room: they are still to come. Nothing to do for sources whose
    /// owner goes by what the taker counted.
    fn give_back(&mut self, length: usize) {
        let _ = length;
    }
}

/// Where lseek(2) leads with `SEEK_SET`, `SEEK_CUR` and `SEEK_END`.
pub fn seek_to(current: u64, end: impl FnOnce() -> Result<u64>, by: i64, whence: i32) -> Result<u64> {
    let base = match whence {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => current,
        libc::SEEK_END => end()?,
        _ => return Err(Errno::EINVAL),
    };
    let to = i64::try_from(base).ok().and_then(|base| base.checked_add(by));
    to.and_then(|to| u64::try_from(to).ok()).ok_or(Errno::EINVAL)
}

/// A position for I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// pread(2), pwrite(2): here, whatever the description's offset.
    At(u64),
    /// At the description's offset (the caller holds and advances it); streams ignore it.
    Current(u64),
    /// At the end of the file (`O_APPEND`).
    End,
}

/// What mmap(2) of a file needs.
pub enum Mapping<'a> {
    /// A host descriptor with the right access mode; the host maps it natively.
    Host(BorrowedFd<'a>),
    /// The same, made for this mapping.
    Owned(std::os::fd::OwnedFd),
}

/// One directory entry for getdents64(2).
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct DirectoryEntry {
    pub inode: u64,
    /// The position after this entry: what lseek(2) takes to go on behind it.
    pub next: i64,
    /// `DT_*`.
    pub kind: u8,
    pub name: Vec<u8>,
}

/// The behaviour of an open object. The defaults are those of an object that cannot do the thing.
#[allow(unused_variables)]
pub trait File: Any + Send + Sync {
    /// Reads what there is, up to `into.remaining()`. 0 at the end of the file; `EAGAIN` where it would block.
    fn read(&self, open: &OpenFile, into: &mut dyn Sink, at: Position) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes; returns how much was taken. `EAGAIN` where it would block. `EPIPE`: the caller raises `SIGPIPE`.
    fn write(&self, open: &OpenFile, from: &mut dyn Source, at: Position) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// The size of what was written when `at` was [`Position::End`] is unknown to the caller: the offset after an append.
    fn end(&self) -> Result<u64> {
        Err(Errno::ESPIPE)
    }

    /// Whether it has positions: pread, pwrite, lseek. Streams do not (`ESPIPE`).
    fn seekable(&self) -> bool {
        false
    }

    /// lseek(2); gives the new offset. `offset` is the description's. Only called where seekable.
    fn seek(&self, open: &OpenFile, current: u64, offset: i64, whence: i32) -> Result<u64> {
        Err(Errno::ESPIPE)
    }

    /// What is ready now, whatever was asked.
    fn poll(&self) -> Ready {
        Ready::READABLE | Ready::WRITABLE
    }

    /// Who to wait for when it is not ready. `None`: it always is (epoll refuses it with `EPERM`).
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// Entries from position `from` on, in order, until `emit` says it is full (false). Returns nothing: entries carry their positions.
    fn read_directory(&self, from: i64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        Err(Errno::ENOTDIR)
    }

    /// ioctl(2). Arguments in workload memory are reached through `call.memory()`.
    fn ioctl(&self, open: &OpenFile, call: &Call, command: u32, argument: u64) -> Result<i64> {
        Err(Errno::ENOTTY)
    }

    /// fsync(2); `data_only` for fdatasync(2). May block on the host.
    fn sync(&self, data_only: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// fallocate(2).
    fn allocate(&self, mode: i32, offset: u64, length: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// ftruncate(2); only on descriptions open for writing.
    fn truncate(&self, length: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }

    /// fstat(2). Objects with a node leave this to it ([`OpenFile::attributes`] asks the node first where there is one).
    fn attributes(&self) -> Result<Attributes> {
        Err(Errno::EBADF)
    }

    /// fchmod, fchown, futimens on an object without a node.
    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        Err(Errno::EPERM)
    }

    /// fstatfs(2) of an object without a node: by default what `ANON_INODE_FS_MAGIC` stands for (linux/magic.h).
    fn statistics(&self) -> Result<FileSystemStatistics> {
        Ok(FileSystemStatistics { kind: 0x0904_1934, block_size: 4096, name_length: 255, ..Default::default() })
    }

    /// mmap(2) with `protection` and `flags` as passed. `ENODEV` where it cannot be mapped.
    fn map(&self, open: &OpenFile, protection: i32, flags: i32) -> Result<Mapping<'_>> {
        Err(Errno::ENODEV)
    }

    /// The host descriptor of plain data at the same offsets, for whole-file copies inside the kernel process (sendfile,
    /// copy_file_range) and direct page-cache reads.
    fn host_data(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Whether sendfile(2) may read from it, and write to it: Linux's drivers each say so by having a function for it.
    fn splices(&self) -> (bool, bool) {
        (true, true)
    }

    /// How an object without a node is shown in /proc/PID/fd: `pipe:[12]`, `anon_inode:[eventpoll]`.
    fn description(&self) -> String {
        String::from("anon_inode:[unknown]")
    }

    /// What /proc/PID/fdinfo shows of the object beyond what every file has: whole lines.
    fn details(&self) -> String {
        String::new()
    }

    /// Opens the same object anew (opening `/proc/self/fd/N` of a pipe or terminal).
    fn reopen(&self, request: super::node::OpenRequest, who: &Credentials) -> Result<Arc<dyn File>> {
        Err(Errno::ENXIO)
    }

    /// It has just been opened by path: a terminal may become the caller's controlling terminal.
    fn opened(&self, open: &OpenFile, call: &Call, flags: i32) {}

    /// A descriptor that referred to it is closed by a process (close(2), exec, exit): errors that close reports; POSIX
    /// locks are released by the caller. The object itself ends when it is dropped.
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// `O_NONBLOCK`, `O_APPEND`, `O_ASYNC`, `O_DIRECT` were changed by fcntl(2).
    fn flags_changed(&self, flags: i32) -> Result<()> {
        Ok(())
    }

    /// The concrete type, for calls that take one kind of file only (`ENOTSOCK`, `EINVAL` otherwise).
    fn as_any(&self) -> &dyn Any;
}

/// The status flags that fcntl(F_SETFL) may change.
pub const CHANGEABLE_FLAGS: i32 = libc::O_APPEND | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME | libc::O_NONBLOCK;

/// An open file description.
pub struct OpenFile {
    /// The object.
    pub file: Arc<dyn File>,
    /// Where it was opened; `None` for pipes, sockets and other objects without a name.
    pub location: Option<Location>,
    /// Who opened it.
    pub opener: Arc<Credentials>,
    flags: AtomicI32,
    /// The offset; held across a read or write, so that those of one description do not interleave (POSIX, since Linux 3.14).
    pub offset: Mutex<u64>,
    /// fcntl F_SETOWN and F_SETSIG.
    pub owner: Mutex<SignalOwner>,
}

/// Whom `O_ASYNC` signals.
#[derive(Clone, Copy, Default, Debug)]
pub struct SignalOwner {
    /// A process (positive) or group (negative), in the kernel's numbering; 0 for none.
    pub pid: i32,
    /// The signal; 0 for `SIGIO`.
    pub signal: i32,
}

impl OpenFile {
    /// A description with offset 0. `flags`: access mode and status flags; creation flags are dropped, `O_PATH` is kept.
    pub fn new(file: Arc<dyn File>, location: Option<Location>, flags: i32, opener: Arc<Credentials>) -> Arc<OpenFile> {
        let creation = libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY | libc::O_TRUNC | libc::O_CLOEXEC;
        Arc::new(OpenFile {
            file,
            location,
            opener,
            flags: AtomicI32::new(flags & !creation),
            offset: Mutex::new(0),
            owner: Mutex::default(),
        })
    }

    /// Access mode and status flags, as F_GETFL shows them.
    pub fn flags(&self) -> i32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Replaces the changeable status flags.
    pub fn set_flags(&self, flags: i32) -> Result<()> {
        self.file.flags_changed(flags & CHANGEABLE_FLAGS)?;
        let kept = self.flags() & !CHANGEABLE_FLAGS;
        self.flags.store(kept | flags & CHANGEABLE_FLAGS, Ordering::Relaxed);
        Ok(())
    }

    /// Whether an operation that would block fails instead.
    pub fn nonblocking(&self) -> bool {
        self.flags() & libc::O_NONBLOCK != 0
    }

    /// Whether it was opened for reading.
    pub fn reads(&self) -> bool {
        self.flags() & libc::O_PATH == 0 && matches!(self.flags() & libc::O_ACCMODE, libc::O_RDONLY | libc::O_RDWR)
    }

    /// Whether it was opened for writing.
    pub fn writes(&self) -> bool {
        self.flags() & libc::O_PATH == 0 && matches!(self.flags() & libc::O_ACCMODE, libc::O_WRONLY | libc::O_RDWR)
    }

    /// Whether it only names a file (`O_PATH`).
    pub fn is_path(&self) -> bool {
        self.flags() & libc::O_PATH != 0
    }

    /// fstat(2).
    pub fn attributes(&self) -> Result<Attributes> {
        match &self.location {
            Some(location) => location.node.attributes(),
            None => self.file.attributes(),
        }
    }

    /// Which file it is, for locks.
    pub fn key(&self) -> Result<NodeKey> {
        match &self.location {
            Some(location) => Ok(location.node.key()),
            None => self.file.attributes().map(|shown| NodeKey { device: shown.device, inode: shown.inode }),
        }
    }
}

/// The object behind an `O_PATH` descriptor: nothing but its place.
pub struct PathOnly;

impl File for PathOnly {
    fn read(&self, _: &OpenFile, _: &mut dyn Sink, _: Position) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn write(&self, _: &OpenFile, _: &mut dyn Source, _: Position) -> Result<usize> {
        Err(Errno::EBADF)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for OpenFile {
    /// Locks that belong to the description go with it.
    fn drop(&mut self) {
        let address = std::ptr::from_ref(self) as usize;
        super::locks::release_all(super::locks::Owner::Whole(address));
        super::locks::release_all(super::locks::Owner::Description(address));
    }
}
