//! Limits on what a guest may move: bytes and operations in a second, with a burst.
//!
//! Each limit is a token bucket ([`bucket`]). A bucket holds at most `burst` tokens, gains `per_second` of them evenly, and a request takes what it
//! costs before it is served. A request that has to wait is not polled for: the [`Limiter`] sets a timer (timerfd_create(2)) for the instant at which
//! the tokens will be there, and the device's worker watches that timer on its event loop.
//!
//! What holds, whatever the requests are:
//!
//! - from its start until a time t a bucket lets through at most `per_second * t + burst`;
//! - in any stretch of time it lets through at most `per_second * stretch + max(burst, largest request)`: a request is one piece, so one that is larger
//!   than the burst is saved for beyond the burst while it waits, and passes once it is paid for in full;
//! - nobody starves: a waiting request of n tokens passes after at most `n / per_second` seconds.
//!
//! A limiter belongs to a device's host side and outlives a reset of the device: a guest can't reset its card to get a fresh burst.
pub mod bucket;

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use bucket::Bucket;

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens in a second. Zero counts as one: a limit that lets nothing through would starve the guest, and its driver with it.
    pub per_second: u64,
    /// How many may pass at once after a pause. Zero counts as one.
    pub burst: u64,
}

/// What a device may move. Without limits, the default, it may move what the host can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of data.
    pub bytes: Option<Rate>,
    /// Requests or packets.
    pub operations: Option<Rate>,
}

/// Limits at work.
#[derive(Debug)]
pub struct Limiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    /// Rings when a request that was refused may pass. Absent where there is no limit.
    timer: Option<TimerFd>,
}

impl Limiter {
    /// A limiter with full buckets.
    ///
    /// # Errors
    /// The host has no timer to give (timerfd_create(2)).
    pub fn new(limits: Limits) -> io::Result<Self> {
        let now = Instant::now();
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now));
        let (bytes, operations) = (bucket(limits.bytes), bucket(limits.operations));
        let timer = if bytes.is_some() || operations.is_some() {
            Some(TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?)
        } else {
            None
        };
        Ok(Self { bytes, operations, timer })
    }

    /// Whether one operation of that many bytes may pass now. Its tokens are taken if so; if not, none are, and the timer rings when it may.
    ///
    /// # Errors
    /// The host's, of timerfd_settime(2). The operation may not pass, and nothing will ring.
    pub fn admit(&mut self, bytes: u64) -> io::Result<bool> {
        let Some(timer) = &self.timer else { return Ok(true) };
        let now = Instant::now();
        let wait = |bucket: &mut Option<Bucket>, tokens: u64| bucket.as_mut().map_or(Duration::ZERO, |bucket| bucket.wait(tokens, now));
        let wait = wait(&mut self.bytes, bytes).max(wait(&mut self.operations, 1));
        if wait.is_zero() {
            let take = |bucket: &mut Option<Bucket>, tokens: u64| bucket.as_mut().is_none_or(|bucket| bucket.take(tokens, now));
            let taken = [take(&mut self.bytes, bytes), take(&mut self.operations, 1)];
            debug_assert_eq!(taken, [true, true], "a bucket that asks for no wait has the tokens");
            return Ok(true);
        }
        timer.set(Expiration::OneShot(TimeSpec::from_duration(wait)), TimerSetTimeFlags::empty())?;
        Ok(false)
    }

    /// The timer's descriptor, to be watched for reading. Absent where there is no limit.
    pub fn timer(&self) -> Option<RawFd> {
        self.timer.as_ref().map(|timer| timer.as_fd().as_raw_fd())
    }

    /// The timer has rung: silences it.
    pub fn rung(&self) {
        if let Some(timer) = &self.timer {
            // EAGAIN: it was set again, or rang for a worker that is gone. Either way it is silent now.
            let _ = timer.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn without_limits_everything_passes_and_there_is_no_timer() {
        let mut limiter = Limiter::new(Limits::default()).unwrap();
        assert!(limiter.timer().is_none());
        assert!((0..1000).all(|_| limiter.admit(u64::MAX).unwrap()));
    }

    #[test]
    fn the_timer_rings_when_a_refused_operation_may_pass() {
        let limits = Limits { bytes: Some(Rate { per_second: 10_000, burst: 1000 }), operations: None };
        let mut limiter = Limiter::new(limits).unwrap();
        assert!(limiter.admit(1000).unwrap());
        assert!(!limiter.admit(300).unwrap());
        let start = Instant::now();
        let timer = limiter.timer.as_ref().unwrap();
        let mut descriptors = [PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut descriptors, PollTimeout::from(10_000u16)).unwrap(), 1);
        assert!(start.elapsed() >= Duration::from_millis(20), "300 bytes take 30 ms, less what passed before the clock was read");
        limiter.rung();
        assert!(limiter.admit(300).unwrap(), "when it rings the tokens are there");
        assert!(!limiter.admit(1000).unwrap());
    }

    #[test]
    fn what_one_bucket_refuses_the_other_is_not_charged_for() {
        let limits = Limits { bytes: Some(Rate { per_second: 1, burst: 10 }), operations: Some(Rate { per_second: 1, burst: 2 }) };
        let mut limiter = Limiter::new(limits).unwrap();
        for _ in 0..10 {
            assert!(!limiter.admit(100).unwrap());
        }
        assert!(limiter.admit(4).unwrap());
        assert!(limiter.admit(4).unwrap(), "both operations were still there");
        assert!(!limiter.admit(0).unwrap(), "and no third");
    }
}
