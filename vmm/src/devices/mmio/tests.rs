use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemory};

use super::super::device::{Kind, read_bytes};
use super::*;

/// What has happened to a [`Dummy`].
#[derive(Default)]
struct Record {
    active: Option<Activation>,
    activations: usize,
    written: Vec<(u64, Vec<u8>)>,
    configuration: [u8; 8],
    refuse: bool,
}

/// A device that writes down what is done to it, and stops a test where a transport breaks its promises.
struct Dummy(Arc<Mutex<Record>>);

const FEATURES: u64 = 1 << 5 | 1 << 40;

impl Device for Dummy {
    fn kind(&self) -> Kind {
        Kind::Random
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 16]
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.0.lock().unwrap().configuration, offset, data);
    }

    fn write_configuration(&mut self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().written.push((offset, data.to_vec()));
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let mut record = self.0.lock().unwrap();
        assert!(record.active.is_none(), "activated twice");
        assert_eq!(activation.features & !(FEATURES | VERSION_1), 0, "accepted what was not offered");
        assert_ne!(activation.features & VERSION_1, 0, "a legacy driver");
        for (index, queue) in &activation.queues {
            let queue = &queue.queue;
            assert!(queue.ready() && queue.size() <= self.queue_sizes()[*index] && queue.size().is_power_of_two());
            assert!(activation.memory.check_range(GuestAddress(queue.desc_table()), 16 * usize::from(queue.size())));
        }
        record.activations += 1;
        if record.refuse {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        record.active = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        self.0.lock().unwrap().active = None;
    }
}

struct Bench {
    transport: Transport,
    record: Arc<Mutex<Record>>,
}

impl Bench {
    fn new() -> Self {
        let record = Arc::<Mutex<Record>>::default();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        Self { transport: Transport::new(Box::new(Dummy(record.clone())), memory).unwrap(), record }
    }

