//! Attributes of files: stat(2), statx(2), access(2), chmod(2), chown(2), utimensat(2), truncate(2), statfs(2), readlink(2).

use super::open::{path_or_empty, writable_mount};
use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::platform::memory::Address;
use crate::vfs::file::OpenFile;
use crate::vfs::mount::{Location, MountFlags};
use crate::vfs::node::{Attributes, FileSystemStatistics, FileType, LinkTarget, Permission, SetAttributes, SetTime, Timestamp};
use crate::vfs::walk::WalkFlags;

use Argument::{Descriptor, Directory, Hex, Number, Octal, Path, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_stat, "stat", |call| stat_path(call, None, 0, 1, WalkFlags::empty()), &[Path, Pointer]),
    Entry::new(libc::SYS_lstat, "lstat", |call| stat_path(call, None, 0, 1, WalkFlags::NO_FOLLOW), &[Path, Pointer]),
    Entry::new(libc::SYS_fstat, "fstat", |call| put_stat(call, call.address(1), &call.any_file(0)?.attributes()?), &[Descriptor, Pointer]),
    Entry::new(libc::SYS_newfstatat, "newfstatat", newfstatat, &[Directory, Path, Pointer, Hex]),
    Entry::new(libc::SYS_statx, "statx", statx, &[Directory, Path, Hex, Hex, Pointer]),
    Entry::new(libc::SYS_access, "access", |call| access(call, None, 0, call.int(1), 0), &[Path, Number]),
    Entry::new(libc::SYS_faccessat, "faccessat", |call| access(call, Some(0), 1, call.int(2), 0), &[Directory, Path, Number]),
    Entry::new(
        libc::SYS_faccessat2,
        "faccessat2",
        |call| access(call, Some(0), 1, call.int(2), call.int(3)),
        &[Directory, Path, Number, Hex],
    ),
    Entry::new(libc::SYS_readlink, "readlink", |call| readlink(call, None, 0, 1, call.int(2)), &[Path, Pointer, Number]),
    Entry::new(libc::SYS_readlinkat, "readlinkat", |call| readlink(call, Some(0), 1, 2, call.int(3)), &[Directory, Path, Pointer, Number]),
    Entry::new(libc::SYS_chmod, "chmod", |call| chmod(call, None, 0, call.uint(1), 0), &[Path, Octal]),
    Entry::new(libc::SYS_fchmodat, "fchmodat", |call| chmod(call, Some(0), 1, call.uint(2), 0), &[Directory, Path, Octal]),
    Entry::new(452, "fchmodat2", |call| chmod(call, Some(0), 1, call.uint(2), call.int(3)), &[Directory, Path, Octal, Hex]),
    Entry::new(libc::SYS_fchmod, "fchmod", fchmod, &[Descriptor, Octal]),
    Entry::new(libc::SYS_chown, "chown", |call| chown(call, None, 0, [1, 2], 0), &[Path, Number, Number]),
    Entry::new(libc::SYS_lchown, "lchown", |call| chown(call, None, 0, [1, 2], libc::AT_SYMLINK_NOFOLLOW), &[Path, Number, Number]),
    Entry::new(
        libc::SYS_fchownat,
        "fchownat",
        |call| chown(call, Some(0), 1, [2, 3], call.int(4)),
        &[Directory, Path, Number, Number, Hex],
    ),
    Entry::new(libc::SYS_fchown, "fchown", fchown, &[Descriptor, Number, Number]),
    Entry::new(libc::SYS_utimensat, "utimensat", utimensat, &[Directory, Path, Pointer, Hex]),
    Entry::new(libc::SYS_futimesat, "futimesat", |call| utimes(call, Some(0), 1, 2), &[Directory, Path, Pointer]),
    Entry::new(libc::SYS_utimes, "utimes", |call| utimes(call, None, 0, 1), &[Path, Pointer]),
    Entry::new(libc::SYS_utime, "utime", utime, &[Path, Pointer]),
    Entry::new(libc::SYS_truncate, "truncate", truncate, &[Path, Number]),
    Entry::new(libc::SYS_ftruncate, "ftruncate", ftruncate, &[Descriptor, Number]),
    Entry::new(libc::SYS_statfs, "statfs", statfs, &[Path, Pointer]),
    Entry::new(libc::SYS_fstatfs, "fstatfs", fstatfs, &[Descriptor, Pointer]),
];

