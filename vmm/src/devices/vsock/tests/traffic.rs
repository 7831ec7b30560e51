//! Bytes, both ways, through every way to a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::channel;
use std::thread;

use super::super::packet::{Operation, SHUT_BOTH, SHUT_SEND};
use super::super::{Handle, Vsock};
use super::driver::{CID, Guest, Peer};
use crate::devices::device::Device;
use crate::devices::events::EventLoop;

pub fn device() -> (Vsock, Handle) {
    Vsock::new(CID, EventLoop::start("vsock", || Ok(())).unwrap()).unwrap()
}

fn pattern(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 31 + at / 251 + seed) % 256) as u8).collect()
}

/// Sends and receives a lot at the same time, and ends it from both sides.
fn exchange(guest: &mut Guest, mut peer: Peer, stream: UnixStream, length: usize) {
    let (up, down) = (pattern(length, 1), pattern(length, 2));
    let (mut writer, mut reader) = (stream.try_clone().unwrap(), stream);
    let expected = up.clone();
    let written = down.clone();
    let writes = thread::spawn(move || {
        writer.write_all(&written).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let reads = thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let mut sent = 0;
    let before = peer.received.len();
    while peer.shut & SHUT_SEND == 0 || sent < up.len() {
        let count = peer.credit().min(up.len() - sent).min(10_000);
        if count > 0 {
            peer.send(guest, Operation::Data, 0, &up[sent..sent + count]);
            sent += count;
        }
        // With credit left, or everything said on both sides, nothing need come.
        let packet = if sent < up.len() && peer.credit() > 0 || sent == up.len() && peer.shut & SHUT_SEND != 0 {
            guest.try_receive()
        } else {
            Some(guest.receive())
        };
        if let Some((header, payload)) = packet {
            peer.hear(&header, &payload);
            peer.take(guest);
        }
    }
    assert!(peer.received[before..] == down, "the guest got something else");
    writes.join().unwrap();
    // The host has ended its direction, the guest's goes on until now.
    peer.send(guest, Operation::Shutdown, SHUT_SEND, &[]);
    assert!(reads.join().unwrap() == expected, "the host got something else");
    // Everything is over: the device says so, and the guest has the last word.
    while peer.shut != SHUT_BOTH {
        let (header, payload) = guest.receive();
        peer.hear(&header, &payload);
    }
    peer.send(guest, Operation::Reset, 0, &[]);
}

#[test]
fn megabytes_travel_with_little_credit() {
    for event_index in [true, false] {
        let (mut device, handle) = device();
        let (sender, receiver) = channel();
        handle.listen(80, Box::new(move |stream| sender.send(stream).unwrap()));
        let mut guest = Guest::boot(&mut device, event_index, true);
        let stream = handle.connect(1025).unwrap();
        let peer = Peer::grant(&mut guest, 1025, 5000);
        exchange(&mut guest, peer, stream, 3 << 20);
        let peer = Peer::ask(&mut guest, 80, 999, 70_000);
        exchange(&mut guest, peer, receiver.recv().unwrap(), 3 << 20);
        // The port pair is free again.
        let peer = Peer::ask(&mut guest, 80, 999, 1);
        exchange(&mut guest, peer, receiver.recv().unwrap(), 1000);
        assert_eq!(guest.interrupt.status().load(std::sync::atomic::Ordering::SeqCst), 0);
    }
}

#[test]
fn connections_take_turns() {
    let (mut device, handle) = device();
    let mut guest = Guest::boot(&mut device, true, true);
    let mut streams: Vec<_> = (0..20).map(|port| handle.connect(port).unwrap()).collect();
    let mut peers: Vec<_> = (0..20).map(|port| Peer::grant(&mut guest, port, 100_000)).collect();
    let mut hosts: Vec<_> = peers.iter().map(|peer| peer.host).collect();
    hosts.dedup();
    assert_eq!(hosts.len(), 20, "two connections have one host port");
    for (seed, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&pattern(50_000, seed)).unwrap();
    }
    while peers.iter().any(|peer| peer.received.len() < 50_000) {
        let (header, payload) = guest.receive();
        let peer = &mut peers[header.destination_port as usize];
        peer.hear(&header, &payload);
        peer.take(&mut guest);
    }
    for (seed, peer) in peers.iter().enumerate() {
        assert!(peer.received == pattern(50_000, seed));
    }
}

#[test]
fn a_client_says_where_it_wants_to_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v.sock");
    let (mut device, handle) = device();
    handle.serve(UnixListener::bind(&path).unwrap()).unwrap();
    // Before there is a driver.
    let mut early = UnixStream::connect(&path).unwrap();
    early.write_all(b"CONNECT 52\nfirst").unwrap();
    let mut guest = Guest::boot(&mut device, true, true);
    let mut peer = Peer::grant(&mut guest, 52, 1000);
    let mut lines = BufReader::new(early.try_clone().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, format!("OK {}\n", peer.host));
    peer.read(&mut guest, 5);
    assert_eq!(peer.received, b"first");
    exchange(&mut guest, peer, early, 100_000);
    // One that the guest refuses, and one that does not know the language.
    let mut refused = UnixStream::connect(&path).unwrap();
    refused.write_all(b"CONNECT 53\n").unwrap();
    let request = guest.expect(Operation::Request);
    Peer::new(request.source_port, 53, 0).send(&mut guest, Operation::Reset, 0, &[]);
    let mut stranger = UnixStream::connect(&path).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    for mut stream in [refused, stranger] {
        // An end of file, or ECONNRESET for what was not read.
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
}

#[test]
fn a_guest_reaches_sockets_of_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("v.sock_7000")).unwrap();
    let (mut device, handle) = device();
    handle.forward(std::fs::File::open(directory.path()).unwrap().into(), "v.sock".into()).unwrap();
    let mut guest = Guest::boot(&mut device, true, true);
    let peer = Peer::ask(&mut guest, 7000, 5, 4000);
    exchange(&mut guest, peer, listener.accept().unwrap().0, 200_000);
    Peer::new(7001, 5, 0).send(&mut guest, Operation::Request, 0, &[]);
    assert_eq!(guest.expect(Operation::Reset).source_port, 7001);
    device.reset();
}
