//! `tmpcopyup`: what a tmpfs hides is copied into it first. Directories, files and links with their owners and modes; what else an image may
//! have in such a place (sockets, devices) is left out.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat, mkdirat};
use nix::unistd::{fchown, fchownat, symlinkat};

/// Directories deeper than this are no image's.
const DEEPEST: usize = 64;

/// Copies what is in one directory into another, and the directory's own attributes.
///
/// # Errors
/// `ELOOP` for a tree that is too deep; otherwise of the calls that read and write.
pub fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> nix::Result<()> {
    directory(&open(from, ".", OFlag::O_DIRECTORY)?, &open(to, ".", OFlag::O_DIRECTORY)?, DEEPEST)
}

fn open(directory: impl AsFd, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
    openat(directory, name, flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

fn directory(from: &OwnedFd, to: &OwnedFd, depth: usize) -> nix::Result<()> {
    let depth = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
    // A stream of its own: reading one moves the descriptor's offset.
    for entry in Dir::from_fd(open(from, ".", OFlag::O_DIRECTORY)?)?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                mkdirat(to, name, Mode::S_IRWXU)?;
                let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                directory(&openat(from, name, flags, Mode::empty())?, &openat(to, name, flags, Mode::empty())?, depth)?;
            }
            libc::S_IFREG => {
                let source = openat(from, name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
                let copy = openat(to, name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC, mode)?;
                let (mut source, mut copy) = (File::from(source), File::from(copy));
                std::io::copy(&mut source, &mut copy).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
                own(&copy, &stat)?;
            }
            libc::S_IFLNK => {
                symlinkat(readlinkat(from, name)?.as_os_str(), to, name)?;
                fchownat(to, name, Some(stat.st_uid.into()), Some(stat.st_gid.into()), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            }
            _ => {}
        }
    }
    own(to, &fstat(from)?)
}

/// Gives a copy its original's owner and mode: in this order, for a change of owner clears bits of the mode.
fn own(copy: impl AsFd, stat: &FileStat) -> nix::Result<()> {
    fchown(&copy, Some(stat.st_uid.into()), Some(stat.st_gid.into()))?;
    nix::sys::stat::fchmod(&copy, Mode::from_bits_truncate(stat.st_mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_tree_is_copied_with_its_modes_and_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("a/b")).unwrap();
        std::fs::write(from.path().join("a/b/file"), b"text").unwrap();
        std::fs::set_permissions(from.path().join("a/b/file"), PermissionsExt::from_mode(0o4711)).unwrap();
        std::os::unix::fs::symlink("b/file", from.path().join("a/link")).unwrap();
        let open = |path: &std::path::Path| File::open(path).unwrap();
        tree(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap();
        assert_eq!(std::fs::read(to.path().join("a/link")).unwrap(), b"text");
        assert_eq!(std::fs::metadata(to.path().join("a/b/file")).unwrap().permissions().mode() & 0o7777, 0o4711);
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(to.path()), mode(from.path()));
    }
}
