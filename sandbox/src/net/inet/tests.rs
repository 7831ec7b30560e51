use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::super::address::{Passed, SocketAddress};
use super::super::socket::{Caller, Outgoing, Socket};
use super::super::testing::{accept, addressed, bind, caller, connect, receive, receive_message, send, send_message};
use super::socket;
use crate::errno::Errno;
use crate::kernel::credentials::{Capabilities, Credentials};
use crate::kernel::wait::Ready;

fn fresh(kind: i32) -> Arc<Socket> {
    socket(libc::AF_INET, kind, 0, &caller()).unwrap()
}

fn anywhere() -> SocketAddress {
    SocketAddress::Inet(Ipv4Addr::LOCALHOST, 0)
}

fn until(socket: &Socket, wanted: Ready) {
    for _ in 0..2000 {
        if socket.protocol.poll().intersects(wanted) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("never {wanted:?}: {:?}", socket.protocol.poll());
}

fn connected() -> (Arc<Socket>, Arc<Socket>) {
    let listener = fresh(libc::SOCK_STREAM);
    bind(&listener, &anywhere()).unwrap();
    listener.protocol.listen(&caller(), 5).unwrap();
    assert!(matches!(accept(&listener), Err(Errno::EAGAIN)));
    let client = fresh(libc::SOCK_STREAM);
    let address = listener.protocol.name().unwrap();
    let begun = connect(&client, &address);
    assert!(matches!(begun, Ok(()) | Err(Errno::EINPROGRESS)));
    until(&listener, Ready::IN);
    let accepted = accept(&listener).unwrap();
    until(&client, Ready::OUT);
    assert_eq!(client.protocol.peer().unwrap(), address);
    assert_eq!(client.protocol.name().unwrap(), accepted.protocol.peer().unwrap());
    (client, accepted)
}

#[test]
fn tcp_over_loopback() {
    let (client, server) = connected();
    assert_eq!(receive(&server, 9), Err(Errno::EAGAIN));
    assert_eq!(send(&client, b"hello"), Ok(5));
    until(&server, Ready::IN);
    assert_eq!(receive_message(&server, 9, libc::MSG_PEEK).unwrap().0, b"hello");
    assert_eq!(receive_message(&server, 2, libc::MSG_TRUNC).unwrap().0, b"", "truncated away");
    assert_eq!(receive(&server, 9).unwrap(), b"llo");
    client.protocol.shutdown(libc::SHUT_WR).unwrap();
    until(&server, Ready::RDHUP);
    assert_eq!(receive(&server, 9).unwrap(), b"");
    assert_eq!(send(&client, b"x"), Err(Errno::EPIPE));
}

#[test]
fn what_the_host_does_not_take_is_given_back() {
    struct Pattern {
        at: usize,
        end: usize,
    }
    impl crate::vfs::file::Source for Pattern {
        fn remaining(&self) -> usize {
            self.end - self.at
        }
        fn take(&mut self, buffer: &mut [u8]) -> crate::errno::Result<usize> {
            let length = buffer.len().min(self.remaining());
            for byte in &mut buffer[..length] {
                *byte = (self.at % 251) as u8;
                self.at += 1;
            }
            Ok(length)
        }
        fn give_back(&mut self, length: usize) {
            self.at -= length;
        }
    }
    let (client, server) = connected();
    let mut pattern = Pattern { at: 0, end: 20 << 20 };
    let mut got = 0;
    while got < pattern.end {
        match client.protocol.send(&caller(), &Outgoing::default(), &mut pattern) {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => panic!("{error}"),
        }
        while let Ok(bytes) = receive(&server, 100_000) {
            assert!(bytes.iter().enumerate().all(|(index, byte)| *byte == ((got + index) % 251) as u8));
            got += bytes.len();
            if got == 20 << 20 {
                break;
            }
        }
    }
}

#[test]
fn udp_over_loopback_tells_senders_and_addresses() {
    let (a, b) = (fresh(libc::SOCK_DGRAM), fresh(libc::SOCK_DGRAM));
    bind(&a, &anywhere()).unwrap();
    bind(&b, &anywhere()).unwrap();
    a.protocol.set_option(&caller(), libc::IPPROTO_IP, libc::IP_PKTINFO, &1i32.to_ne_bytes()).unwrap();
    let to = addressed(&a.protocol.name().unwrap());
    send_message(&b, b"datagram", to.clone()).unwrap();
    until(&a, Ready::IN);
    let (bytes, incoming) = receive_message(&a, 4, libc::MSG_TRUNC).unwrap();
    assert_eq!((bytes.as_slice(), incoming.length, incoming.flags), (&b"data"[..], 8, libc::MSG_TRUNC));
    assert_eq!(incoming.from, Some(b.protocol.name().unwrap()));
    assert_eq!((incoming.control[0].level, incoming.control[0].kind), (libc::IPPROTO_IP, libc::IP_PKTINFO));
    assert_eq!(send_message(&b, &[0; 70_000], to), Err(Errno::EMSGSIZE));
}

#[test]
fn low_ports_need_the_capability() {
    let nobody = Caller { credentials: Arc::new(Credentials::of(1000, 1000, &[], Capabilities::NONE)), ..caller() };
    let low = SocketAddress::Inet(Ipv4Addr::LOCALHOST, 7);
    assert_eq!(fresh(libc::SOCK_STREAM).protocol.bind(&nobody, &(&low).into(), 0), Err(Errno::EACCES));
    fresh(libc::SOCK_STREAM).protocol.bind(&nobody, &(&anywhere()).into(), 0).unwrap();
}

#[test]
fn only_known_options_and_families_reach_the_host() {
    let tcp = fresh(libc::SOCK_STREAM);
    let on = 1i32.to_ne_bytes();
    tcp.protocol.set_option(&caller(), libc::IPPROTO_TCP, libc::TCP_NODELAY, &on).unwrap();
    assert_eq!(tcp.protocol.option(&caller(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 4).unwrap(), on);
    assert_eq!(tcp.protocol.option(&caller(), libc::IPPROTO_TCP, libc::TCP_INFO, 4096).unwrap()[0], 7, "TCP_CLOSE");
    assert_eq!(tcp.protocol.set_option(&caller(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &[0; 16]), Err(Errno::ENOPROTOOPT));
    let unix = Passed::new(b"\x01\0/run/host.sock").unwrap();
    assert_eq!(tcp.protocol.connect(&caller(), &unix), Err(Errno::EAFNOSUPPORT));
    assert!(matches!(socket(libc::AF_INET, libc::SOCK_RAW, 1, &caller()), Err(Errno::EPERM)));
    assert!(matches!(socket(libc::AF_INET, libc::SOCK_STREAM, 132, &caller()), Err(Errno::EPROTONOSUPPORT)));
}

#[test]
fn a_refused_connection_says_so() {
    let taken = fresh(libc::SOCK_STREAM);
    bind(&taken, &anywhere()).unwrap();
    let address = taken.protocol.name().unwrap();
    let client = fresh(libc::SOCK_STREAM);
    match connect(&client, &address) {
        Err(Errno::EINPROGRESS) => {
            until(&client, Ready::ERR);
            assert_eq!(connect(&client, &address), Err(Errno::ECONNREFUSED));
        }
        result => assert_eq!(result, Err(Errno::ECONNREFUSED)),
    }
}

#[test]
fn version_six_where_the_machine_has_it() {
    let Ok(a) = socket(libc::AF_INET6, libc::SOCK_DGRAM, 0, &caller()) else { return };
    let own = SocketAddress::Inet6 { address: Ipv6Addr::LOCALHOST, port: 0, flow: 0, scope: 0 };
    if bind(&a, &own).is_err() {
        return;
    }
    let name = a.protocol.name().unwrap();
    assert_ne!(name.port(), Some(0));
    send_message(&a, b"self", addressed(&name.clone())).unwrap();
    until(&a, Ready::IN);
    assert_eq!(receive_message(&a, 9, 0).unwrap().1.from, Some(name));
}
