//! A console that only speaks: virtio-console (virtio 1.3, section 5.3), one port, for the guest's log.
//!
//! What the guest transmits goes to a [`std::io::Write`]. Nothing is ever received: the receive queue is there because the specification
//! wants it, and its buffers are left alone. Neither size nor further ports are offered, so that configuration space is empty.
//!
//! **A slow output costs the guest its log, not the loop its time.** The output is expected not to block: a file, memory, or a pipe with
//! `O_NONBLOCK`. What it does not take at once is lost, as on a serial line without flow control. The loss is not silent: the next bytes
//! that arrive are preceded by a line that says how many are missing.
//!
//! A guest may put 4 GiB into a single chain. Of each no more than [`LONGEST`] bytes are taken; the rest counts as lost. Linux' driver
//! sends a line or a page at a time.

mod device;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Console;

/// The most bytes that are taken from one chain.
const LONGEST: usize = 64 << 10;
