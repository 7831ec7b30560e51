//! The dispatcher: finds whose a received call is, has it served, answers.
//!
//! The threads that receive are [`super::workers`]. A call that waits is no thread but a parked future ([`crate::kernel::park`]);
//! whoever wakes it runs it, and it is answered from there.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::memory::Address;
use super::notify::{Listener, Notification, NotificationId};
use super::spawner::{self, Interception};
use super::workers;
use crate::errno::{Errno, Result};
use crate::kernel::container::Container;
use crate::kernel::park::{self, ParkedCall};
use crate::kernel::task::{Pid, Thread};
use crate::kernel::{adopt, exec, kernel};
use crate::sync::Mutex;
use crate::syscalls::{self, Call, Outcome};

/// The one dispatcher of a pod.
pub struct Dispatcher {
    listener: Listener,
    /// How many containers are frozen: zero spares everybody a look at the list.
    any_frozen: AtomicUsize,
    frozen: Mutex<Vec<Frozen>>,
}

/// A paused container: what it calls meanwhile is kept, and what would be answered.
struct Frozen {
    container: Arc<Container>,
    calls: Vec<Notification>,
    answers: Vec<(NotificationId, Answer)>,
}

/// What the host is told of a call.
enum Answer {
    Result(Result<i64>),
    LetGo,
    Elsewhere(Box<dyn FnOnce() + Send>),
}

static DISPATCHER: OnceLock<Dispatcher> = OnceLock::new();

/// The dispatcher.
///
/// # Panics
/// Before [`start`].
pub fn dispatcher() -> &'static Dispatcher {
    DISPATCHER.get().expect("the dispatcher has been started")
}

/// Starts serving the listener's calls.
pub fn start(listener: Listener) -> Result<()> {
    let fresh = Dispatcher { listener, any_frozen: AtomicUsize::new(0), frozen: Mutex::default() };
    if DISPATCHER.set(fresh).is_ok() { workers::start() } else { Ok(()) }
}

impl Dispatcher {
    /// The listener, for answers and donations.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The calling worker is about to wait: another shall receive in its place.
    pub fn heed(&self) {
        workers::heed();
    }

    /// Stops serving a container's calls: a thread that waits for an answer can be killed but not frozen by the host, so answers stop
    /// before its processes are frozen. When it returns none is being served, unless the host holds one up. Doing it again does nothing.
    pub fn freeze(&self, container: &Arc<Container>) {
        let mut frozen = self.frozen.lock();
        if !frozen.iter().any(|entry| Arc::ptr_eq(&entry.container, container)) {
            frozen.push(Frozen { container: container.clone(), calls: Vec::new(), answers: Vec::new() });
            self.any_frozen.store(frozen.len(), Ordering::SeqCst);
        }
        drop(frozen);
        workers::let_finish();
    }

    /// Whether a container is frozen.
    pub fn is_frozen(&self, container: &Arc<Container>) -> bool {
        self.any_frozen.load(Ordering::SeqCst) > 0 && self.frozen.lock().iter().any(|entry| Arc::ptr_eq(&entry.container, container))
    }

    /// Lets the first execve of a new process go on, once its container is not frozen.
    pub fn let_go(&self, call: &Call) {
        self.answer(call, Answer::LetGo);
    }

    /// Gives the answers that were kept and goes on.
    pub fn thaw(&self, container: &Arc<Container>) {
        let mut frozen = self.frozen.lock();
        let Some(index) = frozen.iter().position(|entry| Arc::ptr_eq(&entry.container, container)) else { return };
        let thawed = frozen.swap_remove(index);
        self.any_frozen.store(frozen.len(), Ordering::SeqCst);
        drop(frozen);
        for (id, answer) in thawed.answers {
            self.send(id, answer);
        }
        if thawed.calls.is_empty() {
            return;
        }
        // Not here: serving them may wait for the host, and this thread is everybody's.
        let calls = Arc::new(thawed.calls);
        let theirs = calls.clone();
        let serve = |calls: &[Notification]| {
            let waiting = calls.iter().filter(|call| dispatcher().listener.waits(NotificationId(call.id)));
            waiting.copied().for_each(step);
        };
        if std::thread::Builder::new().name("thaw".into()).stack_size(workers::STACK).spawn(move || serve(&theirs)).is_err() {
            serve(&calls);
        }
    }

