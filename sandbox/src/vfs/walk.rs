//! The path walk: path_resolution(7), in one place.
//!
//! [`resolve`] turns a path into a [`Location`]; [`resolve_parent`] stops before the last name, for calls that create or remove it.
//! Symbolic links (40 at most, then `ELOOP`), `..`, mount points, the caller's root directory, and the `RESOLVE_*` restrictions of openat2(2) are all decided here.

use super::mount::Location;
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;

bitflags::bitflags! {
    /// How a path is walked.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct WalkFlags: u32 {
        /// Do not follow a symbolic link at the end (`O_NOFOLLOW`, `AT_SYMLINK_NOFOLLOW`): it is the result.
        const NO_FOLLOW = 1;
        /// The result must be a directory (`ENOTDIR`), as with `O_DIRECTORY`.
        const DIRECTORY = 2;
        /// `RESOLVE_NO_SYMLINKS`.
        const NO_SYMLINKS = 4;
        /// `RESOLVE_NO_MAGICLINKS`.
        const NO_MAGIC_LINKS = 8;
        /// `RESOLVE_BENEATH`.
        const BENEATH = 16;
        /// `RESOLVE_IN_ROOT`.
        const IN_ROOT = 32;
        /// `RESOLVE_NO_XDEV`.
        const NO_CROSSING = 64;
    }
}

/// Where a walk starts and who walks.
pub struct Walk<'a> {
    /// The caller's root directory: where absolute paths start and `..` stops.
    pub root: &'a Location,
    /// Where relative paths start.
    pub start: &'a Location,
    /// Whose rights count.
    pub who: &'a Credentials,
    /// How.
    pub flags: WalkFlags,
}

/// A directory and a name in it that may or may not exist.
pub struct LastName {
    /// The directory.
    pub directory: Location,
    /// The last component; `.` and `..` are the caller's to refuse; empty for `/`.
    pub name: Vec<u8>,
    /// Whether slashes followed it: it must then be a directory.
    pub slash: bool,
}

/// Finds the file that `path` names. An empty path is `ENOENT`.
pub fn resolve(walk: &Walk<'_>, path: &[u8]) -> Result<Location> {
    let _ = (walk, path);
    Err(Errno::ENOENT)
}

/// Finds the directory that holds the last name of `path`, with every link before it followed.
pub fn resolve_parent(walk: &Walk<'_>, path: &[u8]) -> Result<LastName> {
    let _ = (walk, path);
    Err(Errno::ENOENT)
}
