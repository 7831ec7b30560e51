//! A network card and its driver, end to end: on a pair of sockets, and on a real tap where the tests may have one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::configuration::{CSUM, FEATURES, HOST_TSO4, MAX_FRAME, MRG_RXBUF, RECEIVE, TRANSMIT};
use super::header::LENGTH;
use super::link::Link;
use super::{Limits, Net};
use crate::devices::buffers::driver::{Driver, Piece};
use crate::devices::device::{Device, EVENT_IDX, STATUS_NEEDS_RESET};
use crate::devices::events::EventLoop;
use crate::devices::limiter;

const MTU: u16 = 1500;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Where packets to the guest go, in slots of [`SLOT`].
const RECEIVED: u64 = 0x20_0000;
/// Where packets of the guest's are.
const SENT: u64 = 0x10_0000;
const SLOT: u64 = 0x1000;

/// One end of a pair of sockets, in a tap's stead.
struct Pair {
    socket: UnixDatagram,
    offloads: Mutex<Vec<u64>>,
}

impl Link for Pair {
    fn offload(&self, features: u64) -> io::Result<()> {
        self.offloads.lock().unwrap().push(features);
        Ok(())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

struct Machine {
    driver: Driver,
    net: Net,
    link: Arc<Pair>,
    /// The other end.
    peer: UnixDatagram,
}

impl Machine {
    fn new(features: u64, limits: Limits) -> Self {
        let (socket, peer) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let link = Arc::new(Pair { socket, offloads: Mutex::default() });
        let events = EventLoop::start("net", || Ok(())).unwrap();
        let mut net = Net::on(link.clone(), MAC, MTU, limits, events).unwrap();
        let driver = Driver::new(2, 64);
        net.activate(driver.activation(features)).unwrap();
        Self { driver, net, link, peer }
    }

    /// Gives the card a buffer to receive into.
    fn offer(&mut self, slot: u64, length: u32) -> u16 {
        self.driver.submit(RECEIVE, &[Piece::device_writes(RECEIVED + slot * SLOT, length)])
    }

    /// Sends a frame as the host does.
    fn arrive(&self, frame: &[u8]) {
        let packet = [&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xee, 0xee], frame].concat();
        self.peer.send(&packet).unwrap();
    }

    fn received(&self, slot: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.driver.memory.read_slice(&mut bytes, GuestAddress(RECEIVED + slot * SLOT)).unwrap();
        bytes
    }

    /// Sends a packet as the guest does.
    fn send(&mut self, header: [u8; LENGTH], frame: &[u8]) {
        self.driver.memory.write_slice(&header, GuestAddress(SENT)).unwrap();
        self.driver.memory.write_slice(frame, GuestAddress(SENT + 0x100)).unwrap();
        let pieces = [Piece::device_reads(SENT, LENGTH as u32), Piece::device_reads(SENT + 0x100, frame.len() as u32)];
        self.driver.request(TRANSMIT, &pieces);
    }

    /// What the host gets.
    fn sent(&self) -> Vec<u8> {
        let mut bytes = vec![0; MAX_FRAME + LENGTH];
        let length = self.peer.recv(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }

    fn nothing_sent(&self) -> bool {
        self.peer.set_nonblocking(true).unwrap();
        let nothing = self.peer.recv(&mut [0; 1]).is_err();
        self.peer.set_nonblocking(false).unwrap();
        nothing
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.net.reset();
    }
}

fn frame(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 253) as u8).collect()
}

