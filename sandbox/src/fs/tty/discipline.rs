//! The line discipline N_TTY (termios(3), drivers/tty/n_tty.c): what happens to a byte between the two sides of a terminal.
//!
//! Pure state: bytes in, bytes out, signals to send. Nobody is woken here and nothing blocks.

use std::collections::VecDeque;

use super::termios::Termios;

/// How many bytes of input are kept (`N_TTY_BUF_SIZE`); more are dropped, with a bell where `IMAXBEL`.
const INPUT: usize = 4096;
/// How many bytes of output wait for the master before writers wait.
const OUTPUT: usize = 16 << 10;

/// A terminal's queues and settings.
#[derive(Default)]
pub struct Discipline {
    /// Settings.
    pub termios: Termios,
    /// What the program may read: in canonical mode only whole lines are counted in `lines`.
    input: VecDeque<u8>,
    /// Lengths of the whole lines at the front of `input`, and whether one ends with end-of-file (which is not a byte).
    lines: VecDeque<(usize, bool)>,
    /// The line that is being typed.
    editing: Vec<u8>,
    /// What the master may read.
    output: VecDeque<u8>,
    /// Where the cursor is, for tabs and erasing.
    column: usize,
    /// Output is stopped (`^S`).
    pub stopped: bool,
    literal: bool,
}

/// What a read finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// So many bytes were given.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
}

impl Discipline {
    fn canonical(&self) -> bool {
        self.termios.local(libc::ICANON)
    }

    /// Takes bytes from the master's side. Gives the signals to send to the foreground group.
    pub fn receive(&mut self, bytes: &[u8]) -> Vec<i32> {
        let mut signals = Vec::new();
        for &byte in bytes {
            self.receive_byte(byte, &mut signals);
        }
        signals
    }

    fn receive_byte(&mut self, mut byte: u8, signals: &mut Vec<i32>) {
        let termios = self.termios;
        if termios.input & libc::ISTRIP != 0 {
            byte &= 0x7f;
        }
        if self.literal {
            self.literal = false;
            self.accept(byte, true);
            return;
        }
        if termios.input & libc::IXON != 0 {
            if termios.is(byte, libc::VSTART) {
                self.stopped = false;
                return;
            }
            if termios.is(byte, libc::VSTOP) {
                self.stopped = true;
                return;
            }
            if self.stopped && termios.input & libc::IXANY != 0 {
                self.stopped = false;
            }
        }
        if termios.local(libc::ISIG) {
            let raised = [(libc::VINTR, libc::SIGINT), (libc::VQUIT, libc::SIGQUIT), (libc::VSUSP, libc::SIGTSTP)];
            if let Some((_, signal)) = raised.into_iter().find(|(which, _)| termios.is(byte, *which)) {
                if !termios.local(libc::NOFLSH) {
                    self.flush_input();
                    self.output.clear();
                }
                self.stopped = false;
                if termios.local(libc::ECHO) {
                    self.echo(byte);
                }
                signals.push(signal);
                return;
            }
        }
        match byte {
            b'\r' if termios.input & libc::IGNCR != 0 => return,
            b'\r' if termios.input & libc::ICRNL != 0 => byte = b'\n',
            b'\n' if termios.input & libc::INLCR != 0 => byte = b'\r',
            _ => {}
        }
        if !self.canonical() {
            self.accept(byte, false);
            return;
        }
        self.edit(byte);
    }

