//! Reading and writing: read(2), write(2) and their forms, lseek(2), fsync(2), fallocate(2). Copies between files are in [`super::copy`].
//!
//! Every form ends in [`read`] or [`write`]: one attempt at once, and, where a blocking description has nothing, a parked call that tries again
//! when the object's wait queue says so.

use std::sync::Arc;

use super::{Argument, Call, Entry, Outcome, message};
use crate::errno::{Errno, Result};
use crate::fs::eventfd::EventFile;
use crate::fs::signalfd::SignalFile;
use crate::kernel::park;
use crate::kernel::timer::Deadline;
use crate::kernel::wait::Ready;
use crate::kernel::{signal, signal_queue};
use crate::net::socket::Socket;
use crate::platform::memory::Segments;
use crate::vfs::file::{OpenFile, Position, Sink, Source};
use crate::vfs::node::FileType;

use Argument::{Descriptor, Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_read, "read", |call| read(call, buffer, None, 0), &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_write, "write", |call| write(call, buffer, None, 0), &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_pread64, "pread64", |call| read(call, buffer, Some(offset(call, 3)?), 0), &[Descriptor, Pointer, Number, Number]),
    Entry::new(
        libc::SYS_pwrite64,
        "pwrite64",
        |call| write(call, buffer, Some(offset(call, 3)?), 0),
        &[Descriptor, Pointer, Number, Number],
    ),
    Entry::new(libc::SYS_readv, "readv", |call| read(call, vector, None, 0), &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_writev, "writev", |call| write(call, vector, None, 0), &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_preadv, "preadv", |call| read(call, vector, Some(offset(call, 3)?), 0), &[Descriptor, Pointer, Number, Number]),
    Entry::new(libc::SYS_pwritev, "pwritev", |call| write(call, vector, Some(offset(call, 3)?), 0), &[Descriptor, Pointer, Number, Number]),
    Entry::new(libc::SYS_preadv2, "preadv2", preadv2, &[Descriptor, Pointer, Number, Number, Number, Hex]),
    Entry::new(libc::SYS_pwritev2, "pwritev2", pwritev2, &[Descriptor, Pointer, Number, Number, Number, Hex]),
    Entry::new(libc::SYS_lseek, "lseek", lseek, &[Descriptor, Number, Number]),
    Entry::new(libc::SYS_fsync, "fsync", |call| Ok(call.file(0)?.file.sync(false)?.into()), &[Descriptor]).blocking(),
    Entry::new(libc::SYS_fdatasync, "fdatasync", |call| Ok(call.file(0)?.file.sync(true)?.into()), &[Descriptor]).blocking(),
    Entry::new(libc::SYS_sync_file_range, "sync_file_range", sync_file_range, &[Descriptor, Number, Number, Hex]).blocking(),
    Entry::new(libc::SYS_syncfs, "syncfs", syncfs, &[Descriptor]).blocking(),
    Entry::new(libc::SYS_sync, "sync", sync, &[]).blocking(),
    Entry::new(libc::SYS_fallocate, "fallocate", fallocate, &[Descriptor, Hex, Number, Number]),
    Entry::new(libc::SYS_fadvise64, "fadvise64", fadvise, &[Descriptor, Number, Number, Number]),
    Entry::new(libc::SYS_readahead, "readahead", readahead, &[Descriptor, Number, Number]),
];

/// More than this moved by one call may take a while: others are served meanwhile, bytes.
pub const LONG: usize = 1 << 20;

fn offset(call: &Call, index: usize) -> Result<u64> {
    u64::try_from(call.long(index)).map_err(|_| Errno::EINVAL)
}

/// The memory that a call reads into or writes from. Looked at after the descriptor, as Linux does.
type Place = fn(&Call) -> Result<Segments>;

fn buffer(call: &Call) -> Result<Segments> {
    call.memory().segment(call.address(1), call.raw(2))
}

fn vector(call: &Call) -> Result<Segments> {
    call.memory().read_segments(call.address(1), call.raw(2))
}

/// The offset -1 of preadv2 and pwritev2: the description's own.
fn optional_offset(call: &Call) -> Result<Option<u64>> {
    if call.long(3) == -1 { Ok(None) } else { offset(call, 3).map(Some) }
}

/// `RWF_*`: those of Linux 6.1.
const DATA_SYNC: u32 = 2;
const SYNC: u32 = 4;
const NO_WAIT: u32 = 8;
const APPEND: u32 = 0x10;
const KNOWN: u32 = 0x1f;