#[test]
fn packets_leave_with_a_header_that_was_checked() {
    let mut machine = Machine::new(FEATURES, Limits::default());
    let mut configuration = [0; 12];
    machine.net.read_configuration(0, &mut configuration);
    assert_eq!(configuration, [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xdc, 5]);
    assert_eq!(*machine.link.offloads.lock().unwrap(), [FEATURES]);

    machine.send([0xfe, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9], &frame(60));
    assert_eq!(machine.sent(), [vec![0; LENGTH], frame(60)].concat(), "nothing of it meant anything");
    let large = [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0];
    machine.send(large, &frame(60_000));
    assert_eq!(machine.sent(), [large.to_vec(), frame(60_000)].concat());

    // Too short, too long, checksum beyond the end, segmentation of an unknown kind.
    machine.send([0; LENGTH], &frame(13));
    machine.send([0; LENGTH], &frame(MAX_FRAME + 1));
    machine.send([1, 0, 0, 0, 0, 0, 50, 0, 16, 0, 0, 0], &frame(60));
    machine.send([1, 3, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0], &frame(60));
    assert!(machine.nothing_sent());

    let mut machine = Machine::new(FEATURES & !(CSUM | HOST_TSO4), Limits::default());
    machine.send(large, &frame(60_000));
    assert!(machine.nothing_sent(), "not negotiated");
}

#[test]
fn a_packet_goes_into_one_buffer_or_several() {
    let mut machine = Machine::new(FEATURES, Limits::default());
    let heads: Vec<_> = (0..8).map(|slot| machine.offer(slot, 2048)).collect();
    machine.driver.kick(RECEIVE);
    machine.arrive(&frame(100));
    assert_eq!(machine.driver.wait(RECEIVE), [(heads[0], 112)]);
    assert_eq!(machine.received(0, 112), [&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &*frame(100)].concat());

    // More than was expected: the rest comes from the overflow. Then one that is expected to be large and isn't, and one that was.
    for (length, first, last) in [(5000, 1, 3), (60, 4, 4), (5000, 5, 7)] {
        machine.arrive(&frame(length));
        let used = machine.driver.wait(RECEIVE);
        assert_eq!(used.iter().map(|(head, _)| *head).collect::<Vec<_>>(), heads[first..=last]);
        assert_eq!(used.iter().map(|(_, length)| *length as usize).sum::<usize>(), length + LENGTH);
        let bytes: Vec<u8> = (first..=last).flat_map(|slot| machine.received(slot as u64, 2048)).take(length + LENGTH).collect();
        assert_eq!(bytes[10], (last - first + 1) as u8);
        assert!(bytes[LENGTH..] == frame(length));
    }
}

#[test]
fn without_merging_a_packet_has_one_buffer_or_none() {
    let mut machine = Machine::new(FEATURES & !MRG_RXBUF, Limits::default());
    machine.offer(0, 1000);
    let large = machine.offer(0, MAX_FRAME as u32 + 12);
    machine.driver.kick(RECEIVE);
    machine.arrive(&frame(2000));
    assert_eq!(machine.driver.wait(RECEIVE).len(), 1, "lost, and the buffer with it");
    machine.arrive(&frame(MAX_FRAME));
    assert_eq!(machine.driver.wait(RECEIVE), [(large, MAX_FRAME as u32 + 12)]);
    assert_eq!(machine.received(0, 12)[10], 1);
    assert!(machine.received(0, MAX_FRAME + 12)[12..] == frame(MAX_FRAME));
}

#[test]
fn a_packet_waits_for_buffers_whether_for_the_first_or_for_more() {
    for features in [FEATURES, FEATURES & !EVENT_IDX] {
        let mut machine = Machine::new(features, Limits::default());
        machine.arrive(&frame(60));
        std::thread::sleep(Duration::from_millis(20));
        assert!(machine.driver.used(RECEIVE).is_empty());
        let first = machine.offer(0, 2048);
        machine.driver.kick(RECEIVE);
        assert_eq!(machine.driver.wait(RECEIVE), [(first, 72)]);

        let heads = [machine.offer(1, 2048), machine.offer(2, 2048)];
        machine.driver.kick(RECEIVE);
        machine.arrive(&frame(5000));
        std::thread::sleep(Duration::from_millis(20));
        assert!(machine.driver.used(RECEIVE).is_empty(), "two of three");
        let last = machine.offer(3, 2048);
        machine.driver.kick(RECEIVE);
        assert_eq!(machine.driver.wait(RECEIVE), [(heads[0], 2048), (heads[1], 2048), (last, 5012 - 4096)]);
        let bytes: Vec<u8> = (1..4).flat_map(|slot| machine.received(slot, 2048)).take(5012).collect();
        assert!(bytes[LENGTH..] == frame(5000));
    }
}

