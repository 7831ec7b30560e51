//! The worker.

use std::io;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use fuse_backend_rs::transport::{Reader, VirtioFsWriter};
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::GuestMemoryMmap;

use crate::devices::device::{Activation, ActiveQueue, EVENT_IDX, Interrupt};
use crate::devices::drain::drain;

use super::device::Shared;
use super::serve::Server;

/// Serves the requests of both queues, in the order in which they arrive.
pub(super) struct Worker {
    shared: Arc<Shared>,
    memory: GuestMemoryMmap,
    /// High priority (`FUSE_FORGET`), then requests.
    queues: [ActiveQueue; 2],
    interrupt: Interrupt,
    /// The rings are beyond understanding: nothing is served until a reset.
    broken: bool,
}

impl Worker {
    /// # Errors
    /// The driver has not made both queues ready.
    pub(super) fn new(activation: Activation, shared: Arc<Shared>) -> io::Result<Self> {
        let Activation { memory, mut queues, interrupt, features } = activation;
        queues.sort_unstable_by_key(|(index, _)| *index);
        if !queues.iter().map(|(index, _)| *index).eq([0, 1]) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let queues: Vec<_> = queues.into_iter().map(|(_, active)| active).collect();
        let mut queues: [ActiveQueue; 2] = queues.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        for active in &mut queues {
            active.queue.set_event_idx(features & EVENT_IDX != 0);
        }
        Ok(Self { shared, memory, queues, interrupt, broken: false })
    }

    /// Serves both queues, what is urgent first.
    pub(super) fn serve(&mut self) {
        if self.broken {
            return;
        }
        let (shared, memory) = (&self.shared, &self.memory);
        for active in &mut self.queues {
            // The lock is taken for each request, so that trees can be removed in between.
            if drain(active, memory, &self.interrupt, |chain| answer(&mut shared.server(), memory, chain)).is_err() {
                self.broken = true;
                self.interrupt.needs_reset();
                return;
            }
        }
    }
}

/// Serves the request in a chain; how many bytes were written to it. A chain that is not memory can not be answered.
fn answer(server: &mut Server, memory: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>) -> u32 {
    let request = Reader::from_descriptor_chain(memory, chain.clone());
    let reply = VirtioFsWriter::new(memory, chain);
    match (request, reply) {
        (Ok(request), Ok(reply)) => server.serve(request, reply),
        _ => 0,
    }
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        // Non-blocking: it fails only where the kick was taken already.
        let _ = self.queues[(events.data() as usize).min(1)].kick.read();
        self.serve();
    }

    fn init(&mut self, operations: &mut EventOps) {
        let mut watch = |index: usize| operations.add(Events::with_data(&self.queues[index].kick, index as u32, EventSet::IN));
        if watch(0).and_then(|()| watch(1)).is_err() {
            self.broken = true;
            self.interrupt.needs_reset();
        }
        // The driver may have kicked before anybody listened.
        self.serve();
    }
}
