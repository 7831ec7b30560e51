//! An uncompressed kernel by its PVH note (Xen, docs/misc/pvh.pandoc; Linux, arch/x86/platform/pvh).
//!
//! The ELF file's segments go where their physical addresses say. The note (name "Xen", type 18, `XEN_ELFNOTE_PHYS32_ENTRY`) holds the entry in 32-bit mode,
//! where `ebx` points at the start information ([`write_information`]).

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Gift, Image, read_at};
use crate::vm::layout;

/// `XEN_HVM_START_MAGIC_VALUE`: "xEn3", the E's highest bit set.
const MAGIC: u32 = 0x336e_c578;
/// Version 1 has a memory map.
const VERSION: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_RAM` and `_RESERVED`.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;
/// Modules and memory map, in the page of the start information, behind it.
const MODULES: u64 = 0x40;
const MAP: u64 = 0x80;

/// ELF (System V ABI, chapter 4 and 5): sizes of the header and of a program header, and kinds of segments.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
const X86_64: u16 = 62;
/// Linux has five program headers. More than this are no kernel's, and cost time.
const MOST_PROGRAM_HEADERS: u16 = 64;

/// A kernel in guest memory.
#[derive(Debug)]
pub struct Loaded {
    /// Its first instruction.
    pub entry: GuestAddress,
    /// Behind its last byte.
    pub end: GuestAddress,
}

/// A number of `N` bytes at an offset. Offsets are constants inside the array.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[offset..offset + N]);
    u64::from_le_bytes(number)
}

/// Loads it below `room`.
///
/// # Errors
/// The file is not such a kernel, or not whole, or does not fit.
pub fn load(memory: &GuestMemoryMmap, room: u64, kernel: &mut impl Image) -> Result<Loaded, BootError> {
    let end = check(kernel, room)?;
    let loaded = Elf::load(memory, None, kernel, None).map_err(BootError::Load)?;
    match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) if (layout::HIGH..end).contains(&entry) => Ok(Loaded { entry, end }),
        PvhBootCapability::PvhEntryPresent(_) => Err(BootError::Header("the PVH note's entry lies outside the kernel")),
        _ => Err(BootError::NoNote),
    }
}

/// Looks whether every segment lies in the file and has room in memory; gives the end of the last.
fn check(kernel: &mut impl Image, room: u64) -> Result<GuestAddress, BootError> {
    let header = read_at::<HEADER>(kernel, 0, "the ELF header")?;
    // Class and byte order, in the identification; the machine.
    if header[4] != 2 || header[5] != 1 || number::<2>(&header, 18) != u64::from(X86_64) {
        return Err(BootError::Header("not an ELF file for x86-64"));
    }
    if number::<2>(&header, 54) != PROGRAM_HEADER as u64 {
        return Err(BootError::Header("program headers of an odd size"));
    }
    let (table, count) = (number::<8>(&header, 32), number::<2>(&header, 56));
    if count > MOST_PROGRAM_HEADERS.into() {
        return Err(BootError::Header("too many program headers"));
    }
    let length = kernel.seek(std::io::SeekFrom::End(0)).map_err(BootError::Read)?;
    let (mut last, mut noted) = (0, false);
    for index in 0..count {
        let offset = table.checked_add(index * PROGRAM_HEADER as u64).ok_or(BootError::Header("program headers beyond the file"))?;
        let segment = read_at::<PROGRAM_HEADER>(kernel, offset, "a program header")?;
        let kind = number::<4>(&segment, 0) as u32;
        if kind != LOAD && kind != NOTE {
            continue;
        }
        let (offset, start) = (number::<8>(&segment, 8), number::<8>(&segment, 24));
        let (in_file, in_memory) = (number::<8>(&segment, 32), number::<8>(&segment, 40));
        let end = offset.saturating_add(in_file);
        if end > length {
            return Err(BootError::Truncated { what: "a segment", end, length });
        }
        if kind == NOTE {
            noted = true;
            continue;
        }
        if in_file > in_memory {
            return Err(BootError::Header("a segment is larger in the file than in memory"));
        }
        let end = start.saturating_add(in_memory);
        if start < layout::HIGH.raw_value() || end > room {
            return Err(BootError::Room { start, end, room });
        }
        last = last.max(end);
    }
    match (last, noted) {
        (0, _) => Err(BootError::Header("no segment to load")),
        (_, false) => Err(BootError::NoNote),
        _ => Ok(GuestAddress(last)),
    }
}

/// Writes what `ebx` points at, for a machine of `size` bytes.
///
/// # Errors
/// The memory is not what [`layout`] says.
pub fn write_information(memory: &GuestMemoryMmap, size: u64, gift: &Gift) -> Result<(), BootError> {
    let place = |offset| layout::START_INFORMATION.unchecked_add(offset);
    let failed = |error| BootError::Write("the start information", error);
    let map = layout::map(size);
    for (index, range) in map.iter().enumerate() {
        let entry = hvm_memmap_table_entry {
            addr: range.start.raw_value(),
            size: range.size,
            type_: if range.usable { USABLE } else { RESERVED },
            reserved: 0,
        };
        memory.write_obj(entry, place(MAP + (index * size_of_val(&entry)) as u64)).map_err(failed)?;
    }
    if let Some((start, length)) = gift.initramfs {
        let module = hvm_modlist_entry { paddr: start.raw_value(), size: length, ..Default::default() };
        memory.write_obj(module, place(MODULES)).map_err(failed)?;
    }
    let information = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: gift.initramfs.is_some().into(),
        modlist_paddr: if gift.initramfs.is_some() { place(MODULES).raw_value() } else { 0 },
        cmdline_paddr: gift.command_line.raw_value(),
        rsdp_paddr: gift.root.raw_value(),
        memmap_paddr: place(MAP).raw_value(),
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    memory.write_obj(information, place(0)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ROOM, memory};
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    const START: u64 = 16 << 20;

    /// A kernel of one loaded segment and one note: header, two program headers, the note, 64 bytes of code.
    fn kernel() -> Vec<u8> {
        let mut file = vec![0; HEADER + 2 * PROGRAM_HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(18, &X86_64.to_le_bytes());
        put(32, &(HEADER as u64).to_le_bytes());
        put(54, &(PROGRAM_HEADER as u16).to_le_bytes());
        put(56, &2u16.to_le_bytes());
        let segments: [(u32, u64, u64, u64, u64); 2] = [(NOTE, 176, 0, 20, 20), (LOAD, 196, START, 64, 4096)];
        for (index, (kind, offset, start, in_file, in_memory)) in segments.into_iter().enumerate() {
            let at = HEADER + index * PROGRAM_HEADER;
            put(at, &kind.to_le_bytes());
            put(at + 8, &offset.to_le_bytes());
            put(at + 24, &start.to_le_bytes());
            put(at + 32, &in_file.to_le_bytes());
            put(at + 40, &in_memory.to_le_bytes());
        }
        // Name of 4 bytes, description of 4, type 18.
        for word in [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), START as u32 + 8] {
            file.extend(word.to_le_bytes());
        }
        file.extend([0x90; 64]);
        file
    }

    fn try_load(file: &[u8]) -> Result<Loaded, BootError> {
        load(&memory(), ROOM, &mut Cursor::new(file))
    }

    #[test]
    fn a_kernel_goes_where_it_says() {
        let memory = memory();
        let loaded = load(&memory, ROOM, &mut Cursor::new(kernel())).unwrap();
        assert_eq!((loaded.entry, loaded.end), (GuestAddress(START + 8), GuestAddress(START + 4096)));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(START + 63)).unwrap(), 0x90);
    }

    #[test]
    fn a_broken_one_is_named() {
        let with = |offset: usize, bytes: &[u8]| {
            let mut file = kernel();
            file[offset..offset + bytes.len()].copy_from_slice(bytes);
            try_load(&file).unwrap_err().to_string()
        };
        let (note, code) = (HEADER, HEADER + PROGRAM_HEADER);
        assert_eq!(with(18, &[40, 0]), "the kernel's header: not an ELF file for x86-64");
        assert_eq!(with(54, &[1, 0]), "the kernel's header: program headers of an odd size");
        assert_eq!(with(56, &[0xff, 0xff]), "the kernel's header: too many program headers");
        assert_eq!(with(56, &[0, 0]), "the kernel's header: no segment to load");
        assert_eq!(with(note, &[0]), "the kernel is an ELF file without a PVH note (CONFIG_PVH): take its bzImage");
        assert_eq!(with(184, &[17]), "the kernel is an ELF file without a PVH note (CONFIG_PVH): take its bzImage");
        assert_eq!(with(195, &[0xff]), "the kernel's header: the PVH note's entry lies outside the kernel");
        assert_eq!(with(code + 27, &[0]), "the kernel lies from 0x0 to 0x1000: this machine has room from 0x100000 to 0x4000000");
        assert_eq!(
            with(code + 47, &[0x80]),
            "the kernel lies from 0x1000000 to 0x8000000001001000: this machine has room from 0x100000 to 0x4000000"
        );
        let mut file = kernel();
        file.pop();
        assert_eq!(try_load(&file).unwrap_err().to_string(), "the kernel file is truncated: a segment ends at byte 260, the file at 259");
    }

    #[test]
    fn the_kernel_is_told_everything() {
        let memory = memory();
        let gift = Gift { command_line: layout::COMMAND_LINE, initramfs: Some((GuestAddress(0x123_4000), 99)), root: layout::ACPI };
        write_information(&memory, ROOM, &gift).unwrap();
        let information: hvm_start_info = memory.read_obj(layout::START_INFORMATION).unwrap();
        assert_eq!((information.magic, information.version, information.nr_modules), (MAGIC, 1, 1));
        assert_eq!(information.rsdp_paddr, 0xe_0000);
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(information.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x123_4000, 99));
        assert_eq!(information.memmap_entries, 3);
        let last: hvm_memmap_table_entry = memory.read_obj(GuestAddress(information.memmap_paddr + 48)).unwrap();
        assert_eq!((last.addr, last.size, last.type_), (1 << 20, ROOM - (1 << 20), USABLE));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// However its bytes are changed or cut: an answer, and no panic.
        #[test]
        fn no_kernel_file_panics(changes in prop::collection::vec((0..260usize, any::<u8>()), 0..6), length in 0..=260usize) {
            let mut file = kernel();
            for (offset, byte) in changes {
                file[offset] = byte;
            }
            file.truncate(length);
            if let Ok(loaded) = try_load(&file) {
                prop_assert!(loaded.entry < loaded.end && loaded.end.raw_value() <= ROOM);
            }
        }
    }
}
