//! config.json: read once, held against the field table, parsed into `oci-spec`'s types, and validated.
//!
//! What comes out of [`load`] has been checked as far as the file alone allows; what needs the machine (the root file
//! system, bind sources, namespace paths) is checked where it is opened, so that what was checked is what is used.

use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde_json::Value;

pub mod fields;
pub mod id;
pub mod lenient;
pub mod mount_options;
#[cfg(test)]
mod schema;
pub mod template;
pub mod validate;

pub use validate::validate_process;

/// The largest config.json or process.json that is read, in bytes. Kubernetes' largest objects are 1.5 MiB.
pub const MAXIMUM_SIZE: u64 = 2 << 20;

/// Why a configuration is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or can not be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The host's reason.
        source: std::io::Error,
    },
    /// The file is longer than [`MAXIMUM_SIZE`].
    #[error("{}: longer than {MAXIMUM_SIZE} bytes", .0.display())]
    TooLarge(PathBuf),
    /// The file is not JSON.
    #[error("{}: {source}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Line and column.
        source: serde_json::Error,
    },
    /// A field has a value that it can not have.
    #[error("{field}: {reason}")]
    Type {
        /// Dotted path of the field.
        field: String,
        /// The value, and what was expected.
        reason: String,
    },
    /// A field has a value that is not accepted.
    #[error("{field}: {value}: {reason}")]
    Field {
        /// Dotted path of the field.
        field: String,
        /// Its value as JSON.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field that must be there is not.
    #[error("{0}: missing")]
    Missing(&'static str),
    /// A field of the specification that this runtime refuses.
    #[error("{field}: {value}: not supported: {reason}")]
    Refused {
        /// Dotted path of the field.
        field: String,
        /// Its value, shortened.
        value: String,
        /// Why.
        reason: &'static str,
    },
}

impl ConfigError {
    fn field(field: impl Into<String>, value: impl serde::Serialize, reason: impl Into<String>) -> Self {
        let value = serde_json::to_string(&value).unwrap_or_default();
        Self::Field { field: field.into(), value, reason: reason.into() }
    }
}

/// A configuration that has been accepted.
#[derive(Debug)]
pub struct Config {
    /// Its types.
    pub spec: Spec,
    /// The same as JSON, for what `oci-spec` does not carry over.
    pub json: Value,
    /// What has no effect, with its field: for the log.
    pub warnings: Vec<String>,
}

/// Reads the `config.json` of the bundle in `directory`.
///
/// # Errors
/// [`ConfigError`], which names file, field and value.
pub fn load(directory: &Path) -> Result<Config, ConfigError> {
    let path = directory.join("config.json");
    parse(read(&path)?)
}

/// Accepts a configuration that is JSON already.
///
/// # Errors
/// As [`load`].
pub fn parse(mut json: Value) -> Result<Config, ConfigError> {
    object(&json, "config.json")?;
    lenient::fill(&mut json);
    let mut warnings = json.get_mut("process").map(lenient::drop_unknown_capabilities).unwrap_or_default();
    for finding in fields::examine(&json) {
        match finding {
            fields::Finding::Unknown(field) => warnings.push(format!("{field}: not a field of the runtime specification")),
            fields::Finding::Ineffective { field, value, reason } => warnings.push(ineffective(&field, &value, reason)),
            fields::Finding::Refused { field, value, reason } => return Err(ConfigError::Refused { field, value, reason }),
        }
    }
    let spec: Spec = typed(&json, "")?;
    validate::validate(&spec, &json)?;
    Ok(Config { spec, json, warnings })
}

/// Reads the `process` object that `exec --process` names, and validates it.
///
/// # Errors
/// [`ConfigError`], which names file, field and value.
pub fn load_process(path: &Path) -> Result<Value, ConfigError> {
    parse_process(read(path)?)
}

/// Accepts a `process` object that is JSON already; gives it with what may be left out filled in. What has no effect is logged.
///
/// # Errors
/// As [`load_process`].
pub fn parse_process(json: Value) -> Result<Value, ConfigError> {
    object(&json, "process")?;
    let mut whole = serde_json::json!({ "process": json });
    lenient::fill(&mut whole);
    for warning in lenient::drop_unknown_capabilities(&mut whole["process"]) {
        crate::log::warning(warning);
    }
    for finding in fields::examine(&whole) {
        match finding {
            fields::Finding::Unknown(_) => {}
            fields::Finding::Ineffective { field, value, reason } => crate::log::warning(ineffective(&field, &value, reason)),
            fields::Finding::Refused { field, value, reason } => return Err(ConfigError::Refused { field, value, reason }),
        }
    }
    let process: Process = typed(&whole["process"], "process.")?;
    validate_process(&process)?;
    Ok(whole["process"].take())
}

fn ineffective(field: &str, value: &str, reason: &str) -> String {
    format!("{field}: {value}: has no effect: {reason}")
}

/// Accepts a `linux.resources` object that is JSON already.
///
/// # Errors
/// As [`load`].
pub fn parse_resources(json: &Value) -> Result<LinuxResources, ConfigError> {
    object(json, "linux.resources")?;
    let whole = serde_json::json!({ "linux": { "resources": json } });
    match fields::examine(&whole).into_iter().next() {
        Some(fields::Finding::Refused { field, value, reason } | fields::Finding::Ineffective { field, value, reason }) => {
            return Err(ConfigError::Refused { field, value, reason });
        }
        // Nobody would know that it has had no effect.
        Some(fields::Finding::Unknown(field)) => {
            return Err(ConfigError::Type { field, reason: String::from("not a field of the runtime specification") });
        }
        None => {}
    }
    typed(json, "linux.resources.")
}

/// A list would be taken for an object's members in their order.
fn object(json: &Value, what: &str) -> Result<(), ConfigError> {
    match json {
        Value::Object(_) => Ok(()),
        other => {
            let mut shown = other.to_string();
            shown.truncate(shown.char_indices().nth(40).map_or(shown.len(), |(at, _)| at));
            Err(ConfigError::Field { field: what.to_owned(), value: shown, reason: String::from("not a JSON object") })
        }
    }
}

fn typed<T: serde::de::DeserializeOwned>(json: &Value, prefix: &str) -> Result<T, ConfigError> {
    serde_path_to_error::deserialize(json).map_err(|error| {
        let field = format!("{prefix}{}", error.path());
        ConfigError::Type { field: field.trim_end_matches(['.', '?']).to_owned(), reason: error.inner().to_string() }
    })
}

/// Reads a file with JSON in it, no longer than [`MAXIMUM_SIZE`].
///
/// # Errors
/// [`ConfigError::Read`], [`ConfigError::TooLarge`], [`ConfigError::Malformed`].
pub fn read(path: &Path) -> Result<Value, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    // Nonblocking: a fifo in the file's place must not hang us.
    let file = {
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?
    };
    let mut text = Vec::new();
    file.take(MAXIMUM_SIZE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAXIMUM_SIZE {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    serde_json::from_slice(&text).map_err(|source| ConfigError::Malformed { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn files_that_are_no_configuration_are_named() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join("config.json");
        let error = load(bundle.path()).unwrap_err().to_string();
        assert!(error.contains("config.json: No such file or directory"), "{error}");
        std::fs::write(&path, "{ \"ociVersion\": ").unwrap();
        assert!(load(bundle.path()).unwrap_err().to_string().contains("EOF while parsing"));
        std::fs::write(&path, vec![b' '; MAXIMUM_SIZE as usize + 1]).unwrap();
        assert!(matches!(load(bundle.path()), Err(ConfigError::TooLarge(_))));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(load(bundle.path()), Err(ConfigError::Read { .. })));
        std::fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(load(bundle.path()).is_err());
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_its_field() {
        let mut json = template::spec(false);
        json["process"]["user"]["uid"] = "root".into();
        assert_eq!(parse(json).unwrap_err().to_string(), "process.user.uid: invalid type: string \"root\", expected u32");
    }

    /// JSON of any shape, with the names of real fields among its keys.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-zA-Z0-9_/.: =-]{0,12}".prop_map(Value::from),
        ];
        let keys = prop::sample::select(vec![
            "ociVersion",
            "process",
            "root",
            "linux",
            "mounts",
            "hooks",
            "args",
            "env",
            "cwd",
            "user",
            "uid",
            "capabilities",
            "bounding",
            "rlimits",
            "type",
            "soft",
            "path",
            "namespaces",
            "resources",
            "memory",
            "limit",
            "devices",
            "destination",
            "options",
            "seccomp",
            "defaultAction",
            "syscalls",
            "sysctl",
            "annotations",
            "prestart",
            "timeout",
            "hostname",
            "cpu",
            "blockIO",
            "weightDevice",
        ]);
        leaf.prop_recursive(5, 60, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((keys.clone(), inner), 0..8).prop_map(|members| members
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
                    .into()),
            ]
        })
    }

    /// A configuration that is accepted, with one member anywhere replaced.
    fn spoilt() -> impl Strategy<Value = Value> {
        (any::<prop::sample::Index>(), any_json()).prop_map(|(index, value)| {
            let mut config = template::spec(false);
            let mut pointers = Vec::new();
            pointers_in(&config, String::new(), &mut pointers);
            *config.pointer_mut(index.get(&pointers).as_str()).unwrap() = value;
            config
        })
    }

    fn pointers_in(value: &Value, at: String, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(key, value)| pointers_in(value, format!("{at}/{key}"), found)),
            Value::Array(entries) => {
                entries.iter().enumerate().for_each(|(index, value)| pointers_in(value, format!("{at}/{index}"), found))
            }
            _ => {}
        }
        found.push(at);
    }

    proptest! {
        #[test]
        fn any_json_is_a_configuration_or_an_error_with_a_name(json in any_json()) {
            if let Err(error) = parse(json.clone()) {
                prop_assert!(!error.to_string().is_empty());
            }
            let _ = parse_process(json.clone());
            let _ = parse_resources(&json);
        }

        #[test]
        fn a_spoilt_configuration_is_accepted_or_named(json in spoilt()) {
            if let Err(error) = parse(json) {
                prop_assert!(error.to_string().contains(": "), "{}", error);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let bundle = tempfile::tempdir().unwrap();
            std::fs::write(bundle.path().join("config.json"), bytes).unwrap();
            let _ = load(bundle.path());
        }
    }

    #[test]
    fn a_process_on_its_own_is_held_against_the_same_rules() {
        let mut json = template::spec(false)["process"].clone();
        assert!(parse_process(json.clone()).is_ok());
        json["selinuxLabel"] = "x".into();
        assert!(parse_process(json.clone()).unwrap_err().to_string().starts_with("process.selinuxLabel: \"x\": not supported"));
        json["selinuxLabel"] = "".into();
        json["cwd"] = "tmp".into();
        assert_eq!(parse_process(json).unwrap_err().to_string(), "process.cwd: \"tmp\": Cwd must be an absolute path");
    }
}
