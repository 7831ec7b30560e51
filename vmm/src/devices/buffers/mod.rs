//! A request's buffers in guest memory, for devices that hand them to the host's kernel as they are.
//!
//! A driver describes a request as a chain of descriptors. [`Chain::read`] walks it once and yields what it found to lie in guest memory, as slices that
//! borrow from that memory; from then on descriptors are not read again. What the slices *point to* can change at any time, so a header is copied out
//! ([`Buffers::copy_to`]) and judged in the copy, and data goes between guest memory and a descriptor of the host's without anybody having looked at it
//! ([`vector`], where the `unsafe` is).
//!
//! [`serve`] takes chains off a queue and gives them back; [`used`] gives several back at once.
pub mod chain;
#[cfg(test)]
pub mod driver;
pub mod serve;
pub mod used;
pub mod vector;

pub use chain::{Buffers, Chain, ChainError};
