use std::sync::Arc;

use super::super::address::{SocketAddress, UnixName};
use super::super::socket::{Outgoing, Socket};
use super::super::testing::{accept, addressed, bind, caller, connect, open, receive, receive_message, send, send_message};
use super::{pair, rights, socket};
use crate::errno::Errno;
use crate::kernel::wait::Ready;

fn pair_of(kind: i32) -> (Arc<Socket>, Arc<Socket>) {
    pair(kind, 0, &caller()).unwrap()
}

fn fresh(kind: i32) -> Arc<Socket> {
    socket(kind, 0, &caller()).unwrap()
}

fn named(name: &str) -> SocketAddress {
    SocketAddress::Unix(Some(UnixName::Abstract(name.as_bytes().into())))
}

fn listener(kind: i32, name: &str, backlog: i32) -> Arc<Socket> {
    let socket = fresh(kind);
    bind(&socket, &named(name)).unwrap();
    socket.protocol.listen(&caller(), backlog).unwrap();
    socket
}

#[test]
fn a_stream_has_no_borders() {
    let (a, b) = pair_of(libc::SOCK_STREAM);
    assert_eq!(receive(&b, 1), Err(Errno::EAGAIN));
    assert!(!b.protocol.poll().contains(Ready::IN));
    send(&a, b"hello ").unwrap();
    send(&a, b"world").unwrap();
    assert!(b.protocol.poll().contains(Ready::READABLE | Ready::WRITABLE));
    assert_eq!(receive_message(&b, 3, libc::MSG_PEEK).unwrap().0, b"hel");
    assert_eq!(receive(&b, 8).unwrap(), b"hello wo");
    assert_eq!(receive(&b, 8).unwrap(), b"rld");
}

#[test]
fn a_sender_is_limited_until_somebody_reads() {
    let (a, b) = pair_of(libc::SOCK_STREAM);
    let much = vec![7; 1 << 20];
    let sent = send(&a, &much).unwrap();
    assert!(sent >= 200_000 && sent < much.len());
    assert_eq!(send(&a, b"x"), Err(Errno::EAGAIN));
    assert!(!a.protocol.poll().contains(Ready::OUT));
    assert_eq!(receive(&b, 1 << 20).unwrap().len(), sent);
    assert!(a.protocol.poll().contains(Ready::OUT));
    assert_eq!(send(&a, b"x"), Ok(1));
}

#[test]
fn the_end_of_a_stream_comes_after_its_bytes() {
    let (a, b) = pair_of(libc::SOCK_STREAM);
    send(&a, b"last").unwrap();
    drop(a);
    assert!(b.protocol.poll().contains(Ready::HUP | Ready::RDHUP | Ready::IN));
    assert_eq!(receive(&b, 9).unwrap(), b"last");
    assert_eq!(receive(&b, 9).unwrap(), b"");
    assert_eq!(send(&b, b"x"), Err(Errno::EPIPE));
    let (a, b) = pair_of(libc::SOCK_STREAM);
    send(&b, b"unread").unwrap();
    drop(a);
    assert_eq!(receive(&b, 9), Err(Errno::ECONNRESET));
    assert_eq!(receive(&b, 9).unwrap(), b"");
}

#[test]
fn half_a_connection_can_be_shut() {
    let (a, b) = pair_of(libc::SOCK_STREAM);
    a.protocol.shutdown(libc::SHUT_WR).unwrap();
    assert_eq!(send(&a, b"x"), Err(Errno::EPIPE));
    assert_eq!(receive(&b, 1).unwrap(), b"");
    assert!(b.protocol.poll().contains(Ready::RDHUP | Ready::OUT));
    assert!(!b.protocol.poll().contains(Ready::HUP));
    send(&b, b"still").unwrap();
    assert_eq!(receive(&a, 9).unwrap(), b"still");
}

