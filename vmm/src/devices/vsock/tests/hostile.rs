//! A hostile guest: packets and rings without sense.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::host::{Host, Shared};
use super::super::multiplexer::Multiplexer;
use super::super::packet::{Header, Operation};
use super::super::ring::Ring;
use super::super::worker::{Queues, Worker};
use super::super::{CONNECTIONS, CREDIT, HOST_CID, REFUSALS};
use super::driver::{CID, Guest, Side, eventfd, header, memory};
use super::traffic::device;
use crate::devices::device::{Device, Interrupt, STATUS_NEEDS_RESET};

#[derive(Debug, Clone)]
enum Step {
    /// A packet of the guest's.
    Packet(Header),
    /// The guest takes so many packets.
    Take(usize, usize),
    /// The host asks for a connection.
    Connect(u32),
    /// The host writes, reads, closes one of its ends.
    Write(usize, usize),
    Read(usize, usize),
    Close(usize),
    /// News of sockets.
    News,
}

/// Few values each, so that packets meet connections.
fn packet() -> impl Strategy<Value = Header> {
    let cid = |right: u64| prop_oneof![20 => Just(right), 1 => any::<u64>()];
    let host_port = prop_oneof![4 => 1u32..4, 4 => (1u32 << 30)..(1 << 30) + 4, 1 => any::<u32>()];
    let operation = prop_oneof![8 => Just(5u16), 10 => 1u16..8, 1 => any::<u16>()];
    let kind = prop_oneof![20 => Just(1u16), 1 => any::<u16>()];
    let length = prop_oneof![Just(0), 0u32..100, 0u32..=CREDIT];
    let counters = (prop_oneof![0u32..100_000, any::<u32>()], prop_oneof![2 => Just(0), 1 => any::<u32>()]);
    (cid(CID), cid(HOST_CID), 1u32..4, host_port, length, kind, operation, 0u32..4, counters).prop_map(
        |(source_cid, destination_cid, source_port, destination_port, length, kind, operation, flags, (buffer, forwarded))| Header {
            source_cid,
            destination_cid,
            source_port,
            destination_port,
            length,
            kind,
            operation,
            flags,
            buffer,
            forwarded,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => packet().prop_map(Step::Packet),
        4 => (1usize..8, 1usize..5000).prop_map(|(count, room)| Step::Take(count, room)),
        2 => (1u32..4).prop_map(Step::Connect),
        2 => (0usize..8, 0usize..10_000).prop_map(|(which, count)| Step::Write(which, count)),
        2 => (0usize..8, 0usize..100_000).prop_map(|(which, count)| Step::Read(which, count)),
        1 => (0usize..8).prop_map(Step::Close),
        3 => Just(Step::News),
    ];
    proptest::collection::vec(step, 0..120)
}

fn news(multiplexer: &mut Multiplexer) {
    use super::super::sockets::Token;
    for (token, news) in multiplexer.watch().news() {
        if let Token::Connection(id) = token {
            multiplexer.socket_news(id, news);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the guest sends: memory is bounded, the books agree, and no packet exceeds what the guest has last said that it takes.
    #[test]
    fn packets_without_sense_do_no_harm(steps in steps()) {
        let mut multiplexer = Multiplexer::new(CID).unwrap();
        let mut host = Host::default();
        let ends: Arc<Mutex<Vec<UnixStream>>> = Arc::default();
        for port in 1..3 {
            let ends = ends.clone();
            host.listen(port, Box::new(move |stream| ends.lock().unwrap().push(stream)));
        }
        // What the guest said last for each pair of ports: buf_alloc.
        let mut said = std::collections::HashMap::new();
        let payload = vec![1; CREDIT as usize];
        for step in steps {
            match step {
                Step::Packet(header) => {
                    if !multiplexer.is_congested() {
                        multiplexer.receive(&header, &payload[..header.length as usize], &mut host);
                        if (header.source_cid, header.destination_cid, header.kind) == (CID, HOST_CID, 1) {
                            let most = said.entry((header.destination_port, header.source_port)).or_insert(0u32);
                            *most = (*most).max(header.buffer);
                        }
                    }
                }
                Step::Take(count, room) => {
                    let mut bytes = vec![0; room];
                    for _ in 0..count {
                        let Some((header, length)) = multiplexer.next_packet(&mut bytes) else { break };
                        prop_assert!(length <= room && header.length as usize == length);
                        if header.operation == Operation::Data as u16 {
                            let most = said.get(&(header.source_port, header.destination_port)).copied().unwrap_or(0);
                            prop_assert!(length > 0 && length <= most as usize);
                        }
                    }
                }
                Step::Connect(port) => {
                    let (ours, theirs) = UnixStream::pair().unwrap();
                    multiplexer.connect(port, theirs, port == 3, false);
                    ends.lock().unwrap().push(ours);
                }
                Step::Write(which, count) => {
                    if let Some(end) = ends.lock().unwrap().get(which) {
                        let _ = super::super::sockets::write(end, &payload[..count]);
                    }
                }
                Step::Read(which, count) => {
                    if let Some(end) = ends.lock().unwrap().get_mut(which) {
                        end.set_nonblocking(true).unwrap();
                        let _ = end.read(&mut vec![0; count]);
                    }
                }
                Step::Close(which) => {
                    let mut ends = ends.lock().unwrap();
                    if which < ends.len() {
                        ends.remove(which);
                    }
                }
                Step::News => news(&mut multiplexer),
            }
            let [names, talkers, refusals] = multiplexer.entries();
            let connections = multiplexer.connections().count();
            prop_assert!(connections <= CONNECTIONS && refusals <= REFUSALS);
            prop_assert_eq!(names, multiplexer.connections().filter(|connection| !connection.is_detached()).count());
            prop_assert_eq!(talkers, multiplexer.connections().filter(|connection| connection.has_packet()).count());
            prop_assert!(multiplexer.connections().all(|connection| connection.backlog() <= CREDIT as usize && !connection.is_over()));
        }
        // Once every host's end is closed and the guest takes and forgets everything, nothing is left.
        ends.lock().unwrap().clear();
        for _ in 0..4 {
            news(&mut multiplexer);
        }
        while multiplexer.has_packet() {
            multiplexer.next_packet(&mut [0; 4096]);
        }
        let left: Vec<_> = multiplexer.connections().map(super::super::connection::Connection::ports).collect();
        for ports in left {
            multiplexer.receive(&header(ports.host, ports.guest, Operation::Reset), &[], &mut host);
        }
        prop_assert_eq!((multiplexer.connections().count(), multiplexer.entries()), (0, [0; 3]));
    }

    /// Rings and descriptors of random bytes, which change between two looks: the device answers, or gives up and says so.
    #[test]
    fn rings_without_sense_do_no_harm(
        tables in proptest::collection::vec((0u64..0x30000, 0u32..5000, 0u16..8, 0u16..300), 0..64),
        wild in proptest::collection::vec((0u64..0x6000, any::<[u8; 4]>()), 0..40),
        indices in proptest::collection::vec((any::<bool>(), prop_oneof![0u16..300, any::<u16>()]), 1..6),
        packets in proptest::collection::vec(packet(), 0..8),
        event_index in any::<bool>(),
    ) {
        let memory = memory();
        let (receive, transmit) = (Side::new(&memory, 0x1000, event_index), Side::new(&memory, 0x4000, event_index));
        let interrupt = Interrupt::new(eventfd());
        let queues = Queues {
            memory: memory.clone(),
            receive: Ring::new(receive.active(), event_index),
            transmit: Ring::new(transmit.active(), event_index),
            interrupt: interrupt.clone(),
        };
        let mut host = Host::default();
        host.listen(1, Box::new(drop));
        let mut worker = Worker::new(queues, Multiplexer::new(CID).unwrap(), Arc::new(Shared::new().unwrap()), Arc::default());
        for (number, (address, length, flags, next)) in tables.into_iter().enumerate() {
            let (side, number) = if number % 2 == 0 { (&receive, number / 2) } else { (&transmit, number / 2) };
            // Some lie beyond the end of memory.
            let address = if address > 0x2f000 { address << 8 } else { address };
            side.describe(number as u16, address, length, flags ^ if number % 2 == 0 { 2 } else { 0 }, next);
        }
        for (number, packet) in packets.iter().enumerate() {
            memory.write_slice(&packet.encode(), GuestAddress(0x10000 + number as u64 * 0x400)).unwrap();
            transmit.describe(number as u16 * 2, 0x10000 + number as u64 * 0x400, 0x400, 0, 0);
        }
        for (at, bytes) in &wild {
            memory.write_slice(bytes, GuestAddress(0x1000 + at)).unwrap();
        }
        for (which, index) in indices {
            let base = if which { 0x1000 } else { 0x4000 };
            memory.store(index, GuestAddress(base + 4096 + 2), Ordering::SeqCst).unwrap();
            if worker.serve(&mut host).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_guest_that_overruns_its_credit_is_reset() {
    let mut multiplexer = Multiplexer::new(CID).unwrap();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    multiplexer.connect(1, theirs, false, false);
    let (request, _) = multiplexer.next_packet(&mut [0; 100]).unwrap();
    let mut host = Host::default();
    let mut guest = |multiplexer: &mut Multiplexer, operation, length: u32| {
        let header = Header { length, ..header(request.source_port, 1, operation) };
        multiplexer.receive(&header, &vec![0; length as usize], &mut host);
        multiplexer.next_packet(&mut [0; 100]).map(|(header, _)| header)
    };
    assert_eq!(guest(&mut multiplexer, Operation::Response, 0), None);
    // Nobody reads: credit shrinks by what the socket's buffer does not take.
    let (mut sent, mut taken) = (0, 0);
    while sent - taken < CREDIT {
        let length = (CREDIT - (sent - taken)).min(4096);
        sent += length;
        if let Some(header) = guest(&mut multiplexer, Operation::Data, length) {
            assert_eq!((header.operation, header.buffer), (Operation::CreditUpdate as u16, CREDIT));
            taken = header.forwarded;
        }
        assert!(multiplexer.connections().all(|connection| connection.backlog() <= CREDIT as usize));
    }
    assert!(taken > 0);
    let reset = guest(&mut multiplexer, Operation::Data, 1).unwrap();
    assert_eq!(reset.operation, Operation::Reset as u16);
    assert_eq!(multiplexer.connections().count(), 0);
}

#[test]
fn what_can_not_go_on_wakes_nobody() {
    let mut multiplexer = Multiplexer::new(CID).unwrap();
    let mut host = Host::default();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    multiplexer.connect(1, theirs, false, false);
    let (request, _) = multiplexer.next_packet(&mut [0; 100]).unwrap();
    let data = Header { buffer: 0, ..header(request.source_port, 1, Operation::Data) };
    let response = Header { operation: Operation::Response as u16, ..data };
    multiplexer.receive(&response, &[], &mut host);
    // The host writes where the guest has no credit, and does not read what the guest writes.
    ours.write_all(b"waits").unwrap();
    let mut sent = 0;
    while multiplexer.connections().all(|connection| !connection.is_blocked()) {
        multiplexer.receive(&Header { length: 4096, ..data }, &[0; 4096], &mut host);
        while multiplexer.next_packet(&mut [0; 100]).is_some() {}
        sent += 4096;
    }
    news(&mut multiplexer);
    let (asks, _) = multiplexer.next_packet(&mut [0; 100]).unwrap();
    assert_eq!(asks.operation, Operation::CreditRequest as u16);
    assert!(!multiplexer.has_packet());
    assert_eq!(multiplexer.watch().news().count(), 0);
    // Room to write is news, and only as long as it is wanted.
    ours.read_exact(&mut vec![0; sent - multiplexer.connections().map(|connection| connection.backlog()).sum::<usize>()]).unwrap();
    news(&mut multiplexer);
    assert!(multiplexer.connections().all(|connection| connection.backlog() == 0 && !connection.is_blocked()));
    ours.set_nonblocking(true).unwrap();
    let _ = ours.read(&mut vec![0; sent]).unwrap();
    news(&mut multiplexer);
    assert_eq!(multiplexer.watch().news().count(), 0);
    // Credit is, too.
    multiplexer.receive(&Header { operation: Operation::CreditUpdate as u16, buffer: 5, ..data }, &[], &mut host);
    assert!(multiplexer.has_packet());
    let mut bytes = [0; 100];
    let (packet, length) = multiplexer.next_packet(&mut bytes).unwrap();
    assert_eq!((packet.operation, &bytes[..length]), (Operation::Data as u16, &b"waits"[..]));
}

#[test]
fn a_guest_that_takes_nothing_is_not_heard_for_ever() {
    let (mut device, _handle) = device();
    let mut guest = Guest::boot(&mut device, true, false);
    // One descriptor that every entry of the available ring names: a request that nobody answers.
    guest.memory.write_slice(&header(9, 9, Operation::Request).encode(), GuestAddress(0x100000)).unwrap();
    guest.transmit.describe(0, 0x100000, 44, 0, 0);
    let (mut offered, mut used) = (0, 0);
    while used < REFUSALS {
        while offered - used < 200 {
            guest.transmit.offer(0);
            offered += 1;
        }
        let before = used;
        while guest.transmit.take().is_some() {
            used += 1;
        }
        if used == before {
            guest.wait_interrupt();
        }
    }
    assert_eq!(used, REFUSALS);
    // Buffers come: so do the refusals, and the rest is heard.
    for index in 0..200 {
        guest.receive.describe(index, 0x200000, 100, 2, 0);
        guest.receive.offer(index);
    }
    let mut refused = 0;
    while refused < offered {
        while let Some((index, length)) = guest.receive.take() {
            assert_eq!(length, 44);
            refused += 1;
            guest.receive.offer(index);
        }
        if refused < offered {
            guest.wait_interrupt();
        }
    }
    device.reset();
}

#[test]
fn a_ring_beyond_understanding_needs_a_reset() {
    let (mut device, handle) = device();
    let mut guest = Guest::boot(&mut device, true, true);
    let mut stream = handle.connect(1).unwrap();
    let _ = guest.expect(Operation::Request);
    // More entries than the queue has.
    guest.memory.store(5000u16, GuestAddress(0x20000 + 4096 + 2), Ordering::SeqCst).unwrap();
    guest.transmit.active().kick.write(1).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(guest.interrupt.status().load(Ordering::SeqCst), STATUS_NEEDS_RESET);
    assert_eq!(handle.connect(1).unwrap().read(&mut [0]).unwrap(), 0);
    // A chain in a loop, one out of memory, one to be written: they are given back unread.
    device.reset();
    let mut guest = Guest::boot(&mut device, true, true);
    for (index, (address, flags, next)) in [(0u64, 1, 0), (1 << 40, 0, 0), (0, 2, 0)].into_iter().enumerate() {
        guest.transmit.describe(index as u16, address, 44, flags, next);
        guest.transmit.offer(index as u16);
    }
    for index in 0..3 {
        let used = loop {
            if let Some(used) = guest.transmit.take() {
                break used;
            }
            guest.wait_interrupt();
        };
        assert_eq!(used, (index, 0));
    }
    assert_eq!(guest.interrupt.status().load(Ordering::SeqCst), 0);
}
