//! Unpacking what kernels and modules are packed with.
//!
//! By the host's own programs (xz(1), zstd(1), gzip(1), lz4(1)), not by libraries: an image is built once for each kernel, by an operator; six decompressors in
//! a binary that starts every pod would be there for nothing all the rest of the time. A host whose modules are packed has the program, or the error
//! says which package has it. The format is told by its first bytes, because a kernel's payload has no file name.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::BuildError;

/// A format: how a file of it begins, and who unpacks it.
struct Format {
    magic: &'static [u8],
    program: &'static str,
    arguments: &'static [&'static str],
    package: &'static str,
}

/// The formats that kernels (`lib/decompress.c`) and modules are packed with.
const FORMATS: [Format; 6] = [
    Format { magic: b"\xfd7zXZ\0", program: "xz", arguments: &["-dc"], package: "xz-utils" },
    Format { magic: b"\x28\xb5\x2f\xfd", program: "zstd", arguments: &["-dcq"], package: "zstd" },
    Format { magic: b"\x1f\x8b", program: "gzip", arguments: &["-dc"], package: "gzip" },
    Format { magic: b"\x02\x21\x4c\x18", program: "lz4", arguments: &["-dcq"], package: "lz4" },
    Format { magic: b"BZh", program: "bzip2", arguments: &["-dc"], package: "bzip2" },
    Format { magic: b"\x5d\0\0", program: "xz", arguments: &["-dc", "--format=lzma"], package: "xz-utils" },
];

/// Unpacks `packed`, or gives it back where it is not packed. `what` names it in errors; more than `longest` bytes are an error.
///
/// # Errors
/// [`BuildError::NoProgram`], [`BuildError::Program`], [`BuildError::TooLarge`].
pub fn decompress(what: &str, packed: Vec<u8>, longest: u64) -> Result<Vec<u8>, BuildError> {
    let Some(format) = FORMATS.iter().find(|format| packed.starts_with(format.magic)) else { return Ok(packed) };
    let failed = |reason: String| BuildError::Program { program: format.program.to_owned(), what: what.to_owned(), reason };
    let input = memory_file(&packed).map_err(|error| failed(error.to_string()))?;
    drop(packed);
    // Its words go to a file, not to a pipe: nobody has to empty one pipe while the other fills.
    let mut words: File = memory_file(&[]).map_err(|error| failed(error.to_string()))?.into();
    let stderr = words.try_clone().map_err(|error| failed(error.to_string()))?;
    let spawned = Command::new(format.program).args(format.arguments).stdin(input).stdout(Stdio::piped()).stderr(stderr).spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            BuildError::NoProgram { what: what.to_owned(), program: format.program.to_owned(), package: format.package.to_owned() }
        }
        _ => failed(error.to_string()),
    })?;
    let mut unpacked = Vec::new();
    // Dropped before the wait: a program with more to say than is wanted ends by SIGPIPE.
    let read = child.stdout.take().expect("piped above").take(longest + 1).read_to_end(&mut unpacked);
    let status = child.wait();
    read.map_err(|error| failed(error.to_string()))?;
    if unpacked.len() as u64 > longest {
        return Err(BuildError::TooLarge { path: what.into(), longest });
    }
    let status = status.map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        let mut text = String::new();
        let _ = words.rewind().and_then(|()| (&words).take(1000).read_to_string(&mut text));
        return Err(failed(format!("{status}: {}", text.trim())));
    }
    Ok(unpacked)
}

fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file: File = memfd_create("bulkhead-packed", MFdFlags::MFD_CLOEXEC)?.into();
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(program: &str, content: &[u8]) -> Option<Vec<u8>> {
        let spawned = Command::new(program).arg("-c").stdin(memory_file(content).unwrap()).stdout(Stdio::piped()).spawn();
        let output = spawned.ok()?.wait_with_output().unwrap();
        Some(output.stdout)
    }

    #[test]
    fn what_was_packed_comes_back() {
        let content: Vec<u8> = (0..200_000u32).flat_map(|index| (index / 7).to_le_bytes()).collect();
        for program in ["xz", "zstd", "gzip"] {
            let Some(packed) = packed(program, &content) else {
                println!("not run: it needs {program}");
                continue;
            };
            assert!(packed.len() < content.len());
            assert_eq!(decompress("x", packed.clone(), 1 << 20).unwrap(), content, "{program}");
            let error = decompress("/lib/modules/x.ko", packed.clone(), 1000).unwrap_err().to_string();
            assert_eq!(error, "/lib/modules/x.ko: longer than 1000 bytes", "{program}");
            let error = decompress("x.ko", packed[..packed.len() / 2].to_vec(), 1 << 20).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{program} on x.ko: exit status: ")), "{error}");
        }
        assert_eq!(decompress("x", b"\x7fELF".to_vec(), 4).unwrap(), b"\x7fELF");
    }
}
