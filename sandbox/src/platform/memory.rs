//! Workload memory: the only way in which this process reads or writes it.
//!
//! An [`Address`] is a number in a *workload's* address space and can not be dereferenced here. Reads copy once, into
//! memory of ours; every decision is made on that copy (design, invariant 2). Copies go by process_vm_readv(2) and
//! process_vm_writev(2), about 2 us a call, so what belongs together is read in one gather.

use std::mem::MaybeUninit;

use crate::errno::{Errno, Result};
use crate::kernel::task::Pid;
use crate::vfs::file::{Sink, Source};

/// An address in a workload's memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address(pub u64);

impl Address {
    /// The null pointer.
    pub const NULL: Address = Address(0);

    /// Whether it is null.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// `offset` bytes further; `EFAULT` past the end of the address space.
    pub fn offset(self, offset: u64) -> Result<Address> {
        self.0.checked_add(offset).map(Address).ok_or(Errno::EFAULT)
    }

    /// The address, or `None` for null: for optional arguments.
    pub fn optional(self) -> Option<Address> {
        if self.is_null() { None } else { Some(self) }
    }
}

/// Plain data that may be copied from and to workload memory.
///
/// # Safety
/// Every bit pattern is a valid value, and there is no padding (padding would hand bytes of this process to the workload).
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($kind:ty),* $(,)?) => { $(
        // SAFETY: an integer, or a C structure of integers without padding.
        unsafe impl Plain for $kind {}
    )* };
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, usize, isize);

// SAFETY: an array has the padding of its elements: none.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// The largest number of bytes one read or write moves, as Linux has it (`MAX_RW_COUNT`).
pub const MAX_TRANSFER: usize = 0x7fff_f000;
/// The most segments in one vector (`UIO_MAXIOV`).
pub const MAX_SEGMENTS: usize = 1024;
/// The first address that is not a user's on x86-64.
const USER_END: u64 = 0x7fff_ffff_f000;

/// The memory of one workload process, named by one of its threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    thread: Pid,
}

impl Memory {
    /// The memory that this thread runs in.
    pub fn of(thread: Pid) -> Memory {
        Memory { thread }
    }

