//! Trees that come and go, and what two of them share.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;

use fuse_backend_rs::abi::fuse_abi::{LinkIn, MkdirIn, RenameIn, SetattrIn, SetattrValid, SetxattrIn};

use super::*;

#[test]
fn the_root_lists_trees_and_nothing_can_be_made_in_it() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("resolv.conf"), "nameserver ::1").unwrap();
    let mut guest = Guest::new();
    assert_eq!(guest.list(ROOT_ID, false, 4096).len(), 2);
    guest.share("0", directory.path(), false);
    guest.share("7", directory.path().join("resolv.conf"), true);
    for (plus, room) in [(false, 4096), (false, 40), (true, 4096), (true, 200)] {
        let names = guest.list(ROOT_ID, plus, room);
        assert_eq!(names.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), [".", "..", "0", "7"]);
        assert_eq!(names[2].1 != 0, plus);
    }
    let root = guest.attributes(ROOT_ID).unwrap().attr;
    assert_eq!((root.mode, root.uid), (libc::S_IFDIR | 0o555, 0));
    assert_eq!(guest.lookup(ROOT_ID, "1").unwrap_err(), Errno::ENOENT);
    assert_eq!(guest.create(ROOT_ID, "new", libc::O_RDWR, 0o644).unwrap_err(), Errno::EPERM);
    assert_eq!(guest.plain(Opcode::Rmdir, ROOT_ID, &[b"0\0"]), Err(Errno::EPERM));
    assert_eq!(guest.plain(Opcode::Unlink, ROOT_ID, &[b"7\0"]), Err(Errno::EPERM));
    let t = guest.walk("0");
    assert_eq!(guest.plain(Opcode::Rename, t, &[RenameIn { newdir: ROOT_ID }.as_slice(), b"resolv.conf\0x\0"]), Err(Errno::EPERM));
    let wanted = SetattrIn { valid: SetattrValid::MODE.bits(), ..SetattrIn::default() };
    assert_eq!(guest.call::<AttrOut>(Opcode::Setattr, ROOT_ID, &[wanted.as_slice()]).unwrap_err(), Errno::EPERM);
    assert_eq!(guest.open(ROOT_ID, libc::O_RDONLY).unwrap_err(), Errno::EISDIR);
}

#[test]
fn a_single_file_is_a_tree() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hostname");
    fs::write(&path, "pod").unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    nix::unistd::mkfifo(&directory.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut guest = Guest::new();
    guest.share("file", &path, false);
    guest.share("socket", directory.path().join("socket"), false);
    guest.share("fifo", directory.path().join("fifo"), false);
    guest.share("null", "/dev/null", false);
    // As open_tree(2) or a caller that read the file gives it: not O_PATH.
    guest.shared.add("open", File::open(&path).unwrap().into(), false).unwrap();
    for name in ["file", "open"] {
        let entry = guest.lookup(ROOT_ID, name).unwrap();
        assert_eq!((entry.attr.size, entry.attr.mode & libc::S_IFMT), (3, libc::S_IFREG));
        let fh = guest.open(entry.nodeid, libc::O_RDWR).unwrap().fh;
        assert_eq!(guest.read(entry.nodeid, fh, 0, 10).unwrap(), b"pod");
        guest.write(entry.nodeid, fh, 0, b"P", 0).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "Pod");
        fs::write(&path, "pod").unwrap();
        assert_eq!(guest.lookup(entry.nodeid, "x").unwrap_err(), Errno::ENOTDIR);
    }
    for (name, kind) in [("socket", libc::S_IFSOCK), ("fifo", libc::S_IFIFO), ("null", libc::S_IFCHR)] {
        assert_eq!(guest.lookup(ROOT_ID, name).unwrap().attr.mode & libc::S_IFMT, kind);
    }
    drop(listener);
}

#[test]
fn a_removed_tree_is_closed_whatever_the_guest_does() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    fs::write(directory.path().join("sub/file"), "text").unwrap();
    let mut guest = Guest::new();
    guest.share("1", directory.path(), false);
    let (sub, file) = (guest.walk("1/sub"), guest.walk("1/sub/file"));
    let fh = guest.open(file, libc::O_RDWR).unwrap().fh;
    assert!(guest.held() > 0);
    guest.shared.remove("1");
    guest.shared.remove("1");
    assert_eq!(guest.held(), 0);
    assert_eq!(guest.lookup(ROOT_ID, "1").unwrap_err(), Errno::ENOENT);
    assert_eq!(guest.lookup(sub, "file").unwrap_err(), Errno::ESTALE);
    assert_eq!(guest.attributes(file).unwrap_err(), Errno::ESTALE);
    assert_eq!(guest.open(file, libc::O_RDONLY).unwrap_err(), Errno::ESTALE);
    assert_eq!(guest.read(file, fh, 0, 4), Err(Errno::EBADF));
    // The name can be used again; the numbers are not.
    guest.share("1", directory.path(), false);
    assert_ne!(guest.walk("1/sub/file"), file);
    guest.forget(file, 1);
    guest.forget(sub, 2);
}

#[test]
fn a_file_in_two_trees_is_one_and_outlives_either() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "text").unwrap();
    let mut guest = Guest::new();
    guest.share("1", directory.path(), false);
    guest.share("2", directory.path(), false);
    let file = guest.walk("1/file");
    let fh = guest.open(file, libc::O_RDWR).unwrap().fh;
    assert_eq!(guest.walk("2/file"), file);
    assert_ne!(guest.walk("1"), guest.walk("2"));
    assert_eq!(guest.lookup(ROOT_ID, "1").unwrap().attr.ino, guest.lookup(ROOT_ID, "2").unwrap().attr.ino);
    guest.shared.remove("1");
    guest.write(file, fh, 0, b"T", 0).unwrap();
    assert_eq!(guest.read(file, fh, 0, 9).unwrap(), b"Text");
    guest.shared.remove("2");
    assert_eq!(guest.read(file, fh, 0, 9), Err(Errno::EBADF));
}

