//! Mounts and mount namespaces.
//!
//! A [`Mount`] shows a node (usually a file system's root) at a place of its parent mount. Where that place is, is kept as a
//! *path inside the parent mount*, not as a node: host directories are resolved by the host in one step for as many names as
//! possible, so nobody here sees the directories in between. Every [`Location`] knows its canonical path in its mount, and the
//! walk compares names with the mount points below it; a mount without mount points below costs nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::node::NodeRef;
use crate::sync::RwLock;

bitflags::bitflags! {
    /// Per-mount flags, in the bits of statvfs(3) and mount(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct MountFlags: u64 {
        /// `MS_RDONLY`.
        const READ_ONLY = libc::MS_RDONLY;
        /// `MS_NOSUID`.
        const NO_SUID = libc::MS_NOSUID;
        /// `MS_NODEV`.
        const NO_DEVICES = libc::MS_NODEV;
        /// `MS_NOEXEC`.
        const NO_EXECUTE = libc::MS_NOEXEC;
        /// `MS_NOATIME`.
        const NO_ACCESS_TIME = libc::MS_NOATIME;
        /// `MS_NODIRATIME`.
        const NO_DIRECTORY_ACCESS_TIME = libc::MS_NODIRATIME;
        /// `MS_RELATIME`.
        const RELATIVE_ACCESS_TIME = libc::MS_RELATIME;
    }
}

/// A place in a mount: the mount, and a path inside it without a leading slash.
pub type Place = (Arc<Mount>, Arc<[u8]>);

/// A file system shown at a place.
pub struct Mount {
    /// Its number in /proc/PID/mountinfo.
    pub id: u64,
    /// What is shown.
    pub root: NodeRef,
    /// Where: the parent mount, and the path inside it (no leading slash). `None` for the root mount.
    pub place: RwLock<Option<Place>>,
    /// Mounts whose place is in this one; later ones at the same path hide earlier ones.
    pub children: RwLock<Vec<Arc<Mount>>>,
    /// Changeable by a remount.
    pub flags: RwLock<MountFlags>,
    /// The file system's type, source and options as /proc/PID/mounts shows them.
    pub kind: String,
    /// The second field of a mount line.
    pub source: String,
    /// Options of the file system itself (`size=65536k`).
    pub options: String,
}

impl Mount {
    /// A mount that is nowhere yet.
    pub fn new(root: NodeRef, flags: MountFlags, kind: &str, source: &str, options: &str) -> Arc<Mount> {
        static NEXT: AtomicU64 = AtomicU64::new(20);
        Arc::new(Mount {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            root,
            place: RwLock::new(None),
            children: RwLock::new(Vec::new()),
            flags: RwLock::new(flags),
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.to_owned(),
        })
    }

    /// Its root as a location.
    pub fn root_location(self: &Arc<Self>) -> Location {
        Location { mount: self.clone(), node: self.root.clone(), path: Arc::from(&b""[..]) }
    }

    /// Whether it has this flag now.
    pub fn has(&self, flag: MountFlags) -> bool {
        self.flags.read().contains(flag)
    }
}

/// A node seen through a mount.
#[derive(Clone)]
pub struct Location {
    /// Through which mount.
    pub mount: Arc<Mount>,
    /// The node.
    pub node: NodeRef,
    /// Its canonical path inside the mount when it was resolved; no leading slash, empty for the mount's root.
    pub path: Arc<[u8]>,
}

impl Location {
    /// Whether both are the same file through the same mount.
    pub fn is(&self, other: &Location) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && self.node.key() == other.node.key()
    }

    /// Its path in its mount namespace when it was resolved, from the root of all.
    pub fn full_path(&self) -> Vec<u8> {
        let mut names = vec![self.path.clone()];
        let mut mount = self.mount.clone();
        loop {
            let place = mount.place.read().clone();
            let Some((parent, path)) = place else { break };
            names.push(path);
            mount = parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev().filter(|name| !name.is_empty()) {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    /// Whether it is its mount's root.
    pub fn is_mount_root(&self) -> bool {
        self.node.key() == self.mount.root.key()
    }
}

/// The mounts that a container's processes see.
pub struct MountNamespace {
    /// The root mount.
    pub root: Arc<Mount>,
    /// Changed by every mount and umount, and by renames of directories: cached paths of older values are looked at again.
    pub generation: AtomicU64,
}
