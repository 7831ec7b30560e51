//! `--strace`: each call with decoded arguments, in the log, as strace(1) writes it.
//!
//! Nothing here decides anything. A line is made when the call's answer is known and before it is given, while the caller stands still. Paths are shown as the
//! handler read them ([`Seen`]), so that what is logged is what was decided on, whatever another thread has written there since. Other memory (buffers, socket
//! addresses, argument lists) is read again for the log, and may have changed since: it is marked by nothing, as strace(1) marks it by nothing.
//!
//! | room | what |
//! |---|---|
//! | [`shapes`] | which argument of which call is what: one table; what is not there is shown as the call's own table says |
//! | [`flags`] | the names of bits and values: one table for each kind |

use std::fmt::Write;
use std::sync::Arc;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::Result;
use crate::platform::memory::Address;
use crate::sync::Mutex;

mod flags;
mod shapes;

use shapes::Shape;

/// How many bytes of a buffer are shown, as by strace(1).
const SHOWN: usize = 32;
/// How many strings of a list are shown.
const LISTED: usize = 32;

/// The paths that a call's handler has read, with the argument each came from.
pub type Seen = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

/// Logs a finished call, where its container is traced.
pub fn trace(call: &Call, entry: Option<&Entry>, result: &Result<Outcome>) {
    if call.process.container.strace {
        crate::log::line(&text(call, entry, result));
    }
}

fn text(call: &Call, entry: Option<&Entry>, result: &Result<Outcome>) -> String {
    let mut text = format!("[{}] ", call.thread.inner);
    let name = entry.map(|entry| entry.name).or_else(|| super::names::name(call.number));
    let name = name.map_or_else(|| format!("syscall_{}", call.number), String::from);
    let plain = entry.map_or(&[Argument::Hex, Argument::Hex, Argument::Hex][..], |entry| entry.arguments);
    let value = match result {
        Ok(Outcome::Value(value)) => Some(*value),
        _ => None,
    };
    let shown: Vec<String> = match shapes::of(call.number) {
        Some(shapes) => shapes.iter().enumerate().filter_map(|(index, shape)| argument(call, index, *shape, value)).collect(),
        None => plain.iter().enumerate().filter_map(|(index, kind)| argument(call, index, Shape::Plain(*kind), value)).collect(),
    };
    let _ = write!(text, "{name}({})", shown.join(", "));
    let _ = match result {
        Ok(Outcome::Value(value)) if shapes::gives_address(call.number) => write!(text, " = {value:#x}"),
        Ok(Outcome::Value(value)) => write!(text, " = {value}"),
        Ok(Outcome::Continue) => write!(text, " = (host)"),
        Ok(_) => write!(text, " = ?"),
        Err(error) => write!(text, " = -1 {error}"),
    };
    text
}

/// One argument; `None` for one that means nothing in this call (the mode of an open that makes nothing).
fn argument(call: &Call, index: usize, shape: Shape, result: Option<i64>) -> Option<String> {
    let raw = call.raw(index);
    let length = |of: usize| usize::try_from(call.raw(of)).unwrap_or(usize::MAX);
    Some(match shape {
        Shape::Plain(kind) => plain(call, index, kind),
        Shape::Flags(table) => flags::bits(table, raw),
        Shape::Choice(table) => flags::choice(table, raw),
        Shape::Open => flags::open(raw as u32),
        Shape::OpenMode(of) if raw_creates(call.uint(of)) => octal(raw),
        Shape::OpenMode(_) => return None,
        Shape::CloneFlags => flags::clone(raw),
        Shape::SocketType => flags::socket_type(raw as u32),
        Shape::Given(of) => buffer(call, raw, length(of)),
        // Filled by the call: as much of it as the call says.
        Shape::Filled => match result {
            Some(filled) => buffer(call, raw, usize::try_from(filled).unwrap_or(0)),
            None => format!("{raw:#x}"),
        },
        Shape::Target(of) => match result {
            Some(filled) if filled >= 0 => buffer(call, raw, length(of).min(filled as usize)),
            _ => format!("{raw:#x}"),
        },
        Shape::SocketAddress(of) => socket_address(call, raw, length(of)),
        Shape::Strings => strings(call, raw),
        Shape::Descriptors if result.is_some() => pair(call, raw),
        Shape::Descriptors => format!("{raw:#x}"),
    })
}

/// As C writes it.
fn octal(value: u64) -> String {
    if value == 0 { String::from("0") } else { format!("0{value:o}") }
}

