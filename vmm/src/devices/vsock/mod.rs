//! Sockets between host and guest (virtio 1.3, section 5.10): streams only.
//!
//! The guest sees three virtqueues. In *tx* are packets from its sockets, in *rx* empty buffers for packets to them, in *event* buffers for news that
//! this device never has (its guest is not migrated under its feet). A connection is named by two ports, ours and the guest's.
//!
//! On the host every connection is one end of a Unix stream socket; who has the other end came by one of four ways, all of them on [`Handle`]:
//!
//! | way | who asks | the other end |
//! |---|---|---|
//! | [`Handle::connect`] | this process | returned at once; closed if the guest refuses |
//! | [`Handle::listen`] | the guest | given to a function of this process |
//! | [`Handle::serve`] | a client of a Unix socket: `CONNECT port\n`, answered by `OK hostport\n` | that client |
//! | [`Handle::forward`] | the guest | whoever listens on the Unix socket `NAME_PORT` |
//!
//! The rooms: `packet` (what a packet is), `ring` (how it lies in guest memory), `credit` and `connection` (one connection's state machine),
//! `multiplexer` (all of them), `host` and `clients` (the four ways), `sockets` (what is asked of the host's kernel), `worker` (the event loop's side),
//! [`device`] (the virtual processors' side).
//!
//! # What a hostile guest can make the host hold
//!
//! At most [`CONNECTIONS`] sockets, and for each at most [`CREDIT`] bytes that the host's end has not taken yet: a guest that sends more than its
//! credit is reset. Nothing is held in the other direction: bytes are read from a host socket when there are an rx buffer and credit for them. What is
//! to be told the guest is a few flags in each connection, made a packet when there is a buffer; refusals of unknown connections are a queue of at most
//! [`REFUSALS`], and while it is full the tx queue is not looked at ("virtqueue flow control", 5.10.6.1.1).
//!
//! # How a connection ends
//!
//! An end of file on the host's socket is `SHUTDOWN` (send) to the guest, a host's end that takes no more is `SHUTDOWN` (receive); the guest's are the
//! host socket's `shutdown(2)`, after everything that came before was delivered. When both directions are over the last to say so is answered by `RST`.
//! A guest's `RST` frees the ports at once, and bytes that are not delivered yet stay until they are.
//!
//! # Absent
//!
//! Sequenced packets (`VIRTIO_VSOCK_F_SEQPACKET`): nothing here speaks them. Timers: a guest that never answers a shutdown keeps one of its own
//! [`CONNECTIONS`] busy, but no descriptor of the host's.
mod clients;
mod connection;
mod credit;
pub mod device;
mod host;
mod multiplexer;
mod packet;
mod ring;
mod sockets;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Vsock;
pub use host::{Accept, Handle};

/// The host's address (`VMADDR_CID_HOST`, vsock(7)).
pub const HOST_CID: u64 = 2;
/// The most connections at a time, those included whose last bytes the host's end has not taken yet.
pub const CONNECTIONS: usize = 1024;
/// Bytes that a guest may send on a connection before the host's end takes them (`buf_alloc`).
pub const CREDIT: u32 = 64 << 10;
/// The most refusals of connections that nobody knows, waiting for rx buffers.
pub const REFUSALS: usize = 1024;
/// The most clients of [`Handle::serve`]'s sockets that have not said yet where they want to go; one more, and the oldest is turned away.
pub const CLIENTS: usize = 64;
/// The longest `CONNECT port\n`, bytes.
pub const LONGEST_LINE: usize = 32;
/// The longest payload of a packet, bytes: Linux's `VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`.
pub const LONGEST_PAYLOAD: usize = 64 << 10;
/// The largest size of each queue.
pub const QUEUE_SIZE: u16 = 256;
