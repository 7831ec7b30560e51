//! Whose child is it? A thread or process that makes its first call has a number that nobody knows; here it becomes one of ours.
//!
//! **Marks.** The host does not tell who forked a process: when a parent dies, its children belong to another at once, who may be forking at that very
//! moment, as somebody else. So each process bears a native *mark* from its adoption on, a number that its children inherit and that no workload can
//! change (a resource limit that no Linux enforces; its own view of its limits is emulated). A newcomer's mark names the process that made it, dead
//! or alive, adopted by whomever. It takes a snapshot of that process, never another's, and gets a mark of its own.
//!
//! Where a process has several threads that fork at once, the host's list of each one's children tells them apart. Where that cannot tell either (the
//! process was killed meanwhile), the child is killed: guessing could give it another's identity.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::exit::{self, ExitState};
use super::fork::Snapshot;
use super::kernel;
use super::task::{Pid, Process, Thread};
use super::timer::Moment;
use crate::errno::Result;
use crate::platform::process::{self, Status};
use crate::sync::{Mutex, RwLock};

/// Serialises adoption: two calls of one new process must not make it twice.
fn adoption() -> &'static Mutex<()> {
    static ADOPTION: OnceLock<Mutex<()>> = OnceLock::new();
    ADOPTION.get_or_init(Mutex::default)
}

/// The thread behind a number, adopted if it shows itself for the first time. `None`: it is gone, or it could not be told
/// whose it is and has been killed.
pub fn thread(tid: Pid) -> Option<Arc<Thread>> {
    if let Some(known) = kernel().threads.read().get(&tid) {
        return Some(known.clone());
    }
    let _adopting = adoption().lock();
    if let Some(known) = kernel().threads.read().get(&tid) {
        return Some(known.clone());
    }
    let status = Status::read(tid).ok()?;
    let adopted = if status.tgid == tid.0 { adopt_process(tid, &status) } else { adopt_thread(tid, &status) };
    if adopted.is_none() {
        // Fail closed: nobody may run whose identity is unknown.
        crate::log::error(&format!("process {} could not be told whose it is, and is killed", status.tgid));
        let _ = process::kill(status.tgid, libc::SIGKILL);
    }
    adopted
}

/// Makes a new thread of a known process.
fn adopt_thread(tid: Pid, status: &Status) -> Option<Arc<Thread>> {
    let process = kernel().processes.read().get(&Pid(status.tgid)).cloned()?;
    let snapshot = process.starting.lock().pop()?;
    process.leaving.lock().retain(|gone| *gone != tid);
    let thread = Thread::new(tid, status.inner, &process, snapshot.holds());
    process.threads.lock().push(thread.clone());
    kernel().threads.write().insert(tid, thread.clone());
    Some(thread)
}

/// Adopts the threads of a process that have not shown themselves, as far as the host has them.
pub fn threads(process: &Arc<Process>) {
    for tid in process::threads(process.pid).unwrap_or_default() {
        if process.starting.lock().is_empty() {
            return;
        }
        if !kernel().threads.read().contains_key(&tid) && !process.leaving.lock().contains(&tid) {
            let _ = thread(tid);
        }
    }
}

/// Makes a new process by a snapshot of whoever made it.
fn adopt_process(pid: Pid, status: &Status) -> Option<Arc<Thread>> {
    let maker = maker(process::mark(pid).ok()?, Pid(status.parent))?;
    let snapshot = claim(&maker, pid)?;
    new_process(pid, status, snapshot).ok()
}

/// The process that has a mark: the parent, mostly.
fn maker(mark: u64, parent: Pid) -> Option<Arc<Process>> {
    let processes = kernel().processes.read();
    processes.get(&parent).filter(|parent| parent.mark == mark).or_else(|| processes.values().find(|process| process.mark == mark)).cloned()
}

/// Takes the snapshot that is meant for a child: the only one there is, or that of the thread which the host calls the parent.
fn claim(maker: &Arc<Process>, pid: Pid) -> Option<Snapshot> {
    let mut candidates = maker.threads.lock().clone();
    candidates.retain(|thread| thread.fork.lock().is_some());
    if candidates.len() > 1 {
        let is_parent = |thread: &Arc<Thread>| process::children(maker.pid, thread.tid).is_ok_and(|list| list.contains(&pid));
        match candidates.iter().find(|thread| is_parent(thread)).cloned() {
            Some(parent) => candidates = vec![parent],
            None => candidates.retain(|thread| thread.fork.lock().as_ref().is_some_and(Snapshot::is_sibling)),
        }
    }
    match candidates.as_slice() {
        [only] => only.fork.lock().take(),
        _ => None,
    }
}

/// Gives the snapshot of this thread that nobody claimed to the child it is meant for, and drops it where there is no such
/// child: the thread has returned from its last clone, so the clone failed or the child is dead.
pub fn bind(process: &Arc<Process>, thread: &Arc<Thread>) {
    if !bind_to_child(process, thread) {
        let dropped = thread.fork.lock().take();
        drop(dropped);
    }
}

