//! The loop's half of a network card.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vm_memory::GuestMemoryMmap;

use super::configuration::Limits;
use super::link::Link;
use super::receive::{self, Receiver};
use super::transmit::transmit;
use crate::devices::buffers::serve;
use crate::devices::device::{ActiveQueue, Interrupt};
use crate::devices::limiter::Limiter;

/// The limits of both directions. They outlive a reset of the device.
#[derive(Debug)]
pub struct Limiters {
    receive: Limiter,
    transmit: Limiter,
}

impl Limiters {
    /// Limiters with full buckets.
    ///
    /// # Errors
    /// The host's.
    pub fn new(limits: Limits) -> io::Result<Self> {
        Ok(Self { receive: Limiter::new(limits.receive)?, transmit: Limiter::new(limits.transmit)? })
    }
}

fn lock(limiters: &Mutex<Limiters>) -> MutexGuard<'_, Limiters> {
    limiters.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The worker of one pair of queues.
///
/// The tap is watched for edges (epoll(7), `EPOLLET`): it is announced when a packet comes, and not again for one that the guest has no buffers for. So
/// nothing runs, and nothing has to be unwatched, while the guest is slow.
pub struct Worker {
    link: Arc<dyn Link>,
    memory: GuestMemoryMmap,
    interrupt: Interrupt,
    features: u64,
    limiters: Arc<Mutex<Limiters>>,
    receive: ActiveQueue,
    transmit: ActiveQueue,
    receiver: Receiver,
    /// Whether the tap may have packets.
    readable: bool,
    /// Whether the tap has no room for the next packet.
    blocked: bool,
    receive_timer: Option<RawFd>,
    transmit_timer: Option<RawFd>,
}

/// The guest has broken a ring.
struct Broken;

impl Worker {
    /// A worker for queues whose driver has accepted `features`, on an interface of that MTU.
    pub fn new(
        link: Arc<dyn Link>,
        memory: GuestMemoryMmap,
        interrupt: Interrupt,
        features: u64,
        limiters: Arc<Mutex<Limiters>>,
        [receive, transmit]: [ActiveQueue; 2],
        mtu: u16,
    ) -> Self {
        let (receive_timer, transmit_timer) = {
            let limiters = lock(&limiters);
            (limiters.receive.timer(), limiters.transmit.timer())
        };
        let receiver = Receiver::new(features, mtu);
        Self {
            link,
            memory,
            interrupt,
            features,
            limiters,
            receive,
            transmit,
            receiver,
            readable: false,
            blocked: false,
            receive_timer,
            transmit_timer,
        }
    }

    fn receive(&mut self) -> Result<(), Broken> {
        if !self.readable {
            return Ok(());
        }
        let mut limiters = lock(&self.limiters);
        let queue = &mut self.receive.queue;
        let stop = self.receiver.receive(queue, &self.memory, self.link.as_ref(), &mut limiters.receive);
        // Also where the ring broke: what was delivered before is the guest's.
        if self.receiver.tell(queue, &self.memory).map_err(|_| Broken)? {
            self.interrupt.queue();
        }
        match stop.map_err(|_| Broken)? {
            receive::Stop::Dry => self.readable = false,
            receive::Stop::NoBuffers | receive::Stop::Waiting => {}
            receive::Stop::Turn => self.receive.kick.write(1).map_err(|_| Broken)?,
        }
        Ok(())
    }

    fn transmit(&mut self) -> Result<(), Broken> {
        let mut limiters = lock(&self.limiters);
        let stop = transmit(
            &mut self.transmit.queue,
            &self.memory,
            &self.interrupt,
            self.link.as_ref(),
            &mut limiters.transmit,
            self.features,
            &mut self.blocked,
        );
        match stop.map_err(|_| Broken)? {
            serve::Stop::Empty | serve::Stop::Waiting => Ok(()),
            serve::Stop::Turn => self.transmit.kick.write(1).map_err(|_| Broken),
        }
    }

    fn handle(&mut self, events: Events) -> Result<(), Broken> {
        let descriptor = events.fd();
        if descriptor == self.receive.kick.as_raw_fd() {
            let _ = self.receive.kick.read();
            self.receive()
        } else if descriptor == self.transmit.kick.as_raw_fd() {
            let _ = self.transmit.kick.read();
            // A full tap will say when it has room; the packets keep until then.
            if self.blocked { Ok(()) } else { self.transmit() }
        } else if Some(descriptor) == self.receive_timer {
            lock(&self.limiters).receive.rung();
            self.receive()
        } else if Some(descriptor) == self.transmit_timer {
            lock(&self.limiters).transmit.rung();
            self.transmit()
        } else {
            // Errors too: reading finds out.
            self.readable |= events.event_set() != EventSet::OUT;
            self.receive()?;
            if self.blocked && events.event_set().contains(EventSet::OUT) { self.transmit() } else { Ok(()) }
        }
    }

    fn link(&self) -> RawFd {
        self.link.descriptor().as_raw_fd()
    }

    /// What is watched, and for what.
    fn watched(&self) -> impl Iterator<Item = Events> {
        let kicks = [self.receive.kick.as_raw_fd(), self.transmit.kick.as_raw_fd()];
        let timers = self.receive_timer.into_iter().chain(self.transmit_timer);
        let both = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        let link = Events::new_raw(self.link(), both);
        kicks.into_iter().chain(timers).map(|descriptor| Events::new_raw(descriptor, EventSet::IN)).chain([link])
    }
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, events: Events, operations: &mut EventOps) {
        if self.handle(events).is_err() {
            self.interrupt.needs_reset();
            for events in self.watched() {
                let _ = operations.remove(events);
            }
        }
    }

    fn init(&mut self, operations: &mut EventOps) {
        // What can fail here is the kernel's memory: then nothing would ever move, and the driver had better know.
        if self.watched().map(|events| operations.add(events)).any(|added| added.is_err()) {
            self.interrupt.needs_reset();
        }
    }
}
