//! Events and timers: eventfd(2), signalfd(2), timerfd_create(2), setitimer(2), alarm(2).

use std::time::Duration;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::fs::eventfd::EventFile;
use crate::fs::signalfd::SignalFile;
use crate::fs::timerfd::{Setting, TimerFile};
use crate::kernel::itimer;
use crate::kernel::timer::Moment;
use crate::platform::memory::Address;
use crate::vfs::file::OpenFile;

use Argument::{Descriptor, Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_eventfd, "eventfd", |call| eventfd(call, 0), &[Number]),
    Entry::new(libc::SYS_eventfd2, "eventfd2", |call| eventfd(call, call.int(1)), &[Number, Hex]),
    Entry::new(libc::SYS_signalfd, "signalfd", |call| signalfd(call, 0), &[Number, Pointer, Number]),
    Entry::new(libc::SYS_signalfd4, "signalfd4", |call| signalfd(call, call.int(3)), &[Number, Pointer, Number, Hex]),
    Entry::new(libc::SYS_timerfd_create, "timerfd_create", timerfd_create, &[Number, Hex]),
    Entry::new(libc::SYS_timerfd_settime, "timerfd_settime", timerfd_settime, &[Descriptor, Hex, Pointer, Pointer]),
    Entry::new(libc::SYS_timerfd_gettime, "timerfd_gettime", timerfd_gettime, &[Descriptor, Pointer]),
    Entry::new(libc::SYS_setitimer, "setitimer", setitimer, &[Number, Pointer, Pointer]),
    Entry::new(libc::SYS_getitimer, "getitimer", getitimer, &[Number, Pointer]),
    Entry::new(libc::SYS_alarm, "alarm", alarm, &[Number]),
];

