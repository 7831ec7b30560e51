//! Reading and writing: read(2), write(2) and their forms, lseek(2), sendfile(2), copy_file_range(2), fsync(2), fallocate(2).
//!
//! Every form ends in [`read`] or [`write`]: one attempt at once, and, where a blocking description has nothing, a parked call that tries again
//! when the object's wait queue says so.

use std::sync::Arc;

use super::{Argument, Call, Entry, Outcome, message};
use crate::errno::{Errno, Result};
use crate::fs::eventfd::EventFile;
use crate::kernel::park;
use crate::kernel::signal;
use crate::kernel::timer::Deadline;
use crate::kernel::wait::Ready;
use crate::net::socket::Socket;
use crate::platform::memory::{Address, Segments};
use crate::vfs::file::{OpenFile, Position, Sink, Source};

use Argument::{Descriptor, Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(
        libc::SYS_read,
        "read",
        |call| read(call, call.memory().segment(call.address(1), call.raw(2))?, None),
        &[Descriptor, Pointer, Number],
    ),
    Entry::new(
        libc::SYS_write,
        "write",
        |call| write(call, call.memory().segment(call.address(1), call.raw(2))?, None, 0),
        &[Descriptor, Pointer, Number],
    ),
    Entry::new(
        libc::SYS_pread64,
        "pread64",
        |call| read(call, call.memory().segment(call.address(1), call.raw(2))?, Some(offset(call, 3)?)),
        &[Descriptor, Pointer, Number, Number],
    ),
    Entry::new(
        libc::SYS_pwrite64,
        "pwrite64",
        |call| write(call, call.memory().segment(call.address(1), call.raw(2))?, Some(offset(call, 3)?), 0),
        &[Descriptor, Pointer, Number, Number],
    ),
    Entry::new(libc::SYS_readv, "readv", |call| read(call, segments(call)?, None), &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_writev, "writev", |call| write(call, segments(call)?, None, 0), &[Descriptor, Pointer, Number]),
    Entry::new(
        libc::SYS_preadv,
        "preadv",
        |call| read(call, segments(call)?, Some(offset(call, 3)?)),
        &[Descriptor, Pointer, Number, Number],
    ),
    Entry::new(
        libc::SYS_pwritev,
        "pwritev",
        |call| write(call, segments(call)?, Some(offset(call, 3)?), 0),
        &[Descriptor, Pointer, Number, Number],
    ),
    Entry::new(libc::SYS_preadv2, "preadv2", preadv2, &[Descriptor, Pointer, Number, Number, Number, Hex]),
    Entry::new(libc::SYS_pwritev2, "pwritev2", pwritev2, &[Descriptor, Pointer, Number, Number, Number, Hex]),
    Entry::new(libc::SYS_lseek, "lseek", lseek, &[Descriptor, Number, Number]),
    Entry::new(libc::SYS_sendfile, "sendfile", sendfile, &[Descriptor, Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_copy_file_range, "copy_file_range", copy_file_range, &[Descriptor, Pointer, Descriptor, Pointer, Number, Hex]),
    Entry::new(libc::SYS_fsync, "fsync", |call| Ok(call.file(0)?.file.sync(false)?.into()), &[Descriptor]).blocking(),
    Entry::new(libc::SYS_fdatasync, "fdatasync", |call| Ok(call.file(0)?.file.sync(true)?.into()), &[Descriptor]).blocking(),
    Entry::new(libc::SYS_sync_file_range, "sync_file_range", |call| Ok(call.file(0)?.file.sync(true)?.into()), &[Descriptor]).blocking(),
    Entry::new(libc::SYS_syncfs, "syncfs", |call| call.file(0).map(|_| ().into()), &[Descriptor]),
    Entry::new(libc::SYS_sync, "sync", |_| Ok(().into()), &[]),
    Entry::new(libc::SYS_fallocate, "fallocate", fallocate, &[Descriptor, Hex, Number, Number]),
    Entry::new(libc::SYS_fadvise64, "fadvise64", fadvise, &[Descriptor, Number, Number, Number]),
    Entry::new(libc::SYS_readahead, "readahead", |call| call.file(0).map(|_| ().into()), &[Descriptor, Number, Number]),
];

fn offset(call: &Call, index: usize) -> Result<u64> {
    u64::try_from(call.long(index)).map_err(|_| Errno::EINVAL)
}

fn segments(call: &Call) -> Result<Segments> {
    // The descriptor is looked at first, as Linux does.
    call.file(0)?;
    call.memory().read_segments(call.address(1), call.raw(2))
}

/// The offset -1 of preadv2 and pwritev2: the description's own.
fn optional_offset(call: &Call) -> Result<Option<u64>> {
    if call.long(3) == -1 { Ok(None) } else { offset(call, 3).map(Some) }
}

fn preadv2(call: &Call) -> Result<Outcome> {
    // RWF_HIPRI, RWF_DSYNC, RWF_SYNC, RWF_NOWAIT: reads here never wait for long.
    if call.uint(5) & !0xf != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    read(call, segments(call)?, optional_offset(call)?)
}

fn pwritev2(call: &Call) -> Result<Outcome> {
    if call.uint(5) & !0x1f != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    write(call, segments(call)?, optional_offset(call)?, call.uint(5))
}

fn read(call: &Call, into: Segments, at: Option<u64>) -> Result<Outcome> {
    let open = call.file(0)?;
    read_open(call, open, into, at)
}

/// Reads from an open file on a caller's behalf.
pub fn read_open(call: &Call, open: Arc<OpenFile>, mut into: Segments, at: Option<u64>) -> Result<Outcome> {
    if !open.reads() {
        return Err(Errno::EBADF);
    }
    if at.is_some() && !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    if Socket::of(&open).is_ok() {
        return message::read(call, &open, into);
    }
    match read_once(&open, &mut into, at) {
        Err(Errno::EAGAIN) if !open.nonblocking() => {}
        result => return result.map(Outcome::from),
    }
    let Some(queue) = open.file.wait_queue().cloned() else { return Err(Errno::EAGAIN) };
    Ok(Outcome::Park(Box::pin(async move {
        park::retry(&queue, Ready::READABLE | Ready::RDHUP, Deadline::Never, || read_once(&open, &mut into, at)).await.map(Outcome::from)
    })))
}

fn read_once(open: &OpenFile, into: &mut dyn Sink, at: Option<u64>) -> Result<usize> {
    if let Some(at) = at {
        return open.file.read(open, into, Position::At(at));
    }
    if !open.file.seekable() {
        return open.file.read(open, into, Position::Current(0));
    }
    let mut offset = open.offset.lock();
    let read = open.file.read(open, into, Position::Current(*offset))?;
    *offset += read as u64;
    Ok(read)
}

/// `RWF_APPEND`.
const APPEND: u32 = 0x10;

fn write(call: &Call, from: Segments, at: Option<u64>, flags: u32) -> Result<Outcome> {
    let open = call.file(0)?;
    write_open(call, open, from, at, flags)
}

/// Writes to an open file on a caller's behalf; all of it, where the description blocks.
pub fn write_open(call: &Call, open: Arc<OpenFile>, mut from: Segments, at: Option<u64>, flags: u32) -> Result<Outcome> {
    if !open.writes() {
        return Err(Errno::EBADF);
    }
    if at.is_some() && !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    if Socket::of(&open).is_ok() {
        return message::write(call, &open, from);
    }
    if open.file.as_any().is::<EventFile>() {
        return write_event(open, &mut from);
    }
    let mut done = 0;
    let first = write_once(call, &open, &mut from, at, flags);
    match first {
        Ok(written) => {
            done += written;
            if Source::remaining(&from) == 0 || open.file.seekable() || open.nonblocking() {
                return Ok(done.into());
            }
        }
        Err(Errno::EAGAIN) if !open.nonblocking() => {}
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
fn raise(call: &Call, error: Errno) -> Errno {
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
        // pwrite(2) on an O_APPEND description appends all the same.
        check_size(call, at)?;
        return open.file.write(open, from, if append { Position::End } else { Position::At(at) });
    }
    let mut offset = open.offset.lock();
    if append {
        let written = open.file.write(open, from, Position::End)?;
        *offset = open.file.end()?;
        return Ok(written);
    }
    check_size(call, *offset)?;
    let written = open.file.write(open, from, Position::Current(*offset))?;
    *offset += written as u64;
    Ok(written)
}

/// `RLIMIT_FSIZE`: nothing may begin past it.
fn check_size(call: &Call, at: u64) -> Result<()> {
    let limit = call.process.limits.read().file_size();
    if limit != u64::MAX && at >= limit {
        let _ = signal::send_to_thread(call.process.pid, call.thread.tid, libc::SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    Ok(())
}

fn lseek(call: &Call) -> Result<Outcome> {
    let open = call.file(0)?;
    if !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    let mut offset = open.offset.lock();
    let to = open.file.seek(&open, *offset, call.long(1), call.int(2))?;
    *offset = to;
    Ok(Outcome::Value(to as i64))
}

/// A buffer of ours between two files.
struct Bytes {
    bytes: Vec<u8>,
    at: usize,
    room: usize,
}

impl Sink for Bytes {
    fn remaining(&self) -> usize {
        self.room - self.bytes.len()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl Source for Bytes {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = buffer.len().min(Source::remaining(self));
        buffer[..length].copy_from_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Moves up to `room` bytes from one place to another; gives how many arrived. What was read and did not fit is not lost, since the caller
/// only counts what arrived.
fn move_once(from: &OpenFile, from_at: u64, to: &OpenFile, to_at: Option<u64>, room: usize) -> Result<usize> {
    let mut bytes = Bytes { bytes: Vec::new(), at: 0, room: room.min(64 << 10) };
    from.file.read(from, &mut bytes, Position::At(from_at))?;
    if bytes.bytes.is_empty() {
        return Ok(0);
    }
    to.file.write(to, &mut bytes, Position::Current(to_at.unwrap_or(0)))
}

fn sendfile(call: &Call) -> Result<Outcome> {
    let (to, from) = (call.file(0)?, call.file(1)?);
    if !to.writes() || !from.reads() {
        return Err(Errno::EBADF);
    }
    if !from.file.seekable() || to.flags() & libc::O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    let stored: Option<u64> = match call.address(2).optional() {
        None => None,
        Some(address) => Some(u64::try_from(call.memory().read_value::<i64>(address)?).map_err(|_| Errno::EINVAL)?),
    };
    let mut at = stored.unwrap_or_else(|| *from.offset.lock());
    let wanted = (call.raw(3) as usize).min(crate::platform::memory::MAX_TRANSFER);
    let call = call.clone();
    let mut done = 0usize;
    let conclude = move |call: &Call, from: &OpenFile, at: u64, done: usize| -> Result<Outcome> {
        match call.address(2).optional() {
            Some(address) => call.memory().write_value(address, &at)?,
            None => *from.offset.lock() = at,
        }
        Ok(done.into())
    };
    loop {
        let mut to_offset = if to.file.seekable() { Some(to.offset.lock()) } else { None };
        if done == wanted {
            drop(to_offset);
            return conclude(&call, &from, at, done);
        }
        let moved = move_once(&from, at, &to, to_offset.as_deref().copied(), wanted - done);
        match moved {
            Ok(0) => {
                drop(to_offset);
                return conclude(&call, &from, at, done);
            }
            Ok(moved) => {
                done += moved;
                at += moved as u64;
                if let Some(offset) = &mut to_offset {
                    **offset += moved as u64;
                }
            }
            Err(Errno::EAGAIN) if !to.nonblocking() => break,
            Err(error) => {
                drop(to_offset);
                return if done > 0 { conclude(&call, &from, at, done) } else { Err(raise(&call, error)) };
            }
        }
    }
    let Some(queue) = to.file.wait_queue().cloned() else { return Err(Errno::EAGAIN) };
    Ok(Outcome::Park(Box::pin(async move {
        while done < wanted {
            match park::retry(&queue, Ready::WRITABLE, Deadline::Never, || move_once(&from, at, &to, None, wanted - done)).await {
                Ok(0) => break,
                Ok(moved) => {
                    done += moved;
                    at += moved as u64;
                }
                Err(error) if done == 0 => return Err(raise(&call, error)),
                Err(_) => break,
            }
        }
        conclude(&call, &from, at, done)
    })))
}

fn copy_file_range(call: &Call) -> Result<Outcome> {
    let (from, to) = (call.file(0)?, call.file(2)?);
    if !from.reads() || !to.writes() || to.flags() & libc::O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    if call.raw(5) != 0 || !from.file.seekable() || !to.file.seekable() {
        return Err(Errno::EINVAL);
    }
    let read_offset = |address: Address| -> Result<Option<u64>> {
        match address.optional() {
            None => Ok(None),
            Some(address) => Ok(Some(u64::try_from(call.memory().read_value::<i64>(address)?).map_err(|_| Errno::EINVAL)?)),
        }
    };
    let (from_given, to_given) = (read_offset(call.address(1))?, read_offset(call.address(3))?);
    let mut from_at = from_given.unwrap_or_else(|| *from.offset.lock());
    let mut to_at = to_given.unwrap_or_else(|| *to.offset.lock());
    let wanted = (call.raw(4) as usize).min(crate::platform::memory::MAX_TRANSFER);
    let mut done = 0;
    while done < wanted {
        match move_once(&from, from_at, &to, Some(to_at), wanted - done) {
            Ok(0) => break,
            Ok(moved) => {
                done += moved;
                from_at += moved as u64;
                to_at += moved as u64;
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    match call.address(1).optional() {
        Some(address) => call.memory().write_value(address, &from_at)?,
        None => *from.offset.lock() = from_at,
    }
    match call.address(3).optional() {
        Some(address) => call.memory().write_value(address, &to_at)?,
        None => *to.offset.lock() = to_at,
    }
    Ok(done.into())
}

fn fallocate(call: &Call) -> Result<Outcome> {
    let (start, length) = (call.long(2), call.long(3));
    let open = call.file(0)?;
    if start < 0 || length <= 0 {
        return Err(Errno::EINVAL);
    }
    if !open.writes() {
        return Err(Errno::EBADF);
    }
    if !open.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    open.file.allocate(call.int(1), start as u64, length as u64)?;
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