    /// Fills `into` from workload memory. `EFAULT` unless all of it could be read.
    pub fn read(&self, from: Address, into: &mut [u8]) -> Result<()> {
        if into.is_empty() {
            return Ok(());
        }
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: from.0 as *mut libc::c_void, iov_len: into.len() };
        // SAFETY: `local` describes `into`, which this call alone holds; `remote` is another process's memory, which
        // can not alias ours. Needed: there is no safe wrapper that takes a bare address of another process.
        let moved = unsafe { libc::process_vm_readv(self.thread.0, &local, 1, &remote, 1, 0) };
        if moved == into.len() as isize { Ok(()) } else { Err(self.fault(moved)) }
    }

    /// Reads as much of `into` as is readable; gives the length. `EFAULT` where nothing is.
    pub fn read_some(&self, from: Address, into: &mut [u8]) -> Result<usize> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote = libc::iovec { iov_base: from.0 as *mut libc::c_void, iov_len: into.len() };
        // SAFETY: as in `read`.
        let moved = unsafe { libc::process_vm_readv(self.thread.0, &local, 1, &remote, 1, 0) };
        if moved > 0 { Ok(moved as usize) } else { Err(self.fault(moved)) }
    }

    /// Writes all of `bytes` to workload memory. `EFAULT` unless all could be written (a prefix may have been).
    pub fn write(&self, to: Address, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: to.0 as *mut libc::c_void, iov_len: bytes.len() };
        // SAFETY: `local` describes `bytes` and is only read; `remote` is another process's memory.
        let moved = unsafe { libc::process_vm_writev(self.thread.0, &local, 1, &remote, 1, 0) };
        if moved == bytes.len() as isize { Ok(()) } else { Err(self.fault(moved)) }
    }

    /// Reads one value.
    pub fn read_value<T: Plain>(&self, from: Address) -> Result<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the slice covers exactly `value`, which outlives it; zeroed bytes are initialised.
        let bytes = unsafe { std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
        self.read(from, bytes)?;
        // SAFETY: `T` is `Plain`: every bit pattern is a value.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes one value.
    pub fn write_value<T: Plain>(&self, to: Address, value: &T) -> Result<()> {
        // SAFETY: the slice covers exactly `value`; `T` is `Plain` and so has no padding to leak.
        let bytes = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) };
        self.write(to, bytes)
    }

    /// Reads `count` values that follow each other. The caller has bounded `count`.
    pub fn read_values<T: Plain>(&self, from: Address, count: usize) -> Result<Vec<T>> {
        let mut values: Vec<T> = Vec::with_capacity(count);
        let length = count.checked_mul(size_of::<T>()).ok_or(Errno::EINVAL)?;
        // SAFETY: the vector's spare capacity holds `count` values; it is zeroed first, so the slice is initialised.
        let bytes = unsafe {
            std::ptr::write_bytes(values.as_mut_ptr(), 0, count);
            std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), length)
        };
        self.read(from, bytes)?;
        // SAFETY: `count` plain values have been initialised.
        unsafe { values.set_len(count) };
        Ok(values)
    }

    /// Reads a string up to its NUL byte, without it. `ENAMETOOLONG` where there is none within `limit` bytes.
    pub fn read_string(&self, from: Address, limit: usize) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut at = from;
        while text.len() < limit {
            // Up to the page's end: the next page may not be there.
            let piece = (4096 - (at.0 & 4095) as usize).min(limit - text.len()).min(512.max(text.len()));
            let start = text.len();
            text.resize(start + piece, 0);
            let read = self.read_some(at, &mut text[start..])?;
            if let Some(end) = text[start..start + read].iter().position(|&byte| byte == 0) {
                text.truncate(start + end);
                return Ok(text);
            }
            if read < piece {
                return Err(Errno::EFAULT);
            }
            at = at.offset(read as u64)?;
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads a path: `ENAMETOOLONG` from 4096 bytes on (`PATH_MAX` counts the NUL).
    pub fn read_path(&self, from: Address) -> Result<Vec<u8>> {
        self.read_string(from, libc::PATH_MAX as usize)
    }

    /// Reads and checks an I/O vector (`struct iovec` array): `EINVAL` for too many segments or a negative length; the
    /// total is cut at [`MAX_TRANSFER`], as Linux cuts it.
    pub fn read_segments(&self, from: Address, count: u64) -> Result<Segments> {
        if count > MAX_SEGMENTS as u64 {
            return Err(Errno::EINVAL);
        }
        let raw: Vec<[u64; 2]> = self.read_values(from, count as usize)?;
        let mut list = Vec::with_capacity(raw.len());
        let mut total = 0usize;
        for [base, length] in raw {
            if length > isize::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            // Of several segments all of each must be a user's, whatever is cut off then; a single one is cut first (__import_iovec() and
            // __import_iovec_ubuf() in lib/iov_iter.c, Linux 6.4).
            let asked = if count == 1 { (length as usize).min(MAX_TRANSFER) } else { length as usize };
            Self::check_range(Address(base), asked)?;
            let length = (length as usize).min(MAX_TRANSFER - total);
            if length > 0 {
                list.push((Address(base), length));
                total += length;
            }
        }
        Ok(Segments { memory: *self, list, at: 0, within: 0, remaining: total })
    }

    /// One buffer as a vector, with the same limits. A length that would lead out of a user's memory is a fault before it is cut.
    pub fn segment(&self, base: Address, length: u64) -> Result<Segments> {
        let length = usize::try_from(length).map_err(|_| Errno::EFAULT)?;
        Self::check_range(base, length)?;
        let length = length.min(MAX_TRANSFER);
        let list = if length > 0 { vec![(base, length)] } else { Vec::new() };
        Ok(Segments { memory: *self, list, at: 0, within: 0, remaining: length })
    }

    fn check_range(base: Address, length: usize) -> Result<()> {
        match base.0.checked_add(length as u64) {
            Some(end) if end <= USER_END => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// process_vm_* gives `ESRCH` for a thread that is gone, and a short count for a fault in the middle.
    fn fault(&self, moved: isize) -> Errno {
        if moved < 0 && Errno::last() == Errno::ESRCH { Errno::ESRCH } else { Errno::EFAULT }
    }
}

/// Segments of workload memory, consumed from the front: the [`Sink`] of reads and the [`Source`] of writes.
#[derive(Clone, Debug)]
pub struct Segments {
    memory: Memory,
    list: Vec<(Address, usize)>,
    at: usize,
    within: usize,
    remaining: usize,
}

impl Segments {
    /// The same addresses in another process's memory.
    pub fn in_memory(mut self, memory: Memory) -> Segments {
        self.memory = memory;
        self
    }

    /// Where the next bytes go, and how many fit there without a gap.
    pub fn first(&self) -> Option<(Address, usize)> {
        let (base, length) = self.list.get(self.at)?;
        Some((base.offset(self.within as u64).ok()?, length - self.within))
    }

    /// The next pieces, `length` bytes in all, as remote vectors (bounded by what the host takes in one call).
    fn front(&self, length: usize) -> ([libc::iovec; 64], usize, usize) {
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 64];
        let (mut count, mut covered) = (0, 0);
        let (mut at, mut within) = (self.at, self.within);
        while covered < length && count < vectors.len() && at < self.list.len() {
            let (base, size) = self.list[at];
            let piece = (size - within).min(length - covered);
            vectors[count] = libc::iovec { iov_base: (base.0 + within as u64) as *mut libc::c_void, iov_len: piece };
            count += 1;
            covered += piece;
            at += 1;
            within = 0;
        }
        (vectors, count, covered)
    }

    /// Skips `length` bytes.
    pub fn advance(&mut self, mut length: usize) {
        length = length.min(self.remaining);
        self.remaining -= length;
        while length > 0 {
            let left = self.list[self.at].1 - self.within;
            if length < left {
                self.within += length;
                return;
            }
            length -= left;
            self.at += 1;
            self.within = 0;
        }
    }
}

impl Sink for Segments {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (vectors, count, covered) = self.front(bytes.len());
            if covered == 0 {
                return Err(Errno::EFAULT);
            }
            let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: covered };
            // SAFETY: `local` lies within `bytes` and is only read; the remote vectors are another process's memory.
            let moved = unsafe { libc::process_vm_writev(self.memory.thread.0, &local, 1, vectors.as_ptr(), count as u64, 0) };
            if moved <= 0 {
                return Err(self.memory.fault(moved));
            }
            self.advance(moved as usize);
            bytes = &bytes[moved as usize..];
        }
        Ok(())
    }
}

impl Source for Segments {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        let wanted = buffer.len().min(self.remaining);
        while done < wanted {
            let (vectors, count, covered) = self.front(wanted - done);
            let local = libc::iovec { iov_base: buffer[done..].as_mut_ptr().cast(), iov_len: covered };
            // SAFETY: `local` lies within `buffer`, which this call alone holds; the remote vectors are another
            // process's memory.
            let moved = unsafe { libc::process_vm_readv(self.memory.thread.0, &local, 1, vectors.as_ptr(), count as u64, 0) };
            if moved <= 0 {
                // A fault after some bytes: Linux moves what it could.
                return if done > 0 { Ok(done) } else { Err(self.memory.fault(moved)) };
            }
            self.advance(moved as usize);
            done += moved as usize;
        }
        Ok(done)
    }

    fn give_back(&mut self, mut length: usize) {
        self.remaining += length;
        while length > self.within {
            length -= self.within;
            if self.at == 0 {
                // More than was taken: a mistake of the taker's, which must not run into other memory.
                self.remaining -= length;
                length = 0;
                self.within = 0;
                break;
            }
            self.at -= 1;
            self.within = self.list[self.at].1;
        }
        self.within -= length;
    }
}
