//! devpts: the file system of a container's pseudo-terminals.
//!
//! A tmpfs with the multiplexer in it, into which each terminal puts a device node while it lives.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use super::tmpfs::{FileSystem, Limits, TmpNode};
use super::tty::Terminal;
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::sync::Mutex;
use crate::vfs::node::{FileType, Node, NodeRef, SetAttributes};

/// The group that terminals belong to in Debian's and most others' /etc/group.
const TTY_GROUP: u32 = 5;
/// Terminals at most (`kernel.pty.max`).
const MOST: u32 = 4096;

/// One instance of devpts.
pub struct Instance {
    root: Arc<TmpNode>,
    terminals: Mutex<BTreeMap<u32, Entry>>,
    own: Weak<Instance>,
}

struct Entry {
    terminal: Weak<Terminal>,
    /// Keeps a console alive while the container lives.
    wire: Option<Arc<super::tty::Wire>>,
}

impl Instance {
    /// An instance without terminals.
    pub fn new() -> Result<Arc<Instance>> {
        let root = FileSystem::create(0o755, 0, 0, Limits::default());
        root.put("ptmx", FileType::CharacterDevice, 0o666, libc::makedev(5, 2))?;
        Ok(Arc::new_cyclic(|own| Instance { root, terminals: Mutex::default(), own: own.clone() }))
    }

    /// Its root directory.
    pub fn root(&self) -> NodeRef {
        self.root.clone()
    }

    /// A new terminal for this user. `ENOSPC` where there are too many.
    pub fn create(&self, uid: u32, locked: bool) -> Result<Arc<Terminal>> {
        let mut terminals = self.terminals.lock();
        let number = (0..MOST).find(|number| !terminals.contains_key(number)).ok_or(Errno::ENOSPC)?;
        let device = libc::makedev(136 + number / 256, number % 256);
        let node = self.root.put(&number.to_string(), FileType::CharacterDevice, 0o620, device)?;
        let owner = SetAttributes { uid: Some(uid), gid: Some(TTY_GROUP), ..Default::default() };
        node.set_attributes(&owner, &Credentials::kernel())?;
        let terminal = Terminal::new(number, self.own.clone(), locked);
        terminals.insert(number, Entry { terminal: Arc::downgrade(&terminal), wire: None });
        Ok(terminal)
    }

    /// Gives a terminal its wire.
    pub fn connect(&self, number: u32, wire: Arc<super::tty::Wire>) {
        if let Some(entry) = self.terminals.lock().get_mut(&number) {
            entry.wire = Some(wire);
        }
    }

    /// A terminal's wire.
    pub fn wire(&self, number: u32) -> Option<Arc<super::tty::Wire>> {
        self.terminals.lock().get(&number).and_then(|entry| entry.wire.clone())
    }

    /// The terminal with this number.
    pub fn find(&self, number: u32) -> Option<Arc<Terminal>> {
        self.terminals.lock().get(&number).and_then(|entry| entry.terminal.upgrade())
    }

    /// Every terminal.
    pub fn all(&self) -> Vec<Arc<Terminal>> {
        self.terminals.lock().values().filter_map(|entry| entry.terminal.upgrade()).collect()
    }

    /// Takes a terminal's node away.
    pub fn remove(&self, number: u32) {
        let removed = self.terminals.lock().remove(&number);
        drop(removed);
        let _ = Node::unlink(self.root.clone(), number.to_string().as_bytes(), false, &Credentials::kernel());
    }
}
