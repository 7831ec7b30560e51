//! Directories and names: mkdir(2), unlink(2), rename(2), link(2), symlink(2), mknod(2), getdents64(2), chdir(2), getcwd(2), umask(2).

use super::open::{path_or_empty, writable_mount};
use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Capability;
use crate::vfs::mount::Location;
use crate::vfs::node::{FileType, Permission};
use crate::vfs::rights;
use crate::vfs::walk::{LastName, WalkFlags};

use Argument::{Descriptor, Directory, Hex, Number, Octal, Path, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_mkdir, "mkdir", |call| mkdir(call, None, 0, call.uint(1)), &[Path, Octal]),
    Entry::new(libc::SYS_mkdirat, "mkdirat", |call| mkdir(call, Some(0), 1, call.uint(2)), &[Directory, Path, Octal]),
    Entry::new(libc::SYS_rmdir, "rmdir", |call| unlink(call, None, 0, true), &[Path]),
    Entry::new(libc::SYS_unlink, "unlink", |call| unlink(call, None, 0, false), &[Path]),
    Entry::new(libc::SYS_unlinkat, "unlinkat", unlinkat, &[Directory, Path, Hex]),
    Entry::new(libc::SYS_rename, "rename", |call| rename(call, [None, None], [0, 1], 0), &[Path, Path]),
    Entry::new(libc::SYS_renameat, "renameat", |call| rename(call, [Some(0), Some(2)], [1, 3], 0), &[Directory, Path, Directory, Path]),
    Entry::new(
        libc::SYS_renameat2,
        "renameat2",
        |call| rename(call, [Some(0), Some(2)], [1, 3], call.uint(4)),
        &[Directory, Path, Directory, Path, Hex],
    ),
    Entry::new(libc::SYS_link, "link", |call| link(call, [None, None], [0, 1], 0), &[Path, Path]),
    Entry::new(
        libc::SYS_linkat,
        "linkat",
        |call| link(call, [Some(0), Some(2)], [1, 3], call.int(4)),
        &[Directory, Path, Directory, Path, Hex],
    ),
    Entry::new(libc::SYS_symlink, "symlink", |call| symlink(call, 0, None, 1), &[Path, Path]),
    Entry::new(libc::SYS_symlinkat, "symlinkat", |call| symlink(call, 0, Some(1), 2), &[Path, Directory, Path]),
    Entry::new(libc::SYS_mknod, "mknod", |call| mknod(call, None, 0, call.uint(1), call.raw(2)), &[Path, Octal, Hex]),
    Entry::new(libc::SYS_mknodat, "mknodat", |call| mknod(call, Some(0), 1, call.uint(2), call.raw(3)), &[Directory, Path, Octal, Hex]),
    Entry::new(libc::SYS_getdents64, "getdents64", |call| getdents(call, true), &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_getdents, "getdents", |call| getdents(call, false), &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_getcwd, "getcwd", getcwd, &[Pointer, Number]),
    Entry::new(libc::SYS_chdir, "chdir", |call| enter(call, call.resolve(&call.path(0)?, WalkFlags::DIRECTORY)?), &[Path]),
    Entry::new(libc::SYS_fchdir, "fchdir", fchdir, &[Descriptor]),
    Entry::new(libc::SYS_chroot, "chroot", chroot, &[Path]),
    Entry::new(libc::SYS_umask, "umask", umask, &[Octal]),
];

fn last_name(call: &Call, directory: Option<usize>, path: &[u8]) -> Result<LastName> {
    match directory {
        Some(index) => call.resolve_parent_at(index, path),
        None => {
            let context = call.context();
            let who = call.credentials();
            let walk = crate::vfs::walk::Walk { root: &context.root, start: &context.cwd, who: &who, flags: WalkFlags::empty() };
            crate::vfs::walk::resolve_parent(&walk, path)
        }
    }
}

