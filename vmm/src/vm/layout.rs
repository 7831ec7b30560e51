//! Where things are in the guest's physical address space.
//!
//! ```text
//! 0               640 KiB      1 MiB            3 GiB           4 GiB
//! | boot structures | hole, ACPI | kernel ... RAM | hole: devices | RAM ...
//! ```
//!
//! A processor wakes up with a few fixed ideas about the end of the first 4 GiB (its local APIC is there), so devices live between 3 and 4 GiB, and memory
//! beyond 3 GiB goes on at 4 GiB. The addresses below 1 MiB are memory for the machine (KVM maps them) but the guest's memory map keeps its kernel from
//! 0x9fc00 upwards: that is where a PC has its firmware, and where ours keeps the tables.

use vm_memory::{Address, GuestAddress};

/// A page, bytes.
pub const PAGE: u64 = 4096;

/// The first descriptor table: its place is free on a PC (below it: interrupt vectors and BIOS data, which Linux reads to find an extended BIOS data area).
pub const DESCRIPTORS: GuestAddress = GuestAddress(0x500);
/// PVH's start information, with modules and memory map behind it; less than a page.
pub const START_INFORMATION: GuestAddress = GuestAddress(0x6000);
/// Linux's `boot_params`, one page.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// The first page tables: six pages, which map the first 4 GiB to themselves.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// The kernel's command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);

/// The end of what a kernel may use below 1 MiB: a PC's extended BIOS data area begins here.
pub const LOW_END: GuestAddress = GuestAddress(0x9_fc00);
/// Where ACPI's root pointer is, and the tables behind it: in the 128 KiB that the ACPI specification (5.2.5.1) has a kernel search when nobody tells it.
pub const ACPI: GuestAddress = GuestAddress(0xe_0000);
/// The end of the tables' place.
pub const ACPI_END: GuestAddress = GuestAddress(0xf_0000);
/// The page of the machine's generation identifier (VMGENID): reserved memory, which the guest maps but never allocates.
pub const GENERATION: GuestAddress = GuestAddress(0xf_0000);
/// Where a PC's BIOS begins, seen from real mode (`ffff:0000`): [`super::firmware`].
pub const RESET_VECTOR: GuestAddress = GuestAddress(0xf_fff0);
/// Where kernels are loaded from: 1 MiB.
pub const HIGH: GuestAddress = GuestAddress(0x10_0000);

/// The end of memory below 4 GiB, where there is that much.
pub const HOLE: GuestAddress = GuestAddress(0xc000_0000);
/// Where memory goes on.
pub const HOLE_END: GuestAddress = GuestAddress(0x1_0000_0000);

/// The virtio devices' registers: a page for each, in order.
pub const DEVICES: GuestAddress = GuestAddress(0xd000_0000);
/// The I/O APIC's and the local APICs' registers: where every PC has them, and where KVM puts its own.
pub const IO_APIC: GuestAddress = GuestAddress(0xfec0_0000);
/// See [`IO_APIC`].
pub const LOCAL_APIC: GuestAddress = GuestAddress(0xfee0_0000);
/// A page that Intel's processors want for real mode (`KVM_SET_IDENTITY_MAP_ADDR`), below [`TASK_STATE`].
pub const IDENTITY_MAP: GuestAddress = GuestAddress(0xfffb_c000);
/// Three pages that Intel's processors want for real mode (`KVM_SET_TSS_ADDR`): below the firmware's place at the end of the first 4 GiB, in no guest's memory.
pub const TASK_STATE: GuestAddress = GuestAddress(0xfffb_d000);

/// Interrupt inputs of the I/O APIC that KVM makes.
pub const INPUTS: u32 = 24;
/// The serial port's: COM1's on every PC.
pub const SERIAL_INPUT: u32 = 4;
/// The first virtio device's; the others' follow. Those below belong to a PC's timer, keyboard and serial ports by custom.
pub const FIRST_INPUT: u32 = 5;
/// Most devices that a machine can have: one input for each.
pub const MOST_DEVICES: usize = (INPUTS - FIRST_INPUT) as usize;

