//! A bzImage by Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst).
//!
//! The file is a real-mode part, of which only the header at 0x1f1 is of use here, and behind it the kernel proper: a program that unpacks the kernel to where
//! it wants to be. It is loaded at 1 MiB and entered 0x200 bytes further on, in 64-bit mode, with `rsi` at the *zero page*: the header again, completed.

use linux_loader::loader::bootparam::{CAN_USE_HEAP, LOADED_HIGH, XLF_KERNEL_64, boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Gift, Image, read_at};
use crate::vm::layout;
use crate::vm::vcpu::DESCRIPTORS;

/// The header's place in the file, and its length.
const HEADER: u64 = 0x1f1;
const HEADER_SIZE: usize = size_of::<setup_header>();
/// "HdrS".
const MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// Protocol 2.12 (Linux 3.8): `xloadflags`, which says whether there is an entry in 64-bit mode.
const VERSION: u16 = 0x20c;
/// That entry, from the beginning of the kernel proper.
const ENTRY: u64 = 0x200;
/// `syssize` counts in units of 16 bytes.
const PARAGRAPH: u64 = 16;
const SECTOR: u64 = 512;
/// `type_of_loader`: none that has a number.
const UNKNOWN_LOADER: u8 = 0xff;
/// Types of e820 entries: memory, and reserved.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;

/// Present and writable; and, in a page directory, a page of 2 MiB (SDM, volume 3, 4.5).
const TABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
/// Entries of a table, and what a directory's entry maps.
const ENTRIES: u64 = 512;
const LARGE: u64 = 2 << 20;
/// Page directories: one for each of the first 4 GiB.
const DIRECTORIES: u64 = 4;

/// A kernel in guest memory.
pub struct Loaded {
    /// Its first instruction.
    pub entry: GuestAddress,
    /// Behind the last byte that it needs until it manages its memory itself.
    pub end: GuestAddress,
    /// The longest command line that it takes.
    pub longest_command_line: usize,
    /// Behind the last byte that an initramfs may have.
    pub initramfs_end: u64,
    header: setup_header,
}

/// Loads it below `room`.
///
/// # Errors
/// The file is not such a kernel, or not whole, or does not fit.
pub fn load(memory: &GuestMemoryMmap, room: u64, kernel: &mut impl Image) -> Result<Loaded, BootError> {
    let length = kernel.seek(std::io::SeekFrom::End(0)).map_err(BootError::Read)?;
    // A file that ends within its header might be anything.
    let mut header = setup_header::default();
    match read_at::<HEADER_SIZE>(kernel, HEADER, "the header") {
        Ok(bytes) => header.as_mut_slice().copy_from_slice(&bytes),
        Err(BootError::Truncated { .. }) => return Err(BootError::Unknown),
        Err(error) => return Err(error),
    }
    if { header.header } != MAGIC {
        return Err(BootError::Unknown);
    }
    if header.version < VERSION || header.xloadflags & XLF_KERNEL_64 as u16 == 0 {
        return Err(BootError::Header("no entry in 64-bit mode (a kernel for x86-64 since 3.8 is needed)"));
    }
    if header.loadflags & LOADED_HIGH as u8 == 0 {
        return Err(BootError::Header("a zImage, which wants to be below 1 MiB"));
    }
    // 0 stands for 4, for the sake of kernels that are older than the field.
    let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let code = (sectors + 1) * SECTOR;
    let end = code + u64::from(header.syssize) * PARAGRAPH;
    if end > length || length <= code + ENTRY {
        return Err(BootError::Truncated { what: "the kernel proper", end: end.max(code + ENTRY), length });
    }
    // It unpacks itself to the address that it prefers, or the next aligned one above where it is.
    let start = layout::HIGH.raw_value();
    let alignment = u64::from(header.kernel_alignment);
    let aligned = if alignment.is_power_of_two() { start.next_multiple_of(alignment) } else { start };
    let unpacked = aligned.max(header.pref_address).saturating_add(header.init_size.into());
    let end = unpacked.max(start + (length - code));
    if end > room {
        return Err(BootError::Room { start, end, room });
    }
    BzImage::load(memory, Some(layout::HIGH), kernel, None).map_err(BootError::Load)?;
    Ok(Loaded {
        entry: layout::HIGH.unchecked_add(ENTRY),
        end: GuestAddress(end),
        longest_command_line: header.cmdline_size as usize,
        initramfs_end: u64::from(header.initrd_addr_max) + 1,
        header,
    })
}

