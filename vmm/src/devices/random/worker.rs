//! The worker.

use std::io;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};

use crate::devices::device::{Activation, ActiveQueue, EVENT_IDX, Interrupt};
use crate::devices::drain::drain;

use super::LONGEST;

/// Fills buffers.
pub(super) struct Worker {
    memory: GuestMemoryMmap,
    requests: ActiveQueue,
    interrupt: Interrupt,
    bytes: Box<[u8; LONGEST]>,
    /// The rings are beyond understanding: nothing is served until a reset.
    broken: bool,
}

impl Worker {
    /// # Errors
    /// The driver has not made its queue ready.
    pub(super) fn new(activation: Activation) -> io::Result<Self> {
        let Activation { memory, queues, interrupt, features } = activation;
        let (_, mut requests) = queues.into_iter().find(|(index, _)| *index == 0).ok_or(io::ErrorKind::InvalidInput)?;
        requests.queue.set_event_idx(features & EVENT_IDX != 0);
        Ok(Self { memory, requests, interrupt, bytes: Box::new([0; LONGEST]), broken: false })
    }

    pub(super) fn serve(&mut self) {
        if self.broken {
            return;
        }
        let (memory, bytes) = (&self.memory, &mut self.bytes[..]);
        if drain(&mut self.requests, memory, &self.interrupt, |chain| fill(memory, chain, bytes)).is_err() {
            self.broken = true;
            self.interrupt.needs_reset();
        }
    }
}

/// Fills a chain's writable part; how many bytes it got. One that is not memory gets none.
fn fill(memory: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>, bytes: &mut [u8]) -> u32 {
    let mut written = 0;
    for descriptor in chain.writable() {
        let length = (descriptor.len() as usize).min(bytes.len() - written);
        let part = &mut bytes[..length];
        if length == 0 || random(part).is_err() || memory.write_slice(part, descriptor.addr()).is_err() {
            break;
        }
        written += length;
    }
    // At most LONGEST.
    written as u32
}

/// Fills `bytes` from the host's generator.
fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the pointer and the length are those of a slice that is ours alone; the kernel writes at most that many bytes into it,
        // and keeps no reference. There is no safe wrapper of getrandom(2) in the standard library.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => filled += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        // Non-blocking: it fails only where the kick was taken already.
        let _ = self.requests.kick.read();
        self.serve();
    }

    fn init(&mut self, operations: &mut EventOps) {
        if operations.add(Events::new(&self.requests.kick, EventSet::IN)).is_err() {
            self.broken = true;
            self.interrupt.needs_reset();
        }
        // The driver may have kicked before anybody listened.
        self.serve();
    }
}
