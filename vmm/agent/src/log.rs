//! The agent's log: lines on standard error, which in a guest is the console that the monitor keeps the tail of.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Log more.
pub fn set_debug(debug: bool) {
    DEBUG.store(debug, Ordering::Relaxed);
}

/// What an operator must see. A console that can not be written to loses it: there is nobody else to tell.
pub fn error(text: impl Display) {
    let _ = std::io::stderr().write_all(format!("agent: {text}\n").as_bytes());
}

/// What helps to find an error.
pub fn debug(text: impl Display) {
    if DEBUG.load(Ordering::Relaxed) {
        error(text);
    }
}
