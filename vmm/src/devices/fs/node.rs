//! Nodes: the files that the guest knows, by number.
//!
//! A node is made when the guest looks a name up, and lives until the guest has forgotten every one of its lookups. It holds the file by a
//! descriptor that is open with `O_PATH`: through that it can be named, but not read, and opening it has no effect on a device or a fifo.
//! Numbers count up and are never used again, so that a number that was forgotten never means another file.
//!
//! **One file, one node.** Containers of a pod share volumes, and each has its own tree for the same volume. A file that is reached through
//! two of them must be one inode to the guest's kernel: a Unix socket can only be connected to through the inode that it was bound to,
//! locks and shared mappings are the inode's. So a file is found by device and inode whatever the tree, and a node has one [`Backing`] for
//! each tree (and mount in it) that it was reached through. Directories are the exception: a directory has one place in the guest's tree of
//! names (Linux would move it from one name to the other), so each tree's directories are its own.
//!
//! **Rights are those of a backing**, never of the node: what a read-only tree contributes can not be written through, and when a tree is
//! removed its backings go, so that nothing of it is open any more.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fuse_backend_rs::abi::fuse_abi::ROOT_ID;
use nix::errno::Errno;

use super::host::Attributes;
use super::tree::TreeId;

/// What holds a node's file in one tree.
#[derive(Debug)]
pub(super) struct Backing {
    pub(super) tree: TreeId,
    /// The tree is.
    pub(super) read_only: bool,
    mount: u64,
    file: OwnedFd,
}

impl AsFd for Backing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Device, inode, and for a directory the tree and mount as well.
type Key = (u64, u64, Option<(TreeId, u64)>);

/// A file that the guest knows.
#[derive(Debug)]
pub(super) struct Node {
    /// `S_IFREG` and so on; a file keeps it for life.
    pub(super) kind: u32,
    /// What its content was when the guest last opened it: see [`Attributes::version`].
    pub(super) version: Option<(u64, i64, u32, i64, u32)>,
    lookups: u64,
    /// Never empty: it goes with the last.
    pub(super) backings: Vec<Backing>,
    key: Key,
}

impl Node {
    /// Any backing.
    ///
    /// # Errors
    /// `ESTALE`: there is none.
    pub(super) fn backing(&self) -> Result<&Backing, Errno> {
        self.backings.first().ok_or(Errno::ESTALE)
    }

    /// A backing that may be changed through.
    ///
    /// # Errors
    /// `ESTALE`; `EROFS`: there is none.
    pub(super) fn writable(&self) -> Result<&Backing, Errno> {
        self.backing()?;
        self.backings.iter().find(|backing| !backing.read_only).ok_or(Errno::EROFS)
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    table: HashMap<u64, Node>,
    by_key: HashMap<Key, u64>,
    /// The last number given.
    last: u64,
    /// Device numbers of the host's, in the order in which they were met.
    devices: Vec<u64>,
    /// Descriptors held.
    held: usize,
}

impl Nodes {
    /// # Errors
    /// `ESTALE`: it is none, or none any more. The guest's kernel then looks the name up again.
    pub(super) fn get(&self, number: u64) -> Result<&Node, Errno> {
        self.table.get(&number).ok_or(Errno::ESTALE)
    }

    /// Likewise.
    pub(super) fn get_mut(&mut self, number: u64) -> Result<&mut Node, Errno> {
        self.table.get_mut(&number).ok_or(Errno::ESTALE)
    }

    /// How many descriptors they hold.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Counts a lookup of `file`, which was reached through `tree`; its number.
    pub(super) fn found(&mut self, tree: TreeId, read_only: bool, file: OwnedFd, attributes: &Attributes) -> u64 {
        let (device, inode) = attributes.identity();
        let (kind, mount) = (attributes.kind(), attributes.mount());
        let key = (device, inode, (kind == libc::S_IFDIR).then_some((tree, mount)));
        let backing = Backing { tree, read_only, mount, file };
        if let Some((&number, node)) = self.by_key.get(&key).and_then(|number| Some((number, self.table.get_mut(number)?))) {
            node.lookups = node.lookups.saturating_add(1);
            if !node.backings.iter().any(|known| (known.tree, known.mount) == (tree, mount)) {
                node.backings.push(backing);
                self.held += 1;
            }
            return number;
        }
        self.last = self.last.max(ROOT_ID) + 1;
        self.held += 1;
        self.by_key.insert(key, self.last);
        self.table.insert(self.last, Node { kind, version: None, lookups: 1, backings: vec![backing], key });
        self.last
    }

