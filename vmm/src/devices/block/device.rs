//! The front of a disk.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;

use super::configuration::{self, QUEUE_SIZE};
use super::disk::{Disk, DiskError, Image};
use super::worker::{Backend, NAME, Worker, lock};
use crate::devices::device::{Activation, Device, EVENT_IDX, Interrupt, Kind, read_bytes};
use crate::devices::events::{EventLoop, Running};
use crate::devices::limiter::{Limiter, Limits};

/// What the guest reads, and whom to tell when it changes.
#[derive(Debug)]
struct Face {
    space: [u8; 60],
    /// The line, while a driver drives the device.
    interrupt: Option<Interrupt>,
    /// Whether the disk was replaced while none did: a driver may have read the old capacity on its way to being ready.
    changed: bool,
}

/// A disk's front.
pub struct Block {
    features: u64,
    name: [u8; NAME],
    backend: Arc<Mutex<Backend>>,
    face: Arc<Mutex<Face>>,
    events: EventLoop,
    running: Option<Running>,
}

/// Replaces a disk while the guest runs.
#[derive(Debug, Clone)]
pub struct Handle {
    backend: Arc<Mutex<Backend>>,
    face: Arc<Mutex<Face>>,
}

impl Block {
    /// A disk, or a place for one, whose requests are served on `events`: a loop of its own, since it waits for the host's storage there.
    ///
    /// # Errors
    /// The disk can't be one; the host's.
    pub fn new(disk: Option<Disk>, limits: Limits, events: EventLoop) -> io::Result<(Self, Handle)> {
        /// Tells the disks of a guest apart. What the host calls them is none of its business.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut name = [0; NAME];
        let text = format!("bulkhead-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        name[..text.len()].copy_from_slice(text.as_bytes());

        let image = disk.map(Image::open).transpose().map_err(io::Error::other)?;
        let features = configuration::features(image.as_ref().is_some_and(Image::read_only));
        let face = Arc::new(Mutex::new(Face { space: configuration::space(image.as_ref()), interrupt: None, changed: false }));
        let backend = Arc::new(Mutex::new(Backend { image, limiter: Limiter::new(limits)? }));
        let handle = Handle { backend: backend.clone(), face: face.clone() };
        Ok((Self { features, name, backend, face, events, running: None }, handle))
    }
}

impl Handle {
    /// Puts another disk, or none, in the place of the present one. When it returns no request touches the old disk any more, and the guest has been told;
    /// requests that it made with the old one in mind are served by the new one, or refused where they are beyond its end. A disk that was read-only when
    /// the guest's driver started stays so.
    ///
    /// # Errors
    /// The disk can't be one. The old one stays.
    pub fn replace(&self, disk: Option<Disk>) -> Result<(), DiskError> {
        let image = disk.map(Image::open).transpose()?;
        let mut backend = lock(&self.backend);
        let mut face = lock(&self.face);
        face.space = configuration::space(image.as_ref());
        backend.image = image;
        match &face.interrupt {
            Some(interrupt) => interrupt.configuration(),
            None => face.changed = true,
        }
        Ok(())
    }
}

impl Device for Block {
    fn kind(&self) -> Kind {
        Kind::Block
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&lock(&self.face).space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, interrupt, features } = activation;
        let Some((_, mut active)) = queues.into_iter().find(|(index, _)| *index == 0) else {
            return Err(io::Error::other("the driver of a disk has made no queue ready"));
        };
        active.queue.set_event_idx(features & EVENT_IDX != 0);
        let worker = Worker::new(active, memory, interrupt.clone(), features, self.name, self.backend.clone());
        self.running = Some(self.events.add(Box::new(worker))?);
        let mut face = lock(&self.face);
        if std::mem::take(&mut face.changed) {
            interrupt.configuration();
        }
        face.interrupt = Some(interrupt);
        Ok(())
    }

    fn reset(&mut self) {
        lock(&self.face).interrupt = None;
        if let Some(running) = self.running.take() {
            // It fails only where the loop has ended, and the worker with it.
            let _ = self.events.remove(running);
        }
    }
}
