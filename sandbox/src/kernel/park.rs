//! Parked calls: system calls that wait, without a thread.
//!
//! A handler that would block returns a future ([`crate::syscalls::Outcome::Park`]). The notification stays unanswered,
//! so the workload's thread sleeps in the host's seccomp code; here it is nothing but a small heap object. Waking it
//! puts it on a run queue, and the thread that woke it (a worker between two calls, or the reactor) runs it, up to its
//! next wait or to its answer.
//!
//! **Signals.** With `WAIT_KILLABLE_RECV` the host does not cancel a received notification for a signal, so no work is
//! lost half-way; instead [`ParkedCall::interrupt`] makes every wait of the future fail with `ERESTARTSYS`. The future
//! ends with that error (or with the bytes moved so far), and the host, which has the signal pending, restarts the call or
//! turns it into `EINTR`. Interrupting a call while no signal is pending would show 512 to the program: only
//! `kernel::signal` does it, after it has looked.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::errno::{Errno, Result};
use crate::kernel::timer::{Deadline, Timer};
use crate::kernel::wait::{Observation, Observer, Ready, WaitQueue};
use crate::sync::Mutex;
use crate::syscalls::Outcome;

/// What a waiting handler returns.
pub type Parked = Pin<Box<dyn Future<Output = Result<Outcome>> + Send>>;

/// Called once with a parked call's outcome.
pub type Finish = Box<dyn FnOnce(Result<Outcome>) + Send>;

/// One call that waits.
pub struct ParkedCall {
    future: Mutex<Option<(Parked, Finish)>>,
    /// The error that every wait fails with from now on; 0 for none.
    interrupted: AtomicI32,
    /// Set while the call is on a run queue, so that many wake-ups cost one run.
    queued: AtomicBool,
}

thread_local! {
    static READY: RefCell<VecDeque<Arc<ParkedCall>>> = const { RefCell::new(VecDeque::new()) };
    static CURRENT: RefCell<Option<Arc<ParkedCall>>> = const { RefCell::new(None) };
}

impl ParkedCall {
    /// Wraps a future. `finish` is called with its result, on whichever thread runs it last.
    /// Nothing runs until the first [`ParkedCall::start`].
    pub fn new(future: Parked, finish: Finish) -> Arc<ParkedCall> {
        Arc::new(ParkedCall { future: Mutex::new(Some((future, finish))), interrupted: AtomicI32::new(0), queued: AtomicBool::new(false) })
    }

    /// Runs the future up to its first wait, on this thread.
    pub fn start(self: &Arc<Self>) {
        self.queued.store(true, Ordering::SeqCst);
        self.clone().run();
    }

    /// Makes every wait of this call fail with `ERESTARTSYS`, now and later.
    pub fn interrupt(self: &Arc<Self>) {
        self.interrupt_with(Errno::ERESTARTSYS);
    }

    /// The same with an error of choice.
    pub fn interrupt_with(self: &Arc<Self>, error: Errno) {
        self.interrupted.store(error.0, Ordering::SeqCst);
        self.clone().wake();
    }

    /// Whether [`ParkedCall::interrupt`] was called.
    pub fn is_interrupted(&self) -> bool {
        self.interruption().is_some()
    }

    fn interruption(&self) -> Option<Errno> {
        match self.interrupted.load(Ordering::SeqCst) {
            0 => None,
            error => Some(Errno(error)),
        }
    }

    /// Drops the future without an answer: its thread is gone.
    pub fn cancel(&self) {
        let taken = self.future.lock().take();
        drop(taken);
    }

    fn run(self: Arc<Self>) {
        let waker = Waker::from(self.clone());
        // Cleared before the poll: a wake-up during it queues another run.
        let mut slot = self.future.lock();
        self.queued.store(false, Ordering::SeqCst);
        let Some((future, _)) = slot.as_mut() else { return };
        let before = CURRENT.with(|current| current.replace(Some(self.clone())));
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        CURRENT.with(|current| current.replace(before));
        if let Poll::Ready(outcome) = polled {
            let taken = slot.take();
            drop(slot);
            if let Some((future, finish)) = taken {
                drop(future);
                finish(outcome);
            }
        }
    }
}

impl Wake for ParkedCall {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            READY.with(|ready| ready.borrow_mut().push_back(self));
        }
    }
}

/// Runs what this thread has woken, until nothing is left. Every thread that may wake parked calls (workers, reactor)
/// calls it when it holds no lock: after each handler, after each event.
pub fn run_woken() {
    while let Some(call) = READY.with(|ready| ready.borrow_mut().pop_front()) {
        call.run();
    }
}

fn interruption() -> Option<Errno> {
    CURRENT.with(|current| current.borrow().as_ref().and_then(|call| call.interruption()))
}

/// An observer that wakes a future. One flag may observe many queues (poll(2)).
#[derive(Default)]
pub struct Flag {
    raised: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Flag {
    /// A lowered flag.
    pub fn new() -> Arc<Flag> {
        Arc::new(Flag::default())
    }

    /// Lowers the flag; call before looking at the objects again.
    pub fn lower(&self) {
        self.raised.store(false, Ordering::SeqCst);
    }

    /// Waits until the flag is raised or the call is interrupted (`ERESTARTSYS`).
    pub fn raised(self: &Arc<Self>) -> impl Future<Output = Result<()>> + Send + use<> {
        let flag = self.clone();
        std::future::poll_fn(move |context| {
            if let Some(error) = interruption() {
                return Poll::Ready(Err(error));
            }
            *flag.waker.lock() = Some(context.waker().clone());
            if flag.raised.load(Ordering::SeqCst) { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
    }
}

impl Observer for Flag {
    fn notify(&self, _ready: Ready) {
        self.raised.store(true, Ordering::SeqCst);
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Tries `attempt` until it gives something else than `EAGAIN`, waiting on `queue` for `interest` in between.
///
/// Errors: those of `attempt`; `ETIMEDOUT` at `deadline`; `ERESTARTSYS` when a signal interrupts.
pub async fn retry<T>(queue: &WaitQueue, interest: Ready, deadline: Deadline, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let flag = Flag::new();
    let _observation: Observation = queue.observe(interest, flag.clone());
    let _timer: Option<Timer> = deadline.arm(flag.clone());
    loop {
        flag.lower();
        match attempt() {
            Err(Errno::EAGAIN) => {}
            result => return result,
        }
        if deadline.has_passed() {
            return Err(Errno::ETIMEDOUT);
        }
        flag.raised().await?;
    }
}

/// Waits until `deadline`. `ERESTARTSYS` when a signal interrupts.
pub async fn sleep(deadline: Deadline) -> Result<()> {
    let flag = Flag::new();
    let _timer = deadline.arm(flag.clone());
    loop {
        flag.lower();
        if deadline.has_passed() {
            return Ok(());
        }
        flag.raised().await?;
    }
}
