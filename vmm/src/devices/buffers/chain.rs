//! Descriptor chains (virtio 1.3, section 2.7.4 to 2.7.6), parsed once.

use thiserror::Error;
use virtio_queue::DescriptorChain;
use vm_memory::volatile_memory::VolatileSlice;
use vm_memory::{GuestMemory, GuestMemoryMmap};

/// What a driver got wrong in a chain. The chain's head is known all the same, and is given back.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum ChainError {
    /// descriptor chain does not end: it loops, or names a descriptor beyond its table
    #[error("descriptor chain does not end: it loops, or names a descriptor beyond its table")]
    Unfinished,
    /// descriptor chain has more descriptors than its queue
    #[error("descriptor chain has more descriptors than its queue")]
    TooLong,
    /// descriptor chain has a buffer to read from behind one to write to
    #[error("descriptor chain has a buffer to read from behind one to write to")]
    OutOfOrder,
    /// descriptor chain has a buffer outside of guest memory
    #[error("descriptor chain has a buffer outside of guest memory")]
    OutsideMemory,
}

/// A chain's buffers, which may overlap: that is the driver's loss.
#[derive(Debug)]
pub struct Chain<'m> {
    /// What the device reads.
    pub readable: Buffers<'m>,
    /// What the device writes.
    pub writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    /// Reads the chain's descriptors, of which it may have `limit`: the size of its queue (2.7.5.3.1), however long an indirect table it names.
    ///
    /// # Errors
    /// What the driver got wrong.
    pub fn read(memory: &'m GuestMemoryMmap, descriptors: DescriptorChain<&GuestMemoryMmap>, limit: u16) -> Result<Self, ChainError> {
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        let mut finished = false;
        for (index, descriptor) in descriptors.enumerate() {
            if index >= usize::from(limit) {
                return Err(ChainError::TooLong);
            }
            let buffers = match descriptor.is_write_only() {
                true => &mut writable,
                false if writable.slices.is_empty() => &mut readable,
                false => return Err(ChainError::OutOfOrder),
            };
            for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
                buffers.push(slice.map_err(|_| ChainError::OutsideMemory)?);
            }
            finished = !descriptor.has_next();
        }
        // The iterator ends silently at a descriptor that it can't read, and where it has seen as many as the table holds.
        if finished { Ok(Self { readable, writable }) } else { Err(ChainError::Unfinished) }
    }
}

/// Slices of guest memory, in order. None is empty. One chain's are at most 4 GiB (2.7.5.2).
#[derive(Debug, Default, Clone)]
pub struct Buffers<'m> {
    slices: Vec<VolatileSlice<'m>>,
    length: usize,
}

impl<'m> Buffers<'m> {
    /// Adds a slice at the end.
    pub fn push(&mut self, slice: VolatileSlice<'m>) {
        if !slice.is_empty() {
            self.length += slice.len();
            self.slices.push(slice);
        }
    }

    /// Adds another's slices at the end.
    pub fn append(&mut self, mut other: Self) {
        self.length += other.length;
        self.slices.append(&mut other.slices);
    }

    /// The number of bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The slices.
    pub fn slices(&self) -> &[VolatileSlice<'m>] {
        &self.slices
    }

    /// The first `at` bytes, and the rest. Nothing if there aren't as many.
    pub fn split_at(self, at: usize) -> Option<(Self, Self)> {
        if at > self.length {
            return None;
        }
        let (mut front, mut back) = (Self::default(), Self::default());
        for slice in self.slices {
            match (at - front.length).min(slice.len()) {
                0 => back.push(slice),
                whole if whole == slice.len() => front.push(slice),
                part => {
                    let (head, tail) = slice.split_at(part).ok()?;
                    front.push(head);
                    back.push(tail);
                }
            }
        }
        Some((front, back))
    }

