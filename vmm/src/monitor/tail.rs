//! The end of what the guest has written to its console: the first thing that anybody asks for when a guest does not start.
//!
//! It is the guest's text, so it may be anything: control characters, which would speak to the terminal of whoever reads the log, are not passed on.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_launch::log;

/// Bytes that are kept.
const KEPT: usize = 8 << 10;
/// Lines that an error shows.
const SHOWN: usize = 20;
/// The longest line that is logged at once, bytes.
const LONGEST_LINE: usize = 512;

#[derive(Debug, Default)]
struct Text {
    kept: VecDeque<u8>,
    /// What has come of a line, for the log.
    line: Vec<u8>,
}

/// The tail of a console. Clones share it. With `--debug` each line is logged, too.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<Text>>);

impl Tail {
    /// The last lines, without control characters; empty where there is none.
    pub fn lines(&self) -> Vec<String> {
        let bytes: Vec<u8> = self.text().kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let mut lines: Vec<String> = text.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
        lines.split_off(lines.len().saturating_sub(SHOWN))
    }

    /// An error, and the last lines below it.
    pub fn explain(&self, error: &str) -> String {
        let lines = self.lines();
        if lines.is_empty() {
            return format!("{error}; the guest has written nothing to its console");
        }
        format!("{error}; the end of the guest's console:\n  {}", lines.join("\n  "))
    }

    fn text(&self) -> MutexGuard<'_, Text> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = self.text();
        text.kept.extend(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let surplus = text.kept.len().saturating_sub(KEPT);
        text.kept.drain(..surplus);
        for &byte in bytes {
            if byte != b'\n' {
                text.line.push(byte);
            }
            if byte == b'\n' || text.line.len() == LONGEST_LINE {
                let line = std::mem::take(&mut text.line);
                log::debug(&format!("guest: {}", printable(&String::from_utf8_lossy(&line))));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text without escape sequences (ECMA-48, 5.4) and other control characters.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' if characters.next_if_eq(&'[').is_some() => {
                // Parameters and intermediates, then one final byte.
                while characters.next_if(|next| (' '..='?').contains(next)).is_some() {}
                characters.next_if(|next| ('@'..='~').contains(next));
            }
            '\t' => shown.push(' '),
            character if character.is_control() => {}
            character => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_lines_explain_an_error() {
        let mut tail = Tail::default();
        assert_eq!(tail.explain("late"), "late; the guest has written nothing to its console");
        for number in 0..30 {
            write!(tail, "[    0.{number:02}] \x1b[1;31mline\x1b[0m {number}\r\n").unwrap();
        }
        let lines = tail.lines();
        assert_eq!(lines.len(), SHOWN);
        assert_eq!(lines[0], "[    0.10] line 10");
        assert!(tail.explain("late").ends_with("\n  [    0.29] line 29"));
    }

    proptest! {
        #[test]
        fn what_a_guest_writes_is_bounded_and_speaks_to_no_terminal(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..12)) {
            let mut tail = Tail::default();
            for piece in &pieces {
                prop_assert_eq!(tail.write(piece).unwrap(), piece.len());
            }
            prop_assert!(tail.text().kept.len() <= KEPT && tail.text().line.len() <= LONGEST_LINE);
            for line in tail.lines() {
                prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
            }
        }
    }
}
