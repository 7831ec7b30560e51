//! fork(2), vfork(2), clone(2): executed by the host, followed here.
//!
//! At the parent's notification a [`Snapshot`] of everything a child inherits is kept with the parent's thread, and the host
//! is allowed to go on. The child shows itself at its first call, with a number nobody knows ([`thread`]); the host says
//! whose child it is, and the snapshot makes it a process of ours.
//!
//! A thread has at most one snapshot that no child has claimed. Before it forks again, or ends, the one before it is
//! *bound*: the thread has come back from its clone, so the host's list of its children tells whether there is a child, and
//! which; that child is adopted at once. A clone that failed leaves a snapshot without a child, which is dropped.
//!
//! Where several snapshots might be meant and they differ (their parents were killed between their fork and the child's
//! first call), the child is killed: guessing could give it another's identity.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::container::Container;
use super::credentials::Credentials;
use super::exit::{self, ExitState};
use super::kernel;
use super::limits::Limits;
use super::task::{Executable, FileSystemContext, Pid, Process, Thread};
use super::timer::Moment;
use crate::errno::Result;
use crate::platform::process::{self, Status};
use crate::sync::{Mutex, RwLock};
use crate::vfs::descriptor::DescriptorTable;

/// What a child inherits, taken at its parent's call.
#[derive(Clone)]
pub struct Snapshot {
    /// The clone flags.
    pub flags: u64,
    /// Its parent, for the case that it dies before the child shows itself.
    pub parent: Pid,
    /// Whose it is.
    pub container: Arc<Container>,
    /// Identity.
    pub credentials: Arc<Credentials>,
    /// Working directory and kin: shared with `CLONE_FS`, else a copy.
    pub context: Arc<FileSystemContext>,
    /// Descriptors: shared with `CLONE_FILES`, else a copy.
    pub descriptors: Arc<DescriptorTable>,
    /// Limits.
    pub limits: Limits,
    /// The program it runs.
    pub executable: Option<Arc<Executable>>,
    /// The thread's name.
    pub name: [u8; 16],
    /// `PR_SET_DUMPABLE`.
    pub dumpable: i32,
    /// Whom its session is accounted to.
    pub login: super::accounting::Login,
}

impl Snapshot {
    /// What a child of this thread would inherit.
    pub fn take(process: &Process, thread: &Thread, flags: u64) -> Snapshot {
        let shared = |flag: libc::c_int| flags & flag as u64 != 0;
        let context = thread.context.read().clone();
        let descriptors = thread.descriptors.read().clone();
        Snapshot {
            flags,
            parent: process.pid,
            container: process.container.clone(),
            credentials: thread.credentials.read().clone(),
            context: if shared(libc::CLONE_FS) { context } else { context.fork() },
            descriptors: if shared(libc::CLONE_FILES) { descriptors } else { descriptors.fork() },
            limits: process.limits.read().clone(),
            executable: process.executable.read().clone(),
            name: *thread.name.lock(),
            dumpable: process.dumpable.load(Ordering::Relaxed),
            login: *process.login.lock(),
        }
    }

    fn is_thread(&self) -> bool {
        self.flags & libc::CLONE_THREAD as u64 != 0
    }

    /// Whether a child would be the same whichever of the two it claimed.
    fn equals(&self, other: &Snapshot) -> bool {
        self.credentials == other.credentials
            && Arc::ptr_eq(&self.context, &other.context)
            && Arc::ptr_eq(&self.descriptors, &other.descriptors)
            && Arc::ptr_eq(&self.container, &other.container)
    }
}

/// Snapshots whose parent is dead and whose child has not shown itself.
static ORPHANS: Mutex<Vec<Snapshot>> = Mutex::new(Vec::new());
/// How many are kept; more than that means that nobody will claim the oldest.
const ORPHANS_KEPT: usize = 64;

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
        let _ = process::kill(status.tgid, libc::SIGKILL);
    }
    adopted
}

