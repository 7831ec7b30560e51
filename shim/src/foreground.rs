//! A process in the foreground: `run` and `exec` without `--detach`, and `do`. Signals are forwarded, a terminal is
//! joined with ours, and the process's exit status becomes ours.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::console::{RawTerminal, Relay, copy_size};
use crate::stand_in::KILLED;

/// How long output of a terminal is waited for once its process has ended.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The signals of this process, blocked from here on and read from a descriptor. Dropped, they are as they were.
#[derive(Debug)]
pub struct Signals {
    descriptor: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks all signals but those that an error of our own raises.
    ///
    /// # Errors
    /// The host's.
    pub fn block() -> io::Result<Self> {
        let mut set = SigSet::all();
        for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGTRAP, Signal::SIGSYS] {
            set.remove(fault);
        }
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { descriptor, before })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}

/// Attends to a process, by its stand-in, until it ends; returns its exit status.
///
/// # Errors
/// The host's.
pub fn attend(stand_in: i32, signals: &Signals, mut relay: Option<Relay>) -> io::Result<i32> {
    let _raw = relay.as_ref().and_then(|relay| {
        copy_size(relay.master());
        RawTerminal::enter()
    });
    let stand_in = Pid::from_raw(stand_in);
    loop {
        let input = {
            let mut ready = vec![PollFd::new(signals.descriptor.as_fd(), PollFlags::POLLIN)];
            let interests = relay.as_ref().map(Relay::interests).unwrap_or_default();
            ready.extend(interests.iter().map(|(descriptor, flags)| PollFd::new(*descriptor, *flags)));
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let standard_input = crate::host::standard_input();
            interests.iter().zip(&ready[1..]).any(|((descriptor, _), ready)| {
                std::os::fd::AsRawFd::as_raw_fd(descriptor) == std::os::fd::AsRawFd::as_raw_fd(&standard_input) && ready.any() == Some(true)
            })
        };
        if let Some(relay) = relay.as_mut() {
            relay.carry(input);
        }
        while let Ok(Some(signal)) = signals.descriptor.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => {
                    if let Some(status) = ended(stand_in)? {
                        relay.iter_mut().for_each(drain);
                        return Ok(status);
                    }
                }
                Ok(Signal::SIGWINCH) if relay.is_some() => relay.iter().for_each(|relay| copy_size(relay.master())),
                Ok(Signal::SIGPIPE | Signal::SIGURG) => {}
                Ok(signal) => drop(kill(stand_in, signal)),
                Err(_) => {}
            }
        }
    }
}

/// What the terminal still holds.
fn drain(relay: &mut Relay) {
    let deadline = Instant::now() + LAST_WORDS;
    loop {
        relay.carry_output();
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || relay.interests().is_empty() {
            return;
        }
        let mut ready = [PollFd::new(relay.master().as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)), Ok(count) if count > 0) {
            return;
        }
        // A hang-up is ready for ever, and says no more.
        if !ready[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) {
            return;
        }
    }
}

fn ended(stand_in: Pid) -> io::Result<Option<i32>> {
    loop {
        return match waitpid(stand_in, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => Ok(Some(status)),
            Ok(WaitStatus::Signaled(..)) => Ok(Some(KILLED)),
            Ok(_) => Ok(None),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}
