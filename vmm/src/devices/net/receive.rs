//! From the tap to the guest.
//!
//! A packet's length is known only once it has been read. So it is read into as many of the guest's buffers as packets have lately needed, and what doesn't
//! fit goes into memory of our own, from where it is copied into more buffers. A packet that can't be delivered yet, because the guest has no more buffers or
//! has used up its limit, is *held*: it stays where it is, its buffers go back to the ring as if untouched, and the tap is not read from.

use std::io;

use thiserror::Error;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

use super::configuration::{ETHERNET, MAX_FRAME, MRG_RXBUF};
use super::header::LENGTH;
use super::link::Link;
use crate::devices::buffers::used::Untold;
use crate::devices::buffers::{Buffers, Chain};
use crate::devices::limiter::Limiter;

/// How many packets are received before another device on the loop has its turn.
const TURN: u32 = 64;
/// How many slices are read into at once; more than any packet needs of sane buffers, fewer than readv(2) takes.
const MOST_SLICES: usize = 128;

/// Why receiving stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The tap has nothing. It will say so when it has.
    Dry,
    /// The guest has no buffers. It will kick when it has.
    NoBuffers,
    /// The limiter's timer will ring.
    Waiting,
    /// It is another device's turn, and there may be more.
    Turn,
}

/// The guest has broken the ring.
#[derive(Debug, Error)]
#[error("the receive queue's ring makes no sense")]
pub struct Broken(#[from] virtio_queue::Error);

/// A packet that was read and not yet delivered.
struct Held {
    header: [u8; LENGTH],
    /// The frame's length.
    length: usize,
    /// How much of it is in the guest's first buffers; the rest is ours.
    direct: usize,
    /// Whether the limiter has let it pass.
    admitted: bool,
}

/// Buffers taken off the queue.
#[derive(Default)]
struct Taken<'m> {
    /// Each chain's head and its number of bytes.
    chains: Vec<(u16, usize)>,
    buffers: Buffers<'m>,
    /// Whether there would have been more, but for a chain that is of no use to a packet.
    spoiled: bool,
}

/// The direction's state.
pub struct Receiver {
    mergeable: bool,
    /// A frame of the interface's MTU.
    usual: usize,
    /// How long the next frame may be expected to be.
    expected: usize,
    /// What didn't fit into the guest's buffers.
    overflow: Box<[u8]>,
    held: Option<Held>,
    untold: Untold,
}

impl Receiver {
    /// For a driver that has accepted `features`, on an interface of that MTU.
    pub fn new(features: u64, mtu: u16) -> Self {
        let usual = usize::from(mtu) + ETHERNET;
        let overflow = vec![0; MAX_FRAME].into_boxed_slice();
        Self { mergeable: features & MRG_RXBUF != 0, usual, expected: usual, overflow, held: None, untold: Untold::default() }
    }

    /// Delivers what the tap has.
    ///
    /// # Errors
    /// The guest has broken the ring.
    pub fn receive(&mut self, queue: &mut Queue, memory: &GuestMemoryMmap, link: &dyn Link, limiter: &mut Limiter) -> Result<Stop, Broken> {
        queue.disable_notification(memory)?;
        for _ in 0..TURN {
            match self.one(queue, memory, link, limiter)? {
                None => {}
                Some(Stop::NoBuffers) => return Ok(if self.ask(queue, memory)? { Stop::Turn } else { Stop::NoBuffers }),
                Some(stop) => return Ok(stop),
            }
        }
        Ok(Stop::Turn)
    }

    /// Whether to interrupt the guest.
    ///
    /// # Errors
    /// The guest has broken the ring.
    pub fn tell(&mut self, queue: &Queue, memory: &GuestMemoryMmap) -> Result<bool, Broken> {
        Ok(self.untold.tell(queue, memory)?)
    }

    /// Asks for a kick when there are more buffers than the ring holds now. True if there are more already, or enough: then no kick may come.
    fn ask(&mut self, queue: &mut Queue, memory: &GuestMemoryMmap) -> Result<bool, Broken> {
        let needed = self.held.as_ref().map_or(1, |held| LENGTH + held.length);
        // The mark has to be behind the chains that a held packet waits with: the driver has kicked for them, and won't again (2.7.10).
        let taken = self.take(queue, memory, needed)?;
        let more = queue.enable_notification(memory)?;
        put_back(queue, taken.chains.len());
        Ok(more || taken.buffers.length() >= needed)
    }