#[test]
fn the_driver_is_asked_to_kick_for_more_than_it_has_given() {
    let mut machine = Machine::new(FEATURES, Limits::default());
    machine.offer(0, 2048);
    machine.driver.kick(RECEIVE);
    machine.arrive(&frame(5000));
    // The mark (`avail_event`), behind the used ring's 64 entries, says which chain to kick for: the second, since the first is known.
    let mark = GuestAddress(0x1000 + 0x2000 + 4 + 8 * 64);
    let start = Instant::now();
    while machine.driver.memory.load::<u16>(mark, Ordering::SeqCst).unwrap() != 1 {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
}

#[test]
fn buffers_that_are_of_no_use_come_back() {
    let mut machine = Machine::new(FEATURES, Limits::default());
    let small = machine.offer(0, 12);
    let readable = machine.driver.submit(RECEIVE, &[Piece::device_reads(RECEIVED, 2048)]);
    let nowhere = machine.driver.submit(RECEIVE, &[Piece::device_writes(1 << 40, 2048)]);
    let good = machine.offer(0, 2048);
    machine.driver.kick(RECEIVE);
    machine.arrive(&frame(60));
    let mut used = Vec::new();
    while used.len() < 4 {
        used.extend(machine.driver.wait(RECEIVE));
    }
    assert_eq!(used, [(small, 0), (readable, 0), (nowhere, 0), (good, 72)]);
    // One behind a good one, which a large packet can't go past: the packet is lost, and nobody waits for ever.
    machine.offer(0, 2048);
    machine.offer(0, 5);
    machine.driver.kick(RECEIVE);
    machine.arrive(&frame(5000));
    let mut used = 0;
    while used < 2 {
        machine.arrive(&frame(60));
        used += machine.driver.wait(RECEIVE).len();
    }
}

#[test]
fn a_full_link_delays_packets_and_loses_none() {
    let mut machine = Machine::new(FEATURES, Limits::default());
    // More than a socket's queue holds (net.unix.max_dgram_qlen).
    machine.driver.memory.write_slice(&[0; LENGTH], GuestAddress(SENT)).unwrap();
    for index in 0..60u8 {
        let at = SENT + 0x100 + 64 * u64::from(index);
        machine.driver.memory.write_slice(&[index; 60], GuestAddress(at)).unwrap();
        // Header and frame in one buffer each, of which the queue has 64.
        machine.driver.memory.write_slice(&[0; LENGTH], GuestAddress(0x30_0000 + 128 * u64::from(index))).unwrap();
        machine.driver.memory.write_slice(&[index; 60], GuestAddress(0x30_0000 + 128 * u64::from(index) + 12)).unwrap();
        machine.driver.submit(TRANSMIT, &[Piece::device_reads(0x30_0000 + 128 * u64::from(index), 72)]);
    }
    machine.driver.kick(TRANSMIT);
    for index in 0..60u8 {
        assert_eq!(machine.sent()[LENGTH..], [index; 60]);
    }
    let mut used = 0;
    while used < 60 {
        used += machine.driver.wait(TRANSMIT).len();
    }
}

#[test]
fn limits_hold_both_ways() {
    let rate = |per_second| limiter::Limits { bytes: None, operations: Some(limiter::Rate { per_second, burst: 1 }) };
    let mut machine = Machine::new(FEATURES, Limits { receive: rate(50), transmit: rate(20) });
    for slot in 0..6 {
        machine.offer(slot, 2048);
    }
    machine.driver.kick(RECEIVE);
    let start = Instant::now();
    for _ in 0..6 {
        machine.arrive(&frame(60));
    }
    let mut used = 0;
    while used < 6 {
        used += machine.driver.wait(RECEIVE).len();
    }
    assert!(start.elapsed() >= Duration::from_millis(90), "five after the first, of fifty a second");
    let start = Instant::now();
    for _ in 0..4 {
        machine.send([0; LENGTH], &frame(60));
        machine.sent();
    }
    assert!(start.elapsed() >= Duration::from_millis(140), "three after the first, of twenty a second");
}

#[test]
fn a_card_works_after_a_reset() {
    let mut machine = Machine::new(FEATURES, Limits::default());
    machine.driver.submit(TRANSMIT, &[]);
    machine.driver.memory.write_obj(1000u16, GuestAddress(0x1000 + 0x3000 + 0x1002)).unwrap();
    machine.driver.kick(TRANSMIT);
    assert!(machine.driver.interrupted(Duration::from_secs(20)));
    assert_ne!(machine.driver.interrupt().status().load(Ordering::SeqCst) & STATUS_NEEDS_RESET, 0);
    machine.net.reset();
    machine.driver.reset();
    machine.arrive(&frame(60));
    machine.net.activate(machine.driver.activation(0)).unwrap();
    assert_eq!(*machine.link.offloads.lock().unwrap(), [FEATURES, 0]);
    let head = machine.offer(0, 2048);
    machine.driver.kick(RECEIVE);
    assert_eq!(machine.driver.wait(RECEIVE), [(head, 72)]);
    machine.send([0; LENGTH], &frame(60));
    assert_eq!(machine.sent().len(), 72);
    machine.peer.shutdown(std::net::Shutdown::Both).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_the_guest_gives_only_whole_and_checked_packets_leave(
        sent in prop::collection::vec(
            (any::<[u8; LENGTH]>(), 0..6u8, prop::collection::vec((prop_oneof![4 => SENT..SENT + 0x1000, 1 => any::<u64>()], prop_oneof![4 => 0..3000u32, 1 => any::<u32>()], prop::bool::weighted(0.1)), 1..5)),
            1..8,
        ),
        received in prop::collection::vec(
            prop::collection::vec((prop_oneof![4 => RECEIVED..RECEIVED + 0x10000, 1 => any::<u64>()], prop_oneof![4 => 0..3000u32, 1 => any::<u32>()], prop::bool::weighted(0.9)), 1..5),
            1..8,
        ),
        features in prop_oneof![Just(FEATURES), Just(0), any::<u64>()],
    ) {
        let features = features & FEATURES;
        let mut machine = Machine::new(features, Limits::default());
        let pieces = |pieces: Vec<(u64, u32, bool)>| -> Vec<Piece> {
            pieces.into_iter().map(|(address, length, device_writes)| Piece { address, length, device_writes }).collect()
        };
        for chain in received {
            machine.driver.submit(RECEIVE, &pieces(chain));
        }
        machine.driver.kick(RECEIVE);
        for length in [60, 1500, 9000, MAX_FRAME] {
            machine.arrive(&frame(length));
        }
        machine.peer.set_nonblocking(true).unwrap();
        for (mut header, gso, chain) in sent {
            (header[0], header[1]) = (header[0] & 1, gso);
            machine.driver.memory.write_slice(&header, GuestAddress(SENT)).unwrap();
            let chain = [vec![Piece::device_reads(SENT, LENGTH as u32)], pieces(chain)].concat();
            machine.driver.request(TRANSMIT, &chain);
            let mut bytes = vec![0; MAX_FRAME + LENGTH + 1];
            if let Ok(length) = machine.peer.recv(&mut bytes) {
                prop_assert!((LENGTH + 14..=LENGTH + MAX_FRAME).contains(&length));
                let header = bytes[..LENGTH].try_into().unwrap();
                let checked = super::header::Header::check(header, length - LENGTH, features).unwrap();
                prop_assert_eq!(checked.bytes(), &header);
            }
        }
        prop_assert_eq!(machine.driver.interrupt().status().load(Ordering::SeqCst), 0);
    }
}

/// A real tap in a network namespace of the test's own.
mod tap {
    use super::*;
    use crate::devices::net::link::Tap;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
    use nix::sys::time::{TimeVal, TimeValLike};
    use std::fs::{File, OpenOptions};
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::fs::OpenOptionsExt;

    nix::ioctl_write_ptr_bad!(tunsetiff, 0x4004_54ca, libc::ifreq);
    nix::ioctl_write_ptr_bad!(siocsifflags, libc::SIOCSIFFLAGS, libc::ifreq);

    /// Not the Internet's: IEEE's for local experiments.
    const TYPE: [u8; 2] = [0x88, 0xb5];

    fn request(flags: libc::c_int) -> libc::ifreq {
        // SAFETY: integers and bytes, of which zeros are values.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"card0") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        request
    }

    fn open(flags: libc::c_int) -> io::Result<File> {
        let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/net/tun")?;
        let request = request(flags);
        // SAFETY: reads an ifreq that lives through the call.
        unsafe { tunsetiff(tun.as_raw_fd(), &raw const request) }?;
        Ok(tun)
    }

    /// A socket for all frames of the interface.
    fn packets() -> OwnedFd {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap();
        let up = request(libc::IFF_UP);
        // SAFETY: reads an ifreq that lives through the call.
        unsafe { siocsifflags(socket.as_raw_fd(), &raw const up) }.unwrap();
        // SAFETY: integers and bytes, of which zeros are values.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = nix::net::if_::if_nametoindex("card0").unwrap() as i32;
        // SAFETY: the address lives through the call and is as long as it is said to be.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        // A test that fails, instead of one that waits for ever.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(20)).unwrap();
        socket
    }

    fn test() {
        let events = EventLoop::start("net", || Ok(())).unwrap();
        assert!(Net::new(File::open("/dev/null").unwrap(), MAC, MTU, Limits::default(), events.clone()).is_err());
        let error = Tap::new(open(libc::IFF_TAP | libc::IFF_NO_PI).unwrap()).unwrap_err();
        assert!(error.to_string().contains("IFF_VNET_HDR"), "{error}");

        let tap = open(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR).unwrap();
        let mut net = Net::new(tap, MAC, MTU, Limits::default(), events).unwrap();
        let mut driver = Driver::new(2, 64);
        net.activate(driver.activation(FEATURES)).unwrap();
        let host = packets();

        // To the guest.
        let frame = [&[0xff; 6], MAC.as_slice(), &TYPE, [7u8; 600].as_slice()].concat();
        for slot in 0..32 {
            driver.submit(RECEIVE, &[Piece::device_writes(RECEIVED + slot * SLOT, 2048)]);
        }
        driver.kick(RECEIVE);
        nix::unistd::write(&host, &frame).unwrap();
        // The host's own (IPv6) come too.
        let mut slot = 0;
        'all: loop {
            for (_, length) in driver.wait(RECEIVE) {
                let mut bytes = vec![0; length as usize];
                driver.memory.read_slice(&mut bytes, GuestAddress(RECEIVED + slot * SLOT)).unwrap();
                slot += 1;
                if bytes[24..26] == TYPE {
                    assert_eq!(bytes, [&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &*frame].concat());
                    break 'all;
                }
            }
        }

        // From the guest: plain, and UDP over IPv4 with a checksum for the host to fill in, which the host's kernel believes only of such a frame.
        let udp =
            [&[0xff; 6], MAC.as_slice(), &[8, 0, 0x45, 0, 2, 0xbc, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], &[9; 680]].concat();
        let plain = [&[0xff; 6], MAC.as_slice(), &TYPE, &[9; 700]].concat();
        for (header, frame) in [([0; LENGTH], plain), ([1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0], udp)] {
            driver.memory.write_slice(&header, GuestAddress(SENT)).unwrap();
            driver.memory.write_slice(&frame, GuestAddress(SENT + 12)).unwrap();
            driver.request(TRANSMIT, &[Piece::device_reads(SENT, 12 + frame.len() as u32)]);
            loop {
                let mut bytes = [0; 2000];
                let length = nix::unistd::read(&host, &mut bytes).unwrap();
                // The host's own go by.
                if bytes[..14] == frame[..14] {
                    assert_eq!(bytes[..length], frame);
                    break;
                }
            }
        }
        net.reset();
    }

    #[test]
    fn packets_go_through_a_real_tap() {
        // A thread of its own, whose namespace goes with it.
        std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) if std::path::Path::new("/dev/net/tun").exists() => test(),
            _ => eprintln!("no tap here: needs root and /dev/net/tun"),
        })
        .join()
        .unwrap();
    }
}