fn raw_creates(flags: u32) -> bool {
    /// `__O_TMPFILE`.
    const TEMPORARY: u32 = 0o20_000_000;
    flags & (libc::O_CREAT as u32 | TEMPORARY) != 0
}

fn plain(call: &Call, index: usize, kind: Argument) -> String {
    let raw = call.raw(index);
    match kind {
        Argument::Number => format!("{}", raw as i64),
        Argument::Descriptor => format!("{}", raw as i32),
        Argument::Signal => flags::signal(raw as i32),
        Argument::Directory if raw as i32 == libc::AT_FDCWD => String::from("AT_FDCWD"),
        Argument::Directory => format!("{}", raw as i32),
        Argument::Octal => octal(raw),
        Argument::Hex => format!("{raw:#x}"),
        Argument::Pointer if raw == 0 => String::from("NULL"),
        Argument::Pointer => format!("{raw:#x}"),
        Argument::Path => path(call, index),
    }
}

/// A path as the handler read it; one that it did not come to is read now.
fn path(call: &Call, index: usize) -> String {
    let seen = call.seen.as_ref().and_then(|seen| seen.lock().iter().find(|(of, _)| *of == index).map(|(_, path)| path.clone()));
    match seen.map_or_else(|| call.memory().read_path(call.address(index)).ok(), Some) {
        Some(path) => quoted(&path, usize::MAX),
        None if call.raw(index) == 0 => String::from("NULL"),
        None => format!("{:#x}", call.raw(index)),
    }
}

/// Bytes in quotation marks, what is not printable escaped, `...` behind what is longer than `most`.
fn quoted(bytes: &[u8], most: usize) -> String {
    let mut text = String::from("\"");
    for &byte in bytes.iter().take(most) {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text.push('"');
    if bytes.len() > most {
        text.push_str("...");
    }
    text
}

fn buffer(call: &Call, at: u64, length: usize) -> String {
    // One byte more than is shown tells that there is more.
    let mut bytes = vec![0u8; length.min(SHOWN + 1)];
    if at == 0 {
        return String::from("NULL");
    }
    match call.memory().read(Address(at), &mut bytes) {
        Ok(()) => quoted(&bytes, SHOWN),
        Err(_) => format!("{at:#x}"),
    }
}

fn socket_address(call: &Call, at: u64, length: usize) -> String {
    let mut bytes = vec![0u8; length.min(110)];
    match call.memory().read(Address(at), &mut bytes) {
        Ok(()) if at != 0 && length >= 2 => flags::address(&bytes),
        _ if at == 0 => String::from("NULL"),
        _ => format!("{at:#x}"),
    }
}

/// A list of strings that ends with a null pointer: argv.
fn strings(call: &Call, at: u64) -> String {
    let mut shown = Vec::new();
    for index in 0..=LISTED as u64 {
        let Ok(pointer) = call.memory().read_value::<u64>(Address(at.wrapping_add(8 * index))) else { break };
        if pointer == 0 {
            break;
        }
        if shown.len() == LISTED {
            shown.push(String::from("..."));
            break;
        }
        let text = call.memory().read_string(Address(pointer), 4096).map(|text| quoted(&text, 4 * SHOWN));
        shown.push(text.unwrap_or_else(|_| format!("{pointer:#x}")));
    }
    if at == 0 { String::from("NULL") } else { format!("[{}]", shown.join(", ")) }
}

fn pair(call: &Call, at: u64) -> String {
    call.memory().read_value::<[i32; 2]>(Address(at)).map_or_else(|_| format!("{at:#x}"), |[one, two]| format!("[{one}, {two}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_quoted_and_cut() {
        assert_eq!(quoted(b"a\"b\\\n\x01\xff", 100), "\"a\\\"b\\\\\\n\\x01\\xff\"");
        assert_eq!(quoted(&[b'x'; 40], SHOWN), format!("\"{}\"...", "x".repeat(SHOWN)));
        assert_eq!(quoted(b"", SHOWN), "\"\"");
    }

    #[test]
    fn numbers_are_as_c_has_them() {
        assert_eq!((octal(0), octal(0o644)), (String::from("0"), String::from("0644")));
    }

    #[test]
    fn a_mode_is_shown_where_a_file_is_made() {
        assert!(raw_creates(libc::O_CREAT as u32) && raw_creates(libc::O_TMPFILE as u32));
        assert!(!raw_creates(libc::O_DIRECTORY as u32));
    }
}