    fn set(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn get(&mut self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn accept(&mut self, features: u64) {
        self.set(STATUS, 1);
        self.set(STATUS, 3);
        self.set(DRIVER_FEATURES_SELECT, 0);
        self.set(DRIVER_FEATURES, features as u32);
        self.set(DRIVER_FEATURES_SELECT, 1);
        self.set(DRIVER_FEATURES, (features >> 32) as u32);
        self.set(STATUS, 11);
    }

    fn describe(&mut self, index: u32, size: u32, table: u32) {
        self.set(QUEUE_SELECT, index);
        self.set(QUEUE_SIZE, size);
        self.set(QUEUE_TABLE[0], table);
        self.set(QUEUE_AVAILABLE[0], 0x2000);
        self.set(QUEUE_USED[0], 0x3000);
        self.set(QUEUE_READY, 1);
    }
}

#[test]
fn a_driver_by_the_book_gets_its_device() {
    let mut bench = Bench::new();
    assert_eq!((bench.get(MAGIC), bench.get(VERSION), bench.get(DEVICE)), (0x7472_6976, 2, 4));
    bench.set(DEVICE_FEATURES_SELECT, 1);
    assert_eq!(bench.get(DEVICE_FEATURES), (FEATURES >> 32) as u32 | 1);
    bench.accept(VERSION_1 | 1 << 40);
    assert_eq!(bench.get(STATUS), 11);
    bench.set(QUEUE_SELECT, 1);
    assert_eq!(bench.get(QUEUE_SIZE_MAX), 16);
    bench.describe(1, 8, 0x1000);
    bench.set(STATUS, 15);
    assert_eq!(bench.get(STATUS), 15);
    let record = bench.record.lock().unwrap();
    let activation = record.active.as_ref().unwrap();
    assert_eq!(activation.features, VERSION_1 | 1 << 40);
    assert_eq!(activation.queues.iter().map(|(index, queue)| (*index, queue.queue.size())).collect::<Vec<_>>(), [(1, 8)]);
}

#[test]
fn features_are_what_was_offered_and_nothing_older() {
    for bad in [0, FEATURES, VERSION_1 | 1 << 6, VERSION_1 | 1 << 63] {
        let mut bench = Bench::new();
        bench.accept(bad);
        assert_eq!(bench.get(STATUS), 3, "{bad:#x}");
        bench.set(STATUS, 15);
        assert_eq!(bench.get(STATUS), 3);
        assert_eq!(bench.record.lock().unwrap().activations, 0);
    }
    // A feature word that does not exist.
    let mut bench = Bench::new();
    bench.set(STATUS, 3);
    bench.set(DRIVER_FEATURES_SELECT, 2);
    bench.set(DRIVER_FEATURES, 1);
    bench.accept(VERSION_1);
    bench.set(STATUS, 11);
    assert_eq!(bench.get(STATUS) & 8, 8, "the two real words replaced what the third had spoilt");
}

#[test]
fn what_comes_out_of_turn_is_ignored() {
    let mut bench = Bench::new();
    // No DRIVER without ACKNOWLEDGE, no features without DRIVER, no queues without FEATURES_OK, no DRIVER_OK at once.
    bench.set(STATUS, 2);
    assert_eq!(bench.get(STATUS), 0);
    bench.set(DRIVER_FEATURES, 1 << 5);
    bench.describe(0, 8, 0x1000);
    assert_eq!(bench.get(QUEUE_READY), 0);
    bench.set(STATUS, 15);
    assert_eq!(bench.get(STATUS), 3);
    bench.accept(VERSION_1);
    // A bit is not taken back.
    bench.set(STATUS, 3);
    assert_eq!(bench.get(STATUS), 11);
    // A ready queue does not change; features do not either.
    bench.describe(0, 8, 0x1000);
    bench.set(QUEUE_SIZE, 3);
    bench.set(DRIVER_FEATURES, u32::MAX);
    bench.set(STATUS, 15);
    bench.set(QUEUE_READY, 0);
    assert_eq!((bench.get(STATUS), bench.get(QUEUE_READY)), (15, 1));
    assert_eq!(bench.record.lock().unwrap().active.as_ref().unwrap().features, VERSION_1);
}

#[test]
fn a_queue_that_is_none_needs_a_reset() {
    let mut bench = Bench::new();
    bench.accept(VERSION_1);
    bench.describe(0, 256, 0xfff0);
    bench.set(STATUS, 15);
    assert_eq!(bench.get(STATUS), 15 | 64);
    assert_eq!(bench.get(INTERRUPT_STATUS), 2);
    assert_eq!(bench.transport.line().read().unwrap(), 1);
    assert_eq!(bench.record.lock().unwrap().activations, 0);
    // The driver cannot talk it away; a reset does, and the next attempt works.
    bench.set(STATUS, 15);
    assert_eq!(bench.get(STATUS), 15 | 64);
    bench.set(STATUS, 0);
    assert_eq!((bench.get(STATUS), bench.get(INTERRUPT_STATUS)), (0, 0));
    bench.accept(VERSION_1);
    bench.describe(0, 256, 0x1000);
    bench.set(STATUS, 15);
    assert_eq!(bench.get(STATUS), 15);
    assert!(bench.record.lock().unwrap().active.is_some());
}

#[test]
fn a_device_that_cannot_start_says_so() {
    let mut bench = Bench::new();
    bench.record.lock().unwrap().refuse = true;
    bench.accept(VERSION_1);
    bench.set(STATUS, 15);
    assert_eq!(bench.get(STATUS), 15 | 64);
}

#[test]
fn a_reset_stops_the_device_and_forgets_kicks() {
    let mut bench = Bench::new();
    bench.accept(VERSION_1);
    bench.describe(0, 8, 0x1000);
    bench.set(STATUS, 15);
    bench.set(QUEUE_NOTIFY, 0);
    bench.set(QUEUE_NOTIFY, 7);
    bench.set(STATUS, 0);
    assert!(bench.record.lock().unwrap().active.is_none());
    assert!(bench.transport.kicks()[0].read().is_err());
    bench.set(QUEUE_SELECT, 0);
    assert_eq!(bench.get(QUEUE_READY), 0);
    bench.set(QUEUE_NOTIFY, 1);
    assert_eq!(bench.transport.kicks()[1].read().unwrap(), 1);
}

#[test]
fn the_generation_tells_of_a_change() {
    let mut bench = Bench::new();
    let before = bench.get(CONFIGURATION_GENERATION);
    assert_eq!(bench.get(CONFIGURATION_GENERATION), before);
    bench.record.lock().unwrap().configuration[3] = 9;
    assert_ne!(bench.get(CONFIGURATION_GENERATION), before);
    assert_eq!(bench.get(CONFIGURATION), 9 << 24);
    let mut byte = [0];
    bench.transport.read(CONFIGURATION + 3, &mut byte);
    assert_eq!(byte, [9]);
}

#[test]
fn configuration_is_written_only_by_a_driver_with_features() {
    let mut bench = Bench::new();
    bench.transport.write(CONFIGURATION + 2, &[1]);
    bench.accept(VERSION_1);
    bench.transport.write(CONFIGURATION + 2, &[2, 3]);
    assert_eq!(bench.record.lock().unwrap().written, [(2, vec![2, 3])]);
}

#[test]
fn registers_are_words() {
    let mut bench = Bench::new();
    let mut half = [0; 2];
    bench.transport.read(MAGIC, &mut half);
    assert_eq!(half, [0xff; 2]);
    bench.transport.write(STATUS, &[1]);
    assert_eq!(bench.get(STATUS), 0);
    assert_eq!(SHARED_MEMORY.map(|register| bench.get(register)), [u32::MAX; 4]);
    bench.set(QUEUE_SELECT, 2);
    assert_eq!(bench.get(QUEUE_SIZE_MAX), 0);
    bench.set(QUEUE_SELECT, u32::MAX);
    assert_eq!((bench.get(QUEUE_SIZE_MAX), bench.get(QUEUE_READY)), (0, 0));
}

/// One access; registers and the values that get a driver somewhere are likelier than others.
fn access() -> impl Strategy<Value = (u64, Vec<u8>, bool)> {
    let offset = prop_oneof![
        6 => prop::sample::select(vec![
            STATUS, DRIVER_FEATURES, DRIVER_FEATURES_SELECT, QUEUE_SELECT, QUEUE_SIZE, QUEUE_READY, QUEUE_TABLE[0], QUEUE_TABLE[1], QUEUE_AVAILABLE[0],
            QUEUE_USED[0], QUEUE_NOTIFY, INTERRUPT_ACKNOWLEDGE, CONFIGURATION_GENERATION, CONFIGURATION
        ]),
        1 => 0..0x1000u64,
        1 => any::<u64>(),
    ];
    let value = prop_oneof![
        4 => prop::sample::select(vec![0u32, 1, 3, 8, 11, 15, 16, 64, 75, 79, 128, 256, 0x1000]).prop_map(|word| word.to_le_bytes().to_vec()),
        1 => any::<u32>().prop_map(|word| word.to_le_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..9),
    ];
    (offset, value, any::<bool>())
}

proptest! {
    /// Whatever a guest does to the registers: no panic, and the device's own assertions hold. The status register's steps stay in order.
    #[test]
    fn no_sequence_of_accesses_breaks_a_promise(accesses in prop::collection::vec(access(), 0..200)) {
        let mut bench = Bench::new();
        for (offset, mut data, write) in accesses {
            if write {
                bench.transport.write(offset, &data);
            } else {
                bench.transport.read(offset, &mut data);
            }
            let status = bench.get(STATUS) as u8;
            prop_assert!(status & DRIVER == 0 || status & ACKNOWLEDGE != 0);
            prop_assert!(status & FEATURES_OK == 0 || status & DRIVER != 0);
            prop_assert!(status & DRIVER_OK == 0 || status & FEATURES_OK != 0);
            let alive = bench.record.lock().unwrap().active.is_some();
            prop_assert_eq!(alive, status & DRIVER_OK != 0 && status & STATUS_NEEDS_RESET == 0);
        }
    }
}
