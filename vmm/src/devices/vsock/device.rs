//! The virtual processors' side.

use std::io;
use std::sync::{Arc, Mutex};

use super::host::{Handle, Host, Shared};
use super::multiplexer::Multiplexer;
use super::ring::Ring;
use super::worker::{Queues, Worker};
use super::{HOST_CID, QUEUE_SIZE};
use crate::devices::device::{Activation, Device, EVENT_IDX, Kind, read_bytes};
use crate::devices::events::{EventLoop, Running};

/// `VIRTIO_VSOCK_F_STREAM` (5.10.3): implied where a driver does not know it.
const STREAM: u64 = 1;
/// Queues (5.10.2).
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// A vsock device's front.
pub struct Vsock {
    guest_cid: u64,
    events: EventLoop,
    shared: Arc<Shared>,
    host: Arc<Mutex<Host>>,
    running: Option<Running>,
}

impl Vsock {
    /// A device that gives its guest that address, and whose worker runs on that loop.
    ///
    /// # Errors
    /// The host's; `InvalidInput` for an address that is not a guest's (0 to 2, and 2^32-1 and beyond, are not: 5.10.4).
    pub fn new(guest_cid: u64, events: EventLoop) -> io::Result<(Self, Handle)> {
        if guest_cid <= HOST_CID || guest_cid >= u64::from(u32::MAX) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("vsock address {guest_cid}: not a guest's")));
        }
        let shared = Arc::new(Shared::new()?);
        let handle = Handle::new(shared.clone());
        Ok((Self { guest_cid, events, shared, host: Arc::default(), running: None }, handle))
    }
}

impl Device for Vsock {
    fn kind(&self) -> Kind {
        Kind::Vsock
    }

    fn features(&self) -> u64 {
        EVENT_IDX | STREAM
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 3]
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, interrupt, features } = activation;
        let (mut receive, mut transmit) = (None, None);
        // The event queue's buffers stay where they are: its only event is for a guest that was moved.
        for (index, queue) in queues {
            match index {
                RECEIVE => receive = Some(Ring::new(queue, features & EVENT_IDX != 0)),
                TRANSMIT => transmit = Some(Ring::new(queue, features & EVENT_IDX != 0)),
                _ => {}
            }
        }
        let (Some(receive), Some(transmit)) = (receive, transmit) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the vsock driver has not set up both of its queues"));
        };
        let queues = Queues { memory, receive, transmit, interrupt };
        let worker = Worker::new(queues, Multiplexer::new(self.guest_cid)?, self.shared.clone(), self.host.clone());
        self.running = Some(self.events.add(Box::new(worker))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(running) = self.running.take() {
            // It fails only if the loop has ended, and its workers with it. The worker's connections close with it.
            drop(self.events.remove(running));
        }
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.reset();
        self.shared.close();
    }
}
