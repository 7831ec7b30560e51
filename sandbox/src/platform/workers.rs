//! The workers: the threads that receive calls and serve them.
//!
//! **One receiver.** A notification wakes every thread that waits in `RECV`, and a wake on another core costs tens of microseconds.
//! So one worker, the *receiver*, receives and serves inline.
//!
//! **Relief.** A handler may be held up on the host (a disk, a network file system), and then others' calls would wait behind
//! it. The *watch* looks every millisecond while calls that may block are coming ([`heed`]), and sleeps otherwise: where a
//! receiver has been in one call since the last look, another worker receives in its place. It also adds a receiver where calls have
//! queued at several looks in a row, on machines with cores to spare, and takes it away when they no longer do. A worker
//! that finds more receivers than are wanted when its call is done becomes a spare, and waits on a condition variable.
//!
//! So a call costs one `RECV`, a look at three atomics, the handler, one `SEND`; an idle pod costs nothing.
//!
//! Locks: `state` is a leaf, never held across a handler.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Condvar;

use super::dispatch::{dispatcher, step};
use crate::errno::{Errno, Result};
use crate::log;
use crate::sync::Mutex;

/// The most workers there are: so many calls may be held up on the host at once before others wait behind them.
const MOST: usize = 64;
/// How often the watch looks while calls that may block are coming.
const LOOK: Duration = Duration::from_millis(1);
/// After how many looks at nothing the watch sleeps.
const PATIENCE: u32 = 20;
/// At how many looks in a row calls must have queued for another receiver.
const QUEUED: u32 = 4;
/// A worker's stack, bytes: handlers recurse little, and pages that are not touched cost nothing.
pub(super) const STACK: usize = 1 << 20;

/// One worker, as the watch sees it.
#[derive(Default)]
struct Worker {
    /// Odd while it serves a call; counts calls.
    serial: AtomicU64,
    /// Set by the watch: it is held up, and somebody else receives in its place.
    relieved: AtomicBool,
}

#[derive(Default)]
struct State {
    workers: Vec<Arc<Worker>>,
    spares: usize,
    /// How many spares have been asked to receive and have not woken yet.
    called: usize,
}

struct Pool {
    state: Mutex<State>,
    spare: Condvar,
    /// How many workers receive, or serve what they received: without spares and those that are relieved. Changed under `state`.
    receivers: AtomicUsize,
    /// How many there should be: 1 most of the time.
    wanted: AtomicUsize,
    watch: Condvar,
    watch_lock: Mutex<()>,
    watch_sleeps: AtomicBool,
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool {
        state: Mutex::default(),
        spare: Condvar::new(),
        receivers: AtomicUsize::new(0),
        wanted: AtomicUsize::new(1),
        watch: Condvar::new(),
        watch_lock: Mutex::new(()),
        watch_sleeps: AtomicBool::new(false),
    })
}

/// Starts the first receiver and the watch.
pub(super) fn start() -> Result<()> {
    pool().add_worker(&mut pool().state.lock())?;
    std::thread::Builder::new().name("watch".into()).stack_size(STACK).spawn(|| pool().keep_watch())?;
    Ok(())
}

/// The calling worker is about to do what may hold it up on the host.
pub fn heed() {
    let pool = pool();
    // The worker's serial was made odd before this look, and the watch looks at the serials once more after it has said that it
    // sleeps: one of the two sees the other.
    if pool.watch_sleeps.load(Ordering::SeqCst) {
        let _lock = pool.watch_lock.lock();
        pool.watch.notify_one();
    }
}

/// How long [`let_finish`] waits for a call that the host holds up.
const HELD_UP: Duration = Duration::from_millis(200);

/// Waits until each call that is being served now has been, but for what the host holds up. Not for workers themselves.
pub(super) fn let_finish() {
    let begun = std::time::Instant::now();
    let busy: Vec<(Arc<Worker>, u64)> = {
        let state = pool().state.lock();
        let serials = state.workers.iter().map(|worker| (worker.clone(), worker.serial.load(Ordering::SeqCst)));
        serials.filter(|(_, serial)| serial & 1 == 1).collect()
    };
    while busy.iter().any(|(worker, serial)| worker.serial.load(Ordering::SeqCst) == *serial) && begun.elapsed() < HELD_UP {
        std::thread::sleep(LOOK / 10);
    }
}