#[test]
fn connections_are_made_by_name_and_wait_for_accept() {
    let server = listener(libc::SOCK_STREAM, "server", 0);
    assert!(matches!(accept(&server), Err(Errno::EAGAIN)));
    let client = fresh(libc::SOCK_STREAM);
    assert!(client.protocol.poll().contains(Ready::HUP));
    connect(&client, &named("server")).unwrap();
    assert!(server.protocol.poll().contains(Ready::IN));
    send(&client, b"early").unwrap();
    let second = fresh(libc::SOCK_STREAM);
    assert_eq!(connect(&second, &named("server")), Err(Errno::EAGAIN));
    let accepted = accept(&server).unwrap();
    assert_eq!(receive(&accepted, 9).unwrap(), b"early");
    assert_eq!(accepted.protocol.name().unwrap(), named("server"));
    assert_eq!(client.protocol.peer().unwrap(), named("server"));
    assert_eq!(accepted.protocol.peer().unwrap(), SocketAddress::Unix(None));
    connect(&second, &named("server")).unwrap();
    assert_eq!(connect(&second, &named("server")), Err(Errno::EISCONN));
    drop(server);
    assert_eq!(receive(&second, 1), Err(Errno::ECONNRESET));
    assert_eq!(connect(&fresh(libc::SOCK_STREAM), &named("server")), Err(Errno::ECONNREFUSED));
}

#[test]
fn names_are_taken_once_by_each_kind() {
    let first = listener(libc::SOCK_STREAM, "taken", 1);
    let second = fresh(libc::SOCK_DGRAM);
    assert_eq!(bind(&fresh(libc::SOCK_STREAM), &named("taken")), Err(Errno::EADDRINUSE));
    assert_eq!(connect(&second, &named("taken")), Err(Errno::ECONNREFUSED));
    assert_eq!(bind(&first, &named("other")), Err(Errno::EINVAL));
    bind(&second, &SocketAddress::Unix(None)).unwrap();
    assert_eq!(second.protocol.name().unwrap().encode().len(), 8);
    assert_eq!(second.protocol.listen(&caller(), 1), Err(Errno::EOPNOTSUPP));
}

#[test]
fn datagrams_keep_their_borders_and_their_senders() {
    let receiver = fresh(libc::SOCK_DGRAM);
    bind(&receiver, &named("inbox")).unwrap();
    let sender = fresh(libc::SOCK_DGRAM);
    bind(&sender, &named("outbox")).unwrap();
    let to = addressed(&named("inbox"));
    send_message(&sender, b"first", to.clone()).unwrap();
    send_message(&sender, b"", to.clone()).unwrap();
    let (bytes, incoming) = receive_message(&receiver, 3, libc::MSG_TRUNC).unwrap();
    assert_eq!((bytes.as_slice(), incoming.length, incoming.flags), (&b"fir"[..], 5, libc::MSG_TRUNC));
    assert_eq!(incoming.from, Some(named("outbox")));
    assert_eq!(receive_message(&receiver, 3, 0).unwrap().1.length, 0);
    assert_eq!(receive(&receiver, 3), Err(Errno::EAGAIN));
    for _ in 0..11 {
        send_message(&sender, b"x", to.clone()).unwrap();
    }
    assert_eq!(send_message(&sender, b"x", to.clone()), Err(Errno::EAGAIN));
    assert_eq!(send_message(&sender, &[0; 500_000], to), Err(Errno::EMSGSIZE));
}

#[test]
fn a_connected_datagram_socket_filters_and_forgets() {
    let (a, b, stranger) = (fresh(libc::SOCK_DGRAM), fresh(libc::SOCK_DGRAM), fresh(libc::SOCK_DGRAM));
    bind(&a, &named("a")).unwrap();
    bind(&b, &named("b")).unwrap();
    connect(&a, &named("b")).unwrap();
    connect(&b, &named("a")).unwrap();
    let to = addressed(&named("a"));
    assert_eq!(send_message(&stranger, b"x", to), Err(Errno::EPERM));
    send(&b, b"friend").unwrap();
    assert_eq!(receive(&a, 9).unwrap(), b"friend");
    drop(b);
    assert_eq!(send(&a, b"x"), Err(Errno::ECONNREFUSED));
    assert_eq!(send(&a, b"x"), Err(Errno::ENOTCONN));
}

