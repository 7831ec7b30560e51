//! The front of a balloon.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_queue::QueueT;

use super::frames::FRAME;
use super::worker::{Purpose, Worker};
use crate::devices::device::{Activation, Device, EVENT_IDX, Interrupt, Kind, read_bytes};
use crate::devices::events::{EventLoop, Running};

/// `VIRTIO_BALLOON_F_DEFLATE_ON_OOM`: the driver may take pages back when its guest runs out of memory.
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// `VIRTIO_BALLOON_F_PAGE_REPORTING`: the driver may say which memory is free.
const REPORTING: u64 = 1 << 5;

/// Inflate, deflate, and three places where the queue for reports may be. The specification gives it number 4, behind the queues for statistics and for
/// hints; Linux counts only the queues of features that were negotiated, so that it is number 2 (`vm_find_vqs`). Neither of those features is offered, so
/// whichever of the three the driver makes ready is the one.
///
/// Linux doesn't report into a queue of fewer than 32 entries.
const QUEUE_SIZES: [u16; 5] = [128; 5];

/// Where the driver writes how many frames it has given (5.5.4): `struct virtio_balloon_config { le32 num_pages; le32 actual; }`.
const ACTUAL: usize = 4;

#[derive(Debug, Default)]
struct State {
    space: [u8; 8],
    /// The line, while a driver drives the device.
    interrupt: Option<Interrupt>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A balloon's front.
pub struct Balloon {
    state: Arc<Mutex<State>>,
    events: EventLoop,
    running: Option<Running>,
}

/// Asks a guest for memory.
#[derive(Debug, Clone)]
pub struct Handle {
    state: Arc<Mutex<State>>,
}

impl Balloon {
    /// An empty balloon, on a loop that may be shared.
    pub fn new(events: EventLoop) -> (Self, Handle) {
        let state = Arc::<Mutex<State>>::default();
        (Self { state: state.clone(), events, running: None }, Handle { state })
    }
}

impl Handle {
    /// How much of its memory the guest shall do without, in bytes; whole frames of 4 KiB. A request, not an order: see [`Handle::actual`].
    pub fn set_target(&self, bytes: u64) {
        let frames = u32::try_from(bytes / FRAME).unwrap_or(u32::MAX);
        let mut state = lock(&self.state);
        if state.space[..ACTUAL] != frames.to_le_bytes() {
            state.space[..ACTUAL].copy_from_slice(&frames.to_le_bytes());
            // A driver that starts later reads the target by itself.
            if let Some(interrupt) = &state.interrupt {
                interrupt.configuration();
            }
        }
    }

    /// How much of its memory the guest does without, in bytes, by its own account.
    pub fn actual(&self) -> u64 {
        let [.., a, b, c, d] = lock(&self.state).space;
        u64::from(u32::from_le_bytes([a, b, c, d])) * FRAME
    }
}

impl Device for Balloon {
    fn kind(&self) -> Kind {
        Kind::Balloon
    }

    fn features(&self) -> u64 {
        DEFLATE_ON_OOM | REPORTING | EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_configuration(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&lock(&self.state).space, offset, data);
    }

    fn write_configuration(&mut self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        for (index, byte) in data.iter().enumerate() {
            let position = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(index)).filter(|position| *position >= ACTUAL);
            if let Some(to) = position.and_then(|position| state.space.get_mut(position)) {
                *to = *byte;
            }
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, interrupt, features } = activation;
        let purpose = |index| match index {
            0 => Some(Purpose::Inflate),
            1 => Some(Purpose::Deflate),
            _ => (features & REPORTING != 0).then_some(Purpose::Report),
        };
        let mut served = Vec::new();
        for (index, mut active) in queues {
            if let Some(purpose) = purpose(index) {
                active.queue.set_event_idx(features & EVENT_IDX != 0);
                served.push((purpose, active));
            }
        }
        let worker = Worker::new(served, memory, interrupt.clone());
        self.running = Some(self.events.add(Box::new(worker))?);
        lock(&self.state).interrupt = Some(interrupt);
        Ok(())
    }

    fn reset(&mut self) {
        let mut state = lock(&self.state);
        state.interrupt = None;
        // A new driver has all of its memory, whatever the last one had given.
        state.space[ACTUAL..].fill(0);
        drop(state);
        if let Some(running) = self.running.take() {
            // It fails only where the loop has ended, and the worker with it.
            let _ = self.events.remove(running);
        }
    }
}