    /// Canonical mode: editing, and the ends of lines.
    fn edit(&mut self, byte: u8) {
        let termios = self.termios;
        let extended = termios.local(libc::IEXTEN);
        if termios.is(byte, libc::VERASE) {
            self.erase_character();
        } else if termios.is(byte, libc::VKILL) {
            self.erase_line(byte);
        } else if extended && termios.is(byte, libc::VWERASE) {
            while self.editing.last().is_some_and(|last| last.is_ascii_whitespace()) {
                self.erase_character();
            }
            while self.editing.last().is_some_and(|last| !last.is_ascii_whitespace()) {
                self.erase_character();
            }
        } else if extended && termios.is(byte, libc::VLNEXT) {
            self.literal = true;
            if termios.local(libc::ECHO) && termios.local(libc::ECHOCTL) {
                self.put_raw(b"^\x08");
            }
        } else if extended && termios.local(libc::ECHO) && termios.is(byte, libc::VREPRINT) {
            self.echo(byte);
            self.put_output(b'\n');
            for byte in self.editing.clone() {
                self.echo(byte);
            }
        } else if byte == b'\n' {
            if termios.local(libc::ECHO) || termios.local(libc::ECHONL) {
                self.put_output(b'\n');
            }
            self.end_line(Some(byte));
        } else if termios.is(byte, libc::VEOF) {
            self.end_line(None);
        } else if termios.is(byte, libc::VEOL) || (extended && termios.is(byte, libc::VEOL2)) {
            if termios.local(libc::ECHO) {
                self.echo(byte);
            }
            self.end_line(Some(byte));
        } else {
            self.accept(byte, false);
        }
    }

    /// An ordinary byte.
    fn accept(&mut self, byte: u8, literal: bool) {
        if self.input.len() + self.editing.len() >= INPUT - 1 {
            if self.termios.input & libc::IMAXBEL != 0 {
                self.output.push_back(7);
            }
            return;
        }
        if self.termios.local(libc::ECHO) {
            if literal && byte == b'\n' {
                self.put_output(byte);
            } else {
                self.echo(byte);
            }
        }
        if self.canonical() {
            self.editing.push(byte);
        } else {
            self.input.push_back(byte);
        }
    }

    fn end_line(&mut self, last: Option<u8>) {
        self.editing.extend(last);
        self.lines.push_back((self.editing.len(), last.is_none()));
        self.input.extend(self.editing.drain(..));
    }

    fn is_control(byte: u8) -> bool {
        (byte < 32 && byte != b'\t') || byte == 127
    }

    /// Shows a typed byte: control characters as `^X`.
    fn echo(&mut self, byte: u8) {
        if Discipline::is_control(byte) && byte != b'\n' && self.termios.local(libc::ECHOCTL) {
            self.put_raw(&[b'^', byte ^ 0x40]);
        } else {
            self.put_output(byte);
        }
    }

    fn put_raw(&mut self, bytes: &[u8]) {
        self.column += bytes.iter().filter(|byte| **byte >= 32).count();
        self.output.extend(bytes);
    }

    /// Takes back the last typed character, a whole UTF-8 sequence where `IUTF8`.
    fn erase_character(&mut self) {
        let Some(mut byte) = self.editing.pop() else { return };
        while self.termios.input & libc::IUTF8 != 0 && byte & 0xc0 == 0x80 {
            match self.editing.pop() {
                Some(before) => byte = before,
                None => break,
            }
        }
        if !self.termios.local(libc::ECHO) {
            return;
        }
        if !self.termios.local(libc::ECHOE) {
            self.echo(self.termios.characters[libc::VERASE]);
            return;
        }
        let width = match byte {
            b'\t' => {
                // Back to where the tab began: everything before it is measured again.
                let before: usize = self.editing.iter().map(|byte| if Discipline::is_control(*byte) { 2 } else { 1 }).sum();
                8 - before % 8
            }
            byte if Discipline::is_control(byte) => 2,
            _ => 1,
        };
        for _ in 0..width {
            self.output.extend(b"\x08 \x08");
            self.column = self.column.saturating_sub(1);
        }
    }

    fn erase_line(&mut self, byte: u8) {
        let visible = self.termios.local(libc::ECHOK) && self.termios.local(libc::ECHOKE) && self.termios.local(libc::ECHOE);
        if visible {
            while !self.editing.is_empty() {
                self.erase_character();
            }
            return;
        }
        self.editing.clear();
        if self.termios.local(libc::ECHO) {
            self.echo(byte);
            if self.termios.local(libc::ECHOK) {
                self.put_output(b'\n');
            }
        }
    }

