//! How packets lie in guest memory: descriptor chains, read and written in any layout.

use std::sync::atomic::Ordering;

use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use super::packet::Header;
use crate::devices::device::ActiveQueue;

/// The most descriptors of a chain that are looked at: a header, and a payload of [`super::LONGEST_PAYLOAD`] in as many fragments as Linux makes of it
/// (`MAX_SKB_FRAGS`, 17), with room to spare.
const LONGEST_CHAIN: usize = 32;

/// A queue that can not be served any more.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// virtqueue of the vsock device
    #[error("virtqueue of the vsock device")]
    Queue(#[from] virtio_queue::Error),
    /// Its bookkeeping is not where it was.
    #[error("virtqueue of the vsock device: an entry that the driver made available can not be read")]
    Unreadable,
    /// Guest memory went away.
    #[error("guest memory of a vsock packet")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// A chain that does not hold what it must: it goes back to the driver as it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The packet's header, if that much was there.
    pub header: Option<Header>,
}

/// A chain of this guest's.
pub type Chain<'a> = DescriptorChain<&'a GuestMemoryMmap>;

/// A virtqueue that is served.
#[derive(Debug)]
pub struct Ring {
    active: ActiveQueue,
    /// Buffers were used since the driver was last told.
    used: bool,
}

impl Ring {
    /// Serves that queue.
    pub fn new(mut active: ActiveQueue, event_index: bool) -> Self {
        active.queue.set_event_idx(event_index);
        Self { active, used: false }
    }

    /// Signalled by the driver's kicks, and by [`Ring::again`].
    pub fn kick(&self) -> &vmm_sys_util::eventfd::EventFd {
        &self.active.kick
    }

    /// Comes back to this queue after everybody else had a turn.
    pub fn again(&self) {
        // It fails only where the counter would overflow: then it is signalled.
        let _ = self.active.kick.write(1);
    }

    /// The next chain, if the driver offers one.
    ///
    /// # Errors
    /// The ring's indices make no sense.
    pub fn next<'a>(&mut self, memory: &'a GuestMemoryMmap) -> Result<Option<Chain<'a>>, RingError> {
        let queue = &mut self.active.queue;
        if queue.avail_idx(memory, Ordering::Acquire)?.0 == queue.next_avail() {
            return Ok(None);
        }
        // The iterator takes fewer entries than the queue is long, or says that there are too many.
        queue.iter(memory)?.next().map(Some).ok_or(RingError::Unreadable)
    }

    /// Leaves the chain that [`Ring::next`] gave last for another time.
    pub fn leave(&mut self) {
        self.active.queue.go_to_previous_position();
    }

    /// Gives a chain back with that many bytes in it.
    ///
    /// # Errors
    /// The head lies outside the queue.
    pub fn give_back(&mut self, memory: &GuestMemoryMmap, head: u16, length: usize) -> Result<(), RingError> {
        self.used = true;
        // A packet is far shorter than 4 GiB.
        Ok(self.active.queue.add_used(memory, head, length as u32)?)
    }

    /// Asks for kicks; true if something came meanwhile that no kick will tell.
    ///
    /// # Errors
    /// The queue's.
    pub fn sleep(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        Ok(self.active.queue.enable_notification(memory)?)
    }

    /// Wants no kicks.
    ///
    /// # Errors
    /// The queue's.
    pub fn quiet(&mut self, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        Ok(self.active.queue.disable_notification(memory)?)
    }

    /// Whether the driver is to be interrupted for what was used since the last call.
    ///
    /// # Errors
    /// The queue's.
    pub fn must_interrupt(&mut self, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        Ok(std::mem::take(&mut self.used) && self.active.queue.needs_notification(memory)?)
    }
}

/// The memory that a chain names, all of it in guest memory when it was looked at (and guest memory does not shrink).
#[derive(Debug)]
pub struct Buffer {
    parts: [(GuestAddress, usize); LONGEST_CHAIN],
    count: usize,
    length: usize,
}

impl Buffer {
    /// What the device may write of a chain; the whole chain must be so.
    ///
    /// # Errors
    /// It is too long, lies elsewhere, is not writable, or has no room for a header and one byte.
    pub fn to_write(chain: Chain<'_>, memory: &GuestMemoryMmap) -> Result<Self, Malformed> {
        let buffer = Self::collect(chain, memory, true)?;
        if buffer.length > Header::SIZE { Ok(buffer) } else { Err(Malformed { header: None }) }
    }

    fn collect(chain: Chain<'_>, memory: &GuestMemoryMmap, writable: bool) -> Result<Self, Malformed> {
        let mut buffer = Self { parts: [(GuestAddress(0), 0); LONGEST_CHAIN], count: 0, length: 0 };
        for descriptor in chain {
            let length = descriptor.len() as usize;
            let fits = buffer.count < LONGEST_CHAIN && descriptor.is_write_only() == writable;
            if !fits || !memory.check_range(descriptor.addr(), length) {
                return Err(Malformed { header: None });
            }
            buffer.parts[buffer.count] = (descriptor.addr(), length);
            buffer.count += 1;
            // The iterator ends before a chain is longer than 4 GiB.
            buffer.length += length;
        }
        Ok(buffer)
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Where `length` bytes from `offset` on lie, part by part.
    fn ranges(&self, offset: usize, length: usize) -> impl Iterator<Item = (GuestAddress, std::ops::Range<usize>)> + '_ {
        let mut start = 0;
        self.parts[..self.count].iter().filter_map(move |(address, size)| {
            let (from, to) = (start.max(offset), (start + size).min(offset + length));
            let at = GuestAddress(address.0.wrapping_add((from - start) as u64));
            start += size;
            (from < to).then(|| (at, from - offset..to - offset))
        })
    }

    fn read(&self, memory: &GuestMemoryMmap, offset: usize, bytes: &mut [u8]) -> Result<(), vm_memory::GuestMemoryError> {
        self.ranges(offset, bytes.len()).try_for_each(|(at, range)| memory.read_slice(&mut bytes[range], at))
    }

    /// Writes a packet; the payload fits if it is no longer than [`Buffer::length`] less [`Header::SIZE`].
    ///
    /// # Errors
    /// Guest memory went away.
    pub fn write(&self, memory: &GuestMemoryMmap, header: &Header, payload: &[u8]) -> Result<(), RingError> {
        for (offset, bytes) in [(0, &header.encode()[..]), (Header::SIZE, payload)] {
            self.ranges(offset, bytes.len()).try_for_each(|(at, range)| memory.write_slice(&bytes[range], at))?;
        }
        Ok(())
    }
}

/// Reads the packet that a chain holds: its header, and its payload into `payload`, which is as long as one may be.
///
/// # Errors
/// The chain is too long, lies elsewhere, is not readable, or is shorter than the header says.
pub fn read_packet(chain: Chain<'_>, memory: &GuestMemoryMmap, payload: &mut [u8]) -> Result<(Header, usize), Malformed> {
    let buffer = Buffer::collect(chain, memory, false)?;
    let mut bytes = [0; Header::SIZE];
    if buffer.length < Header::SIZE || buffer.read(memory, 0, &mut bytes).is_err() {
        return Err(Malformed { header: None });
    }
    let header = Header::decode(&bytes);
    let malformed = Malformed { header: Some(header) };
    let length = header.length as usize;
    if length > buffer.length - Header::SIZE {
        return Err(malformed);
    }
    let Some(payload) = payload.get_mut(..length) else { return Err(malformed) };
    buffer.read(memory, Header::SIZE, payload).map_err(|_| malformed)?;
    Ok((header, length))
}
