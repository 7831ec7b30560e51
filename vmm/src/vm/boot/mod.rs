//! The kernel into guest memory, without firmware.
//!
//! Two protocols, told apart by the file itself:
//!
//! - [`pvh`]: an uncompressed kernel (`vmlinux`, ELF) with a note that names its entry. The faster one: nothing is unpacked in the guest.
//! - [`linux`]: a `bzImage`, as distributions install it, by Linux's 64-bit boot protocol. It unpacks itself.
//!
//! Both get a memory map, a command line, ACPI's root pointer and perhaps an initramfs, which lies as high as it can below 3 GiB, out of the kernel's way.
//!
//! A kernel file is the operator's, but a broken one, or one of the wrong kind, must not end in a guest that hangs without a word: each is checked against its
//! own headers, the file's length and the machine's memory before a byte is loaded.

pub mod linux;
pub mod pvh;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap, ReadVolatile};

use super::layout;

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be read.
    #[error("reading the kernel: {0}")]
    Read(#[source] io::Error),
    /// The file is something else.
    #[error("the kernel file is neither an ELF file nor a bzImage")]
    Unknown,
    /// A header contradicts the file.
    #[error("the kernel file is truncated: {what} ends at byte {end}, the file at {length}")]
    Truncated {
        /// The part that is missing.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// Where the file ends.
        length: u64,
    },
    /// A header contradicts itself, or is not for this machine.
    #[error("the kernel's header: {0}")]
    Header(&'static str),
    /// An ELF file without the note.
    #[error("the kernel is an ELF file without a PVH note (CONFIG_PVH): take its bzImage")]
    NoNote,
    /// The loader's refusal.
    #[error("loading the kernel: {0}")]
    Load(#[source] linux_loader::loader::Error),
    /// It wants to be where it cannot.
    #[error("the kernel lies from {start:#x} to {end:#x}: this machine has room from 0x100000 to {room:#x}")]
    Room {
        /// Its first byte.
        start: u64,
        /// Behind its last.
        end: u64,
        /// Behind the last byte of memory for it.
        room: u64,
    },
    /// A byte that ends it.
    #[error("the kernel command line contains a NUL byte")]
    Nul,
    /// More than the kernel takes.
    #[error("the kernel command line has {length} bytes, the kernel takes {most}")]
    CommandLine {
        /// Its length.
        length: usize,
        /// What the kernel takes.
        most: usize,
    },
    /// The file cannot be read, or not to its end.
    #[error("reading the initramfs: {0}")]
    Initramfs(#[source] io::Error),
    /// It does not fit beside the kernel.
    #[error("the initramfs has {length} bytes; beside the kernel there is room for {room}: give the machine more memory")]
    InitramfsRoom {
        /// Its length.
        length: u64,
        /// What is left.
        room: u64,
    },
    /// Guest memory refused, where the layout says that there is some.
    #[error("writing {0}: {1}")]
    Write(&'static str, #[source] vm_memory::GuestMemoryError),
}

/// How the first processor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// [`super::vcpu::Vcpu::start_flat`].
    Flat {
        /// The first instruction.
        entry: GuestAddress,
    },
    /// [`super::vcpu::Vcpu::start_long`].
    Long {
        /// The first instruction.
        entry: GuestAddress,
    },
}

/// What is to be booted.
pub struct Payload<'a> {
    /// `vmlinux` or `bzImage`.
    pub kernel: File,
    /// An archive, compressed or not, as the kernel understands it.
    pub initramfs: Option<File>,
    /// The command line.
    pub command_line: &'a str,
}

/// A kernel file: a `File`, or in tests a cursor.
pub trait Image: Read + ReadVolatile + Seek {}
impl<T: Read + ReadVolatile + Seek> Image for T {}

/// The longest command line that x86 kernels take, its NUL not counted (`COMMAND_LINE_SIZE`, arch/x86/include/asm/setup.h).
const LONGEST_COMMAND_LINE: usize = 2047;

/// Loads all of it into the memory of a machine that has `size` bytes; `root` is ACPI's root pointer.
///
/// # Errors
/// What is wrong with the files, or too large for the machine.
pub fn load(memory: &GuestMemoryMmap, size: u64, mut payload: Payload, root: GuestAddress) -> Result<Start, BootError> {
    // Memory is one piece up to here.
    let room = size.min(layout::HOLE.raw_value());
    let kernel = &mut payload.kernel;
    let length = kernel.seek(SeekFrom::End(0)).map_err(BootError::Read)?;
    if length >= 4 && read_at::<4>(kernel, 0, "the magic number")? == *b"\x7fELF" {
        let kernel = pvh::load(memory, room, kernel)?;
        let command_line = write_command_line(memory, payload.command_line, LONGEST_COMMAND_LINE)?;
        let initramfs = write_initramfs(memory, payload.initramfs, kernel.end, room)?;
        pvh::write_information(memory, size, &Gift { command_line, initramfs, root })?;
        return Ok(Start::Flat { entry: kernel.entry });
    }
    let kernel = linux::load(memory, room, kernel)?;
    let command_line = write_command_line(memory, payload.command_line, kernel.longest_command_line)?;
    let initramfs = write_initramfs(memory, payload.initramfs, kernel.end, kernel.initramfs_end.min(room))?;
    linux::write_information(memory, size, &kernel, &Gift { command_line, initramfs, root })?;
    Ok(Start::Long { entry: kernel.entry })
}

/// What the kernel is told of, beside the memory map.
pub struct Gift {
    /// Its command line, which ends with a NUL.
    pub command_line: GuestAddress,
    /// Where the initramfs is, and its length.
    pub initramfs: Option<(GuestAddress, u64)>,
    /// ACPI's root pointer.
    pub root: GuestAddress,
}

fn write_command_line(memory: &GuestMemoryMmap, line: &str, most: usize) -> Result<GuestAddress, BootError> {
    if line.contains('\0') {
        return Err(BootError::Nul);
    }
    let most = most.min(LONGEST_COMMAND_LINE);
    if line.len() > most {
        return Err(BootError::CommandLine { length: line.len(), most });
    }
    let bytes = [line.as_bytes(), &[0]].concat();
    memory.write_slice(&bytes, layout::COMMAND_LINE).map_err(|error| BootError::Write("the command line", error))?;
    Ok(layout::COMMAND_LINE)
}

/// Puts it as high as it can between `kernel` and `end`.
fn write_initramfs(
    memory: &GuestMemoryMmap,
    file: Option<File>,
    kernel: GuestAddress,
    end: u64,
) -> Result<Option<(GuestAddress, u64)>, BootError> {
    let Some(mut file) = file else { return Ok(None) };
    let length = file.seek(SeekFrom::End(0)).map_err(BootError::Initramfs)?;
    file.rewind().map_err(BootError::Initramfs)?;
    let lowest = kernel.raw_value().next_multiple_of(layout::PAGE);
    let room = end.saturating_sub(lowest);
    let Some(start) = end.checked_sub(length).map(|start| start / layout::PAGE * layout::PAGE).filter(|start| *start >= lowest) else {
        return Err(BootError::InitramfsRoom { length, room });
    };
    let start = GuestAddress(start);
    memory
        .read_exact_volatile_from(start, &mut file, length as usize)
        .map_err(|error| BootError::Initramfs(io::Error::other(error.to_string())))?;
    Ok(Some((start, length)))
}

/// Reads `N` bytes at an offset of the kernel; `what` they are.
fn read_at<const N: usize>(kernel: &mut impl Image, offset: u64, what: &'static str) -> Result<[u8; N], BootError> {
    let length = kernel.seek(SeekFrom::End(0)).map_err(BootError::Read)?;
    match offset.checked_add(N as u64) {
        Some(end) if end <= length => {}
        end => return Err(BootError::Truncated { what, end: end.unwrap_or(u64::MAX), length }),
    }
    let mut bytes = [0; N];
    kernel.seek(SeekFrom::Start(offset)).map_err(BootError::Read)?;
    kernel.read_exact(&mut bytes).map_err(BootError::Read)?;
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::Write;

    pub(super) const ROOM: u64 = 64 << 20;

    pub(super) fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), ROOM as usize)]).unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn refusal(kernel: &[u8]) -> String {
        let payload = Payload { kernel: file(kernel), initramfs: None, command_line: "" };
        load(&memory(), ROOM, payload, layout::ACPI).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_kernel_is_said_to_be_none() {
        assert_eq!(refusal(b""), "the kernel file is neither an ELF file nor a bzImage");
        assert_eq!(refusal(&[b'#'; 2000]), "the kernel file is neither an ELF file nor a bzImage");
        assert_eq!(refusal(b"\x7fELF"), "the kernel file is truncated: the ELF header ends at byte 64, the file at 4");
    }

    #[test]
    fn a_command_line_has_an_end() {
        let memory = memory();
        write_command_line(&memory, "quiet", 5).unwrap();
        assert_eq!(memory.read_obj::<[u8; 6]>(layout::COMMAND_LINE).unwrap(), *b"quiet\0");
        assert!(matches!(write_command_line(&memory, "quiet!", 5), Err(BootError::CommandLine { length: 6, most: 5 })));
        assert!(matches!(write_command_line(&memory, "a\0b", 5), Err(BootError::Nul)));
        assert!(write_command_line(&memory, &"x".repeat(2048), usize::MAX).is_err());
    }

    #[test]
    fn an_initramfs_is_as_high_as_it_can_be() {
        let memory = memory();
        let kernel = GuestAddress(0x20_0001);
        let archive = [7; 5000];
        let (start, length) = write_initramfs(&memory, Some(file(&archive)), kernel, ROOM).unwrap().unwrap();
        assert_eq!((start.raw_value(), length), (ROOM - 8192, 5000));
        assert_eq!(memory.read_obj::<u8>(start.unchecked_add(4999)).unwrap(), 7);
        assert!(write_initramfs(&memory, Some(file(&archive)), kernel, 0x20_3000).unwrap().is_some());
        let error = write_initramfs(&memory, Some(file(&archive)), kernel, 0x20_2000).unwrap_err();
        assert!(matches!(error, BootError::InitramfsRoom { length: 5000, room: 4096 }), "{error}");
        assert!(write_initramfs(&memory, Some(file(&archive)), GuestAddress(ROOM), 0).is_err());
    }
}