/// The same for a thread that may still be inside its clone: without a child the snapshot stays. Gives whether none is left.
pub fn bind_to_child(process: &Arc<Process>, thread: &Arc<Thread>) -> bool {
    if thread.fork.lock().is_none() {
        return true;
    }
    let _adopting = adoption().lock();
    // At most one snapshot is unclaimed, so a child that is unknown and bears this process's mark is its.
    let Some(sibling) = thread.fork.lock().as_ref().map(Snapshot::is_sibling) else { return true };
    let child = if sibling { unknown_sibling(process) } else { unknown_child(process, thread.tid) };
    let Some((pid, status)) = child.and_then(|pid| Some((pid, Status::read(pid).ok()?))) else { return false };
    if let Some(snapshot) = thread.fork.lock().take() {
        adopt_or_kill(pid, &status, snapshot);
    }
    true
}

fn is_unknown(pid: Pid, mark: u64) -> bool {
    !kernel().processes.read().contains_key(&pid) && process::mark(pid) == Ok(mark)
}

fn unknown_child(process: &Process, thread: Pid) -> Option<Pid> {
    let children = process::children(process.pid, thread).unwrap_or_default();
    children.into_iter().rev().find(|pid| is_unknown(*pid, process.mark))
}

/// `CLONE_PARENT`: the child is in nobody's list here.
fn unknown_sibling(process: &Process) -> Option<Pid> {
    strangers(process.mark).into_iter().find(|pid| Status::read(*pid).is_ok_and(|status| status.parent != process.pid.0))
}

/// Every process that nobody knows and that bears a mark.
fn strangers(mark: u64) -> Vec<Pid> {
    process::all().unwrap_or_default().into_iter().filter(|pid| is_unknown(*pid, mark)).collect()
}

fn adopt_or_kill(pid: Pid, status: &Status, snapshot: Snapshot) {
    if new_process(pid, status, snapshot).is_err() {
        let _ = process::kill(pid.0, libc::SIGKILL);
    }
}

/// Settles the forks of threads that are dead, when their process has ended or has executed another program: whatever they made is there by now.
pub fn settle(process: &Process, threads: &[Arc<Thread>]) {
    if threads.iter().all(|thread| thread.fork.lock().is_none()) {
        return;
    }
    let _adopting = adoption().lock();
    let mut left: Vec<Snapshot> = threads.iter().filter_map(|thread| thread.fork.lock().take()).collect();
    let alone = left.len() == 1;
    for pid in strangers(process.mark) {
        let Ok(status) = Status::read(pid) else { continue };
        match left.pop() {
            Some(snapshot) if alone => adopt_or_kill(pid, &status, snapshot),
            // Nobody can tell any more which thread made which child.
            _ => {
                let _ = process::kill(pid.0, libc::SIGKILL);
            }
        }
    }
}

/// Makes a process that the host has: a forked child, or one that the spawner made for a container.
pub fn new_process(pid: Pid, status: &Status, snapshot: Snapshot) -> Result<Arc<Thread>> {
    /// Above what any limit is set to by chance, and below "none".
    static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
    let pidfd = process::pidfd_open(pid)?;
    let mark = NEXT.fetch_add(1, Ordering::Relaxed);
    process::set_mark(pid, mark)?;
    let holds = snapshot.holds();
    let process = Arc::new(Process {
        pid,
        inner: status.inner,
        mark,
        parent: AtomicI32::new(status.parent),
        pidfd,
        container: snapshot.container,
        threads: Mutex::new(Vec::new()),
        starting: Mutex::default(),
        leaving: Mutex::default(),
        minds_parent: AtomicBool::new(false),
        executable: RwLock::new(snapshot.executable),
        limits: RwLock::new(snapshot.limits),
        dumpable: AtomicI32::new(snapshot.dumpable),
        executed: AtomicBool::new(false),
        started: Moment::now().0,
        exited: AtomicBool::new(false),
        exit: ExitState::default(),
        watch: Mutex::new(None),
        attention: AtomicU64::new(0),
        signal_files: Default::default(),
        timers: Mutex::default(),
        exec: Mutex::new(None),
        calls: AtomicU64::new(0),
        transfers: Default::default(),
        login: Mutex::new(snapshot.login),
        oom: Mutex::new(snapshot.oom),
    });
    let thread = Thread::new(pid, status.inner, &process, holds);
    process.threads.lock().push(thread.clone());
    kernel().processes.write().insert(pid, process.clone());
    kernel().threads.write().insert(pid, thread.clone());
    exit::watch(&process)?;
    Ok(thread)
}

/// Every so many forks it is looked for threads that went without a word (a filter of their own killed them): well before the host, which
/// counts up, gives their numbers to others.
const SWEEP: u64 = 1024;

/// Forgets threads that the host does not have any more.
pub fn sweep_now_and_then() {
    static FORKS: AtomicU64 = AtomicU64::new(0);
    if FORKS.fetch_add(1, Ordering::Relaxed) % SWEEP != SWEEP - 1 {
        return;
    }
    let threads: Vec<Arc<Thread>> = kernel().threads.read().values().cloned().collect();
    for thread in threads {
        let Some(process) = thread.process() else { continue };
        // The one that executes a program loses its number before it is known here; the others are gone where the host does not have them.
        let executes = process.exec.lock().as_ref().is_some_and(|pending| pending.thread == thread.tid);
        if thread.tid == process.pid || executes || process::has_thread(process.pid, thread.tid) {
            continue;
        }
        exit::thread_is_gone(&process, &thread);
    }
}
