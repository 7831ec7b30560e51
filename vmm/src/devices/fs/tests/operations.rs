//! What a well-behaved driver does.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};

use fuse_backend_rs::abi::fuse_abi::{
    FATTR_FH, FallocateIn, FlushIn, FsyncIn, GETATTR_FH, GetxattrIn, GetxattrOut, Kstatfs, LinkIn, LseekIn, LseekOut, MkdirIn, MknodIn,
    OpenOptions, Rename2In, RenameIn, SetattrIn, SetattrValid, SetxattrIn, WRITE_KILL_PRIV,
};
use vm_memory::GuestMemory;

use super::*;
use crate::devices::device::{Device, Kind};
use crate::devices::events::EventLoop;
use crate::devices::fs::FileSystem;

/// A guest, the directory that it has as `t`, and that directory's node.
fn shared() -> (Guest, tempfile::TempDir, u64) {
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let directory = tempfile::tempdir().unwrap();
    let mut guest = Guest::new();
    guest.share("t", directory.path(), false);
    let node = guest.walk("t");
    (guest, directory, node)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn the_device_answers_kicks_with_interrupts() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let (mut device, handle) = FileSystem::new("tag", EventLoop::start("fs", || Ok(())).unwrap()).unwrap();
    assert_eq!((device.kind(), device.queue_sizes().len()), (Kind::FileSystem, 2));
    let mut space = [0xff; 44];
    device.read_configuration(0, &mut space);
    assert_eq!((&space[..4], &space[36..]), (&b"tag\0"[..], &[1, 0, 0, 0, 0, 0, 0, 0][..]));

    handle.add("one", hold(directory.path()), false).unwrap();
    assert_eq!(handle.add("one", hold(directory.path()), false).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    for bad in ["", "..", "a/b"] {
        assert!(handle.add(bad, hold(directory.path()), false).unwrap_err().to_string().contains(&format!("{bad:?}")));
    }
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let (activation, kicks, interrupt) = activation(&memory);
    device.activate(activation).unwrap();
    let mut available = 0;
    let mut find = |parent, name: &[u8]| {
        let request = [header(Opcode::Lookup as u32, parent, (0, 0), name.len()).as_slice(), name].concat();
        memory.write_slice(&request, GuestAddress(REQUEST)).unwrap();
        let chain = [Descriptor::new(REQUEST, request.len() as u32, NEXT, 1), Descriptor::new(REPLY, 144, WRITE, 0)];
        submit(&memory, 1, &mut available, &chain);
        kicks[1].write(1).unwrap();
        interrupt.line().read().unwrap();
        let out: OutHeader = memory.read_obj(GuestAddress(REPLY)).unwrap();
        (out.error, memory.read_obj::<EntryOut>(GuestAddress(REPLY + 16)).unwrap().nodeid)
    };
    let (error, node) = find(ROOT_ID, b"one\0");
    assert_eq!((error, find(node, b"file\0").0), (0, 0));
    handle.remove("one");
    assert_eq!(find(ROOT_ID, b"one\0").0, -libc::ENOENT);
    assert_eq!(find(node, b"file\0").0, -libc::ESTALE);
    device.reset();
    assert_eq!(memory.num_regions(), 1);
}

#[test]
fn only_what_is_known_is_agreed_on() {
    let mut guest = Guest::unmounted();
    let mut init = |major, minor, flags| {
        guest.call::<InitOut>(Opcode::Init, ROOT_ID, &[InitIn { major, minor, max_readahead: 4096, flags }.as_slice()])
    };
    assert_eq!(init(7, 30, 0).unwrap_err(), Errno::EPROTO);
    assert_eq!(init(6, 38, 0).unwrap_err(), Errno::EPROTO);
    assert_eq!(init(8, 0, 0).unwrap().major, 7);
    let out = init(7, 38, u32::MAX).unwrap();
    // Neither the write-back cache (bit 16) nor locks (1, 10) nor access control lists (20), nor flags beyond 32 bits (30).
    assert_eq!(out.flags & (1 << 16 | 1 << 1 | 1 << 10 | 1 << 20 | 1 << 30), 0);
    assert_ne!(out.flags & (1 << 12), 0, "contents that changed are not to be believed");
    assert_eq!(init(7, 38, 1).unwrap().flags, 1, "nothing that was not offered");
}

#[test]
fn a_file_is_made_written_and_read() {
    let (mut guest, directory, t) = shared();
    let (entry, open) = guest.create(t, "file", libc::O_RDWR, 0o640).unwrap();
    assert_eq!(guest.create(t, "file", libc::O_RDWR | libc::O_EXCL, 0o640).unwrap_err(), Errno::EEXIST);
    let data: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    assert_eq!(guest.write(entry.nodeid, open.fh, 10, &data, 0), Ok(100_000));
    let back = guest.read(entry.nodeid, open.fh, 0, 200_000).unwrap();
    assert_eq!((&back[..10], &back[10..]), (&[0; 10][..], &data[..]));
    assert_eq!(guest.read(entry.nodeid, open.fh, 1 << 40, 10).unwrap(), [0_u8; 0]);
    let on_host = fs::metadata(directory.path().join("file")).unwrap();
    assert_eq!((on_host.len(), on_host.mode() & 0o7777), (100_010, 0o640));

    let attributes = guest.attributes(entry.nodeid).unwrap().attr;
    assert_eq!((attributes.size, attributes.mode, attributes.nlink), (100_010, libc::S_IFREG | 0o640, 1));
    let flush = FlushIn { fh: open.fh, ..FlushIn::default() };
    guest.plain(Opcode::Flush, entry.nodeid, &[flush.as_slice()]).unwrap();
    for fsync_flags in [0, 1] {
        guest.plain(Opcode::Fsync, entry.nodeid, &[FsyncIn { fh: open.fh, fsync_flags, padding: 0 }.as_slice()]).unwrap();
    }
    let allocate = FallocateIn { fh: open.fh, offset: 0, length: 200_000, mode: 0, padding: 0 };
    guest.plain(Opcode::Fallocate, entry.nodeid, &[allocate.as_slice()]).unwrap();
    assert_eq!(fs::metadata(directory.path().join("file")).unwrap().len(), 200_000);
    let seek = LseekIn { fh: open.fh, offset: 5, whence: libc::SEEK_DATA as u32, padding: 0 };
    assert_eq!(guest.call::<LseekOut>(Opcode::Lseek, entry.nodeid, &[seek.as_slice()]).unwrap().offset, 5);
    guest.release(entry.nodeid, open.fh).unwrap();
    assert_eq!(guest.release(entry.nodeid, open.fh), Err(Errno::EBADF));
    assert_eq!(guest.read(entry.nodeid, open.fh, 0, 1), Err(Errno::EBADF));
}

#[test]
fn appending_is_the_hosts_business_but_not_for_pages_of_a_mapping() {
    let (mut guest, directory, t) = shared();
    let path = directory.path().join("log");
    fs::write(&path, "one,").unwrap();
    let node = guest.walk("t/log");
    let fh = guest.open(node, libc::O_RDWR | libc::O_APPEND).unwrap().fh;
    fs::write(&path, "one,two,").unwrap();
    // The guest believes in a shorter file.
    guest.write(node, fh, 4, b"three", libc::O_APPEND).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "one,two,three");
    guest.write(node, fh, 0, b"ONE", 0).unwrap();
    guest.write(node, fh, 0, b"!", libc::O_APPEND).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "ONE,two,three!");
    assert_ne!(t, node);
}