/// Whether a name is there already.
fn exists(call: &Call, last: &LastName) -> Result<bool> {
    if mounted(last) {
        return Ok(true);
    }
    match last.directory.node.clone().lookup(&last.name, &call.credentials()) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The place for something new: `EEXIST` for `/`, `.` and `..`; for a name that is there the file system says so itself.
fn place_for_new(call: &Call, directory: Option<usize>, path: usize, is_directory: bool) -> Result<LastName> {
    let path = call.path(path)?;
    let last = last_name(call, directory, &path)?;
    if last.name.is_empty() || last.name == b"." || last.name == b".." {
        return Err(Errno::EEXIST);
    }
    if last.slash && !is_directory {
        return Err(if exists(call, &last)? { Errno::EEXIST } else { Errno::ENOENT });
    }
    if last.directory.mount.has(crate::vfs::mount::MountFlags::READ_ONLY) {
        return Err(if exists(call, &last)? { Errno::EEXIST } else { Errno::EROFS });
    }
    if mounted(&last) {
        return Err(Errno::EEXIST);
    }
    Ok(last)
}

/// Whether something is mounted at the name.
fn mounted(last: &LastName) -> bool {
    mount_at(last).is_some()
}

fn mount_at(last: &LastName) -> Option<std::sync::Arc<crate::vfs::mount::Mount>> {
    let mut path = last.directory.path.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(&last.name);
    last.directory.mount.mounted_at(&path)
}

fn mkdir(call: &Call, directory: Option<usize>, path: usize, mode: u32) -> Result<Outcome> {
    let last = place_for_new(call, directory, path, true)?;
    let mode = mode & 0o1777 & !call.context().umask;
    last.directory.node.clone().make_directory(&last.name, mode, &call.credentials())?;
    Ok(().into())
}

fn unlinkat(call: &Call) -> Result<Outcome> {
    if call.int(2) & !libc::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    unlink(call, Some(0), 1, call.int(2) & libc::AT_REMOVEDIR != 0)
}

fn unlink(call: &Call, directory: Option<usize>, path: usize, is_directory: bool) -> Result<Outcome> {
    let path = call.path(path)?;
    let last = last_name(call, directory, &path)?;
    match (last.name.as_slice(), is_directory) {
        (b"", true) => return Err(Errno::EBUSY),
        (b".", true) => return Err(Errno::EINVAL),
        (b"..", true) => return Err(Errno::ENOTEMPTY),
        (b"" | b"." | b"..", false) => return Err(Errno::EISDIR),
        _ => {}
    }
    let who = call.credentials();
    if last.slash && !is_directory {
        let node = last.directory.node.clone().lookup(&last.name, &who)?;
        return Err(if node.file_type() == FileType::Directory { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    // In this order: `mnt_want_write()` is what do_rmdir() begins with.
    writable_mount(&last.directory)?;
    if let Some(mount) = mount_at(&last) {
        let directory = mount.root.file_type() == FileType::Directory;
        return Err(if directory && !is_directory { Errno::EISDIR } else { Errno::EBUSY });
    }
    last.directory.node.clone().unlink(&last.name, is_directory, &who)?;
    Ok(().into())
}

const NO_REPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

fn rename(call: &Call, directories: [Option<usize>; 2], paths: [usize; 2], flags: u32) -> Result<Outcome> {
    if flags & !(NO_REPLACE | EXCHANGE | WHITEOUT) != 0 || (flags & EXCHANGE != 0 && flags & (NO_REPLACE | WHITEOUT) != 0) {
        return Err(Errno::EINVAL);
    }
    let (old_path, new_path) = (call.path(paths[0])?, call.path(paths[1])?);
    let old = last_name(call, directories[0], &old_path)?;
    let new = last_name(call, directories[1], &new_path)?;
    if !std::sync::Arc::ptr_eq(&old.directory.mount, &new.directory.mount) {
        return Err(Errno::EXDEV);
    }
    let special = |name: &[u8]| name.is_empty() || name == b"." || name == b"..";
    if special(&old.name) {
        return Err(Errno::EBUSY);
    }
    if special(&new.name) {
        return Err(if flags & NO_REPLACE != 0 { Errno::EEXIST } else { Errno::EBUSY });
    }
    writable_mount(&old.directory)?;
    let who = call.credentials();
    if old.slash || new.slash || mounted(&old) || mounted(&new) {
        may_rename(call, &old, &new, flags)?;
    }
    old.directory.node.clone().rename(&old.name, &new.directory.node, &new.name, flags, &who)?;
    Ok(().into())
}

/// What is decided before the file system is asked, where slashes follow a name or something is mounted at one (do_renameat2() in fs/namei.c).
fn may_rename(call: &Call, old: &LastName, new: &LastName, flags: u32) -> Result<()> {
    let is_directory = |last: &LastName| -> Result<Option<bool>> {
        if let Some(mount) = mount_at(last) {
            return Ok(Some(mount.root.file_type() == FileType::Directory));
        }
        match last.directory.node.clone().lookup(&last.name, &call.credentials()) {
            Ok(node) => Ok(Some(node.file_type() == FileType::Directory)),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let moved = is_directory(old)?.ok_or(Errno::ENOENT)?;
    let replaced = is_directory(new)?;
    match replaced {
        Some(_) if flags & NO_REPLACE != 0 => return Err(Errno::EEXIST),
        None if flags & EXCHANGE != 0 => return Err(Errno::ENOENT),
        Some(false) if flags & EXCHANGE != 0 && new.slash => return Err(Errno::ENOTDIR),
        _ => {}
    }
    if !moved && (old.slash || (new.slash && flags & EXCHANGE == 0)) {
        return Err(Errno::ENOTDIR);
    }
    if !mounted(old) && !mounted(new) {
        return Ok(());
    }
    match (moved, replaced) {
        (true, Some(false)) if flags & EXCHANGE == 0 => Err(Errno::ENOTDIR),
        (false, Some(true)) if flags & EXCHANGE == 0 => Err(Errno::EISDIR),
        _ => Err(Errno::EBUSY),
    }
}

fn link(call: &Call, directories: [Option<usize>; 2], paths: [usize; 2], flags: i32) -> Result<Outcome> {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let how = if flags & libc::AT_SYMLINK_FOLLOW != 0 { WalkFlags::empty() } else { WalkFlags::NO_FOLLOW };
    let empty = flags & libc::AT_EMPTY_PATH != 0;
    let old_path = if empty { path_or_empty(call, call.address(paths[0]))? } else { call.path(paths[0])? };
    let old: Location = match directories[0] {
        Some(index) if empty && old_path.is_empty() && call.int(index) == libc::AT_FDCWD => call.context().cwd,
        Some(index) if empty && old_path.is_empty() => {
            let file = call.any_file(index)?;
            if !std::sync::Arc::ptr_eq(&file.opener, &call.credentials()) {
                call.require(Capability::DacReadSearch).map_err(|_| Errno::ENOENT)?;
            }
            file.location.clone().ok_or(Errno::EXDEV)?
        }
        Some(index) => call.resolve_at(index, &old_path, how)?,
        None => call.resolve(&old_path, how)?,
    };
    let last = place_for_new(call, directories[1], paths[1], false)?;
    if !std::sync::Arc::ptr_eq(&old.mount, &last.directory.mount) {
        return Err(Errno::EXDEV);
    }
    let who = call.credentials();
    if let Err(error) = rights::may_link(&old.node, &who) {
        return Err(if exists(call, &last)? { Errno::EEXIST } else { error });
    }
    if old.node.file_type() == FileType::Directory {
        return Err(Errno::EPERM);
    }
    last.directory.node.clone().link(&last.name, &old.node, &who)?;
    Ok(().into())
}

fn symlink(call: &Call, target: usize, directory: Option<usize>, path: usize) -> Result<Outcome> {
    let target = call.path(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let last = place_for_new(call, directory, path, false)?;
    last.directory.node.clone().make_symlink(&last.name, &target, &call.credentials())?;
    Ok(().into())
}

fn mknod(call: &Call, directory: Option<usize>, path: usize, mode: u32, device: u64) -> Result<Outcome> {
    let kind = if mode & libc::S_IFMT == 0 { libc::S_IFREG } else { mode & libc::S_IFMT };
    match FileType::from_mode(kind)? {
        FileType::Directory => return Err(Errno::EPERM),
        FileType::Symlink => return Err(Errno::EINVAL),
        FileType::CharacterDevice | FileType::BlockDevice => call.require(Capability::Mknod)?,
        _ => {}
    }
    let last = place_for_new(call, directory, path, false)?;
    let mode = kind | mode & 0o7777 & !call.context().umask;
    last.directory.node.clone().make_node(&last.name, mode, device, &call.credentials())?;
    Ok(().into())
}

/// Both forms of directory entries; the old one has its type behind the name.
fn getdents(call: &Call, wide: bool) -> Result<Outcome> {
    let file = call.file(0)?;
    let room = call.uint(2) as usize;
    let mut offset = file.offset.lock();
    let mut bytes: Vec<u8> = Vec::with_capacity(room.min(32 << 10));
    let mut next = *offset as i64;
    let mut full = false;
    file.file.read_directory(next, &mut |entry| {
        let header = if wide { 19 } else { 18 };
        let length = (header + entry.name.len() + if wide { 1 } else { 2 }).next_multiple_of(8);
        if bytes.len() + length > room {
            full = true;
            return false;
        }
        let start = bytes.len();
        bytes.extend_from_slice(&entry.inode.to_ne_bytes());
        bytes.extend_from_slice(&entry.next.to_ne_bytes());
        bytes.extend_from_slice(&(length as u16).to_ne_bytes());
        if wide {
            bytes.push(entry.kind);
        }
        bytes.extend_from_slice(&entry.name);
        bytes.resize(start + length, 0);
        if !wide {
            bytes[start + length - 1] = entry.kind;
        }
        next = entry.next;
        true
    })?;
    if bytes.is_empty() && full {
        return Err(Errno::EINVAL);
    }
    call.memory().write(call.address(1), &bytes)?;
    *offset = next as u64;
    Ok(bytes.len().into())
}

fn getcwd(call: &Call) -> Result<Outcome> {
    let context = call.context();
    if context.cwd.node.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    let shown = context.cwd.shown_path(&context.root);
    let mut path = shown.unwrap_or_else(|| [b"(unreachable)/", context.cwd.path.as_ref()].concat());
    path.push(0);
    if path.len() as u64 > call.raw(1) {
        return Err(Errno::ERANGE);
    }
    call.memory().write(call.address(0), &path)?;
    Ok(path.len().into())
}

fn enter(call: &Call, location: Location) -> Result<Outcome> {
    location.node.access(Permission::EXECUTE, &call.credentials())?;
    let before = call.thread.context.read().update(|state| std::mem::replace(&mut state.cwd, location));
    drop(before);
    Ok(().into())
}

fn fchdir(call: &Call) -> Result<Outcome> {
    let location = call.any_file(0)?.location.clone().ok_or(Errno::ENOTDIR)?;
    if location.node.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    enter(call, location)
}

fn chroot(call: &Call) -> Result<Outcome> {
    let location = call.resolve(&call.path(0)?, WalkFlags::DIRECTORY)?;
    location.node.access(Permission::EXECUTE, &call.credentials())?;
    call.require(Capability::SysChroot)?;
    call.thread.context.read().update(|state| state.root = location);
    Ok(().into())
}

fn umask(call: &Call) -> Result<Outcome> {
    let mask = call.uint(0) & 0o777;
    let before = call.thread.context.read().update(|state| std::mem::replace(&mut state.umask, mask));
    Ok(Outcome::Value(i64::from(before)))
}
