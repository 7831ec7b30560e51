//! Stamps: that an image has been compared with its manifest since this machine booted.
//!
//! A stamp is a file named by the checksum of the manifest. It holds, for the kernel and for the initramfs, what fstat(2) said of the file that was read:
//! device, inode, size, and the times of its last changes. While fstat says the same, the content is the same, because the host sets the change time
//! (`st_ctime`) by itself on every write and offers nobody a call to set it back. Two gaps, both closed:
//!
//! - A file that changes twice within one tick of the host's clock has one time for both. So a stamp is written only when the change time is
//!   [`SETTLED`] old: what changes after that gets another.
//! - A disk that went bad changes bytes without changing times. Stamps belong on a tmpfs, and so end with the boot; then every byte is read again.
//!
//! Why not fs-verity, with which the host compares each page with a tree of checksums when it reads it? It is the better answer where the file system has
//! it, but it is an option of ext4 that Debian's installer does not set, and xfs, overlayfs and tmpfs do not have it: a
//! second way would be needed anyway, and this one takes two fstat calls and one read of 200 bytes.
//!
//! A stamp that can not be read, is of other files, or lies in a directory that others may write to counts as none. One that can not be written costs time alone.

use std::fs::{DirBuilder, File, Metadata};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::check_owner;
use crate::checksum::Checksum;

/// How old a change time must be: more than the coarsest that file systems keep, which is FAT's two seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// The longest stamp that is read, bytes: two lines of six numbers are below 300.
const LONGEST: u64 = 1024;

/// What tells one content of one file from every other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) size: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(data: &Metadata) -> Identity {
        Identity {
            size: data.size(),
            device: data.dev(),
            inode: data.ino(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let changed = Duration::new(u64::try_from(self.changed.0).unwrap_or(0), u32::try_from(self.changed.1).unwrap_or(0));
        // A time in the future is of a clock that has been set back: it may come again.
        now.duration_since(UNIX_EPOCH + changed).is_ok_and(|age| age >= SETTLED)
    }

    fn line(&self) -> String {
        let Identity { size, device, inode, modified, changed } = self;
        format!("{device} {inode} {size} {}.{:09} {}.{:09}\n", modified.0, modified.1, changed.0, changed.1)
    }
}

/// Where one manifest's stamp is, or will be.
pub(super) struct Stamp {
    directory: OwnedFd,
    name: String,
}

impl Stamp {
    /// `None` where stamps can not be kept.
    pub(super) fn open(directory: &Path, manifest: Checksum) -> Option<Stamp> {
        // There already, or not to be made: what counts is whether it opens.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let opened = File::from(open(directory, flags, Mode::empty()).ok()?);
        check_owner(directory, &opened).ok()?;
        Some(Stamp { directory: opened.into(), name: format!("guest-image-{manifest}") })
    }

    /// Whether it is there, and of these files.
    pub(super) fn is_of(&self, identities: &[Identity]) -> bool {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let Ok(file) = openat(&self.directory, self.name.as_str(), flags, Mode::empty()) else { return false };
        let mut text = Vec::new();
        File::from(file).take(LONGEST).read_to_end(&mut text).is_ok() && text == content(identities).as_bytes()
    }

    /// Writes it, unless one of the files has changed a moment ago.
    pub(super) fn write(&self, identities: &[Identity]) {
        let now = SystemTime::now();
        if identities.iter().all(|identity| identity.is_settled(now)) {
            let _ = self.replace(&content(identities));
        }
    }

    fn replace(&self, content: &str) -> std::io::Result<()> {
        // Whole or not at all: another pod may be reading it. The thread's number, as one process may start two.
        let temporary = format!("{}.{}", self.name, nix::unistd::gettid());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let _ = unlinkat(&self.directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
        let mut file = File::from(openat(&self.directory, temporary.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        file.write_all(content.as_bytes())?;
        Ok(renameat(&self.directory, temporary.as_str(), &self.directory, self.name.as_str())?)
    }
}

fn content(identities: &[Identity]) -> String {
    identities.iter().map(Identity::line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_moment_ago_is_not_settled() {
        let identity = |changed| Identity { size: 1, device: 2, inode: 3, modified: (0, 0), changed };
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert!(identity((996, 999_999_999)).is_settled(now));
        assert!(!identity((997, 1)).is_settled(now));
        assert!(!identity((2000, 0)).is_settled(now));
        assert_eq!(identity((996, 7)).line(), "2 3 1 0.000000000 996.000000007\n");
    }

    #[test]
    fn a_directory_that_others_may_write_to_holds_no_stamps() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let checksum = Checksum::of(b"manifest");
        assert!(Stamp::open(directory.path(), checksum).is_some());
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Stamp::open(directory.path(), checksum).is_none());
        let link = tempfile::tempdir().unwrap().keep().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(Stamp::open(&link, checksum).is_none());
        std::fs::remove_dir_all(link.parent().unwrap()).unwrap();
    }
}