    /// Takes `count` lookups back.
    pub(super) fn forget(&mut self, number: u64, count: u64) {
        let Some(node) = self.table.get_mut(&number) else { return };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 {
            self.held -= node.backings.len();
            self.by_key.remove(&node.key);
            self.table.remove(&number);
        }
    }

    /// Closes what a tree contributed. A node that nothing else holds is none any more, whether the guest has forgotten it or not: a guest
    /// that never forgets must not cost more with every container that comes and goes.
    pub(super) fn remove(&mut self, tree: TreeId) {
        let Self { table, by_key, held, .. } = self;
        table.retain(|_, node| {
            let before = node.backings.len();
            node.backings.retain(|backing| backing.tree != tree);
            *held -= before - node.backings.len();
            if node.backings.is_empty() {
                by_key.remove(&node.key);
            }
            !node.backings.is_empty()
        });
    }

    /// The inode number that the guest sees. To it all trees are one file system, in which (device, inode) has to tell files apart; so the
    /// upper bits of the host's number are mixed with a small number that stands for its device. Files of the device that was met first
    /// keep their numbers.
    pub(super) fn inode_number(&mut self, device: u64, inode: u64) -> u64 {
        let index = self.devices.iter().position(|known| *known == device).unwrap_or_else(|| {
            self.devices.push(device);
            self.devices.len() - 1
        });
        inode ^ ((index as u64) << 48)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        // Numbers go on: one from before must not mean another file.
        *self = Self { last: self.last, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::fs::request::Name;
    use crate::devices::fs::tree::Trees;
    use std::fs::File;

    fn tree_ids() -> [TreeId; 2] {
        let trees = Trees::default();
        ["a", "b"].map(|name| {
            let name = Name::new(name.as_bytes()).unwrap();
            trees.add(name.clone(), File::open("/").unwrap().into(), false).unwrap();
            trees.get(&name).unwrap().id
        })
    }

    fn open(path: &std::path::Path) -> (OwnedFd, Attributes) {
        let file = File::open(path).unwrap();
        let attributes = Attributes::of(&file).unwrap();
        (file.into(), attributes)
    }

    #[test]
    fn a_file_is_one_node_and_a_directory_one_in_each_tree() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        let [first, second] = tree_ids();
        let mut nodes = Nodes::default();
        let mut found = |tree, path: &std::path::Path| {
            let (file, attributes) = open(path);
            nodes.found(tree, tree == second, file, &attributes)
        };
        let file = directory.path().join("file");
        let number = found(first, &file);
        assert!(number > ROOT_ID);
        assert_eq!(found(second, &file), number);
        assert_eq!(found(second, &file), number);
        assert_ne!(found(first, directory.path()), found(second, directory.path()));
        assert_eq!(nodes.held(), 4);
        assert!(nodes.get(number).unwrap().writable().is_ok());

        nodes.remove(first);
        assert_eq!(nodes.held(), 2);
        assert_eq!(nodes.get(number).unwrap().writable().err(), Some(Errno::EROFS));
        nodes.remove(second);
        assert_eq!((nodes.held(), nodes.get(number).err()), (0, Some(Errno::ESTALE)));
        // The number is dead; a new lookup gives another.
        let (opened, attributes) = open(&file);
        let again = nodes.found(first, false, opened, &attributes);
        assert_ne!(again, number);
        nodes.forget(number, u64::MAX);
        assert!(nodes.get(number).is_err());
        nodes.forget(again, 0);
        assert!(nodes.get(again).is_ok());
        nodes.forget(again, 1);
        assert!(nodes.get(again).is_err());
        assert_eq!(nodes.held(), 0);
    }

    #[test]
    fn inode_numbers_of_two_devices_differ() {
        let mut nodes = Nodes::default();
        assert_eq!(nodes.inode_number(8, 5), 5);
        assert_ne!(nodes.inode_number(9, 5), 5);
        assert_eq!(nodes.inode_number(8, 5), 5);
    }
}