#[test]
fn names_are_made_moved_and_removed() {
    let (mut guest, directory, t) = shared();
    let path = directory.path();
    let sub = guest.call::<EntryOut>(Opcode::Mkdir, t, &[MkdirIn { mode: 0o1755, umask: 0 }.as_slice(), b"sub\0"]).unwrap();
    assert_eq!(fs::metadata(path.join("sub")).unwrap().mode() & 0o7777, 0o1755);
    let link = guest.call::<EntryOut>(Opcode::Symlink, sub.nodeid, &[b"link\0/etc/passwd\0"]).unwrap();
    assert_eq!(guest.bytes(Opcode::Readlink, link.nodeid, &[], 4096).unwrap(), b"/etc/passwd");
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    let (file, _) = guest.create(t, "file", libc::O_WRONLY, 0o600).unwrap();
    let hard = guest.call::<EntryOut>(Opcode::Link, sub.nodeid, &[LinkIn { oldnodeid: file.nodeid }.as_slice(), b"hard\0"]).unwrap();
    assert_eq!((hard.nodeid, hard.attr.nlink), (file.nodeid, 2));
    // A symbolic link is linked itself.
    guest.call::<EntryOut>(Opcode::Link, t, &[LinkIn { oldnodeid: link.nodeid }.as_slice(), b"link2\0"]).unwrap();
    assert!(fs::symlink_metadata(path.join("link2")).unwrap().is_symlink());

    guest.plain(Opcode::Rename, t, &[RenameIn { newdir: sub.nodeid }.as_slice(), b"file\0moved\0"]).unwrap();
    let exchange = |flags| Rename2In { newdir: sub.nodeid, flags, padding: 0 };
    assert_eq!(
        guest.plain(Opcode::Rename2, sub.nodeid, &[exchange(libc::RENAME_NOREPLACE).as_slice(), b"moved\0hard\0"]),
        Err(Errno::EEXIST)
    );
    guest.plain(Opcode::Rename2, sub.nodeid, &[exchange(libc::RENAME_EXCHANGE).as_slice(), b"moved\0link\0"]).unwrap();
    assert!(fs::symlink_metadata(path.join("sub/moved")).unwrap().is_symlink());
    assert_eq!(guest.plain(Opcode::Rename2, sub.nodeid, &[exchange(1 << 20).as_slice(), b"moved\0link\0"]), Err(Errno::EINVAL));

    assert_eq!(guest.plain(Opcode::Rmdir, t, &[b"sub\0"]), Err(Errno::ENOTEMPTY));
    assert_eq!(guest.plain(Opcode::Unlink, t, &[b"sub\0"]), Err(Errno::EISDIR));
    for name in [&b"moved\0"[..], b"link\0", b"hard\0"] {
        guest.plain(Opcode::Unlink, sub.nodeid, &[name]).unwrap();
    }
    guest.plain(Opcode::Rmdir, t, &[b"sub\0"]).unwrap();
    assert_eq!(guest.lookup(t, "sub").unwrap_err(), Errno::ENOENT);
    // What was removed is still known.
    assert_eq!(guest.attributes(file.nodeid).unwrap().attr.nlink, 0);

    let fifo = guest
        .call::<EntryOut>(Opcode::Mknod, t, &[MknodIn { mode: libc::S_IFIFO | 0o622, ..MknodIn::default() }.as_slice(), b"fifo\0"])
        .unwrap();
    assert_eq!(fifo.attr.mode, libc::S_IFIFO | 0o622);
    assert!(fs::symlink_metadata(path.join("fifo")).unwrap().file_type().is_fifo());
}

