//! As much of ELF (elf(5)) as an image needs: 64-bit files for x86-64, of which three kinds come here.
//!
//! - An unpacked kernel: whether it has a PVH entry ([`Elf::has_pvh_entry`]), and what of it is loaded ([`Elf::loaded_alone`]).
//! - A module: its `.modinfo` section ([`Elf::section`]).
//! - The agent: whether it needs a dynamic loader, which a guest has not ([`Elf::interpreter`]).
//!
//! Every offset and length in a file is checked against the file before it is used.

/// The size of an ELF header, of a program header and of a section header, bytes.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
/// `EM_X86_64`.
const X86_64: u16 = 62;
/// Kinds of segments.
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
/// Kinds of files.
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
/// A section without bytes in the file.
const SHT_NOBITS: u32 = 8;
/// `XEN_ELFNOTE_PHYS32_ENTRY`, in notes of the owner `Xen`: where a kernel is entered in 32-bit mode without paging (PVH).
const PHYS32_ENTRY: u32 = 18;
/// Segments of [`Elf::loaded_alone`] begin at multiples of this.
const PAGE: u64 = 4096;

/// Why a file is not an ELF file that can be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It does not begin as one.
    #[error("not an ELF file")]
    NotElf,
    /// It is for another machine.
    #[error("not a 64-bit ELF file for x86-64")]
    Foreign,
    /// It says of something that it is where the file has already ended.
    #[error("{0} beyond the end of the file")]
    Truncated(&'static str),
}

/// A program header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        // `Elf::parse` has looked that it is within the file.
        self.offset + self.file_size
    }

    fn holds(&self, other: &Segment) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }
}

/// An ELF file in memory.
#[derive(Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    kind: u16,
    segments: Vec<Segment>,
}

fn part<'a>(bytes: &'a [u8], offset: u64, size: u64, what: &'static str) -> Result<&'a [u8], ElfError> {
    let range = usize::try_from(offset).ok().zip(offset.checked_add(size).and_then(|end| usize::try_from(end).ok()));
    range.and_then(|(start, end)| bytes.get(start..end)).ok_or(ElfError::Truncated(what))
}

