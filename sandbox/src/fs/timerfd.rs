//! timerfd_create(2): a timer that can be waited for.
//!
//! Every clock is turned into moments of the monotonic clock when the timer is set; an absolute time of the real-time clock is therefore not moved
//! by a later change of that clock.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::errno::{Errno, Result};
use crate::kernel::timer::{Moment, Timer};
use crate::kernel::wait::{Observer, Ready, WaitQueue};
use crate::sync::Mutex;
use crate::vfs::anonymous;
use crate::vfs::file::{File, OpenFile, Position, Sink};
use crate::vfs::node::Attributes;

/// When a timer fires.
#[derive(Clone, Copy, Default, Debug)]
pub struct Setting {
    /// First; `None` for disarmed.
    pub first: Option<Moment>,
    /// Then every so often; zero for once.
    pub interval: Duration,
}

/// A timerfd.
pub struct TimerFile {
    shared: Arc<Shared>,
    inode: u64,
    /// The clock it was made for (clock_gettime(2)).
    pub clock: i32,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    setting: Setting,
    timer: Option<Timer>,
}

struct Tick(std::sync::Weak<Shared>);

impl Observer for Tick {
    fn notify(&self, _: Ready) {
        if let Some(shared) = self.0.upgrade() {
            shared.queue.wake(Ready::READABLE);
        }
    }
}

impl State {
    /// How often it has fired since it was last read, and when it fires next.
    fn expirations(&self, now: Moment) -> u64 {
        match self.setting.first {
            Some(first) if first <= now => {
                let interval = self.setting.interval.as_nanos() as u64;
                (now.0 - first.0).checked_div(interval).map_or(1, |more| more + 1)
            }
            _ => 0,
        }
    }
}

impl TimerFile {
    /// A disarmed timer.
    pub fn create(clock: i32) -> Arc<TimerFile> {
        Arc::new(TimerFile { shared: Arc::default(), inode: anonymous::next_inode(), clock })
    }

    /// Arms or disarms it; gives the setting before, counted from now on.
    pub fn set(&self, setting: Setting) -> Setting {
        let before = self.get();
        let old = {
            let mut state = self.shared.state.lock();
            state.setting = setting;
            state.timer.take()
        };
        drop(old);
        // Armed only now: a moment that has passed fires at once, and whoever it wakes must find the setting.
        let timer = self.arm(setting);
        let old = std::mem::replace(&mut self.shared.state.lock().timer, timer);
        drop(old);
        before
    }

    /// The setting, with the next time it fires as the first.
    pub fn get(&self) -> Setting {
        let state = self.shared.state.lock();
        let now = Moment::now();
        let mut setting = state.setting;
        let fired = state.expirations(now);
        if let (Some(first), true) = (setting.first, fired > 0) {
            let step = setting.interval.as_nanos() as u64;
            setting.first = (step > 0).then(|| Moment(first.0 + fired * step));
        }
        setting
    }

    fn arm(&self, setting: Setting) -> Option<Timer> {
        let observer = Arc::new(Tick(Arc::downgrade(&self.shared)));
        setting.first.map(|moment| crate::kernel::kernel().timers.arm(moment, observer))
    }
}

impl File for TimerFile {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, _: Position) -> Result<usize> {
        if into.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let (fired, next) = {
            let mut state = self.shared.state.lock();
            let fired = state.expirations(Moment::now());
            if fired == 0 {
                return Err(Errno::EAGAIN);
            }
            let step = state.setting.interval.as_nanos() as u64;
            state.setting.first = match state.setting.first {
                Some(first) if step > 0 => Some(Moment(first.0 + fired * step)),
                _ => None,
            };
            (fired, state.setting)
        };
        let timer = self.arm(next);
        let old = std::mem::replace(&mut self.shared.state.lock().timer, timer);
        drop(old);
        into.put(&fired.to_ne_bytes())?;
        Ok(8)
    }

    fn poll(&self) -> Ready {
        if self.shared.state.lock().expirations(Moment::now()) > 0 { Ready::READABLE } else { Ready::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.shared.queue)
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(anonymous::attributes(self.inode, 0o600, 4096))
    }

    fn details(&self) -> String {
        let now = Moment::now();
        let fired = self.shared.state.lock().expirations(now);
        let setting = self.get();
        let rest = Duration::from_nanos(setting.first.map_or(0, |first| first.0.saturating_sub(now.0)));
        let pair = |time: Duration| format!("({}, {})", time.as_secs(), time.subsec_nanos());
        format!(
            "clockid: {}\nticks: {fired}\nsettime flags: 00\nit_value: {}\nit_interval: {}\n",
            self.clock,
            pair(rest),
            pair(setting.interval)
        )
    }

    fn description(&self) -> String {
        String::from("anon_inode:[timerfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