    /// One byte of the program's output, or of an echo, processed.
    fn put_output(&mut self, byte: u8) {
        let modes = self.termios.output;
        if modes & libc::OPOST == 0 {
            self.output.push_back(byte);
            return;
        }
        match byte {
            b'\n' => {
                if modes & libc::ONLRET != 0 {
                    self.column = 0;
                }
                if modes & libc::ONLCR != 0 {
                    self.output.push_back(b'\r');
                    self.column = 0;
                }
                self.output.push_back(b'\n');
            }
            b'\r' if modes & libc::ONOCR != 0 && self.column == 0 => {}
            b'\r' if modes & libc::OCRNL != 0 => self.output.push_back(b'\n'),
            b'\r' => {
                self.column = 0;
                self.output.push_back(b'\r');
            }
            b'\t' if modes & libc::TABDLY == libc::TAB3 => {
                let spaces = 8 - self.column % 8;
                self.output.extend(std::iter::repeat_n(b' ', spaces));
                self.column += spaces;
            }
            b'\t' => {
                self.column += 8 - self.column % 8;
                self.output.push_back(b'\t');
            }
            8 => {
                self.column = self.column.saturating_sub(1);
                self.output.push_back(8);
            }
            byte => {
                if byte >= 32 {
                    self.column += 1;
                }
                self.output.push_back(byte);
            }
        }
    }

