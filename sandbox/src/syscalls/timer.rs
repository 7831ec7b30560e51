//! POSIX timers: timer_create(2), timer_settime(2), timer_gettime(2), timer_getoverrun(2), timer_delete(2).

use super::event::{duration, moment_of, put_setting};
use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::fs::timerfd::Setting;
use crate::kernel::posix_timer::{self, Notification};
use crate::kernel::timer::Moment;

use Argument::{Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_timer_create, "timer_create", timer_create, &[Number, Pointer, Pointer]),
    Entry::new(libc::SYS_timer_settime, "timer_settime", timer_settime, &[Number, Hex, Pointer, Pointer]),
    Entry::new(libc::SYS_timer_gettime, "timer_gettime", timer_gettime, &[Number, Pointer]),
    Entry::new(libc::SYS_timer_getoverrun, "timer_getoverrun", timer_getoverrun, &[Number]),
    Entry::new(libc::SYS_timer_delete, "timer_delete", timer_delete, &[Number]),
];

fn timer_create(call: &Call) -> Result<Outcome> {
    match call.int(0) {
        // Real time, monotonic, boot time, and the alarms of two of them, which count the same while the machine is awake.
        libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM => {}
        // Processor time, of this process or another (negative numbers).
        libc::CLOCK_PROCESS_CPUTIME_ID | libc::CLOCK_THREAD_CPUTIME_ID | i32::MIN..0 => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    }
    let asked = match call.address(1).optional() {
        None => None,
        Some(address) => Some(notification(call, call.memory().read_value(address)?)?),
    };
    // Without a sigevent: SIGALRM with the timer's number.
    let number =
        posix_timer::create(&call.process, call.int(0), |number| asked.unwrap_or(Notification::Signal(libc::SIGALRM, number as u64)))?;
    if let Err(error) = call.memory().write_value(call.address(2), &number) {
        let _ = posix_timer::delete(&call.process, number);
        return Err(error);
    }
    Ok(().into())
}

/// Takes a `struct sigevent` apart: value, signal and kind, thread.
fn notification(call: &Call, words: [u64; 3]) -> Result<Notification> {
    let (value, signal, kind) = (words[0], words[1] as i32, (words[1] >> 32) as i32);
    if kind == libc::SIGEV_NONE {
        return Ok(Notification::None);
    }
    if !(1..=64).contains(&signal) {
        return Err(Errno::EINVAL);
    }
    match kind {
        libc::SIGEV_SIGNAL | libc::SIGEV_THREAD => Ok(Notification::Signal(signal, value)),
        libc::SIGEV_THREAD_ID => {
            let thread = thread_of(call, words[2] as i32).ok_or(Errno::EINVAL)?;
            Ok(Notification::Thread(thread, signal, value))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// A thread of the caller's process by its number in the container. One that has made no call yet is adopted first.
fn thread_of(call: &Call, inner: i32) -> Option<crate::kernel::task::Pid> {
    let known = || call.process.threads.lock().iter().find(|thread| thread.inner == inner).map(|thread| thread.tid);
    known().or_else(|| {
        crate::kernel::adopt::threads(&call.process);
        known()
    })
}

fn timer_settime(call: &Call) -> Result<Outcome> {
    /// `TIMER_ABSTIME`; other bits are ignored, as Linux does.
    const ABSOLUTE: i32 = 1;
    let [interval_seconds, interval_fraction, seconds, fraction]: [i64; 4] = call.memory().read_value(call.address(2))?;
    let clock = posix_timer::clock(&call.process, call.int(0))?;
    let interval = duration(interval_seconds, interval_fraction, 1_000_000_000)?;
    let value = duration(seconds, fraction, 1_000_000_000)?;
    let first = match value.is_zero() {
        true => None,
        false if call.int(1) & ABSOLUTE != 0 => Some(moment_of(clock, value)?),
        false => Some(Moment::now().after(value)),
    };
    let before = posix_timer::set(&call.process, call.int(0), Setting { first, interval })?;
    if let Some(address) = call.address(3).optional() {
        put_setting(call, address, before)?;
    }
    Ok(().into())
}

fn timer_gettime(call: &Call) -> Result<Outcome> {
    put_setting(call, call.address(1), posix_timer::get(&call.process, call.int(0))?)?;
    Ok(().into())
}

fn timer_getoverrun(call: &Call) -> Result<Outcome> {
    Ok(Outcome::Value(i64::from(posix_timer::overrun(&call.process, call.int(0))?)))
}

fn timer_delete(call: &Call) -> Result<Outcome> {
    posix_timer::delete(&call.process, call.int(0))?;
    Ok(().into())
}