#[test]
fn sequenced_packets_are_connected_messages() {
    let (a, b) = pair_of(libc::SOCK_SEQPACKET);
    send(&a, b"one").unwrap();
    send(&a, b"two").unwrap();
    assert_eq!(receive(&b, 2).unwrap(), b"on");
    assert_eq!(receive(&b, 9).unwrap(), b"two");
    drop(a);
    assert_eq!(receive(&b, 9).unwrap(), b"");
    assert_eq!(send(&b, b"x"), Err(Errno::EPIPE));
}

#[test]
fn descriptors_arrive_once() {
    let (a, b) = pair_of(libc::SOCK_STREAM);
    let (kept, sent) = pair_of(libc::SOCK_STREAM);
    send(&a, b"before").unwrap();
    send_message(&a, b"with", Outgoing { rights: vec![open(sent)], ..Outgoing::default() }).unwrap();
    send(&a, b"after").unwrap();
    // A read ends with the packet that carries descriptors.
    let (bytes, incoming) = receive_message(&b, 99, 0).unwrap();
    assert_eq!(bytes, b"beforewith");
    send(&kept, b"through").unwrap();
    assert_eq!(receive(Socket::of(&incoming.rights[0]).unwrap(), 9).unwrap(), b"through");
    assert_eq!(receive(&b, 99).unwrap(), b"after");
    drop(incoming);
    assert_eq!(receive(&kept, 1).unwrap(), b"");
}

#[test]
fn sockets_that_only_hold_each_other_are_collected() {
    let (witness, lost) = pair_of(libc::SOCK_STREAM);
    let (a, b) = pair_of(libc::SOCK_STREAM);
    let (a, b) = (open(a), open(b));
    let through = |from: &Arc<crate::vfs::file::OpenFile>, rights| {
        send_message(Socket::of(from).unwrap(), b"x", Outgoing { rights, ..Outgoing::default() }).unwrap();
    };
    through(&a, vec![b.clone(), open(lost)]);
    through(&b, vec![a.clone()]);
    rights::collect();
    assert_eq!(receive(&witness, 1), Err(Errno::EAGAIN));
    drop(a);
    rights::collect();
    assert_eq!(receive(&witness, 1), Err(Errno::EAGAIN), "b can still be read from");
    drop(b);
    rights::collect();
    assert_eq!(receive(&witness, 1).unwrap(), b"");
}

#[test]
fn a_long_chain_of_sockets_in_sockets_falls_without_a_deep_stack() {
    let (witness, mut chain) = {
        let (witness, last) = pair_of(libc::SOCK_STREAM);
        (witness, open(last))
    };
    for _ in 0..20_000 {
        let (a, b) = pair_of(libc::SOCK_STREAM);
        send_message(&a, b"x", Outgoing { rights: vec![chain], ..Outgoing::default() }).unwrap();
        chain = open(b);
    }
    drop(chain);
    // A collection in another test may hold a link of the chain for a moment; it then falls there.
    while receive(&witness, 1) == Err(Errno::EAGAIN) {
        std::thread::yield_now();
    }
    assert_eq!(receive(&witness, 1).unwrap(), b"");
}

