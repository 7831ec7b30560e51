//! A microVM's network from the pod's namespace to the guest's, by the code of both: the host's side, which reads and connects the
//! namespace, and the agent's, which configures a guest that here is another namespace. Needs root, iproute2, veth, macvlan, tun and traffic
//! control's `mirred`; without root there is nothing to test.

// The agent is a program of its own that nothing else links; this one file of it needs nothing of the rest.
#[path = "../../../vmm/agent/src/network.rs"]
#[allow(dead_code, reason = "its unit tests are the agent's")]
mod agent;
mod world;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use bulkhead::network::guest;
use bulkhead_protocol::guest::Network;
use world::{MAC, Namespace, PEER_MAC, World};

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn plumb(namespace: &Namespace) -> guest::Plumbed {
    guest::plumb(&namespace.0, &[]).unwrap()
}

fn apply(namespace: &Namespace, network: &Network) {
    let network = network.clone();
    namespace.enter(move || agent::apply(&network)).unwrap();
}

/// What the bridge plugin makes, and a peer that routes.
fn bridged(world: &World) {
    world.peer.run(
        "ip addr add 10.0.0.1/24 dev peer0
         ip addr add fd00::1/64 dev peer0 nodad
         ip addr add 192.0.2.1/32 dev lo
         ip addr add 2001:db8::1/128 dev lo",
    );
    world.pod.run(
        "ip addr add 10.0.0.2/24 dev eth0
         ip addr add fd00::2/64 dev eth0 nodad
         ip route add default via 10.0.0.1
         ip -6 route add default via fd00::1",
    );
}

/// Sends megabytes to a listener of one namespace from another, and back.
fn transfer(server: &Namespace, client: &Namespace, to: &str) {
    let listener = server.enter(|| TcpListener::bind("[::]:7000").unwrap());
    let data: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let expected = data.clone();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        stream.write_all(&received).unwrap();
    });
    let to: SocketAddr = SocketAddr::new(to.parse().unwrap(), 7000);
    let received = client.enter(move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(&data).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    serving.join().unwrap();
    assert!(received == expected, "{} bytes of {} came back from {to}", received.len(), expected.len());
}

/// Everything that a pod does with its network, from both sides.
fn traffic(world: &World) {
    for (from, to) in [
        (&world.peer, "10.0.0.2"),
        (&world.peer, "fd00::2"),
        (&world.guest, "10.0.0.1"),
        (&world.guest, "fd00::1"),
        // By the default routes.
        (&world.guest, "192.0.2.1"),
        (&world.guest, "2001:db8::1"),
    ] {
        assert!(from.ping(to, 56, 5), "{to} does not answer");
        // The largest packet of the link, and one in fragments.
        assert!(from.ping(to, 1450 - 48, 3), "{to} does not answer a large packet");
        assert!(from.ping(to, 4000, 3), "{to} does not answer fragments");
    }
    for (server, client, to) in [
        (&world.guest, &world.peer, "10.0.0.2"),
        (&world.guest, &world.peer, "fd00::2"),
        (&world.peer, &world.guest, "192.0.2.1"),
        (&world.peer, &world.guest, "2001:db8::1"),
    ] {
        transfer(server, client, to);
    }
}

#[test]
fn the_guest_answers_for_the_pod_and_the_host_does_not() {
    if !root() {
        return;
    }
    let world = World::new(1450);
    bridged(&world);
    assert!(world.peer.ping("10.0.0.2", 56, 3) && world.peer.ping("fd00::2", 56, 3));
    let before = world.pod.looks();
    world.peer.run("ip neigh flush dev peer0\nip -6 neigh flush dev peer0");

    let mut plumbed = plumb(&world.pod);
    // Nobody reads the tap yet: who answers now is the host.
    assert!(!world.peer.ping("10.0.0.2", 56, 1) && !world.peer.ping("fd00::2", 56, 1));
    let neighbours = world.peer.run("ip neigh show 10.0.0.2\nip -6 neigh show fd00::2");
    assert!(!neighbours.contains("lladdr"), "the host answered: {neighbours}");
    let mut tap = plumbed.taps.remove(0);
    let (mut frame, mut asked) = ([0; 2000], false);
    while let Ok(length) = tap.read(&mut frame) {
        assert_eq!(frame[16..22], PEER_MAC, "the host's own protocols are on the guest's wire");
        // Behind ten bytes of virtio_net_hdr and fourteen of Ethernet: an ARP request (RFC 826) for the pod.
        asked |= length >= 52 && frame[22..24] == [8, 6] && frame[30..32] == [0, 1] && frame[48..52] == [10, 0, 0, 2];
    }
    assert!(asked, "the peer's ARP request is not on the tap");

    let relay = world.relay(tap);
    apply(&world.guest, &plumbed.network);
    traffic(&world);
    // Checksums and segmentation left to the other side, as virtio-net negotiates it.
    drop(relay);
    let mut plumbed = plumb(&world.pod);
    let tap = plumbed.taps.remove(0);
    world::offload(&tap);
    let relay = world.relay(tap);
    traffic(&world);
    assert!(relay.longest() > 1450 + 24, "no frame was longer than the link's packets");
    let neighbours = world.peer.run("ip neigh show 10.0.0.2\nip -6 neigh show fd00::2");
    assert_eq!(neighbours.matches(&format!("lladdr {MAC}")).count(), 2, "{neighbours}");
    // The addresses are still the pod's for who looks.
    assert!(world.pod.run("ip addr show eth0").contains("inet 10.0.0.2/24"));

    drop(relay);
    // The monitor is gone; its pod is not the host yet.
    assert!(!world.peer.ping("10.0.0.2", 56, 1));
    guest::unplumb(&world.pod.0).unwrap();
    assert_eq!(world.pod.looks(), before);
    assert!(world.peer.ping("10.0.0.2", 56, 3));
}

