//! Opening and naming files: open(2) and kin, close is with the descriptors.
//!
//! *Where does open(2) happen?* Here: flags are checked, the path is walked ([`crate::vfs::walk`]), the node opens itself
//! ([`crate::vfs::node::Node::open`]), and the caller gets a descriptor.

use std::sync::Arc;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::platform::memory::Address;
use crate::vfs::file::{OpenFile, PathOnly};
use crate::vfs::mount::{Location, MountFlags};
use crate::vfs::node::{FileType, LinkTarget, OpenRequest, Permission};
use crate::vfs::object::ObjectNode;
use crate::vfs::rights;
use crate::vfs::walk::{self, LastName, Walk, WalkFlags};

use Argument::{Directory, Hex, Number, Octal, Path, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_open, "open", |call| open(call, None, 0, call.int(1), call.uint(2)), &[Path, Hex, Octal]),
    Entry::new(libc::SYS_openat, "openat", |call| open(call, Some(0), 1, call.int(2), call.uint(3)), &[Directory, Path, Hex, Octal]),
    Entry::new(libc::SYS_openat2, "openat2", openat2, &[Directory, Path, Pointer, Number]),
    Entry::new(
        libc::SYS_creat,
        "creat",
        |call| open(call, None, 0, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, call.uint(1)),
        &[Path, Octal],
    ),
];

/// Every flag that open(2) knows; openat2(2) refuses the others, open(2) ignores them.
const KNOWN: i32 = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_EXCL
    | libc::O_NOCTTY
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_ASYNC
    | libc::O_DIRECT
    | LARGE_FILE
    | libc::O_DIRECTORY
    | libc::O_NOFOLLOW
    | libc::O_NOATIME
    | libc::O_CLOEXEC
    | libc::O_PATH
    | TEMPORARY;
/// `O_LARGEFILE` as the kernel has it on x86-64; the C library has 0.
pub const LARGE_FILE: i32 = 0o100_000;
/// `__O_TMPFILE`: `O_TMPFILE` without the `O_DIRECTORY` that it contains.
const TEMPORARY: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
/// What is left of the flags with `O_PATH`.
const WITH_PATH: i32 = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;

/// How often a file may be made and removed by others while it is opened with `O_CREAT`, each time at the wrong moment.
const TRIES: usize = 1000;

/// A checked request.
struct Request {
    /// Which argument the path starts from; `None` for the working directory.
    directory: Option<usize>,
    path: Vec<u8>,
    flags: i32,
    mode: u32,
    resolve: WalkFlags,
}

fn open(call: &Call, directory: Option<usize>, path: usize, flags: i32, mode: u32) -> Result<Outcome> {
    let mut flags = flags & KNOWN;
    if flags & libc::O_PATH != 0 {
        flags &= WITH_PATH;
    }
    check(flags)?;
    let path = call.path(path)?;
    finish(call, Request { directory, path, flags, mode: mode & 0o7777, resolve: WalkFlags::empty() })
}

/// Combinations that mean nothing (build_open_flags() in fs/open.c).
fn check(flags: i32) -> Result<()> {
    let makes_directory = flags & (libc::O_CREAT | libc::O_DIRECTORY) == libc::O_CREAT | libc::O_DIRECTORY;
    let temporary = flags & TEMPORARY != 0;
    let read_only = !(OpenRequest { flags }).permission().contains(Permission::WRITE);
    if makes_directory || (temporary && (flags & libc::O_DIRECTORY == 0 || read_only)) { Err(Errno::EINVAL) } else { Ok(()) }
}