#[test]
fn files_belong_to_who_makes_them() {
    if !is_root() {
        return;
    }
    let (mut guest, directory, t) = shared();
    // A directory of a group that the user is in, which only the guest knows.
    std::os::unix::fs::chown(directory.path(), Some(0), Some(4321)).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o770)).unwrap();
    guest.who = (1234, 567);
    guest.create(t, "file", libc::O_WRONLY, 0o4755).unwrap();
    guest.call::<EntryOut>(Opcode::Mkdir, t, &[MkdirIn { mode: 0o755, umask: 0 }.as_slice(), b"dir\0"]).unwrap();
    guest.call::<EntryOut>(Opcode::Symlink, t, &[b"link\0x\0"]).unwrap();
    guest
        .call::<EntryOut>(Opcode::Mknod, t, &[MknodIn { mode: libc::S_IFSOCK | 0o755, ..MknodIn::default() }.as_slice(), b"sock\0"])
        .unwrap();
    for name in ["file", "dir", "link", "sock"] {
        let metadata = fs::symlink_metadata(directory.path().join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 567), "{name}");
    }
    assert_eq!(fs::metadata(directory.path().join("file")).unwrap().mode() & 0o7777, 0o4755);
    // In a set-group-ID directory they get its group.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o2770)).unwrap();
    let (entry, _) = guest.create(t, "inherits", libc::O_WRONLY, 0o644).unwrap();
    assert_eq!((entry.attr.uid, entry.attr.gid), (1234, 4321));
    guest.who = (0, 0);
    let (entry, _) = guest.create(t, "root", libc::O_WRONLY, 0o644).unwrap();
    assert_eq!(entry.attr.uid, 0);
}

