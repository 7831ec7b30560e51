//! A guest's driver: rings, notifications as both sides want them, and a connection's credit as an honest guest keeps it.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use event_manager::EventSet;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};
use vmm_sys_util::eventfd::EventFd;

use super::super::packet::{Header, Operation, STREAM};
use super::super::{HOST_CID, QUEUE_SIZE, Vsock};
use crate::devices::device::{Activation, ActiveQueue, Device, EVENT_IDX, Interrupt};

pub const CID: u64 = 3;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Nothing here takes longer, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an rx buffer: Linux's.
const RECEIVE_BUFFER: u64 = 4096;
const RECEIVE_BUFFERS: u16 = 32;
/// A tx slot: three descriptors, and room for a header and the longest payload.
const SLOT: u64 = 128 << 10;
const SLOTS: u16 = 16;
const BUFFERS: u64 = 1 << 20;

pub fn eventfd() -> EventFd {
    EventFd::new(libc::EFD_NONBLOCK).unwrap()
}

pub fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap()
}

/// A ring's driver side: its descriptor table, available ring and used ring are a page each.
pub struct Side {
    memory: GuestMemoryMmap,
    base: u64,
    kick: EventFd,
    event_index: bool,
    available: u16,
    used: u16,
    pub kicks: usize,
}

impl Side {
    pub fn new(memory: &GuestMemoryMmap, base: u64, event_index: bool) -> Self {
        for page in 0..3 {
            memory.write_slice(&[0; 4096], GuestAddress(base + page * 4096)).unwrap();
        }
        Self { memory: memory.clone(), base, kick: eventfd(), event_index, available: 0, used: 0, kicks: 0 }
    }

    pub fn active(&self) -> ActiveQueue {
        let mut queue = Queue::new(QUEUE_SIZE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(self.base)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.base + 4096)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.base + 8192)).unwrap();
        queue.set_ready(true);
        ActiveQueue { queue, kick: self.kick.try_clone().unwrap() }
    }

    fn load(&self, offset: u64) -> u16 {
        self.memory.load(GuestAddress(self.base + offset), Ordering::SeqCst).unwrap()
    }

    fn store(&self, offset: u64, value: u16) {
        self.memory.store(value, GuestAddress(self.base + offset), Ordering::SeqCst).unwrap();
    }

    pub fn describe(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let descriptor = Descriptor::new(address, length, flags, next);
        self.memory.write_obj(descriptor, GuestAddress(self.base + u64::from(index) * 16)).unwrap();
    }

    /// Makes a chain available, and kicks if the device wants to know.
    pub fn offer(&mut self, head: u16) {
        self.store(4096 + 4 + u64::from(self.available % QUEUE_SIZE) * 2, head);
        let old = self.available;
        self.available = old.wrapping_add(1);
        self.store(4096 + 2, self.available);
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            // vring_need_event (2.7.10).
            let event = self.load(8192 + 4 + u64::from(QUEUE_SIZE) * 8);
            self.available.wrapping_sub(event).wrapping_sub(1) < self.available.wrapping_sub(old)
        } else {
            self.load(8192) & 1 == 0
        };
        if wanted {
            self.kicks += 1;
            self.kick.write(1).unwrap();
        }
    }

    /// What was used next: head and length.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        if self.load(8192 + 2) == self.used {
            // Wants an interrupt for the next one; looks again, for it may have come before that was said.
            self.store(4096 + 4 + u64::from(QUEUE_SIZE) * 2, self.used);
            fence(Ordering::SeqCst);
            if self.load(8192 + 2) == self.used {
                return None;
            }
        }
        let at = GuestAddress(self.base + 8192 + 4 + u64::from(self.used % QUEUE_SIZE) * 8);
        let [head, length]: [u32; 2] = self.memory.read_obj(at).unwrap();
        self.used = self.used.wrapping_add(1);
        Some((u16::try_from(head).unwrap(), length))
    }
}

/// A guest.
pub struct Guest {
    pub memory: GuestMemoryMmap,
    pub receive: Side,
    pub transmit: Side,
    pub interrupt: Interrupt,
    line: Epoll,
    free: Vec<u16>,
    sent: usize,
}