/// What a path or descriptor of an `*at` call names.
enum Target {
    Place(Location),
    Object(std::sync::Arc<OpenFile>),
}

impl Target {
    fn attributes(&self) -> Result<Attributes> {
        match self {
            Target::Place(location) => location.node.attributes(),
            Target::Object(file) => file.attributes(),
        }
    }

    fn change(&self, call: &Call, change: &SetAttributes) -> Result<()> {
        match self {
            Target::Place(location) => {
                writable_mount(location)?;
                location.node.set_attributes(change, &call.credentials())
            }
            Target::Object(file) => file.file.set_attributes(change, &call.credentials()),
        }
    }
}

/// Walks the path of an `*at` call; `AT_EMPTY_PATH` and `AT_SYMLINK_NOFOLLOW` as in `flags`.
fn target(call: &Call, directory: Option<usize>, path: usize, flags: i32) -> Result<Target> {
    let empty = flags & libc::AT_EMPTY_PATH != 0;
    let path = if empty { path_or_empty(call, call.address(path))? } else { call.path(path)? };
    let how = if flags & libc::AT_SYMLINK_NOFOLLOW != 0 { WalkFlags::NO_FOLLOW } else { WalkFlags::empty() };
    match directory {
        Some(index) if empty && path.is_empty() => {
            if call.int(index) == libc::AT_FDCWD {
                return Ok(Target::Place(call.context().cwd));
            }
            let file = call.any_file(index)?;
            Ok(match file.location.clone() {
                Some(location) => Target::Place(location),
                None => Target::Object(file),
            })
        }
        Some(index) => Ok(Target::Place(call.resolve_at(index, &path, how)?)),
        None => Ok(Target::Place(call.resolve(&path, how)?)),
    }
}

