//! Packets, and what limits their senders.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::socket::Identity;
use super::endpoint::Endpoint;
use super::rights::Rights;
use crate::kernel::wait::Ready;
use crate::vfs::node::Timestamp;

/// `net.core.wmem_default` and `wmem_max` as Linux has them: bytes.
pub const DEFAULT_LIMIT: usize = 212_992;
/// The least that `SO_SNDBUF` sets (`SOCK_MIN_SNDBUF`).
pub const LEAST_LIMIT: usize = 4_608;
/// What a packet costs besides its bytes: about a `struct sk_buff`'s share of Linux's own charge.
pub const OVERHEAD: usize = 768;

/// What a socket has sent and nobody has read.
pub struct Account {
    charged: AtomicUsize,
    limit: AtomicUsize,
}

impl Default for Account {
    fn default() -> Account {
        Account { charged: AtomicUsize::new(0), limit: AtomicUsize::new(DEFAULT_LIMIT) }
    }
}

impl Account {
    /// `SO_SNDBUF`.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets `SO_SNDBUF`, as Linux does: doubled, within bounds. Whoever waits for room is to be woken.
    pub fn set_limit(&self, wanted: i32) {
        self.limit.store(doubled(wanted).max(LEAST_LIMIT), Ordering::Relaxed);
    }

    /// Bytes charged (`SIOCOUTQ`).
    pub fn charged(&self) -> usize {
        self.charged.load(Ordering::SeqCst)
    }

    /// Whether poll(2) says so: a quarter at most is used (unix_writable() in net/unix/af_unix.c).
    pub fn is_writable(&self) -> bool {
        self.charged() * 4 <= self.limit()
    }
}

/// Twice what was asked for, with Linux's maximum.
pub fn doubled(wanted: i32) -> usize {
    // A negative size is a huge unsigned one there.
    usize::try_from(wanted).unwrap_or(DEFAULT_LIMIT).min(DEFAULT_LIMIT) * 2
}

/// What a packet costs its sender; dropping it gives the room back and wakes the sender. Drop it with no lock held.
pub struct Charge {
    /// Who pays.
    pub sender: Arc<Endpoint>,
    amount: usize,
}

impl Charge {
    /// Charges a packet of `length` bytes, where the limit has not been reached yet; one packet may overshoot it.
    pub fn new(sender: &Arc<Endpoint>, length: usize) -> Option<Charge> {
        let amount = length + OVERHEAD;
        let limit = sender.account.limit();
        let add = |charged| if charged < limit { Some(charged + amount) } else { None };
        sender.account.charged.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).ok()?;
        Some(Charge { sender: sender.clone(), amount })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.sender.account.charged.fetch_sub(self.amount, Ordering::SeqCst);
        let limit = self.sender.account.limit();
        if before * 4 > limit && (before - self.amount) * 4 <= limit {
            self.sender.queue.wake(Ready::WRITABLE);
        }
    }
}

/// What one send put into a queue: a message, or a piece of a stream.
pub struct Packet {
    /// The bytes.
    pub data: Vec<u8>,
    /// How many of them have been read.
    pub read: usize,
    /// Who sent it, as credentials: where one of the two sides wants them.
    pub identity: Option<Identity>,
    /// Descriptors.
    pub rights: Rights,
    /// When it was sent, where the receiver wants to know.
    pub sent: Option<Timestamp>,
    /// The byte of a stream that is urgent, and has not been received as such.
    pub urgent: bool,
    /// It has been peeked at.
    pub peeked: bool,
    /// Its sender, who gets the room back when it has been read.
    pub charge: Charge,
}

impl Packet {
    /// The bytes that have not been read.
    pub fn unread(&self) -> &[u8] {
        &self.data[self.read..]
    }

    /// An urgent byte that has been received: the mark in the stream where it was.
    pub fn is_mark(&self) -> bool {
        self.read == self.data.len()
    }
}

/// How many bytes of a queue have not been read.
pub fn unread(queue: &VecDeque<Packet>) -> usize {
    queue.iter().map(|packet| packet.unread().len()).sum()
}
