//! The front.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use crate::devices::device::{Activation, Device, EVENT_IDX, Kind};
use crate::devices::events::{EventLoop, Running};

use super::worker::{Output, Worker};

/// The first port's receive and transmit queues (5.3.2).
const QUEUE_SIZES: [u16; 2] = [64, 64];

/// A console.
pub struct Console {
    events: EventLoop,
    /// It outlives a reset. Only one worker at a time has it: there is never a wait for this lock.
    output: Arc<Mutex<Output>>,
    running: Option<Running>,
}

impl Console {
    /// A console that speaks to `output`, which must not block: see [`super`].
    pub fn new(output: Box<dyn Write + Send>, events: EventLoop) -> Self {
        Self { events, output: Arc::new(Mutex::new(Output::new(output))), running: None }
    }
}

impl Device for Console {
    fn kind(&self) -> Kind {
        Kind::Console
    }

    fn features(&self) -> u64 {
        EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_configuration(&self, _offset: u64, data: &mut [u8]) {
        // Its fields are valid only with features that are not offered (5.3.4).
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let worker = Worker::new(activation, self.output.clone())?;
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

impl Drop for Console {
    fn drop(&mut self) {
        self.reset();
    }
}
