//! Taking chains off a queue, one by one, and giving them back (virtio 1.3, section 2.7.13 and 2.7.14).

use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use crate::devices::device::Interrupt;

/// A queue beyond understanding: its driver needs a reset.
#[derive(Debug, Error)]
pub enum QueueError {
    /// a ring's indices or addresses make no sense
    #[error("a ring's indices or addresses make no sense")]
    Ring(#[from] virtio_queue::Error),
    /// a ring promises chains that can't be read from it
    #[error("a ring promises chains that can't be read from it")]
    Unreadable,
}

/// What became of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is done with, and so many bytes were written to it.
    Done(u32),
    /// It has to wait; so do those behind it. It will be met again, and has to be read anew then.
    Later,
}

/// Why [`serve`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There is nothing left. The driver's next kick will come.
    Empty,
    /// A chain has to wait. No kick will come for it.
    Waiting,
    /// It is somebody else's turn on the event loop, and there may be more. No kick will come for that.
    Turn,
}

/// When the driver hears of a chain that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell {
    /// At once: each may have taken long.
    Each,
    /// When serving stops.
    Last,
}

/// Serves the chains of a queue, `turn` of them at most.
///
/// # Errors
/// The driver has broken the ring. [`Interrupt::needs_reset`] is the caller's to say.
pub fn serve(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    interrupt: &Interrupt,
    turn: u32,
    tell: Tell,
    mut one: impl FnMut(DescriptorChain<&GuestMemoryMmap>) -> Step,
) -> Result<Stop, QueueError> {
    let mut served = 0;
    let mut promised = false;
    let stop = 'all: loop {
        queue.disable_notification(memory)?;
        let before = served;
        loop {
            if served == turn {
                break 'all Stop::Turn;
            }
            // Asked anew each time, since the iterator holds on to the queue. It fails where the driver claims more chains than the ring holds.
            let Some(chain) = queue.iter(memory)?.next() else { break };
            let head = chain.head_index();
            match one(chain) {
                Step::Done(length) => queue.add_used(memory, head, length)?,
                Step::Later => {
                    queue.go_to_previous_position();
                    break 'all Stop::Waiting;
                }
            }
            served += 1;
            if tell == Tell::Each && queue.needs_notification(memory)? {
                interrupt.queue();
            }
        }
        // A ring that promised a chain and had none would keep us here for ever.
        if promised && served == before {
            return Err(QueueError::Unreadable);
        }
        promised = queue.enable_notification(memory)?;
        if !promised {
            break Stop::Empty;
        }
    };
    if tell == Tell::Last && served > 0 && queue.needs_notification(memory)? {
        interrupt.queue();
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::buffers::driver::{Driver, Piece};
    use proptest::prelude::*;
    use virtio_queue::mock::MockSplitQueue;
    use vm_memory::{Bytes, GuestAddress, GuestMemory};
    use vmm_sys_util::eventfd::EventFd;

    #[test]
    fn chains_are_served_in_turns_and_told_of() {
        let mut driver = Driver::new(1, 8);
        let mut activation = driver.activation(0);
        let queue = &mut activation.queues[0].1.queue;
        for _ in 0..5 {
            driver.submit(0, &[Piece::device_reads(0x10_0000, 1)]);
        }
        let mut serve = |turn, step| serve(queue, &activation.memory, &activation.interrupt, turn, Tell::Last, |_| step).unwrap();
        assert_eq!(serve(3, Step::Later), Stop::Waiting);
        assert_eq!(driver.interrupts(), 0);
        assert_eq!(serve(3, Step::Done(7)), Stop::Turn);
        assert_eq!(serve(3, Step::Done(7)), Stop::Empty);
        assert_eq!(driver.interrupts(), 2);
        assert_eq!(driver.used(0), [(0, 7), (1, 7), (2, 7), (3, 7), (4, 7)]);
    }

    #[test]
    fn a_ring_that_claims_more_than_it_holds_is_an_error_not_a_loop() {
        let driver = Driver::new(1, 8);
        let mut activation = driver.activation(0);
        let queue = &mut activation.queues[0].1.queue;
        activation.memory.write_obj(9u16, GuestAddress(queue.avail_ring() + 2)).unwrap();
        let served = serve(queue, &activation.memory, &activation.interrupt, 100, Tell::Each, |_| Step::Done(0));
        assert!(matches!(served, Err(QueueError::Ring(_))));
    }

    #[test]
    fn a_ring_with_entries_in_a_hole_is_an_error_not_a_loop() {
        let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000), (GuestAddress(0x5000), 0x1000)]).unwrap();
        let mut queue = Queue::new(8).unwrap();
        // Flags and index are the last four bytes of the first region, the entries are in the hole.
        queue.set_avail_ring_address(Some(0x3ffc), None);
        queue.set_used_ring_address(Some(0x1000), None);
        queue.set_ready(true);
        memory.write_obj(1u16, GuestAddress(0x3ffe)).unwrap();
        let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let served = serve(&mut queue, &memory, &interrupt, 100, Tell::Each, |_| Step::Done(0));
        assert!(matches!(served, Err(QueueError::Unreadable)));
    }

    proptest! {
        #[test]
        fn whatever_the_rings_hold_serving_ends(bytes in prop::collection::vec(any::<u8>(), 0x200), index in any::<u16>(), event in any::<bool>()) {
            let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
            let mut queue: Queue = MockSplitQueue::create(&memory, GuestAddress(0x100), 16).create_queue().unwrap();
            queue.set_event_idx(event);
            memory.write_slice(&bytes, GuestAddress(0x100)).unwrap();
            memory.write_obj(index % 18, GuestAddress(queue.avail_ring() + 2)).unwrap();
            prop_assert!(memory.check_range(GuestAddress(0x100), 0x200));
            let interrupt = Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
            let mut seen = 0;
            let served = serve(&mut queue, &memory, &interrupt, 64, Tell::Each, |chain| {
                seen += 1;
                Step::Done(u32::from(chain.count() as u16))
            });
            prop_assert!(seen <= 64);
            if let Ok(stop) = served {
                prop_assert!(stop != Stop::Waiting);
            }
        }
    }
}
