//! A container's root file system, while it is being made: paths in it are resolved below it, never beside it.
//!
//! The image is untrusted: its symbolic links may lead anywhere. openat2(2) with `RESOLVE_IN_ROOT` takes them as the container's own programs
//! will, and what it gives is a descriptor; mounts are made on descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};

/// The tree that becomes a container's root.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// What a mount point must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything but a directory.
    File,
}

impl Kind {
    /// The kind of an open file.
    ///
    /// # Errors
    /// fstat(2)'s.
    pub fn of(file: BorrowedFd<'_>) -> nix::Result<Kind> {
        let kind = fstat(file)?.st_mode & libc::S_IFMT;
        Ok(if kind == libc::S_IFDIR { Kind::Directory } else { Kind::File })
    }
}

impl Root {
    /// The tree at a path of the guest's.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn open(path: &Path) -> nix::Result<Root> {
        nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map(Root)
    }

    /// What is at a path in it, without a right to read it.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`.
    pub fn find(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open_in(path, OFlag::O_PATH)
    }

    /// Opens a file in it.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn open_in(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        openat2(&self.0, path, how)
    }

    /// What is at a path in it; where there is nothing it is made, with the directories above it.
    ///
    /// # Errors
    /// `EROFS` where the tree can not be written to; `ENOTDIR` and `EISDIR` where something of another kind is there.
    pub fn make(&self, path: &Path, kind: Kind) -> nix::Result<OwnedFd> {
        let found = match self.find(path) {
            Err(Errno::ENOENT) => {
                let (parent, name) = self.parent(path)?;
                let made = match kind {
                    Kind::Directory => mkdirat(&parent, name.as_path(), Mode::from_bits_truncate(0o755)),
                    Kind::File => {
                        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                        nix::fcntl::openat(&parent, name.as_path(), flags, Mode::from_bits_truncate(0o644)).map(drop)
                    }
                };
                match made {
                    Ok(()) | Err(Errno::EEXIST) => self.find(path)?,
                    Err(error) => return Err(error),
                }
            }
            found => found?,
        };
        match (kind, Kind::of(found.as_fd())?) {
            (Kind::Directory, Kind::File) => Err(Errno::ENOTDIR),
            (Kind::File, Kind::Directory) => Err(Errno::EISDIR),
            _ => Ok(found),
        }
    }

    /// The directory that a path's last name is in, made where it is not there, and that name.
    ///
    /// # Errors
    /// As for [`Root::make`]; `EINVAL` for a path without a name.
    pub fn parent(&self, path: &Path) -> nix::Result<(OwnedFd, PathBuf)> {
        let (Some(parent), Some(Component::Normal(name))) = (path.parent(), path.components().next_back()) else {
            return Err(Errno::EINVAL);
        };
        let parent = if parent.as_os_str().is_empty() { Path::new("/") } else { parent };
        Ok((self.make(parent, Kind::Directory)?, PathBuf::from(name)))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_image_do_not_lead_out_of_it() {
        let outside = tempfile::tempdir().unwrap();
        let tree = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), tree.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../../../..", tree.path().join("upwards")).unwrap();
        let root = Root::open(tree.path()).unwrap();
        // In the container the absolute link leads to a path that is not there: it is made inside.
        assert_eq!(root.make(Path::new("/absolute/new"), Kind::Directory).unwrap_err(), Errno::ENOENT);
        root.make(Path::new("/upwards/file"), Kind::File).unwrap();
        assert!(tree.path().join("file").is_file());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn mount_points_are_made_and_their_kind_is_checked() {
        let tree = tempfile::tempdir().unwrap();
        let root = Root::open(tree.path()).unwrap();
        root.make(Path::new("/a/b/c"), Kind::Directory).unwrap();
        root.make(Path::new("/a/d/file"), Kind::File).unwrap();
        assert!(tree.path().join("a/b/c").is_dir() && tree.path().join("a/d/file").is_file());
        assert_eq!(root.make(Path::new("/a/b"), Kind::File).unwrap_err(), Errno::EISDIR);
        assert_eq!(root.make(Path::new("/a/d/file"), Kind::Directory).unwrap_err(), Errno::ENOTDIR);
        assert_eq!(root.make(Path::new("/a/d/file/x"), Kind::File).unwrap_err(), Errno::ENOTDIR);
    }
}