    /// Serves a call: answers it, parks it, or keeps it where it is the gate of a new process. The caller then runs what was woken
    /// ([`park::run_woken`]).
    pub fn serve(&self, notification: Notification) {
        if spawner::intercept(&self.listener, &notification) == Interception::Taken {
            return;
        }
        // Nobody's call needs no answer: the thread is gone, or has been killed because it could not be told whose it is.
        let Some(thread) = self.caller(Pid(notification.thread as i32)) else { return };
        let id = NotificationId(notification.id);
        let Some(process) = thread.process() else {
            self.listener.answer(id, Err(Errno::ESRCH));
            return;
        };
        if self.keep(&process.container, notification) {
            return;
        }
        let thread = if process.exec.lock().is_none() {
            thread
        } else {
            if exec::settle(&process, Some(&thread)).is_err() {
                return;
            }
            // The exec has made the process a thread of its own.
            let Some(thread) = self.caller(thread.tid) else { return };
            thread
        };
        let number = i64::from(notification.number);
        let container = process.container.clone();
        let counts = container.counts.get(notification.number as usize);
        if let Some(count) = counts {
            count.calls.fetch_add(1, Ordering::Relaxed);
        }
        let entry = syscalls::lookup(number);
        let seen = container.strace.then(syscalls::Seen::default);
        let call =
            Call { thread, process, number, arguments: notification.arguments, instruction: Address(notification.instruction), id, seen };
        crate::kernel::task::set_current(Some(call.thread.clone()));
        let result = match entry {
            Some(entry) => {
                if entry.blocks_host {
                    workers::heed();
                }
                (entry.handler)(&call)
            }
            None => Err(Errno::ENOSYS),
        };
        if let (Err(Errno::ENOSYS), Some(count)) = (&result, counts) {
            count.refused.fetch_add(1, Ordering::Relaxed);
        }
        self.conclude(call, result);
    }

    /// Answers a call, or parks it.
    fn conclude(&self, call: Call, result: Result<Outcome>) {
        if call.process.container.strace && !matches!(result, Ok(Outcome::Park(_))) {
            syscalls::trace(&call, syscalls::lookup(call.number), &result);
        }
        match result {
            Ok(Outcome::Value(value)) => {
                call.process.transfers.count(call.number, value);
                self.answer(&call, Answer::Result(Ok(value)));
            }
            Ok(Outcome::Continue) if super::let_go::allows(call.number) => self.answer(&call, Answer::LetGo),
            Ok(Outcome::Continue) => {
                crate::log::error(&format!("call {} is not one that may be let go", call.number));
                self.answer(&call, Answer::Result(Err(Errno::ENOSYS)));
            }
            Ok(Outcome::Elsewhere(answering)) => self.answer(&call, Answer::Elsewhere(answering)),
            Ok(Outcome::Gone) => {}
            Err(error) => self.answer(&call, Answer::Result(Err(error))),
            Ok(Outcome::Park(mut future)) => {
                let thread = call.thread.clone();
                let caller = thread.clone();
                // Whichever thread of this process runs it: the call is still its caller's.
                let future: park::Parked = Box::pin(std::future::poll_fn(move |context| {
                    crate::kernel::task::set_current(Some(caller.clone()));
                    future.as_mut().poll(context)
                }));
                let finish = Box::new(move |result| {
                    let parked = call.thread.parked.lock().take();
                    drop(parked);
                    *call.thread.wait_mask.lock() = None;
                    dispatcher().conclude(call, result);
                });
                let parked = ParkedCall::new(future, finish);
                // Known to the thread before it runs, so that whoever looks for a call to interrupt finds it.
                *thread.parked.lock() = Some(parked.clone());
                parked.start();
                if thread.wait_mask.lock().is_some() {
                    // A signal that only this wait lets through may be pending already.
                    if let Some(process) = thread.process() {
                        crate::kernel::signal::attend(&process);
                    }
                }
            }
        }
    }

    /// Keeps a call of a paused container until it goes on. False: it is not paused.
    fn keep(&self, container: &Arc<Container>, notification: Notification) -> bool {
        if self.any_frozen.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let mut frozen = self.frozen.lock();
        let entry = frozen.iter_mut().find(|entry| Arc::ptr_eq(&entry.container, container));
        entry.map(|entry| entry.calls.push(notification)).is_some()
    }

    fn answer(&self, call: &Call, answer: Answer) {
        if self.any_frozen.load(Ordering::SeqCst) > 0 {
            let mut frozen = self.frozen.lock();
            if let Some(entry) = frozen.iter_mut().find(|entry| Arc::ptr_eq(&entry.container, &call.process.container)) {
                entry.answers.push((call.id, answer));
                return;
            }
        }
        self.send(call.id, answer);
    }

    fn send(&self, id: NotificationId, answer: Answer) {
        match answer {
            Answer::Result(result) => self.listener.answer(id, result),
            Answer::LetGo => self.listener.let_go(id),
            Answer::Elsewhere(answering) => {
                let spawned = std::thread::Builder::new().name("answer".into()).stack_size(256 << 10).spawn(move || {
                    answering();
                    park::run_woken();
                });
                if spawned.is_err() {
                    self.listener.answer(id, Err(Errno::ENOMEM));
                }
            }
        }
    }

    /// Whose call it is. `None`: the thread is gone, or nobody knows it and it has been killed.
    fn caller(&self, tid: Pid) -> Option<Arc<Thread>> {
        if let Some(known) = kernel().threads.read().get(&tid) {
            return Some(known.clone());
        }
        adopt::thread(tid)
    }
}

/// Serves a call and what it woke: a worker's step.
pub(super) fn step(notification: Notification) {
    dispatcher().serve(notification);
    park::run_woken();
    // A worker that waits for its next call is nobody's: what it kept would keep a dead thread's files open.
    crate::kernel::task::set_current(None);
}
