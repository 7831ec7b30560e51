//! Random numbers, as a driver sees them.

use proptest::prelude::*;
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::worker::Worker;
use super::*;
use crate::devices::device::{Activation, ActiveQueue, Device, Interrupt, Kind, STATUS_NEEDS_RESET};
use crate::devices::events::EventLoop;

const WRITE: u16 = 2;
const NEXT: u16 = 1;

fn activation(memory: &GuestMemoryMmap, mock: &MockSplitQueue<GuestMemoryMmap>) -> (Activation, EventFd, Interrupt) {
    let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let interrupt = Interrupt::new(EventFd::new(0).unwrap());
    let queue = ActiveQueue { queue: mock.create_queue().unwrap(), kick: kick.try_clone().unwrap() };
    (Activation { memory: memory.clone(), queues: vec![(0, queue)], interrupt: interrupt.clone(), features: 0 }, kick, interrupt)
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4_0000)]).unwrap()
}

#[test]
fn buffers_are_filled_after_a_kick_until_the_reset() {
    let memory = memory();
    let mock = MockSplitQueue::new(&memory, 16);
    let (activation, kick, interrupt) = activation(&memory, &mock);
    let mut device = Random::new(EventLoop::start("random", || Ok(())).unwrap());
    assert_eq!(device.kind(), Kind::Random);
    device.activate(activation).unwrap();
    // Two parts, the second longer than what is left of one request.
    let parts = [Descriptor::new(0x1_0000, 100, WRITE | NEXT, 1), Descriptor::new(0x2_0000, 0x1_0000, WRITE, 0)];
    mock.add_desc_chains(&parts.map(RawDescriptor::from), 0).unwrap();
    kick.write(1).unwrap();
    interrupt.line().read().unwrap();
    let used = mock.used().ring().ref_at(0).unwrap().load();
    assert_eq!((used.id(), used.len() as usize), (0, LONGEST));
    let mut bytes = vec![0; LONGEST + 1];
    memory.read_slice(&mut bytes[..100], GuestAddress(0x1_0000)).unwrap();
    memory.read_slice(&mut bytes[100..], GuestAddress(0x2_0000)).unwrap();
    assert_eq!(bytes.pop(), Some(0), "nothing is written beyond the bound");
    let ones: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    assert!((15_000..18_000).contains(&ones), "{ones} of {} bits", LONGEST * 8);
    device.reset();
    device.reset();
}

#[test]
fn a_queue_that_was_not_made_ready_is_refused() {
    let memory = memory();
    let mock = MockSplitQueue::new(&memory, 16);
    let (mut activation, ..) = activation(&memory, &mock);
    activation.queues.clear();
    assert!(Random::new(EventLoop::start("random", || Ok(())).unwrap()).activate(activation).is_err());
}

proptest! {
    #[test]
    fn hostile_descriptors_cost_nothing(
        descriptors in proptest::collection::vec((0u64..0x5_0000, any::<u32>(), 0u16..8, 0u16..20), 1..16),
        available in any::<u16>(),
    ) {
        let memory = memory();
        let mock = MockSplitQueue::new(&memory, 16);
        let descriptor = |(address, length, flags, next)| RawDescriptor::from(Descriptor::new(address, length, flags, next));
        let descriptors: Vec<_> = descriptors.into_iter().map(descriptor).collect();
        mock.add_desc_chains(&descriptors, 0).unwrap();
        memory.write_obj(available, GuestAddress(mock.avail_addr().0 + 2)).unwrap();
        let (activation, _, interrupt) = activation(&memory, &mock);
        Worker::new(activation).unwrap().serve();
        // More chains than the queue has places is the one thing that can not be answered.
        let broken = interrupt.status().load(std::sync::atomic::Ordering::SeqCst) == STATUS_NEEDS_RESET;
        prop_assert!(broken || available <= 16);
    }
}