/// Writes the zero page for a machine of `size` bytes, and what 64-bit mode needs: page tables and descriptors.
///
/// # Errors
/// The memory is not what [`layout`] says.
pub fn write_information(memory: &GuestMemoryMmap, size: u64, kernel: &Loaded, gift: &Gift) -> Result<(), BootError> {
    let mut page = boot_params { hdr: kernel.header, acpi_rsdp_addr: gift.root.raw_value(), ..Default::default() };
    page.hdr.type_of_loader = UNKNOWN_LOADER;
    // The heap is the real-mode part's, which does not run.
    page.hdr.loadflags &= !(CAN_USE_HEAP as u8);
    page.hdr.code32_start = layout::HIGH.raw_value() as u32;
    page.hdr.cmd_line_ptr = gift.command_line.raw_value() as u32;
    if let Some((start, length)) = gift.initramfs {
        // Both fit: an initramfs lies below 3 GiB.
        (page.hdr.ramdisk_image, page.hdr.ramdisk_size) = (start.raw_value() as u32, length as u32);
    }
    let map = layout::map(size);
    page.e820_entries = map.len() as u8;
    for (index, range) in map.iter().enumerate() {
        let type_ = if range.usable { USABLE } else { RESERVED };
        page.e820_table[index] = boot_e820_entry { addr: range.start.raw_value(), size: range.size, type_ };
    }
    memory.write_obj(page, layout::ZERO_PAGE).map_err(|error| BootError::Write("the zero page", error))?;
    memory.write_obj(DESCRIPTORS, layout::DESCRIPTORS).map_err(|error| BootError::Write("the descriptor table", error))?;
    write_page_tables(memory).map_err(|error| BootError::Write("the page tables", error))
}

