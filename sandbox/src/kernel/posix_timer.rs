//! POSIX timers (timer_create(2)) of a process.
//!
//! They are kept here, not by the host, because their signals must reach parked calls. As with the host's own, at most one
//! signal of a timer is pending: an expiration that finds it still pending counts as an overrun. Timers that count
//! processor time are not there (`EOPNOTSUPP`, as timer_create(2) has it for such a clock).
//!
//! Timers do not survive exec(2) and are not inherited by fork(2). Lock order: `Process::timers` is a process field; the host
//! is asked and signals are sent without it.

use std::sync::{Arc, Weak};

use super::signal;
use super::task::{Pid, Process};
use super::timer::{Moment, Timer};
use super::wait::{Observer, Ready};
use crate::errno::{Errno, Result};
use crate::fs::timerfd::Setting;
use crate::platform::process::{self, Status};

/// How an expiration is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notification {
    /// `SIGEV_NONE`: not at all.
    None,
    /// `SIGEV_SIGNAL`: by a signal to the process, with a value.
    Signal(i32, u64),
    /// `SIGEV_THREAD_ID`: by a signal to one thread of it.
    Thread(Pid, i32, u64),
}

/// One timer.
pub struct PosixTimer {
    clock: i32,
    notification: Notification,
    setting: Setting,
    armed: Option<Timer>,
    /// Expirations beyond the one that the last signal told of, and those since that are not told yet.
    overrun: i32,
}

/// The most timers of one process; Linux bounds them by `RLIMIT_SIGPENDING`.
const MOST: usize = 4096;

struct Tick {
    process: Weak<Process>,
    number: i32,
}

impl Observer for Tick {
    fn notify(&self, _: Ready) {
        if let Some(process) = self.process.upgrade() {
            expire(&process, self.number);
        }
    }
}

/// Makes a disarmed timer and gives its number. `EAGAIN` where there are too many.
pub fn create(process: &Arc<Process>, clock: i32, notification: impl FnOnce(i32) -> Notification) -> Result<i32> {
    let mut timers = process.timers.lock();
    if timers.posix.len() >= MOST {
        return Err(Errno::EAGAIN);
    }
    let number = (0..).find(|number| !timers.posix.contains_key(number)).ok_or(Errno::EAGAIN)?;
    let timer = PosixTimer { clock, notification: notification(number), setting: Setting::default(), armed: None, overrun: 0 };
    timers.posix.insert(number, timer);
    Ok(number)
}

/// The clock a timer was made for. `EINVAL` where there is no such timer.
pub fn clock(process: &Process, number: i32) -> Result<i32> {
    process.timers.lock().posix.get(&number).map(|timer| timer.clock).ok_or(Errno::EINVAL)
}

/// Arms or disarms a timer; gives the setting before. `EINVAL` where there is no such timer.
pub fn set(process: &Arc<Process>, number: i32, setting: Setting) -> Result<Setting> {
    let (before, old) = {
        let mut timers = process.timers.lock();
        let timer = timers.posix.get_mut(&number).ok_or(Errno::EINVAL)?;
        timer.overrun = 0;
        (std::mem::replace(&mut timer.setting, setting), timer.armed.take())
    };
    drop(old);
    // Armed only now: a moment that has passed fires at once, and must find its setting.
    let armed = arm(process, number, setting);
    let unused = match process.timers.lock().posix.get_mut(&number) {
        Some(timer) if timer.setting.first == setting.first => std::mem::replace(&mut timer.armed, armed),
        _ => armed,
    };
    drop(unused);
    Ok(before)
}

/// The setting, with the next expiration as the first. `EINVAL` where there is no such timer.
pub fn get(process: &Process, number: i32) -> Result<Setting> {
    process.timers.lock().posix.get(&number).map(|timer| timer.setting).ok_or(Errno::EINVAL)
}

/// timer_getoverrun(2). `EINVAL` where there is no such timer.
pub fn overrun(process: &Process, number: i32) -> Result<i32> {
    process.timers.lock().posix.get(&number).map(|timer| timer.overrun).ok_or(Errno::EINVAL)
}

/// Ends a timer. `EINVAL` where there is no such timer.
pub fn delete(process: &Process, number: i32) -> Result<()> {
    let removed = process.timers.lock().posix.remove(&number).ok_or(Errno::EINVAL)?;
    drop(removed);
    Ok(())
}

/// Ends all of them: the process has executed a program.
pub fn delete_all(process: &Process) {
    let removed = std::mem::take(&mut process.timers.lock().posix);
    drop(removed);
}

