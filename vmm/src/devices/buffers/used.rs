//! Giving several chains back at once (virtio 1.3, section 2.7.8).
//!
//! [`virtio_queue::QueueT::add_used`] moves the used ring's index at each chain, so that a driver that polls may see the first chain of a packet before
//! the last. A network driver takes a packet with chains that are not there yet for broken, and drops it (5.1.6.4: they are to be used together). Here the
//! index moves once, behind all of them.
//!
//! A queue is served either through this module or through [`super::serve`], not by turns: each counts on its own what the driver hasn't been told of.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// `VRING_AVAIL_F_NO_INTERRUPT` (2.7.6).
const NO_INTERRUPT: u16 = 1;

/// Chains given back that the driver has not been told of.
#[derive(Debug, Default)]
pub struct Untold(u16);

impl Untold {
    /// Gives chains back: each its head and how many bytes were written to it. There are no more of them than the ring has entries.
    ///
    /// # Errors
    /// A head is none; the ring is outside of guest memory.
    pub fn add(&mut self, queue: &mut Queue, memory: &GuestMemoryMmap, chains: &[(u16, u32)]) -> Result<(), Error> {
        let Some(((head, length), others)) = chains.split_last() else { return Ok(()) };
        if chains.iter().any(|(head, _)| *head >= queue.size()) || chains.len() > usize::from(queue.size()) {
            return Err(Error::InvalidDescriptorIndex);
        }
        let first = queue.next_used();
        for (index, (head, length)) in (0u16..).zip(others) {
            // `struct virtq_used_elem { le32 id; le32 len; }`, behind two 16-bit fields.
            let entry = u64::from(first.wrapping_add(index) % queue.size());
            let address = queue.used_ring().checked_add(4 + 8 * entry).ok_or(Error::AddressOverflow)?;
            let element = [u32::from(*head).to_le(), length.to_le()];
            memory.write_obj(element[0], GuestAddress(address)).map_err(Error::GuestMemory)?;
            memory.write_obj(element[1], GuestAddress(address + 4)).map_err(Error::GuestMemory)?;
        }
        queue.set_next_used(first.wrapping_add(others.len() as u16));
        // Writes the last element and then, with release ordering, the index behind it.
        queue.add_used(memory, *head, *length)?;
        self.0 = self.0.saturating_add(chains.len() as u16);
        Ok(())
    }

    /// Whether the driver wants to be told now of what was given back since it was told last (2.7.7.2). It counts as told if so.
    ///
    /// # Errors
    /// The ring is outside of guest memory.
    pub fn tell(&mut self, queue: &Queue, memory: &GuestMemoryMmap) -> Result<bool, Error> {
        let untold = std::mem::take(&mut self.0);
        if untold == 0 {
            return Ok(false);
        }
        // The driver writes its wish and then reads the index; we wrote the index and now read the wish. One of us sees the other's.
        fence(Ordering::SeqCst);
        let load = |offset: u64| {
            let address = queue.avail_ring().checked_add(offset).ok_or(Error::AddressOverflow)?;
            memory.load::<u16>(GuestAddress(address), Ordering::Relaxed).map(u16::from_le).map_err(Error::GuestMemory)
        };
        if !queue.event_idx_enabled() {
            return Ok(load(0)? & NO_INTERRUPT == 0);
        }
        // `used_event` follows the entries. It lies among the indices that were just passed, or it doesn't.
        let event = load(4 + 2 * u64::from(queue.size()))?;
        Ok(queue.next_used().wrapping_sub(event).wrapping_sub(1) < untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::buffers::driver::{Driver, Piece};
    use crate::devices::device::EVENT_IDX;

    #[test]
    fn several_chains_are_used_at_once_across_the_ring_s_end() {
        let mut driver = Driver::new(1, 4);
        let mut activation = driver.activation(0);
        let (memory, queue) = (&activation.memory, &mut activation.queues[0].1.queue);
        let mut untold = Untold::default();
        untold.add(queue, memory, &[(0, 1), (1, 2), (2, 3)]).unwrap();
        assert_eq!(driver.used(0), [(0, 1), (1, 2), (2, 3)]);
        untold.add(queue, memory, &[(3, 4), (0, 5), (1, 6)]).unwrap();
        assert_eq!(driver.used(0), [(3, 4), (0, 5), (1, 6)]);
        assert_eq!(queue.next_used(), 6);
        assert!(untold.add(queue, memory, &[(0, 0), (4, 0)]).is_err());
        assert!(driver.used(0).is_empty());
        driver.submit(0, &[Piece::device_reads(0x10_0000, 1)]);
        assert!(untold.tell(queue, memory).unwrap());
        assert!(!untold.tell(queue, memory).unwrap(), "told once");
    }

    #[test]
    fn the_driver_is_told_when_the_index_passes_its_mark() {
        let driver = Driver::new(1, 8);
        let mut activation = driver.activation(EVENT_IDX);
        let (memory, queue) = (&activation.memory, &mut activation.queues[0].1.queue);
        queue.set_event_idx(true);
        let mut untold = Untold::default();
        driver.want(0, 2);
        untold.add(queue, memory, &[(0, 0), (1, 0)]).unwrap();
        assert!(!untold.tell(queue, memory).unwrap(), "at the mark, not behind it");
        untold.add(queue, memory, &[(2, 0), (3, 0), (4, 0)]).unwrap();
        assert!(untold.tell(queue, memory).unwrap(), "the mark is the first of three");
        untold.add(queue, memory, &[(5, 0)]).unwrap();
        assert!(!untold.tell(queue, memory).unwrap(), "the mark hasn't moved");
        // Without marks, a flag.
        queue.set_event_idx(false);
        untold.add(queue, memory, &[(6, 0)]).unwrap();
        assert!(untold.tell(queue, memory).unwrap());
        memory.write_obj(1u16, GuestAddress(queue.avail_ring())).unwrap();
        untold.add(queue, memory, &[(7, 0)]).unwrap();
        assert!(!untold.tell(queue, memory).unwrap());
    }
}
