//! Serving what a driver has put into a queue.

use virtio_queue::{DescriptorChain, Error, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::device::{ActiveQueue, Interrupt};

/// Calls `serve` with each chain that the driver has made available, puts the chain into the used ring with the number of bytes that
/// `serve` says it has written, and interrupts the driver where it asked to be.
///
/// At most as many chains as the queue has places are served in one go: a driver that never stops must not keep a loop from its other
/// workers. If there may be more, the queue's own kick is signalled, so that its worker is called again after the others.
///
/// # Errors
/// The rings can not be understood any more (virtio 1.3, 2.7): the device has to ask for a reset.
pub(super) fn drain(
    active: &mut ActiveQueue,
    memory: &GuestMemoryMmap,
    interrupt: &Interrupt,
    mut serve: impl FnMut(DescriptorChain<&GuestMemoryMmap>) -> u32,
) -> Result<(), Error> {
    let queue = &mut active.queue;
    let mut left = queue.size();
    loop {
        queue.disable_notification(memory)?;
        loop {
            // Not in the head of a loop: the iterator would live, and hold the queue, to the end of its body.
            let next = queue.iter(memory)?.next();
            let Some(chain) = next else { break };
            let head = chain.head_index();
            let written = serve(chain);
            queue.add_used(memory, head, written)?;
            if queue.needs_notification(memory)? {
                interrupt.queue();
            }
            left = left.saturating_sub(1);
            if left == 0 {
                // It fails only where the counter would overflow: then it is signalled already.
                let _ = active.kick.write(1);
                return Ok(());
            }
        }
        if !queue.enable_notification(memory)? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use virtio_queue::desc::RawDescriptor;
    use virtio_queue::desc::split::Descriptor;
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress};
    use vmm_sys_util::eventfd::EventFd;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap()
    }

    fn queue_of(mock: &MockSplitQueue<GuestMemoryMmap>) -> (ActiveQueue, Interrupt) {
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        (ActiveQueue { queue: mock.create_queue().unwrap(), kick: event() }, Interrupt::new(event()))
    }

    #[test]
    fn every_chain_is_served_and_used_once() {
        let memory = memory();
        let mock = MockSplitQueue::new(&memory, 8);
        let descriptors: Vec<_> = (0..3).map(|i| RawDescriptor::from(Descriptor::new(0x1_0000 + i * 16, 16, 0, 0))).collect();
        mock.add_desc_chains(&descriptors, 0).unwrap();
        let (mut active, interrupt) = queue_of(&mock);
        let mut heads = Vec::new();
        drain(&mut active, &memory, &interrupt, |chain| {
            heads.push(chain.head_index());
            7
        })
        .unwrap();
        assert_eq!(heads, [0, 1, 2]);
        assert_eq!(mock.used().idx().load(), 3);
        assert_eq!(mock.used().ring().ref_at(2).unwrap().load().len(), 7);
        assert_eq!(interrupt.cause().load(Ordering::SeqCst), 1);
        assert!(active.kick.read().is_err(), "nothing is left");
    }

    #[test]
    fn a_driver_that_never_stops_yields() {
        let memory = memory();
        let mock = MockSplitQueue::new(&memory, 4);
        mock.add_desc_chains(&[RawDescriptor::from(Descriptor::new(0x1_0000, 16, 0, 0))], 0).unwrap();
        let (mut active, interrupt) = queue_of(&mock);
        let mut served = 0u16;
        drain(&mut active, &memory, &interrupt, |_| {
            served += 1;
            // The chain again, at once.
            memory.write_obj(served + 1, mock.avail_addr().unchecked_offset(2)).unwrap();
            0
        })
        .unwrap();
        assert_eq!(served, 4);
        assert_eq!(active.kick.read().unwrap(), 1);
    }

    #[test]
    fn rings_beyond_understanding_are_an_error() {
        let memory = memory();
        let mock = MockSplitQueue::new(&memory, 4);
        // More available chains than the queue has places.
        memory.write_obj(5u16, mock.avail_addr().unchecked_offset(2)).unwrap();
        let (mut active, interrupt) = queue_of(&mock);
        assert!(drain(&mut active, &memory, &interrupt, |_| 0).is_err());
        // A head that is none.
        let (mut active, interrupt) = queue_of(&mock);
        memory.write_obj(1u16, mock.avail_addr().unchecked_offset(2)).unwrap();
        memory.write_obj(4u16, mock.avail_addr().unchecked_offset(4)).unwrap();
        assert!(drain(&mut active, &memory, &interrupt, |_| 0).is_err());
    }

    trait Offset {
        fn unchecked_offset(self, bytes: u64) -> Self;
    }

    impl Offset for GuestAddress {
        fn unchecked_offset(self, bytes: u64) -> Self {
            GuestAddress(self.0 + bytes)
        }
    }
}