fn arm(process: &Arc<Process>, number: i32, setting: Setting) -> Option<Timer> {
    let tick = || Arc::new(Tick { process: Arc::downgrade(process), number });
    setting.first.map(|first| super::kernel().timers.arm(first, tick()))
}

/// How often a setting has fired by `now`, and the setting from then on. `None`: not yet.
fn fired(setting: Setting, now: Moment) -> Option<(u64, Setting)> {
    let first = setting.first.filter(|first| *first <= now)?;
    let step = u64::try_from(setting.interval.as_nanos()).unwrap_or(u64::MAX);
    let Some(more) = (now.0 - first.0).checked_div(step) else { return Some((1, Setting { first: None, ..setting })) };
    let next = first.0.saturating_add(step.saturating_mul(more + 1));
    Some((more + 1, Setting { first: Some(Moment(next)), ..setting }))
}

fn expire(process: &Arc<Process>, number: i32) {
    let (notification, count, next) = {
        let mut timers = process.timers.lock();
        let Some(timer) = timers.posix.get_mut(&number) else { return };
        let Some((count, next)) = fired(timer.setting, Moment::now()) else { return };
        timer.setting = next;
        (timer.notification, count, next)
    };
    let armed = arm(process, number, next);
    let pending = is_pending(process, notification);
    let (overrun, old) = {
        let mut timers = process.timers.lock();
        let Some(timer) = timers.posix.get_mut(&number) else { return };
        let beyond = i32::try_from(if pending { count } else { count - 1 }).unwrap_or(i32::MAX);
        timer.overrun = if pending { timer.overrun.saturating_add(beyond) } else { beyond };
        // A setting made meanwhile has a timer of its own.
        let old = if timer.setting.first == next.first { std::mem::replace(&mut timer.armed, armed) } else { armed };
        (timer.overrun, old)
    };
    drop(old);
    if !pending {
        send(process, notification, number, overrun);
    }
}

/// Whether the signal of the last expiration has not been taken yet.
fn is_pending(process: &Process, notification: Notification) -> bool {
    let has = |mask: u64, signal: i32| mask & (1 << (signal - 1)) != 0;
    match notification {
        Notification::None => false,
        Notification::Signal(signal, _) => Status::read(process.pid).is_ok_and(|status| has(status.shared_pending, signal)),
        Notification::Thread(thread, signal, _) => Status::read(thread).is_ok_and(|status| has(status.pending, signal)),
    }
}

fn send(process: &Arc<Process>, notification: Notification, number: i32, overrun: i32) {
    let sent = match notification {
        Notification::None => return,
        Notification::Signal(signal, value) => process::queue(&process.pidfd, signal, &information(signal, number, overrun, value)),
        Notification::Thread(thread, signal, value) => {
            process::queue_to_thread(process.pid, thread, signal, &information(signal, number, overrun, value))
        }
    };
    if sent.is_ok() {
        signal::expect(process);
    }
}

/// The `siginfo_t` of an expiration: `si_signo`, `si_errno`, `si_code`, padding, `si_tid`, `si_overrun`, `si_value`.
fn information(signal: i32, number: i32, overrun: i32, value: u64) -> [i32; 32] {
    /// `SI_TIMER` (include/uapi/asm-generic/siginfo.h).
    const FROM_TIMER: i32 = -2;
    let mut words = [0; 32];
    words[0] = signal;
    words[2] = FROM_TIMER;
    words[4] = number;
    words[5] = overrun;
    words[6] = value as i32;
    words[7] = (value >> 32) as i32;
    words
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_timer_fires_once_or_keeps_its_beat() {
        let once = Setting { first: Some(Moment(100)), interval: Duration::ZERO };
        assert!(fired(once, Moment(99)).is_none());
        let (count, next) = fired(once, Moment(500)).expect("it has fired");
        assert_eq!((count, next.first), (1, None));
        let beat = Setting { first: Some(Moment(100)), interval: Duration::from_nanos(10) };
        let (count, next) = fired(beat, Moment(125)).expect("it has fired");
        assert_eq!((count, next.first), (3, Some(Moment(130))));
    }

    #[test]
    fn an_expiration_carries_its_value() {
        let words = information(34, 7, 2, 0x1122_3344_5566_7788);
        assert_eq!(words[..8], [34, 0, -2, 0, 7, 2, 0x5566_7788, 0x1122_3344]);
    }
}