/// One table of the highest level, one below it, and four directories whose entries are pages of 2 MiB: address and memory are the same, up to 4 GiB.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
    let table = |number: u64| layout::PAGE_TABLES.unchecked_add(number * layout::PAGE);
    memory.write_obj(table(1).raw_value() | TABLE, table(0))?;
    for directory in 0..DIRECTORIES {
        memory.write_obj(table(2 + directory).raw_value() | TABLE, table(1).unchecked_add(8 * directory))?;
        for entry in 0..ENTRIES {
            let address = (directory * ENTRIES + entry) * LARGE;
            memory.write_obj(address | TABLE | LARGE_PAGE, table(2 + directory).unchecked_add(8 * entry))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ROOM, memory};
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// One sector of setup behind the first, and a kernel proper of two.
    fn kernel() -> Vec<u8> {
        let header = setup_header {
            setup_sects: 1,
            syssize: 1024 / 16,
            header: MAGIC,
            version: 0x20f,
            loadflags: LOADED_HIGH as u8,
            xloadflags: XLF_KERNEL_64 as u16,
            initrd_addr_max: 0x7fff_ffff,
            kernel_alignment: 2 << 20,
            cmdline_size: 2047,
            pref_address: 16 << 20,
            init_size: 32 << 20,
            ..Default::default()
        };
        let mut file = vec![0x90; 2048];
        file[HEADER as usize..HEADER as usize + HEADER_SIZE].copy_from_slice(header.as_slice());
        file
    }

    fn try_load(file: &[u8]) -> Result<Loaded, BootError> {
        load(&memory(), ROOM, &mut Cursor::new(file))
    }

    #[test]
    fn a_kernel_is_loaded_and_told_everything() {
        let memory = memory();
        let loaded = load(&memory, ROOM, &mut Cursor::new(kernel())).unwrap();
        assert_eq!((loaded.entry.raw_value(), loaded.end.raw_value()), (0x10_0200, 48 << 20));
        assert_eq!((loaded.longest_command_line, loaded.initramfs_end), (2047, 1 << 31));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_03ff)).unwrap(), 0x90);
        let gift = Gift { command_line: layout::COMMAND_LINE, initramfs: Some((GuestAddress(0x300_0000), 77)), root: layout::ACPI };
        write_information(&memory, ROOM, &loaded, &gift).unwrap();
        let page: boot_params = memory.read_obj(layout::ZERO_PAGE).unwrap();
        assert_eq!(({ page.hdr.header }, { page.acpi_rsdp_addr }, page.e820_entries), (MAGIC, 0xe_0000, 3));
        assert_eq!(({ page.hdr.ramdisk_image }, { page.hdr.ramdisk_size }), (0x300_0000, 77));
        assert_eq!({ page.e820_table[2].addr }, 1 << 20);
    }

    /// Walks the tables as a processor does.
    #[test]
    fn every_address_below_4_gib_is_itself() {
        let memory = memory();
        write_page_tables(&memory).unwrap();
        for address in [0, 0x10_0200, 0x4000_0000, 0xffff_ffff_u64] {
            let mut entry = layout::PAGE_TABLES.raw_value();
            for shift in [39, 30, 21] {
                let place = GuestAddress((entry & !0xfff) + 8 * (address >> shift & 511));
                entry = memory.read_obj(place).unwrap();
                assert_eq!(entry & 1, 1);
            }
            assert_eq!(entry & LARGE_PAGE, LARGE_PAGE);
            assert_eq!(entry & !0x1f_ffff, address & !0x1f_ffff);
        }
    }

    #[test]
    fn a_broken_one_is_named() {
        let with = |change: &dyn Fn(&mut setup_header)| {
            let mut file = kernel();
            let place = HEADER as usize..HEADER as usize + HEADER_SIZE;
            let mut header = setup_header::default();
            header.as_mut_slice().copy_from_slice(&file[place.clone()]);
            change(&mut header);
            file[place].copy_from_slice(header.as_slice());
            try_load(&file).err().unwrap().to_string()
        };
        assert_eq!(with(&|header| header.header = 0), "the kernel file is neither an ELF file nor a bzImage");
        assert!(with(&|header| header.version = 0x20b).contains("no entry in 64-bit mode"));
        assert!(with(&|header| header.xloadflags = 0).contains("no entry in 64-bit mode"));
        assert!(with(&|header| header.loadflags = 0).contains("a zImage"));
        assert_eq!(
            with(&|header| header.syssize = 65),
            "the kernel file is truncated: the kernel proper ends at byte 2064, the file at 2048"
        );
        assert!(with(&|header| header.setup_sects = 3).contains("truncated"));
        assert!(with(&|header| header.init_size = 60 << 20).contains("this machine has room from 0x100000 to 0x4000000"));
        assert!(with(&|header| header.pref_address = u64::MAX).contains("this machine has room"));
        assert!(try_load(&kernel()[..600]).err().unwrap().to_string().contains("neither"));
        assert!(try_load(&kernel()[..1600]).err().unwrap().to_string().contains("truncated"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// However its header is changed, and the file cut: an answer, and no panic.
        #[test]
        fn no_kernel_file_panics(changes in prop::collection::vec((HEADER as usize..HEADER as usize + HEADER_SIZE, any::<u8>()), 0..6), length in 0..=2048usize) {
            let mut file = kernel();
            for (offset, byte) in changes {
                file[offset] = byte;
            }
            file.truncate(length);
            if let Ok(loaded) = try_load(&file) {
                prop_assert!(loaded.end.raw_value() <= ROOM);
            }
        }
    }
}
