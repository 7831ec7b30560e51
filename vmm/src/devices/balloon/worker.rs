//! The loop's half of a balloon.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;

use super::discard::Discard;
use super::frames::runs;
use crate::devices::buffers::Chain;
use crate::devices::buffers::serve::{QueueError, Step, Stop, Tell, serve};
use crate::devices::device::{ActiveQueue, Interrupt};

/// How many chains are served before another device on the loop has its turn. Each is up to a megabyte of pages (inflating) or some huge ones (reporting).
const TURN: u32 = 8;
/// The most bytes of frame numbers that are looked at in a chain: 16384 frames, 64 times what Linux's driver lists. The rest stays the guest's.
const MOST: usize = 64 << 10;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Pages to let go of.
    Inflate,
    /// Pages that the driver takes back.
    Deflate,
    /// Ranges of free memory.
    Report,
}

/// The worker.
pub struct Worker {
    queues: Vec<(Purpose, ActiveQueue)>,
    memory: GuestMemoryMmap,
    interrupt: Interrupt,
    discard: Discard,
}

impl Worker {
    /// A worker for these queues.
    pub fn new(queues: Vec<(Purpose, ActiveQueue)>, memory: GuestMemoryMmap, interrupt: Interrupt) -> Self {
        let discard = Discard::new(&memory);
        Self { queues, memory, interrupt, discard }
    }

    fn run(&mut self, descriptor: i32) -> Result<(), QueueError> {
        let Some((purpose, active)) = self.queues.iter_mut().find(|(_, active)| active.kick.as_raw_fd() == descriptor) else {
            return Ok(());
        };
        let _ = active.kick.read();
        let (memory, discard, limit) = (&self.memory, self.discard, active.queue.size());
        let stop = serve(&mut active.queue, memory, &self.interrupt, TURN, Tell::Last, |chain| {
            if let Ok(chain) = Chain::read(memory, chain, limit) {
                match purpose {
                    Purpose::Inflate => {
                        let mut bytes = vec![0; chain.readable.length().min(MOST)];
                        chain.readable.copy_to(&mut bytes);
                        runs(&bytes).into_iter().for_each(|run| discard.range(memory, run));
                    }
                    // The pages come back when they are touched.
                    Purpose::Deflate => {}
                    // The buffers themselves are what is free (5.5.6.7).
                    Purpose::Report => chain.writable.slices().iter().for_each(|slice| discard.slice(slice)),
                }
            }
            Step::Done(0)
        })?;
        if stop == Stop::Turn {
            active.kick.write(1).map_err(|_| QueueError::Unreadable)?;
        }
        Ok(())
    }
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, events: Events, operations: &mut EventOps) {
        if self.run(events.fd()).is_err() {
            self.interrupt.needs_reset();
            for (_, active) in &self.queues {
                let _ = operations.remove(Events::empty(&active.kick));
            }
        }
    }

    fn init(&mut self, operations: &mut EventOps) {
        // What can fail here is the kernel's memory: then nothing would ever be served, and the driver had better know.
        if self.queues.iter().map(|(_, active)| operations.add(Events::new(&active.kick, EventSet::IN))).any(|added| added.is_err()) {
            self.interrupt.needs_reset();
        }
    }
}