#[test]
fn a_macvlan_interface_is_a_card_too() {
    if !root() {
        return;
    }
    let (world, _host) = World::with_macvlan(1450);
    bridged(&world);
    let before = world.pod.looks();
    let mut plumbed = plumb(&world.pod);
    {
        let _relay = world.relay(plumbed.taps.remove(0));
        apply(&world.guest, &plumbed.network);
        traffic(&world);
        // Groups that only the guest has joined.
        let (fourth, sixth) = (Ipv4Addr::new(239, 1, 2, 3), Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x77));
        let sockets = world.guest.enter(move || {
            let socket = UdpSocket::bind("[::]:7001").unwrap();
            let index = nix::net::if_::if_nametoindex("eth0").unwrap();
            socket.join_multicast_v6(&sixth, index).unwrap();
            let other = UdpSocket::bind("0.0.0.0:7002").unwrap();
            other.join_multicast_v4(&fourth, &Ipv4Addr::new(10, 0, 0, 2)).unwrap();
            [socket, other]
        });
        world.peer.enter(move || {
            let index = nix::net::if_::if_nametoindex("peer0").unwrap();
            let socket = UdpSocket::bind("[fd00::1]:0").unwrap();
            socket.send_to(b"six", SocketAddr::V6(SocketAddrV6::new(sixth, 7001, 0, index))).unwrap();
            UdpSocket::bind("10.0.0.1:0").unwrap().send_to(b"four", (fourth, 7002)).unwrap();
        });
        for (socket, expected) in sockets.iter().zip(["six", "four"]) {
            let mut datagram = [0; 10];
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let length = socket.recv(&mut datagram).unwrap_or_else(|error| panic!("{expected}: {error}"));
            assert_eq!(&datagram[..length], expected.as_bytes());
        }
    }
    guest::unplumb(&world.pod.0).unwrap();
    assert_eq!(world.pod.looks(), before);
    // Somebody else's wish is kept.
    world.pod.run("ip link set eth0 allmulticast on");
    let before = world.pod.looks();
    drop(plumb(&world.pod));
    guest::unplumb(&world.pod.0).unwrap();
    assert_eq!(world.pod.looks(), before);
}

