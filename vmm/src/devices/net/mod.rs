//! A network card (virtio 1.3, section 5.1) on a tap device (tuntap.rst in the kernel's documentation).
//!
//! The tap is a cable: what the guest sends is what the tap's interface receives. Packets go directly between the tap and guest memory (readv(2), writev(2));
//! a packet may be as large as IP allows (64 KiB), cut into segments or checksummed only where somebody needs it, as the header in front of it says.
//!
//! That header ([`header`]) is the one part of a packet that the host's kernel takes the guest's word for, so the guest's own never reaches it: it is copied
//! once, checked against the packet's length and the features that were negotiated, and the host is given a new one of 12 bytes from our memory.
//!
//! Rooms: [`device`] the front, [`worker`] the loop's half, [`receive`] and [`transmit`] one direction each, [`link`] the tap.
//!
//! One pair of queues serves one tap queue on one event loop. A second pair would be: a second descriptor of the same tap (`IFF_MULTI_QUEUE`), a second
//! [`worker::Worker`] on it, on a loop of its own, and `VIRTIO_NET_F_MQ` with a control queue behind the last pair (5.1.6.5.6), whose one command says how
//! many pairs are in use. Workers share nothing but the limiters, which are locked already. Neither feature is offered until both are true.
//!
//! Not offered either: `UFO`, which Linux took out (4.14), and `STATUS`: the link is up while the card exists.
pub mod configuration;
pub mod device;
pub mod header;
pub mod link;
pub mod receive;
#[cfg(test)]
mod tests;
pub mod transmit;
pub mod worker;

pub use configuration::Limits;
pub use device::Net;
