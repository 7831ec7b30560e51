//! The loop's half of a disk: takes requests off the queue and answers them, one after the other.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::{DescriptorChain, QueueT};
use vm_memory::GuestMemoryMmap;

use super::configuration::{DISCARD, FLUSH, MAX_DISCARD_SECTORS, MAX_WRITE_ZEROES_SECTORS, READ_ONLY, SECTOR, WRITE_ZEROES};
use super::disk::{Extent, Image};
use super::request::{Command, Range, Request, Status};
use crate::devices::buffers::serve::{Step, Stop, Tell, serve};
use crate::devices::buffers::{Buffers, Chain};
use crate::devices::device::{ActiveQueue, Interrupt};
use crate::devices::limiter::Limiter;

/// How many requests are served before whoever waits for the loop (a reset) has its turn.
const TURN: u32 = 32;
/// The length of a disk's name (`VIRTIO_BLK_ID_BYTES`).
pub const NAME: usize = 20;

/// What outlives a reset of the device, and is changed while it runs.
#[derive(Debug)]
pub struct Backend {
    /// The disk, if there is one.
    pub image: Option<Image>,
    /// What it may be used for.
    pub limiter: Limiter,
}

/// Locks what a panic can't have left half-changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The worker.
pub struct Worker {
    active: ActiveQueue,
    memory: GuestMemoryMmap,
    interrupt: Interrupt,
    features: u64,
    name: [u8; NAME],
    backend: Arc<Mutex<Backend>>,
    timer: Option<i32>,
}

impl Worker {
    /// A worker for a queue whose driver has accepted `features`.
    pub fn new(
        active: ActiveQueue,
        memory: GuestMemoryMmap,
        interrupt: Interrupt,
        features: u64,
        name: [u8; NAME],
        backend: Arc<Mutex<Backend>>,
    ) -> Self {
        let timer = lock(&backend).limiter.timer();
        Self { active, memory, interrupt, features, name, backend, timer }
    }

    /// Serves the queue. False if it can't be served any more.
    fn run(&mut self) -> bool {
        let requests = Requests { memory: &self.memory, limit: self.active.queue.size(), features: self.features, name: self.name };
        // Locked for one request at a time: whoever replaces the disk waits for one request at most.
        let one = |chain: DescriptorChain<&GuestMemoryMmap>| requests.serve(chain, &mut lock(&self.backend));
        match serve(&mut self.active.queue, &self.memory, &self.interrupt, TURN, Tell::Each, one) {
            // The kick, or the limiter's timer, will come.
            Ok(Stop::Empty | Stop::Waiting) => true,
            Ok(Stop::Turn) => self.active.kick.write(1).is_ok(),
            Err(_) => {
                self.interrupt.needs_reset();
                false
            }
        }
    }
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, events: Events, operations: &mut EventOps) {
        if Some(events.fd()) == self.timer {
            lock(&self.backend).limiter.rung();
        } else {
            let _ = self.active.kick.read();
        }
        if !self.run() {
            for descriptor in self.timer.into_iter().chain([self.active.kick.as_raw_fd()]) {
                let _ = operations.remove(Events::empty_raw(descriptor));
            }
            // Should both have been ready, the other's event is discarded with its descriptor.
        }
    }

    fn init(&mut self, operations: &mut EventOps) {
        // What can fail here is the kernel's memory: then nothing would ever be served, and the driver had better know.
        let kick = operations.add(Events::new(&self.active.kick, EventSet::IN));
        let timer = self.timer.map_or(Ok(()), |timer| operations.add(Events::new_raw(timer, EventSet::IN)));
        if kick.is_err() || timer.is_err() {
            self.interrupt.needs_reset();
        }
    }
}

/// How requests of one driver are served.
struct Requests<'m> {
    memory: &'m GuestMemoryMmap,
    limit: u16,
    features: u64,
    name: [u8; NAME],
}

