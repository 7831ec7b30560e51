//! The mounts of config.json, in order.

use std::sync::Arc;

use bulkhead_protocol::call::{Code, Refusal};
use bulkhead_protocol::messages::CreateRequest;
use oci_spec::runtime::Spec;

use super::create::attach_tree;
use super::populate;
use crate::errno::{Errno, Result};
use crate::fs::devpts::Instance;
use crate::fs::host::HostNode;
use crate::fs::tmpfs::content::PAGE;
use crate::fs::tmpfs::{FileSystem, Limits};
use crate::kernel::credentials::Credentials;
use crate::vfs::mount::{Location, Mount, MountFlags, MountNamespace};
use crate::vfs::node::{FileType, NodeRef};
use crate::vfs::walk::{self, Walk, WalkFlags};

/// Options that set or clear a flag of the mount (mount(8)). Those with an `r` before them concern what is mounted below as well, which is one mount here.
const OPTIONS: [(&str, MountFlags, bool); 15] = [
    ("ro", MountFlags::READ_ONLY, true),
    ("rw", MountFlags::READ_ONLY, false),
    ("nosuid", MountFlags::NO_SUID, true),
    ("suid", MountFlags::NO_SUID, false),
    ("nodev", MountFlags::NO_DEVICES, true),
    ("dev", MountFlags::NO_DEVICES, false),
    ("noexec", MountFlags::NO_EXECUTE, true),
    ("exec", MountFlags::NO_EXECUTE, false),
    ("noatime", MountFlags::NO_ACCESS_TIME, true),
    ("nodiratime", MountFlags::NO_DIRECTORY_ACCESS_TIME, true),
    ("diratime", MountFlags::NO_DIRECTORY_ACCESS_TIME, false),
    ("relatime", MountFlags::RELATIVE_ACCESS_TIME, true),
    ("norelatime", MountFlags::RELATIVE_ACCESS_TIME, false),
    ("strictatime", MountFlags::RELATIVE_ACCESS_TIME, false),
    ("nostrictatime", MountFlags::RELATIVE_ACCESS_TIME, true),
];
/// Options that say how a mount is made or spread, not what it is like: no mount line shows them.
const MAKING: [&str; 13] = [
    "bind",
    "rbind",
    "defaults",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
    "async",
    "tmpcopyup",
];

/// The flags among a mount's options, and the file system's own options; what else there is (propagation, `defaults`) has no meaning here.
fn split(options: &[String]) -> (MountFlags, Vec<&str>) {
    // Linux's default, unless access times are switched off (mount(2), MS_RELATIME).
    let mut flags = MountFlags::RELATIVE_ACCESS_TIME;
    let mut own = Vec::new();
    for option in options {
        let flag = |text: &str| OPTIONS.iter().find(|(name, _, _)| *name == text);
        match flag(option).or_else(|| option.strip_prefix('r').and_then(flag)) {
            Some((_, flag, set)) => flags.set(*flag, *set),
            None if MAKING.contains(&option.as_str()) => {}
            None => own.push(option.as_str()),
        }
    }
    if flags.contains(MountFlags::NO_ACCESS_TIME) {
        flags.remove(MountFlags::RELATIVE_ACCESS_TIME);
    }
    (flags, own)
}

/// The type that mount lines show: the unified hierarchy, whichever was asked for, and for a bind mount the type of what is bound.
fn shown_kind(kind: &str, root: &NodeRef) -> &'static str {
    /// Magic numbers of file systems that volumes come from (statfs(2)).
    const KINDS: [(i64, &str); 8] = [
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0x0102_1994, "tmpfs"),
        (0x794c_7630, "overlay"),
        (0x6969, "nfs"),
        (0x2fc1_2fc1, "zfs"),
        (0x6573_5546, "fuse"),
    ];
    match kind {
        "proc" => "proc",
        "sysfs" => "sysfs",
        "devpts" => "devpts",
        "tmpfs" => "tmpfs",
        "mqueue" => "mqueue",
        "cgroup" | "cgroup2" => "cgroup2",
        _ => {
            let magic = root.statistics().map_or(0, |statistics| statistics.kind);
            KINDS.iter().find(|(known, _)| *known == magic).map_or("none", |(_, name)| *name)
        }
    }
}

