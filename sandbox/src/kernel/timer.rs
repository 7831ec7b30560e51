//! Timers of the kernel process: one ordered queue, one host timerfd, no thread and no tick.
//!
//! [`Timers::arm`] takes a moment on `CLOCK_MONOTONIC` and an [`Observer`]; the reactor is woken by the host at the earliest
//! moment and notifies what is due. Dropping the [`Timer`] disarms it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::errno::Result;
use crate::kernel::wait::{Observer, Ready};
use crate::sync::Mutex;

/// A moment on `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment(pub u64);

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
        Moment(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
    }

    /// `duration` later, saturating.
    pub fn after(self, duration: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Until when a call waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deadline {
    /// For ever.
    Never,
    /// Until this moment.
    At(Moment),
}

impl Deadline {
    /// `duration` from now.
    pub fn within(duration: Duration) -> Deadline {
        Deadline::At(Moment::now().after(duration))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        matches!(self, Deadline::At(moment) if moment <= Moment::now())
    }

    /// Arms a timer for it, where there is one.
    pub fn arm(self, observer: Arc<dyn Observer>) -> Option<Timer> {
        match self {
            Deadline::Never => None,
            Deadline::At(moment) => Some(crate::kernel::kernel().timers.arm(moment, observer)),
        }
    }
}

/// Every armed timer of the kernel process.
pub struct Timers {
    clock: TimerFd,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    next: u64,
    armed: BTreeMap<(Moment, u64), Arc<dyn Observer>>,
}

/// An armed timer; dropping it disarms it.
pub struct Timer {
    key: (Moment, u64),
}

impl Drop for Timer {
    fn drop(&mut self) {
        // The host's timer may then fire for nothing, once: cheaper than a call for each disarmed time-out.
        let removed = crate::kernel::kernel().timers.queue.lock().armed.remove(&self.key);
        drop(removed);
    }
}

impl Timers {
    /// An empty queue on a host timerfd.
    pub fn new() -> Result<Timers> {
        let clock = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        Ok(Timers { clock, queue: Mutex::new(Queue::default()) })
    }

    /// The host descriptor that becomes readable when a timer is due.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.clock.as_fd()
    }

    /// Notifies `observer` (with [`Ready::IN`]) at `moment`, at once where it has passed.
    pub fn arm(&self, moment: Moment, observer: Arc<dyn Observer>) -> Timer {
        let mut queue = self.queue.lock();
        let key = (moment, queue.next);
        queue.next += 1;
        queue.armed.insert(key, observer);
        if queue.armed.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.set(moment);
        }
        Timer { key }
    }

    /// Notifies everything that is due and sets the host's timer for the next. Called by the reactor.
    pub fn expire(&self) {
        let mut due = Vec::new();
        {
            let mut queue = self.queue.lock();
            let now = Moment::now();
            while let Some(entry) = queue.armed.first_entry() {
                if entry.key().0 > now {
                    self.set(entry.key().0);
                    break;
                }
                due.push(entry.remove());
            }
        }
        for observer in due {
            observer.notify(Ready::IN);
        }
    }

    fn set(&self, moment: Moment) {
        // Zero would disarm the timer.
        let at = TimeSpec::from_duration(Duration::from_nanos(moment.0.max(1)));
        // Fails only for times out of range: the longest waits then end with the next shorter one.
        let _ = self.clock.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
    }
}