// The callers have cut `bytes` to a header's size.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl<'a> Elf<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`ElfError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Elf<'a>, ElfError> {
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        let header = part(bytes, 0, HEADER as u64, "the header")?;
        // Class 2: 64 bits. Data 1: little endian.
        if (header[4], header[5], u16_at(header, 18)) != (2, 1, X86_64) {
            return Err(ElfError::Foreign);
        }
        let (offset, size, count) = (u64_at(header, 32), u64::from(u16_at(header, 54)), u16_at(header, 56));
        if count > 0 && size != PROGRAM_HEADER as u64 {
            return Err(ElfError::Foreign);
        }
        let table = part(bytes, if count == 0 { 0 } else { offset }, u64::from(count) * size, "the program headers")?;
        let mut segments = Vec::new();
        for row in table.chunks_exact(PROGRAM_HEADER) {
            let segment = Segment {
                kind: u32_at(row, 0),
                flags: u32_at(row, 4),
                offset: u64_at(row, 8),
                virtual_address: u64_at(row, 16),
                physical_address: u64_at(row, 24),
                file_size: u64_at(row, 32),
                memory_size: u64_at(row, 40),
                alignment: u64_at(row, 48),
            };
            part(bytes, segment.offset, segment.file_size, "a segment")?;
            segments.push(segment);
        }
        Ok(Elf { bytes, kind: u16_at(header, 16), segments })
    }

    /// Whether it is a program, rather than an object file or a core.
    pub fn is_program(&self) -> bool {
        [ET_EXEC, ET_DYN].contains(&self.kind) && self.segments.iter().any(|segment| segment.kind == PT_LOAD)
    }

    /// The dynamic loader that it asks for.
    pub fn interpreter(&self) -> Option<String> {
        let segment = self.segments.iter().find(|segment| segment.kind == PT_INTERP)?;
        Some(String::from_utf8_lossy(self.content(segment)).trim_end_matches('\0').to_owned())
    }

    /// A section's bytes; `None` where there is no such section.
    ///
    /// # Errors
    /// [`ElfError::Truncated`].
    pub fn section(&self, name: &str) -> Result<Option<&'a [u8]>, ElfError> {
        let (offset, count, names) = (u64_at(self.bytes, 40), u16_at(self.bytes, 60), u16_at(self.bytes, 62));
        if count == 0 || u16_at(self.bytes, 58) as usize != SECTION_HEADER {
            return Ok(None);
        }
        let table = part(self.bytes, offset, u64::from(count) * SECTION_HEADER as u64, "the section headers")?;
        let content = |row: &[u8]| part(self.bytes, u64_at(row, 24), u64_at(row, 32), "a section");
        let row = table.chunks_exact(SECTION_HEADER).nth(names.into()).ok_or(ElfError::Truncated("the section names"))?;
        let names = content(row)?;
        for row in table.chunks_exact(SECTION_HEADER) {
            let own = names.get(u32_at(row, 0) as usize..).unwrap_or_default();
            if own.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)) {
                return if u32_at(row, 4) == SHT_NOBITS { Ok(Some(&[])) } else { content(row).map(Some) };
            }
        }
        Ok(None)
    }

    /// Whether one of its notes gives a PVH entry.
    pub fn has_pvh_entry(&self) -> bool {
        let notes = self.segments.iter().filter(|segment| segment.kind == PT_NOTE);
        notes.into_iter().any(|segment| has_note(self.content(segment), b"Xen\0", PHYS32_ENTRY))
    }

    /// The same program with nothing but what is loaded: without sections, symbols, what lies between segments, and the zeros at each segment's end, which
    /// are memory (`p_memsz` greater than `p_filesz`) and need not be in a file. A fresh guest's memory is zero, so a loader that copies no zeros also touches
    /// none: for Debian's cloud kernel that is 12 MB of host memory less for every pod, and a file of 39 MB rather than 58.
    pub fn loaded_alone(&self) -> Vec<u8> {
        let mut segments = self.segments.clone();
        for segment in segments.iter_mut().filter(|segment| segment.kind == PT_LOAD) {
            let content = self.content(segment);
            let trimmed = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
            // What another segment has of it stays.
            let others = self.segments.iter().filter(|other| other.kind != PT_LOAD && segment.holds(other));
            segment.file_size = others.map(|other| other.end() - segment.offset).fold(trimmed, u64::max);
            segment.alignment = PAGE;
        }
        let mut file = self.bytes[..HEADER].to_vec();
        file[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        // No section headers: their offset, their number, the index of their names.
        file[40..48].fill(0);
        file[60..64].fill(0);
        file.resize(HEADER + PROGRAM_HEADER * segments.len(), 0);
        // Where each segment that has bytes of its own has gone; the others follow the one that holds them.
        let mut moved: Vec<(Segment, u64)> = Vec::new();
        let own = |segment: &Segment| segment.kind == PT_LOAD;
        let (first, then): (Vec<usize>, Vec<usize>) = (0..segments.len()).partition(|index| own(&segments[*index]));
        for index in first.into_iter().chain(then) {
            let old = segments[index];
            let held = moved.iter().find(|(by, _)| !own(&old) && by.holds(&old)).map(|(by, at)| at + (old.offset - by.offset));
            segments[index].offset = held.unwrap_or_else(|| {
                // Within its page as its address is, as elf(5) has it.
                let at = (file.len() as u64).next_multiple_of(PAGE) + old.virtual_address % PAGE;
                file.resize(at as usize, 0);
                file.extend_from_slice(self.content(&old));
                moved.push((old, at));
                at
            });
        }
        for (row, segment) in file[HEADER..].chunks_exact_mut(PROGRAM_HEADER).zip(&segments) {
            row[0..4].copy_from_slice(&segment.kind.to_le_bytes());
            row[4..8].copy_from_slice(&segment.flags.to_le_bytes());
            let fields = [
                segment.offset,
                segment.virtual_address,
                segment.physical_address,
                segment.file_size,
                segment.memory_size,
                segment.alignment,
            ];
            for (field, value) in row[8..].chunks_exact_mut(8).zip(fields) {
                field.copy_from_slice(&value.to_le_bytes());
            }
        }
        file
    }

    fn content(&self, segment: &Segment) -> &'a [u8] {
        // `parse` has looked that it is within the file, and nothing makes a segment longer.
        &self.bytes[segment.offset as usize..segment.end() as usize]
    }
}

