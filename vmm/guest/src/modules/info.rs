//! What a module says of itself: the `.modinfo` section, which modinfo(8) prints. Strings `KEY=VALUE`, each with a zero at its end.

/// What is wrong with a module.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// A string without `=`, or one that is not text.
    #[error(".modinfo: {0:?}: not KEY=VALUE")]
    Malformed(String),
    /// A name that no module has.
    #[error(".modinfo: {key}={value}: not a module's name")]
    Name {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

/// What matters of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Modules whose symbols it uses. They are loaded first, or it is not.
    pub depends: Vec<String>,
    /// What should be loaded first where there is such a thing (`softdep: pre:`, modprobe.d(5)): names or aliases.
    pub before: Vec<String>,
    /// The release of the kernel that it was built for.
    pub release: Option<String>,
}

/// The name of a module as the kernel has it: a hyphen in a file's name is an underscore.
pub fn name(text: &str) -> String {
    text.replace('-', "_")
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"_-.".contains(&letter))
}

impl Info {
    /// Reads a `.modinfo` section.
    ///
    /// # Errors
    /// [`InfoError`].
    pub fn parse(section: &[u8]) -> Result<Info, InfoError> {
        let mut info = Info::default();
        // Between strings there may be more zeros than one: the linker aligns.
        for string in section.split(|byte| *byte == 0).filter(|string| !string.is_empty()) {
            let shown = || InfoError::Malformed(String::from_utf8_lossy(string).chars().take(60).collect());
            // Descriptions and authors may be of any encoding, and do not matter.
            let at = string.iter().position(|byte| *byte == b'=').ok_or_else(shown)?;
            let (key, value) = (&string[..at], String::from_utf8_lossy(&string[at + 1..]));
            let names = |words: &mut dyn Iterator<Item = &str>| -> Result<Vec<String>, InfoError> {
                words
                    .map(|word| match is_name(word) {
                        true => Ok(name(word)),
                        false => {
                            Err(InfoError::Name { key: String::from_utf8_lossy(key).into_owned(), value: word.chars().take(60).collect() })
                        }
                    })
                    .collect()
            };
            match key {
                b"depends" => info.depends.extend(names(&mut value.split(',').filter(|word| !word.is_empty()))?),
                b"softdep" => {
                    // `pre: a b post: c`.
                    let mut before = false;
                    let mut words = value.split_whitespace().filter(|word| match *word {
                        "pre:" | "post:" => {
                            before = *word == "pre:";
                            false
                        }
                        _ => before,
                    });
                    info.before.extend(names(&mut words)?);
                }
                b"vermagic" => info.release = value.split(' ').next().map(str::to_owned),
                _ => {}
            }
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_matters_is_found() {
        let section = b"license=GPL\0\0author=J\xf6rg\0depends=libcrc32c,vmw-vsock\0softdep=pre: crc32c crypto-lz4 post: late\0vermagic=6.12.1 SMP mod_unload \0";
        let info = Info::parse(section).unwrap();
        assert_eq!(info.depends, ["libcrc32c", "vmw_vsock"]);
        assert_eq!(info.before, ["crc32c", "crypto_lz4"]);
        assert_eq!(info.release.as_deref(), Some("6.12.1"));
        assert_eq!(Info::parse(b"depends=\0").unwrap(), Info::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(Info::parse(b"depends=a\0x\0").unwrap_err().to_string(), ".modinfo: \"x\": not KEY=VALUE");
        assert_eq!(Info::parse(b"depends=a,../b\0").unwrap_err().to_string(), ".modinfo: depends=../b: not a module's name");
    }

    proptest! {
        #[test]
        fn any_section_is_read_or_refused(bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(b'='), any::<u8>()], 0..100)) {
            let _ = Info::parse(&bytes);
        }

        #[test]
        fn names_come_back(depends in proptest::collection::vec("[a-z0-9_]{1,10}", 0..5), before in proptest::collection::vec("[a-z0-9_]{1,10}", 0..5)) {
            let section = format!("depends={}\0softdep=pre: {}\0", depends.join(","), before.join(" "));
            let info = Info::parse(section.as_bytes()).unwrap();
            prop_assert_eq!((info.depends, info.before), (depends, before));
        }
    }
}