#[test]
fn options_are_those_of_linux() {
    let (a, _b) = pair_of(libc::SOCK_STREAM);
    let get = |name| a.protocol.option(&caller(), libc::SOL_SOCKET, name, 64).map(|value| i32::from_ne_bytes(value.try_into().unwrap()));
    assert_eq!(get(libc::SO_SNDBUF), Ok(212_992));
    a.protocol.set_option(&caller(), libc::SOL_SOCKET, libc::SO_SNDBUF, &100_000i32.to_ne_bytes()).unwrap();
    assert_eq!(get(libc::SO_SNDBUF), Ok(200_000));
    assert_eq!(get(libc::SO_ACCEPTCONN), Ok(0));
    assert_eq!(get(libc::SO_ERROR), Ok(0));
    assert_eq!(get(9999), Err(Errno::ENOPROTOOPT));
    assert_eq!(a.protocol.option(&caller(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 4), Err(Errno::EOPNOTSUPP));
}

#[test]
fn an_urgent_byte_ends_a_read_and_is_skipped_by_the_next() {
    let (a, b) = pair_of(libc::SOCK_STREAM);
    let urgent = || Outgoing { flags: libc::MSG_OOB, ..Outgoing::default() };
    assert_eq!(receive_message(&b, 1, libc::MSG_OOB).err(), Some(Errno::EINVAL));
    assert_eq!(send_message(&a, b"", urgent()), Err(Errno::EOPNOTSUPP));
    assert_eq!(send_message(&a, b"abcU", urgent()), Ok(4));
    assert!(b.protocol.poll().contains(Ready::PRI));
    send(&a, b"def").unwrap();
    assert_eq!(receive(&b, 99).unwrap(), b"abc");
    assert_eq!(receive(&b, 99).unwrap(), b"def", "the urgent byte is dropped");
    assert_eq!(send_message(&a, b"xV", urgent()), Ok(2));
    send(&a, b"y").unwrap();
    let (byte, incoming) = receive_message(&b, 9, libc::MSG_OOB).unwrap();
    assert_eq!((byte.as_slice(), incoming.flags), (&b"V"[..], libc::MSG_OOB));
    assert!(!b.protocol.poll().contains(Ready::PRI));
    assert_eq!(receive(&b, 99).unwrap(), b"x", "up to the mark");
    assert_eq!(receive(&b, 99).unwrap(), b"y");
    b.protocol.set_option(&caller(), libc::SOL_SOCKET, libc::SO_OOBINLINE, &1i32.to_ne_bytes()).unwrap();
    assert_eq!(send_message(&a, b"xW", urgent()), Ok(2));
    assert_eq!(receive_message(&b, 1, libc::MSG_OOB).err(), Some(Errno::EINVAL));
    assert_eq!(receive(&b, 99).unwrap(), b"x");
    assert_eq!(receive(&b, 99).unwrap(), b"W");
    assert_eq!(receive(&b, 99), Err(Errno::EAGAIN));
}

#[test]
fn a_look_may_begin_further_on() {
    fn peek(socket: &Socket, limit: usize) -> Result<Vec<u8>, Errno> {
        receive_message(socket, limit, libc::MSG_PEEK).map(|(bytes, _)| bytes)
    }
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        let (a, b) = pair_of(kind);
        b.protocol.set_option(&caller(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, &2i32.to_ne_bytes()).unwrap();
        send(&a, b"abcdef").unwrap();
        send(&a, b"gh").unwrap();
        assert_eq!(peek(&b, 2).unwrap(), b"cd");
        assert_eq!(peek(&b, 2).unwrap(), b"ef");
        assert_eq!(peek(&b, 9).unwrap(), b"gh");
        assert_eq!(peek(&b, 9), Err(Errno::EAGAIN));
        assert_eq!(receive(&b, 6).unwrap(), b"abcdef");
        assert_eq!(peek(&b, 9), Err(Errno::EAGAIN), "the offset moved back by six, to the end of what is left");
        assert_eq!(receive(&b, 6).unwrap(), b"gh");
    }
}

#[test]
fn a_datagram_socket_that_changes_its_peer_drops_what_the_old_one_sent() {
    let (a, b, other) = (fresh(libc::SOCK_DGRAM), fresh(libc::SOCK_DGRAM), fresh(libc::SOCK_DGRAM));
    for (socket, name) in [(&a, "changing"), (&b, "former"), (&other, "latter")] {
        bind(socket, &named(name)).unwrap();
    }
    connect(&a, &named("former")).unwrap();
    connect(&b, &named("changing")).unwrap();
    send(&b, b"lost").unwrap();
    connect(&a, &named("latter")).unwrap();
    assert_eq!(receive(&a, 9), Err(Errno::EAGAIN));
    assert_eq!(receive(&b, 9), Err(Errno::ECONNRESET));
    assert_eq!(send(&b, b"x"), Err(Errno::EPERM), "no longer let in");
}

#[test]
fn a_name_outlives_its_socket_with_the_messages_that_it_sent() {
    let (a, b) = (fresh(libc::SOCK_DGRAM), fresh(libc::SOCK_DGRAM));
    bind(&a, &named("reader")).unwrap();
    bind(&b, &named("gone")).unwrap();
    send_message(&b, b"last", addressed(&named("reader"))).unwrap();
    drop(b);
    assert_eq!(receive_message(&a, 9, 0).unwrap().1.from, Some(named("gone")));
    bind(&fresh(libc::SOCK_DGRAM), &named("gone")).unwrap();
}
