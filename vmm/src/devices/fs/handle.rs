//! Handles: the files that the guest has open, by number. Numbers count up and are never used again.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::request::Name;
use super::tree::{Tree, TreeId};

/// What is open.
#[derive(Debug)]
pub(super) enum Open {
    /// A regular file: how, and through which tree.
    File { file: File, flags: OFlag, tree: TreeId },
    /// A directory.
    Directory { file: File, tree: TreeId },
    /// The root, as it was when it was opened.
    Root(Vec<(Name, Arc<Tree>)>),
}

impl Open {
    pub(super) fn tree(&self) -> Option<TreeId> {
        match self {
            Self::File { tree, .. } | Self::Directory { tree, .. } => Some(*tree),
            Self::Root(_) => None,
        }
    }
}

/// All handles.
#[derive(Debug, Default)]
pub(super) struct Handles {
    /// With the node of each.
    table: HashMap<u64, (u64, Open)>,
    last: u64,
}

impl Handles {
    /// How many.
    pub(super) fn count(&self) -> usize {
        self.table.len()
    }

    pub(super) fn insert(&mut self, node: u64, open: Open) -> u64 {
        self.last += 1;
        self.table.insert(self.last, (node, open));
        self.last
    }

    /// # Errors
    /// `EBADF`: it is none, or another node's.
    pub(super) fn get(&mut self, number: u64, node: u64) -> Result<&mut Open, Errno> {
        self.table.get_mut(&number).filter(|(of, _)| *of == node).map(|(_, open)| open).ok_or(Errno::EBADF)
    }

    /// A regular file, and how it is open.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`.
    pub(super) fn file(&mut self, number: u64, node: u64) -> Result<(&mut File, &mut OFlag), Errno> {
        match self.get(number, node)? {
            Open::File { file, flags, .. } => Ok((file, flags)),
            Open::Directory { .. } | Open::Root(_) => Err(Errno::EISDIR),
        }
    }

    /// # Errors
    /// `EBADF`.
    pub(super) fn remove(&mut self, number: u64, node: u64) -> Result<Open, Errno> {
        self.get(number, node)?;
        self.table.remove(&number).map(|(_, open)| open).ok_or(Errno::EBADF)
    }

    /// Handles that were opened through a tree get what `instead` says; those for which it says nothing are closed.
    pub(super) fn replace(&mut self, tree: TreeId, mut instead: impl FnMut(u64, &Open) -> Option<Open>) {
        self.table.retain(|_, (node, open)| {
            if open.tree() == Some(tree) {
                match instead(*node, open) {
                    Some(other) => *open = other,
                    None => return false,
                }
            }
            true
        });
    }

    /// Closes everything.
    pub(super) fn clear(&mut self) {
        self.table.clear();
    }
}
