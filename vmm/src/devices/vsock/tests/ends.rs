//! How connections end, and devices.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;

use super::super::packet::{Header, Operation, SHUT_BOTH, SHUT_RECEIVE, SHUT_SEND};
use super::super::{CONNECTIONS, CREDIT, Vsock};
use super::driver::{Guest, Peer, header};
use super::traffic::device;
use crate::devices::device::Device;
use crate::devices::events::EventLoop;

#[test]
fn a_request_waits_for_the_driver_and_a_refusal_closes_it() {
    let (mut device, handle) = device();
    let (mut granted, mut refused) = (handle.connect(1).unwrap(), handle.connect(2).unwrap());
    granted.write_all(b"early").unwrap();
    let mut guest = Guest::boot(&mut device, true, true);
    let mut peer = Peer::grant(&mut guest, 1, 100);
    let request = guest.expect(Operation::Request);
    Peer::new(request.source_port, 2, 0).send(&mut guest, Operation::Reset, 0, &[]);
    assert_eq!(refused.read(&mut [0]).unwrap(), 0);
    peer.read(&mut guest, 5);
    assert_eq!(peer.received, b"early");
    // A reset of the device closes what there is; what comes after it waits for the next driver.
    device.reset();
    assert_eq!(granted.read(&mut [0]).unwrap(), 0);
    let mut later = handle.connect(3).unwrap();
    let mut guest = Guest::boot(&mut device, false, true);
    let mut peer = Peer::grant(&mut guest, 3, 100);
    peer.send(&mut guest, Operation::Data, 0, b"!");
    later.read_exact(&mut [0]).unwrap();
    drop(device);
    assert_eq!(later.read(&mut [0]).unwrap(), 0);
    assert_eq!(handle.connect(4).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn what_was_sent_before_the_end_is_delivered() {
    for last in [Operation::Shutdown, Operation::Reset] {
        let (mut device, handle) = device();
        let mut guest = Guest::boot(&mut device, true, true);
        let mut stream = handle.connect(1).unwrap();
        let mut peer = Peer::grant(&mut guest, 1, 100);
        // More than the socket's buffer takes: the rest lies in the device.
        let mut sent = 0;
        while peer.credit() > 0 {
            let count = peer.credit().min(8192);
            peer.send(&mut guest, Operation::Data, 0, &vec![7; count]);
            peer.send(&mut guest, Operation::CreditRequest, 0, &[]);
            sent += count;
            let (update, _) = guest.receive();
            peer.hear(&update, &[]);
            while let Some((update, _)) = guest.try_receive() {
                peer.hear(&update, &[]);
            }
        }
        assert!(sent > CREDIT as usize, "{sent}");
        peer.send(&mut guest, last, if last == Operation::Shutdown { SHUT_BOTH } else { 0 }, &[]);
        if last == Operation::Reset {
            // The name is free at once.
            peer.send(&mut guest, Operation::CreditRequest, 0, &[]);
            guest.await_reset();
        }
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), sent);
        if last == Operation::Shutdown {
            guest.await_reset();
        }
    }
}

