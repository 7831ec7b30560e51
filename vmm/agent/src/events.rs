//! The one loop's ears: an edge-triggered epoll(7) whose events name what they are about.
//!
//! Every descriptor is watched for everything, once. Whoever is told reads and writes until the kernel says `EAGAIN`; what is in the middle of
//! something because it has had its turn asks for another one.

use std::collections::HashMap;
use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The conversation with the monitor has ended.
    Boot,
    /// A child has ended.
    Signals,
    /// Somebody connects to give orders.
    Control,
    /// Somebody connects to attach a stream.
    Streams,
    /// A control connection.
    Connection(u64),
    /// A stream that no request has claimed.
    Arrival(u64),
    /// A stream on its way to or from a process.
    Relay(u64),
    /// A process that stands before its program has something to say.
    Gate(u64),
    /// Memory ran out in a container.
    Memory(String),
    /// A container's cgroup is empty, or frozen.
    Cgroup(String),
}

/// A watch; it names one registration and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Watch(u64);

/// The watched descriptors.
#[derive(Debug)]
pub struct Events {
    epoll: Epoll,
    next: u64,
    sources: HashMap<u64, Source>,
}

/// Events taken from the kernel at once.
const BATCH: usize = 64;

impl Events {
    /// None watched.
    ///
    /// # Errors
    /// epoll_create(2)'s.
    pub fn new() -> nix::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, next: 0, sources: HashMap::new() })
    }

    /// Watches a descriptor until [`Events::forget`] or its end.
    ///
    /// # Errors
    /// epoll_ctl(2)'s.
    pub fn watch(&mut self, descriptor: impl AsFd, source: Source) -> nix::Result<Watch> {
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI | EpollFlags::EPOLLET;
        self.next += 1;
        self.epoll.add(descriptor, EpollEvent::new(interest, self.next))?;
        self.sources.insert(self.next, source);
        Ok(Watch(self.next))
    }

    /// Watches it no longer: what has been seen of it already is not reported either.
    pub fn forget(&mut self, watch: Watch, descriptor: impl AsFd) {
        self.sources.remove(&watch.0);
        let _ = self.epoll.delete(descriptor);
    }

    /// What has happened. Waits for something unless `at_once`.
    ///
    /// # Errors
    /// epoll_wait(2)'s.
    pub fn wait(&self, at_once: bool) -> nix::Result<Vec<(Watch, EpollFlags)>> {
        let mut events = [EpollEvent::empty(); BATCH];
        let timeout = if at_once { EpollTimeout::ZERO } else { EpollTimeout::NONE };
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => Ok(events[..count].iter().map(|event| (Watch(event.data()), event.events())).collect()),
            Err(nix::errno::Errno::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// What a watch is about; none for one that has been forgotten since.
    pub fn source(&self, watch: Watch) -> Option<Source> {
        self.sources.get(&watch.0).cloned()
    }
}
