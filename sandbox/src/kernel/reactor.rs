//! The reactor: one thread in epoll_wait(2) for everything the *host* tells the kernel process: host sockets, pidfds,
//! the timer, the control protocol's connections. It costs nothing while nothing happens.
//!
//! Registrations are edge-triggered: an observer is told once for each change and looks at the object until it would
//! block. Observers run on the reactor's thread and must not block; parked calls they wake run there too.
//!
//! A registration has a number that no other one ever gets: the host may still have news of a descriptor when its observer has gone, since it is registered
//! for as long as anybody has it open (a pidfd speaks twice, when its process ends and when that has been waited for). Told to whoever has the place now,
//! it would be the end of a process that lives.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::errno::Result;
use crate::kernel::wait::{Observer, Ready};
use crate::sync::Mutex;

/// The reactor's table of watched host descriptors.
pub struct Reactor {
    epoll: Epoll,
    watched: Mutex<HashMap<u64, Arc<dyn Observer>>>,
    next: AtomicU64,
}

/// A watched host descriptor. Drop it before the descriptor closes.
pub struct Watch {
    number: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let removed = crate::kernel::kernel().reactor.watched.lock().remove(&self.number);
        drop(removed);
    }
}

const TIMERS: u64 = u64::MAX;

impl Reactor {
    /// A reactor that watches nothing yet.
    pub fn new() -> Result<Reactor> {
        Ok(Reactor { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, watched: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// Tells `observer` of every change of the host descriptor's readiness, edge-triggered. Closing the last copy of the
    /// descriptor, together with dropping the result, ends it.
    pub fn watch(&self, descriptor: BorrowedFd<'_>, interest: Ready, observer: Arc<dyn Observer>) -> Result<Watch> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.watched.lock().insert(number, observer);
        let flags = EpollFlags::from_bits_truncate(interest.bits() as i32) | EpollFlags::EPOLLET;
        if let Err(error) = self.epoll.add(descriptor, EpollEvent::new(flags, number)) {
            let removed = self.watched.lock().remove(&number);
            drop(removed);
            return Err(error.into());
        }
        Ok(Watch { number })
    }

    /// Takes a host descriptor that stays open off the table.
    pub fn forget(&self, descriptor: BorrowedFd<'_>, watch: Watch) {
        let _ = self.epoll.delete(descriptor);
        drop(watch);
    }

    /// Serves events for ever: the body of the reactor's thread.
    pub fn run(&self) -> Result<()> {
        let timers = &crate::kernel::kernel().timers;
        self.epoll.add(timers.descriptor(), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMERS))?;
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                if event.data() == TIMERS {
                    timers.expire();
                } else {
                    let observer = self.watched.lock().get(&event.data()).cloned();
                    if let Some(observer) = observer {
                        observer.notify(Ready::from_bits_truncate(event.events().bits() as u32));
                    }
                }
                crate::kernel::park::run_woken();
                crate::kernel::task::set_current(None);
            }
        }
    }
}