#[test]
fn each_direction_ends_by_itself() {
    let (mut device, handle) = device();
    let mut guest = Guest::boot(&mut device, true, true);
    let mut stream = handle.connect(1).unwrap();
    let mut peer = Peer::grant(&mut guest, 1, 100);
    // The host sends no more, and still receives.
    stream.write_all(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    peer.read(&mut guest, 4);
    assert_eq!(guest.expect(Operation::Shutdown).flags, SHUT_SEND);
    peer.send(&mut guest, Operation::Data, 0, b"answer");
    stream.read_exact(&mut [0; 6]).unwrap();
    // The host is gone.
    drop(stream);
    assert_eq!(guest.expect(Operation::Shutdown).flags, SHUT_BOTH);
    peer.send(&mut guest, Operation::Reset, 0, &[]);

    // The guest receives no more, and still sends.
    let mut stream = handle.connect(2).unwrap();
    let mut peer = Peer::grant(&mut guest, 2, 100);
    peer.send(&mut guest, Operation::Shutdown, SHUT_RECEIVE, &[]);
    assert_eq!(guest.expect(Operation::Shutdown).flags, SHUT_SEND);
    assert_eq!(stream.write_all(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    peer.send(&mut guest, Operation::Data, 0, b"more");
    stream.read_exact(&mut [0; 4]).unwrap();
    peer.send(&mut guest, Operation::Shutdown, SHUT_SEND, &[]);
    guest.expect(Operation::Reset);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);

    // The host does not receive.
    let stream = handle.connect(3).unwrap();
    let mut peer = Peer::grant(&mut guest, 3, 100);
    stream.shutdown(Shutdown::Read).unwrap();
    peer.send(&mut guest, Operation::Data, 0, b"in vain");
    assert_eq!(guest.expect(Operation::Shutdown).flags, SHUT_RECEIVE);

    // The guest closes with something unread: the host sees an end of file.
    let mut stream = handle.connect(4).unwrap();
    let mut peer = Peer::grant(&mut guest, 4, 0);
    stream.write_all(b"unread").unwrap();
    guest.expect(Operation::CreditRequest);
    peer.send(&mut guest, Operation::Shutdown, SHUT_BOTH, &[]);
    guest.expect(Operation::Reset);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn violations_are_reset() {
    let (mut device, handle) = device();
    let mut guest = Guest::boot(&mut device, true, true);
    let data = |length: u32| Header { length, ..header(0, 0, Operation::Data) };
    let violations: [(&str, Vec<Header>); 5] = [
        ("data after the end of data", vec![Header { flags: SHUT_SEND, ..header(0, 0, Operation::Shutdown) }, data(1)]),
        ("a second request", vec![header(0, 0, Operation::Request)]),
        ("a second response", vec![header(0, 0, Operation::Response)]),
        ("an unknown operation", vec![Header { operation: 99, ..data(0) }]),
        ("less data than the header says", vec![data(5)]),
    ];
    for (port, (what, packets)) in violations.into_iter().enumerate() {
        let mut stream = handle.connect(port as u32).unwrap();
        let peer = Peer::grant(&mut guest, port as u32, 100);
        for packet in packets {
            let payload = vec![0; packet.length.min(4) as usize];
            guest.send_raw(&Header { source_port: port as u32, destination_port: peer.host, ..packet }, &payload);
        }
        assert_eq!(guest.expect(Operation::Reset).destination_port, port as u32, "{what}");
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{what}");
    }
    // Nobody's packets: another type of socket, another address, a port without a listener.
    for packet in [
        Header { kind: 2, ..header(1, 1, Operation::Request) },
        Header { destination_cid: 9, ..header(1, 1, Operation::Request) },
        header(1, 1, Operation::Request),
        header(1, 1, Operation::Data),
    ] {
        // One with a forged sender is not answered, nor is a reset.
        guest.send_raw(&Header { source_cid: 8, ..packet }, &[]);
        guest.send_raw(&Header { operation: Operation::Reset as u16, ..packet }, &[]);
        guest.send_raw(&packet, &[]);
        let reset = guest.expect(Operation::Reset);
        assert_eq!((reset.kind, reset.source_cid, reset.source_port), (packet.kind, packet.destination_cid, 1));
    }
}

#[test]
fn connections_are_counted() {
    let (mut device, handle) = device();
    let (sender, receiver) = channel();
    handle.listen(80, Box::new(move |stream| sender.send(stream).unwrap()));
    let mut guest = Guest::boot(&mut device, true, true);
    let mut streams = Vec::new();
    // Each costs the test two descriptors; the usual limit is 1024.
    let limit = rlimit();
    for port in 0..=CONNECTIONS as u32 {
        guest.send_raw(&header(80, port, Operation::Request), &[]);
        let operation = guest.receive().0.operation;
        if operation == Operation::Reset as u16 {
            assert!(streams.len() == CONNECTIONS || streams.len() * 2 + 100 > limit, "{} connections", streams.len());
            return;
        }
        streams.push(receiver.recv().unwrap());
    }
    panic!("as many connections as the guest likes");
}

/// Raises the limit of descriptors as far as it goes.
fn rlimit() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.min(4096).max(soft);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    wanted as usize
}

#[test]
fn addresses_are_a_guests() {
    for cid in [0, 1, 2, 0xffff_ffff, 1 << 40] {
        assert!(Vsock::new(cid, EventLoop::start("vsock", || Ok(())).unwrap()).is_err());
    }
    let (device, _) = device();
    let mut data = [0; 8];
    device.read_configuration(0, &mut data);
    assert_eq!(u64::from_le_bytes(data), 3);
}
