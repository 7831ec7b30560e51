//! What /proc/PID shows of a process's memory: its mappings, its arguments and environment.
//!
//! Mappings are the host's, and so is the text; only the *paths* in it are this kernel's business. The host names a mapped file by its place in the
//! kernel process's tree: below `/containers/ID`, in an exec root, or as the backing file of a memory file. Each becomes the path that the container
//! has for it; what has none is shown as the host shows a file without a name.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::first_thread;
use crate::boot::{CONTAINERS, EXEC_ROOTS};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::kernel::task::Process;
use crate::platform::memory::{Address, Memory};
use crate::platform::process as host;
use crate::vfs::mapped;
use crate::vfs::mount::{Location, Mount};
use crate::vfs::node::NodeKey;
use crate::vfs::walk::{self, Walk, WalkFlags};

/// Most of a string area that is read.
const MOST: u64 = 2 << 20;

/// A file of the host's /proc/PID whose lines name mapped files: `maps`, `smaps`, `numa_maps`.
pub fn of_host(process: &Arc<Process>, name: &str) -> Result<Vec<u8>> {
    let text = std::fs::read(format!("/proc/{}/{name}", process.pid.0)).map_err(|_| Errno::ESRCH)?;
    let mut names = Names::of(process)?;
    let mut shown = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        names.translate(line, name == "numa_maps", &mut shown);
    }
    Ok(shown)
}

/// Finds the container's names of mapped files, for one process.
struct Names<'a> {
    process: &'a Process,
    root: Location,
    /// The file it runs, as the host knows it.
    running: Option<(u64, u64)>,
    /// Lines about one file follow each other: its path on the host, and what is shown.
    last: Option<(Vec<u8>, Shown)>,
}

/// A mapped file as the container knows it.
#[derive(Clone)]
struct Shown {
    path: Vec<u8>,
    /// Device and inode as stat(2) shows them there, where the file still stands at its path.
    identity: Option<(u64, u64)>,
}