impl Pool {
    fn add_worker(&'static self, state: &mut State) -> Result<()> {
        let worker = Arc::new(Worker::default());
        let own = worker.clone();
        let name = format!("worker-{}", state.workers.len());
        std::thread::Builder::new().name(name).stack_size(STACK).spawn(move || self.work(&own))?;
        state.workers.push(worker);
        self.receivers.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// A worker's life.
    fn work(&self, own: &Worker) {
        let listener = dispatcher().listener();
        loop {
            match listener.receive() {
                Ok(notification) => {
                    own.serial.fetch_add(1, Ordering::SeqCst);
                    step(notification);
                    own.serial.fetch_add(1, Ordering::SeqCst);
                }
                // The thread died in between, or a signal came.
                Err(Errno::ENOENT | Errno::EINTR) => {}
                Err(error) => {
                    log::error(&format!("receiving calls: {error}"));
                    std::process::abort();
                }
            }
            if own.relieved.load(Ordering::SeqCst) || self.receivers.load(Ordering::Relaxed) > self.wanted.load(Ordering::Relaxed) {
                self.step_back(own);
            }
        }
    }

    /// Goes on receiving where a receiver is missing, else waits as a spare until one is.
    fn step_back(&self, own: &Worker) {
        let mut state = self.state.lock();
        if !own.relieved.swap(false, Ordering::SeqCst) {
            self.receivers.fetch_sub(1, Ordering::SeqCst);
        }
        if self.receivers.load(Ordering::SeqCst) < self.wanted.load(Ordering::SeqCst) {
            self.receivers.fetch_add(1, Ordering::SeqCst);
            return;
        }
        state.spares += 1;
        while state.called == 0 {
            self.spare.wait(&mut state);
        }
        // Whoever called it has counted it among the receivers.
        state.called -= 1;
        state.spares -= 1;
    }

    /// The watch's life.
    fn keep_watch(&'static self) {
        let most = std::thread::available_parallelism().map_or(1, |count| (count.get() / 2).max(1));
        let mut last: Vec<u64> = Vec::new();
        let (mut idle, mut queued) = (0, 0);
        loop {
            let mut lock = self.watch_lock.lock();
            if idle > PATIENCE {
                self.watch_sleeps.store(true, Ordering::SeqCst);
                if self.serials() == last {
                    self.watch.wait(&mut lock);
                }
                self.watch_sleeps.store(false, Ordering::SeqCst);
                (idle, queued) = (0, 0);
            }
            self.watch.wait_for(&mut lock, LOOK);
            drop(lock);
            let now = self.serials();
            let unmoved = now == last;
            queued = if dispatcher().listener().has_more() { queued + 1 } else { 0 };
            self.adjust(&mut queued, most);
            let held_up = self.relieve(&last, &now);
            idle = if unmoved && !held_up { idle + 1 } else { 0 };
            last = now;
        }
    }

    fn serials(&self) -> Vec<u64> {
        self.state.lock().workers.iter().map(|worker| worker.serial.load(Ordering::SeqCst)).collect()
    }

    /// How many receivers there should be.
    fn adjust(&self, queued: &mut u32, most: usize) {
        let wanted = self.wanted.load(Ordering::SeqCst);
        if *queued >= QUEUED && wanted < most {
            self.wanted.store(wanted + 1, Ordering::SeqCst);
            *queued = 0;
        } else if *queued == 0 && wanted > 1 {
            self.wanted.store(wanted - 1, Ordering::SeqCst);
        }
    }

    /// Counts out the receivers that are held up, and sees to it that there are as many as wanted. Gives whether one was.
    fn relieve(&'static self, last: &[u64], now: &[u64]) -> bool {
        let mut state = self.state.lock();
        let mut any = false;
        for (index, (worker, serial)) in state.workers.iter().zip(now).enumerate() {
            let held_up = serial & 1 == 1 && last.get(index) == Some(serial) && worker.serial.load(Ordering::SeqCst) == *serial;
            if held_up && !worker.relieved.swap(true, Ordering::SeqCst) {
                self.receivers.fetch_sub(1, Ordering::SeqCst);
                any = true;
            }
        }
        while self.receivers.load(Ordering::SeqCst) < self.wanted.load(Ordering::SeqCst) {
            if state.spares > state.called {
                state.called += 1;
                self.receivers.fetch_add(1, Ordering::SeqCst);
                self.spare.notify_one();
            } else if state.workers.len() >= MOST || self.add_worker(&mut state).is_err() {
                break;
            }
        }
        any
    }
}
