//! What compiling a kernel needs of the host (`Documentation/process/changes.rst`), looked for before hours are spent, and named all at once.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::BuildError;

/// Programs, and Debian's packages that have them.
const PROGRAMS: [(&str, &str); 8] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
];

/// The header of the library that objtool reads object files with, and its package.
const HEADER: (&str, &str) = ("gelf.h", "libelf-dev");

/// Looks for everything.
///
/// # Errors
/// [`BuildError::Tools`] with all that is missing.
pub fn check() -> Result<(), BuildError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = env::split_paths(&path).collect();
    missing(&places, has_header(HEADER.0))
}

fn missing(places: &[PathBuf], header: bool) -> Result<(), BuildError> {
    let absent = PROGRAMS.iter().filter(|(program, _)| !places.iter().any(|place| is_program(&place.join(program))));
    let (mut missing, mut packages): (Vec<String>, Vec<String>) =
        absent.map(|(program, package)| ((*program).to_owned(), (*package).to_owned())).unzip();
    // Only a compiler knows where its headers are. Without one the header is not what is missing first.
    if !header {
        missing.push(HEADER.0.to_owned());
        packages.push(HEADER.1.to_owned());
    }
    if missing.is_empty() { Ok(()) } else { Err(BuildError::Tools { missing, packages }) }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn has_header(header: &str) -> bool {
    let mut compiler = Command::new("gcc");
    compiler.args(["-fsyntax-only", "-x", "c", "-include", header, "/dev/null"]);
    compiler.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let place = tempfile::tempdir().unwrap();
        for (program, _) in PROGRAMS {
            std::fs::write(place.path().join(program), "").unwrap();
            std::fs::set_permissions(place.path().join(program), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let places = [PathBuf::from("/nowhere"), place.path().to_owned()];
        assert!(missing(&places, true).is_ok());
        std::fs::remove_file(place.path().join("flex")).unwrap();
        // There, but not to be run.
        std::fs::set_permissions(place.path().join("xz"), std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = missing(&places, false).unwrap_err().to_string();
        assert_eq!(error, "compiling a kernel needs flex, xz, gelf.h: apt install flex xz-utils libelf-dev");
    }

    #[test]
    fn a_header_is_what_a_compiler_finds() {
        assert!(!has_header("no/such/header.h"));
    }
}
