//! What of the host's files a container gets: the root file system and bind sources, as detached copies of their mounts.
//!
//! The wall's process has a mount namespace in which nothing of the host exists. It is given directories as descriptors
//! of detached mounts (`open_tree(2)`), already restricted by the host itself (`mount_setattr(2)`): set-user-ID bits and
//! device nodes never mean anything on them, for they are the user-space kernel's to interpret.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::host;
use crate::oci::mount_options::{MountOptions, attribute};

/// Why a directory of the host can not be given.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The root file system.
    #[error("invalid rootfs {} (root.path): {reason}", path.display())]
    Root {
        /// Its path on the host.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A bind mount's source.
    #[error("mounts[{index}].source: {source_path:?}: {reason}")]
    Source {
        /// Which mount.
        index: usize,
        /// Its source.
        source_path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// The directory for writes.
    #[error("--overlay dir={}: {reason}", path.display())]
    Upper {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

/// The root file system's place on the host, and a detached copy of it. A relative path is the bundle's; no component
/// of it, and not the last one of an absolute path, may be a symbolic link.
///
/// # Errors
/// [`TreeError::Root`].
pub fn root(bundle: &Path, path: &Path, read_only: bool) -> Result<(PathBuf, OwnedFd), TreeError> {
    let full = bundle.join(path);
    let failed = |reason: String| TreeError::Root { path: full.clone(), reason };
    let base = File::open(if path.is_absolute() { Path::new("/") } else { bundle }).map_err(|error| failed(error.to_string()))?;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW);
    let how = if path.is_absolute() { how } else { how.resolve(ResolveFlag::RESOLVE_NO_SYMLINKS) };
    let opened = openat2(&base, path, how).map_err(|errno| {
        failed(match errno {
            nix::errno::Errno::ELOOP => "not an absolute path, or a symlink".into(),
            errno => io::Error::from(errno).to_string(),
        })
    })?;
    let kind = File::from(opened.try_clone().map_err(|error| failed(error.to_string()))?)
        .metadata()
        .map_err(|error| failed(error.to_string()))?
        .file_type();
    if kind.is_symlink() {
        return Err(failed("not an absolute path, or a symlink".into()));
    }
    if !kind.is_dir() {
        return Err(failed("not a directory".into()));
    }
    let tree = host::clone_tree(opened.as_fd(), Path::new(""), true).map_err(|error| failed(error.to_string()))?;
    restrict(&tree, MountOptions { set: if read_only { attribute::READ_ONLY } else { 0 }, ..MountOptions::default() })
        .map_err(|error| failed(error.to_string()))?;
    Ok((full, tree))
}

/// A detached copy of a bind mount's source.
///
/// # Errors
/// [`TreeError::Source`].
pub fn source(bundle: &Path, index: usize, path: &Path, options: MountOptions) -> Result<OwnedFd, TreeError> {
    let full = bundle.join(path);
    let failed = |reason| TreeError::Source { index, source_path: full.clone(), reason };
    let base = File::open("/").map_err(failed)?;
    let tree = host::clone_tree(base.as_fd(), &full, options.bind == Some(true)).map_err(failed)?;
    restrict(&tree, options).map_err(failed)?;
    Ok(tree)
}

/// A detached copy of the directory that takes the writes to the root file system. It is made where only its last component is missing.
///
/// # Errors
/// [`TreeError::Upper`].
pub fn upper(path: &Path) -> Result<OwnedFd, TreeError> {
    let failed = |reason| TreeError::Upper { path: path.to_owned(), reason };
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let directory = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).map_err(failed)?;
    let tree = host::clone_tree(directory.as_fd(), Path::new(""), false).map_err(failed)?;
    restrict(&tree, MountOptions::default()).map_err(failed)?;
    Ok(tree)
}

/// Sets attributes on the tree's mounts. A copy starts with its original's attributes, which stay: a mount that the
/// host has made read-only does not become writable by being bound.
fn restrict(tree: &OwnedFd, options: MountOptions) -> io::Result<()> {
    let always = attribute::NO_SUID | attribute::NO_DEVICES;
    // Access times are one field of three bits: whoever sets one clears the others (mount_setattr(2)).
    let clear = |set: u64| if set & attribute::ATIME != 0 { attribute::ATIME } else { 0 };
    let below = options.set_below | always;
    host::set_mount_attributes(tree, below, clear(below), true, true)?;
    if options.set != 0 {
        host::set_mount_attributes(tree, options.set, clear(options.set), false, false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bundle: &Path, path: &str) -> String {
        root(bundle, Path::new(path), false).unwrap_err().to_string()
    }

    #[test]
    fn a_root_that_is_none_is_named() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let bundle = tempfile::tempdir().unwrap();
        let bundle = bundle.path();
        std::fs::create_dir(bundle.join("rootfs")).unwrap();
        std::fs::write(bundle.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/", bundle.join("out")).unwrap();
        std::os::unix::fs::symlink(bundle.join("rootfs"), bundle.join("link")).unwrap();
        let named = |path: &str| format!("invalid rootfs {} (root.path): ", bundle.join(path).display());
        assert_eq!(refused(bundle, "nowhere"), named("nowhere") + "No such file or directory (os error 2)");
        assert_eq!(refused(bundle, "file"), named("file") + "not a directory");
        assert_eq!(refused(bundle, "out"), named("out") + "not an absolute path, or a symlink");
        assert_eq!(refused(bundle, "out/etc"), named("out/etc") + "not an absolute path, or a symlink");
        let link = bundle.join("link");
        assert!(refused(bundle, link.to_str().unwrap()).ends_with("not an absolute path, or a symlink"));
        let (path, _tree) = root(bundle, Path::new("rootfs"), true).unwrap();
        assert_eq!(path, bundle.join("rootfs"));
    }

    #[test]
    fn a_bind_source_is_copied_with_its_attributes_or_named() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        use std::os::fd::AsRawFd;
        let bundle = tempfile::tempdir().unwrap();
        std::fs::write(bundle.path().join("hosts"), "x").unwrap();
        let options = MountOptions { bind: Some(true), set: attribute::READ_ONLY | attribute::NO_ATIME, set_below: attribute::NO_EXEC };
        let tree = source(bundle.path(), 0, Path::new("hosts"), options).unwrap();
        let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        assert_eq!(std::fs::write(&path, "y").unwrap_err().raw_os_error(), Some(libc::EROFS));
        let error = source(bundle.path(), 3, Path::new("/nowhere"), options).unwrap_err().to_string();
        assert_eq!(error, "mounts[3].source: \"/nowhere\": No such file or directory (os error 2)");
    }
}
