//! `manifest.json`: what an image consists of.
//!
//! ```json
//! {
//!   "version": 1,
//!   "kernel": { "release": "6.12.117+deb12-cloud-amd64", "format": "vmlinux", "size": 39030784, "sha256": "..." },
//!   "initramfs": { "size": 3400192, "sha256": "..." },
//!   "agent": { "size": 1700000, "sha256": "..." },
//!   "built_by": "0.1.0"
//! }
//! ```
//!
//! There is no date in it: two builds of the same parts are the same file. `agent` says which agent is in the initramfs, for people and for `check`;
//! there is no file of its own. A field that nobody knows is an error, and a version that is not [`VERSION`] is one before anything else is looked at.

use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;

/// The file's name.
pub const NAME: &str = "manifest.json";
/// The version of its format.
pub const VERSION: u64 = 1;
/// The longest manifest that is read, bytes.
pub const LONGEST: u64 = 64 << 10;
/// The largest file that it may speak of, bytes: no kernel and no initramfs is near it.
pub const LARGEST: u64 = 1 << 30;
/// The longest release, bytes: `struct new_utsname` has 65 with the terminating zero (uname(2)).
const LONGEST_RELEASE: usize = 64;

/// Why a manifest is none.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON, has an unknown field, or a value of another type.
    #[error("not a manifest")]
    Malformed(#[from] serde_json::Error),
    /// It is of a format that this program does not know.
    #[error("version {0}, where this program reads version {VERSION}: build the image again (bulkhead guest build)")]
    Version(u64),
    /// A value that can not be.
    #[error("{field}: {value:?}: {reason}")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
}

/// What an image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u64,
    /// The kernel.
    pub kernel: Kernel,
    /// The first file system.
    pub initramfs: Part,
    /// The agent, which is in the initramfs.
    pub agent: Part,
    /// The version of Bulkhead that built the image.
    pub built_by: String,
}

/// A kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// As uname(2) has it in the guest.
    pub release: String,
    /// How it is to be loaded.
    pub format: Format,
    /// Bytes.
    pub size: u64,
    /// Of the file.
    pub sha256: Checksum,
}

/// How a kernel is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An ELF file with a PVH entry: its segments are copied, and it is entered in 32-bit mode (the kernel's `Documentation/arch/x86/boot.rst` has no word
    /// on it; Xen's `docs/misc/pvh.pandoc` and `include/public/arch-x86/hvm/start_info.h` have).
    Vmlinux,
    /// The kernel's own boot protocol: it unpacks itself.
    BzImage,
}

/// A file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Bytes.
    pub size: u64,
    /// Of the file.
    pub sha256: Checksum,
}

impl Part {
    /// Of a file's bytes.
    pub fn of(bytes: &[u8]) -> Part {
        Part { size: bytes.len() as u64, sha256: Checksum::of(bytes) }
    }
}