impl Requests<'_> {
    fn serve(&self, chain: DescriptorChain<&GuestMemoryMmap>, backend: &mut Backend) -> Step {
        // Without a place for the status there is nothing to say, and nothing is done.
        let Ok(chain) = Chain::read(self.memory, chain, self.limit) else { return Step::Done(0) };
        let Some(Request { command, status, room }) = Request::decode(chain) else { return Step::Done(0) };
        let answer = match command.and_then(|command| self.prepare(command, backend.image.as_ref())) {
            Ok(work) => match backend.limiter.admit(work.cost()) {
                Ok(true) => self.perform(work),
                Ok(false) => return Step::Later,
                Err(_) => Err(Status::Failed),
            },
            Err(status) => Err(status),
        };
        let (written, answer) = match answer {
            Ok(written) => (written, Status::Ok),
            Err(status) => (0, status),
        };
        status.copy_from(&[answer as u8]);
        // "Bytes written" counts from the chain's start (2.7.8.2). The status is behind all the room there is; where less of that was filled, only what was.
        let length = if written == room { written + 1 } else { written };
        Step::Done(u32::try_from(length).unwrap_or(u32::MAX))
    }

    /// Checks a command against the disk, the whole of it before any of it is done.
    fn prepare<'a, 'b>(&self, command: Command<'b>, image: Option<&'a Image>) -> Result<Work<'a, 'b>, Status> {
        let extent = |image: &Image, sector, length: usize| image.extent(sector, length as u64).ok_or(Status::Failed);
        let extents = |feature: u64, ranges: &[Range], most: u32| {
            if self.features & feature == 0 {
                return Err(Status::Unsupported);
            }
            let image = self.writable(image)?;
            let extent = |range: &Range| {
                let length = u64::from(range.sectors) * SECTOR;
                let extent = image.extent(range.sector, length).filter(|_| range.sectors <= most);
                extent.map(|extent| (extent, range.unmap)).ok_or(Status::Failed)
            };
            Ok((image, ranges.iter().map(extent).collect::<Result<Vec<_>, _>>()?))
        };
        match command {
            Command::Read(sector, data) => {
                let image = image.ok_or(Status::Failed)?;
                Ok(Work::Read(image, extent(image, sector, data.length())?, data))
            }
            Command::Write(sector, data) => {
                let image = self.writable(image)?;
                Ok(Work::Write(image, extent(image, sector, data.length())?, data))
            }
            Command::Flush => Ok(Work::Flush(image.ok_or(Status::Failed)?)),
            Command::Identify(data) => Ok(Work::Identify(data)),
            Command::Discard(ranges) => {
                extents(DISCARD, &ranges, MAX_DISCARD_SECTORS).map(|(image, extents)| Work::Discard(image, extents))
            }
            Command::WriteZeroes(ranges) => {
                extents(WRITE_ZEROES, &ranges, MAX_WRITE_ZEROES_SECTORS).map(|(image, extents)| Work::WriteZeroes(image, extents))
            }
        }
    }

    /// The disk, if it may be written. A driver that was told that it is read-only isn't believed otherwise after the disk was replaced.
    fn writable<'a>(&self, image: Option<&'a Image>) -> Result<&'a Image, Status> {
        image.filter(|image| !image.read_only() && self.features & READ_ONLY == 0).ok_or(Status::Failed)
    }

    /// Does it; returns how many bytes were written to the guest.
    fn perform(&self, work: Work<'_, '_>) -> Result<usize, Status> {
        let (image, result) = match work {
            Work::Identify(data) => return Ok(data.copy_from(&self.name)),
            Work::Read(image, extent, data) => return image.read(extent, data).map(|()| extent.length() as usize).map_err(status),
            Work::Flush(image) => return image.flush().map(|()| 0).map_err(status),
            Work::Write(image, extent, data) => (image, image.write(extent, data)),
            Work::Discard(image, extents) => (image, extents.into_iter().try_for_each(|(extent, _)| image.discard(extent))),
            Work::WriteZeroes(image, extents) => {
                (image, extents.into_iter().try_for_each(|(extent, unmap)| image.write_zeroes(extent, unmap)))
            }
        };
        result.map_err(status)?;
        if self.features & FLUSH == 0 {
            // A driver that can't flush takes what is written for stored (5.2.6.2).
            image.flush().map_err(status)?;
        }
        Ok(0)
    }
}

/// A request that may be carried out: its extents lie in the disk.
enum Work<'a, 'b> {
    Read(&'a Image, Extent, Buffers<'b>),
    Write(&'a Image, Extent, Buffers<'b>),
    Flush(&'a Image),
    Identify(Buffers<'b>),
    Discard(&'a Image, Vec<(Extent, bool)>),
    WriteZeroes(&'a Image, Vec<(Extent, bool)>),
}

impl Work<'_, '_> {
    /// What it costs of the limit on bytes. Ranges cost nothing there, since the host needn't move their bytes; they are operations all the same.
    fn cost(&self) -> u64 {
        match self {
            Work::Read(_, extent, _) | Work::Write(_, extent, _) => extent.length(),
            _ => 0,
        }
    }
}

fn status(error: io::Error) -> Status {
    if error.kind() == io::ErrorKind::Unsupported { Status::Unsupported } else { Status::Failed }
}
