//! A source of random numbers: virtio-rng (virtio 1.3, section 5.4).
//!
//! The driver hands over empty buffers, the device fills them from the host's own generator. There is nothing to configure and nothing to
//! read.
//!
//! The generator is `getrandom(2)`, not `/dev/urandom`: it needs no descriptor and no file in the jail. Once the host's pool is
//! initialised, which is long before a guest starts, it neither blocks nor fails for requests of this size.
//!
//! A guest may ask for as much as it likes, but each buffer gets [`LONGEST`] bytes at most, and [`super::drain`] bounds the buffers of one
//! kick: the host spends no more than a few milliseconds before the loop's other workers have their turn.

mod device;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Random;

/// The most bytes that one buffer gets. The driver of Linux asks for 64 at a time, and takes any shorter answer.
const LONGEST: usize = 4096;