/// Whether a note of this owner and kind is among notes: each a header of three words, then the owner's name and the content, both padded to four bytes.
fn has_note(mut notes: &[u8], owner: &[u8], kind: u32) -> bool {
    while let Some((header, rest)) = notes.split_at_checked(12) {
        let padded = |at: usize| (u32_at(header, at) as usize).checked_next_multiple_of(4);
        let Some((name, rest)) = padded(0).and_then(|size| rest.split_at_checked(size)) else { return false };
        if u32_at(header, 8) == kind && u32_at(header, 0) as usize == owner.len() && name.starts_with(owner) {
            return true;
        }
        let Some((_, rest)) = padded(4).and_then(|size| rest.split_at_checked(size)) else { return false };
        notes = rest;
    }
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An ELF file with segments (kind, address, bytes, bytes in memory) and one section, `.modinfo`.
    pub(crate) fn file(kind: u16, segments: &[(u32, u64, &[u8], u64)], modinfo: &[u8]) -> Vec<u8> {
        let mut file = vec![0; HEADER + PROGRAM_HEADER * segments.len()];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[16..18].copy_from_slice(&kind.to_le_bytes());
        file[18..20].copy_from_slice(&X86_64.to_le_bytes());
        file[32..40].copy_from_slice(&(HEADER as u64).to_le_bytes());
        file[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
        file[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        for (index, (kind, address, bytes, memory)) in segments.iter().enumerate() {
            // Far apart, as a linker with large pages leaves them.
            file.resize(file.len().next_multiple_of(0x4000), 0xee);
            let row = HEADER + PROGRAM_HEADER * index;
            file[row..row + 4].copy_from_slice(&kind.to_le_bytes());
            for (field, value) in [file.len() as u64, *address, *address, bytes.len() as u64, *memory, 0x4000].into_iter().enumerate() {
                file[row + 8 + 8 * field..row + 16 + 8 * field].copy_from_slice(&value.to_le_bytes());
            }
            file.extend_from_slice(bytes);
        }
        let names = b"\0.shstrtab\0.modinfo\0";
        let (at_names, at_modinfo) = (file.len(), file.len() + names.len());
        file.extend_from_slice(names);
        file.extend_from_slice(modinfo);
        let table = file.len() as u64;
        for (name, at, size) in [(0u32, 0, 0), (1, at_names, names.len()), (11, at_modinfo, modinfo.len())] {
            let mut row = [0; SECTION_HEADER];
            row[..4].copy_from_slice(&name.to_le_bytes());
            row[4..8].copy_from_slice(&1u32.to_le_bytes());
            row[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            row[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend_from_slice(&row);
        }
        file[40..48].copy_from_slice(&table.to_le_bytes());
        for (at, value) in [(58, SECTION_HEADER as u16), (60, 3), (62, 1)] {
            file[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        file
    }

    /// A note that gives a PVH entry, after one of another owner.
    pub(crate) fn pvh_note() -> Vec<u8> {
        let mut notes = Vec::new();
        for (owner, kind, content) in [(b"GNU\0", 3u32, &[7u8; 5][..]), (b"Xen\0", PHYS32_ENTRY, &[0, 0, 0, 1, 0, 0, 0, 0])] {
            notes.extend_from_slice(&4u32.to_le_bytes());
            notes.extend_from_slice(&(content.len() as u32).to_le_bytes());
            notes.extend_from_slice(&kind.to_le_bytes());
            notes.extend_from_slice(owner);
            notes.extend_from_slice(content);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        notes
    }

    #[test]
    fn what_a_kernel_loads_is_all_that_stays() {
        let note = pvh_note();
        let text: Vec<u8> = (0..9000u32).map(|index| index as u8 | 1).collect();
        let data = [&[1, 2, 3][..], &[0; 9000]].concat();
        let whole = file(
            ET_EXEC,
            &[
                (PT_LOAD, 0x100_0000, &text, 9000),
                (PT_LOAD, 0x100_4100, &data, 12000),
                (PT_LOAD, 0x100_8000, &[0; 100], 100),
                (PT_NOTE, 0, &note, 0),
            ],
            b"",
        );
        let elf = Elf::parse(&whole).unwrap();
        assert!(elf.has_pvh_entry());
        let packed = elf.loaded_alone();
        assert!(packed.len() < 30000 && whole.len() > 50000, "{} of {}", packed.len(), whole.len());
        let small = Elf::parse(&packed).unwrap();
        assert!(small.has_pvh_entry() && small.is_program());
        assert_eq!(small.section(".modinfo"), Ok(None));
        for (before, after) in elf.segments.iter().zip(&small.segments) {
            assert_eq!(
                (before.virtual_address, before.physical_address, before.memory_size),
                (after.virtual_address, after.physical_address, after.memory_size)
            );
            // In memory they are the same.
            let in_memory = |elf: &Elf<'_>, segment: &Segment| {
                let mut memory = elf.content(segment).to_vec();
                memory.resize(memory.len().max(segment.memory_size as usize), 0);
                memory
            };
            assert_eq!(in_memory(&elf, before), in_memory(&small, after));
        }
        assert_eq!(small.segments[1].file_size, 3);
        assert_eq!(small.segments[1].offset % PAGE, 0x100);
        assert_eq!(Elf::parse(&packed).unwrap().loaded_alone(), packed, "there is nothing more to leave out");
    }

    /// The monitor's loader finds the entry in either file, and leaves the same memory behind.
    #[test]
    fn a_machine_cannot_tell_the_difference() {
        use linux_loader::loader::elf::PvhBootCapability;
        use linux_loader::loader::{Elf as Loader, KernelLoader};
        use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
        let note = pvh_note();
        let data = [&[1, 2, 3][..], &[0; 9000]].concat();
        let whole =
            file(ET_EXEC, &[(PT_LOAD, 0x10_0000, &[7; 5000], 5000), (PT_LOAD, 0x10_4100, &data, 12000), (PT_NOTE, 0, &note, 0)], b"");
        let packed = Elf::parse(&whole).unwrap().loaded_alone();
        let loaded = |file: &[u8]| {
            let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x20_0000)]).unwrap();
            let kernel = Loader::load(&memory, None, &mut std::io::Cursor::new(file), None).unwrap();
            assert_eq!(kernel.pvh_boot_cap, PvhBootCapability::PvhEntryPresent(GuestAddress(0x100_0000)));
            let mut bytes = vec![0; 0x20_0000];
            memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
            bytes
        };
        assert!(loaded(&whole) == loaded(&packed));
    }

    #[test]
    fn a_note_inside_a_loaded_segment_moves_with_it() {
        let note = pvh_note();
        let loaded = [&[9; 40][..], &note, &[0; 64]].concat();
        let mut whole = file(ET_EXEC, &[(PT_LOAD, 0x1000, &loaded, 4096), (PT_NOTE, 0, &note, 0)], b"");
        // As the kernel's linker script has it: the note segment is part of the loaded one.
        let inside = u64_at(&whole, HEADER + 8) + 40;
        whole[HEADER + PROGRAM_HEADER + 8..HEADER + PROGRAM_HEADER + 16].copy_from_slice(&inside.to_le_bytes());
        let packed = Elf::parse(&whole).unwrap().loaded_alone();
        let elf = Elf::parse(&packed).unwrap();
        assert!(elf.has_pvh_entry());
        assert_eq!(elf.segments[1].offset, elf.segments[0].offset + 40);
        assert_eq!(elf.segments[0].file_size, 40 + note.len() as u64);
    }

    #[test]
    fn sections_and_interpreters_are_found() {
        let module = file(1, &[], b"depends=a,b\0");
        let elf = Elf::parse(&module).unwrap();
        assert_eq!(elf.section(".modinfo"), Ok(Some(&b"depends=a,b\0"[..])));
        assert_eq!(elf.section(".mod"), Ok(None));
        assert!(!elf.is_program());
        let program = file(ET_DYN, &[(PT_LOAD, 0, b"x", 1), (PT_INTERP, 0, b"/lib64/ld-linux-x86-64.so.2\0", 0)], b"");
        assert_eq!(Elf::parse(&program).unwrap().interpreter().as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = file(ET_EXEC, &[(PT_LOAD, 0, b"x", 1)], b"");
        assert_eq!(Elf::parse(b"#!/bin/sh").unwrap_err(), ElfError::NotElf);
        assert_eq!(Elf::parse(&good[..60]).unwrap_err(), ElfError::Truncated("the header"));
        assert_eq!(Elf::parse(&good[..100]).unwrap_err(), ElfError::Truncated("the program headers"));
        assert_eq!(Elf::parse(&good[..0x4000]).unwrap_err(), ElfError::Truncated("a segment"));
        assert_eq!(Elf::parse(&good[..good.len() - 1]).unwrap().section(".modinfo"), Err(ElfError::Truncated("the section headers")));
        let mut foreign = good.clone();
        foreign[18] = 183; // AArch64
        assert_eq!(Elf::parse(&foreign).unwrap_err(), ElfError::Foreign);
        let mut endless = good;
        endless[HEADER + 8..HEADER + 16].fill(0xff);
        assert_eq!(Elf::parse(&endless).unwrap_err(), ElfError::Truncated("a segment"));
    }

    proptest! {
        #[test]
        fn any_changed_bytes_are_read_or_refused(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let note = pvh_note();
            let mut bytes = file(ET_EXEC, &[(PT_LOAD, 0x1000, b"text", 10), (PT_NOTE, 0, &note, 0), (PT_INTERP, 0, b"/x", 0)], b"depends=\0");
            let headers = HEADER + 3 * PROGRAM_HEADER;
            let length = bytes.len();
            for (at, byte) in changes {
                // Where it matters: the headers at the beginning, and the section headers at the end.
                let at = at.index(headers + 3 * SECTION_HEADER);
                bytes[if at < headers { at } else { length - 1 - (at - headers) }] = byte;
            }
            if let Ok(elf) = Elf::parse(&bytes) {
                let _ = (elf.is_program(), elf.interpreter(), elf.section(".modinfo"), elf.has_pvh_entry());
                let packed = elf.loaded_alone();
                prop_assert!(Elf::parse(&packed).is_ok());
            }
        }

        #[test]
        fn any_bytes_are_notes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = has_note(&bytes, b"Xen\0", PHYS32_ENTRY);
        }
    }
}