#[test]
fn the_guests_configuration_is_the_pods() {
    if !root() {
        return;
    }
    let world = World::new(1450);
    // The ptp plugin's routes in place of the kernel's, Calico's gateway, Cilium's MTU, and what else there is.
    world.pod.run(
        "ip addr add 10.1.0.2/24 dev eth0
         ip addr add 10.1.0.3/24 dev eth0
         ip addr add 10.2.0.1 peer 10.2.0.9/32 dev eth0
         ip addr add fd00::2/64 dev eth0 nodad
         ip addr add fd00::3/64 dev eth0 nodad
         ip addr add fe80::2/64 dev eth0 nodad
         ip route del 10.1.0.0/24 dev eth0
         ip route add 10.1.0.1/32 dev eth0 scope link src 10.1.0.2
         ip route add 10.1.0.0/24 via 10.1.0.1 src 10.1.0.2
         ip route add 169.254.1.1 dev eth0 scope link
         ip route add default via 169.254.1.1 dev eth0 mtu 1400
         ip route add default via 10.9.9.9 dev eth0 onlink metric 50
         ip route add 10.7.0.0/16 via inet6 fd00::9 dev eth0
         ip route add blackhole 10.8.0.0/16
         ip -6 route add default via fd00::1 metric 5
         ip -6 route add fd00:7::/64 via fe80::9 dev eth0 mtu lock 1300
         ip -6 route add unreachable fd00:8::/32
         ip neigh add 169.254.1.1 lladdr 02:00:00:00:00:99 dev eth0 nud permanent
         ip neigh add fd00::1 lladdr 02:00:00:00:00:98 dev eth0 nud permanent",
    );
    let sysctls = [("net.ipv4.conf.eth0.arp_notify", "1"), ("kernel.shmmni", "1")];
    let plumbed = guest::plumb(&world.pod.0, &sysctls.map(|(key, value)| (key.into(), value.into()))).unwrap();
    apply(&world.guest, &plumbed.network);
    // Twice: it is what it says, not what it adds.
    apply(&world.guest, &plumbed.network);

    // Who made a route, and whether an address brought one with it, is the only difference.
    let words = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        while let Some(position) = words.iter().position(|word| word == "proto") {
            words.drain(position..position + 2);
        }
        words.retain(|word| !matches!(word.as_str(), "noprefixroute" | "nodad"));
        words.join(" ")
    };
    // The address that either kernel makes of the card's MAC address, and its route, come when the link is found ready: later than here.
    let made = |line: &&str| line.contains("fe80::ff:fe00:2/64") || line.starts_with("fe80::/64");
    let sorted = |text: String| {
        let mut lines: Vec<_> = text.lines().filter(|line| !made(line)).map(words).collect();
        lines.sort();
        lines
    };
    for command in ["ip route show", "ip -6 route show", "ip neigh show nud permanent"] {
        assert_eq!(sorted(world.guest.run(command)), sorted(world.pod.run(command)), "{command}");
    }
    // In their order: the first is the one that the kernel sends from. Link-local ones may still be tentative on the host.
    for command in ["ip -4 addr show dev eth0", "ip -6 addr show dev eth0"] {
        let addresses = |namespace: &Namespace| {
            let text = namespace.run(command);
            let lines = text.lines().filter(|line| line.contains("inet") && !made(line)).map(|line| {
                let line = words(line).replace(" tentative", "");
                // The plugin gave no broadcast address here; the guest always has one.
                let brd = line.split(' ').position(|word| word == "brd");
                let skipped = |position: usize| brd.is_some_and(|brd| position == brd || position == brd + 1);
                line.split(' ').enumerate().filter(|(position, _)| !skipped(*position)).map(|(_, word)| word).collect::<Vec<_>>().join(" ")
            });
            lines.collect::<Vec<_>>()
        };
        assert_eq!(addresses(&world.guest), addresses(&world.pod), "{command}");
    }
    let read = |file: &'static str| world.guest.enter(move || std::fs::read_to_string(file).unwrap());
    assert_eq!(read("/proc/sys/net/ipv4/conf/eth0/arp_notify"), "1\n");
    assert!(world.guest.run("ip link show eth0").contains("mtu 1450"));
    assert!(world.guest.run("ip addr show lo").contains("inet 127.0.0.1/8"));
}

#[test]
fn interfaces_keep_their_settings_and_their_names_though_the_guests_cards_have_them_crosswise() {
    if !root() {
        return;
    }
    let (pod, guest) = (Namespace::new(), Namespace::new());
    pod.run(
        "ip link add eth0 address 02:00:00:00:00:0a type veth peer name far0
         ip link add eth1 address 02:00:00:00:00:0b mtu 9000 type veth peer name far1
         ip link add net.7 address 02:00:00:00:00:0c type veth peer name far2
         ip link add idle0 type veth peer name far3
         ip link set eth0 up
         ip link set eth1 up
         ip link set net.7 up
         ip addr add fd00::1/64 dev eth0 nodad
         ip addr add 10.0.0.1/24 dev net.7",
    );
    pod.enter(|| std::fs::write("/proc/sys/net/ipv6/conf/net.7/disable_ipv6", "1").unwrap());
    guest.run(
        "ip link add eth1 address 02:00:00:00:00:0a type veth peer name far0
         ip link add eth0 address 02:00:00:00:00:0b type veth peer name far1
         ip link add card9 address 02:00:00:00:00:0c type veth peer name far2",
    );
    let plumbed = plumb(&pod);
    let told: Vec<_> = plumbed.network.interfaces.iter().map(|interface| (interface.name.as_str(), interface.mtu)).collect();
    assert_eq!(told, [("eth0", 1500), ("eth1", 9000), ("net.7", 1500)]);
    assert_eq!(plumbed.taps.len(), 3);
    apply(&guest, &plumbed.network);
    for (name, mac) in [("eth0", "02:00:00:00:00:0a"), ("eth1", "02:00:00:00:00:0b"), ("net.7", "02:00:00:00:00:0c")] {
        assert!(guest.run(&format!("ip link show {name}")).contains(mac), "{name}");
    }
    assert!(!guest.run("ip addr show net.7").contains("inet6"), "the pod's interface has no IPv6");
    assert!(guest.run("ip addr show net.7").contains("inet 10.0.0.1/24"));
    guest::unplumb(&pod.0).unwrap();
}

