//! Interval timers (setitimer(2)) and POSIX timers (timer_create(2)) of a process.

/// The timers of one process.
#[derive(Default)]
pub struct ProcessTimers {}

impl ProcessTimers {
    /// Deletes POSIX timers, as exec does; interval timers go on (execve(2)).
    pub fn clear_posix(&mut self) {}
}