#[test]
fn attributes_are_set() {
    let (mut guest, directory, t) = shared();
    let path = directory.path().join("file");
    let (entry, open) = guest.create(t, "file", libc::O_RDWR, 0o4755).unwrap();
    let node = entry.nodeid;
    let mut set = |valid: SetattrValid, change: &dyn Fn(&mut SetattrIn)| {
        let mut wanted = SetattrIn { valid: valid.bits(), ..SetattrIn::default() };
        change(&mut wanted);
        guest.call::<AttrOut>(Opcode::Setattr, node, &[wanted.as_slice()]).map(|out| out.attr)
    };
    assert_eq!(set(SetattrValid::MODE, &|wanted| wanted.mode = 0o4711).unwrap().mode & 0o7777, 0o4711);
    assert_eq!(set(SetattrValid::SIZE, &|wanted| wanted.size = 77).unwrap().size, 77);
    // Whether this process may keep set-user-ID bits is the host's to say (not in a user namespace).
    let native = directory.path().join("native");
    let natively = File::create(&native).unwrap();
    fs::set_permissions(&native, fs::Permissions::from_mode(0o4711)).unwrap();
    natively.set_len(1).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode(), natively.metadata().unwrap().mode());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).unwrap();
    let with_handle = |wanted: &mut SetattrIn| (wanted.valid, wanted.fh, wanted.size) = (wanted.valid | FATTR_FH, open.fh, 99);
    assert_eq!(set(SetattrValid::SIZE | SetattrValid::KILL_SUIDGID, &with_handle).unwrap().size, 99);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o711, "the writer may not");
    assert_eq!(set(SetattrValid::SIZE, &|wanted| wanted.size = u64::MAX).unwrap_err(), Errno::EINVAL);
    let times = |wanted: &mut SetattrIn| (wanted.atime, wanted.mtime, wanted.mtimensec) = (1000, 2000, 5);
    let attr = set(SetattrValid::ATIME | SetattrValid::MTIME, &times).unwrap();
    assert_eq!((attr.atime, attr.mtime, attr.mtimensec), (1000, 2000, 5));
    assert_eq!(set(SetattrValid::MTIME, &|wanted| wanted.mtimensec = u32::MAX).unwrap_err(), Errno::EINVAL);
    let attr = set(SetattrValid::MTIME | SetattrValid::MTIME_NOW, &|_| {}).unwrap();
    assert_eq!(attr.atime, 1000);
    assert!(attr.mtime > 2000);
    if is_root() {
        let attr = set(SetattrValid::UID | SetattrValid::GID, &|wanted| (wanted.uid, wanted.gid) = (11, 12)).unwrap();
        assert_eq!((attr.uid, attr.gid), (11, 12));
    }
    // By handle, after the name is gone.
    fs::remove_file(&path).unwrap();
    let by_handle = GetattrIn { flags: GETATTR_FH, fh: open.fh, dummy: 0 };
    assert_eq!(guest.call::<AttrOut>(Opcode::Getattr, node, &[by_handle.as_slice()]).unwrap().attr.nlink, 0);
    let statistics: Kstatfs = guest.call(Opcode::Statfs, t, &[]).unwrap();
    assert!(statistics.blocks > 0 && statistics.namelen == 255);
    assert_eq!(guest.call::<Kstatfs>(Opcode::Statfs, ROOT_ID, &[]).unwrap().blocks, 0);
}

