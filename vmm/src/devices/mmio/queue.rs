//! A queue as the driver describes it, before it is one.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

/// What the driver has written to the registers of one queue: numbers that mean nothing until [`Description::queue`] has looked at them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Description {
    /// `QueueNum`.
    pub size: u32,
    /// `QueueReady`.
    pub ready: bool,
    /// Guest-physical addresses.
    pub table: u64,
    /// See `table`.
    pub available: u64,
    /// See `table`.
    pub used: u64,
}

/// Sizes of a split queue's parts (virtio 1.3, 2.7): of a descriptor, and of the rings' heads (`flags`, `idx`, and the event field at the end) and entries.
const DESCRIPTOR: usize = 16;
const RING_HEAD: usize = 6;
const AVAILABLE_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;

impl Description {
    /// A queue for a device that takes at most `most` entries, if the description is one of a queue: its size a power of two, its parts aligned and
    /// wholly in guest memory.
    ///
    /// [`QueueT::is_valid`] looks only at where each part ends, and refuses one that ends with the last byte of memory, which is a good place; so this asks for
    /// the whole ranges. Regions do not move, so what lies in memory now always does.
    pub fn queue(&self, most: u16, memory: &GuestMemoryMmap) -> Option<Queue> {
        let size = u16::try_from(self.size).ok()?;
        let mut queue = Queue::new(most).ok()?;
        queue.try_set_size(size).ok()?;
        queue.try_set_desc_table_address(GuestAddress(self.table)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.available)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.used)).ok()?;
        queue.set_ready(self.ready);
        let entries = usize::from(size);
        let parts = [
            (self.table, DESCRIPTOR * entries),
            (self.available, RING_HEAD + AVAILABLE_ENTRY * entries),
            (self.used, RING_HEAD + USED_ENTRY * entries),
        ];
        let inside = parts.iter().all(|&(address, length)| memory.check_range(GuestAddress(address), length));
        (self.ready && inside).then_some(queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000), (GuestAddress(0x2_0000), 0x1000)]).unwrap()
    }

    const GOOD: Description = Description { size: 256, ready: true, table: 0x1000, available: 0x2000, used: 0x3000 };

    #[test]
    fn a_good_one_is_taken() {
        let queue = GOOD.queue(256, &memory()).unwrap();
        assert_eq!((queue.size(), queue.desc_table(), queue.avail_ring(), queue.used_ring()), (256, 0x1000, 0x2000, 0x3000));
        // Up to the last byte of memory.
        assert!(Description { table: 0xf000, ..GOOD }.queue(256, &memory()).is_some());
    }

    #[test]
    fn a_bad_one_is_not() {
        let bad = [
            Description { ready: false, ..GOOD },
            Description { size: 0, ..GOOD },
            Description { size: 3, ..GOOD },
            Description { size: 512, ..GOOD },
            Description { size: 0x1_0100, ..GOOD },
            Description { table: 0x1008, ..GOOD },
            Description { available: 0x2001, ..GOOD },
            Description { used: 0x3002, ..GOOD },
            // Into the hole; from the hole into memory, whose end alone is in memory; out of the address space.
            Description { table: 0xf010, ..GOOD },
            Description { table: 0x1_fff0, ..GOOD },
            Description { used: u64::MAX - 3, ..GOOD },
            Description { available: 1 << 63, ..GOOD },
        ];
        for description in bad {
            assert!(description.queue(256, &memory()).is_none(), "{description:x?}");
        }
    }
}
