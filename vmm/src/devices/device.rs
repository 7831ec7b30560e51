//! What a virtio device is to its transport (virtio 1.3, section 2).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Which device: virtio's numbers (section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// A network card.
    Net = 1,
    /// A disk.
    Block = 2,
    /// A console.
    Console = 3,
    /// A source of random numbers.
    Random = 4,
    /// Memory that the guest gives back.
    Balloon = 5,
    /// Sockets between host and guest.
    Vsock = 19,
    /// A file system of the host's.
    FileSystem = 26,
}

/// `VIRTIO_F_VERSION_1`: every device here is a modern one and nothing else; the transport offers it and insists on it.
pub const VERSION_1: u64 = 1 << 32;
/// `VIRTIO_RING_F_EVENT_IDX`: notifications only where the other side asked for them. A device that offers it tells its queues with
/// [`virtio_queue::QueueT::set_event_idx`] when it was accepted.
pub const EVENT_IDX: u64 = 1 << 29;

/// `DEVICE_NEEDS_RESET`, in the device status register (section 2.1).
pub const STATUS_NEEDS_RESET: u8 = 64;
/// "Used buffer notification" and "configuration change notification", in the interrupt status register of virtio-mmio (4.2.2).
const USED_BUFFER: u32 = 1;
const CONFIGURATION_CHANGE: u32 = 2;

/// How a worker interrupts the guest: one edge-triggered line for each device.
#[derive(Debug, Clone)]
pub struct Interrupt {
    line: Arc<EventFd>,
    /// The interrupt status register.
    cause: Arc<AtomicU32>,
    /// The device status register.
    status: Arc<AtomicU8>,
}

impl Interrupt {
    /// A line that `line` raises.
    pub fn new(line: EventFd) -> Self {
        Self { line: Arc::new(line), cause: Arc::default(), status: Arc::default() }
    }

    /// Tells the driver that buffers were used.
    pub fn queue(&self) {
        self.raise(USED_BUFFER);
    }

    /// Tells the driver that configuration space has changed.
    pub fn configuration(&self) {
        self.raise(CONFIGURATION_CHANGE);
    }

    /// Tells the driver that the device has given up on it: its queues are beyond understanding.
    pub fn needs_reset(&self) {
        self.status.fetch_or(STATUS_NEEDS_RESET, Ordering::SeqCst);
        self.raise(CONFIGURATION_CHANGE);
    }

    /// The interrupt status register, for the transport.
    pub fn cause(&self) -> &AtomicU32 {
        &self.cause
    }

    /// The device status register, for the transport.
    pub fn status(&self) -> &AtomicU8 {
        &self.status
    }

    /// The eventfd, for KVM.
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    fn raise(&self, cause: u32) {
        self.cause.fetch_or(cause, Ordering::SeqCst);
        // It fails only where the counter would overflow: then the line is raised already.
        let _ = self.line.write(1);
    }
}

/// One queue of an active device.
#[derive(Debug)]
pub struct ActiveQueue {
    /// The rings. Their addresses have been checked to lie in guest memory; nothing else has.
    pub queue: Queue,
    /// Signalled when the driver kicks. Non-blocking.
    pub kick: EventFd,
}

/// What a device gets when its driver is ready.
pub struct Activation {
    /// Guest memory. A clone shares the mapping.
    pub memory: GuestMemoryMmap,
    /// The queues, in their order; one for each of [`Device::queue_sizes`] that the driver has made ready, with its index.
    pub queues: Vec<(usize, ActiveQueue)>,
    /// The device's line.
    pub interrupt: Interrupt,
    /// The features that the driver accepted, all of which were offered.
    pub features: u64,
}

/// A device's front.
pub trait Device: Send {
    /// Which it is.
    fn kind(&self) -> Kind;

    /// The features that it offers, [`VERSION_1`] aside.
    fn features(&self) -> u64;

    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads its configuration space. What lies beyond its end reads as zeros.
    fn read_configuration(&self, offset: u64, data: &mut [u8]);

    /// Writes to it. Nothing here is writable in most devices.
    fn write_configuration(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready: starts working. Never called twice without a [`Device::reset`] between.
    ///
    /// # Errors
    /// The host's. The driver sees `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// Stops working: when it returns nobody touches the queues or guest memory any more. Also called on a device that is not active.
    fn reset(&mut self);
}

/// Reads `data.len()` bytes of a configuration space of `bytes`, for [`Device::read_configuration`].
pub fn read_bytes(bytes: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let Ok(offset) = usize::try_from(offset) else { return };
    if let Some(rest) = bytes.get(offset..) {
        let length = rest.len().min(data.len());
        data[..length].copy_from_slice(&rest[..length]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_configuration_space_is_zero() {
        let mut data = [0xff; 4];
        read_bytes(&[1, 2, 3], 2, &mut data);
        assert_eq!(data, [3, 0, 0, 0]);
        read_bytes(&[1, 2, 3], u64::MAX, &mut data);
        assert_eq!(data, [0; 4]);
    }

    #[test]
    fn an_interrupt_says_why() {
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        interrupt.queue();
        interrupt.needs_reset();
        assert_eq!(interrupt.cause().load(Ordering::SeqCst), USED_BUFFER | CONFIGURATION_CHANGE);
        assert_eq!(interrupt.status().load(Ordering::SeqCst), STATUS_NEEDS_RESET);
        assert_eq!(interrupt.line().read().unwrap(), 2);
    }
}