/// Least memory of a machine, bytes. Below it a current distribution kernel does not unpack its initramfs.
pub const LEAST_MEMORY: u64 = 64 << 20;

/// The registers of device number `index`.
pub fn device(index: usize) -> GuestAddress {
    DEVICES.unchecked_add(index as u64 * PAGE)
}

/// The interrupt input of device number `index`.
pub fn input(index: usize) -> u32 {
    FIRST_INPUT + index as u32
}

/// Where `size` bytes of memory are: from 0 to the hole, and the rest behind it.
pub fn memory(size: u64) -> Vec<(GuestAddress, u64)> {
    let hole = HOLE.raw_value();
    if size <= hole { vec![(GuestAddress(0), size)] } else { vec![(GuestAddress(0), hole), (HOLE_END, size - hole)] }
}

/// One line of the guest's memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub start: GuestAddress,
    /// Its length, bytes.
    pub size: u64,
    /// The kernel may use it; otherwise it must keep out.
    pub usable: bool,
}

/// The memory map of a guest that has `size` bytes (at least [`LEAST_MEMORY`]), in order. It reaches the kernel as e820 entries, or PVH's, whose types are the
/// same numbers.
pub fn map(size: u64) -> Vec<Range> {
    let range = |start: GuestAddress, end: GuestAddress, usable| Range { start, size: end.unchecked_offset_from(start), usable };
    let mut map = vec![range(GuestAddress(0), LOW_END, true), range(LOW_END, HIGH, false)];
    for (start, size) in memory(size) {
        let end = start.unchecked_add(size);
        map.push(range(start.max(HIGH), end, true));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_round_the_hole() {
        assert_eq!(memory(64 << 20), [(GuestAddress(0), 64 << 20)]);
        assert_eq!(memory(3 << 30), [(GuestAddress(0), 3 << 30)]);
        assert_eq!(memory((3 << 30) + PAGE), [(GuestAddress(0), 3 << 30), (HOLE_END, PAGE)]);
    }

    /// What the kernel may use is all of memory but the firmware's place, and no two ranges meet.
    #[test]
    fn the_map_is_the_memory() {
        for size in [LEAST_MEMORY, 3 << 30, 5 << 30] {
            let map = map(size);
            let usable: u64 = map.iter().filter(|range| range.usable).map(|range| range.size).sum();
            assert_eq!(usable, size - HIGH.unchecked_offset_from(LOW_END));
            assert!(map.windows(2).all(|pair| pair[0].start.unchecked_add(pair[0].size) <= pair[1].start));
        }
    }

    #[test]
    fn boot_structures_lie_apart_and_devices_in_the_hole() {
        let places = [
            (DESCRIPTORS, 0x100),
            (START_INFORMATION, PAGE),
            (ZERO_PAGE, PAGE),
            (PAGE_TABLES, 6 * PAGE),
            (COMMAND_LINE, 0x1_0000),
            (ACPI, ACPI_END.unchecked_offset_from(ACPI)),
            (GENERATION, PAGE),
            (RESET_VECTOR, 16),
            (HIGH, 1),
            (HOLE, 0),
            (DEVICES, MOST_DEVICES as u64 * PAGE),
            (IO_APIC, PAGE),
            (LOCAL_APIC, PAGE),
            (IDENTITY_MAP, PAGE),
            (TASK_STATE, 3 * PAGE),
            (HOLE_END, 0),
        ];
        assert!(places.windows(2).all(|pair| pair[0].0.unchecked_add(pair[0].1) <= pair[1].0));
        assert!(COMMAND_LINE.unchecked_add(0x1_0000) <= LOW_END);
        assert_eq!(input(MOST_DEVICES - 1), INPUTS - 1);
    }
}
