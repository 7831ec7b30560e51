//! Network namespaces to experiment in, and a guest without a virtual machine.
//!
//! ```text
//!   peer                pod                                             wire             guest
//!   peer0 === veth === eth0 -- plumb() -- tap == a thread == tap -- plumb() -- out0 === veth === card0
//! ```
//!
//! The guest's card is one end of a veth pair; the other end is made a pair of reads and writes by the very function under test. What
//! the pod's tap gives is written to that one, and the other way round: as virtio-net would do it.

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bulkhead::network::{self, guest};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// The pod's interface has it, and so has the guest's card.
pub const MAC: &str = "02:00:00:00:00:02";

/// The peer's interface has it.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

nix::ioctl_write_int_bad!(
    /// What a tap device may leave to its reader.
    set_offload,
    libc::TUNSETOFFLOAD
);

/// Lets the host leave checksums and segmentation to the reader of a tap device.
pub fn offload(tap: &File) {
    let all = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    // SAFETY: the request takes an integer and touches no memory of ours; it is unsafe because ioctl's argument is whatever the request says.
    unsafe { set_offload(tap.as_raw_fd(), all as i32) }.unwrap();
}

/// A namespace, by descriptor alone.
pub struct Namespace(pub OwnedFd);

impl Namespace {
    pub fn new() -> Namespace {
        let namespace = network::open(None).unwrap();
        // Ping sockets are allowed to us.
        network::configure(&namespace, vec![]).unwrap();
        Namespace(namespace)
    }

    /// Runs something in a thread in it.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.0.try_clone().unwrap();
        let inside = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::spawn(inside).join().unwrap()
    }

    /// Runs commands of iproute2 in it, one a line, and returns what they print.
    pub fn run(&self, commands: &str) -> String {
        let lines: Vec<String> = commands.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        self.enter(move || {
            let mut printed = String::new();
            for line in lines {
                let mut words = line.split(' ');
                let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
                assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
                printed += &String::from_utf8(output.stdout).unwrap();
            }
            printed
        })
    }

    /// How other processes name it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// All that plumbing could leave in it; without the interfaces' operational states (RFC 2863), which follow what happens with a delay.
    pub fn looks(&self) -> String {
        let text = self.run("ip -d link show\ntc qdisc show\ntc filter show dev eth0 ingress\ntc filter show dev eth0 egress");
        let mut state = false;
        let words = text.split_inclusive(char::is_whitespace).filter(|word| !std::mem::replace(&mut state, word.trim() == "state"));
        words.collect()
    }

    /// Whether `to` answers an echo request with that much data, sent up to `attempts` times.
    pub fn ping(&self, to: &str, size: usize, attempts: usize) -> bool {
        let to: IpAddr = to.parse().unwrap();
        self.enter(move || {
            let (family, protocol, kind) = match to {
                IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8),
                IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
            };
            let socket: UdpSocket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol).unwrap().into();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut answer = vec![0; size + 100];
            (0..attempts).any(|attempt| {
                let mut request = vec![kind, 0, 0, 0, 0, 0, 0, attempt as u8];
                request.resize(8 + size, 0x5a);
                let sent = socket.send_to(&request, SocketAddr::new(to, 0));
                // Of a lost earlier request: no route to the host.
                sent.is_ok() && socket.recv(&mut answer).is_ok_and(|length| length == 8 + size && answer[8..length] == request[8..])
            })
        })
    }
}

/// Both ends of the experiment, connected by a veth pair.
pub struct World {
    pub peer: Namespace,
    pub pod: Namespace,
    wire: Namespace,
    pub guest: Namespace,
}

impl World {
    /// A pod whose `eth0` and a peer whose `peer0` are two ends of a link, both up and without addresses; a guest whose `card0` is down.
    pub fn new(mtu: u32) -> World {
        let world = World::without_link(mtu);
        world.pod.run(&format!(
            "ip link add eth0 address {MAC} mtu {mtu} type veth peer name peer0 address 02:00:00:00:00:01 mtu {mtu} netns {}
             ip link set eth0 up",
            world.peer.path()
        ));
        world.peer.run("ip link set peer0 up");
        world
    }

    /// The same, with a macvlan interface in the pod, on top of the other end of the peer's link.
    pub fn with_macvlan(mtu: u32) -> (World, Namespace) {
        let (world, host) = (World::without_link(mtu), Namespace::new());
        host.run(&format!(
            "ip link add host0 mtu {mtu} type veth peer name peer0 address 02:00:00:00:00:01 mtu {mtu} netns {}
             ip link set host0 up
             ip link add link host0 name eth0 address {MAC} mtu {mtu} netns {} type macvlan mode bridge",
            world.peer.path(),
            world.pod.path()
        ));
        world.pod.run("ip link set eth0 up");
        world.peer.run("ip link set peer0 up");
        (world, host)
    }

    fn without_link(mtu: u32) -> World {
        let world = World { peer: Namespace::new(), pod: Namespace::new(), wire: Namespace::new(), guest: Namespace::new() };
        world.wire.run(&format!(
            "ip link add out0 mtu {mtu} type veth peer name card0 address {MAC} netns {}
             ip link set out0 addrgenmode none
             ip link set out0 up",
            world.guest.path()
        ));
        world
    }

    /// Connects the guest's card with the pod's tap.
    pub fn relay(&self, pod: File) -> Relay {
        let wire = guest::plumb(&self.wire.0, &[]).unwrap().taps.remove(0);
        let (mut stopped, stop) = std::io::pipe().unwrap();
        let longest = Arc::new(AtomicUsize::new(0));
        let seen = longest.clone();
        let thread = std::thread::spawn(move || {
            let mut frame = vec![0; 70_000];
            loop {
                let mut watched = [
                    PollFd::new(pod.as_fd(), PollFlags::POLLIN),
                    PollFd::new(wire.as_fd(), PollFlags::POLLIN),
                    PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                ];
                poll(&mut watched, PollTimeout::NONE).unwrap();
                if watched[2].any().unwrap() {
                    let _ = stopped.read(&mut [0]);
                    return;
                }
                for (from, to) in [(&pod, &wire), (&wire, &pod)] {
                    let (mut from, mut to) = (from, to);
                    while let Ok(length) = from.read(&mut frame) {
                        seen.fetch_max(length, Ordering::Relaxed);
                        // A frame that finds no room is lost, as on any wire.
                        let _ = to.write(&frame[..length]);
                    }
                }
            }
        });
        Relay { stop: Some(stop), thread: Some(thread), longest }
    }
}

/// Frames go to and fro while it lives.
pub struct Relay {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    longest: Arc<AtomicUsize>,
}

impl Relay {
    /// The length of the longest frame so far, with the header before it.
    pub fn longest(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}
