//! A disk and its driver, end to end: over temporary files, through queues in memory, on an event loop.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::configuration::{BLK_SIZE, DISCARD, FLUSH, READ_ONLY, WRITE_ZEROES};
use super::{Block, Disk, Handle};
use crate::devices::buffers::driver::{Driver, Piece};
use crate::devices::device::{Device, EVENT_IDX, STATUS_NEEDS_RESET};
use crate::devices::events::EventLoop;
use crate::devices::limiter::{Limits, Rate};

const HEADER: u64 = 0x10_0000;
const STATUS: u64 = 0x10_1000;
const DATA: u64 = 0x20_0000;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_COMMAND: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD_COMMAND: u32 = 11;
const ZEROES: u32 = 13;

/// A machine with one disk.
struct Machine {
    driver: Driver,
    block: Block,
    handle: Handle,
}

impl Machine {
    fn new(disk: Option<Disk>, limits: Limits, without: u64) -> Self {
        let events = EventLoop::start("disk", || Ok(())).unwrap();
        let (mut block, handle) = Block::new(disk, limits, events).unwrap();
        let driver = Driver::new(1, 16);
        block.activate(driver.activation(block.features() & !without)).unwrap();
        Self { driver, block, handle }
    }

    fn with(file: &File, read_only: bool) -> Self {
        Self::new(Some(Disk { file: file.try_clone().unwrap(), read_only }), Limits::default(), 0)
    }

    fn header(&self, kind: u32, sector: u64) {
        self.driver.memory.write_obj([kind, 0], GuestAddress(HEADER)).unwrap();
        self.driver.memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        self.driver.memory.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
    }

    /// A request with its data in between; the status and how many bytes were written.
    fn request(&mut self, kind: u32, sector: u64, data: &[Piece]) -> (u8, u32) {
        self.header(kind, sector);
        let pieces = [&[Piece::device_reads(HEADER, 16)], data, &[Piece::device_writes(STATUS, 1)]].concat();
        let written = self.driver.request(0, &pieces);
        (self.driver.memory.read_obj(GuestAddress(STATUS)).unwrap(), written)
    }

    fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
        for (index, (sector, sectors, flags)) in ranges.iter().enumerate() {
            let at = DATA + 16 * index as u64;
            self.driver.memory.write_obj(*sector, GuestAddress(at)).unwrap();
            self.driver.memory.write_obj([*sectors, *flags], GuestAddress(at + 8)).unwrap();
        }
        self.request(kind, 0, &[Piece::device_reads(DATA, 16 * ranges.len() as u32)]).0
    }

    fn capacity(&self) -> u64 {
        let mut capacity = [0; 8];
        self.block.read_configuration(0, &mut capacity);
        u64::from_le_bytes(capacity)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.block.reset();
    }
}

/// Bytes that say where they are.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 512 * 7 + index) as u8).collect()
}

/// A file of `length` bytes with [`pattern`] in it.
fn file(length: usize) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&pattern(length), 0).unwrap();
    file
}

fn content(file: &File) -> Vec<u8> {
    let mut content = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut content, 0).unwrap();
    content
}

#[test]
fn a_disk_is_read_and_written_and_flushed() {
    let file = file(64 << 10);
    let mut machine = Machine::with(&file, false);
    assert_eq!(machine.capacity(), 128);
    assert_eq!(machine.request(IN, 3, &[Piece::device_writes(DATA + 1, 100), Piece::device_writes(DATA + 0x1000, 924)]), (0, 1025));
    let mut read = vec![0; 1024];
    machine.driver.memory.read_slice(&mut read[..100], GuestAddress(DATA + 1)).unwrap();
    machine.driver.memory.read_slice(&mut read[100..], GuestAddress(DATA + 0x1000)).unwrap();
    assert_eq!(read, pattern(64 << 10)[1536..2560]);

    machine.driver.memory.write_slice(&[9; 512], GuestAddress(DATA)).unwrap();
    assert_eq!(machine.request(OUT, 127, &[Piece::device_reads(DATA, 512)]), (0, 1));
    assert_eq!(content(&file)[127 * 512..], [9; 512]);
    assert_eq!(machine.request(FLUSH_COMMAND, 0, &[]), (0, 1));

    assert_eq!(machine.request(GET_ID, 0, &[Piece::device_writes(DATA, 20)]), (0, 21));
    let name: [u8; 20] = machine.driver.memory.read_obj(GuestAddress(DATA)).unwrap();
    assert!(name.starts_with(b"bulkhead-"));
    assert_eq!(machine.request(77, 0, &[]).0, 2, "unknown");
}

