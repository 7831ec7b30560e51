//! The event loop's side: queues and sockets that are served while the guest's driver is there.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vm_memory::GuestMemoryMmap;

use super::LONGEST_PAYLOAD;
use super::clients::{Asked, Clients};
use super::host::{Command, Host, Shared};
use super::multiplexer::Multiplexer;
use super::packet::Header;
use super::ring::{Buffer, Ring, RingError, read_packet};
use super::sockets::Token;
use crate::devices::device::Interrupt;

/// Packets that one call handles in each direction: then other devices of the loop have their turn.
const BUDGET: usize = 256;

/// What the loop calls for (`Events::data`).
const WAKE: u32 = 0;
const RECEIVE: u32 = 1;
const TRANSMIT: u32 = 2;
const SOCKETS: u32 = 3;

/// The guest's queues.
pub struct Queues {
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// To the guest.
    pub receive: Ring,
    /// From it.
    pub transmit: Ring,
    /// The device's line.
    pub interrupt: Interrupt,
}

/// The worker of one activation.
pub struct Worker {
    queues: Queues,
    multiplexer: Multiplexer,
    clients: Clients,
    shared: Arc<Shared>,
    /// Only the worker that is on the loop locks it; the front keeps it from one activation to the next. Taken before the lock in [`Shared`].
    host: Arc<Mutex<Host>>,
    /// One payload.
    payload: Box<[u8]>,
    /// The queues are beyond understanding: nothing is served until the driver resets the device.
    broken: bool,
}

impl Worker {
    /// Serves those queues.
    pub fn new(queues: Queues, multiplexer: Multiplexer, shared: Arc<Shared>, host: Arc<Mutex<Host>>) -> Self {
        let payload = vec![0; LONGEST_PAYLOAD].into_boxed_slice();
        Self { queues, multiplexer, clients: Clients::default(), shared, host, payload, broken: false }
    }

    fn obey(&mut self, host: &mut Host) {
        for command in self.shared.take() {
            match command {
                Command::Connect(port, socket) if !self.broken => self.multiplexer.connect(port, socket, false, false),
                Command::Connect(..) => {}
                Command::Listen(port, accept) => host.listen(port, accept),
                Command::Forward(directory, name) => host.forward(directory, name),
                Command::Serve(listener) => {
                    host.listeners.push(listener);
                    self.watch_listener(host, host.listeners.len() - 1);
                }
            }
        }
    }

    fn watch_listener(&self, host: &Host, index: usize) {
        let result = self.multiplexer.watch().add(&host.listeners[index], Token::Listener(index as u64));
        if result.is_err() {
            // Out of memory or watches: the host's misery. The driver's next reset tries again.
            self.queues.interrupt.needs_reset();
        }
    }

    fn hear_sockets(&mut self, host: &Host) {
        for (token, news) in self.multiplexer.watch().news() {
            match token {
                Token::Connection(id) => self.multiplexer.socket_news(id, news),
                Token::Listener(index) => {
                    if let Some(listener) = usize::try_from(index).ok().and_then(|index| host.listeners.get(index)) {
                        self.clients.accept(listener, self.multiplexer.watch());
                    }
                }
                Token::Client(id) => {
                    if let Asked::Port(port, socket) = self.clients.read(id) {
                        self.multiplexer.connect(port, socket, true, true);
                    }
                }
            }
        }
    }

    /// Packets from the guest; true: there is more.
    fn transmit(&mut self, host: &mut Host) -> Result<bool, RingError> {
        let Queues { memory, transmit, interrupt, .. } = &mut self.queues;
        transmit.quiet(memory)?;
        let mut more = true;
        for _ in 0..BUDGET {
            if self.multiplexer.is_congested() {
                // Until the guest takes what it is told; `receive` comes back then.
                more = false;
                break;
            }
            let Some(chain) = transmit.next(memory)? else {
                more = transmit.sleep(memory)?;
                if more { continue } else { break }
            };
            let head = chain.head_index();
            match read_packet(chain, memory, &mut self.payload) {
                Ok((header, length)) => self.multiplexer.receive(&header, &self.payload[..length], host),
                Err(malformed) => self.multiplexer.receive_malformed(&malformed),
            }
            transmit.give_back(memory, head, 0)?;
        }
        if transmit.must_interrupt(memory)? {
            interrupt.queue();
        }
        Ok(more)
    }

