//! What a hostile driver does.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::time::{Duration, Instant};

use fuse_backend_rs::abi::fuse_abi::{BatchForgetIn, GetxattrIn, LinkIn, MkdirIn, MknodIn, RenameIn};
use proptest::prelude::*;

use super::*;

/// A secret beside a tree, links in the tree that lead to it, and everything that is not a file.
fn trap() -> (Guest, tempfile::TempDir, u64) {
    let directory = tempfile::tempdir().unwrap();
    let (outside, inside) = (directory.path().join("outside"), directory.path().join("inside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::create_dir_all(inside.join("sub/deep")).unwrap();
    symlink("../outside", inside.join("relative")).unwrap();
    symlink(&outside, inside.join("absolute")).unwrap();
    symlink("../outside/secret", inside.join("file")).unwrap();
    nix::unistd::mkfifo(&inside.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut guest = Guest::new();
    guest.share("t", &inside, false);
    let t = guest.walk("t");
    (guest, directory, t)
}

fn secret_is_safe(directory: &tempfile::TempDir) -> bool {
    let outside = directory.path().join("outside");
    fs::read_dir(&outside).unwrap().count() == 1 && fs::read_to_string(outside.join("secret")).unwrap() == "secret"
}

#[test]
fn no_name_leads_out() {
    let (mut guest, directory, t) = trap();
    let sub = guest.walk("t/sub");
    for node in [ROOT_ID, t, sub] {
        for name in ["", ".", "..", "/", "/etc", "../outside", "sub/deep", "sub/../..", "./sub", "relative/secret"] {
            assert_eq!(guest.lookup(node, name).unwrap_err(), Errno::EINVAL, "{name}");
            let name = [name.as_bytes(), b"\0"].concat();
            assert_eq!(guest.bytes(Opcode::Mkdir, node, &[MkdirIn::default().as_slice(), &name], 200), Err(Errno::EINVAL));
            assert_eq!(guest.bytes(Opcode::Unlink, node, &[&name], 200), Err(Errno::EINVAL));
            assert_eq!(guest.bytes(Opcode::Rename, node, &[RenameIn { newdir: t }.as_slice(), b"sub\0", &name], 200), Err(Errno::EINVAL));
            assert_eq!(guest.bytes(Opcode::Rename, node, &[RenameIn { newdir: t }.as_slice(), &name, b"sub\0"], 200), Err(Errno::EINVAL));
            assert_eq!(guest.bytes(Opcode::Link, node, &[LinkIn { oldnodeid: t }.as_slice(), &name], 200), Err(Errno::EINVAL));
            assert_eq!(guest.bytes(Opcode::Symlink, node, &[&name, b"x\0"], 200), Err(Errno::EINVAL));
            assert_eq!(guest.bytes(Opcode::Create, node, &[CreateIn::default().as_slice(), &name], 200), Err(Errno::EINVAL));
        }
    }
    assert_eq!(guest.lookup(t, &"a".repeat(256)).unwrap_err(), Errno::ENAMETOOLONG);
    // Not terminated.
    assert_eq!(guest.bytes(Opcode::Lookup, t, &[b"sub"], 200), Err(Errno::EINVAL));
    assert!(secret_is_safe(&directory));
}

#[test]
fn symbolic_links_are_never_followed() {
    let (mut guest, directory, t) = trap();
    for name in ["relative", "absolute", "file"] {
        let entry = guest.lookup(t, name).unwrap();
        assert_eq!(entry.attr.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(guest.lookup(entry.nodeid, "secret").unwrap_err(), Errno::ENOTDIR);
        assert_eq!(guest.open(entry.nodeid, libc::O_RDWR).unwrap_err(), Errno::ENXIO);
        assert_eq!(guest.create(entry.nodeid, "new", libc::O_RDWR, 0o644).unwrap_err(), Errno::ENOTDIR);
        // Neither by a creation that meets one.
        assert_eq!(guest.create(t, name, libc::O_RDWR | libc::O_TRUNC, 0o644).unwrap_err(), Errno::ESTALE);
        let wanted = fuse_backend_rs::abi::fuse_abi::SetattrIn { valid: 0x8 | 0x100, ..Default::default() };
        assert_eq!(guest.call::<AttrOut>(Opcode::Setattr, entry.nodeid, &[wanted.as_slice()]).unwrap_err(), Errno::ENXIO);
        let times = fuse_backend_rs::abi::fuse_abi::SetattrIn { valid: 0x20, mtime: 77, ..Default::default() };
        assert_eq!(guest.call::<AttrOut>(Opcode::Setattr, entry.nodeid, &[times.as_slice()]).unwrap().attr.mtime, 77, "the link's own");
        let get = GetxattrIn { size: 100, padding: 0 };
        assert_eq!(guest.bytes(Opcode::Getxattr, entry.nodeid, &[get.as_slice(), b"user.x\0"], 100), Err(Errno::EOPNOTSUPP));
    }
    assert_ne!(fs::metadata(directory.path().join("outside/secret")).unwrap().mtime(), 77);
    assert!(secret_is_safe(&directory));
}

#[test]
fn a_directory_that_is_moved_away_leads_nowhere() {
    let (mut guest, directory, _) = trap();
    let deep = guest.walk("t/sub/deep");
    fs::rename(directory.path().join("inside/sub/deep"), directory.path().join("outside/deep")).unwrap();
    assert_eq!(guest.lookup(deep, "..").unwrap_err(), Errno::EINVAL);
    assert_eq!(guest.lookup(deep, "secret").unwrap_err(), Errno::ENOENT);
    fs::remove_dir(directory.path().join("outside/deep")).unwrap();
    assert!(secret_is_safe(&directory));
}

#[test]
fn nothing_but_files_and_directories_is_opened() {
    let (mut guest, _directory, t) = trap();
    guest.share("null", "/dev/null", false);
    let began = Instant::now();
    for path in ["t/fifo", "null"] {
        let node = guest.walk(path);
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
            assert_eq!(guest.open(node, flags).unwrap_err(), Errno::ENXIO);
        }
        assert_eq!(guest.call::<OpenOut>(Opcode::Opendir, node, &[OpenIn::default().as_slice()]).unwrap_err(), Errno::ENOTDIR);
    }
    assert_eq!(guest.create(t, "fifo", libc::O_WRONLY, 0o644).unwrap_err(), Errno::ESTALE);
    assert!(began.elapsed() < Duration::from_secs(60), "nobody waits for the other end of a fifo");
    for mode in [libc::S_IFCHR, libc::S_IFBLK] {
        let made = MknodIn { mode: mode | 0o666, rdev: 0x103, ..MknodIn::default() };
        assert_eq!(guest.call::<EntryOut>(Opcode::Mknod, t, &[made.as_slice(), b"device\0"]).unwrap_err(), Errno::EPERM);
    }
    let directory = MknodIn { mode: libc::S_IFDIR, ..MknodIn::default() };
    assert_eq!(guest.call::<EntryOut>(Opcode::Mknod, t, &[directory.as_slice(), b"x\0"]).unwrap_err(), Errno::EINVAL);
    // A file is no directory, and the other way round.
    assert_eq!(guest.open(t, libc::O_RDONLY).unwrap_err(), Errno::EISDIR);
    assert_eq!(guest.open(t, libc::O_ACCMODE).unwrap_err(), Errno::EINVAL);
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    let (mut guest, _directory, t) = trap();
    let (a, open) = guest.create(t, "a", libc::O_RDWR, 0o644).unwrap();
    let (b, _) = guest.create(t, "b", libc::O_RDWR, 0o644).unwrap();
    for node in [0, 99, u64::MAX, 1 << 63] {
        assert_eq!(guest.lookup(node, "a").unwrap_err(), Errno::ESTALE);
        assert_eq!(guest.attributes(node).unwrap_err(), Errno::ESTALE);
        assert_eq!(guest.open(node, libc::O_RDONLY).unwrap_err(), Errno::ESTALE);
        assert_eq!(guest.read(node, open.fh, 0, 1), Err(Errno::EBADF));
        assert_eq!(guest.call::<EntryOut>(Opcode::Link, t, &[LinkIn { oldnodeid: node }.as_slice(), b"x\0"]).unwrap_err(), Errno::ESTALE);
        guest.forget(node, 1);
    }
    // Another file's handle, a directory's, none.
    assert_eq!(guest.read(b.nodeid, open.fh, 0, 1), Err(Errno::EBADF));
    let directory = guest.call::<OpenOut>(Opcode::Opendir, t, &[OpenIn::default().as_slice()]).unwrap().fh;
    assert_eq!(guest.read(t, directory, 0, 1), Err(Errno::EISDIR));
    assert_eq!(guest.write(t, directory, 0, b"x", 0), Err(Errno::EISDIR));
    let read = ReadIn { fh: open.fh, size: 100, ..ReadIn::default() };
    assert_eq!(guest.bytes(Opcode::Readdir, a.nodeid, &[read.as_slice()], 100), Err(Errno::ENOTDIR));
    assert_eq!(guest.release(a.nodeid, u64::MAX), Err(Errno::EBADF));
    assert_eq!(guest.write(a.nodeid, open.fh, u64::MAX, b"xy", 0), Err(Errno::EINVAL));
    let far = ReadIn { fh: directory, offset: u64::MAX, size: 100, ..ReadIn::default() };
    assert_eq!(guest.bytes(Opcode::Readdir, t, &[far.as_slice()], 100), Err(Errno::EINVAL));
    // A forgotten root is still the root.
    guest.forget(ROOT_ID, u64::MAX);
    assert!(guest.lookup(ROOT_ID, "t").is_ok());
}

#[test]
fn lengths_that_lie_are_refused() {
    let (mut guest, _directory, t) = trap();
    let (file, open) = guest.create(t, "file2", libc::O_RDWR, 0o644).unwrap();
    // A write that claims more than it has, or more than was agreed on.
    for (size, data) in [(100, 10), (u32::MAX, 10), ((1 << 20) + 1, 1 << 20)] {
        let write = WriteIn { fh: open.fh, size, ..WriteIn::default() };
        let data = vec![0; data];
        assert_eq!(guest.bytes(Opcode::Write, file.nodeid, &[write.as_slice(), &data], 8), Err(Errno::EINVAL));
    }
    // A read with room for less: what fits.
    guest.write(file.nodeid, open.fh, 0, &[7; 100], 0).unwrap();
    let read = ReadIn { fh: open.fh, size: u32::MAX, ..ReadIn::default() };
    assert_eq!(guest.bytes(Opcode::Read, file.nodeid, &[read.as_slice()], 10).unwrap(), [7; 10]);
    // An answer that does not fit.
    assert_eq!(guest.bytes(Opcode::Getattr, file.nodeid, &[GetattrIn::default().as_slice()], 50), Err(Errno::EIO));
    // A list that claims to be long.
    let mut request = header(Opcode::BatchForget as u32, 0, (0, 0), 8).as_slice().to_vec();
    request.extend_from_slice(BatchForgetIn { count: u32::MAX, dummy: 0 }.as_slice());
    assert_eq!(guest.raw(0, &request, 0), [0_u8; 0]);
    // Headers: longer than the chain, shorter than themselves, beyond every bound, cut off.
    let mut lie = |length: u32, cut: usize| {
        let mut request = header(Opcode::Lookup as u32, t, (0, 0), 4).as_slice().to_vec();
        request[..4].copy_from_slice(&length.to_le_bytes());
        request.extend_from_slice(b"sub\0");
        guest.raw(1, &request[..cut], 200)
    };
    let error = |answer: Vec<u8>| Errno::from_raw(-i32::from_le_bytes(answer[4..8].try_into().unwrap()));
    assert_eq!(error(lie(1000, 44)), Errno::EINVAL);
    assert_eq!(error(lie(10, 44)), Errno::EINVAL);
    assert_eq!(error(lie(u32::MAX, 44)), Errno::E2BIG);
    assert_eq!(lie(44, 39), [0_u8; 0]);
    assert_eq!(error(lie(44, 43)), Errno::EINVAL);
    // No room even for a header.
    let request = header(Opcode::Statfs as u32, t, (0, 0), 0);
    assert_eq!(guest.raw(1, request.as_slice(), 15), [0_u8; 0]);
    assert_eq!(guest.raw(1, request.as_slice(), 0), [0_u8; 0]);
    assert!(!guest.is_broken());
    for opcode in [0, 7, 19, 31, 34, 39, 40, 47, 48, 49, 50, 51, 52, 4096, u32::MAX] {
        let answer = guest.raw(1, header(opcode, t, (0, 0), 0).as_slice(), 200);
        assert_eq!(error(answer), Errno::ENOSYS, "{opcode}");
    }
}

#[test]
fn at_the_limit_of_descriptors_the_guest_gets_an_error_and_recovers() {
    let (mut guest, directory, t) = trap();
    for index in 0..50 {
        fs::write(directory.path().join(format!("inside/file-{index:02}")), "x").unwrap();
    }
    let limit = guest.held() + 20;
    guest.shared.server().set_limit(limit);
    let mut nodes = Vec::new();
    let error = loop {
        match guest.lookup(t, &format!("file-{:02}", nodes.len())) {
            Ok(entry) => nodes.push(entry.nodeid),
            Err(error) => break error,
        }
    };
    assert_eq!((error, nodes.len(), guest.held()), (Errno::ENFILE, 20, limit));
    assert_eq!(guest.open(nodes[0], libc::O_RDONLY).unwrap_err(), Errno::ENFILE);
    assert_eq!(guest.create(t, "new", libc::O_RDWR, 0o644).unwrap_err(), Errno::ENFILE);
    assert!(!directory.path().join("inside/new").exists(), "nothing is half done");
    // The directory is still readable, by name, once there is room to open it.
    guest.forget(nodes.pop().unwrap(), 1);
    let names = guest.list(t, true, 1 << 16);
    assert_eq!(names.len(), 57);
    for node in nodes {
        guest.forget(node, u64::MAX);
    }
    assert!(guest.create(t, "new", libc::O_RDWR, 0o644).is_ok());
}

#[test]
fn chains_that_are_no_memory_are_given_back() {
    let (mut guest, _directory, _) = trap();
    for chain in [
        vec![Descriptor::new(u64::MAX - 10, 100, NEXT, 1), Descriptor::new(REPLY, 100, WRITE, 0)],
        vec![Descriptor::new(REQUEST, u32::MAX, NEXT, 1), Descriptor::new(REPLY, 100, WRITE, 0)],
        vec![Descriptor::new(REQUEST, 40, NEXT, 1), Descriptor::new(MEMORY as u64 - 1, 100, WRITE, 0)],
        // A loop.
        vec![Descriptor::new(REQUEST, 40, NEXT, 1), Descriptor::new(REPLY, 100, WRITE | NEXT, 0)],
        vec![Descriptor::new(REPLY, 0, WRITE, 0)],
    ] {
        let (before, _) = used(&guest.memory, 1);
        submit(&guest.memory, 1, &mut guest.available[1], &chain);
        guest.worker.serve();
        assert_eq!(used(&guest.memory, 1).0, before.wrapping_add(1));
    }
    assert!(!guest.is_broken());
    // More chains than the queue has places: nobody can know which.
    guest.memory.write_obj(guest.available[1].wrapping_add(SIZE + 1), GuestAddress(rings(1)[1] + 2)).unwrap();
    guest.worker.serve();
    assert!(guest.is_broken());
}

/// A request: an opcode, a node and a handle that often exist, names that often do, and bytes that make no sense.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let number = || prop_oneof![0u64..12, any::<u64>()];
    let name = prop_oneof![
        prop::sample::select(vec!["sub", "deep", "fifo", "file", "relative", "..", ".", "../outside", "/", "t", "x", "y"])
            .prop_map(|name| name.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..12),
    ];
    let words =
        prop::collection::vec(prop_oneof![0u32..8, any::<u32>(), prop::sample::select(vec![0o100644, 0o40755, 0o10644, 2, 0o1000])], 0..24);
    let opcode = prop_oneof![8 => 0u32..53, 1 => any::<u32>()];
    (opcode, number(), number(), words, prop::collection::vec(name, 0..3), prop_oneof![9 => Just(0i32), 1 => -50i32..50], any::<bool>())
        .prop_map(|(opcode, node, handle, words, names, lie, with_handle)| {
            let mut body = if with_handle { handle.to_le_bytes().to_vec() } else { Vec::new() };
            body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            for name in names {
                body.extend_from_slice(&name);
                body.push(0);
            }
            let mut header = header(opcode, node, (1000, 1000), body.len());
            header.len = header.len.wrapping_add_signed(lie);
            [header.as_slice(), &body].concat()
        })
}

/// Where a descriptor may point: where requests and answers are, elsewhere in memory, anywhere.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![Just(REQUEST), Just(REPLY), 0x50_0000u64..0x90_0000, any::<u64>()]
}

proptest! {
    /// Whatever the guest asks, the device answers, and nothing outside of the tree changes.
    #[test]
    fn any_requests_are_answered(requests in prop::collection::vec((request(), 0usize..400), 1..100)) {
        let (guest, directory, _) = trap();
        // Not unwind-safe otherwise, which proptest asks for.
        let guest = RefCell::new(guest);
        for (request, room) in &requests {
            let mut guest = guest.borrow_mut();
            guest.raw(1, request, *room);
            prop_assert!(!guest.is_broken());
        }
        prop_assert!(secret_is_safe(&directory));
        prop_assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    /// The same for bytes of no form at all.
    #[test]
    fn any_bytes_are_answered(requests in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), 0usize..200), 1..20)) {
        let (mut guest, directory, _) = trap();
        for (request, room) in &requests {
            guest.raw(1, request, *room);
            guest.raw(0, request, *room);
        }
        prop_assert!(secret_is_safe(&directory));
    }

    /// The same for descriptors.
    #[test]
    fn any_descriptors_are_given_back(
        chain in prop::collection::vec((address(), any::<u32>(), 0u16..8, 0u16..6), 1..6),
    ) {
        let (mut guest, directory, t) = trap();
        guest.memory.write_slice(header(Opcode::Lookup as u32, t, (0, 0), 4).as_slice(), GuestAddress(REQUEST)).unwrap();
        let descriptor = |(address, length, flags, next)| Descriptor::new(address, length >> (length % 32), flags, next);
        let chain: Vec<_> = chain.into_iter().map(descriptor).collect();
        submit(&guest.memory, 1, &mut guest.available[1], &chain);
        guest.worker.serve();
        prop_assert!(secret_is_safe(&directory));
    }
}
