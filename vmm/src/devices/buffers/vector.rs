//! Scattered input and output (readv(2)) between guest memory and the host's descriptors, without a copy between.
//!
//! All `unsafe` of the block and network devices' data paths is here.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, iovec};

use super::Buffers;

/// `UIO_MAXIOV` of the kernel, `IOV_MAX` in readv(2): how many pieces one call may have.
const MOST: usize = 1024;

/// An error for a call's -1, else its count.
fn count(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl Buffers<'_> {
    /// Fills the buffers from `file` at `offset`.
    ///
    /// # Errors
    /// The host's; the file ends too early.
    pub fn read_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.all(offset, io::ErrorKind::UnexpectedEof, |pieces, length, offset| {
            // SAFETY: `pieces` points to `length` iovecs, each of which is a slice of guest memory: mapped and writable for as long as `self` lives,
            // which borrows from the mapping. The kernel writes to them alone. No Rust reference to guest memory exists, so none is aliased; that a
            // virtual processor writes there too is what guest memory is for. Needed because no safe interface takes more than one volatile slice.
            unsafe { libc::preadv(file.as_raw_fd(), pieces, length, offset) }
        })
    }

    /// Writes the buffers to `file` at `offset`.
    ///
    /// # Errors
    /// The host's.
    pub fn write_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.all(offset, io::ErrorKind::WriteZero, |pieces, length, offset| {
            // SAFETY: as in `read_at`; the kernel only reads from the slices, each byte as it finds it.
            unsafe { libc::pwritev(file.as_raw_fd(), pieces, length, offset) }
        })
    }

    /// Repeats `call` until it has dealt with every byte.
    fn all(&self, offset: u64, short: io::ErrorKind, call: impl Fn(*const iovec, c_int, i64) -> isize) -> io::Result<()> {
        let mut pieces = self.pieces();
        let mut rest = pieces.as_mut_slice();
        let mut offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        while !rest.is_empty() {
            let length = rest.len().min(MOST);
            let done = match count(call(rest.as_ptr(), length as c_int, offset)) {
                Ok(0) => return Err(short.into()),
                Ok(done) => done,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            offset = offset.checked_add_unsigned(done as u64).ok_or(io::ErrorKind::InvalidInput)?;
            rest = advance(rest, done);
        }
        Ok(())
    }

    /// Receives one packet: its first bytes into `head`, the next into the buffers, what there is no room for into `tail`. Returns its length.
    ///
    /// # Errors
    /// The host's: `WouldBlock` if there is none. More than about a thousand buffers are `InvalidInput`.
    pub fn receive(&self, packets: BorrowedFd<'_>, head: &mut [u8], tail: &mut [u8]) -> io::Result<usize> {
        if self.slices().len() > MOST - 2 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut pieces = Vec::with_capacity(self.slices().len() + 2);
        pieces.push(iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() });
        pieces.extend(self.pieces());
        pieces.push(iovec { iov_base: tail.as_mut_ptr().cast(), iov_len: tail.len() });
        // SAFETY: as in `read_at` for the pieces in the middle; the first and the last are ours, borrowed exclusively for the length of the call.
        count(unsafe { libc::readv(packets.as_raw_fd(), pieces.as_ptr(), pieces.len() as c_int) })
    }

    /// Sends one packet: `head`, then the buffers. Returns how much of it was sent.
    ///
    /// # Errors
    /// The host's: `WouldBlock` if there is no room. More than about a thousand buffers are `InvalidInput`.
    pub fn send(&self, packets: BorrowedFd<'_>, head: &[u8]) -> io::Result<usize> {
        if self.slices().len() >= MOST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut pieces = Vec::with_capacity(self.slices().len() + 1);
        pieces.push(iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() });
        pieces.extend(self.pieces());
        // SAFETY: as in `write_at`; the first piece is ours, borrowed for the length of the call, and only read in spite of its type.
        count(unsafe { libc::writev(packets.as_raw_fd(), pieces.as_ptr(), pieces.len() as c_int) })
    }

    fn pieces(&self) -> Vec<iovec> {
        self.slices().iter().map(|slice| iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() }).collect()
    }
}

/// What is left of `pieces` after `done` bytes, which are no more than their sum.
fn advance(mut pieces: &mut [iovec], mut done: usize) -> &mut [iovec] {
    while let Some(first) = pieces.first_mut() {
        if done < first.iov_len {
            first.iov_base = first.iov_base.wrapping_byte_add(done);
            first.iov_len -= done;
            break;
        }
        done -= first.iov_len;
        pieces = &mut pieces[1..];
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

    #[test]
    fn thousands_of_pieces_are_read_and_written_in_order() {
        let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let mut buffers = Buffers::default();
        for index in 0..3000 {
            buffers.push(memory.get_slice(GuestAddress(index * 16), 5).unwrap());
        }
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..15010u32).map(|index| (index % 251) as u8).collect();
        file.write_all_at(&bytes, 0).unwrap();
        buffers.read_at(file.as_fd(), 10).unwrap();
        assert_eq!(memory.read_obj::<[u8; 5]>(GuestAddress(2999 * 16)).unwrap(), bytes[15005..]);
        assert_eq!(buffers.read_at(file.as_fd(), 11).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        file.set_len(0).unwrap();
        buffers.read_at(file.as_fd(), 0).unwrap_err();
        buffers.copy_from(&bytes);
        buffers.write_at(file.as_fd(), 0).unwrap();
        let mut written = Vec::new();
        file.read_to_end(&mut written).unwrap();
        assert_eq!(written, bytes[..15000]);
        assert!(buffers.write_at(file.as_fd(), u64::MAX).is_err());
    }

    #[test]
    fn a_short_count_goes_on_in_the_middle_of_a_piece() {
        let mut bytes = [0u8; 30];
        let base = bytes.as_mut_ptr();
        let mut pieces: Vec<iovec> = (0..3).map(|index| iovec { iov_base: base.wrapping_add(index * 10).cast(), iov_len: 10 }).collect();
        let rest = advance(&mut pieces, 13);
        assert_eq!((rest.len(), rest[0].iov_len, rest[0].iov_base), (2, 7, base.wrapping_add(13).cast()));
        assert!(advance(rest, 17).is_empty());
    }
}