impl Names<'_> {
    fn of(process: &Process) -> Result<Names<'_>> {
        let root = first_thread(process)?.context.read().get().root;
        Ok(Names { process, root, running: host::executable_identity(process.pid).ok(), last: None })
    }

    /// Copies a line with its path replaced, where it has one.
    fn translate(&mut self, line: &[u8], numa: bool, into: &mut Vec<u8>) {
        let start = if numa {
            line.windows(6).position(|window| window == b"file=/").map(|at| at + 5)
        } else {
            // Five fields before it, none of which has a slash (proc_pid_maps(5)).
            line.iter().position(|&byte| byte == b'/').filter(|_| line.first().is_some_and(u8::is_ascii_hexdigit))
        };
        let Some(start) = start else { return into.extend_from_slice(line) };
        let ends = |byte: &u8| *byte == b'\n' || (numa && *byte == b' ');
        let end = line[start..].iter().position(ends).map_or(line.len(), |at| start + at);
        let path = &line[start..end];
        let shown = match &self.last {
            Some((known, shown)) if known == path => shown.clone(),
            _ => {
                let found = if numa { None } else { identity(&line[..start]) };
                let shown = self.shown(path, found);
                let identity = found.and_then(|found| self.identity(&shown, found));
                Shown { path: shown, identity }
            }
        };
        match shown.identity {
            Some(identity) => into.extend_from_slice(&with_identity(&line[..start], identity)),
            None => into.extend_from_slice(&line[..start]),
        }
        into.extend_from_slice(&shown.path);
        into.extend_from_slice(&line[end..]);
        self.last = Some((path.to_vec(), shown));
    }

    fn shown(&self, path: &[u8], identity: Option<(u64, u64)>) -> Vec<u8> {
        let text = String::from_utf8_lossy(path).into_owned();
        let (bare, deleted) = text.strip_suffix(" (deleted)").map_or((text.as_str(), false), |bare| (bare, true));
        if let Some(rest) = bare.strip_prefix(CONTAINERS) {
            let found = self.in_tree(rest).unwrap_or_else(|| rest.as_bytes().to_vec());
            return if deleted { [&found, &b" (deleted)"[..]].concat() } else { found };
        }
        let Some(rest) = bare.strip_prefix(EXEC_ROOTS) else { return path.to_vec() };
        // What runs is known by its place; a memory file by what it was mapped as.
        if identity.is_some()
            && identity == self.running
            && let Some(executable) = self.process.executable.read().clone()
            && let Some(shown) = self.place(&executable.location)
        {
            return shown;
        }
        if let Some(file) = identity.and_then(mapped::find) {
            return self.mapped(&file);
        }
        // A loader stands in the exec root at its literal path; Linux shows where that leads.
        let literal = rest.trim_start_matches('/').split_once('/').map_or_else(String::new, |(_, literal)| format!("/{literal}"));
        let found = self.resolve(literal.as_bytes()).and_then(|found| self.place(&found));
        found.unwrap_or_else(|| literal.into_bytes())
    }

    /// Where a mapped memory file is now, or where it was.
    fn mapped(&self, file: &mapped::Mapped) -> Vec<u8> {
        let now = file.location().filter(|_| !file.gone).and_then(|location| self.place(&location));
        now.unwrap_or_else(|| {
            let still = !file.gone && self.resolve(&file.path).is_some_and(|found| found.node.key() == file.key);
            if still { file.path.clone() } else { [&file.path, &b" (deleted)"[..]].concat() }
        })
    }

    fn resolve(&self, path: &[u8]) -> Option<Location> {
        let who = Credentials::kernel();
        let walk = Walk { root: &self.root, start: &self.root, who: &who, flags: WalkFlags::empty() };
        walk::resolve(&walk, path).ok()
    }

    /// Which file stands at the path now, where it is the mapped one: a layer's file keeps its inode's number, a memory file's backing has one that
    /// nobody else sees.
    fn identity(&self, path: &[u8], host: (u64, u64)) -> Option<(u64, u64)> {
        let key = self.resolve(path)?.node.key();
        (key.inode == host.1 || mapped::find(host).is_some_and(|file| file.key == key)).then_some((key.device, key.inode))
    }

    fn place(&self, location: &Location) -> Option<Vec<u8>> {
        let path = location.shown_path(&self.root);
        match path {
            Some(path) if location.node.is_unlinked() => Some([&path, &b" (deleted)"[..]].concat()),
            None if location.node.is_unlinked() => Some([&location.full_path(), &b" (deleted)"[..]].concat()),
            path => path,
        }
    }

    /// `/ID/root/usr/bin/x`, `/ID/upper/x`, `/ID/mount-3/x`: below the mount that shows that tree.
    fn in_tree(&self, rest: &str) -> Option<Vec<u8>> {
        let mut parts = rest.trim_start_matches('/').splitn(3, '/');
        let (id, tree, below) = (parts.next()?, parts.next()?, parts.next().unwrap_or(""));
        if matches!(tree, "root" | "upper") {
            return Some(format!("/{below}").into_bytes());
        }
        let metadata = std::fs::metadata(format!("{CONTAINERS}/{id}/{tree}")).ok()?;
        let key = NodeKey { device: metadata.dev(), inode: metadata.ino() };
        let mount = find_mount(&self.process.container.mounts.root, key)?;
        let place = mount.root_location().shown_path(&self.root)?;
        let slash: &[u8] = if below.is_empty() || place.ends_with(b"/") { b"" } else { b"/" };
        Some([&place, slash, below.as_bytes()].concat())
    }
}

fn find_mount(mount: &Arc<Mount>, key: NodeKey) -> Option<Arc<Mount>> {
    if mount.root.key() == key && mount.place.read().is_some() {
        return Some(mount.clone());
    }
    let children = mount.children.read().clone();
    children.iter().find_map(|child| find_mount(child, key))
}