    /// Copies from guest memory into `data`; returns how many bytes there were.
    pub fn copy_to(&self, data: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            done += slice.copy_to(&mut data[done..]);
        }
        done
    }

    /// Copies `data` into guest memory; returns how many bytes there was room for.
    pub fn copy_from(&self, data: &[u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let count = slice.len().min(data.len() - done);
            slice.copy_from(&data[done..done + count]);
            done += count;
        }
        done
    }

    /// Whether every slice begins and ends at a multiple of `alignment`, a power of two, in the host's address space.
    pub fn is_aligned(&self, alignment: usize) -> bool {
        self.slices.iter().all(|slice| (slice.ptr_guard().as_ptr().addr() | slice.len()) & (alignment - 1) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use virtio_queue::{Queue, QueueOwnedT};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryRegion, MemoryRegionAddress};

    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;

    /// Two regions with a hole between them, and two that touch.
    fn memory() -> GuestMemoryMmap {
        let ranges = [(0, 0x10000), (0x10000, 0x10000), (0x40000, 0x10000)].map(|(start, length)| (GuestAddress(start), length));
        GuestMemoryMmap::from_ranges(&ranges).unwrap()
    }

    fn read<'m>(memory: &'m GuestMemoryMmap, descriptors: &[(u64, u32, u16, u16)]) -> Result<Chain<'m>, ChainError> {
        let mock = MockSplitQueue::new(memory, 16);
        for (index, (address, length, flags, next)) in descriptors.iter().enumerate() {
            let descriptor = Descriptor::new(*address, *length, *flags, *next);
            mock.desc_table().store(u16::try_from(index).unwrap(), RawDescriptor::from(descriptor)).unwrap();
        }
        mock.avail().ring().ref_at(0).unwrap().store(0);
        mock.avail().idx().store(1);
        let mut queue: Queue = mock.create_queue().unwrap();
        let chain = queue.iter(memory).unwrap().next().unwrap();
        Chain::read(memory, chain, 16)
    }

    #[test]
    fn a_good_chain_is_two_lists_of_slices() {
        let memory = memory();
        let chain = read(&memory, &[(0x8000, 16, NEXT, 1), (0xfff0, 32, NEXT | WRITE, 2), (0x40000, 1, WRITE, 0)]).unwrap();
        assert_eq!((chain.readable.length(), chain.writable.length()), (16, 33));
        assert_eq!(chain.writable.slices().len(), 3, "a buffer that goes over into the next region is two slices");
        let (front, back) = chain.writable.split_at(20).unwrap();
        assert_eq!((front.length(), back.length()), (20, 13));
        assert_eq!(front.copy_from(&[7; 100]), 20);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10003)).unwrap(), 7);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10004)).unwrap(), 0);
        let mut data = [1; 40];
        assert_eq!(back.copy_to(&mut data), 13);
        assert_eq!((data[12], data[13]), (0, 1));
        assert!(back.split_at(14).is_none());
    }

    #[test]
    fn a_bad_chain_is_refused_for_what_is_wrong_with_it() {
        let memory = memory();
        assert_eq!(read(&memory, &[(0x8000, 16, NEXT, 0)]).unwrap_err(), ChainError::Unfinished);
        assert_eq!(read(&memory, &[(0x8000, 16, NEXT, 99)]).unwrap_err(), ChainError::Unfinished);
        assert_eq!(read(&memory, &[(0x8000, 16, NEXT | WRITE, 1), (0x8000, 16, 0, 0)]).unwrap_err(), ChainError::OutOfOrder);
        assert_eq!(read(&memory, &[(0x1fff0, 17, 0, 0)]).unwrap_err(), ChainError::OutsideMemory);
        assert_eq!(read(&memory, &[(0x3ffff, 1, 0, 0)]).unwrap_err(), ChainError::OutsideMemory);
        assert_eq!(read(&memory, &[(u64::MAX, u32::MAX, 0, 0)]).unwrap_err(), ChainError::OutsideMemory);
        // An indirect table of 17 good descriptors for a queue of 16.
        for index in 0..17u16 {
            let flags = if index < 16 { NEXT } else { 0 };
            let descriptor = Descriptor::new(0x8000, 1, flags, index + 1);
            memory.write_obj(RawDescriptor::from(descriptor), GuestAddress(0x9000 + 16 * u64::from(index))).unwrap();
        }
        assert_eq!(read(&memory, &[(0x9000, 17 * 16, INDIRECT, 0)]).unwrap_err(), ChainError::TooLong);
    }

    proptest! {
        #[test]
        fn whatever_the_descriptors_are_the_slices_lie_in_guest_memory(
            descriptors in prop::collection::vec(
                (
                    prop_oneof![0..0x60000u64, any::<u64>()],
                    prop_oneof![0..0x2000u32, any::<u32>()],
                    prop_oneof![4 => 0..4u16, 1 => 0..8u16, 1 => any::<u16>()],
                    prop_oneof![4 => 0..16u16, 1 => any::<u16>()],
                ),
                1..16,
            ),
            split in 0..0x20000usize,
        ) {
            let memory = memory();
            if let Ok(chain) = read(&memory, &descriptors) {
                let regions: Vec<_> = memory.iter().map(|region| {
                    let start = region.get_host_address(MemoryRegionAddress(0)).unwrap().addr();
                    start..start + 0x10000
                }).collect();
                for buffers in [chain.readable, chain.writable] {
                    let length = buffers.length();
                    prop_assert_eq!(buffers.slices().iter().map(VolatileSlice::len).sum::<usize>(), length);
                    for slice in buffers.slices() {
                        let (start, end) = (slice.ptr_guard().as_ptr().addr(), slice.ptr_guard().as_ptr().addr() + slice.len());
                        prop_assert!(regions.iter().any(|region| region.start <= start && end <= region.end));
                    }
                    match buffers.split_at(split) {
                        Some((front, back)) => prop_assert_eq!((front.length(), back.length()), (split, length - split)),
                        None => prop_assert!(split > length),
                    }
                }
            }
        }
    }
}
