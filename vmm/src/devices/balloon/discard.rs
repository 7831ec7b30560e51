//! Letting go of guest memory. All `unsafe` of the balloon.

use std::ops::Range;

use vm_memory::volatile_memory::VolatileSlice;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap};

/// The host's page size, on every machine that this runs on (x86-64).
const PAGE: usize = 4096;

/// How to let go of a guest's memory.
#[derive(Debug, Clone, Copy)]
pub struct Discard {
    advice: libc::c_int,
}

impl Discard {
    /// For that memory, which is either all private or all shared: of a shared mapping `MADV_DONTNEED` drops page table entries alone and the memory stays,
    /// so there it has to be a hole in its file (`MADV_REMOVE`).
    pub fn new(memory: &GuestMemoryMmap) -> Self {
        let shared = memory.iter().any(|region| region.flags() & libc::MAP_SHARED != 0);
        Self { advice: if shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED } }
    }

    /// Lets go of a range of guest addresses, as far as it is in guest memory from its start.
    pub fn range(&self, memory: &GuestMemoryMmap, range: Range<u64>) {
        let Ok(length) = usize::try_from(range.end.saturating_sub(range.start)) else { return };
        for slice in memory.get_slices(GuestAddress(range.start), length) {
            let Ok(slice) = slice else { break };
            self.slice(&slice);
        }
    }

    /// Lets go of the whole pages in a slice of guest memory.
    pub fn slice(&self, slice: &VolatileSlice<'_>) {
        let guard = slice.ptr_guard_mut();
        let address = guard.as_ptr().addr();
        let (start, end) = (address.next_multiple_of(PAGE), (address + slice.len()) / PAGE * PAGE);
        if start >= end {
            return;
        }
        let start_pointer = guard.as_ptr().wrapping_add(start - address);
        // SAFETY: from `start` to `end` is within the slice, which is a mapped part of guest memory for as long as it is borrowed. The advice changes the
        // content of those pages and of no others, and content of guest memory changes at any time: no Rust reference to it exists, and whoever reads it
        // expects any bytes. It doesn't unmap. Needed because no safe interface advises on volatile memory.
        let result = unsafe { libc::madvise(start_pointer.cast(), end - start, self.advice) };
        // Memory that can't be let go (locked, or of huge pages) stays where it is. The guest is none the worse for it, and there is nobody to tell.
        let _ = result;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use vm_memory::{Bytes, FileOffset, GuestRegionMmap, MmapRegion};

    fn filled(memory: &GuestMemoryMmap, length: usize) {
        memory.write_slice(&vec![1; length], GuestAddress(0)).unwrap();
    }

    fn pages(memory: &GuestMemoryMmap, count: u64) -> Vec<u8> {
        (0..count).map(|page| memory.read_obj(GuestAddress(page * 4096)).unwrap()).collect()
    }

    #[test]
    fn whole_pages_within_guest_memory_are_let_go_and_no_others() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000), (GuestAddress(0x4000), 0x4000)]).unwrap();
        let discard = Discard::new(&memory);
        filled(&memory, 0x8000);
        discard.range(&memory, 0x1001..0x2fff);
        assert_eq!(pages(&memory, 8), [1; 8], "no whole page");
        discard.range(&memory, 0x1fff..0x3001);
        assert_eq!(pages(&memory, 8), [1, 1, 0, 1, 1, 1, 1, 1]);
        discard.range(&memory, 0x3000..0x5000);
        assert_eq!(pages(&memory, 8), [1, 1, 0, 0, 0, 1, 1, 1], "across regions");
        discard.range(&memory, 0x7000..1 << 40);
        discard.range(&memory, 0x8000..0x9000);
        discard.range(&memory, u64::MAX - 1..u64::MAX);
        assert_eq!(pages(&memory, 8), [1, 1, 0, 0, 0, 1, 1, 0], "as far as there is memory");
    }

    #[test]
    fn shared_memory_is_let_go_too() {
        let file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).unwrap();
        file.set_len(0x4000).unwrap();
        let region = MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), 0x4000).unwrap();
        let memory = GuestMemoryMmap::from_regions(vec![GuestRegionMmap::new(region, GuestAddress(0)).unwrap()]).unwrap();
        filled(&memory, 0x4000);
        Discard::new(&memory).range(&memory, 0x1000..0x3000);
        // Before anybody looks: a look at a hole fills it.
        assert_eq!(file.metadata().unwrap().blocks(), 16, "two pages are the host's again");
        assert_eq!(pages(&memory, 4), [1, 0, 0, 1]);
    }
}
