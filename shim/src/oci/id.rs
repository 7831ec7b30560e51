//! Identifiers of containers, execs and pods, as runc accepts them.

use std::fmt;
use std::path::Path;

/// The longest identifier, in bytes: it names a directory (`NAME_MAX`, less room for a suffix).
pub const MAXIMUM_LENGTH: usize = 240;

/// A well-formed identifier: letters, digits, `_`, `+`, `,`, `-`, `.`; neither `.` nor `..`. Safe as a file name.
///
/// Source of the alphabet: runc's `^[\w+-\.]+$`, whose `+-\.` is a range.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

/// An identifier that is not well-formed; runc's text, with the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid container ID format: {0:?}: {1}")]
pub struct BadId(String, &'static str);

impl Id {
    /// Checks an identifier.
    ///
    /// # Errors
    /// [`BadId`], which names it.
    pub fn new(text: &str) -> Result<Self, BadId> {
        let bad = |reason| Err(BadId(text.chars().take(80).collect(), reason));
        if text.is_empty() {
            return bad("empty");
        }
        if text.len() > MAXIMUM_LENGTH {
            return bad("longer than 240 bytes");
        }
        if text == "." || text == ".." {
            return bad("a directory's own name");
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+,-.".contains(&byte)) {
            return bad("only letters, digits and _ + , - . are allowed");
        }
        Ok(Self(text.to_owned()))
    }

    /// The identifier.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Id {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        Self::new(&text)
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl std::str::FromStr for Id {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::new(text)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<Path> for Id {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runcs_identifiers_are_accepted_and_others_not() {
        for good in ["web", "a_b-c.d+e,f", "0", &"x".repeat(240)] {
            assert_eq!(Id::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "a:b", "ü", "a\n", &"x".repeat(241)] {
            assert!(Id::new(bad).unwrap_err().to_string().starts_with("invalid container ID format: "), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_identifier_is_one_component_of_a_path(text in ".*") {
            if let Ok(id) = Id::new(&text) {
                let components: Vec<_> = Path::new(id.as_str()).components().collect();
                prop_assert!(matches!(components[..], [std::path::Component::Normal(_)]));
            }
        }
    }
}
