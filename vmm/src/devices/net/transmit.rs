//! From the guest to the tap.

use std::io;

use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::header::{Header, LENGTH};
use super::link::Link;
use crate::devices::buffers::Chain;
use crate::devices::buffers::serve::{QueueError, Step, Stop, Tell, serve};
use crate::devices::device::Interrupt;
use crate::devices::limiter::Limiter;

/// How many packets are sent before another device on the loop has its turn.
const TURN: u32 = 64;

/// Sends what the guest has made available. `blocked` is set where the tap has no room: then its being writable is what to wait for.
///
/// # Errors
/// The ring is broken.
pub fn transmit(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    interrupt: &Interrupt,
    link: &dyn Link,
    limiter: &mut Limiter,
    features: u64,
    blocked: &mut bool,
) -> Result<Stop, QueueError> {
    *blocked = false;
    let limit = queue.size();
    serve(queue, memory, interrupt, TURN, Tell::Last, |chain| {
        let step = send(chain, memory, limit, link, limiter, features);
        step.unwrap_or_else(|_| {
            *blocked = true;
            Step::Later
        })
    })
}

/// The tap has no room.
struct Blocked;

/// Sends one packet. A packet that can't be sent is lost, as on any network, and its buffers go back to the driver.
fn send(
    chain: DescriptorChain<&GuestMemoryMmap>,
    memory: &GuestMemoryMmap,
    limit: u16,
    link: &dyn Link,
    limiter: &mut Limiter,
    features: u64,
) -> Result<Step, Blocked> {
    let lost = Ok(Step::Done(0));
    let Some((front, frame)) = Chain::read(memory, chain, limit).ok().and_then(|chain| chain.readable.split_at(LENGTH)) else {
        return lost;
    };
    let mut copy = [0; LENGTH];
    front.copy_to(&mut copy);
    let Ok(header) = Header::check(copy, frame.length(), features) else { return lost };
    match limiter.admit(frame.length() as u64) {
        Ok(true) => {}
        Ok(false) => return Ok(Step::Later),
        Err(_) => return lost,
    }
    loop {
        match frame.send(link.descriptor(), header.bytes()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // It is charged again when there is room: a full tap, which has a gigabyte of room by default, is limit enough.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Blocked),
            // EIO: the interface is down. EINVAL: the host's kernel doesn't believe the header either.
            Err(_) | Ok(_) => return lost,
        }
    }
}