#[test]
fn a_write_drops_set_user_id_when_the_guest_says_so() {
    let (mut guest, directory, t) = shared();
    let (entry, open) = guest.create(t, "file", libc::O_RDWR, 0o6755).unwrap();
    let mode = || fs::metadata(directory.path().join("file")).unwrap().mode() & 0o7777;
    let before = mode();
    let write = WriteIn { fh: open.fh, size: 1, fuse_flags: WRITE_KILL_PRIV, ..WriteIn::default() };
    guest.call::<WriteOut>(Opcode::Write, entry.nodeid, &[write.as_slice(), b"x"]).unwrap();
    assert_eq!((before, mode()), (0o6755, 0o755));
}

#[test]
fn a_directory_is_read_in_pieces() {
    let (mut guest, directory, t) = shared();
    for index in 0..300 {
        fs::write(directory.path().join(format!("file-{index:03}")), "").unwrap();
    }
    for (plus, room) in [(false, 100), (false, 1 << 20), (true, 400), (true, 32 << 10)] {
        let held = guest.held();
        let names = guest.list(t, plus, room);
        assert_eq!(names.len(), 302);
        assert_eq!((names[0].0.as_str(), names[1].0.as_str(), names[301].0.as_str()), (".", "..", "file-299"));
        assert!(names.iter().all(|(name, node)| (*node != 0) == (plus && name.starts_with("file"))));
        if plus {
            assert_eq!(guest.held(), held + 300);
            // One lookup each.
            for (_, node) in names {
                guest.forget(node, 1);
            }
        }
        assert_eq!(guest.held(), held);
    }
}

#[test]
fn changes_on_the_host_are_seen() {
    let (mut guest, directory, t) = shared();
    let path = directory.path();
    // As kubelet updates a ConfigMap.
    for version in ["1", "2"] {
        fs::create_dir(path.join(format!("..{version}"))).unwrap();
        fs::write(path.join(format!("..{version}/key")), version).unwrap();
    }
    std::os::unix::fs::symlink("..1", path.join("..data")).unwrap();
    let before = guest.lookup(t, "..data").unwrap();
    assert!(before.entry_valid == 0 && before.entry_valid_nsec <= 100_000_000 && before.attr_valid_nsec <= 100_000_000);
    std::os::unix::fs::symlink("..2", path.join("..tmp")).unwrap();
    fs::rename(path.join("..tmp"), path.join("..data")).unwrap();
    let after = guest.lookup(t, "..data").unwrap();
    assert_ne!(before.nodeid, after.nodeid);
    assert_eq!(guest.bytes(Opcode::Readlink, after.nodeid, &[], 100).unwrap(), b"..2");

    // The guest's cache of a file is good until the file changes.
    let node = guest.walk("t/..2/key");
    let mut cached = || {
        let open = guest.open(node, libc::O_RDONLY).unwrap();
        guest.release(node, open.fh).unwrap();
        open.open_flags & OpenOptions::KEEP_CACHE.bits() != 0
    };
    // It has just changed, and could again in the same tick of the host's clock. Where so much time has passed that it could not, nothing was seen.
    let just_changed = (0..100).any(|_| {
        let begun = Instant::now();
        fs::write(path.join("..2/key"), "2").unwrap();
        let seen = [cached(), cached()];
        let soon = begun.elapsed() < Duration::from_millis(80);
        assert!(!soon || seen == [false, false], "{seen:?}");
        soon
    });
    assert!(just_changed);
    let settle = || std::thread::sleep(Duration::from_millis(150));
    settle();
    assert_eq!([cached(), cached(), cached()], [false, true, true]);
    fs::write(path.join("..2/key"), "other").unwrap();
    settle();
    assert_eq!([cached(), cached()], [false, true]);
}

