//! The real-time interval timer of a process (setitimer(2), alarm(2)).
//!
//! It is kept here, not by the host, because its signal must reach parked calls.

use std::sync::{Arc, Weak};

use super::signal;
use super::task::Process;
use super::timer::{Moment, Timer};
use super::wait::{Observer, Ready};
use crate::fs::timerfd::Setting;

/// The timers of one process.
#[derive(Default)]
pub struct ProcessTimers {
    real: Setting,
    armed: Option<Timer>,
    /// Those of timer_create(2), by number.
    pub(super) posix: std::collections::BTreeMap<i32, super::posix_timer::PosixTimer>,
}

struct Alarm(Weak<Process>);

impl Observer for Alarm {
    fn notify(&self, _: Ready) {
        let Some(process) = self.0.upgrade() else { return };
        let next = {
            let mut timers = process.timers.lock();
            let Some(first) = timers.real.first.filter(|first| *first <= Moment::now()) else { return };
            let step = timers.real.interval;
            timers.real.first = (!step.is_zero()).then(|| Moment(first.0).after(step));
            timers.real
        };
        arm(&process, next);
        let _ = signal::send_to_process(&process, libc::SIGALRM);
    }
}

fn arm(process: &Arc<Process>, setting: Setting) {
    let timer = setting.first.map(|first| super::kernel().timers.arm(first, Arc::new(Alarm(Arc::downgrade(process)))));
    let before = std::mem::replace(&mut process.timers.lock().armed, timer);
    drop(before);
}

/// Sets the timer; gives the setting before.
pub fn set_real(process: &Arc<Process>, setting: Setting) -> Setting {
    let before = std::mem::replace(&mut process.timers.lock().real, setting);
    arm(process, setting);
    before
}

/// The setting now.
pub fn get_real(process: &Arc<Process>) -> Setting {
    process.timers.lock().real
}
