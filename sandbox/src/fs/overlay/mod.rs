//! Overlay: a writable layer over a directory that is left as it is (the kernel's overlayfs(5), for this kernel's own nodes).
//!
//! Both layers are nodes: the lower one usually a host directory, the upper one a tmpfs (`--overlay memory`) or another host directory
//! (`--overlay dir=PATH`). An [`OverlayNode`] is a name in the merged tree: it has an upper node, a lower node, or, for directories, both.
//!
//! - **Copy-up.** The first change of a lower file copies it, and the directories above it, into the upper layer ([`copy`]).
//! - **Whiteouts and opaque directories.** A removed lower name is hidden, and a directory made in its place hides what the lower one held
//!   ([`whiteout`]).
//! - **One node for a name.** As long as anybody holds the node of a name, everybody gets that node: so a copy-up, a rename or a removal is seen by
//!   those who hold the file open or stand in the directory. A node knows its directory and is known by it, weakly; when the last holder lets go, it is forgotten.
//! - **Numbers.** A file keeps the number of its lower side when it is copied up (stat(2), locks); what only the upper layer has gets a number with a high bit
//!   of its own.
//!
//! While the upper layer holds nothing below a directory, look-ups go straight to the lower layer, as many names at once as it takes.
//!
//! Locks, outermost first: a node's `copying`; the layers' `changes`, which serialises all changes of names; `names`, which is written only for the moment
//! in which a name changes its meaning, and read by whoever looks one up; a node's `children`; its `sides`, its `place`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fs::tmpfs::TmpNode;
use crate::sync::{Mutex, RwLock};
use crate::vfs::node::{FileType, NodeKey, NodeRef};

mod change;
mod copy;
mod listing;
mod node;
mod whiteout;

use node::{OverlayNode, Sides};

/// Set in the numbers of files that only the upper layer has.
const UPPER: u64 = 1 << 62;

/// What the nodes of one overlay share.
struct Layers {
    changes: Mutex<()>,
    names: RwLock<()>,
    device: u64,
    /// The device of the lower root. Files of others, mounted below it, keep their own device numbers.
    lower_device: u64,
    /// The upper root, for statfs(2).
    upper: NodeRef,
    /// Whether the upper layer is this kernel's memory: then marks need no names.
    in_memory: bool,
    /// What files that have been copied up were before, by the numbers of their copies.
    origins: Mutex<HashMap<NodeKey, NodeKey>>,
    /// Opaque directories of an upper layer in memory.
    opaque: Mutex<HashSet<NodeKey>>,
}

impl Layers {
    /// Which file a node of the merged tree is.
    fn key_of(&self, upper: Option<&NodeRef>, lower: Option<&NodeRef>) -> NodeKey {
        if let Some(lower) = lower.filter(|lower| upper.is_none_or(|upper| upper.file_type() == lower.file_type())) {
            let key = lower.key();
            return if key.device == self.lower_device { NodeKey { device: self.device, ..key } } else { key };
        }
        match upper {
            Some(upper) => self.key_of_upper(upper.key()),
            None => NodeKey { device: self.device, inode: 0 },
        }
    }

    /// Which file of the merged tree a file of the upper layer is.
    fn key_of_upper(&self, key: NodeKey) -> NodeKey {
        let origin = self.origins.lock().get(&key).copied();
        origin.unwrap_or(NodeKey { device: self.device, inode: key.inode | UPPER })
    }

    /// An upper file is gone: its number may be given to another.
    fn forget(&self, upper: &NodeRef) {
        if upper.attributes().is_ok_and(|shown| shown.links == 0) {
            let key = upper.key();
            self.origins.lock().remove(&key);
            self.opaque.lock().remove(&key);
        }
    }
}

/// Lays `upper` over `lower`; gives the merged root.
pub fn mount(lower: NodeRef, upper: NodeRef) -> NodeRef {
    static DEVICE: AtomicU64 = AtomicU64::new(0x200);
    // The root directory looks as the lower one did.
    if let Ok(attributes) = lower.attributes() {
        let _ = copy::copy_attributes(&attributes, &upper);
    }
    let layers = Arc::new(Layers {
        changes: Mutex::new(()),
        names: RwLock::new(()),
        device: DEVICE.fetch_add(1, Ordering::Relaxed),
        lower_device: lower.key().device,
        in_memory: upper.as_any().is::<TmpNode>(),
        upper: upper.clone(),
        origins: Mutex::default(),
        opaque: Mutex::default(),
    });
    OverlayNode::root(layers, Sides { upper: Some(upper), lower: Some(lower) }, FileType::Directory)
}
