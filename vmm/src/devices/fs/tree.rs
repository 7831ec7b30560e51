//! Trees: what the host shares, by name.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::request::Name;

/// Which tree; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TreeId(u64);

/// A directory or any other file that the guest may see.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) id: TreeId,
    /// Where it begins. Open with `O_PATH`, or as the caller of `add` had it.
    pub(super) top: OwnedFd,
    /// Nothing in it may be changed.
    pub(super) read_only: bool,
}

/// The entries of the file system's root.
#[derive(Debug, Default)]
pub(super) struct Trees {
    by_name: Mutex<BTreeMap<Name, Arc<Tree>>>,
    next: AtomicU64,
}

impl Trees {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Tree>>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// `AlreadyExists`.
    pub(super) fn add(&self, name: Name, top: OwnedFd, read_only: bool) -> io::Result<()> {
        let mut by_name = self.lock();
        if by_name.contains_key(&name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("tree {:?} is shared already", name.as_c_str())));
        }
        let id = TreeId(self.next.fetch_add(1, Ordering::Relaxed));
        by_name.insert(name, Arc::new(Tree { id, top, read_only }));
        Ok(())
    }

    /// Takes it from the root. What the guest has of it is the nodes' business.
    pub(super) fn remove(&self, name: &Name) -> Option<Arc<Tree>> {
        self.lock().remove(name)
    }

    pub(super) fn get(&self, name: &Name) -> Option<Arc<Tree>> {
        self.lock().get(name).cloned()
    }

    /// All, in their order.
    pub(super) fn list(&self) -> Vec<(Name, Arc<Tree>)> {
        self.lock().iter().map(|(name, tree)| (name.clone(), tree.clone())).collect()
    }
}
