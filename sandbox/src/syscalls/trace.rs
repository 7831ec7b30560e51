//! `--strace`: each call with decoded arguments, in the log.

use super::{Argument, Call, Entry, Outcome};
use crate::errno::Result;

/// Logs a finished call, where its container is traced.
pub fn trace(call: &Call, entry: Option<&Entry>, result: &Result<Outcome>) {
    if call.process.container.strace {
        crate::log::line(&text(call, entry, result));
    }
}

fn text(call: &Call, entry: Option<&Entry>, result: &Result<Outcome>) -> String {
    let mut text = format!("[{}] ", call.thread.inner);
    match entry {
        Some(entry) => {
            let shown: Vec<String> = entry.arguments.iter().enumerate().map(|(index, kind)| argument(call, index, *kind)).collect();
            text.push_str(&format!("{}({})", entry.name, shown.join(", ")));
        }
        None => {
            let name = super::names::name(call.number).map_or_else(|| format!("syscall_{}", call.number), String::from);
            text.push_str(&format!("{name}({:#x}, {:#x}, {:#x})", call.raw(0), call.raw(1), call.raw(2)));
        }
    }
    match result {
        Ok(Outcome::Value(value)) => text.push_str(&format!(" = {value}")),
        Ok(Outcome::Continue) => text.push_str(" = (host)"),
        Ok(_) => text.push_str(" = ?"),
        Err(error) => text.push_str(&format!(" = -1 {error}")),
    }
    text
}

fn argument(call: &Call, index: usize, kind: Argument) -> String {
    let raw = call.raw(index);
    match kind {
        Argument::Number => format!("{}", raw as i64),
        Argument::Descriptor | Argument::Signal => format!("{}", raw as i32),
        Argument::Directory if raw as i32 == libc::AT_FDCWD => String::from("AT_FDCWD"),
        Argument::Directory => format!("{}", raw as i32),
        Argument::Octal => format!("{raw:#o}"),
        Argument::Hex => format!("{raw:#x}"),
        Argument::Pointer if raw == 0 => String::from("NULL"),
        Argument::Pointer => format!("{raw:#x}"),
        Argument::Path => match call.path(index) {
            Ok(path) => format!("{:?}", String::from_utf8_lossy(&path)),
            Err(_) => format!("{raw:#x}"),
        },
    }
}