#[test]
fn what_an_earlier_call_left_is_replaced_and_what_is_taken_back_is_gone() {
    if !root() {
        return;
    }
    let world = World::new(1500);
    let before = world.pod.looks();
    let mut first = plumb(&world.pod);
    let once = world.pod.looks();
    assert!(once.contains("clsact") && once.contains("bulk0") && once.contains("alias bulkhead: the guest's eth0"), "{once}");
    // A monitor that still has its tap loses it.
    let second = plumb(&world.pod);
    assert_eq!(first.taps[0].read(&mut [0; 2000]).unwrap_err().raw_os_error(), Some(libc::EBADFD));
    assert_eq!(world.pod.run("ip -o link show type tun").lines().count(), 1);
    assert_eq!(second.network, first.network);
    drop((first, second));
    // Killed: the tap is gone, the classifier on the interface is not.
    assert!(world.pod.run("tc filter show dev eth0 ingress").contains("mirred"));
    let third = plumb(&world.pod);
    assert_eq!(world.pod.run("tc filter show dev eth0 ingress").matches("mirred").count(), 1);
    guest::unplumb(&world.pod.0).unwrap();
    assert_eq!(world.pod.looks(), before);
    guest::unplumb(&world.pod.0).unwrap();
    assert_eq!(world.pod.looks(), before);
    drop(third);
}

#[test]
fn other_peoples_classifiers_stay() {
    if !root() {
        return;
    }
    for theirs in ["ingress", "clsact"] {
        let world = World::new(1500);
        bridged(&world);
        world.pod.run(&format!(
            "tc qdisc add dev eth0 {theirs}
             tc filter add dev eth0 ingress protocol ip pref 10 u32 match ip dst 10.0.0.77/32 action mirred egress redirect dev lo"
        ));
        let before = world.pod.looks();
        let mut plumbed = plumb(&world.pod);
        {
            let _relay = world.relay(plumbed.taps.remove(0));
            apply(&world.guest, &plumbed.network);
            assert!(world.peer.ping("10.0.0.2", 56, 5), "{theirs}");
        }
        guest::unplumb(&world.pod.0).unwrap();
        assert_eq!(world.pod.looks(), before, "{theirs}");
        // Somebody comes while the pod runs.
        world.pod.run(&format!("tc qdisc del dev eth0 {theirs}"));
        let _plumbed = plumb(&world.pod);
        world
            .pod
            .run("tc filter add dev eth0 egress protocol ip pref 10 u32 match ip dst 10.0.0.77/32 action mirred egress redirect dev lo");
        guest::unplumb(&world.pod.0).unwrap();
        let after = world.pod.run("tc filter show dev eth0 ingress\ntc filter show dev eth0 egress");
        assert!(after.contains("pref 10 ") && !after.contains("pref 4505"), "{after}");
    }
}

#[test]
fn a_failure_halfway_leaves_nothing() {
    if !root() {
        return;
    }
    let world = World::new(1500);
    // The second interface's MTU is more than a tap device can have.
    world.pod.run(
        "ip link add eth1 mtu 65535 type veth peer name far1 mtu 65535
         ip link set eth1 up
         ip link set far1 mtu 1500",
    );
    let before = world.pod.looks();
    let error = guest::plumb(&world.pod.0, &[]).unwrap_err().to_string();
    assert!(error.starts_with("network: tap device of eth1: MTU 65535: "), "{error}");
    assert_eq!(world.pod.looks(), before);
}

#[test]
fn a_namespace_with_its_loopback_alone_is_not_touched() {
    if !root() {
        return;
    }
    let (pod, guest) = (Namespace::new(), Namespace::new());
    let look = "ip -d link show\nip addr show\ntc qdisc show";
    let before = pod.run(look);
    let plumbed = plumb(&pod);
    assert_eq!(plumbed.network, Network::default());
    assert!(plumbed.taps.is_empty());
    assert_eq!(pod.run(look), before);
    apply(&guest, &plumbed.network);
    assert!(guest.ping("127.0.0.1", 56, 1) && guest.ping("::1", 56, 1));
}