/// A file system's own options as Linux shows them: in its order, in its units, without those that are the default.
fn shown_options(kind: &str, options: &[&str]) -> String {
    let order: &[&str] = match kind {
        "tmpfs" => &["size", "nr_inodes", "mode", "uid", "gid"],
        "devpts" => &["uid", "gid", "mode", "ptmxmode"],
        _ => &[],
    };
    let value = |name: &str| options.iter().rev().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let shown = |name: &&str| {
        let text = value(name)?;
        let text = match *name {
            "size" => format!("{}k", bytes(text).ok()?.div_ceil(4096) * 4),
            "mode" | "ptmxmode" => format!("{:03o}", u32::from_str_radix(text, 8).ok()?),
            _ => text.to_owned(),
        };
        Some(format!("{name}={text}")).filter(|shown| kind != "tmpfs" || shown != "mode=1777")
    };
    order.iter().filter_map(shown).collect::<Vec<_>>().join(",")
}

/// What the host itself does not allow on a tree: mounts that were read-only or `noexec` on the host before they were bound. (`nosuid` and `nodev` every tree
/// is for the host; which of them were so before, the client says.)
pub fn restrictions(tree: &NodeRef) -> MountFlags {
    use nix::sys::statvfs::{FsFlags, fstatvfs};
    const KEPT: [(FsFlags, MountFlags); 3] = [
        (FsFlags::ST_RDONLY, MountFlags::READ_ONLY),
        (FsFlags::ST_NOEXEC, MountFlags::NO_EXECUTE),
        (FsFlags::ST_NOATIME, MountFlags::NO_ACCESS_TIME),
    ];
    let Some(node) = tree.as_any().downcast_ref::<HostNode>() else { return MountFlags::empty() };
    let shown = fstatvfs(node.descriptor()).map_or(FsFlags::empty(), |statistics| statistics.flags());
    KEPT.iter().filter(|(native, _)| shown.contains(*native)).fold(MountFlags::empty(), |all, (_, flag)| all | *flag)
}

fn refusal(destination: &str, error: Errno) -> Refusal {
    Refusal::new(Code::InvalidArgument, format!("mounting to {destination:?} in the container: {error}"))
}

/// Mounts everything that config.json and the runtime's defaults say.
pub fn build(
    id: &str,
    namespace: &MountNamespace,
    spec: &Spec,
    request: &CreateRequest,
    terminals: &Instance,
) -> std::result::Result<(), Refusal> {
    for (index, mount) in request.mounts.iter().enumerate() {
        let (flags, options) = split(&mount.options);
        let failed = |error| refusal(&mount.destination, error);
        let tree = mount.source.as_ref().map(|tree| attach_tree(id, &format!("mount-{index}"), tree.stream)).transpose()?;
        let kind = if tree.is_some() { "bind" } else { mount.type_.as_str() };
        let root = match tree {
            Some(tree) => tree,
            None => file_system(kind, &mount.destination, &options, spec, terminals).map_err(failed)?,
        };
        let flags = flags | restrictions(&root);
        // The host's device behind a volume is nobody's business here.
        let source = if kind == "bind" { "none" } else { source(spec, &mount.destination).unwrap_or(kind) };
        let shown = shown_kind(kind, &root);
        let mounted = Mount::new(root, flags, shown, source, &shown_options(kind, &options));
        attach(namespace, &mount.destination, &mounted).map_err(failed)?;
    }
    let linux = spec.linux().as_ref();
    for path in linux.and_then(|linux| linux.readonly_paths().as_ref()).into_iter().flatten() {
        read_only(namespace, path).map_err(|error| refusal(path, error))?;
    }
    for path in linux.and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten() {
        mask(namespace, path).map_err(|error| refusal(path, error))?;
    }
    Ok(())
}

