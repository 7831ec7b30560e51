//! Copies from one file to another inside the kernel: sendfile(2), copy_file_range(2).

use std::sync::Arc;

use super::io::{LONG, is_regular, raise, room_within};
use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::fs::host::{self, identity};
use crate::kernel::park;
use crate::kernel::timer::Deadline;
use crate::kernel::wait::Ready;
use crate::platform::memory::{Address, MAX_TRANSFER};
use crate::vfs::file::{OpenFile, Position, Sink, Source};
use crate::vfs::node::FileType;

use Argument::{Descriptor, Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_sendfile, "sendfile", sendfile, &[Descriptor, Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_copy_file_range, "copy_file_range", copy_file_range, &[Descriptor, Pointer, Descriptor, Pointer, Number, Hex]),
];

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
    if let (Some(source), Some(target), Some(to_at)) = (from.file.host_data(), to.file.host_data(), to_at) {
        identity::assume(&crate::kernel::task::current_credentials());
        if let Some(moved) = host::copy_range(source, from_at, target, to_at, room)? {
            return Ok(moved);
        }
    }
    let mut bytes = Bytes { bytes: Vec::new(), at: 0, room: room.min(64 << 10) };
    from.file.read(from, &mut bytes, Position::At(from_at))?;
    if bytes.bytes.is_empty() {
        return Ok(0);
    }
    to.file.write(to, &mut bytes, Position::Current(to_at.unwrap_or(0)))
}

/// An offset in workload memory, where one is given.
fn stored(call: &Call, address: Address) -> Result<Option<i64>> {
    address.optional().map(|address| call.memory().read_value::<i64>(address)).transpose()
}

/// Puts an offset back where it came from: workload memory, or the description.
fn store(call: &Call, address: Address, open: &OpenFile, at: u64) -> Result<()> {
    match address.optional() {
        Some(address) => call.memory().write_value(address, &at),
        None => {
            *open.offset.lock() = at;
            Ok(())
        }
    }
}

/// sendfile(2), with the checks of do_sendfile() and of splice(2), which it is made of.
fn sendfile(call: &Call) -> Result<Outcome> {
    let from = call.file(1)?;
    if !from.reads() {
        return Err(Errno::EBADF);
    }
    let given = stored(call, call.address(2))?;
    if given.is_some() && !from.file.seekable() {
        return Err(Errno::ESPIPE);
    }
    let wanted = usize::try_from(call.long(3)).map_err(|_| Errno::EINVAL)?;
    let at = match given {
        Some(at) => u64::try_from(at).map_err(|_| Errno::EINVAL)?,
        None => *from.offset.lock(),
    };
    if at.checked_add(wanted as u64).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Errno::EINVAL);
    }
    let to = call.file(0)?;
    if !to.writes() {
        return Err(Errno::EBADF);
    }
    let directory = |open: &OpenFile| open.location.as_ref().is_some_and(|location| location.node.file_type() == FileType::Directory);
    let splices = from.file.seekable() && from.file.splices().0 && to.file.splices().1 && !directory(&from);
    if !splices || to.flags() & libc::O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    send(call, from, at, to, wanted.min(MAX_TRANSFER))
}

fn send(call: &Call, from: Arc<OpenFile>, mut at: u64, to: Arc<OpenFile>, mut wanted: usize) -> Result<Outcome> {
    let mut done = 0usize;
    if wanted > LONG {
        crate::platform::heed();
    }
    {
        let mut offset = if to.file.seekable() { Some(to.offset.lock()) } else { None };
        if let (Some(offset), true) = (&offset, wanted > 0 && is_regular(&to)) {
            wanted = wanted.min(room_within(call, **offset)?);
        }
        loop {
            if done == wanted {
                drop(offset);
                store(call, call.address(2), &from, at)?;
                return Ok(done.into());
            }
            match move_once(&from, at, &to, offset.as_deref().copied(), wanted - done) {
                Ok(0) => wanted = done,
                Ok(moved) => {
                    done += moved;
                    at += moved as u64;
                    if let Some(offset) = &mut offset {
                        **offset += moved as u64;
                    }
                }
                Err(Errno::EAGAIN) if !to.nonblocking() => break,
                Err(error) if done == 0 => return Err(raise(call, error)),
                Err(_) => wanted = done,
            }
        }
    }
    let Some(queue) = to.file.wait_queue().cloned() else { return Err(Errno::EAGAIN) };
    let call = call.clone();
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
        store(&call, call.address(2), &from, at)?;
        Ok(done.into())
    })))
}

/// copy_file_range(2), with the checks of generic_copy_file_checks() in their order.
fn copy_file_range(call: &Call) -> Result<Outcome> {
    let (from, to) = (call.file(0)?, call.file(2)?);
    let own = |open: &OpenFile| *open.offset.lock() as i64;
    let from_at = stored(call, call.address(1))?.unwrap_or_else(|| own(&from)) as u64;
    let to_at = stored(call, call.address(3))?.unwrap_or_else(|| own(&to)) as u64;
    if call.raw(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let (source, target) = (from.attributes()?, to.attributes()?);
    let kinds = [FileType::from_mode(source.mode)?, FileType::from_mode(target.mode)?];
    if kinds.contains(&FileType::Directory) {
        return Err(Errno::EISDIR);
    }
    if kinds != [FileType::Regular; 2] {
        return Err(Errno::EINVAL);
    }
    if !from.reads() || !to.writes() || to.flags() & libc::O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    if source.device != target.device {
        return Err(Errno::EXDEV);
    }
    let mut wanted = call.raw(4);
    if from_at.checked_add(wanted).is_none() || to_at.checked_add(wanted).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    if from_at > i64::MAX as u64 || to_at > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    wanted = wanted.min(source.size.saturating_sub(from_at)).min(MAX_TRANSFER as u64);
    if to_at == i64::MAX as u64 {
        return Err(Errno::EFBIG);
    }
    if wanted > 0 {
        wanted = wanted.min(room_within(call, to_at)? as u64);
    }
    if source.inode == target.inode && to_at + wanted > from_at && to_at < from_at + wanted {
        return Err(Errno::EINVAL);
    }
    if wanted > LONG as u64 {
        crate::platform::heed();
    }
    let mut done = 0;
    while done < wanted {
        match move_once(&from, from_at + done, &to, Some(to_at + done), (wanted - done) as usize) {
            Ok(0) => break,
            Ok(moved) => done += moved as u64,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    store(call, call.address(1), &from, from_at + done)?;
    store(call, call.address(3), &to, to_at + done)?;
    Ok(Outcome::Value(done as i64))
}
