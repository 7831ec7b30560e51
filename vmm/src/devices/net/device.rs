//! The front of a network card.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;

use super::configuration::{FEATURES, Limits, QUEUE_SIZES, RECEIVE, TRANSMIT, space};
use super::link::{Link, Tap};
use super::worker::{Limiters, Worker};
use crate::devices::device::{Activation, ActiveQueue, Device, EVENT_IDX, Kind, read_bytes};
use crate::devices::events::{EventLoop, Running};

/// A network card's front.
pub struct Net {
    space: [u8; 12],
    mtu: u16,
    link: Arc<dyn Link>,
    limiters: Arc<Mutex<Limiters>>,
    events: EventLoop,
    running: Option<Running>,
}

impl Net {
    /// A card on an attached tap (`IFF_TAP`, `IFF_NO_PI`, `IFF_VNET_HDR`), which never waits for the host: its loop may be shared. The limits hold each way:
    /// one [`crate::devices::limiter::Limits`] for both, or [`Limits`].
    ///
    /// # Errors
    /// The file is not such a tap; the host's.
    pub fn new(tap: File, mac: [u8; 6], mtu: u16, limits: impl Into<Limits>, events: EventLoop) -> io::Result<Self> {
        let tap = Tap::new(tap).map_err(io::Error::other)?;
        Self::on(Arc::new(tap), mac, mtu, limits.into(), events)
    }

    /// A card on any link.
    pub(super) fn on(link: Arc<dyn Link>, mac: [u8; 6], mtu: u16, limits: Limits, events: EventLoop) -> io::Result<Self> {
        let limiters = Arc::new(Mutex::new(Limiters::new(limits)?));
        Ok(Self { space: space(mac, mtu), mtu, link, limiters, events, running: None })
    }
}

impl Device for Net {
    fn kind(&self) -> Kind {
        Kind::Net
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.space, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, interrupt, features } = activation;
        let (mut receive, mut transmit) = (None, None);
        for (index, mut active) in queues {
            active.queue.set_event_idx(features & EVENT_IDX != 0);
            match index {
                RECEIVE => receive = Some(active),
                TRANSMIT => transmit = Some(active),
                _ => {}
            }
        }
        let (Some(receive), Some(transmit)): (Option<ActiveQueue>, Option<ActiveQueue>) = (receive, transmit) else {
            return Err(io::Error::other("the driver of a network card has not made both of its queues ready"));
        };
        // Before the first packet is read: from here on the tap gives nothing that the driver can't take.
        self.link.offload(features)?;
        let worker = Worker::new(self.link.clone(), memory, interrupt, features, self.limiters.clone(), [receive, transmit], self.mtu);
        self.running = Some(self.events.add(Box::new(worker))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(running) = self.running.take() {
            // It fails only where the loop has ended, and the worker with it.
            let _ = self.events.remove(running);
        }
    }
}