#[test]
fn header_and_status_may_lie_anywhere_in_the_chain() {
    let file = file(4096);
    let mut machine = Machine::with(&file, false);
    machine.header(OUT, 1);
    machine.driver.memory.write_slice(&[5; 512], GuestAddress(HEADER + 16)).unwrap();
    // The header in two parts, the second with all the data behind it.
    machine
        .driver
        .request(0, &[Piece::device_reads(HEADER, 5), Piece::device_reads(HEADER + 5, 11 + 512), Piece::device_writes(STATUS, 1)]);
    assert_eq!(content(&file)[512..1024], [5; 512]);
    machine.header(IN, 1);
    // Data and status in one.
    assert_eq!(machine.driver.request(0, &[Piece::device_reads(HEADER, 16), Piece::device_writes(DATA, 513)]), 513);
    let read: [u8; 2] = machine.driver.memory.read_obj(GuestAddress(DATA + 511)).unwrap();
    assert_eq!(read, [5, 0]);
}

#[test]
fn what_is_beyond_the_disk_or_not_whole_sectors_is_refused() {
    let file = file(4096 + 100);
    let mut machine = Machine::with(&file, false);
    assert_eq!(machine.capacity(), 8, "whole sectors");
    for (sector, length) in [(8, 512), (7, 1024), (u64::MAX, 512), (u64::MAX / 512, 1024), (1 << 55, 512), (0, 511), (0, 1 << 20)] {
        assert_eq!(machine.request(OUT, sector, &[Piece::device_reads(DATA, length)]), (1, 1), "{sector} {length}");
        assert_eq!(machine.request(IN, sector, &[Piece::device_writes(DATA, length)]).0, 1, "{sector} {length}");
    }
    assert_eq!(machine.ranges(DISCARD_COMMAND, &[(7, 2, 0)]), 1);
    assert_eq!(machine.ranges(ZEROES, &[(0, 1, 0), (u64::MAX, 2, 0)]), 1, "nothing is done where not all can be");
    assert_eq!(machine.ranges(ZEROES, &[(0, u32::MAX, 0)]), 1);
    assert_eq!(content(&file), pattern(4096 + 100));
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let file = file(8192);
    let mut machine = Machine::with(&file, true);
    assert_eq!(machine.block.features() & (READ_ONLY | DISCARD | WRITE_ZEROES), READ_ONLY);
    assert_eq!(machine.request(OUT, 0, &[Piece::device_reads(DATA, 512)]).0, 1);
    assert_eq!(machine.ranges(DISCARD_COMMAND, &[(0, 8, 0)]), 2);
    assert_eq!(machine.ranges(ZEROES, &[(0, 8, 0)]), 2);
    assert_eq!(machine.request(FLUSH_COMMAND, 0, &[]).0, 0);
    assert_eq!(machine.request(IN, 0, &[Piece::device_writes(DATA, 512)]).0, 0);
    // Neither does a writable one that takes its place become writable for a driver that was told otherwise.
    machine.handle.replace(Some(Disk { file: file.try_clone().unwrap(), read_only: false })).unwrap();
    assert_eq!(machine.request(OUT, 0, &[Piece::device_reads(DATA, 512)]).0, 1);
    assert_eq!(content(&file), pattern(8192));

    // Nor a read-only one that takes a writable one's.
    let mut machine = Machine::with(&file, false);
    machine.handle.replace(Some(Disk { file: file.try_clone().unwrap(), read_only: true })).unwrap();
    assert_eq!(machine.request(OUT, 0, &[Piece::device_reads(DATA, 512)]).0, 1);
    assert_eq!(machine.ranges(DISCARD_COMMAND, &[(0, 8, 0)]), 1);
    assert_eq!(machine.ranges(ZEROES, &[(0, 8, 1)]), 1);
    assert_eq!(content(&file), pattern(8192));
}

