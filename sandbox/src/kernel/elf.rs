//! What the kernel has to know of an executable before the host's own loader runs it (elf(5), execve(2)).
//!
//! The host loads programs; this module only finds out *which other files* it will open on the way: the interpreter of
//! a script, the dynamic loader of an ELF file. The bytes come from files that the workload may have written: every
//! number in them is checked before it is used.

use crate::errno::{Errno, Result};

/// How much of a script's first line counts (`BINPRM_BUF_SIZE` in include/uapi/linux/binfmts.h).
pub const HEAD: usize = 256;
/// The size of an ELF64 program header.
const PROGRAM_HEADER: usize = 56;
/// `PT_INTERP`.
const INTERPRETER: u32 = 3;

/// What kind of program a file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Program {
    /// A script, run by this interpreter.
    Script(Vec<u8>),
    /// An ELF file for this machine, with the path of its dynamic loader where it has one.
    Elf(Option<Vec<u8>>),
}

/// Finds out what a file is. `read` fills a buffer from an offset and gives how much there was.
///
/// `ENOEXEC` where the host would not run it: no known format, another machine, a broken header.
pub fn examine(read: impl Fn(&mut [u8], u64) -> Result<usize>) -> Result<Program> {
    let mut head = [0u8; HEAD];
    let length = read(&mut head, 0)?;
    let head = &head[..length];
    if head.starts_with(b"#!") { script(head).map(Program::Script) } else { elf(head, read).map(Program::Elf) }
}

/// The interpreter named in a script's first line, as load_script() in fs/binfmt_script.c takes it apart: in a buffer of [`HEAD`] bytes, zeroes behind
/// the file's end.
fn script(head: &[u8]) -> Result<Vec<u8>> {
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let ends = |byte: &u8| blank(byte) || *byte == 0;
    let mut buffer = [0u8; HEAD];
    buffer[..head.len()].copy_from_slice(head);
    let line = &buffer[2..HEAD];
    let end = match line.iter().position(|&byte| byte == b'\n' || byte == 0).filter(|end| line[*end] == b'\n') {
        Some(end) => end,
        None => {
            // Without a line's end: the name itself must have one, or it may go on past what is looked at.
            let start = line.iter().position(|byte| !blank(byte)).ok_or(Errno::ENOEXEC)?;
            line[start..].iter().position(ends).ok_or(Errno::ENOEXEC)?;
            // The last byte is overwritten by a NUL.
            line.len() - 1
        }
    };
    let line = &line[..end];
    let start = line.iter().position(|byte| !blank(byte)).ok_or(Errno::ENOEXEC)?;
    let name = &line[start..];
    let name = &name[..name.iter().position(ends).unwrap_or(name.len())];
    // An empty name leads to the working directory, which nobody executes.
    if name.is_empty() { Err(Errno::EACCES) } else { Ok(name.to_vec()) }
}

/// The dynamic loader of an ELF file, as fs/binfmt_elf.c looks for it.
fn elf(head: &[u8], read: impl Fn(&mut [u8], u64) -> Result<usize>) -> Result<Option<Vec<u8>>> {
    if head.len() < 64 || &head[..4] != b"\x7fELF" {
        return Err(Errno::ENOEXEC);
    }
    let half = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let class_and_order = &head[4..6];
    let (kind, machine) = (half(16), half(18));
    // 64 bits, little-endian; ET_EXEC or ET_DYN; EM_X86_64.
    if class_and_order != [2, 1] || !matches!(kind, 2 | 3) || machine != 62 {
        return Err(Errno::ENOEXEC);
    }
    let offset = u64::from_le_bytes(head[32..40].try_into().unwrap_or_default());
    let (size, count) = (half(54) as usize, half(56) as usize);
    if size != PROGRAM_HEADER || count == 0 || count > 65536 / PROGRAM_HEADER {
        return Err(Errno::ENOEXEC);
    }
    let mut headers = vec![0u8; count * PROGRAM_HEADER];
    if read(&mut headers, offset)? != headers.len() {
        return Err(Errno::ENOEXEC);
    }
    for header in headers.chunks_exact(PROGRAM_HEADER) {
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
        if u32::from_le_bytes(header[..4].try_into().unwrap_or_default()) != INTERPRETER {
            continue;
        }
        let (at, length) = (word(8), word(32));
        if length < 2 || length > libc::PATH_MAX as u64 {
            return Err(Errno::ENOEXEC);
        }
        let mut path = vec![0u8; length as usize];
        if read(&mut path, at)? != path.len() || path.pop() != Some(0) {
            return Err(Errno::ENOEXEC);
        }
        // The host stops at the first NUL.
        let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
        path.truncate(end);
        return Ok(Some(path));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(bytes: &[u8]) -> Result<Program> {
        examine(|into, at| {
            let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]);
            let length = rest.len().min(into.len());
            into[..length].copy_from_slice(&rest[..length]);
            Ok(length)
        })
    }

    #[test]
    fn scripts() {
        let interpreter = |name: &str| Ok(Program::Script(name.as_bytes().to_vec()));
        assert_eq!(of(b"#!/bin/sh\necho"), interpreter("/bin/sh"));
        assert_eq!(of(b"#! \t/bin/env python3 -u\n"), interpreter("/bin/env"));
        assert_eq!(of(b"#!/bin/sh"), interpreter("/bin/sh"));
        assert_eq!(of(b"#!\n/bin/sh"), Err(Errno::ENOEXEC));
        assert_eq!(of(b"#!   \n"), Err(Errno::ENOEXEC));
        let mut long = b"#!/".to_vec();
        long.resize(400, b'x');
        assert_eq!(of(&long), Err(Errno::ENOEXEC));
        long[100] = b' ';
        assert!(matches!(of(&long), Ok(Program::Script(name)) if name.len() == 98));
    }

    #[test]
    fn this_test_is_an_executable() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        assert!(matches!(of(&bytes), Ok(Program::Elf(_))));
    }

    #[test]
    fn other_formats_are_refused() {
        assert_eq!(of(b""), Err(Errno::ENOEXEC));
        assert_eq!(of(b"hello world"), Err(Errno::ENOEXEC));
        let mut truncated = std::fs::read("/proc/self/exe").unwrap();
        truncated.truncate(64);
        assert_eq!(of(&truncated), Err(Errno::ENOEXEC));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), elf: bool) {
            if elf && bytes.len() >= 64 {
                bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
                bytes[16..20].copy_from_slice(&[3, 0, 62, 0]);
                bytes[54..58].copy_from_slice(&[56, 0, 2, 0]);
                let offset = u64::from(bytes[40]);
                bytes[32..40].copy_from_slice(&offset.to_le_bytes());
            }
            let _ = of(&bytes);
        }
    }
}
