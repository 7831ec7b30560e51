//! Packets, and what limits their senders.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::address::UnixName;
use super::super::socket::Identity;
use super::rights::Rights;
use crate::kernel::wait::{Ready, WaitQueue};

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
    queue: WaitQueue,
}

impl Account {
    /// An empty account of the socket with this wait queue.
    pub fn new(queue: WaitQueue) -> Arc<Account> {
        Arc::new(Account { charged: AtomicUsize::new(0), limit: AtomicUsize::new(DEFAULT_LIMIT), queue })
    }

    /// `SO_SNDBUF`.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets `SO_SNDBUF`, as Linux does: doubled, within bounds.
    pub fn set_limit(&self, wanted: i32) {
        self.limit.store(doubled(wanted).max(LEAST_LIMIT), Ordering::Relaxed);
        self.queue.wake(Ready::WRITABLE);
    }

    /// Bytes charged (`SIOCOUTQ`).
    pub fn charged(&self) -> usize {
        self.charged.load(Ordering::SeqCst)
    }

    /// Whether poll(2) says so: a quarter at most is used (unix_writable() in net/unix/af_unix.c).
    pub fn is_writable(&self) -> bool {
        self.charged() * 4 <= self.limit()
    }

    /// Charges a packet of `length` bytes, where the limit has not been reached yet; one packet may overshoot it.
    pub fn charge(self: &Arc<Self>, length: usize) -> Option<Charge> {
        let amount = length + OVERHEAD;
        let limit = self.limit();
        let add = |charged| if charged < limit { Some(charged + amount) } else { None };
        self.charged.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).ok()?;
        Some(Charge { account: self.clone(), amount })
    }
}

/// Twice what was asked for, with Linux's maximum.
pub fn doubled(wanted: i32) -> usize {
    // A negative size is a huge unsigned one there.
    usize::try_from(wanted).unwrap_or(DEFAULT_LIMIT).min(DEFAULT_LIMIT) * 2
}

/// A charge; dropping it gives the room back and wakes the sender. Drop it with no lock held.
pub struct Charge {
    account: Arc<Account>,
    amount: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.account.charged.fetch_sub(self.amount, Ordering::SeqCst);
        let limit = self.account.limit();
        if before * 4 > limit && (before - self.amount) * 4 <= limit {
            self.account.queue.wake(Ready::WRITABLE);
        }
    }
}

/// What one send put into a queue: a message, or a piece of a stream.
pub struct Packet {
    /// The bytes.
    pub data: Vec<u8>,
    /// How many of them have been read.
    pub read: usize,
    /// The sender's name.
    pub from: Option<UnixName>,
    /// The sender, where one of the two sides wants credentials.
    pub identity: Option<Identity>,
    /// Descriptors.
    pub rights: Rights,
    /// Released when it has been read.
    pub charge: Charge,
}

impl Packet {
    /// The bytes that have not been read.
    pub fn unread(&self) -> &[u8] {
        &self.data[self.read..]
    }
}