#[test]
fn nothing_in_a_read_only_tree_can_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "text").unwrap();
    let mut guest = Guest::new();
    guest.share("ro", directory.path(), true);
    let (t, file) = (guest.walk("ro"), guest.walk("ro/file"));
    let before = fs::metadata(&path).unwrap();
    let fh = guest.open(file, libc::O_RDONLY).unwrap().fh;
    assert_eq!(guest.read(file, fh, 0, 9).unwrap(), b"text");
    assert_eq!(guest.write(file, fh, 0, b"T", 0), Err(Errno::EBADF));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(guest.open(file, flags).unwrap_err(), Errno::EROFS);
    }
    assert_eq!(guest.create(t, "new", libc::O_RDWR, 0o644).unwrap_err(), Errno::EROFS);
    assert_eq!(guest.create(t, "file", libc::O_RDWR, 0o644).unwrap_err(), Errno::EROFS);
    for (opcode, parts) in [
        (Opcode::Mkdir, [MkdirIn::default().as_slice(), b"new\0"]),
        (Opcode::Mknod, [&[0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], b"new\0"]),
        (Opcode::Symlink, [b"new\0", b"target\0"]),
        (Opcode::Link, [LinkIn { oldnodeid: file }.as_slice(), b"new\0"]),
        (Opcode::Unlink, [b"file\0", b""]),
        (Opcode::Rmdir, [b"file\0", b""]),
        (Opcode::Rename, [RenameIn { newdir: t }.as_slice(), b"file\0new\0"]),
    ] {
        assert_eq!(guest.bytes(opcode, t, &parts, 200).unwrap_err(), Errno::EROFS, "{opcode:?}");
    }
    for valid in [SetattrValid::MODE, SetattrValid::UID, SetattrValid::SIZE, SetattrValid::MTIME_NOW] {
        let wanted = SetattrIn { valid: valid.bits(), ..SetattrIn::default() };
        assert_eq!(guest.call::<AttrOut>(Opcode::Setattr, file, &[wanted.as_slice()]).unwrap_err(), Errno::EROFS);
    }
    let set = SetxattrIn { size: 1, flags: 0 };
    assert_eq!(guest.plain(Opcode::Setxattr, file, &[set.as_slice(), b"user.x\0y"]), Err(Errno::EROFS));
    assert_eq!(guest.plain(Opcode::Removexattr, file, &[b"user.x\0"]), Err(Errno::EROFS));
    let after = fs::metadata(&path).unwrap();
    assert_eq!((before.ctime_nsec(), before.len()), (after.ctime_nsec(), after.len()));

    // A second tree with the same file that may be written gives its rights to the file, and takes them along.
    guest.share("rw", directory.path(), false);
    assert_eq!(guest.walk("rw/file"), file);
    let fh = guest.open(file, libc::O_RDWR).unwrap().fh;
    guest.shared.remove("rw");
    assert_eq!(guest.write(file, fh, 0, b"T", 0), Err(Errno::EBADF));
    assert_eq!(guest.open(file, libc::O_RDWR).unwrap_err(), Errno::EROFS);
    assert!(guest.open(file, libc::O_RDONLY).is_ok());
}

#[test]
fn from_tree_to_tree_is_another_file_system() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    fs::write(directories[0].path().join("file"), "text").unwrap();
    let mut guest = Guest::new();
    guest.share("1", directories[0].path(), false);
    guest.share("2", directories[1].path(), false);
    let (one, two, file) = (guest.walk("1"), guest.walk("2"), guest.walk("1/file"));
    assert_eq!(guest.plain(Opcode::Rename, one, &[RenameIn { newdir: two }.as_slice(), b"file\0file\0"]), Err(Errno::EXDEV));
    let link = LinkIn { oldnodeid: file };
    assert_eq!(guest.call::<EntryOut>(Opcode::Link, two, &[link.as_slice(), b"file\0"]).unwrap_err(), Errno::EXDEV);
}

/// A tree as the shim makes it: a clone of a mount, attached nowhere, of a directory and of a file.
#[test]
fn detached_mounts_are_trees() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "text").unwrap();
    let mut guest = Guest::new();
    for (name, path) in [("directory", directory.path().to_owned()), ("file", directory.path().join("file"))] {
        let path = std::ffi::CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: the path is a C string that lives through the call, which only reads it.
        let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
        if tree < 0 {
            // It takes CAP_SYS_ADMIN.
            assert!(!nix::unistd::geteuid().is_root() || nix::errno::Errno::last() == Errno::EPERM);
            return;
        }
        // SAFETY: the call has just made the descriptor, and nobody else has it.
        guest.shared.add(name, unsafe { std::os::fd::FromRawFd::from_raw_fd(tree as i32) }, false).unwrap();
    }
    let file = guest.walk("file");
    assert_eq!(guest.walk("directory/file"), file);
    let fh = guest.open(file, libc::O_RDWR).unwrap().fh;
    guest.write(file, fh, 4, b"!", 0).unwrap();
    let (_, created) = {
        let top = guest.walk("directory");
        guest.create(top, "new", libc::O_RDWR, 0o644).unwrap()
    };
    assert!(created.fh > fh);
    guest.shared.remove("directory");
    assert_eq!(guest.read(file, fh, 0, 9).unwrap(), b"text!");
}