fn openat2(call: &Call) -> Result<Outcome> {
    const SIZE: u64 = 24;
    /// `RESOLVE_CACHED`.
    const CACHED: u64 = 32;
    const RESOLVE: [(u64, WalkFlags); 5] = [
        (1, WalkFlags::NO_CROSSING),
        (2, WalkFlags::NO_MAGIC_LINKS),
        (4, WalkFlags::NO_SYMLINKS),
        (8, WalkFlags::BENEATH),
        (16, WalkFlags::IN_ROOT),
    ];
    let (address, size) = (call.address(2), call.raw(3));
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let [flags, mode, resolve]: [u64; 3] = call.memory().read_value(address)?;
    let mut beyond = vec![0u8; (size - SIZE) as usize];
    call.memory().read(address.offset(SIZE)?, &mut beyond)?;
    if beyond.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let creates = flags & (libc::O_CREAT | TEMPORARY) as u64 != 0;
    if flags & !(KNOWN as u64) != 0
        || (mode != 0 && !creates)
        || mode & !0o7777 != 0
        || resolve & !63 != 0
        || resolve & 24 == 24
        || (flags & libc::O_PATH as u64 != 0 && flags & !(WITH_PATH as u64) != 0)
    {
        return Err(Errno::EINVAL);
    }
    let flags = flags as i32;
    check(flags)?;
    // What only a cache may answer: nothing is waited for here but the host's own caches, and what changes something is never in one.
    if resolve & CACHED != 0 && (creates || flags & libc::O_TRUNC != 0) {
        return Err(Errno::EAGAIN);
    }
    let resolve = RESOLVE.iter().filter(|(bit, _)| resolve & bit != 0).fold(WalkFlags::empty(), |all, (_, flag)| all | *flag);
    finish(call, Request { directory: Some(0), path: call.path(1)?, flags, mode: mode as u32, resolve })
}

fn finish(call: &Call, mut request: Request) -> Result<Outcome> {
    if request.flags & libc::O_PATH == 0 {
        // What is opened by name has it always on a 64-bit Linux (force_o_largefile()); pipes, sockets and their like have not.
        request.flags |= LARGE_FILE;
    }
    let close_on_exec = request.flags & libc::O_CLOEXEC != 0;
    if request.path.is_empty() {
        return Err(Errno::ENOENT);
    }
    call.has_room()?;
    let (location, file) = match locate(call, &request)? {
        Located::Open(location, file) => (location, file),
        Located::Fifo(location, key) => {
            let request = OpenRequest { flags: request.flags | LARGE_FILE };
            return crate::fs::pipe::open_for(call, location, key, request);
        }
    };
    // A 64-bit program's files are all large (`force_o_largefile()`): F_GETFL and fdinfo show it. What only names a file has no such flag.
    let large = if request.flags & libc::O_PATH == 0 { LARGE_FILE } else { 0 };
    let file = OpenFile::new(file, Some(location), request.flags | large, call.credentials());
    file.file.opened(&file, call, request.flags);
    Ok(Outcome::Value(i64::from(call.install(file, close_on_exec)?.0)))
}

/// What a path led to.
enum Located {
    Open(Location, Arc<dyn crate::vfs::file::File>),
    /// A fifo: opening it may have to wait.
    Fifo(Location, crate::vfs::node::NodeKey),
}

fn locate(call: &Call, request: &Request) -> Result<Located> {
    let flags = request.flags;
    let root = call.context().root;
    let who = call.credentials();
    let mut how = request.resolve;
    if flags & libc::O_NOFOLLOW != 0 {
        how |= WalkFlags::NO_FOLLOW;
    }
    if flags & libc::O_DIRECTORY != 0 {
        how |= WalkFlags::DIRECTORY;
    }
    let start = match request.directory {
        // With RESOLVE_IN_ROOT the descriptor is the root of absolute paths too.
        Some(index) if how.contains(WalkFlags::IN_ROOT) => call.start(index, b".")?,
        Some(index) => call.start(index, &request.path)?,
        None => call.context().cwd,
    };
    let walk = Walk { root: &root, start: &start, who: &who, flags: how };
    if flags & libc::O_PATH != 0 {
        return Ok(Located::Open(walk::resolve(&walk, &request.path)?, Arc::new(PathOnly)));
    }
    if flags & TEMPORARY != 0 {
        let directory = walk::resolve(&walk, &request.path)?;
        writable_mount(&directory)?;
        let mode = request.mode & !call.context().umask;
        let (node, file) = directory.node.clone().create_unnamed(mode, &directory, OpenRequest { flags }, &who)?;
        return Ok(Located::Open(Location { node, ..directory }, file));
    }
    if flags & libc::O_CREAT != 0 {
        create(call, request, &walk)
    } else {
        existing(call, walk::resolve(&walk, &request.path)?, flags, false)
    }
}

/// `EROFS` on a read-only mount.
pub fn writable_mount(location: &Location) -> Result<()> {
    if location.mount.has(MountFlags::READ_ONLY) { Err(Errno::EROFS) } else { Ok(()) }
}

