//! The reactor: one thread in epoll_wait(2) for everything the *host* tells the kernel process: host sockets, pidfds,
//! the timer, the control protocol's connections. It costs nothing while nothing happens.
//!
//! Registrations are edge-triggered: an observer is told once for each change and looks at the object until it would
//! block. Observers run on the reactor's thread and must not block; parked calls they wake run there too.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::errno::Result;
use crate::kernel::wait::{Observer, Ready};
use crate::sync::Mutex;

/// The reactor's table of watched host descriptors.
pub struct Reactor {
    epoll: Epoll,
    watched: Mutex<slab::Slab<Arc<dyn Observer>>>,
}

/// A watched host descriptor. Drop it before the descriptor closes.
pub struct Watch {
    key: usize,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let removed = crate::kernel::kernel().reactor.watched.lock().try_remove(self.key);
        drop(removed);
    }
}

const TIMERS: u64 = u64::MAX;

impl Reactor {
    /// A reactor that watches nothing yet.
    pub fn new() -> Result<Reactor> {
        Ok(Reactor { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, watched: Mutex::new(slab::Slab::new()) })
    }

    /// Tells `observer` of every change of the host descriptor's readiness, edge-triggered. Closing the last copy of the
    /// descriptor, together with dropping the result, ends it.
    pub fn watch(&self, descriptor: BorrowedFd<'_>, interest: Ready, observer: Arc<dyn Observer>) -> Result<Watch> {
        let key = self.watched.lock().insert(observer);
        let flags = EpollFlags::from_bits_truncate(interest.bits() as i32) | EpollFlags::EPOLLET;
        if let Err(error) = self.epoll.add(descriptor, EpollEvent::new(flags, key as u64)) {
            let removed = self.watched.lock().try_remove(key);
            drop(removed);
            return Err(error.into());
        }
        Ok(Watch { key })
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
                    let observer = self.watched.lock().get(event.data() as usize).cloned();
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