    /// Packets to the guest; true: there is more.
    fn receive(&mut self) -> Result<bool, RingError> {
        let Queues { memory, receive, interrupt, .. } = &mut self.queues;
        let mut more = true;
        for _ in 0..BUDGET {
            if !self.multiplexer.has_packet() {
                receive.quiet(memory)?;
                more = false;
                break;
            }
            let Some(chain) = receive.next(memory)? else {
                more = receive.sleep(memory)?;
                if more { continue } else { break }
            };
            let head = chain.head_index();
            let Ok(buffer) = Buffer::to_write(chain, memory) else {
                receive.give_back(memory, head, 0)?;
                continue;
            };
            let room = LONGEST_PAYLOAD.min(buffer.length() - Header::SIZE);
            if let Some((header, length)) = self.multiplexer.next_packet(&mut self.payload[..room]) {
                buffer.write(memory, &header, &self.payload[..length])?;
                receive.give_back(memory, head, Header::SIZE + length)?;
            } else {
                receive.leave();
            }
        }
        if receive.must_interrupt(memory)? {
            interrupt.queue();
        }
        Ok(more)
    }

    /// Serves both queues once.
    ///
    /// # Errors
    /// One of them is beyond understanding.
    pub(super) fn serve(&mut self, host: &mut Host) -> Result<(), RingError> {
        let mut heard = self.transmit(host)?;
        let congested = self.multiplexer.is_congested();
        let said = self.receive()?;
        heard |= congested && !self.multiplexer.is_congested();
        if heard {
            self.queues.transmit.again();
        }
        if said {
            self.queues.receive.again();
        }
        Ok(())
    }

    /// Connections close; whoever comes until the driver resets the device is turned away.
    fn give_up(&mut self) {
        self.broken = true;
        self.queues.interrupt.needs_reset();
        self.clients = Clients::default();
        self.multiplexer.clear();
    }
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        let host = self.host.clone();
        let mut host = host.lock().unwrap_or_else(PoisonError::into_inner);
        match events.data() {
            WAKE => self.obey(&mut host),
            RECEIVE => drop(self.queues.receive.kick().read()),
            TRANSMIT => drop(self.queues.transmit.kick().read()),
            _ => self.hear_sockets(&host),
        }
        if self.broken {
            // Who came meanwhile finds nobody.
            self.clients = Clients::default();
            self.multiplexer.clear();
        } else if self.serve(&mut host).is_err() {
            self.give_up();
        }
    }

    fn init(&mut self, operations: &mut EventOps) {
        let sources = [
            (self.shared.wake().as_raw_fd(), WAKE),
            (self.queues.receive.kick().as_raw_fd(), RECEIVE),
            (self.queues.transmit.kick().as_raw_fd(), TRANSMIT),
            (self.multiplexer.watch().as_raw_fd(), SOCKETS),
        ];
        for (descriptor, data) in sources {
            if operations.add(Events::with_data_raw(descriptor, data, EventSet::IN)).is_err() {
                self.give_up();
            }
        }
        let host = self.host.clone();
        let mut host = host.lock().unwrap_or_else(PoisonError::into_inner);
        (0..host.listeners.len()).for_each(|index| self.watch_listener(&host, index));
        self.obey(&mut host);
        // The driver may have kicked before anybody looked.
        if !self.broken && self.serve(&mut host).is_err() {
            self.give_up();
        }
    }
}