#[test]
fn a_file_that_can_t_be_the_disk_it_should_be_is_refused() {
    let events = EventLoop::start("disk", || Ok(())).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, [0; 512]).unwrap();
    let open = |options: &mut OpenOptions| options.open(&path).unwrap();
    let new = |file, read_only| {
        Block::new(Some(Disk { file, read_only }), Limits::default(), events.clone()).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(new(File::open(&path).unwrap(), false).unwrap_err().contains("reading only"));
    new(File::open(&path).unwrap(), true).unwrap();
    assert!(new(open(OpenOptions::new().write(true)), false).unwrap_err().contains("writing only"));
    assert!(new(open(OpenOptions::new().read(true).append(true)), false).unwrap_err().contains("O_APPEND"));
    assert!(new(File::open(directory.path()).unwrap(), true).unwrap_err().contains("neither"));
    assert!(new(File::open("/dev/null").unwrap(), true).unwrap_err().contains("neither"));
}

#[test]
fn discarded_space_is_the_host_s_again_and_zeroed_space_is_zero() {
    let file = file(1 << 20);
    let before = file.metadata().unwrap().blocks();
    let mut machine = Machine::with(&file, false);
    assert_eq!(machine.ranges(DISCARD_COMMAND, &[(0, 512, 0), (512, 512, 0)]), 0);
    file.sync_all().unwrap();
    assert!(file.metadata().unwrap().blocks() + 512 < before, "at least a quarter of a megabyte came back");
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    for (unmap, sector) in [(0, 1100), (1, 1200)] {
        assert_eq!(machine.ranges(ZEROES, &[(sector, 3, unmap)]), 0);
        let (start, end) = (sector as usize * 512, sector as usize * 512 + 1536);
        assert_eq!(content(&file)[start..end], [0; 1536]);
        assert_eq!(content(&file)[start - 1], pattern(1 << 20)[start - 1]);
        assert_eq!(content(&file)[end], pattern(1 << 20)[end]);
    }
    assert_eq!(machine.ranges(DISCARD_COMMAND, &[(0, 8, 1)]), 2, "unmap is for zeroes");
    assert_eq!(machine.ranges(ZEROES, &[(0, 8, 2)]), 2, "a reserved flag");
    assert_eq!(machine.ranges(ZEROES, &[]), 1);
    assert_eq!(machine.ranges(ZEROES, &[(0, 8, 0); 17]), 1, "more than was offered");
    assert_eq!(machine.ranges(ZEROES, &[(0, 0, 0)]), 0, "nothing to do");
}

#[test]
fn a_driver_that_did_not_accept_a_feature_does_not_have_it() {
    let file = file(8192);
    let disk = Disk { file: file.try_clone().unwrap(), read_only: false };
    let mut machine = Machine::new(Some(disk), Limits::default(), DISCARD | WRITE_ZEROES | FLUSH | EVENT_IDX);
    assert_eq!(machine.ranges(DISCARD_COMMAND, &[(0, 8, 0)]), 2);
    assert_eq!(machine.ranges(ZEROES, &[(0, 8, 0)]), 2);
    // Without FLUSH each write is stored before it is answered: seen here only in that it works.
    assert_eq!(machine.request(OUT, 0, &[Piece::device_reads(DATA, 512)]).0, 0);
}

#[test]
fn a_direct_disk_serves_buffers_of_any_alignment() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, pattern(3 << 20)).unwrap();
    let mut options = OpenOptions::new();
    let direct = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
    let mut machine = Machine::with(&direct, false);
    assert_eq!(machine.capacity(), 6 << 10);
    assert_ne!(machine.block.features() & BLK_SIZE, 0);
    let file = File::open(&path).unwrap();
    for (sector, address, length) in [(8, DATA, 4096), (8, DATA + 512, 4096), (9, DATA + 1, 512), (1, DATA + 7, 2 << 20 >> 1)] {
        machine.driver.memory.write_slice(&vec![0; length as usize], GuestAddress(address)).unwrap();
        assert_eq!(machine.request(IN, sector, &[Piece::device_writes(address, length)]).0, 0);
        let mut read = vec![0; length as usize];
        machine.driver.memory.read_slice(&mut read, GuestAddress(address)).unwrap();
        let start = sector as usize * 512;
        assert!(read == content(&file)[start..start + length as usize]);

        read.reverse();
        machine.driver.memory.write_slice(&read, GuestAddress(address)).unwrap();
        let mut expected = content(&file);
        expected[start..start + length as usize].copy_from_slice(&read);
        assert_eq!(machine.request(OUT, sector, &[Piece::device_reads(address, length)]).0, 0);
        assert!(content(&file) == expected, "sector {sector}: nothing else was touched");
    }
    assert_eq!(machine.ranges(ZEROES, &[(3, 1, 0)]), 0);
    assert_eq!(content(&file)[1536..2048], [0; 512]);
}