fn stat_path(call: &Call, directory: Option<usize>, path: usize, into: usize, how: WalkFlags) -> Result<Outcome> {
    let flags = if how.contains(WalkFlags::NO_FOLLOW) { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
    put_stat(call, call.address(into), &target(call, directory, path, flags)?.attributes()?)
}

fn newfstatat(call: &Call) -> Result<Outcome> {
    let flags = call.int(3);
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    put_stat(call, call.address(2), &target(call, Some(0), 1, flags)?.attributes()?)
}

/// `struct stat` of x86-64: 18 words of 64 bits.
fn put_stat(call: &Call, to: Address, attributes: &Attributes) -> Result<Outcome> {
    let time = |time: Timestamp| [time.seconds as u64, u64::from(time.nanoseconds)];
    let [accessed, modified, changed] = [attributes.accessed, attributes.modified, attributes.changed].map(time);
    let words: [u64; 18] = [
        attributes.device,
        attributes.inode,
        attributes.links,
        u64::from(attributes.mode) | u64::from(attributes.uid) << 32,
        u64::from(attributes.gid),
        attributes.rdev,
        attributes.size,
        u64::from(attributes.block_size),
        attributes.blocks,
        accessed[0],
        accessed[1],
        modified[0],
        modified[1],
        changed[0],
        changed[1],
        0,
        0,
        0,
    ];
    call.memory().write_value(to, &words)?;
    Ok(().into())
}

fn statx(call: &Call) -> Result<Outcome> {
    /// `STATX_BASIC_STATS` and `STATX_BTIME`.
    const BASIC: u32 = 0x7ff;
    const BORN: u32 = 0x800;
    /// `STATX_MNT_ID`.
    const MOUNT: u32 = 0x1000;
    /// `STATX_ATTR_MOUNT_ROOT`.
    const MOUNT_ROOT: u64 = 0x2000;
    /// `STATX__RESERVED`.
    const RESERVED: u32 = 0x8000_0000;
    const SYNC: i32 = 0x6000;
    let flags = call.int(2);
    let known = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH | SYNC;
    if flags & !known != 0 || flags & SYNC == SYNC || call.uint(3) & RESERVED != 0 {
        return Err(Errno::EINVAL);
    }
    let target = target(call, Some(0), 1, flags)?;
    let attributes = target.attributes()?;
    let mut bytes = [0u8; 256];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let mut mask = BASIC | if attributes.born.is_some() { BORN } else { 0 };
    if let Target::Place(location) = &target {
        mask |= MOUNT;
        let root = if location.is_mount_root() { MOUNT_ROOT } else { 0 };
        put(8, &root.to_ne_bytes());
        put(56, &MOUNT_ROOT.to_ne_bytes());
        put(144, &location.mount.id.to_ne_bytes());
    }
    put(0, &mask.to_ne_bytes());
    put(4, &attributes.block_size.to_ne_bytes());
    put(16, &(attributes.links as u32).to_ne_bytes());
    put(20, &attributes.uid.to_ne_bytes());
    put(24, &attributes.gid.to_ne_bytes());
    put(28, &(attributes.mode as u16).to_ne_bytes());
    put(32, &attributes.inode.to_ne_bytes());
    put(40, &attributes.size.to_ne_bytes());
    put(48, &attributes.blocks.to_ne_bytes());
    let times = [(64, Some(attributes.accessed)), (80, attributes.born), (96, Some(attributes.changed)), (112, Some(attributes.modified))];
    for (at, time) in times {
        let time = time.unwrap_or_default();
        put(at, &time.seconds.to_ne_bytes());
        put(at + 8, &time.nanoseconds.to_ne_bytes());
    }
    for (at, device) in [(128, attributes.rdev), (136, attributes.device)] {
        put(at, &libc::major(device).to_ne_bytes());
        put(at + 4, &libc::minor(device).to_ne_bytes());
    }
    call.memory().write(call.address(4), &bytes)?;
    Ok(().into())
}

fn access(call: &Call, directory: Option<usize>, path: usize, mode: i32, flags: i32) -> Result<Outcome> {
    if mode & !7 != 0 || flags & !(libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let effective = call.credentials();
    let real;
    let who = if flags & libc::AT_EACCESS != 0 {
        &effective
    } else {
        real = std::sync::Arc::new(effective.for_access());
        &real
    };
    let wanted = Permission::from_bits_truncate(mode as u32);
    let location = match target(call, directory, path, flags)? {
        Target::Place(location) => location,
        Target::Object(_) => return Ok(().into()),
    };
    if wanted.contains(Permission::WRITE) {
        let special =
            matches!(location.node.file_type(), FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket);
        if !special {
            writable_mount(&location)?;
        }
    }
    let regular = location.node.file_type() == FileType::Regular;
    if wanted.contains(Permission::EXECUTE) && regular && location.mount.has(MountFlags::NO_EXECUTE) {
        return Err(Errno::EACCES);
    }
    location.node.access(wanted, who)?;
    Ok(().into())
}

fn readlink(call: &Call, directory: Option<usize>, path: usize, into: usize, size: i32) -> Result<Outcome> {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = call.path(path)?;
    let location = match directory {
        // An empty path: the link that an O_PATH | O_NOFOLLOW descriptor names.
        Some(index) if path.is_empty() && call.int(index) != libc::AT_FDCWD => {
            call.any_file(index)?.location.clone().ok_or(Errno::ENOENT)?
        }
        Some(index) => call.resolve_at(index, &path, WalkFlags::NO_FOLLOW)?,
        None => call.resolve(&path, WalkFlags::NO_FOLLOW)?,
    };
    if location.node.file_type() != FileType::Symlink {
        return Err(if path.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
    }
    let text = match location.node.read_link(&call.credentials())? {
        LinkTarget::Path(text) => text,
        LinkTarget::Place(place) => shown(call, &place),
        LinkTarget::Object(file) => file.file.description().into_bytes(),
    };
    let length = text.len().min(size as usize);
    call.memory().write(call.address(into), &text[..length])?;
    Ok(length.into())
}

/// The text of a magic link, as the caller's root shows it.
pub fn shown(call: &Call, place: &Location) -> Vec<u8> {
    let text = place.shown_path(&call.context().root);
    let mut text = text.unwrap_or_else(|| [b"/", place.path.as_ref()].concat());
    if place.node.is_unlinked() {
        text.extend_from_slice(b" (deleted)");
    }
    text
}

fn chmod(call: &Call, directory: Option<usize>, path: usize, mode: u32, flags: i32) -> Result<Outcome> {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    target(call, directory, path, flags)?.change(call, &SetAttributes { mode: Some(mode & 0o7777), ..Default::default() })?;
    Ok(().into())
}

fn opened(call: &Call) -> Result<Target> {
    let file = call.file(0)?;
    Ok(match file.location.clone() {
        Some(location) => Target::Place(location),
        None => Target::Object(file),
    })
}

fn fchmod(call: &Call) -> Result<Outcome> {
    opened(call)?.change(call, &SetAttributes { mode: Some(call.uint(1) & 0o7777), ..Default::default() })?;
    Ok(().into())
}

fn owners(call: &Call, [uid, gid]: [usize; 2]) -> SetAttributes {
    let id = |index: usize| Some(call.uint(index)).filter(|id| *id != u32::MAX);
    SetAttributes { uid: id(uid), gid: id(gid), chown: true, ..Default::default() }
}

fn chown(call: &Call, directory: Option<usize>, path: usize, ids: [usize; 2], flags: i32) -> Result<Outcome> {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    target(call, directory, path, flags)?.change(call, &owners(call, ids))?;
    Ok(().into())
}

fn fchown(call: &Call) -> Result<Outcome> {
    opened(call)?.change(call, &owners(call, [1, 2]))?;
    Ok(().into())
}

fn set_times(call: &Call, target: &Target, [accessed, modified]: [Option<SetTime>; 2]) -> Result<Outcome> {
    target.change(call, &SetAttributes { accessed, modified, ..Default::default() })?;
    Ok(().into())
}

fn utimensat(call: &Call) -> Result<Outcome> {
    let flags = call.int(3);
    let mut times = [Some(SetTime::Now); 2];
    if let Some(address) = call.address(2).optional() {
        let raw: [[i64; 2]; 2] = call.memory().read_value(address)?;
        // Nothing to do, and nothing looked at.
        if raw.iter().all(|[_, nanoseconds]| *nanoseconds == libc::UTIME_OMIT) {
            return Ok(().into());
        }
        for (time, [seconds, nanoseconds]) in times.iter_mut().zip(raw) {
            *time = match nanoseconds {
                libc::UTIME_NOW => Some(SetTime::Now),
                libc::UTIME_OMIT => None,
                0..1_000_000_000 => Some(SetTime::To(Timestamp { seconds, nanoseconds: nanoseconds as u32 })),
                _ => return Err(Errno::EINVAL),
            };
        }
    }
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let target = if call.address(1).is_null() && call.int(0) != libc::AT_FDCWD {
        // futimens(3)
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        opened(call)?
    } else {
        target(call, Some(0), 1, flags)?
    };
    set_times(call, &target, times)
}

fn utimes(call: &Call, directory: Option<usize>, path: usize, times: usize) -> Result<Outcome> {
    let mut set = [Some(SetTime::Now); 2];
    if let Some(address) = call.address(times).optional() {
        let raw: [[i64; 2]; 2] = call.memory().read_value(address)?;
        for (time, [seconds, microseconds]) in set.iter_mut().zip(raw) {
            if !(0..1_000_000).contains(&microseconds) {
                return Err(Errno::EINVAL);
            }
            *time = Some(SetTime::To(Timestamp { seconds, nanoseconds: microseconds as u32 * 1000 }));
        }
    }
    let by_descriptor = directory.is_some_and(|index| call.address(path).is_null() && call.int(index) != libc::AT_FDCWD);
    let target = if by_descriptor { opened(call)? } else { target(call, directory, path, 0)? };
    set_times(call, &target, set)
}

fn utime(call: &Call) -> Result<Outcome> {
    let times = match call.address(1).optional() {
        None => [Some(SetTime::Now); 2],
        Some(address) => {
            let raw: [i64; 2] = call.memory().read_value(address)?;
            raw.map(|seconds| Some(SetTime::To(Timestamp { seconds, nanoseconds: 0 })))
        }
    };
    set_times(call, &target(call, None, 0, 0)?, times)
}

fn length(call: &Call) -> Result<u64> {
    u64::try_from(call.long(1)).map_err(|_| Errno::EINVAL)
}

/// `RLIMIT_FSIZE`: no file grows past it (setrlimit(2)).
fn check_size(call: &Call, length: u64) -> Result<()> {
    if length <= call.process.limits.read().file_size() {
        return Ok(());
    }
    let _ = crate::kernel::signal::send_to_thread(call.process.pid, call.thread.tid, libc::SIGXFSZ);
    Err(Errno::EFBIG)
}

fn truncate(call: &Call) -> Result<Outcome> {
    let length = length(call)?;
    let location = call.resolve(&call.path(0)?, WalkFlags::empty())?;
    match location.node.file_type() {
        FileType::Directory => return Err(Errno::EISDIR),
        FileType::Regular => {}
        _ => return Err(Errno::EINVAL),
    }
    let who = call.credentials();
    location.node.access(Permission::WRITE, &who)?;
    writable_mount(&location)?;
    check_size(call, length)?;
    location.node.truncate(length, &who)?;
    Ok(().into())
}

fn ftruncate(call: &Call) -> Result<Outcome> {
    let length = length(call)?;
    let file = call.file(0)?;
    if !file.writes() {
        return Err(Errno::EINVAL);
    }
    if file.file.seekable() {
        check_size(call, length)?;
    }
    file.file.truncate(length)?;
    Ok(().into())
}

fn statfs(call: &Call) -> Result<Outcome> {
    let location = call.resolve(&call.path(0)?, WalkFlags::empty())?;
    put_statistics(call, &location.node.statistics()?, Some(&location))
}

fn fstatfs(call: &Call) -> Result<Outcome> {
    let file = call.any_file(0)?;
    match &file.location {
        Some(location) => put_statistics(call, &location.node.statistics()?, Some(location)),
        None => put_statistics(call, &file.file.statistics()?, None),
    }
}

/// `struct statfs` of x86-64: 15 words.
fn put_statistics(call: &Call, statistics: &FileSystemStatistics, location: Option<&Location>) -> Result<Outcome> {
    /// `ST_VALID`: the flags mean something.
    const VALID: u64 = 0x20;
    // The bits of mount(2), but for one.
    let flags = location.map_or(MountFlags::empty(), |location| *location.mount.flags.read());
    let relative = if flags.contains(MountFlags::RELATIVE_ACCESS_TIME) { libc::ST_RELATIME } else { 0 };
    let flags = flags.difference(MountFlags::RELATIVE_ACCESS_TIME).bits() | relative | VALID;
    let words: [u64; 15] = [
        statistics.kind as u64,
        statistics.block_size as u64,
        statistics.blocks,
        statistics.blocks_free,
        statistics.blocks_available,
        statistics.files,
        statistics.files_free,
        0,
        statistics.name_length as u64,
        statistics.block_size as u64,
        flags,
        0,
        0,
        0,
        0,
    ];
    call.memory().write_value(call.address(1), &words)?;
    Ok(().into())
}