/// Opens a file that is there.
fn existing(call: &Call, location: Location, flags: i32, creating: bool) -> Result<Located> {
    let request = OpenRequest { flags };
    let who = call.credentials();
    let wanted = request.permission();
    let changes = wanted.contains(Permission::WRITE);
    if location.node.as_any().is::<ObjectNode>() {
        // /proc/self/fd/N of a pipe: that very pipe.
        let file = location.node.clone().open(&location, request, &who)?;
        return Ok(Located::Open(location, file));
    }
    match location.node.file_type() {
        FileType::Symlink => return Err(Errno::ELOOP),
        FileType::Directory if changes || creating => return Err(Errno::EISDIR),
        FileType::Socket => return Err(Errno::ENXIO),
        FileType::Fifo => {
            location.node.access(wanted, &who)?;
            let key = location.node.key();
            return Ok(Located::Fifo(location, key));
        }
        FileType::Regular | FileType::Directory if changes => writable_mount(&location)?,
        _ => {}
    }
    if flags & libc::O_NOATIME != 0 {
        location.node.access(wanted, &who)?;
        let owner = location.node.attributes()?.uid;
        if owner != who.fsuid && !who.capable(crate::kernel::credentials::Capability::Fowner) {
            return Err(Errno::EPERM);
        }
    }
    let file = location.node.clone().open(&location, request, &who)?;
    Ok(Located::Open(location, file))
}

/// `O_CREAT`: opens the file, or makes it. Another process may do either meanwhile, so both are tried again.
fn create(call: &Call, request: &Request, walk: &Walk<'_>) -> Result<Located> {
    let flags = request.flags;
    let exclusive = flags & libc::O_EXCL != 0;
    let mut path = request.path.clone();
    let mut start = walk.start.clone();
    let mut links = 0;
    for _ in 0..TRIES {
        let LastName { directory, name, slash } = walk::resolve_parent_from(walk, &start, &path, &mut links)?;
        if name.is_empty() || name == b"." || name == b".." {
            return Err(if exclusive { Errno::EEXIST } else { Errno::EISDIR });
        }
        if slash {
            return Err(Errno::EISDIR);
        }
        let last = Walk { start: &directory, flags: walk.flags | WalkFlags::NO_FOLLOW, ..*walk };
        match walk::resolve(&last, &name) {
            Ok(_) if exclusive => return Err(Errno::EEXIST),
            Ok(found) if found.node.file_type() == FileType::Symlink => {
                links += 1;
                if walk.flags.intersects(WalkFlags::NO_FOLLOW | WalkFlags::NO_SYMLINKS) || links > walk::LINKS {
                    return Err(Errno::ELOOP);
                }
                rights::may_follow(&directory.node, &found.node, walk.who)?;
                let restricted = walk.flags.intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT | WalkFlags::NO_CROSSING);
                match found.node.read_link(walk.who)? {
                    LinkTarget::Path(target) => {
                        path = target;
                        start = directory;
                    }
                    LinkTarget::Place(_) | LinkTarget::Object(_) if walk.flags.contains(WalkFlags::NO_MAGIC_LINKS) => {
                        return Err(Errno::ELOOP);
                    }
                    LinkTarget::Place(_) | LinkTarget::Object(_) if restricted => return Err(Errno::EXDEV),
                    LinkTarget::Place(location) => return existing(call, location, flags, true),
                    LinkTarget::Object(file) => return existing(call, crate::vfs::object::location(file), flags, true),
                }
            }
            Ok(found) => {
                rights::may_reuse(&directory.node, &found.node, walk.who)?;
                return existing(call, found, flags, true);
            }
            Err(Errno::ENOENT) => {
                writable_mount(&directory)?;
                let mode = request.mode & !call.context().umask;
                match directory.node.clone().create(&name, mode, &directory, OpenRequest { flags }, walk.who) {
                    // Somebody else has made it meanwhile.
                    Err(Errno::EEXIST) if !exclusive => {}
                    created => {
                        let (node, file) = created?;
                        let mut full = directory.path.to_vec();
                        if !full.is_empty() {
                            full.push(b'/');
                        }
                        full.extend_from_slice(&name);
                        let location = Location { mount: directory.mount.clone(), node, path: full.into() };
                        return Ok(Located::Open(location, file));
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EAGAIN)
}

/// Nothing at this address: an empty path, for `AT_EMPTY_PATH`.
pub fn path_or_empty(call: &Call, address: Address) -> Result<Vec<u8>> {
    if address.is_null() { Ok(Vec::new()) } else { call.memory().read_path(address) }
}
