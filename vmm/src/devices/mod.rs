//! The guest's devices.
//!
//! What the guest sees of a device is a page of registers (virtio-mmio); what a device does is behind [`device::Device`]. A device has two halves:
//!
//! - the *front*, which answers for features and configuration space. Virtual processors call it, one at a time, when the guest touches a register;
//! - the *worker*, which the front hands to an event loop ([`events`]) when the driver says that it is ready, and takes back at a reset. It owns the
//!   queues. No processor ever waits for it: a kick of the guest is an eventfd that KVM signals, and an interrupt is one that KVM listens to.
//!
//! Everything in guest memory is hostile: descriptors may loop, overlap, lie out of range, and change while they are read. Rules for a worker: read a
//! header once into a value and use the copy; never trust a length beyond what the chain holds; count what one kick may cost; on an error that breaks
//! the queue's bookkeeping stop serving it and say [`device::Interrupt::needs_reset`].
pub mod balloon;
pub mod block;
pub mod buffers;
pub mod bus;
pub mod console;
pub mod device;
mod drain;
pub mod events;
pub mod fs;
pub mod limiter;
pub mod mmio;
pub mod net;
pub mod random;
pub mod serial;
pub mod vsock;
