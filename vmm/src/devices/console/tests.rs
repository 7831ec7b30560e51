//! A console, as a driver sees it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::worker::{Output, Worker};
use super::*;
use crate::devices::device::{Activation, ActiveQueue, Device, Interrupt, Kind, STATUS_NEEDS_RESET};
use crate::devices::events::EventLoop;

const NEXT: u16 = 1;
const TEXT: u64 = 0x1_0000;

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
}

fn activation(memory: &GuestMemoryMmap, mock: &MockSplitQueue<GuestMemoryMmap>) -> (Activation, EventFd, Interrupt) {
    let kick = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let interrupt = Interrupt::new(EventFd::new(0).unwrap());
    let queue = ActiveQueue { queue: mock.create_queue().unwrap(), kick: kick.try_clone().unwrap() };
    (Activation { memory: memory.clone(), queues: vec![(1, queue)], interrupt: interrupt.clone(), features: 0 }, kick, interrupt)
}

/// Takes `room` bytes, then would block.
#[derive(Clone, Default)]
struct Narrow(Arc<Mutex<(Vec<u8>, usize)>>);

impl Narrow {
    fn widen(&self, room: usize) {
        self.0.lock().unwrap().1 = room;
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
    }
}

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (text, room) = &mut *self.0.lock().unwrap();
        let count = bytes.len().min(*room);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        text.extend_from_slice(&bytes[..count]);
        *room -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_the_guest_says_arrives() {
    let memory = memory();
    let mock = MockSplitQueue::new(&memory, 16);
    let (activation, kick, interrupt) = activation(&memory, &mock);
    let (output, mut reader) = UnixStream::pair().unwrap();
    output.set_nonblocking(true).unwrap();
    let mut device = Console::new(Box::new(output), EventLoop::start("console", || Ok(())).unwrap());
    assert_eq!(device.kind(), Kind::Console);
    device.activate(activation).unwrap();
    memory.write_slice(b"hello, world\n", GuestAddress(TEXT)).unwrap();
    let parts = [Descriptor::new(TEXT, 7, NEXT, 1), Descriptor::new(TEXT + 7, 6, 0, 0)];
    mock.add_desc_chains(&parts.map(RawDescriptor::from), 0).unwrap();
    kick.write(1).unwrap();
    interrupt.line().read().unwrap();
    let mut text = [0; 13];
    reader.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello, world\n");
    assert_eq!(mock.used().ring().ref_at(0).unwrap().load().len(), 0);
    device.reset();
}

#[test]
fn what_a_slow_output_does_not_take_is_lost_and_counted() {
    let memory = memory();
    let mock = MockSplitQueue::new(&memory, 16);
    let (activation, ..) = activation(&memory, &mock);
    let narrow = Narrow::default();
    let output = Arc::new(Mutex::new(Output::new(Box::new(narrow.clone()))));
    let mut worker = Worker::new(activation, output).unwrap();
    memory.write_slice(b"0123456789", GuestAddress(TEXT)).unwrap();
    let say = |worker: &mut Worker, index| {
        mock.add_desc_chains(&[RawDescriptor::from(Descriptor::new(TEXT, 10, 0, 0))], index).unwrap();
        worker.serve();
    };
    narrow.widen(4);
    say(&mut worker, 0);
    say(&mut worker, 1);
    assert_eq!(narrow.text(), "0123");
    assert_eq!(mock.used().idx().load(), 2, "the guest does not wait");
    narrow.widen(1000);
    say(&mut worker, 2);
    assert_eq!(narrow.text(), "0123\n[16 bytes of this console were lost]\n0123456789");
}

#[test]
fn a_chain_of_gigabytes_costs_little() {
    let memory = memory();
    let mock = MockSplitQueue::new(&memory, 16);
    let (activation, ..) = activation(&memory, &mock);
    let narrow = Narrow::default();
    narrow.widen(usize::MAX);
    let output = Arc::new(Mutex::new(Output::new(Box::new(narrow.clone()))));
    let mut worker = Worker::new(activation, output).unwrap();
    memory.write_slice(&[b'x'; LONGEST + 100], GuestAddress(TEXT)).unwrap();
    mock.add_desc_chains(&[RawDescriptor::from(Descriptor::new(TEXT, u32::MAX, 0, 0))], 0).unwrap();
    worker.serve();
    assert_eq!(narrow.text().len(), LONGEST);
    mock.add_desc_chains(&[RawDescriptor::from(Descriptor::new(TEXT, 1, 0, 0))], 1).unwrap();
    worker.serve();
    assert!(narrow.text().ends_with(&format!("[{} bytes of this console were lost]\nx", u64::from(u32::MAX) - LONGEST as u64)));
}

proptest! {
    #[test]
    fn hostile_descriptors_cost_nothing(
        descriptors in proptest::collection::vec((0u64..0x14_0000, any::<u32>(), 0u16..8, 0u16..20), 1..16),
        available in any::<u16>(),
    ) {
        let memory = memory();
        let mock = MockSplitQueue::new(&memory, 16);
        let descriptor = |(address, length, flags, next)| RawDescriptor::from(Descriptor::new(address, length, flags, next));
        let descriptors: Vec<_> = descriptors.into_iter().map(descriptor).collect();
        mock.add_desc_chains(&descriptors, 0).unwrap();
        memory.write_obj(available, GuestAddress(mock.avail_addr().0 + 2)).unwrap();
        let (activation, _, interrupt) = activation(&memory, &mock);
        let output = Arc::new(Mutex::new(Output::new(Box::new(io::sink()))));
        Worker::new(activation, output).unwrap().serve();
        // More chains than the queue has places is the one thing that can not be answered.
        let broken = interrupt.status().load(std::sync::atomic::Ordering::SeqCst) == STATUS_NEEDS_RESET;
        prop_assert_eq!(broken, available > 16);
    }
}
