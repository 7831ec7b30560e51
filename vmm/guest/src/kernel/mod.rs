//! A distribution's kernel: *which* one ([`find`]), and out of its wrapping ([`bzimage`]).
//!
//! `/boot/vmlinuz-*` is a *bzImage*: a real-mode setup, a decompressor, and the packed kernel. A guest that boots it decompresses it itself, every time, into
//! memory that the host then backs. So the image holds the unpacked kernel, with nothing but what is loaded of it
//! ([`crate::elf::Elf::loaded_alone`]), wherever it can be entered without the decompressor: through its PVH note (`CONFIG_PVH`, which Debian sets).
//! What is lost with the decompressor is `CONFIG_RANDOMIZE_BASE`'s choice of a physical and virtual base: that of the kernel's text, not of its
//! other memory (`CONFIG_RANDOMIZE_MEMORY` is done by the kernel itself).

pub mod bzimage;
pub mod find;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::BuildError;
use crate::elf::Elf;
use crate::manifest::Format;

/// The largest kernel file that is read, bytes, packed or not.
pub(crate) const LARGEST: u64 = 512 << 20;

/// A kernel as a guest is given it.
pub struct Kernel {
    /// As uname(2) has it in the guest.
    pub release: String,
    /// How it is to be loaded.
    pub format: Format,
    /// The file.
    pub bytes: Vec<u8>,
}

/// Reads the kernel at `path`, a bzImage, and unpacks it where it has a PVH entry.
///
/// # Errors
/// [`BuildError`], which names the file.
pub fn read(path: &Path) -> Result<Kernel, BuildError> {
    let bytes = read_file(path, LARGEST)?;
    let not_kernel = |reason: String| BuildError::NotKernel { path: path.to_owned(), reason };
    let wrapped = bzimage::parse(&bytes).map_err(|error| not_kernel(error.to_string()))?;
    let release = wrapped.release.clone();
    let Some(payload) = wrapped.payload else {
        return Ok(Kernel { release, format: Format::BzImage, bytes });
    };
    let unpacked = crate::decompress::decompress(&path.display().to_string(), payload.to_vec(), LARGEST)?;
    // What is packed with a method that nobody here knows stays as it is.
    match Elf::parse(&unpacked) {
        Ok(elf) if elf.is_program() && elf.has_pvh_entry() => Ok(Kernel { release, format: Format::Vmlinux, bytes: elf.loaded_alone() }),
        _ => Ok(Kernel { release, format: Format::BzImage, bytes }),
    }
}

/// Reads a file of `longest` bytes at most.
pub(crate) fn read_file(path: &Path, longest: u64) -> Result<Vec<u8>, BuildError> {
    // Nonblocking: a fifo in the file's place must not hang us.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(BuildError::file(path))?;
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes).map_err(BuildError::file(path))?;
    if bytes.len() as u64 > longest {
        return Err(BuildError::TooLarge { path: path.to_owned(), longest });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::{file, pvh_note};
    use std::process::{Command, Stdio};

    fn packed(content: &[u8]) -> Vec<u8> {
        let source = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(source.path(), content).unwrap();
        let output = Command::new("gzip").args(["-nc"]).stdin(File::open(source.path()).unwrap()).stdout(Stdio::piped()).output().unwrap();
        output.stdout
    }

    #[test]
    fn a_kernel_with_a_pvh_entry_is_unpacked_and_another_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinuz");
        let note = pvh_note();
        for (notes, format) in [(&note[..], Format::Vmlinux), (b"", Format::BzImage)] {
            let vmlinux = file(2, &[(1, 0x100_0000, b"kernel", 4096), (4, 0, notes, 0)], b"");
            let wrapped = bzimage::tests::wrap("6.12.9+x (somebody)", &packed(&vmlinux));
            std::fs::write(&path, &wrapped).unwrap();
            let kernel = read(&path).unwrap();
            assert_eq!((kernel.release.as_str(), kernel.format), ("6.12.9+x", format));
            assert_eq!(kernel.bytes, if format == Format::Vmlinux { Elf::parse(&vmlinux).unwrap().loaded_alone() } else { wrapped });
        }
        std::fs::write(&path, b"\x7fELF").unwrap();
        let error = read(&path).err().unwrap().to_string();
        assert_eq!(error, format!("{}: not a Linux kernel for x86-64: too short for a bzImage", path.display()));
    }
}
