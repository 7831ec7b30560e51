//! `mounts`, `mountinfo`, `mountstats` of /proc/PID (proc_pid_mountinfo(5)): the container's mounts, as far as the process's root directory shows them.

use std::sync::Arc;

use super::first_thread;
use crate::errno::Result;
use crate::kernel::task::Process;
use crate::vfs::mount::{Location, Mount, MountFlags};

/// Flags in the order in which Linux writes them (`show_mnt_opts()` in fs/proc_namespace.c).
const FLAGS: [(MountFlags, &str); 6] = [
    (MountFlags::NO_SUID, "nosuid"),
    (MountFlags::NO_DEVICES, "nodev"),
    (MountFlags::NO_EXECUTE, "noexec"),
    (MountFlags::NO_ACCESS_TIME, "noatime"),
    (MountFlags::NO_DIRECTORY_ACCESS_TIME, "nodiratime"),
    (MountFlags::RELATIVE_ACCESS_TIME, "relatime"),
];

/// Every mount that a process sees, with the path it has for it, in the order they were made.
fn visible(process: &Process) -> Result<Vec<(Arc<Mount>, String)>> {
    let root: Location = first_thread(process)?.context.read().get().root;
    let mut found = Vec::new();
    collect(&process.container.mounts.root, &root, &mut found);
    found.sort_by_key(|(mount, _)| mount.id);
    Ok(found)
}

fn collect(mount: &Arc<Mount>, root: &Location, found: &mut Vec<(Arc<Mount>, String)>) {
    if let Some(path) = mount.root_location().shown_path(root) {
        found.push((mount.clone(), escaped(&path)));
    }
    let children = mount.children.read().clone();
    for child in &children {
        collect(child, root, found);
    }
}

/// A path with what separates fields and lines as octal numbers.
fn escaped(path: &[u8]) -> String {
    let mut shown = Vec::with_capacity(path.len());
    for &byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => shown.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            _ => shown.push(byte),
        }
    }
    String::from_utf8_lossy(&shown).into_owned()
}

/// Flags as mount lines show them.
fn flags(mount: &Mount) -> String {
    let flags = *mount.flags.read();
    let mut shown = vec![if flags.contains(MountFlags::READ_ONLY) { "ro" } else { "rw" }];
    shown.extend(FLAGS.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name));
    shown.join(",")
}

fn with_own(first: String, mount: &Mount) -> String {
    if mount.options.is_empty() { first } else { format!("{first},{}", mount.options) }
}

/// `mounts`.
pub fn table(process: &Arc<Process>) -> Result<Vec<u8>> {
    let line = |(mount, path): (Arc<Mount>, String)| {
        format!("{} {path} {} {} 0 0\n", escaped(mount.source.as_bytes()), mount.kind, with_own(flags(&mount), &mount))
    };
    Ok(visible(process)?.into_iter().map(line).collect::<String>().into_bytes())
}

/// `mountinfo`.
pub fn info(process: &Arc<Process>) -> Result<Vec<u8>> {
    let line = |(mount, path): (Arc<Mount>, String)| {
        let parent = mount.place.read().as_ref().map_or(1, |(parent, _)| parent.id);
        let device = mount.root.key().device;
        let (major, minor) = (libc::major(device), libc::minor(device));
        let root = escaped(&[&b"/"[..], &mount.root.path().unwrap_or_default()].concat());
        let (kind, source) = (&mount.kind, escaped(mount.source.as_bytes()));
        let own = with_own(String::from(if is_read_only(&mount) { "ro" } else { "rw" }), &mount);
        format!("{} {parent} {major}:{minor} {root} {path} {} - {kind} {source} {own}\n", mount.id, flags(&mount))
    };
    Ok(visible(process)?.into_iter().map(line).collect::<String>().into_bytes())
}

/// Whether the file system itself is read-only, and not just this view of it: one that was made for this mount.
fn is_read_only(mount: &Mount) -> bool {
    let made = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"].contains(&mount.kind.as_str()) && mount.source != "none";
    made && mount.flags.read().contains(MountFlags::READ_ONLY) && mount.root.path().is_ok_and(|path| path.is_empty())
}

/// `mountstats`.
pub fn statistics(process: &Arc<Process>) -> Result<Vec<u8>> {
    let line = |(mount, path): (Arc<Mount>, String)| {
        format!("device {} mounted on {path} with fstype {}\n", escaped(mount.source.as_bytes()), mount.kind)
    };
    Ok(visible(process)?.into_iter().map(line).collect::<String>().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_octal() {
        assert_eq!(escaped(b"/a b\\c\n#"), "/a\\040b\\134c\\012\\043");
    }
}