impl Guest {
    /// A guest whose driver is ready; `buffers`: it offers buffers for packets.
    pub fn boot(device: &mut Vsock, event_index: bool, buffers: bool) -> Self {
        let memory = memory();
        let (receive, transmit) = (Side::new(&memory, 0x10000, event_index), Side::new(&memory, 0x20000, event_index));
        let interrupt = Interrupt::new(eventfd());
        let line = Epoll::new().unwrap();
        line.ctl(ControlOperation::Add, std::os::fd::AsRawFd::as_raw_fd(interrupt.line()), EpollEvent::new(EventSet::IN, 0)).unwrap();
        let queues = vec![(0, receive.active()), (1, transmit.active())];
        let features = if event_index { EVENT_IDX } else { 0 };
        device.activate(Activation { memory: memory.clone(), queues, interrupt: interrupt.clone(), features }).unwrap();
        let free = (0..SLOTS).collect();
        let mut guest = Self { memory, receive, transmit, interrupt, line, free, sent: 0 };
        if buffers {
            (0..RECEIVE_BUFFERS).for_each(|index| guest.offer_buffer(index));
        }
        guest
    }

    fn offer_buffer(&mut self, index: u16) {
        let address = BUFFERS + u64::from(index) * RECEIVE_BUFFER;
        // Every other one in two pieces.
        if index.is_multiple_of(2) {
            self.receive.describe(index, address, RECEIVE_BUFFER as u32, WRITE, 0);
        } else {
            self.receive.describe(index, address, 30, WRITE | NEXT, index + 128);
            self.receive.describe(index + 128, address + 30, RECEIVE_BUFFER as u32 - 30, WRITE, 0);
        }
        self.receive.offer(index);
    }

    pub fn wait_interrupt(&self) {
        let mut events = [EpollEvent::default()];
        let count = self.line.wait(PATIENCE.as_millis() as i32, &mut events).unwrap();
        assert_eq!(count, 1, "no interrupt came");
        self.interrupt.line().read().unwrap();
    }

    /// Sends a packet as it is. Its pieces vary.
    pub fn send_raw(&mut self, header: &Header, payload: &[u8]) {
        while self.free.is_empty() {
            if !self.reap() {
                self.wait_interrupt();
            }
        }
        let slot = self.free.pop().unwrap();
        let (address, index) = (BUFFERS + (1 << 20) + u64::from(slot) * SLOT, slot * 4);
        self.memory.write_slice(&[&header.encode()[..], payload].concat(), GuestAddress(address)).unwrap();
        let length = (Header::SIZE + payload.len()) as u32;
        self.sent += 1;
        let cuts: &[u32] = match self.sent % 3 {
            0 => &[length],
            1 => &[44, length],
            _ => &[20, length.min(50), length],
        };
        let mut from = 0;
        for (piece, to) in cuts.iter().enumerate() {
            let index = index + piece as u16;
            let flags = if piece + 1 == cuts.len() { 0 } else { NEXT };
            self.transmit.describe(index, address + u64::from(from), to - from, flags, index + 1);
            from = *to;
        }
        self.transmit.offer(index);
    }

    /// Takes back what the device has read; false: nothing.
    pub fn reap(&mut self) -> bool {
        let before = self.free.len();
        while let Some((head, length)) = self.transmit.take() {
            assert_eq!(length, 0);
            self.free.push(head / 4);
        }
        self.free.len() > before
    }

    /// A packet, if one is there.
    pub fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let (index, length) = self.receive.take()?;
        let mut bytes = vec![0; length as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(BUFFERS + u64::from(index) * RECEIVE_BUFFER)).unwrap();
        let payload = bytes.split_off(Header::SIZE);
        self.offer_buffer(index);
        let header = Header::decode(&bytes.try_into().unwrap());
        assert_eq!((header.destination_cid, header.length as usize), (CID, payload.len()));
        Some((header, payload))
    }

    /// The next packet.
    pub fn receive(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some(packet) = self.try_receive() {
                return packet;
            }
            self.wait_interrupt();
        }
    }

    /// A reset, after credit that the guest does not need.
    pub fn await_reset(&mut self) {
        while self.receive().0.operation != Operation::Reset as u16 {}
    }

    /// The next packet, which has to be for that.
    pub fn expect(&mut self, operation: Operation) -> Header {
        let (header, _) = self.receive();
        assert_eq!(Operation::from_number(header.operation), Some(operation), "{header:?}");
        header
    }
}