#[test]
fn extended_attributes_are_users_own() {
    let (mut guest, _directory, t) = shared();
    let (entry, _) = guest.create(t, "file", libc::O_RDWR, 0o644).unwrap();
    let set = |guest: &mut Guest, name: &[u8], value: &[u8]| {
        let set = SetxattrIn { size: value.len() as u32, flags: 0 };
        guest.plain(Opcode::Setxattr, entry.nodeid, &[set.as_slice(), name, b"\0", value])
    };
    match set(&mut guest, b"user.key", b"value") {
        // The temporary directory's file system has none.
        Err(Errno::EOPNOTSUPP) => return,
        result => result.unwrap(),
    }
    let get = |size| GetxattrIn { size, padding: 0 };
    assert_eq!(guest.bytes(Opcode::Getxattr, entry.nodeid, &[get(100).as_slice(), b"user.key\0"], 100).unwrap(), b"value");
    assert_eq!(guest.call::<GetxattrOut>(Opcode::Getxattr, entry.nodeid, &[get(0).as_slice(), b"user.key\0"]).unwrap().size, 5);
    assert_eq!(guest.bytes(Opcode::Getxattr, entry.nodeid, &[get(3).as_slice(), b"user.key\0"], 100), Err(Errno::ERANGE));
    assert_eq!(guest.bytes(Opcode::Getxattr, entry.nodeid, &[get(9).as_slice(), b"user.none\0"], 100), Err(Errno::ENODATA));
    assert_eq!(guest.bytes(Opcode::Listxattr, entry.nodeid, &[get(100).as_slice()], 100).unwrap(), b"user.key\0");
    assert_eq!(guest.call::<GetxattrOut>(Opcode::Listxattr, entry.nodeid, &[get(0).as_slice()]).unwrap().size, 9);
    for hidden in [&b"security.selinux"[..], b"trusted.overlay.opaque", b"system.posix_acl_access"] {
        assert_eq!(set(&mut guest, hidden, b"x"), Err(Errno::EOPNOTSUPP));
        assert_eq!(guest.bytes(Opcode::Getxattr, entry.nodeid, &[get(100).as_slice(), hidden, b"\0"], 100), Err(Errno::EOPNOTSUPP));
    }
    guest.plain(Opcode::Removexattr, entry.nodeid, &[b"user.key\0"]).unwrap();
    assert_eq!(guest.bytes(Opcode::Listxattr, entry.nodeid, &[get(100).as_slice()], 100).unwrap(), b"");
}

#[test]
fn what_is_forgotten_costs_nothing() {
    let (mut guest, directory, t) = shared();
    fs::write(directory.path().join("file"), "").unwrap();
    let held = guest.held();
    let nodes = [(); 3].map(|()| guest.lookup(t, "file").unwrap().nodeid);
    assert_eq!((nodes[0], nodes[1]), (nodes[1], nodes[2]));
    guest.forget(nodes[0], 2);
    assert!(guest.attributes(nodes[0]).is_ok());
    guest.forget(nodes[0], 1);
    assert_eq!(guest.attributes(nodes[0]).unwrap_err(), Errno::ESTALE);
    assert_eq!(guest.held(), held);
    // A file that comes again is another node.
    assert_ne!(guest.lookup(t, "file").unwrap().nodeid, nodes[0]);
    guest.plain(Opcode::Destroy, 0, &[]).unwrap();
    assert_eq!(guest.held(), 0);
}