impl Manifest {
    /// Of parts that are in memory.
    ///
    /// # Errors
    /// [`ManifestError::Value`] for a release or a size that can not be.
    pub fn new(release: &str, format: Format, kernel: &[u8], initramfs: &[u8], agent: &[u8]) -> Result<Manifest, ManifestError> {
        let Part { size, sha256 } = Part::of(kernel);
        let manifest = Manifest {
            version: VERSION,
            kernel: Kernel { release: release.to_owned(), format, size, sha256 },
            initramfs: Part::of(initramfs),
            agent: Part::of(agent),
            built_by: env!("CARGO_PKG_VERSION").to_owned(),
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(text: &[u8]) -> Result<Manifest, ManifestError> {
        // The version alone first: a later format may have fields that this one has not, and they are not what is wrong with it.
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        match serde_json::from_slice::<Versioned>(text)?.version {
            VERSION => {}
            other => return Err(ManifestError::Version(other)),
        }
        let manifest: Manifest = serde_json::from_slice(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// As text, for people and for [`Manifest::parse`].
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers are always JSON") + "\n"
    }

    /// The kernel's file.
    pub fn kernel_part(&self) -> Part {
        Part { size: self.kernel.size, sha256: self.kernel.sha256 }
    }

    /// The name of the kernel's file.
    pub fn kernel_name(&self) -> String {
        format!("kernel-{}", self.kernel.sha256.short())
    }

    /// The name of the initramfs's file.
    pub fn initramfs_name(&self) -> String {
        format!("initramfs-{}", self.initramfs.sha256.short())
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |field, value: &dyn ToString, reason| Err(ManifestError::Value { field, value: value.to_string(), reason });
        // It becomes part of messages and of a guest's log: letters that a release has, and no others.
        let plain = |text: &str| text.bytes().all(|letter| letter.is_ascii_alphanumeric() || b"._+~-".contains(&letter));
        for (field, text) in [("kernel.release", &self.kernel.release), ("built_by", &self.built_by)] {
            if text.is_empty() || text.len() > LONGEST_RELEASE {
                return wrong(field, text, "1 to 64 letters");
            }
            if !plain(text) {
                return wrong(field, text, "letters, digits and ._+~- alone");
            }
        }
        let sizes = [("kernel.size", self.kernel.size), ("initramfs.size", self.initramfs.size), ("agent.size", self.agent.size)];
        match sizes.into_iter().find(|(_, size)| !(1..=LARGEST).contains(size)) {
            Some((field, size)) => wrong(field, &size, "1 byte to 1 GiB"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manifest() -> Manifest {
        Manifest::new("6.12.117+deb12-cloud-amd64", Format::Vmlinux, b"kernel", b"initramfs", b"agent").unwrap()
    }

    fn refused(from: &str, to: &str) -> String {
        let text = manifest().text();
        let changed = text.replacen(from, to, 1);
        assert_ne!(text, changed, "{from} is in {text}");
        let error = Manifest::parse(changed.as_bytes()).unwrap_err();
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }

    #[test]
    fn it_is_read_as_it_is_written_and_always_the_same() {
        let manifest = manifest();
        assert_eq!(Manifest::parse(manifest.text().as_bytes()).unwrap(), manifest);
        assert_eq!(manifest.text(), super::tests::manifest().text());
        assert_eq!(manifest.kernel_name(), format!("kernel-{}", &Checksum::of(b"kernel").to_string()[..16]));
        assert!(manifest.text().len() as u64 <= LONGEST);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            refused("\"version\": 1", "\"version\": 2, \"signature\": \"x\""),
            "version 2, where this program reads version 1: build the image again (bulkhead guest build)"
        );
        assert!(refused("\"built_by\"", "\"date\": 3, \"built_by\"").starts_with("not a manifest: unknown field `date`"));
        assert!(refused("\"size\": 6", "\"size\": -1").contains("invalid value: integer `-1`"));
        assert_eq!(refused("\"size\": 6", "\"size\": 0"), "kernel.size: \"0\": 1 byte to 1 GiB");
        assert_eq!(refused("\"size\": 9", "\"size\": 2147483648"), "initramfs.size: \"2147483648\": 1 byte to 1 GiB");
        assert!(refused("6.12.117+deb12", "6.12\\n").starts_with("kernel.release: \"6.12\\n-cloud-amd64\": letters"));
        assert!(refused("6.12.117+deb12", &"6".repeat(99)).ends_with("1 to 64 letters"));
        assert!(refused("vmlinux", "uImage").contains("unknown variant `uImage`"));
        assert!(refused("\"sha256\": \"", "\"sha256\": \"0").contains("64 hexadecimal digits"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_manifest_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Manifest::parse(&bytes).is_err());
        }

        /// A manifest with a byte changed is an error or a manifest that keeps its own rules.
        #[test]
        fn one_changed_byte_never_gets_past_the_rules(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut text = manifest().text().into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(parsed) = Manifest::parse(&text) {
                prop_assert!(parsed.check().is_ok());
                prop_assert_eq!(parsed.version, VERSION);
                prop_assert_eq!(Manifest::parse(parsed.text().as_bytes()).unwrap(), parsed);
            }
        }
    }
}