/// A header as an honest guest writes it.
pub fn header(host: u32, guest: u32, operation: Operation) -> Header {
    Header {
        source_cid: CID,
        destination_cid: HOST_CID,
        source_port: guest,
        destination_port: host,
        kind: STREAM,
        operation: operation as u16,
        buffer: 1 << 20,
        ..Header::default()
    }
}

/// A guest's side of a connection, with a buffer of `buffer` bytes.
pub struct Peer {
    pub host: u32,
    pub guest: u32,
    pub buffer: u32,
    pub received: Vec<u8>,
    taken: u32,
    sent: u32,
    host_buffer: u32,
    host_forwarded: u32,
    /// What the host has shut down.
    pub shut: u32,
}

impl Peer {
    pub fn new(host: u32, guest: u32, buffer: u32) -> Self {
        Self { host, guest, buffer, received: Vec::new(), taken: 0, sent: 0, host_buffer: 0, host_forwarded: 0, shut: 0 }
    }

    /// A host's request, granted.
    pub fn grant(guest: &mut Guest, port: u32, buffer: u32) -> Self {
        let request = guest.expect(Operation::Request);
        assert_eq!(request.destination_port, port);
        let mut peer = Self::new(request.source_port, port, buffer);
        peer.hear(&request, &[]);
        peer.send(guest, Operation::Response, 0, &[]);
        peer
    }

    /// A guest's request, to be granted.
    pub fn ask(guest: &mut Guest, host: u32, port: u32, buffer: u32) -> Self {
        let mut peer = Self::new(host, port, buffer);
        peer.send(guest, Operation::Request, 0, &[]);
        let response = guest.expect(Operation::Response);
        assert_eq!((response.source_port, response.destination_port), (host, port));
        peer.hear(&response, &[]);
        peer
    }

    pub fn send(&mut self, guest: &mut Guest, operation: Operation, flags: u32, payload: &[u8]) {
        let fields = Header { flags, length: payload.len() as u32, buffer: self.buffer, forwarded: self.taken, ..header(0, 0, operation) };
        guest.send_raw(&Header { source_port: self.guest, destination_port: self.host, ..fields }, payload);
        self.sent = self.sent.wrapping_add(payload.len() as u32);
    }

    /// Bytes that the host takes.
    pub fn credit(&self) -> usize {
        (self.host_buffer - self.sent.wrapping_sub(self.host_forwarded)) as usize
    }

    /// Takes a packet of this connection.
    pub fn hear(&mut self, header: &Header, payload: &[u8]) {
        self.host_buffer = header.buffer;
        self.host_forwarded = header.forwarded;
        match Operation::from_number(header.operation).unwrap() {
            Operation::Data => {
                self.received.extend(payload);
                let held = self.received.len() as u32 - self.taken;
                assert!(held <= self.buffer, "the device exceeds its credit: {held} of {}", self.buffer);
            }
            Operation::Shutdown => self.shut = header.flags,
            Operation::Request | Operation::Response | Operation::CreditUpdate | Operation::CreditRequest => {}
            Operation::Reset => panic!("reset"),
        }
    }

    /// The program takes what was received; the host hears of it.
    pub fn take(&mut self, guest: &mut Guest) {
        if self.taken != self.received.len() as u32 {
            self.taken = self.received.len() as u32;
            self.send(guest, Operation::CreditUpdate, 0, &[]);
        }
    }

    /// Hears packets until the host has sent that many bytes, all of which are taken.
    pub fn read(&mut self, guest: &mut Guest, count: usize) {
        while self.received.len() < count {
            let (header, payload) = guest.receive();
            self.hear(&header, &payload);
            self.take(guest);
        }
    }
}
