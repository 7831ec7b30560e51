//! What objects without a file system have in common: inode numbers and attributes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::node::{Attributes, Timestamp};

/// The device number that stat(2) shows for pipes, sockets and other anonymous inodes.
const DEVICE: u64 = 0xd;

/// A number for a new object.
pub fn next_inode() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(10_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The attributes of an object with this number and mode.
pub fn attributes(inode: u64, mode: u32, block_size: u32) -> Attributes {
    let now = Timestamp::now();
    Attributes {
        device: DEVICE,
        inode,
        mode,
        links: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        block_size,
        blocks: 0,
        accessed: now,
        modified: now,
        changed: now,
        born: None,
    }
}
