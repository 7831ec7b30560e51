//! The configuration file: `/etc/bulkhead/config.toml`, or the one that `--config` names.
//!
//! A key that nobody knows is an error with its line: a setting that is silently not there may be the one that matters.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::wall::{Isolation, IsolationError};

/// Where the file is unless it is named.
const DEFAULT: &str = "/etc/bulkhead/config.toml";

/// The largest file that is read, in bytes.
const MAXIMUM_SIZE: u64 = 1 << 20;

/// Why a file is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It can not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is longer than [`MAXIMUM_SIZE`].
    #[error("{}: longer than {MAXIMUM_SIZE} bytes", .0.display())]
    TooLarge(PathBuf),
    /// It is not TOML, has an unknown key, or a value of another type.
    #[error("{}: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// With the line.
        source: toml::de::Error,
    },
    /// A value that is not accepted.
    #[error("{}: {key}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value, and why not.
        reason: String,
    },
}

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The wall for those who ask for none.
    pub default_isolation: Option<String>,
    /// Where writes to the root file system go.
    pub overlay: Option<String>,
    /// The directory of the image that microVMs boot, which `bulkhead guest build` makes.
    pub guest_image: Option<PathBuf>,
    /// What virtual machines are to be like.
    #[serde(default)]
    pub microvm: Microvm,
}

/// What virtual machines are to be like ([`crate::wall::size`]).
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Microvm {
    /// Virtual processors.
    pub vcpus: Option<u32>,
    /// Memory: bytes, or with a suffix as in `512Mi`.
    pub memory: Option<String>,
}

impl Settings {
    /// Where the image that microVMs boot is: [`bulkhead_guest::DIRECTORY`] unless the file says otherwise.
    pub fn guest_image(&self) -> &Path {
        self.guest_image.as_deref().unwrap_or(Path::new(bulkhead_guest::DIRECTORY))
    }

    /// Reads the file that is named, or the default one where there is one.
    ///
    /// # Errors
    /// [`SettingsError`], which names file, line and key.
    pub fn load(named: Option<&Path>) -> Result<Self, SettingsError> {
        match named {
            Some(path) => Self::read(path),
            None if Path::new(DEFAULT).exists() => Self::read(Path::new(DEFAULT)),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self, SettingsError> {
        use std::io::Read;
        use std::os::unix::fs::OpenOptionsExt;
        let failed = |source| SettingsError::Read { path: path.to_owned(), source };
        // Nonblocking: a fifo in the file's place must not hang us.
        let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let mut text = String::new();
        file.take(MAXIMUM_SIZE + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAXIMUM_SIZE {
            return Err(SettingsError::TooLarge(path.to_owned()));
        }
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        let settings: Self = toml::from_str(text).map_err(|source| SettingsError::Malformed { path: path.to_owned(), source })?;
        let wrong = |key, reason| SettingsError::Value { path: path.to_owned(), key, reason };
        if let Some(isolation) = &settings.default_isolation {
            isolation.parse::<Isolation>().map_err(|error: IsolationError| wrong("default_isolation", error.to_string()))?;
        }
        if let Some(overlay) = &settings.overlay {
            check_overlay(overlay).map_err(|reason| wrong("overlay", reason))?;
        }
        // A relative one would be another directory for each client's working directory.
        if let Some(image) = settings.guest_image.as_ref().filter(|image| !image.is_absolute()) {
            return Err(wrong("guest_image", format!("{}: not an absolute path", image.display())));
        }
        Ok(settings)
    }
}

/// Whether writes can go there.
///
/// # Errors
/// The value, and what there is.
pub fn check_overlay(overlay: &str) -> Result<(), String> {
    match overlay.split_once('=') {
        None if ["none", "memory"].contains(&overlay) => Ok(()),
        Some(("dir", path)) if path.starts_with('/') => Ok(()),
        Some(("dir", path)) => Err(format!("dir={path}: not an absolute path")),
        _ => Err(format!("{overlay:?}: none, memory or dir=PATH")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> String {
        Settings::parse(Path::new("config.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let error = refused("overlay = \"none\"\nisolation = \"sandbox\"\n");
        assert!(error.starts_with("config.toml: TOML parse error at line 2") && error.contains("unknown field `isolation`"), "{error}");
        let error = refused("\n\noverlay = 3\n");
        assert!(error.contains("at line 3") && error.contains("invalid type: integer"), "{error}");
        assert!(refused("overlay = ").contains("at line 1"));
        assert_eq!(refused("overlay = \"ram\""), "config.toml: overlay: \"ram\": none, memory or dir=PATH");
        assert_eq!(refused("overlay = \"dir=x\""), "config.toml: overlay: dir=x: not an absolute path");
        assert_eq!(refused("default_isolation = \"vm\""), "config.toml: default_isolation: isolation \"vm\": sandbox or microvm");
        assert!(refused("[microvm]\ncpus = 1").contains("unknown field `cpus`"));
        assert_eq!(refused("guest_image = \"guest\""), "config.toml: guest_image: guest: not an absolute path");
        assert!(refused("guest_image = 7").contains("invalid type: integer"));
        let settings = Settings::parse(Path::new("x"), "guest_image = \"/g\"").unwrap();
        assert_eq!((settings.guest_image(), Settings::default().guest_image()), (Path::new("/g"), Path::new("/var/lib/bulkhead/guest")));
        let settings = Settings::parse(Path::new("x"), "default_isolation = \"sandbox\"\noverlay = \"dir=/x\"").unwrap();
        assert_eq!(settings.overlay.as_deref(), Some("dir=/x"));
    }

    #[test]
    fn a_file_that_is_named_must_be_there_and_be_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        assert!(matches!(Settings::load(Some(&path)), Err(SettingsError::Read { .. })));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(Settings::load(Some(&path)).is_ok_and(|settings| settings == Settings::default()), "nobody writes to it");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![b' '; MAXIMUM_SIZE as usize + 1]).unwrap();
        assert!(matches!(Settings::load(Some(&path)), Err(SettingsError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_settings_or_an_error(text in ".{0,200}") {
            let _ = Settings::parse(Path::new("x"), &text);
        }

        #[test]
        fn any_value_of_a_known_key_is_taken_or_named(value in "[a-z=/\"0-9]{0,20}") {
            if let Err(error) = Settings::parse(Path::new("x"), &format!("overlay = {value:?}")) {
                prop_assert!(error.to_string().starts_with("x: overlay: "));
            }
        }
    }
}
