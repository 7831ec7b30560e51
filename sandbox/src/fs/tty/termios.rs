//! Terminal settings (termios(3)).

/// `struct termios` as the kernel has it (include/uapi/asm-generic/termbits.h): 36 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Termios {
    /// Input modes.
    pub input: u32,
    /// Output modes.
    pub output: u32,
    /// Control modes.
    pub control: u32,
    /// Local modes.
    pub local: u32,
    /// Line discipline; always N_TTY.
    pub line: u8,
    /// Special characters.
    pub characters: [u8; 19],
}

/// The size of the structure in memory.
pub const SIZE: usize = 36;

impl Default for Termios {
    /// What a fresh pseudo-terminal has (`tty_std_termios`).
    fn default() -> Termios {
        let mut characters = [0u8; 19];
        let standard = [
            (libc::VINTR, 3),
            (libc::VQUIT, 28),
            (libc::VERASE, 127),
            (libc::VKILL, 21),
            (libc::VEOF, 4),
            (libc::VMIN, 1),
            (libc::VSTART, 17),
            (libc::VSTOP, 19),
            (libc::VSUSP, 26),
            (libc::VREPRINT, 18),
            (libc::VDISCARD, 15),
            (libc::VWERASE, 23),
            (libc::VLNEXT, 22),
        ];
        for (index, value) in standard {
            characters[index] = value;
        }
        Termios {
            input: libc::ICRNL | libc::IXON,
            output: libc::OPOST | libc::ONLCR,
            control: libc::B38400 | libc::CS8 | libc::CREAD,
            local: libc::ISIG | libc::ICANON | libc::ECHO | libc::ECHOE | libc::ECHOK | libc::ECHOCTL | libc::ECHOKE | libc::IEXTEN,
            line: 0,
            characters,
        }
    }
}

impl Termios {
    /// From memory.
    pub fn parse(bytes: &[u8; SIZE]) -> Termios {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut characters = [0u8; 19];
        characters.copy_from_slice(&bytes[17..36]);
        Termios { input: word(0), output: word(4), control: word(8), local: word(12), line: bytes[16], characters }
    }

    /// To memory.
    pub fn encode(&self) -> [u8; SIZE] {
        let mut bytes = [0u8; SIZE];
        for (index, word) in [self.input, self.output, self.control, self.local].into_iter().enumerate() {
            bytes[index * 4..index * 4 + 4].copy_from_slice(&word.to_ne_bytes());
        }
        bytes[16] = self.line;
        bytes[17..].copy_from_slice(&self.characters);
        bytes
    }

    /// Whether a local mode is on.
    pub fn local(&self, flag: u32) -> bool {
        self.local & flag != 0
    }

    /// Whether a byte is this special character; a character set to 0 is disabled.
    pub fn is(&self, byte: u8, which: usize) -> bool {
        byte != 0 && self.characters[which] == byte
    }
}