    /// Deals with one packet. Nothing if it was, and there may be another.
    fn one(&mut self, queue: &mut Queue, memory: &GuestMemoryMmap, link: &dyn Link, limiter: &mut Limiter) -> Result<Option<Stop>, Broken> {
        let mut held = match self.held.take() {
            Some(held) => held,
            None => match self.read(queue, memory, link)? {
                Ok(held) => held,
                Err(stop) => return Ok(stop),
            },
        };
        if !held.admitted {
            match limiter.admit(held.length as u64) {
                Ok(true) => held.admitted = true,
                Ok(false) => {
                    self.held = Some(held);
                    return Ok(Some(Stop::Waiting));
                }
                // Lost. Its buffers are in the ring still.
                Err(_) => return Ok(None),
            }
        }
        let needed = LENGTH + held.length;
        let taken = self.take(queue, memory, needed)?;
        let Taken { chains, buffers, spoiled } = taken;
        if buffers.length() < needed {
            // Waiting helps where more buffers may come and may be used together with these.
            let full = chains.len() >= usize::from(queue.size()) || buffers.slices().len() >= MOST_SLICES;
            if chains.is_empty() || self.mergeable && !full && !spoiled {
                put_back(queue, chains.len());
                self.held = Some(held);
                return Ok(Some(Stop::NoBuffers));
            }
            // Lost. So are the buffers for this packet, or the next would meet the same.
            let used: Vec<_> = chains.iter().map(|(head, _)| (*head, 0)).collect();
            self.untold.add(queue, memory, &used)?;
            return Ok(None);
        }
        self.deliver(queue, memory, &held, chains, buffers)?;
        Ok(None)
    }

    /// Reads a packet from the tap, as far as possible into the guest's buffers, which stay in the ring.
    fn read(&mut self, queue: &mut Queue, memory: &GuestMemoryMmap, link: &dyn Link) -> Result<Result<Held, Option<Stop>>, Broken> {
        let taken = self.take(queue, memory, LENGTH + self.expected)?;
        put_back(queue, taken.chains.len());
        let Some((_, buffers)) = taken.buffers.split_at(LENGTH) else { return Ok(Err(Some(Stop::NoBuffers))) };
        let mut header = [0; LENGTH];
        let read = loop {
            match buffers.receive(link.descriptor(), &mut header, &mut self.overflow) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => break result,
            }
        };
        // WouldBlock, or the tap is gone: either way it has nothing.
        let Ok(read) = read else { return Ok(Err(Some(Stop::Dry))) };
        // Zero is a link that was hung up; less than a header is no packet, nor is more than the largest.
        let length = match read.checked_sub(LENGTH) {
            None if read == 0 => return Ok(Err(Some(Stop::Dry))),
            Some(length) if (1..=MAX_FRAME).contains(&length) => length,
            _ => return Ok(Err(None)),
        };
        // Large packets come in rows.
        self.expected = if length > self.usual { MAX_FRAME } else { self.usual };
        Ok(Ok(Held { header, length, direct: length.min(buffers.length()), admitted: false }))
    }

    /// Takes chains off the queue until they hold `wanted` bytes, or there are no more, or one is all that a packet may have.
    fn take<'m>(&mut self, queue: &mut Queue, memory: &'m GuestMemoryMmap, wanted: usize) -> Result<Taken<'m>, Broken> {
        let mut taken = Taken::default();
        let mut useless = 0;
        while taken.buffers.length() < wanted && taken.buffers.slices().len() < MOST_SLICES && (self.mergeable || taken.chains.is_empty()) {
            let Some(chain) = queue.iter(memory)?.next() else { break };
            let head = chain.head_index();
            match Chain::read(memory, chain, queue.size()) {
                // Room for the header and some of the frame is the least (5.1.6.3.1).
                Ok(chain) if chain.readable.length() == 0 && chain.writable.length() > LENGTH => {
                    taken.chains.push((head, chain.writable.length()));
                    taken.buffers.append(chain.writable);
                }
                // Useless. Back it goes, when it is the first: chains are used in their order. Not more of them at a time than a ring has: a guest that
                // makes them as fast as they are given back would keep us here.
                _ if taken.chains.is_empty() && useless < queue.size() => {
                    useless += 1;
                    self.untold.add(queue, memory, &[(head, 0)])?;
                }
                _ => {
                    put_back(queue, 1);
                    taken.spoiled = true;
                    break;
                }
            }
        }
        Ok(taken)
    }

    fn deliver(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemoryMmap,
        held: &Held,
        chains: Vec<(u16, usize)>,
        buffers: Buffers<'_>,
    ) -> Result<(), Broken> {
        let mut rest = LENGTH + held.length;
        let mut used = Vec::with_capacity(chains.len());
        for (head, room) in &chains {
            if rest == 0 {
                break;
            }
            let count = rest.min(*room);
            rest -= count;
            used.push((*head, count as u32));
        }
        // Chains that were taken for a larger packet than it was.
        put_back(queue, chains.len() - used.len());
        let mut header = held.header;
        // One, where buffers can't be merged (5.1.6.4.1).
        header[10..].copy_from_slice(&(used.len() as u16).to_le_bytes());
        buffers.copy_from(&header);
        if let Some((_, rest)) = buffers.split_at(LENGTH + held.direct) {
            rest.copy_from(&self.overflow[..held.length - held.direct]);
        }
        Ok(self.untold.add(queue, memory, &used)?)
    }
}

/// Gives the last `count` chains that were taken back to the ring, as if they had not been.
fn put_back(queue: &mut Queue, count: usize) {
    for _ in 0..count {
        queue.go_to_previous_position();
    }
}
