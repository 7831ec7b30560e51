//! A balloon and its driver, end to end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::{Balloon, Handle};
use crate::devices::buffers::driver::{Driver, Piece};
use crate::devices::device::{Device, STATUS_NEEDS_RESET};
use crate::devices::events::EventLoop;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// Where the driver keeps its lists.
const LIST: u64 = 0x10_0000;
/// Pages to give.
const PAGES: u64 = 0x20_0000;

struct Machine {
    driver: Driver,
    balloon: Balloon,
    handle: Handle,
}

impl Machine {
    fn new() -> Self {
        let events = EventLoop::start("balloon", || Ok(())).unwrap();
        let (mut balloon, handle) = Balloon::new(events);
        let driver = Driver::new(5, 32);
        balloon.activate(driver.activation(balloon.features())).unwrap();
        Self { driver, balloon, handle }
    }

    fn list(&mut self, queue: usize, frames: &[u32]) {
        for (index, frame) in frames.iter().enumerate() {
            self.driver.memory.write_obj(*frame, GuestAddress(LIST + 4 * index as u64)).unwrap();
        }
        self.driver.request(queue, &[Piece::device_reads(LIST, 4 * frames.len() as u32)]);
    }

    /// The first byte of each of eight pages.
    fn pages(&self) -> [u8; 8] {
        std::array::from_fn(|page| self.driver.memory.read_obj(GuestAddress(PAGES + 4096 * page as u64)).unwrap())
    }

    fn fill(&self) {
        self.driver.memory.write_slice(&[1; 8 * 4096], GuestAddress(PAGES)).unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.balloon.reset();
    }
}

#[test]
fn pages_that_the_driver_lists_are_let_go() {
    let mut machine = Machine::new();
    machine.fill();
    let first = (PAGES >> 12) as u32;
    machine.list(INFLATE, &[first + 3, first + 1, first + 2, first + 3, u32::MAX, 0x9999]);
    assert_eq!(machine.pages(), [1, 0, 0, 0, 1, 1, 1, 1]);
    machine.list(DEFLATE, &[first + 5]);
    assert_eq!(machine.pages(), [1, 0, 0, 0, 1, 1, 1, 1], "what is taken back is left alone");
    machine.list(INFLATE, &[]);
}

#[test]
fn ranges_that_the_driver_reports_are_let_go_wherever_its_queue_is() {
    for queue in 2..5 {
        let mut machine = Machine::new();
        machine.fill();
        machine.driver.request(queue, &[Piece::device_writes(PAGES + 4096, 8192), Piece::device_writes(PAGES + 5 * 4096 - 1, 4098)]);
        assert_eq!(machine.pages(), [1, 0, 0, 1, 1, 0, 1, 1]);
        // Not for the device to write: not reported.
        machine.driver.request(queue, &[Piece::device_reads(PAGES, 8 * 4096)]);
        assert_eq!(machine.pages(), [1, 0, 0, 1, 1, 0, 1, 1]);
    }
}

#[test]
fn the_target_is_read_and_the_actual_size_written() {
    let mut machine = Machine::new();
    machine.handle.set_target((64 << 20) + 5);
    assert_eq!(machine.driver.interrupts(), 1);
    machine.handle.set_target(64 << 20);
    assert_eq!(machine.driver.interrupts(), 0, "nothing has changed");
    let mut space = [0; 8];
    machine.balloon.read_configuration(0, &mut space);
    assert_eq!(space, [0, 0x40, 0, 0, 0, 0, 0, 0]);
    machine.balloon.write_configuration(4, &[0, 0x20, 0, 0]);
    assert_eq!(machine.handle.actual(), 32 << 20);
    // Neither the target nor what is behind the end.
    machine.balloon.write_configuration(0, &[9; 16]);
    machine.balloon.write_configuration(u64::MAX, &[9, 9]);
    machine.balloon.read_configuration(0, &mut space);
    assert_eq!(space, [0, 0x40, 0, 0, 9, 9, 9, 9]);
    machine.handle.set_target(u64::MAX);
    machine.balloon.reset();
    assert_eq!(machine.handle.actual(), 0);
}

#[test]
fn a_broken_ring_needs_a_reset() {
    let machine = Machine::new();
    machine.driver.memory.write_obj(1000u16, GuestAddress(0x1000 + 0x1002)).unwrap();
    machine.driver.kick(INFLATE);
    assert!(machine.driver.interrupted(Duration::from_secs(20)));
    assert_ne!(machine.driver.interrupt().status().load(Ordering::SeqCst) & STATUS_NEEDS_RESET, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_the_driver_gives_a_page_is_kept_or_let_go_as_a_whole(
        chains in prop::collection::vec(
            (0..5usize, prop::collection::vec((prop_oneof![PAGES..PAGES + 0x8000, any::<u64>()], prop_oneof![0..0x4000u32, any::<u32>()], any::<bool>()), 1..5)),
            1..10,
        ),
        bytes in prop::collection::vec(any::<u8>(), 0x8000),
    ) {
        let mut machine = Machine::new();
        machine.driver.memory.write_slice(&bytes, GuestAddress(PAGES)).unwrap();
        for (queue, pieces) in chains {
            let pieces: Vec<_> = pieces.into_iter().map(|(address, length, device_writes)| Piece { address, length, device_writes }).collect();
            machine.driver.request(queue, &pieces);
        }
        let mut after = vec![0; 0x8000];
        machine.driver.memory.read_slice(&mut after, GuestAddress(PAGES)).unwrap();
        for (page, (before, after)) in bytes.chunks(4096).zip(after.chunks(4096)).enumerate() {
            prop_assert!(before == after || after == [0; 4096], "page {}", page);
        }
        prop_assert_eq!(machine.driver.interrupt().status().load(Ordering::SeqCst), 0);
    }
}
