//! The front.

use std::io;

use crate::devices::device::{Activation, Device, EVENT_IDX, Kind};
use crate::devices::events::{EventLoop, Running};

use super::worker::Worker;

/// The one queue: requests (5.4.2).
const QUEUE_SIZES: [u16; 1] = [64];

/// A source of random numbers.
pub struct Random {
    events: EventLoop,
    running: Option<Running>,
}

impl Random {
    /// A device whose worker runs on that loop, which it never blocks.
    pub fn new(events: EventLoop) -> Self {
        Self { events, running: None }
    }
}

impl Device for Random {
    fn kind(&self) -> Kind {
        Kind::Random
    }

    fn features(&self) -> u64 {
        EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_configuration(&self, _offset: u64, data: &mut [u8]) {
        // There is no configuration space (5.4.4).
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        self.running = Some(self.events.add(Box::new(Worker::new(activation)?))?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(running) = self.running.take() {
            // It fails only where the loop has ended, and the worker with it.
            let _ = self.events.remove(running);
        }
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        self.reset();
    }
}
