//! The worker.

use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};

use crate::devices::device::{Activation, ActiveQueue, EVENT_IDX, Interrupt};
use crate::devices::drain::drain;

use super::LONGEST;

/// Where the guest's bytes go.
pub(super) struct Output {
    to: Box<dyn Write + Send>,
    /// Bytes lost since the last ones that arrived.
    lost: u64,
}

impl Output {
    pub(super) fn new(to: Box<dyn Write + Send>) -> Self {
        Self { to, lost: 0 }
    }

    /// Writes what can be written now; the rest is lost.
    fn write(&mut self, bytes: &[u8]) {
        if self.lost > 0 {
            let note = format!("\n[{} bytes of this console were lost]\n", self.lost);
            if self.attempt(note.as_bytes()) == 0 {
                self.lost += bytes.len() as u64;
                return;
            }
            self.lost = 0;
        }
        self.lost += (bytes.len() - self.attempt(bytes)) as u64;
    }

    /// How many bytes the output took.
    fn attempt(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.to.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }
}

/// Takes what the guest says.
pub(super) struct Worker {
    memory: GuestMemoryMmap,
    transmit: ActiveQueue,
    interrupt: Interrupt,
    output: Arc<Mutex<Output>>,
    /// The rings are beyond understanding: nothing is served until a reset.
    broken: bool,
}

impl Worker {
    /// # Errors
    /// The driver has not made the transmit queue ready.
    pub(super) fn new(activation: Activation, output: Arc<Mutex<Output>>) -> io::Result<Self> {
        let Activation { memory, queues, interrupt, features } = activation;
        let (_, mut transmit) = queues.into_iter().find(|(index, _)| *index == 1).ok_or(ErrorKind::InvalidInput)?;
        transmit.queue.set_event_idx(features & EVENT_IDX != 0);
        Ok(Self { memory, transmit, interrupt, output, broken: false })
    }

    pub(super) fn serve(&mut self) {
        if self.broken {
            return;
        }
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = &self.memory;
        if drain(&mut self.transmit, memory, &self.interrupt, |chain| transmit(memory, chain, &mut output)).is_err() {
            self.broken = true;
            self.interrupt.needs_reset();
        }
    }
}

/// Writes a chain's readable part to the output. Nothing is written back, hence 0.
fn transmit(memory: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>, output: &mut Output) -> u32 {
    let mut left = LONGEST;
    let mut bytes = [0; 4096];
    for descriptor in chain.readable() {
        let mut address = descriptor.addr();
        let mut length = descriptor.len() as usize;
        while length > 0 && left > 0 {
            let part = &mut bytes[..length.min(left).min(4096)];
            if memory.read_slice(part, address).is_err() {
                break;
            }
            output.write(part);
            (length, left) = (length - part.len(), left - part.len());
            let Some(next) = address.0.checked_add(part.len() as u64) else { break };
            address.0 = next;
        }
        output.lost += length as u64;
    }
    0
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        // Non-blocking: it fails only where the kick was taken already.
        let _ = self.transmit.kick.read();
        self.serve();
    }

    fn init(&mut self, operations: &mut EventOps) {
        if operations.add(Events::new(&self.transmit.kick, EventSet::IN)).is_err() {
            self.broken = true;
            self.interrupt.needs_reset();
        }
        // The driver may have kicked before anybody listened.
        self.serve();
    }
}
