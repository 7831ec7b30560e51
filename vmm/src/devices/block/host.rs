//! Kernel calls on disks that have no safe wrapper. All `unsafe` of the block device, [`crate::devices::buffers::vector`] aside.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

mod raw {
    // linux/fs.h.
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), libc::c_int);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkzeroout, nix::request_code_none!(0x12, 127), [u64; 2]);
}

/// The logical block size of a block device, in bytes (`BLKSSZGET`).
pub fn block_size(device: &File) -> io::Result<u32> {
    let mut size = 0;
    // SAFETY: the request writes one int, to one that is ours and lives through the call. Needed: there is no safe wrapper for it.
    unsafe { raw::blksszget(device.as_raw_fd(), &raw mut size) }?;
    u32::try_from(size).map_err(io::Error::other)
}

/// Discards a range of bytes of a block device (`BLKDISCARD`).
pub fn discard(device: &File, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: the request reads two 64-bit numbers, from an array that lives through the call. Needed: there is no safe wrapper for it.
    unsafe { raw::blkdiscard(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// Zeroes a range of bytes of a block device (`BLKZEROOUT`).
pub fn zero(device: &File, offset: u64, length: u64) -> io::Result<()> {
    let range = [offset, length];
    // SAFETY: as in `discard`.
    unsafe { raw::blkzeroout(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// What buffers and offsets of `O_DIRECT` have to be multiples of for a regular file (statx(2), `STATX_DIOALIGN`, since 6.1). Nothing if the kernel or the
/// file system doesn't say.
pub fn direct_alignment(file: &File) -> Option<u32> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is a string that ends; the kernel writes no more than a `struct statx` to one that is ours. Needed: std and nix have no statx.
    let result = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, answer.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: a struct of integers, of which zeros are values, and which the kernel has filled.
    let answer = unsafe { answer.assume_init() };
    let alignment = answer.stx_dio_offset_align.max(answer.stx_dio_mem_align);
    (answer.stx_mask & libc::STATX_DIOALIGN != 0 && answer.stx_dio_offset_align != 0 && alignment.is_power_of_two()).then_some(alignment)
}
