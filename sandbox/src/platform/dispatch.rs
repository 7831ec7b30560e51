//! The dispatcher: receives calls, has them served, answers.
//!
//! Few threads take turns. One, the leader, sits in the host's receive call; it serves what it receives itself, so that a call costs one
//! wake-up. Before it serves a call that may block on the host (a disk), or when more calls wait already, it hands the
//! leadership to another thread, making one if none is idle. Waiting calls need no thread at all ([`crate::kernel::park`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Condvar;

use super::memory::Address;
use super::notify::{Listener, Notification, NotificationId};
use super::process::Status;
use super::spawner::{SPAWNER, spawner};
use crate::errno::{Errno, Result};
use crate::kernel::park::{self, ParkedCall};
use crate::kernel::task::{Pid, Thread};
use crate::kernel::{exec, fork};
use crate::sync::Mutex;
use crate::syscalls::{self, Call, Outcome};

/// At most so many threads serve calls; more would only wait for the host's disk side by side.
const WORKERS: usize = 16;

/// The one dispatcher of a pod.
pub struct Dispatcher {
    listener: Listener,
    leader: Mutex<bool>,
    vacancy: Condvar,
    idle: AtomicUsize,
    workers: AtomicUsize,
    /// The pod is frozen: calls are received and kept.
    frozen: AtomicBool,
    kept: Mutex<Vec<Notification>>,
}

static DISPATCHER: std::sync::OnceLock<Dispatcher> = std::sync::OnceLock::new();

/// The dispatcher.
///
/// # Panics
/// Before [`start`].
pub fn dispatcher() -> &'static Dispatcher {
    DISPATCHER.get().expect("the dispatcher has been started")
}

/// Starts serving the listener's calls.
pub fn start(listener: Listener) -> Result<()> {
    let fresh = Dispatcher {
        listener,
        leader: Mutex::new(false),
        vacancy: Condvar::new(),
        idle: AtomicUsize::new(0),
        workers: AtomicUsize::new(0),
        frozen: AtomicBool::new(false),
        kept: Mutex::default(),
    };
    if DISPATCHER.set(fresh).is_ok() {
        dispatcher().add_worker()?;
    }
    Ok(())
}

impl Dispatcher {
    /// The listener, for answers and donations.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    fn add_worker(&'static self) -> Result<()> {
        self.workers.fetch_add(1, Ordering::SeqCst);
        let spawned = std::thread::Builder::new().name("worker".into()).stack_size(512 << 10).spawn(|| self.work());
        if spawned.is_err() {
            self.workers.fetch_sub(1, Ordering::SeqCst);
        }
        spawned.map(drop).map_err(Errno::from)
    }

    fn work(&'static self) {
        loop {
            self.take_lead();
            while self.lead() {}
        }
    }

    fn take_lead(&self) {
        let mut led = self.leader.lock();
        self.idle.fetch_add(1, Ordering::SeqCst);
        while *led {
            self.vacancy.wait(&mut led);
        }
        self.idle.fetch_sub(1, Ordering::SeqCst);
        *led = true;
    }

    /// Gives up the leadership and sees to it that somebody takes it.
    fn hand_over(&'static self) {
        *self.leader.lock() = false;
        if self.idle.load(Ordering::SeqCst) > 0 {
            self.vacancy.notify_one();
        } else if self.workers.load(Ordering::SeqCst) < WORKERS {
            // Without another thread this one takes the lead again when it is done: slower, not wrong.
            let _ = self.add_worker();
        }
    }

    /// Receives and serves one call. False once the leadership has been handed over.
    fn lead(&'static self) -> bool {
        let notification = match self.listener.receive() {
            Ok(notification) => notification,
            // The thread died, or a signal of ours: next.
            Err(_) => return true,
        };
        let entry = syscalls::lookup(i64::from(notification.number));
        let hands_over = entry.is_some_and(|entry| entry.blocks_host) || self.listener.has_more();
        if hands_over {
            self.hand_over();
        }
        if self.frozen.load(Ordering::SeqCst) {
            self.kept.lock().push(notification);
        } else {
            self.serve(notification);
        }
        park::run_woken();
        !hands_over
    }

    /// Stops answering: calls are kept.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }

    /// Answers what was kept and goes on.
    pub fn thaw(&self) {
        self.frozen.store(false, Ordering::SeqCst);
        let kept = std::mem::take(&mut *self.kept.lock());
        for notification in kept {
            self.serve(notification);
        }
        park::run_woken();
    }

    /// Serves a call.
    pub fn serve(&self, notification: Notification) {
        let id = NotificationId(notification.id);
        let tid = Pid(notification.thread as i32);
        let Some(thread) = self.caller(tid, &notification) else { return };
        let Some(process) = thread.process() else {
            self.listener.answer(id, Err(Errno::ESRCH));
            return;
        };
        if exec::settle(&process, &thread).is_err() {
            return;
        }
        let number = i64::from(notification.number);
        let container = process.container.clone();
        let counts = container.counts.get(notification.number as usize);
        if let Some(count) = counts {
            count.calls.fetch_add(1, Ordering::Relaxed);
        }
        let call = Call { thread, process, number, arguments: notification.arguments, instruction: Address(notification.instruction), id };
        let Some(entry) = syscalls::lookup(number) else {
            if let Some(count) = counts {
                count.refused.fetch_add(1, Ordering::Relaxed);
            }
            syscalls::trace(&call, None, &Err(Errno::ENOSYS));
            self.listener.answer(id, Err(Errno::ENOSYS));
            return;
        };
        let result = (entry.handler)(&call);
        self.conclude(call, result);
    }

    /// Answers a call, or parks it.
    fn conclude(&self, call: Call, result: Result<Outcome>) {
        if !matches!(result, Ok(Outcome::Park(_))) {
            syscalls::trace(&call, syscalls::lookup(call.number), &result);
        }
        match result {
            Ok(Outcome::Value(value)) => self.listener.answer(call.id, Ok(value)),
            Ok(Outcome::Continue) => self.listener.let_go(call.id),
            Ok(Outcome::Gone) => {}
            Err(error) => self.listener.answer(call.id, Err(error)),
            Ok(Outcome::Park(future)) => {
                let finished = call.clone();
                let finish = Box::new(move |result| {
                    *finished.thread.parked.lock() = None;
                    dispatcher().conclude(finished, result);
                });
                let parked = ParkedCall::new(future, finish);
                *call.thread.parked.lock() = Some(parked.clone());
                parked.start();
            }
        }
    }

    /// Whose call it is. `None` where it has been dealt with: the spawner's, that of a child on its way to its program, or of
    /// somebody unknown, who has been killed.
    fn caller(&self, tid: Pid, notification: &Notification) -> Option<Arc<Thread>> {
        let id = NotificationId(notification.id);
        if tid == SPAWNER {
            self.listener.let_go(id);
            return None;
        }
        if let Some(known) = crate::kernel::kernel().threads.read().get(&tid) {
            return Some(known.clone());
        }
        let status = Status::read(tid).ok()?;
        // Children of the kernel process itself come from the spawner: a workload's own orphans go to their container's init.
        if status.parent == 1 && status.tgid == tid.0 {
            match i64::from(notification.number) {
                libc::SYS_execve => spawner().arrives(*notification),
                _ => self.listener.let_go(id),
            }
            return None;
        }
        fork::thread(tid)
    }
}