/// Device and inode of a line of `maps`, from what stands before its path.
fn identity(head: &[u8]) -> Option<(u64, u64)> {
    let mut fields = std::str::from_utf8(head).ok()?.split_whitespace().skip(3);
    let (major, minor) = fields.next()?.split_once(':')?;
    let device = libc::makedev(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    Some((device, fields.next()?.parse().ok()?))
}

/// What stands before the path, with another device and inode: the path begins in the same column (`show_vma_header_prefix()` in fs/proc/task_mmu.c).
fn with_identity(head: &[u8], (device, inode): (u64, u64)) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let kept: Vec<&str> = text.split_whitespace().take(3).collect();
    let fields = format!("{} {:02x}:{:02x} {inode} ", kept.join(" "), libc::major(device), libc::minor(device));
    format!("{fields:<width$}", width = head.len()).into_bytes()
}

/// Addresses that /proc/PID/stat names, by their fields there (counted from 1, proc_pid_stat(5)).
fn addresses(process: &Process) -> Result<[u64; 4]> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", process.pid.0)).map_err(|_| Errno::ESRCH)?;
    let after = text.rfind(')').map_or("", |end| &text[end + 1..]);
    let fields: Vec<u64> = after.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    Ok([field(48), field(49), field(50), field(51)])
}

fn read(process: &Process, start: u64, end: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0u8; end.saturating_sub(start).min(MOST) as usize];
    if bytes.is_empty() {
        return Ok(bytes);
    }
    let length = Memory::of(process.pid).read_some(Address(start), &mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// `cmdline`. A program that has written over the end of its arguments (setproctitle(3)) has one string there, which may go on into
/// the environment (`get_mm_cmdline()` in fs/proc/base.c).
pub fn arguments(process: &Arc<Process>) -> Result<Vec<u8>> {
    let [start, end, environment, environment_end] = addresses(process)?;
    let bytes = read(process, start, end)?;
    if bytes.last().is_none_or(|&last| last == 0) {
        return Ok(bytes);
    }
    let end = if environment == end { environment_end } else { end };
    let mut title = read(process, start, end)?;
    if let Some(at) = title.iter().position(|&byte| byte == 0) {
        title.truncate(at + 1);
    }
    Ok(title)
}

/// `environ`.
pub fn environment(process: &Arc<Process>) -> Result<Vec<u8>> {
    let [_, _, start, end] = addresses(process)?;
    read(process, start, end)
}

/// `auxv`, with the identity that the process has here (getauxval(3)).
pub fn auxiliary_vector(process: &Arc<Process>) -> Result<Vec<u8>> {
    let mut bytes = std::fs::read(format!("/proc/{}/auxv", process.pid.0)).map_err(|_| Errno::ESRCH)?;
    let who = first_thread(process)?.credentials.read().clone();
    let known = [(libc::AT_UID, who.uid), (libc::AT_EUID, who.euid), (libc::AT_GID, who.gid), (libc::AT_EGID, who.egid)];
    for entry in bytes.chunks_exact_mut(16) {
        let (kind, value) = entry.split_at_mut(8);
        if let Some((_, id)) = known.iter().find(|(number, _)| kind == number.to_ne_bytes()) {
            value.copy_from_slice(&u64::from(*id).to_ne_bytes());
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_file() {
        let head = b"7f00-7f01 r--p 00000000 fe:00 5382659                    ";
        assert_eq!(identity(head), Some((libc::makedev(0xfe, 0), 5_382_659)));
        assert_eq!(identity(b"7f00-7f01 r--p"), None);
        let other = with_identity(head, (libc::makedev(0, 0x2f), 7));
        assert_eq!(other, b"7f00-7f01 r--p 00000000 00:2f 7                          ");
        assert_eq!(other.len(), head.len());
    }
}