/// What config.json says is mounted at a place.
fn source<'a>(spec: &'a Spec, destination: &str) -> Option<&'a str> {
    let mut mounts = spec.mounts().iter().flatten();
    let found = mounts.rfind(|mount| mount.destination().to_str() == Some(destination))?;
    found.source().as_ref()?.to_str().filter(|source| !source.is_empty())
}

/// A fresh file system of a type.
fn file_system(kind: &str, destination: &str, options: &[&str], spec: &Spec, terminals: &Instance) -> Result<NodeRef> {
    match kind {
        "proc" => Ok(crate::fs::proc::root()),
        "sysfs" => Ok(crate::fs::sys::root()),
        "devpts" => Ok(terminals.root()),
        "tmpfs" => {
            let root = tmpfs(options)?;
            if destination.trim_end_matches('/') == "/dev" {
                populate::devices(&root, spec)?;
            }
            Ok(root)
        }
        "mqueue" => Ok(FileSystem::create(0o1777, 0, 0, Limits::default())),
        "cgroup" | "cgroup2" => Ok(crate::fs::cgroup::root(spec)),
        _ => Err(Errno::ENODEV),
    }
}

/// A tmpfs with the options of tmpfs(5). Where nothing else is said, it may take half of the machine's memory, and as many files as that has pages.
fn tmpfs(options: &[&str]) -> Result<Arc<crate::fs::tmpfs::TmpNode>> {
    let half = nix::sys::sysinfo::sysinfo()?.ram_total() / 2;
    let (mut mode, mut uid, mut gid, mut size, mut files) = (0o1777, 0, 0, half, half / PAGE);
    for option in options {
        let number = |text: &str| text.parse::<u32>().map_err(|_| Errno::EINVAL);
        match option.split_once('=') {
            Some(("mode", text)) => mode = u32::from_str_radix(text, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
            Some(("uid", text)) => uid = number(text)?,
            Some(("gid", text)) => gid = number(text)?,
            Some(("size", text)) => size = bytes(text)?,
            Some(("nr_blocks", text)) => size = bytes(text)?.checked_mul(PAGE).ok_or(Errno::EINVAL)?,
            Some(("nr_inodes", text)) => files = bytes(text)?,
            _ => {}
        }
    }
    // 0 is no limit.
    let limit = |value: u64| Some(value).filter(|value| *value > 0);
    Ok(FileSystem::create(mode, uid, gid, Limits { bytes: limit(size), files: limit(files) }))
}

/// `65536k`, `1g`, `50%` (of the machine's memory).
fn bytes(text: &str) -> Result<u64> {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().map_err(|_| Errno::EINVAL)?;
    let unit = match &text[end..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "%" => nix::sys::sysinfo::sysinfo()?.ram_total() / 100,
        _ => return Err(Errno::EINVAL),
    };
    number.checked_mul(unit).ok_or(Errno::EINVAL)
}

/// Finds a place in the container's tree, as its processes would.
fn find(namespace: &MountNamespace, path: &str) -> Result<Location> {
    let root = top(namespace);
    let who = Credentials::kernel();
    walk::resolve(&Walk { root: &root, start: &root, who: &who, flags: WalkFlags::empty() }, path.as_bytes())
}

/// The root as processes see it.
pub fn top(namespace: &MountNamespace) -> Location {
    namespace.root.root_location()
}

/// Mounts at a destination, making the mount point where it is not there.
fn attach(namespace: &MountNamespace, destination: &str, mount: &Arc<Mount>) -> Result<()> {
    let directory = mount.root.file_type() == FileType::Directory;
    let place = match find(namespace, destination) {
        Err(Errno::ENOENT) => make(namespace, destination, directory)?,
        found => found?,
    };
    if (place.node.file_type() == FileType::Directory) != directory {
        return Err(if directory { Errno::ENOTDIR } else { Errno::EISDIR });
    }
    place.mount.attach(&place.path, mount);
    Ok(())
}

/// Makes a mount point and the directories above it.
fn make(namespace: &MountNamespace, destination: &str, directory: bool) -> Result<Location> {
    let who = Credentials::kernel();
    let names: Vec<&str> = destination.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    let mut path = String::new();
    for (index, name) in names.iter().enumerate() {
        let above = if path.is_empty() { top(namespace) } else { find(namespace, &path)? };
        path.push('/');
        path.push_str(name);
        if find(namespace, &path).is_ok() {
            continue;
        }
        if index + 1 == names.len() && !directory {
            above.node.make_node(name.as_bytes(), libc::S_IFREG | 0o644, 0, &who)?;
        } else {
            above.node.make_directory(name.as_bytes(), 0o755, &who)?;
        }
    }
    find(namespace, destination)
}

/// `readonlyPaths`: the same file, shown again without the right to change it. What is not there needs nothing.
fn read_only(namespace: &MountNamespace, path: &str) -> Result<()> {
    let place = match find(namespace, path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        place => place?,
    };
    let flags = *place.mount.flags.read() | MountFlags::READ_ONLY;
    let again = Mount::new(place.node.clone(), flags, &place.mount.kind, &place.mount.source, &place.mount.options);
    place.mount.attach(&place.path, &again);
    Ok(())
}

/// `maskedPaths`: an empty directory, or /dev/null, in its place.
fn mask(namespace: &MountNamespace, path: &str) -> Result<()> {
    let place = match find(namespace, path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        place => place?,
    };
    let mount = if place.node.file_type() == FileType::Directory {
        let tree = FileSystem::create(0o1777, 0, 0, Limits { bytes: Some(0), files: None });
        Mount::new(tree, MountFlags::READ_ONLY | MountFlags::RELATIVE_ACCESS_TIME, "tmpfs", "tmpfs", "")
    } else {
        nothing(namespace)?
    };
    place.mount.attach(&place.path, &mount);
    Ok(())
}

/// The container's /dev/null, shown again; one of our own where it has none.
fn nothing(namespace: &MountNamespace) -> Result<Arc<Mount>> {
    if let Ok(null) = find(namespace, "/dev/null")
        && null.node.attributes().is_ok_and(|attributes| attributes.rdev == libc::makedev(1, 3))
    {
        let flags = *null.mount.flags.read();
        return Ok(Mount::new(null.node.clone(), flags, &null.mount.kind, &null.mount.source, &null.mount.options));
    }
    let node = FileSystem::create(0o755, 0, 0, Limits { bytes: Some(0), files: None }).put(
        "null",
        FileType::CharacterDevice,
        0o666,
        libc::makedev(1, 3),
    )?;
    Ok(Mount::new(node, MountFlags::READ_ONLY, "tmpfs", "tmpfs", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|option| (*option).to_owned()).collect()
    }

    #[test]
    fn access_times_are_relative_unless_said_otherwise() {
        assert_eq!(split(&options(&["nosuid"])).0, MountFlags::NO_SUID | MountFlags::RELATIVE_ACCESS_TIME);
        assert_eq!(split(&options(&["strictatime"])).0, MountFlags::empty());
        assert_eq!(split(&options(&["noatime", "ro"])).0, MountFlags::NO_ACCESS_TIME | MountFlags::READ_ONLY);
        assert_eq!(split(&options(&["rbind", "rprivate", "mode=755"])).1, ["mode=755"]);
    }

    #[test]
    fn options_are_shown_as_linux_shows_them() {
        assert_eq!(shown_options("tmpfs", &["mode=755", "size=65536k"]), "size=65536k,mode=755");
        assert_eq!(shown_options("tmpfs", &["mode=1777", "size=1m"]), "size=1024k");
        assert_eq!(shown_options("devpts", &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]), "gid=5,mode=620,ptmxmode=666");
        assert_eq!(shown_options("proc", &["hidepid=2"]), "");
    }
}
