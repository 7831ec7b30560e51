//! Memory that the guest gives back (virtio 1.3, section 5.5).
//!
//! Two ways, both of which end in madvise(2):
//!
//! - *inflating*: the host says how much it wants ([`Handle::set_target`]); the driver allocates pages, so that nobody in the guest uses them, and names
//!   them by their frame numbers. Deflating needs no work: a page that the guest touches again is a fresh one. The driver deflates by itself before its
//!   guest runs out of memory (`DEFLATE_ON_OOM`).
//! - *reporting*: the driver offers the ranges of free memory that it has at any time, unasked; they are free again for the guest when the host has let go.
//!   This is what returns to the host what a workload has freed, without a decision of anybody's.
//!
//! What is let go reads as zeros afterwards, or, where guest memory is a private mapping of a file (a snapshot), as that file: content that this guest has
//! had before. A guest that needs a certain pattern in free pages (page poisoning) doesn't report: `PAGE_POISON` isn't offered.
//!
//! A guest can name any page of its memory, its rings too, and lose it: that is its own affair. What it can't is name anything else ([`discard`]).
pub mod device;
pub mod discard;
pub mod frames;
#[cfg(test)]
mod tests;
pub mod worker;

pub use device::{Balloon, Handle};