fn preadv2(call: &Call) -> Result<Outcome> {
    let at = optional_offset(call)?;
    if call.uint(5) & !KNOWN != 0 {
        call.file(0)?;
        return Err(Errno::EOPNOTSUPP);
    }
    read(call, vector, at, call.uint(5))
}

fn pwritev2(call: &Call) -> Result<Outcome> {
    let at = optional_offset(call)?;
    if call.uint(5) & !KNOWN != 0 {
        call.file(0)?;
        return Err(Errno::EOPNOTSUPP);
    }
    write(call, vector, at, call.uint(5))
}

/// What leads past the largest offset (rw_verify_area() in fs/read_write.c).
fn check_end(at: u64, length: usize) -> Result<()> {
    match at.checked_add(length as u64) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

fn read(call: &Call, place: Place, at: Option<u64>, flags: u32) -> Result<Outcome> {
    let open = call.file(0)?;
    if at.is_some() && !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    if !open.reads() {
        return Err(Errno::EBADF);
    }
    let mut into = place(call)?;
    if Socket::of(&open).is_ok() {
        return message::read(call, &open, into);
    }
    if SignalFile::of(&open).is_ok() {
        return read_signals(call, open, into);
    }
    if Sink::remaining(&into) > LONG {
        crate::platform::heed();
    }
    match read_once(&open, &mut into, at) {
        Err(Errno::EAGAIN) if !open.nonblocking() && flags & NO_WAIT == 0 => {}
        result => return result.map(Outcome::from),
    }
    let Some(queue) = open.file.wait_queue().cloned() else { return Err(Errno::EAGAIN) };
    Ok(Outcome::Park(Box::pin(async move {
        park::retry(&queue, Ready::READABLE | Ready::RDHUP, Deadline::Never, || read_once(&open, &mut into, at)).await.map(Outcome::from)
    })))
}

/// Reads from a signalfd: the caller's pending signals, which are the host's and are taken by the caller itself.
fn read_signals(call: &Call, open: Arc<OpenFile>, into: Segments) -> Result<Outcome> {
    if Sink::remaining(&into) < signal_queue::SIZE {
        return Err(Errno::EINVAL);
    }
    let queue = open.file.wait_queue().cloned().ok_or(Errno::EINVAL)?;
    let nonblocking = open.nonblocking();
    let look = move || if open.file.poll().is_empty() { Err(Errno::EAGAIN) } else { Ok(SignalFile::of(&open)?.mask()) };
    let taken = |call: Call, mask: u64, into: Segments| Outcome::Elsewhere(Box::new(move || signal_queue::take(&call, mask, into)));
    match look() {
        Ok(mask) => return Ok(taken(call.clone(), mask, into)),
        Err(Errno::EAGAIN) if !nonblocking => {}
        Err(error) => return Err(error),
    }
    let call = call.clone();
    Ok(Outcome::Park(Box::pin(async move {
        let mask = park::retry(&queue, Ready::READABLE, Deadline::Never, look).await?;
        Ok(taken(call, mask, into))
    })))
}

fn read_once(open: &OpenFile, into: &mut dyn Sink, at: Option<u64>) -> Result<usize> {
    if let Some(at) = at {
        check_end(at, into.remaining())?;
        return open.file.read(open, into, Position::At(at));
    }
    if !open.file.seekable() {
        return open.file.read(open, into, Position::Current(0));
    }
    let mut offset = open.offset.lock();
    check_end(*offset, into.remaining())?;
    let read = open.file.read(open, into, Position::Current(*offset))?;
    *offset += read as u64;
    Ok(read)
}

fn write(call: &Call, place: Place, at: Option<u64>, flags: u32) -> Result<Outcome> {
    let open = call.file(0)?;
    if at.is_some() && !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    if !open.writes() {
        return Err(Errno::EBADF);
    }
    let mut from = place(call)?;
    if Socket::of(&open).is_ok() {
        return message::write(call, &open, from);
    }
    if open.file.as_any().is::<EventFile>() {
        return write_event(open, &mut from);
    }
    let synchronous = flags & (DATA_SYNC | SYNC) != 0 || open.flags() & libc::O_SYNC != 0;
    if Source::remaining(&from) > LONG || synchronous {
        crate::platform::heed();
    }
    let nonblocking = open.nonblocking() || flags & NO_WAIT != 0;
    let mut done = 0;
    let first = write_once(call, &open, &mut from, at, flags);
    match first {
        Ok(written) => {
            done += written;
            if flags & (DATA_SYNC | SYNC) != 0 && open.file.seekable() {
                open.file.sync(flags & SYNC == 0)?;
            }
            if Source::remaining(&from) == 0 || open.file.seekable() || nonblocking {
                return Ok(done.into());
            }
        }
        Err(Errno::EAGAIN) if !nonblocking => {}
        Err(error) => return Err(raise(call, error)),
    }
    let Some(queue) = open.file.wait_queue().cloned() else { return if done > 0 { Ok(done.into()) } else { Err(Errno::EAGAIN) } };
    let call = call.clone();
    Ok(Outcome::Park(Box::pin(async move {
        while Source::remaining(&from) > 0 {
            let more = park::retry(&queue, Ready::WRITABLE, Deadline::Never, || write_once(&call, &open, &mut from, at, flags)).await;
            match more {
                Ok(written) => done += written,
                Err(Errno::EPIPE) => {
                    let error = raise(&call, Errno::EPIPE);
                    return if done > 0 { Ok(done.into()) } else { Err(error) };
                }
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done.into())
    })))
}

/// Adds to an eventfd: eight bytes and no more, however long the buffer is (eventfd(2)).
fn write_event(open: Arc<OpenFile>, from: &mut dyn Source) -> Result<Outcome> {
    fn add(open: &OpenFile, added: u64) -> Result<usize> {
        open.file.as_any().downcast_ref::<EventFile>().ok_or(Errno::EINVAL)?.add(added).map(|()| 8)
    }
    if from.remaining() < 8 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0u8; 8];
    from.take(&mut bytes)?;
    let added = u64::from_ne_bytes(bytes);
    match add(&open, added) {
        Err(Errno::EAGAIN) if !open.nonblocking() => {}
        result => return result.map(Outcome::from),
    }
    let Some(queue) = open.file.wait_queue().cloned() else { return Err(Errno::EAGAIN) };
    Ok(Outcome::Park(Box::pin(async move {
        park::retry(&queue, Ready::WRITABLE, Deadline::Never, || add(&open, added)).await.map(Outcome::from)
    })))
}

/// A broken pipe is a signal, too.
pub fn raise(call: &Call, error: Errno) -> Errno {
    if error == Errno::EPIPE {
        let _ = signal::send_to_thread(call.process.pid, call.thread.tid, libc::SIGPIPE);
    }
    error
}

fn write_once(call: &Call, open: &OpenFile, from: &mut dyn Source, at: Option<u64>, flags: u32) -> Result<usize> {
    if !open.file.seekable() {
        return open.file.write(open, from, Position::Current(0));
    }
    let append = flags & APPEND != 0 || open.flags() & libc::O_APPEND != 0;
    if let Some(at) = at {
        check_end(at, from.remaining())?;
        // pwrite(2) on an O_APPEND description appends all the same.
        let position = if append { Position::End } else { Position::At(at) };
        return write_within(call, open, from, position);
    }
    let mut offset = open.offset.lock();
    check_end(*offset, from.remaining())?;
    if append {
        let written = write_within(call, open, from, Position::End)?;
        *offset = open.file.end()?;
        return Ok(written);
    }
    let written = write_within(call, open, from, Position::Current(*offset))?;
    *offset += written as u64;
    Ok(written)
}

/// Writes no further than `RLIMIT_FSIZE` allows.
fn write_within(call: &Call, open: &OpenFile, from: &mut dyn Source, at: Position) -> Result<usize> {
    let limit = call.process.limits.read().file_size();
    if limit == u64::MAX || from.remaining() == 0 || !is_regular(open) {
        return open.file.write(open, from, at);
    }
    let start = match at {
        Position::At(start) | Position::Current(start) => start,
        Position::End => open.file.end()?,
    };
    let room = room_within(call, start)?;
    open.file.write(open, &mut Limited { from, left: room }, at)
}

/// How much the caller may write from here on. Nothing may begin past `RLIMIT_FSIZE` (setrlimit(2)).
pub fn room_within(call: &Call, start: u64) -> Result<usize> {
    let limit = call.process.limits.read().file_size();
    if start >= limit {
        let _ = signal::send_to_thread(call.process.pid, call.thread.tid, libc::SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    Ok(usize::try_from(limit - start).unwrap_or(usize::MAX))
}

/// Whether it is a regular file, with or without a name.
pub fn is_regular(open: &OpenFile) -> bool {
    match &open.location {
        Some(location) => location.node.file_type() == FileType::Regular,
        None => open.file.host_data().is_some(),
    }
}

/// The front of a source.
struct Limited<'a> {
    from: &'a mut dyn Source,
    left: usize,
}

impl Source for Limited<'_> {
    fn remaining(&self) -> usize {
        self.from.remaining().min(self.left)
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = buffer.len().min(self.left);
        let taken = self.from.take(&mut buffer[..length])?;
        self.left -= taken;
        Ok(taken)
    }
}

fn lseek(call: &Call) -> Result<Outcome> {
    let open = call.file(0)?;
    if !(libc::SEEK_SET..=libc::SEEK_HOLE).contains(&call.int(2)) {
        return Err(Errno::EINVAL);
    }
    if !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    let mut offset = open.offset.lock();
    let to = open.file.seek(&open, *offset, call.long(1), call.int(2))?;
    *offset = to;
    Ok(Outcome::Value(to as i64))
}

/// fallocate(2), with the checks of vfs_fallocate() in their order.
fn fallocate(call: &Call) -> Result<Outcome> {
    const MODES: i32 = libc::FALLOC_FL_KEEP_SIZE
        | libc::FALLOC_FL_PUNCH_HOLE
        | libc::FALLOC_FL_COLLAPSE_RANGE
        | libc::FALLOC_FL_ZERO_RANGE
        | libc::FALLOC_FL_INSERT_RANGE
        | libc::FALLOC_FL_UNSHARE_RANGE;
    const WITHOUT_SIZE: i32 = libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE;
    let (mode, start, length) = (call.int(1), call.long(2), call.long(3));
    let open = call.file(0)?;
    if start < 0 || length <= 0 {
        return Err(Errno::EINVAL);
    }
    if mode & !MODES != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    let operations = mode & !(libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_UNSHARE_RANGE);
    let keeps = mode & WITHOUT_SIZE != 0 && keep;
    if operations & (operations - 1).max(0) != 0 || (mode & libc::FALLOC_FL_PUNCH_HOLE != 0 && !keep) || keeps {
        return Err(Errno::EOPNOTSUPP);
    }
    if !open.writes() {
        return Err(Errno::EBADF);
    }
    match FileType::from_mode(open.attributes()?.mode)? {
        FileType::Fifo => return Err(Errno::ESPIPE),
        FileType::Directory => return Err(Errno::EISDIR),
        FileType::Regular => {}
        _ => return Err(Errno::ENODEV),
    }
    let end = start.checked_add(length).ok_or(Errno::EFBIG)? as u64;
    if !keep && operations == 0 && end > open.attributes()?.size && end > call.process.limits.read().file_size() {
        let _ = signal::send_to_thread(call.process.pid, call.thread.tid, libc::SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    open.file.allocate(mode, start as u64, length as u64)?;
    Ok(().into())
}

fn fadvise(call: &Call) -> Result<Outcome> {
    let open = call.file(0)?;
    if !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    if call.long(2) < 0 || !(0..=5).contains(&call.int(3)) {
        return Err(Errno::EINVAL);
    }
    Ok(().into())
}

fn readahead(call: &Call) -> Result<Outcome> {
    let open = call.file(0)?;
    if !open.reads() {
        return Err(Errno::EBADF);
    }
    if is_regular(&open) { Ok(().into()) } else { Err(Errno::EINVAL) }
}

fn sync_file_range(call: &Call) -> Result<Outcome> {
    let (start, length, flags) = (call.long(1), call.long(2), call.uint(3));
    let open = call.file(0)?;
    if flags & !7 != 0 || start < 0 || length < 0 || start.checked_add(length).is_none() {
        return Err(Errno::EINVAL);
    }
    if !is_regular(&open) && FileType::from_mode(open.attributes()?.mode)? != FileType::Directory {
        return Err(Errno::ESPIPE);
    }
    if flags != 0 {
        open.file.sync(true)?;
    }
    Ok(().into())
}

fn syncfs(call: &Call) -> Result<Outcome> {
    if let Some(location) = &call.file(0)?.location {
        location.node.sync_file_system()?;
    }
    Ok(().into())
}

/// sync(2): the file systems that the container has, not those of the host. It never fails.
fn sync(call: &Call) -> Result<Outcome> {
    let mut mounts = vec![call.process.container.mounts.root.clone()];
    while let Some(mount) = mounts.pop() {
        let _ = mount.root.sync_file_system();
        mounts.extend(mount.children.read().iter().cloned());
    }
    Ok(().into())
}
