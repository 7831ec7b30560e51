//! SHA-256 of what is in memory and of what is open.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How much of a file is hashed at a time, bytes.
const CHUNK: usize = 256 << 10;

/// A SHA-256 checksum. As text, sixty-four hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Checksum([u8; 32]);

/// A text that is no checksum.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: a SHA-256 checksum is 64 hexadecimal digits in lower case")]
pub struct ChecksumError(String);

impl Checksum {
    /// Of bytes.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(Sha256::digest(bytes).into())
    }

    /// Of what a descriptor reads from its beginning to its end, `longest` bytes at most; gives how many there were. The descriptor's offset stays where it is.
    ///
    /// # Errors
    /// The file's.
    pub fn of_file(file: &File, longest: u64) -> io::Result<(Checksum, u64)> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        while done < longest {
            let wanted = buffer.len().min(usize::try_from(longest - done).unwrap_or(CHUNK));
            match file.read_at(&mut buffer[..wanted], done) {
                Ok(0) => break,
                Ok(length) => {
                    hash.update(&buffer[..length]);
                    done += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok((Checksum(hash.finalize().into()), done))
    }

    /// Its first sixteen digits: enough to tell files apart by name.
    pub fn short(&self) -> String {
        self.to_string()[..16].to_owned()
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl FromStr for Checksum {
    type Err = ChecksumError;

    fn from_str(text: &str) -> Result<Checksum, ChecksumError> {
        let wrong = || ChecksumError(text.chars().take(80).collect());
        let digit = |letter: u8| match letter {
            b'0'..=b'9' => Some(letter - b'0'),
            b'a'..=b'f' => Some(letter - b'a' + 10),
            _ => None,
        };
        let mut checksum = [0; 32];
        if text.len() != 2 * checksum.len() {
            return Err(wrong());
        }
        for (byte, digits) in checksum.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(digits[0]).zip(digit(digits[1])).map(|(high, low)| high << 4 | low).ok_or_else(wrong)?;
        }
        Ok(Checksum(checksum))
    }
}

impl TryFrom<String> for Checksum {
    type Error = ChecksumError;

    fn try_from(text: String) -> Result<Checksum, ChecksumError> {
        text.parse()
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> String {
        checksum.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn the_standards_own_example_is_right() {
        // FIPS 180-2, B.1.
        assert_eq!(Checksum::of(b"abc").to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!("BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD".parse::<Checksum>().is_err());
    }

    #[test]
    fn a_file_is_hashed_from_its_beginning_wherever_its_offset_is() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * CHUNK + 5).map(|index| index as u8).collect();
        file.write_all(&bytes).unwrap();
        assert_eq!(Checksum::of_file(&file, u64::MAX).unwrap(), (Checksum::of(&bytes), bytes.len() as u64));
        assert_eq!(Checksum::of_file(&file, 7).unwrap(), (Checksum::of(&bytes[..7]), 7));
    }

    proptest! {
        #[test]
        fn a_checksum_is_read_as_it_is_written(bytes in any::<[u8; 32]>()) {
            prop_assert_eq!(Checksum(bytes).to_string().parse(), Ok(Checksum(bytes)));
        }

        #[test]
        fn any_text_is_a_checksum_or_an_error(text in ".{0,80}") {
            if let Ok(checksum) = text.parse::<Checksum>() {
                prop_assert_eq!(checksum.to_string(), text);
            }
        }
    }
}
