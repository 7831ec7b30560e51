//! The end of threads and processes.
//!
//! A process that exits says so: `exit` and `exit_group` are notified, and everything it holds is released *before* the host
//! goes on with its death, as Linux's do_exit does, so that a parent whose wait(2) returns finds pipes closed and locks
//! free. A process that a signal kills says nothing; its pidfd tells the reactor, a moment later.
//!
//! Whatever kills a process, [`ended`] runs once, when the host has it dead: its numbers are forgotten, its waiters woken,
//! its parent's parked calls looked at (`SIGCHLD`). Children of the kernel process itself (the first process of each container and
//! those that entered it by exec) are reaped here and their status is kept for the control protocol.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::task::{Pid, Process, Thread};
use super::wait::{Observer, Ready, WaitQueue};
use super::{adopt, kernel, signal};
use crate::errno::Result;
use crate::platform::process;
use crate::sync::Mutex;
use crate::vfs::descriptor::DescriptorTable;
use crate::vfs::node::Timestamp;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// As wait(2) encodes it; `None` where another process than this kernel is the parent and takes it.
    pub status: Option<i32>,
    /// When it was seen.
    pub at: Timestamp,
}

impl Ended {
    /// As a shell shows it: 128 + signal for a process that a signal ended.
    pub fn exit_code(&self) -> u32 {
        match self.status {
            Some(status) if libc::WIFEXITED(status) => libc::WEXITSTATUS(status) as u32,
            Some(status) if libc::WIFSIGNALED(status) => 128 + libc::WTERMSIG(status) as u32,
            _ => 255,
        }
    }
}

/// A process's end, and who waits for it.
#[derive(Default)]
pub struct ExitState {
    /// Woken (`IN`) once [`ExitState::get`] gives something.
    pub queue: WaitQueue,
    ended: Mutex<Option<Ended>>,
}

impl ExitState {
    /// How it ended; `None` while the host has it alive.
    pub fn get(&self) -> Option<Ended> {
        *self.ended.lock()
    }
}

/// The reactor's word that a pidfd is readable.
struct Death(Weak<Process>);

impl Observer for Death {
    fn notify(&self, _ready: Ready) {
        if let Some(process) = self.0.upgrade() {
            ended(&process);
        }
    }
}

/// Has the reactor tell when the process is dead.
pub fn watch(process: &Arc<Process>) -> Result<()> {
    use std::os::fd::AsFd;
    let watch = kernel().reactor.watch(process.pidfd.as_fd(), Ready::IN, Arc::new(Death(Arc::downgrade(process))))?;
    *process.watch.lock() = Some(watch);
    Ok(())
}

/// The process is about to exit (exit_group, or exit of its last thread), on the calling thread's word.
pub fn exits(process: &Arc<Process>, caller: &Arc<Thread>) {
    adopt::bind(process, caller);
    release(process, Some(caller.tid));
}

/// A thread exits; where it is the last one, so does the process.
pub fn thread_exits(process: &Arc<Process>, thread: &Arc<Thread>) {
    if leave(process, thread.tid) {
        return exits(process, thread);
    }
    adopt::bind(process, thread);
    drop_state(thread);
    // The first thread stands for its process to the end.
    if thread.tid != process.pid {
        process.threads.lock().retain(|other| other.tid != thread.tid);
        kernel().threads.write().remove(&thread.tid);
    }
    signal::parent_thread_is_gone(process);
}

/// Notes that a thread leaves. Gives whether no other one is left that has not.
fn leave(process: &Process, thread: Pid) -> bool {
    /// More than these are looked at whether the host still has them.
    const MANY: usize = 32;
    // Held until it is decided: of two that leave at once the second one is the last.
    let mut leaving = process.leaving.lock();
    if leaving.len() > MANY {
        leaving.retain(|gone| process::has_thread(process.pid, *gone));
    }
    leaving.push(thread);
    let stays = |other: &Pid| !leaving.contains(other);
    let known: Vec<Pid> = process.threads.lock().iter().map(|other| other.tid).collect();
    // One that has made no call yet is known to the host alone.
    !known.iter().any(stays) && !process::threads(process.pid).unwrap_or_default().iter().any(stays)
}

/// A thread that said nothing is not there any more.
pub fn thread_is_gone(process: &Arc<Process>, thread: &Arc<Thread>) {
    process.threads.lock().retain(|other| !Arc::ptr_eq(other, thread));
    {
        let mut known = kernel().threads.write();
        if known.get(&thread.tid).is_some_and(|other| Arc::ptr_eq(other, thread)) {
            known.remove(&thread.tid);
        }
    }
    let parked = thread.parked.lock().take();
    if let Some(parked) = parked {
        parked.cancel();
    }
    drop_state(thread);
}

/// Lets go of everything that the process holds. The threads stay known until the host has them dead.
fn release(process: &Arc<Process>, caller: Option<Pid>) {
    if process.exited.swap(true, Ordering::SeqCst) {
        return;
    }
    let threads = process.threads.lock().clone();
    for thread in &threads {
        if Some(thread.tid) != caller {
            let parked = thread.parked.lock().take();
            if let Some(parked) = parked {
                parked.cancel();
            }
        }
        drop_state(thread);
    }
    let starting = std::mem::take(&mut *process.starting.lock());
    drop(starting);
    let timers = std::mem::take(&mut *process.timers.lock());
    drop(timers);
    let pending = process.exec.lock().take();
    drop(pending);
}

/// Lets go of a thread's files: the thread is no more, whoever still knows it.
pub(super) fn drop_state(thread: &Arc<Thread>) {
    // Outside the lock: dropping the last reference closes files, which wakes others.
    let table = std::mem::replace(&mut *thread.descriptors.write(), DescriptorTable::new());
    drop(table);
}

/// The host has the process dead.
fn ended(process: &Arc<Process>) {
    if process.exit.get().is_some() {
        return;
    }
    let parent = process::Status::read(process.pid).map(|status| status.parent).unwrap_or_else(|_| process.parent.load(Ordering::Relaxed));
    release(process, None);
    super::signal_queue::remember(process);
    let threads = process.threads.lock().clone();
    adopt::settle(process, &threads);
    let status = process::reap(process.pid).ok();
    if status.is_none() {
        crate::fs::proc::zombies::keep(process);
    }
    {
        let mut processes = kernel().processes.write();
        processes.remove(&process.pid);
    }
    let threads = std::mem::take(&mut *process.threads.lock());
    {
        let mut known = kernel().threads.write();
        for thread in &threads {
            known.remove(&thread.tid);
        }
    }
    drop(threads);
    let watch = process.watch.lock().take();
    drop(watch);
    *process.exit.ended.lock() = Some(Ended { status, at: Timestamp::now() });
    process.exit.queue.wake(Ready::READABLE);
    let parent = kernel().processes.read().get(&Pid(parent)).cloned();
    if let Some(parent) = parent {
        signal::expect(&parent);
    }
    signal::parent_thread_is_gone(process);
}