    /// Takes what a program writes; gives how many bytes there was room for.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.stopped {
            return 0;
        }
        let mut taken = 0;
        for &byte in bytes {
            if self.output.len() >= OUTPUT {
                break;
            }
            self.put_output(byte);
            taken += 1;
        }
        taken
    }

    /// Whether a program's write would find room.
    pub fn has_room(&self) -> bool {
        !self.stopped && self.output.len() < OUTPUT
    }

    /// Whether a program's read would find something.
    pub fn readable(&self) -> bool {
        if self.canonical() {
            return !self.lines.is_empty();
        }
        let least = usize::from(self.termios.characters[libc::VMIN]).max(1);
        let timed = self.termios.characters[libc::VTIME] != 0;
        self.input.len() >= if timed { 1 } else { least }
    }

    /// Bytes that a program could read now (FIONREAD).
    pub fn available(&self) -> usize {
        if self.canonical() { self.lines.iter().map(|(length, _)| length).sum() } else { self.input.len() }
    }

    /// Gives input to a program.
    pub fn read(&mut self, buffer: &mut [u8]) -> Found {
        if !self.canonical() {
            if !self.readable() && self.input.len() < buffer.len() {
                return Found::Nothing;
            }
            let length = buffer.len().min(self.input.len());
            if length == 0 {
                return Found::Nothing;
            }
            for (slot, byte) in buffer.iter_mut().zip(self.input.drain(..length)) {
                *slot = byte;
            }
            return Found::Bytes(length);
        }
        let Some((length, _)) = self.lines.front_mut() else { return Found::Nothing };
        let given = buffer.len().min(*length);
        *length -= given;
        if *length == 0 {
            self.lines.pop_front();
        }
        for (slot, byte) in buffer.iter_mut().zip(self.input.drain(..given)) {
            *slot = byte;
        }
        Found::Bytes(given)
    }

    /// Gives output to the master.
    pub fn take_output(&mut self, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(self.output.len());
        for (slot, byte) in buffer.iter_mut().zip(self.output.drain(..length)) {
            *slot = byte;
        }
        length
    }

    /// Bytes that wait for the master.
    pub fn pending_output(&self) -> usize {
        self.output.len()
    }

    /// Drops what has been typed and not read.
    pub fn flush_input(&mut self) {
        self.input.clear();
        self.lines.clear();
        self.editing.clear();
    }

    /// Drops what has been written and not shown.
    pub fn flush_output(&mut self) {
        self.output.clear();
    }

    /// New settings. What was typed in one mode stays readable in the other.
    pub fn set(&mut self, termios: Termios) {
        let was = self.canonical();
        self.termios = termios;
        if was && !self.canonical() {
            self.lines.clear();
            let editing = std::mem::take(&mut self.editing);
            self.input.extend(editing);
        } else if !was && self.canonical() && !self.input.is_empty() {
            self.lines.push_back((self.input.len(), false));
        }
        if termios.input & libc::IXON == 0 {
            self.stopped = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(discipline: &mut Discipline) -> String {
        let mut buffer = [0u8; 256];
        let length = discipline.take_output(&mut buffer);
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    fn read(discipline: &mut Discipline) -> Option<String> {
        let mut buffer = [0u8; 256];
        match discipline.read(&mut buffer) {
            Found::Bytes(length) => Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Found::Nothing => None,
        }
    }

    /// What is typed, what is echoed, what a program reads.
    const CANONICAL: [(&str, &str, Option<&str>); 9] = [
        ("hi\r", "hi\r\n", Some("hi\n")),
        ("hi", "hi", None),
        ("hx\x7fi\n", "hx\x08 \x08i\r\n", Some("hi\n")),
        ("one two\x17\n", "one two\x08 \x08\x08 \x08\x08 \x08\r\n", Some("one \n")),
        ("abc\x15x\n", "abc\x08 \x08\x08 \x08\x08 \x08x\r\n", Some("x\n")),
        ("\x04", "", Some("")),
        ("ab\x04", "ab", Some("ab")),
        ("\x01\n", "^A\r\n", Some("\x01\n")),
        ("\x16\x03\n", "^\x08^C\r\n", Some("\x03\n")),
    ];

    #[test]
    fn canonical_lines() {
        for (typed, echoed, given) in CANONICAL {
            let mut discipline = Discipline::default();
            assert!(discipline.receive(typed.as_bytes()).is_empty(), "{typed:?}");
            assert_eq!(shown(&mut discipline), echoed, "{typed:?}");
            assert_eq!(read(&mut discipline).as_deref(), given, "{typed:?}");
        }
    }

    #[test]
    fn signals_flush_and_echo() {
        let mut discipline = Discipline::default();
        assert_eq!(discipline.receive(b"abc\x03"), [libc::SIGINT]);
        assert_eq!(shown(&mut discipline), "^C");
        assert_eq!(discipline.receive(b"\x1a\x1c"), [libc::SIGTSTP, libc::SIGQUIT]);
        discipline.receive(b"\n");
        assert_eq!(read(&mut discipline).as_deref(), Some("\n"));
    }

    #[test]
    fn raw_mode_passes_everything() {
        let mut discipline = Discipline::default();
        let termios = Termios { input: 0, output: 0, local: 0, ..Termios::default() };
        discipline.set(termios);
        assert!(discipline.receive(b"\x03\r\x7f").is_empty());
        assert_eq!(read(&mut discipline).as_deref(), Some("\x03\r\x7f"));
        assert_eq!(discipline.write(b"a\n"), 2);
        assert_eq!(shown(&mut discipline), "a\n");
    }

    #[test]
    fn stopped_output_waits() {
        let mut discipline = Discipline::default();
        discipline.receive(b"\x13");
        assert_eq!(discipline.write(b"x"), 0);
        discipline.receive(b"\x11");
        assert_eq!(discipline.write(b"x"), 1);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_mode(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600), input: u32, output: u32, local: u32) {
            let mut discipline = Discipline::default();
            let termios = Termios { input, output, local, ..Termios::default() };
            for piece in bytes.chunks(50) {
                discipline.receive(piece);
                discipline.write(piece);
                discipline.set(if piece.len() % 2 == 0 { termios } else { Termios::default() });
                let _ = read(&mut discipline);
            }
            proptest::prop_assert!(discipline.available() <= INPUT);
        }
    }
}
