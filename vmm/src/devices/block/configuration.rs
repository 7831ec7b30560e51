//! Features and configuration space (virtio 1.3, sections 5.2.3 and 5.2.4).

use super::disk::Image;
use crate::devices::device::EVENT_IDX;

/// What capacity and positions are counted in, whatever the block size (5.2.4).
pub const SECTOR: u64 = 512;
/// The largest queue.
pub const QUEUE_SIZE: u16 = 256;

/// `VIRTIO_BLK_F_SEG_MAX`: configuration space says how many buffers a request may have.
pub const SEG_MAX: u64 = 1 << 2;
/// `VIRTIO_BLK_F_RO`: the disk is read-only.
pub const READ_ONLY: u64 = 1 << 5;
/// `VIRTIO_BLK_F_BLK_SIZE`: configuration space has the block size.
pub const BLK_SIZE: u64 = 1 << 6;
/// `VIRTIO_BLK_F_FLUSH`: there is a cache, and a command to flush it.
pub const FLUSH: u64 = 1 << 9;
/// `VIRTIO_BLK_F_TOPOLOGY`: configuration space says which sizes are good ones.
pub const TOPOLOGY: u64 = 1 << 10;
/// `VIRTIO_BLK_F_DISCARD`.
pub const DISCARD: u64 = 1 << 13;
/// `VIRTIO_BLK_F_WRITE_ZEROES`.
pub const WRITE_ZEROES: u64 = 1 << 14;

/// The most ranges that one discard or write of zeroes may name: each is a call on the host.
pub const MAX_RANGES: usize = 16;
/// The most sectors in a range to discard: 2 GiB. A hole of that size is punched at once on every file system that can.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// The most sectors in a range to zero: 64 MiB, which a host that can't do better writes in the time of a slow request.
pub const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 17;
/// What file systems allocate in, and disks write in: the unit that pays.
const GOOD_SIZE: u32 = 4096;

/// What a disk offers.
///
/// Not `CONFIG_WCE`: the cache is the host's, and turning it off would be a flush after each write. A driver that doesn't accept `FLUSH` gets just that (5.2.5).
/// Not `MQ`: one disk, one loop, one queue.
pub fn features(read_only: bool) -> u64 {
    let always = SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY | EVENT_IDX;
    if read_only { always | READ_ONLY } else { always | DISCARD | WRITE_ZEROES }
}

/// `struct virtio_blk_config` for a disk, up to and including `write_zeroes_may_unmap` and its padding.
pub fn space(image: Option<&Image>) -> [u8; 60] {
    let capacity = image.map_or(0, Image::sectors);
    let block = image.map_or(SECTOR as u32, Image::block_size);
    let blocks = (GOOD_SIZE / block).max(1);
    let mut space = [0; 60];
    let mut put = |offset: usize, bytes: &[u8]| space[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &capacity.to_le_bytes());
    // All descriptors of a chain but the header's and the status's.
    put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
    put(20, &block.to_le_bytes());
    put(24, &[blocks.ilog2() as u8]);
    put(26, &(blocks as u16).to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &(MAX_RANGES as u32).to_le_bytes());
    put(44, &(block.max(GOOD_SIZE) / SECTOR as u32).to_le_bytes());
    put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
    put(52, &(MAX_RANGES as u32).to_le_bytes());
    put(56, &[1]);
    space
}