fn eventfd(call: &Call, flags: i32) -> Result<Outcome> {
    if flags & !(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = EventFile::create(u64::from(call.uint(0)), flags & libc::EFD_SEMAPHORE != 0);
    let file = OpenFile::new(file, None, libc::O_RDWR | flags & libc::EFD_NONBLOCK, call.credentials());
    Ok(Outcome::Value(i64::from(call.install(file, flags & libc::EFD_CLOEXEC != 0)?.0)))
}

fn signalfd(call: &Call, flags: i32) -> Result<Outcome> {
    if call.raw(2) != 8 {
        return Err(Errno::EINVAL);
    }
    let mask: u64 = call.memory().read_value(call.address(1))?;
    if flags & !(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if call.int(0) == -1 {
        let file = OpenFile::new(SignalFile::create(mask), None, libc::O_RDWR | flags & libc::SFD_NONBLOCK, call.credentials());
        return Ok(Outcome::Value(i64::from(call.install(file, flags & libc::SFD_CLOEXEC != 0)?.0)));
    }
    SignalFile::of(&*call.file(0)?)?.set_mask(mask);
    Ok(Outcome::Value(i64::from(call.int(0))))
}

fn timerfd_create(call: &Call) -> Result<Outcome> {
    let (clock, flags) = (call.int(0), call.int(1));
    // Real time, monotonic, boot time and their alarms.
    if !matches!(clock, 0 | 1 | 7 | 8 | 9) || flags & !(libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = OpenFile::new(TimerFile::create(clock), None, libc::O_RDWR | flags & libc::TFD_NONBLOCK, call.credentials());
    Ok(Outcome::Value(i64::from(call.install(file, flags & libc::TFD_CLOEXEC != 0)?.0)))
}

/// A duration from seconds and a fraction; `EINVAL` out of range.
pub fn duration(seconds: i64, fraction: i64, per_second: u32) -> Result<Duration> {
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let fraction = u32::try_from(fraction).ok().filter(|value| *value < per_second).ok_or(Errno::EINVAL)?;
    Ok(Duration::new(seconds, fraction * (1_000_000_000 / per_second)))
}

/// The moment of the monotonic clock at which another clock shows `time`.
pub fn moment_of(clock: i32, time: Duration) -> Result<Moment> {
    let of_host = nix::time::ClockId::from_raw(match clock {
        8 => 0,
        9 => 7,
        clock => clock,
    });
    let now = nix::time::clock_gettime(of_host)?;
    let now = Duration::new(now.tv_sec() as u64, now.tv_nsec() as u32);
    Ok(Moment::now().after(time.saturating_sub(now)))
}

fn timer_of(open: &OpenFile) -> Result<&TimerFile> {
    open.file.as_any().downcast_ref::<TimerFile>().ok_or(Errno::EINVAL)
}

fn timerfd_settime(call: &Call) -> Result<Outcome> {
    /// `TFD_TIMER_ABSTIME` and `TFD_TIMER_CANCEL_ON_SET`.
    const ABSOLUTE: i32 = 1;
    const CANCEL: i32 = 2;
    if call.int(1) & !(ABSOLUTE | CANCEL) != 0 {
        return Err(Errno::EINVAL);
    }
    let [interval_seconds, interval_fraction, seconds, fraction]: [i64; 4] = call.memory().read_value(call.address(2))?;
    let open = call.file(0)?;
    let timer = timer_of(&open)?;
    let interval = duration(interval_seconds, interval_fraction, 1_000_000_000)?;
    let value = duration(seconds, fraction, 1_000_000_000)?;
    let first = if value.is_zero() {
        None
    } else if call.int(1) & ABSOLUTE != 0 {
        Some(moment_of(timer.clock, value)?)
    } else {
        Some(Moment::now().after(value))
    };
    let before = timer.set(Setting { first, interval });
    if let Some(address) = call.address(3).optional() {
        put_setting(call, address, before)?;
    }
    Ok(().into())
}

fn timerfd_gettime(call: &Call) -> Result<Outcome> {
    let open = call.file(0)?;
    put_setting(call, call.address(1), timer_of(&open)?.get())?;
    Ok(().into())
}

/// How long it is until a setting fires; zero where it is disarmed.
fn left(setting: Setting) -> Duration {
    setting.first.map_or(Duration::ZERO, |first| Duration::from_nanos(first.0.saturating_sub(Moment::now().0).max(1)))
}

/// Writes a setting as a `struct itimerspec`.
pub fn put_setting(call: &Call, to: Address, setting: Setting) -> Result<()> {
    let left = left(setting);
    let words = [setting.interval.as_secs(), u64::from(setting.interval.subsec_nanos()), left.as_secs(), u64::from(left.subsec_nanos())];
    call.memory().write_value(to, &words)
}

/// The real-time interval timer is ours, since its signal must reach parked calls; the other two count the caller's own processor time, natively.
fn setitimer(call: &Call) -> Result<Outcome> {
    match call.int(0) {
        libc::ITIMER_REAL => {}
        libc::ITIMER_VIRTUAL | libc::ITIMER_PROF => return Ok(Outcome::Continue),
        _ => return Err(Errno::EINVAL),
    }
    let setting = match call.address(1).optional() {
        None => Setting::default(),
        Some(address) => {
            let [interval_seconds, interval_fraction, seconds, fraction]: [i64; 4] = call.memory().read_value(address)?;
            let value = duration(seconds, fraction, 1_000_000)?;
            let first = (!value.is_zero()).then(|| Moment::now().after(value));
            Setting { first, interval: duration(interval_seconds, interval_fraction, 1_000_000)? }
        }
    };
    let before = itimer::set_real(&call.process, setting);
    if let Some(address) = call.address(2).optional() {
        put_itimer(call, address, before)?;
    }
    Ok(().into())
}

fn getitimer(call: &Call) -> Result<Outcome> {
    match call.int(0) {
        libc::ITIMER_REAL => {}
        libc::ITIMER_VIRTUAL | libc::ITIMER_PROF => return Ok(Outcome::Continue),
        _ => return Err(Errno::EINVAL),
    }
    put_itimer(call, call.address(1), itimer::get_real(&call.process))?;
    Ok(().into())
}

fn put_itimer(call: &Call, to: Address, setting: Setting) -> Result<()> {
    let left = left(setting);
    let micros = |duration: Duration| [duration.as_secs(), u64::from(duration.subsec_micros())];
    let [a, b] = micros(setting.interval);
    let [c, d] = micros(left);
    call.memory().write_value(to, &[a, b, c, d])
}

fn alarm(call: &Call) -> Result<Outcome> {
    let seconds = u64::from(call.uint(0));
    let first = (seconds > 0).then(|| Moment::now().after(Duration::from_secs(seconds)));
    let before = itimer::set_real(&call.process, Setting { first, interval: Duration::ZERO });
    let left = left(before);
    // Rounded to the nearest second, but never to "none" (alarm(2)).
    let seconds = left.as_secs() + u64::from(left.subsec_millis() >= 500);
    Ok(Outcome::Value(if before.first.is_some() { seconds.max(1) as i64 } else { 0 }))
}