#[test]
fn a_disk_is_replaced_while_the_guest_runs() {
    let mut machine = Machine::new(None, Limits::default(), 0);
    assert_eq!(machine.capacity(), 0);
    assert_eq!(machine.request(IN, 0, &[Piece::device_writes(DATA, 512)]).0, 1);
    assert_eq!(machine.request(FLUSH_COMMAND, 0, &[]).0, 1);
    machine.driver.interrupts();
    machine.driver.interrupt().cause().store(0, std::sync::atomic::Ordering::SeqCst);
    let file = file(8192);
    machine.handle.replace(Some(Disk { file: file.try_clone().unwrap(), read_only: false })).unwrap();
    assert_eq!(machine.driver.interrupts(), 1);
    assert_eq!(machine.driver.interrupt().cause().load(std::sync::atomic::Ordering::SeqCst), 2, "configuration has changed");
    assert_eq!(machine.capacity(), 16);
    assert_eq!(machine.request(IN, 0, &[Piece::device_writes(DATA, 512)]), (0, 513));
    assert!(machine.handle.replace(Some(Disk { file: File::open("/dev/null").unwrap(), read_only: true })).is_err());
    assert_eq!(machine.capacity(), 16, "the old one stays");
    machine.handle.replace(None).unwrap();
    assert_eq!(machine.capacity(), 0);
    assert_eq!(machine.request(IN, 0, &[Piece::device_writes(DATA, 512)]).0, 1);

    // Replaced while there is no driver: the next one is told.
    machine.block.reset();
    machine.driver.reset();
    machine.handle.replace(Some(Disk { file, read_only: false })).unwrap();
    machine.driver.interrupts();
    machine.block.activate(machine.driver.activation(machine.block.features())).unwrap();
    assert_eq!(machine.driver.interrupts(), 1);
    assert_eq!(machine.request(IN, 15, &[Piece::device_writes(DATA, 512)]).0, 0);
}

#[test]
fn a_file_that_shrinks_under_the_guest_answers_with_errors() {
    let file = file(8192);
    let mut machine = Machine::with(&file, false);
    file.set_len(1024).unwrap();
    assert_eq!(machine.request(IN, 1, &[Piece::device_writes(DATA, 1024)]).0, 1);
    assert_eq!(machine.request(IN, 1, &[Piece::device_writes(DATA, 512)]).0, 0);
}