/// Claims the snapshot of a new thread of a known process.
fn adopt_thread(tid: Pid, status: &Status) -> Option<Arc<Thread>> {
    let process = kernel().processes.read().get(&Pid(status.tgid)).cloned()?;
    let snapshot = claim(&process, Snapshot::is_thread, |_| false)?;
    let thread = new_thread(tid, status.inner, &process, &snapshot);
    process.threads.lock().push(thread.clone());
    kernel().threads.write().insert(tid, thread.clone());
    Some(thread)
}

/// Claims the snapshot of a new process.
fn adopt_process(pid: Pid, status: &Status) -> Option<Arc<Thread>> {
    let parent = kernel().processes.read().get(&Pid(status.parent)).cloned();
    let claimed = parent.and_then(|parent| {
        claim(
            &parent,
            |snapshot| !snapshot.is_thread(),
            |thread| process::children(parent.pid, thread).is_ok_and(|list| list.contains(&pid)),
        )
    });
    let snapshot = claimed.or_else(claim_orphan)?;
    new_process(pid, status, snapshot).ok()
}

/// Takes a snapshot that fits from a process's threads: the only one, or the one whose thread `is_parent`, or any where all are
/// alike.
fn claim(process: &Arc<Process>, fits: impl Fn(&Snapshot) -> bool, is_parent: impl Fn(Pid) -> bool) -> Option<Snapshot> {
    let threads = process.threads.lock().clone();
    let mut candidates = Vec::new();
    for thread in &threads {
        let forks = thread.forks.lock();
        candidates.extend(forks.iter().filter(|snapshot| fits(snapshot)).map(|snapshot| (thread.clone(), snapshot.clone())));
    }
    let chosen = match candidates.as_slice() {
        [] => return None,
        [only] => only.0.clone(),
        [first, rest @ ..] => match candidates.iter().find(|(thread, _)| is_parent(thread.tid)) {
            Some((thread, _)) => thread.clone(),
            None if rest.iter().all(|(_, snapshot)| snapshot.equals(&first.1)) => first.0.clone(),
            None => return None,
        },
    };
    let mut forks = chosen.forks.lock();
    let index = forks.iter().position(fits)?;
    Some(forks.remove(index))
}

fn claim_orphan() -> Option<Snapshot> {
    let mut orphans = ORPHANS.lock();
    let first = orphans.first()?.clone();
    if orphans.iter().all(|orphan| orphan.equals(&first)) || orphans.len() == 1 { Some(orphans.remove(0)) } else { None }
}

/// Keeps a snapshot for the child that the host is about to make. Called before `CONTINUE`.
pub fn expect_child(process: &Arc<Process>, thread: &Arc<Thread>, flags: u64) {
    bind(process, thread);
    let snapshot = Snapshot::take(process, thread, flags);
    thread.forks.lock().push(snapshot);
}

/// Gives the snapshot of this thread that nobody claimed to the child it is meant for, and drops it where there is no such
/// child: the thread has returned from its last clone, so the clone failed or the child is dead.
pub fn bind(process: &Arc<Process>, thread: &Arc<Thread>) {
    if !bind_to_child(process, thread) {
        thread.forks.lock().retain(Snapshot::is_thread);
    }
}

/// The same for a thread that may still be inside its clone: without a child the snapshot stays.
fn bind_to_child(process: &Arc<Process>, thread: &Arc<Thread>) -> bool {
    if thread.forks.lock().iter().all(Snapshot::is_thread) {
        return true;
    }
    let _adopting = adoption().lock();
    let unknown = |pid: &Pid| !kernel().processes.read().contains_key(pid);
    // At most one snapshot is unclaimed, so an unknown child is its.
    let Some(pid) = process::children(process.pid, thread.tid).unwrap_or_default().into_iter().rev().find(unknown) else { return false };
    let Ok(status) = Status::read(pid) else { return false };
    let mut forks = thread.forks.lock();
    let Some(index) = forks.iter().position(|snapshot| !snapshot.is_thread()) else { return true };
    let snapshot = forks.remove(index);
    drop(forks);
    if new_process(pid, &status, snapshot).is_err() {
        let _ = process::kill(pid.0, libc::SIGKILL);
    }
    true
}

