//! Names of mapped memory files, for /proc/PID/maps.
//!
//! The host knows the backing of a memory file by a number only. When one is mapped, the path it was opened by is kept here under that number. A mapping
//! outlives its file's last name, so the names of files that are gone are kept for a while: bounded, and all dropped at once when there are too many.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::mount::{Location, Mount};
use super::node::{Node, NodeKey};
use crate::sync::Mutex;

/// How many names of files that are gone are kept.
const GONE: usize = 1024;

/// A mapped memory file.
#[derive(Clone)]
pub struct Mapped {
    mount: Weak<Mount>,
    node: Weak<dyn Node>,
    within: Arc<[u8]>,
    /// The path it was opened by, from the root of all mounts.
    pub path: Vec<u8>,
    /// Which file that was.
    pub key: NodeKey,
    /// Whether its backing is gone, and so the file.
    pub gone: bool,
}

impl Mapped {
    /// Where it is now, as long as anybody holds it.
    pub fn location(&self) -> Option<Location> {
        Some(Location { mount: self.mount.upgrade()?, node: self.node.upgrade()?, path: self.within.clone() })
    }
}

#[derive(Default)]
struct Names {
    /// By device and inode of the backing.
    known: HashMap<(u64, u64), Mapped>,
    gone: usize,
}

static NAMES: Mutex<Option<Names>> = Mutex::new(None);

/// A backing is mapped, as the file that was opened at this place.
pub fn remember(backing: (u64, u64), at: &Location) {
    let mapped = Mapped {
        mount: Arc::downgrade(&at.mount),
        node: Arc::downgrade(&at.node),
        within: at.path.clone(),
        path: at.full_path(),
        key: at.node.key(),
        gone: false,
    };
    let mut names = NAMES.lock();
    let names = names.get_or_insert_default();
    if names.known.insert(backing, mapped).is_some_and(|old| old.gone) {
        names.gone -= 1;
    }
}

/// What it was last mapped as.
pub fn find(backing: (u64, u64)) -> Option<Mapped> {
    NAMES.lock().as_ref()?.known.get(&backing).cloned()
}

/// The backing is gone.
pub fn forget(backing: (u64, u64)) {
    let mut names = NAMES.lock();
    let Some(names) = names.as_mut() else { return };
    if let Some(mapped) = names.known.get_mut(&backing)
        && !std::mem::replace(&mut mapped.gone, true)
    {
        names.gone += 1;
    }
    if names.gone > GONE {
        names.known.retain(|_, mapped| !mapped.gone);
        names.gone = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outlive_files_and_are_bounded() {
        // Numbers that no file of another test has.
        let backing = |number: u64| (u64::MAX, number);
        let root = crate::fs::tmpfs::FileSystem::create(0o755, 0, 0, Default::default());
        let place = Mount::new(root, super::super::mount::MountFlags::empty(), "tmpfs", "tmpfs", "").root_location();
        remember(backing(0), &place);
        assert!(find(backing(0)).is_some_and(|mapped| mapped.path == b"/" && !mapped.gone && mapped.location().is_some()));
        forget(backing(0));
        forget(backing(0));
        assert!(find(backing(0)).is_some_and(|mapped| mapped.gone));
        for number in 1..=GONE as u64 {
            remember(backing(number), &place);
            forget(backing(number));
        }
        assert!(find(backing(0)).is_none());
    }
}
