//! The kernel's source: a tree as it is, or a tarball (Debian's `linux-source-*`), unpacked once.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::BuildError;

/// Gives the tree; unpacks a tarball below `work`, unless it is unpacked there already.
///
/// # Errors
/// [`BuildError::NoSource`], [`BuildError::NotSource`], [`BuildError::Program`].
pub fn prepare(source: &Path, work: &Path) -> Result<PathBuf, BuildError> {
    let data = fs::metadata(source).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => BuildError::NoSource(source.to_owned()),
        _ => BuildError::File { path: source.to_owned(), source: error },
    })?;
    if data.is_dir() {
        return check(source).map(|()| source.to_owned());
    }
    let (tree, marker) = (work.join("source"), work.join("source.unpacked"));
    // What tells this tarball from another; written when all of it is there.
    let identity = format!("{} {} {}.{:09}\n", source.display(), data.size(), data.mtime(), data.mtime_nsec());
    if fs::read_to_string(&marker).is_ok_and(|text| text == identity) {
        return check(&tree).map(|()| tree);
    }
    for old in [&tree, &work.join("objects")] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(BuildError::File { path: old.clone(), source: error });
            }
            _ => {}
        }
    }
    fs::create_dir_all(&tree).map_err(BuildError::file(&tree))?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(source).arg("-C").arg(&tree).args(["--strip-components=1", "--no-same-owner"]).stdin(Stdio::null());
    let failed = |reason: String| BuildError::Program { program: String::from("tar"), what: source.display().to_string(), reason };
    let output = tar.output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).lines().take(3).collect::<Vec<_>>().join("; ")
        )));
    }
    check(&tree)?;
    fs::write(&marker, identity).map_err(BuildError::file(&marker))?;
    Ok(tree)
}

/// Whether a directory is a kernel's source.
fn check(tree: &Path) -> Result<(), BuildError> {
    let wrong = |reason: &str| BuildError::NotSource { path: tree.to_owned(), reason: reason.to_owned() };
    let makefile = fs::read_to_string(tree.join("Makefile")).map_err(|error| wrong(&format!("Makefile: {error}")))?;
    if !makefile.lines().any(|line| line.starts_with("VERSION = ")) || !tree.join("Kconfig").is_file() {
        return Err(wrong("its Makefile names no version, or there is no Kconfig"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(directory: &Path) {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("Makefile"), "# SPDX\nVERSION = 6\nPATCHLEVEL = 12\n").unwrap();
        fs::write(directory.join("Kconfig"), "").unwrap();
    }

    #[test]
    fn a_tarball_is_unpacked_once() {
        let place = tempfile::tempdir().unwrap();
        let (source, work) = (place.path().join("linux-6.12"), place.path().join("work"));
        tree(&source);
        assert_eq!(prepare(&source, &work).unwrap(), source, "a tree is taken as it is");
        let tarball = place.path().join("linux.tar");
        let packed = Command::new("tar").arg("-cf").arg(&tarball).arg("-C").arg(place.path()).arg("linux-6.12").status().unwrap();
        assert!(packed.success());
        let unpacked = prepare(&tarball, &work).unwrap();
        fs::write(unpacked.join("ours"), "").unwrap();
        assert_eq!(prepare(&tarball, &work).unwrap(), unpacked);
        assert!(unpacked.join("ours").exists());
        // Another tarball by that name.
        fs::File::options().append(true).open(&tarball).unwrap().set_len(fs::metadata(&tarball).unwrap().len() + 512).unwrap();
        prepare(&tarball, &work).unwrap();
        assert!(!unpacked.join("ours").exists());
    }

    #[test]
    fn what_is_no_source_is_named() {
        let place = tempfile::tempdir().unwrap();
        let error = prepare(&place.path().join("x.tar"), place.path()).unwrap_err().to_string();
        assert!(error.ends_with("x.tar: no such kernel source: apt install linux-source-6.12, or name one (--kernel)"), "{error}");
        let error = prepare(place.path(), place.path()).unwrap_err().to_string();
        assert!(error.contains("not a kernel's source: Makefile: No such file"), "{error}");
        tree(place.path());
        fs::write(place.path().join("Makefile"), "all:\n").unwrap();
        assert!(prepare(place.path(), place.path()).unwrap_err().to_string().contains("its Makefile names no version"));
        let broken = place.path().join("broken.tar");
        fs::write(&broken, "not a tarball at all").unwrap();
        let error = prepare(&broken, &place.path().join("work")).unwrap_err().to_string();
        assert!(error.starts_with("tar on ") && error.contains("does not look like a tar archive"), "{error}");
        assert!(!place.path().join("work/source.unpacked").exists());
    }
}
