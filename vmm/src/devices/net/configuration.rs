//! Features, sizes and configuration space (virtio 1.3, sections 5.1.3 and 5.1.4).

use crate::devices::device::EVENT_IDX;
use crate::devices::limiter;

/// `VIRTIO_NET_F_CSUM`: the guest may leave checksums to the host.
pub const CSUM: u64 = 1;
/// `VIRTIO_NET_F_GUEST_CSUM`: the guest takes packets without checksums.
pub const GUEST_CSUM: u64 = 1 << 1;
/// `VIRTIO_NET_F_MTU`: configuration space has the MTU.
pub const MTU: u64 = 1 << 3;
/// `VIRTIO_NET_F_MAC`: configuration space has the address.
pub const MAC: u64 = 1 << 5;
/// `VIRTIO_NET_F_GUEST_TSO4`: the guest takes TCP over IPv4 in large pieces.
pub const GUEST_TSO4: u64 = 1 << 7;
/// `VIRTIO_NET_F_GUEST_TSO6`: the guest takes TCP over IPv6 in large pieces.
pub const GUEST_TSO6: u64 = 1 << 8;
/// `VIRTIO_NET_F_HOST_TSO4`: the guest may send TCP over IPv4 in large pieces.
pub const HOST_TSO4: u64 = 1 << 11;
/// `VIRTIO_NET_F_HOST_TSO6`: the guest may send TCP over IPv6 in large pieces.
pub const HOST_TSO6: u64 = 1 << 12;
/// `VIRTIO_NET_F_MRG_RXBUF`: a packet may be put into several buffers.
pub const MRG_RXBUF: u64 = 1 << 15;

/// What the card offers.
pub const FEATURES: u64 = CSUM | GUEST_CSUM | MTU | MAC | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6 | MRG_RXBUF | EVENT_IDX;

/// The queues: one to receive, one to transmit.
pub const QUEUE_SIZES: [u16; 2] = [256, 256];
/// Index of the queue to receive by.
pub const RECEIVE: usize = 0;
/// Index of the queue to transmit by.
pub const TRANSMIT: usize = 1;

/// What is around a packet on Ethernet: its header, and a VLAN tag.
pub const ETHERNET: usize = 14 + 4;
/// The largest frame: as much as an IP packet's length can say, on Ethernet.
pub const MAX_FRAME: usize = 65_535 + ETHERNET;

/// `struct virtio_net_config`, up to and including `mtu`.
pub fn space(mac: [u8; 6], mtu: u16) -> [u8; 12] {
    let mut space = [0; 12];
    space[..6].copy_from_slice(&mac);
    // `status` and `max_virtqueue_pairs` exist only with features that aren't offered.
    space[10..].copy_from_slice(&mtu.to_le_bytes());
    space
}

/// What a card may move, each way by itself. From one [`limiter::Limits`]: the same both ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Towards the guest.
    pub receive: limiter::Limits,
    /// From the guest.
    pub transmit: limiter::Limits,
}

impl From<limiter::Limits> for Limits {
    fn from(limits: limiter::Limits) -> Self {
        Self { receive: limits, transmit: limits }
    }
}