#[test]
fn limits_hold_across_requests_and_resets() {
    let file = file(1 << 20);
    let disk = Disk { file, read_only: false };
    // 64 KiB at once, then a KiB in a millisecond.
    let limits = Limits { bytes: Some(Rate { per_second: 1 << 20, burst: 64 << 10 }), operations: None };
    let start = std::time::Instant::now();
    let mut machine = Machine::new(Some(disk), limits, 0);
    for round in 0..3 {
        for _ in 0..2 {
            assert_eq!(machine.request(IN, 0, &[Piece::device_writes(DATA, 64 << 10)]).0, 0);
        }
        machine.block.reset();
        machine.driver.reset();
        machine.block.activate(machine.driver.activation(machine.block.features())).unwrap();
        assert!(start.elapsed() >= Duration::from_millis((round * 2 + 1) * 125 / 2), "round {round}");
    }
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_broken_ring_needs_a_reset_and_gets_one() {
    let file = file(4096);
    let mut machine = Machine::with(&file, false);
    machine.driver.submit(0, &[Piece::device_writes(STATUS, 1)]);
    // 1000 chains in a ring of 16.
    machine.driver.memory.write_obj(1000u16, GuestAddress(0x1000 + 0x1002)).unwrap();
    machine.driver.kick(0);
    assert!(machine.driver.interrupted(Duration::from_secs(20)));
    let status = || machine.driver.interrupt().status().load(std::sync::atomic::Ordering::SeqCst);
    assert_ne!(status() & STATUS_NEEDS_RESET, 0);
    machine.driver.kick(0);
    machine.block.reset();
    machine.driver.reset();
    machine.block.activate(machine.driver.activation(machine.block.features())).unwrap();
    assert_eq!(machine.request(IN, 0, &[Piece::device_writes(DATA, 512)]).0, 0);
}

/// A loop device over a file of the test's, with blocks of 4096 bytes. Nothing where the tests may not make one.
struct Loop(String);

impl Loop {
    fn new(path: &std::path::Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show", "--sector-size", "4096"]).arg(path).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_string();
        output.status.success().then_some(Self(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_is_a_disk_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    std::fs::write(&path, pattern(1 << 20)).unwrap();
    let Some(device) = Loop::new(&path) else {
        eprintln!("no loop device here: needs root and losetup(8)");
        return;
    };
    for flags in [0, libc::O_DIRECT] {
        let mut options = OpenOptions::new();
        let disk = options.read(true).write(true).custom_flags(flags).open(&device.0).unwrap();
        let mut machine = Machine::with(&disk, false);
        assert_eq!(machine.capacity(), 2048);
        let mut block_size = [0; 4];
        machine.block.read_configuration(20, &mut block_size);
        assert_eq!(u32::from_le_bytes(block_size), 4096);
        // Whole blocks, and less than one.
        for (sector, length) in [(16, 8192), (33, 512)] {
            machine.driver.memory.write_slice(&vec![5; length as usize], GuestAddress(DATA)).unwrap();
            assert_eq!(machine.request(OUT, sector, &[Piece::device_reads(DATA, length)]).0, 0);
            assert_eq!(machine.request(IN, sector, &[Piece::device_writes(DATA + 0x10000, length)]).0, 0);
            let mut read = vec![0; length as usize];
            machine.driver.memory.read_slice(&mut read, GuestAddress(DATA + 0x10000)).unwrap();
            assert_eq!(read, vec![5; length as usize]);
        }
        // Zeroes of whole blocks and of part of one; a discard of a block and a half.
        for unmap in [0, 1] {
            assert_eq!(machine.ranges(ZEROES, &[(16, 8, unmap), (33, 1, unmap)]), 0);
        }
        assert_eq!(machine.ranges(DISCARD_COMMAND, &[(804, 12, 0)]), 0);
        assert_eq!(machine.ranges(DISCARD_COMMAND, &[(801, 6, 0)]), 0, "no whole block: nothing to do");
        assert_eq!(machine.request(FLUSH_COMMAND, 0, &[]).0, 0);
        let content = std::fs::read(&path).unwrap();
        let sectors = |range: std::ops::Range<usize>| range.start * 512..range.end * 512;
        assert_eq!(content[sectors(16..24)], [0; 4096]);
        assert_eq!(content[sectors(24..32)], [5; 4096]);
        assert_eq!(content[sectors(33..34)], [0; 512]);
        let untouched = pattern(1 << 20);
        for range in [0..16, 32..33, 34..808, 816..2048] {
            assert!(content[sectors(range.clone())] == untouched[sectors(range)]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_the_guest_asks_the_disk_keeps_its_size_and_a_read_only_one_its_content(
        requests in prop::collection::vec(
            (
                prop_oneof![Just(IN), Just(OUT), Just(FLUSH_COMMAND), Just(GET_ID), Just(DISCARD_COMMAND), Just(ZEROES), any::<u32>()],
                prop_oneof![0..40u64, any::<u64>()],
                prop::collection::vec(
                    (prop_oneof![Just(HEADER), Just(STATUS), DATA..DATA + 0x1000, any::<u64>()],
                     prop_oneof![Just(16u32), Just(512), Just(1), 0..8192u32, any::<u32>()],
                     any::<bool>()),
                    1..6,
                ),
            ),
            1..12,
        ),
        read_only in any::<bool>(),
    ) {
        let file = file(16 << 10);
        let mut machine = Machine::with(&file, read_only);
        for (kind, sector, pieces) in requests {
            machine.header(kind, sector);
            let mut pieces: Vec<_> = pieces.into_iter().map(|(address, length, device_writes)| Piece { address, length, device_writes }).collect();
            pieces.sort_by_key(|piece| piece.device_writes);
            machine.driver.request(0, &pieces);
        }
        prop_assert_eq!(file.metadata().unwrap().len(), 16 << 10);
        if read_only {
            prop_assert_eq!(content(&file), pattern(16 << 10));
        }
        prop_assert_eq!(machine.driver.interrupt().status().load(std::sync::atomic::Ordering::SeqCst), 0);
    }
}
