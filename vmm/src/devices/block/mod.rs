//! A disk (virtio 1.3, section 5.2).
//!
//! The guest's disk is a raw file or a block device of the host's, read and written synchronously on an event loop that the disk has for itself: a virtual
//! processor never waits for it, nor does another device. Data goes directly between the file and guest memory (preadv(2), pwritev(2)); only where the
//! file was opened with `O_DIRECT` and the guest's buffers don't meet its alignment is there a copy ([`bounce`]).
//!
//! What a guest can't do, whatever it asks: touch a byte beyond the disk's capacity ([`disk::Extent`] is the only way to name one, and only the disk makes
//! it); write to a read-only disk (the host refuses, and so does the descriptor where it is read-only too); have more than one request of memory allocated.
//!
//! The disk may be absent (capacity 0) and may be replaced while the guest runs ([`Handle::replace`]): the driver gets a configuration interrupt and reads
//! the new capacity. Block size and features stay what they were when the driver started; a new disk with a coarser alignment is served with copies.
//!
//! Rooms: [`device`] the front, [`worker`] the loop's half, [`request`] what a chain says, [`disk`] what becomes of it, [`configuration`] the constants,
//! `host` kernel calls without a safe wrapper.
//!
//! Lock order: `backend`, then `configuration`. A processor that reads configuration space takes the second alone, and so never waits for the disk.
pub mod bounce;
pub mod configuration;
pub mod device;
pub mod disk;
mod host;
pub mod request;
#[cfg(test)]
mod tests;
pub mod worker;

pub use device::{Block, Handle};
pub use disk::Disk;
