//! Wait queues: how anything that can become ready tells whoever waits for it.
//!
//! A kernel object that may block (a pipe, a socket, a terminal, a timer) owns a [`WaitQueue`]. A parked call or an
//! epoll set *observes* it: registers an [`Observer`] together with the [`Ready`] bits it cares for, then looks whether
//! the object is ready already (in that order, so that no wake-up is lost). The object, after a change and with its own
//! lock released, calls [`WaitQueue::wake`] with the bits that may have become true. A wake-up is a hint: the observer
//! looks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::Mutex;

bitflags::bitflags! {
    /// Readiness, in the bits of poll(2).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Ready: u32 {
        /// `POLLIN`: a read would not block.
        const IN = libc::POLLIN as u32;
        /// `POLLPRI`: exceptional condition.
        const PRI = libc::POLLPRI as u32;
        /// `POLLOUT`: a write would not block.
        const OUT = libc::POLLOUT as u32;
        /// `POLLERR`; always reported.
        const ERR = libc::POLLERR as u32;
        /// `POLLHUP`; always reported.
        const HUP = libc::POLLHUP as u32;
        /// `POLLNVAL`: not an open descriptor.
        const NVAL = libc::POLLNVAL as u32;
        /// `POLLRDNORM`.
        const RDNORM = libc::POLLRDNORM as u32;
        /// `POLLRDBAND`.
        const RDBAND = libc::POLLRDBAND as u32;
        /// `POLLWRNORM`.
        const WRNORM = libc::POLLWRNORM as u32;
        /// `POLLWRBAND`.
        const WRBAND = libc::POLLWRBAND as u32;
        /// `POLLRDHUP`: the peer shut down its writing half.
        const RDHUP = 0x2000;
    }
}

impl Ready {
    /// What a readable object reports.
    pub const READABLE: Ready = Ready::IN.union(Ready::RDNORM);
    /// What a writable object reports.
    pub const WRITABLE: Ready = Ready::OUT.union(Ready::WRNORM);
    /// What is reported whether it was asked for or not.
    pub const ALWAYS: Ready = Ready::ERR.union(Ready::HUP);
}

/// Whoever wants to hear that an object may have become ready.
pub trait Observer: Send + Sync {
    /// Called with no kernel lock held, on any thread. Must not block.
    fn notify(&self, ready: Ready);
}

/// Observers of one object. Cloning gives another handle on the same queue.
#[derive(Clone, Default)]
pub struct WaitQueue(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: AtomicUsize,
    observers: Mutex<slab::Slab<(Ready, Arc<dyn Observer>)>>,
}

impl WaitQueue {
    /// An empty queue.
    pub fn new() -> WaitQueue {
        WaitQueue::default()
    }

    /// Registers `observer` for `interest` (errors and hang-ups always included) until the result is dropped.
    pub fn observe(&self, interest: Ready, observer: Arc<dyn Observer>) -> Observation {
        let mut observers = self.0.observers.lock();
        let key = observers.insert((interest | Ready::ALWAYS, observer));
        self.0.waiting.store(observers.len(), Ordering::SeqCst);
        Observation { queue: self.clone(), key }
    }

    /// Tells every observer that is interested in any of `ready`. Call it with no lock held.
    pub fn wake(&self, ready: Ready) {
        if self.0.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let interested: Vec<Arc<dyn Observer>> = {
            let observers = self.0.observers.lock();
            observers.iter().filter(|(_, (interest, _))| interest.intersects(ready)).map(|(_, (_, o))| o.clone()).collect()
        };
        for observer in interested {
            observer.notify(ready);
        }
    }

    /// Whether anybody waits.
    pub fn has_observers(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) != 0
    }
}

/// A registration on a wait queue; dropping it ends it.
pub struct Observation {
    queue: WaitQueue,
    key: usize,
}

impl Drop for Observation {
    fn drop(&mut self) {
        let mut observers = self.queue.0.observers.lock();
        let removed = observers.try_remove(self.key);
        self.queue.0.waiting.store(observers.len(), Ordering::SeqCst);
        drop(observers);
        drop(removed);
    }
}