/// Drops snapshots of threads-to-be that no thread of the process can claim any more: called before the identity changes.
pub fn settle_threads(process: &Arc<Process>, thread: &Arc<Thread>) {
    if thread.forks.lock().is_empty() {
        return;
    }
    bind(process, thread);
    for tid in process::threads(process.pid).unwrap_or_default() {
        // Adopts what has not shown itself.
        let _ = self::thread(tid);
    }
    thread.forks.lock().retain(|snapshot| !snapshot.is_thread());
}

/// A process ends while children of it have not shown themselves.
pub fn orphan(process: &Arc<Process>) {
    let threads = process.threads.lock().clone();
    for thread in threads {
        let left: Vec<Snapshot> = thread.forks.lock().drain(..).filter(|snapshot| !snapshot.is_thread()).collect();
        let mut orphans = ORPHANS.lock();
        orphans.extend(left);
        let excess = orphans.len().saturating_sub(ORPHANS_KEPT);
        let dropped: Vec<Snapshot> = orphans.drain(..excess).collect();
        drop(orphans);
        drop(dropped);
    }
}

/// Makes a process that the host has: a forked child, or one that the spawner made for a container.
pub fn new_process(pid: Pid, status: &Status, snapshot: Snapshot) -> Result<Arc<Thread>> {
    let pidfd = process::pidfd_open(pid)?;
    let process = Arc::new(Process {
        pid,
        inner: status.inner,
        parent: AtomicI32::new(status.parent),
        pidfd,
        container: snapshot.container.clone(),
        threads: Mutex::new(Vec::new()),
        executable: RwLock::new(snapshot.executable.clone()),
        limits: RwLock::new(snapshot.limits.clone()),
        dumpable: AtomicI32::new(snapshot.dumpable),
        executed: AtomicBool::new(false),
        started: Moment::now().0,
        exited: AtomicBool::new(false),
        exit: ExitState::default(),
        watch: Mutex::new(None),
        attention: AtomicU64::new(0),
        timers: Mutex::default(),
        exec: Mutex::new(None),
        calls: AtomicU64::new(0),
        transfers: Default::default(),
        login: Mutex::new(snapshot.login),
    });
    let thread = new_thread(pid, status.inner, &process, &snapshot);
    process.threads.lock().push(thread.clone());
    kernel().processes.write().insert(pid, process.clone());
    kernel().threads.write().insert(pid, thread.clone());
    exit::watch(&process)?;
    Ok(thread)
}

fn new_thread(tid: Pid, inner: i32, process: &Arc<Process>, snapshot: &Snapshot) -> Arc<Thread> {
    Arc::new(Thread {
        tid,
        inner,
        process: Arc::downgrade(process),
        credentials: RwLock::new(snapshot.credentials.clone()),
        context: RwLock::new(snapshot.context.clone()),
        descriptors: RwLock::new(snapshot.descriptors.clone()),
        name: Mutex::new(snapshot.name),
        parked: Mutex::new(None),
        wait_mask: Mutex::new(None),
        forks: Mutex::new(Vec::new()),
        keep_capabilities: AtomicBool::new(false),
    })
}

/// The process with this number in a container's own numbering; a child that has not shown itself yet is looked for.
pub fn find(container: &Arc<Container>, inner: i32) -> Option<Arc<Process>> {
    let known =
        || kernel().processes.read().values().find(|process| process.inner == inner && Arc::ptr_eq(&process.container, container)).cloned();
    if let Some(process) = known() {
        return Some(process);
    }
    let waiting: Vec<Arc<Thread>> = kernel().threads.read().values().filter(|thread| !thread.forks.lock().is_empty()).cloned().collect();
    for thread in &waiting {
        if let Some(process) = thread.process() {
            bind_to_child(&process, thread);
        }
    }
    if waiting.is_empty() { None } else { known() }
}

/// A container's view of a process number; 0 where the process is not in it.
pub fn inner_number(container: &Arc<Container>, pid: Pid) -> i32 {
    match kernel().processes.read().get(&pid) {
        Some(process) if Arc::ptr_eq(&process.container, container) => process.inner,
        _ => 0,
    }
}
