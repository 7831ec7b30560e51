//! A driver for tests: the guest's side of a device's queues, in plain memory.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::device::{Activation, ActiveQueue, Interrupt};

/// How long a test waits for a device before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// One descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Where its buffer is in guest memory.
    pub address: u64,
    /// How many bytes it has.
    pub length: u32,
    /// Who writes it.
    pub device_writes: bool,
}

impl Piece {
    /// A buffer that the device reads.
    pub fn device_reads(address: u64, length: u32) -> Self {
        Self { address, length, device_writes: false }
    }

    /// A buffer that the device writes.
    pub fn device_writes(address: u64, length: u32) -> Self {
        Self { address, length, device_writes: true }
    }
}

/// A queue as its driver sees it.
struct Ring {
    base: u64,
    next_descriptor: u16,
    available: u16,
    seen: u16,
    kick: EventFd,
}

/// The driver. Guest memory is 4 MiB at 0 and 1 MiB at 16 MiB; queues are below 1 MiB, the rest is the test's.
pub struct Driver {
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    size: u16,
    rings: Vec<Ring>,
    interrupt: Interrupt,
    line: EventFd,
}

impl Driver {
    /// A driver of `queues` queues of `size` entries.
    pub fn new(queues: u64, size: u16) -> Self {
        assert!(size <= 256);
        let ranges = [(0, 4 << 20), (16 << 20, 1 << 20)].map(|(start, length)| (GuestAddress(start), length));
        let line = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let ring = |index| Ring {
            base: 0x1000 + index * 0x3000,
            next_descriptor: 0,
            available: 0,
            seen: 0,
            kick: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
        };
        Self {
            memory: GuestMemoryMmap::from_ranges(&ranges).unwrap(),
            size,
            rings: (0..queues).map(ring).collect(),
            interrupt: Interrupt::new(line.try_clone().unwrap()),
            line,
        }
    }

    /// What the transport would hand to the device.
    pub fn activation(&self, features: u64) -> Activation {
        let queue = |(index, ring): (usize, &Ring)| {
            let mut queue = Queue::new(self.size).unwrap();
            queue.set_desc_table_address(Some(ring.base as u32), None);
            queue.set_avail_ring_address(Some(ring.base as u32 + 0x1000), None);
            queue.set_used_ring_address(Some(ring.base as u32 + 0x2000), None);
            queue.set_ready(true);
            assert!(queue.is_valid(&self.memory));
            (index, ActiveQueue { queue, kick: ring.kick.try_clone().unwrap() })
        };
        let queues = self.rings.iter().enumerate().map(queue).collect();
        Activation { memory: self.memory.clone(), queues, interrupt: self.interrupt.clone(), features }
    }

    /// Forgets its rings, as after a reset.
    pub fn reset(&mut self) {
        for ring in &mut self.rings {
            (ring.next_descriptor, ring.available, ring.seen) = (0, 0, 0);
            self.memory.write_slice(&[0; 0x3000], GuestAddress(ring.base)).unwrap();
            let _ = ring.kick.read();
        }
    }

    /// Makes a chain of these pieces available; returns its head. Descriptors are taken in turn: a test leaves no more in flight than the queue has.
    pub fn submit(&mut self, queue: usize, pieces: &[Piece]) -> u16 {
        let ring = &mut self.rings[queue];
        let head = ring.next_descriptor;
        for (index, piece) in pieces.iter().enumerate() {
            let last = index + 1 == pieces.len();
            let next = (ring.next_descriptor + 1) % self.size;
            let flags = u16::from(!last) | u16::from(piece.device_writes) << 1;
            let address = ring.base + 16 * u64::from(ring.next_descriptor);
            self.memory.write_obj(piece.address, GuestAddress(address)).unwrap();
            self.memory.write_obj(piece.length, GuestAddress(address + 8)).unwrap();
            self.memory.write_obj([flags, if last { 0 } else { next }], GuestAddress(address + 12)).unwrap();
            ring.next_descriptor = next;
        }
        let entry = ring.base + 0x1004 + 2 * u64::from(ring.available % self.size);
        self.memory.write_obj(head, GuestAddress(entry)).unwrap();
        ring.available = ring.available.wrapping_add(1);
        self.memory.store(ring.available, GuestAddress(ring.base + 0x1002), Ordering::SeqCst).unwrap();
        head
    }

    /// Kicks a queue.
    pub fn kick(&self, queue: usize) {
        self.rings[queue].kick.write(1).unwrap();
    }

    /// Asks for an interrupt when the used index passes `mark`.
    pub fn want(&self, queue: usize, mark: u16) {
        let address = self.rings[queue].base + 0x1004 + 2 * u64::from(self.size);
        self.memory.store(mark, GuestAddress(address), Ordering::SeqCst).unwrap();
    }

    /// What was used since it was asked last: heads and lengths.
    pub fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let index: u16 = self.memory.load(GuestAddress(ring.base + 0x2002), Ordering::SeqCst).unwrap();
        let mut used = Vec::new();
        while ring.seen != index {
            let entry = ring.base + 0x2004 + 8 * u64::from(ring.seen % self.size);
            let [head, length]: [u32; 2] = self.memory.read_obj(GuestAddress(entry)).unwrap();
            used.push((head as u16, length));
            ring.seen = ring.seen.wrapping_add(1);
        }
        used
    }

    /// Sleeps until the device has used something of that queue, as a driver does: says where it is, looks, and waits for the interrupt.
    pub fn wait(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let start = Instant::now();
        loop {
            self.want(queue, self.rings[queue].seen);
            fence(Ordering::SeqCst);
            let used = self.used(queue);
            if !used.is_empty() {
                return used;
            }
            assert!(self.interrupted(PATIENCE.saturating_sub(start.elapsed())), "the device used nothing of queue {queue}");
        }
    }

    /// Submits one chain, kicks, and waits for its answer: how many bytes were written.
    pub fn request(&mut self, queue: usize, pieces: &[Piece]) -> u32 {
        let head = self.submit(queue, pieces);
        self.kick(queue);
        let used = self.wait(queue);
        assert_eq!((used.len(), used[0].0), (1, head));
        used[0].1
    }

    /// Waits for an interrupt and acknowledges it. False if none came.
    pub fn interrupted(&self, patience: Duration) -> bool {
        let ready = readable(&self.line, patience);
        let _ = self.line.read();
        ready
    }

    /// How many interrupts came since it was asked last.
    pub fn interrupts(&self) -> u64 {
        self.line.read().unwrap_or(0)
    }

    /// The device's line, status and cause.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }
}

/// Waits until the eventfd is readable.
fn readable(descriptor: &EventFd, patience: Duration) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: the eventfd is open for as long as it is borrowed here.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor.as_raw_fd()) };
    let timeout = PollTimeout::try_from(patience).unwrap();
    poll(&mut [PollFd::new(borrowed.as_fd(), PollFlags::POLLIN)], timeout).unwrap() == 1
}
