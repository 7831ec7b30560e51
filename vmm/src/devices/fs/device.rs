//! The front, and the host's handle.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::stat::{Mode, umask};

use crate::devices::device::{Activation, Device, EVENT_IDX, Kind, read_bytes};
use crate::devices::events::{EventLoop, Running};

use super::request::Name;
use super::serve::Server;
use super::tree::Trees;
use super::worker::Worker;

/// The longest tag (5.11.4).
const TAG: usize = 36;
/// `VIRTIO_RING_F_INDIRECT_DESC`: a request of 1 MiB has some 260 parts, which would otherwise fill a quarter of the queue.
const INDIRECT: u64 = 1 << 28;
/// The high-priority queue and one request queue (5.11.2). The driver takes the request queue's size for a bound on the pages of one
/// request.
const QUEUE_SIZES: [u16; 2] = [128, 1024];

/// What front, worker and handles share.
pub(super) struct Shared {
    pub(super) trees: Arc<Trees>,
    server: Mutex<Server>,
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        let trees = Arc::<Trees>::default();
        Ok(Self { server: Mutex::new(Server::new(trees.clone())?), trees })
    }

    pub(super) fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, name: &str, top: OwnedFd, read_only: bool) -> io::Result<()> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, format!("tree {name:?}: not the name of a file: {error}"));
        self.trees.add(Name::new(name.as_bytes()).map_err(invalid)?, top, read_only)
    }

    pub(super) fn remove(&self, name: &str) {
        let Ok(name) = Name::new(name.as_bytes()) else { return };
        if let Some(tree) = self.trees.remove(&name) {
            self.server().remove_tree(tree.id);
        }
    }
}

/// A file system of trees.
pub struct FileSystem {
    tag: [u8; TAG],
    events: EventLoop,
    shared: Arc<Shared>,
    running: Option<Running>,
}

/// Changes the trees of a [`FileSystem`] while the guest runs.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl FileSystem {
    /// An empty file system, which the guest mounts by its tag. Its worker runs on `events`, and blocks for as long as the host's disks do:
    /// the loop should be its own.
    ///
    /// This process's file mode creation mask is set to zero, because the modes of files come from the guest: see [`super`].
    ///
    /// # Errors
    /// The tag is empty or longer than 36 bytes; `/proc` is not mounted.
    pub fn new(tag: &str, events: EventLoop) -> io::Result<(Self, Handle)> {
        if tag.is_empty() || tag.len() > TAG || tag.contains('\0') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("tag {tag:?} of a file system: not 1 to {TAG} bytes")));
        }
        let mut padded = [0; TAG];
        padded[..tag.len()].copy_from_slice(tag.as_bytes());
        umask(Mode::empty());
        let shared = Arc::new(Shared::new()?);
        Ok((Self { tag: padded, events, shared: shared.clone(), running: None }, Handle(shared)))
    }
}

impl Handle {
    /// Makes a tree visible as the entry `name` of the root. `top` is its root: a descriptor of a directory, or of a single file of any
    /// kind, open with `O_PATH` or from open_tree(2).
    ///
    /// # Errors
    /// `InvalidInput`: not a file's name. `AlreadyExists`.
    pub fn add(&self, name: &str, top: OwnedFd, read_only: bool) -> io::Result<()> {
        self.0.add(name, top, read_only)
    }

    /// Takes a tree away, whatever the guest does with it. When this returns nothing of it is open: it can be unmounted. To the guest its
    /// files are stale (`ESTALE`), and open ones closed (`EBADF`), unless another tree has them too.
    ///
    /// It waits for the request that is being served. A name that is none is no error.
    pub fn remove(&self, name: &str) {
        self.0.remove(name);
    }
}

impl Device for FileSystem {
    fn kind(&self) -> Kind {
        Kind::FileSystem
    }

    fn features(&self) -> u64 {
        EVENT_IDX | INDIRECT
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        // The tag, and the number of request queues.
        let mut space = [0; TAG + 4];
        space[..TAG].copy_from_slice(&self.tag);
        space[TAG..].copy_from_slice(&1u32.to_le_bytes());
        read_bytes(&space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let worker = Worker::new(activation, self.shared.clone())?;
        self.running = Some(self.events.add(Box::new(worker))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(running) = self.running.take() {
            // It fails only where the loop has ended, and the worker with it.
            let _ = self.events.remove(running);
            self.shared.server().clear();
        }
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        self.reset();
    }
}
