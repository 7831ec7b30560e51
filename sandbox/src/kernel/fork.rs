//! fork(2), vfork(2), clone(2): executed by the host, followed here.
//!
//! At the parent's notification a [`Snapshot`] of everything that a child inherits is kept, and the host is allowed to go on. The child shows
//! itself at its first call, with a number that nobody knows; [`super::adopt`] finds the snapshot that is meant for it.
//!
//! A *process* to come is kept with the thread that forks it, one at most: before that thread forks again, or ends, the one before is *bound*: the
//! thread has come back from its clone, so there is a child, which is adopted at once, or the clone has failed. *Threads* to come are kept with
//! their process; all of them are alike, so that it does not matter which thread takes which: one that would differ waits for the others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::adopt;
use super::container::Container;
use super::credentials::{Capability, Credentials};
use super::limits::Limits;
use super::task::{Executable, FileSystemContext, Holds, Pid, Process, Thread};
use super::{kernel, signal};
use crate::errno::{Errno, Result};
use crate::platform::dispatch::dispatcher;
use crate::platform::process::has_thread;
use crate::vfs::descriptor::DescriptorTable;

/// What a child inherits, taken at its parent's call.
#[derive(Clone)]
pub struct Snapshot {
    /// The clone flags.
    pub flags: u64,
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
    /// Whether it goes early when memory runs out.
    pub oom: super::oom::Adjustment,
}

impl Snapshot {
    /// What a child of this thread would inherit.
    pub fn take(process: &Process, thread: &Thread, flags: u64) -> Snapshot {
        let shared = |flag: libc::c_int| flags & flag as u64 != 0;
        let context = thread.context.read().clone();
        let descriptors = thread.descriptors.read().clone();
        Snapshot {
            flags,
            container: process.container.clone(),
            credentials: thread.credentials.read().clone(),
            context: if shared(libc::CLONE_FS) { context } else { context.fork() },
            descriptors: if shared(libc::CLONE_FILES) { descriptors } else { descriptors.fork() },
            limits: process.limits.read().clone(),
            executable: process.executable.read().clone(),
            name: *thread.name.lock(),
            dumpable: process.dumpable.load(Ordering::Relaxed),
            login: *process.login.lock(),
            oom: *process.oom.lock(),
        }
    }

    /// Whether it is a thread's, of the process that makes it.
    pub fn is_thread(&self) -> bool {
        self.flags & libc::CLONE_THREAD as u64 != 0
    }

    /// Whether it is a sibling's of its maker.
    pub fn is_sibling(&self) -> bool {
        self.flags & libc::CLONE_PARENT as u64 != 0
    }

    /// What the child has of it from the beginning.
    pub(super) fn holds(&self) -> Holds {
        Holds {
            credentials: self.credentials.clone(),
            context: self.context.clone(),
            descriptors: self.descriptors.clone(),
            name: self.name,
        }
    }

    /// Whether a thread would be the same by the one or the other.
    fn equals(&self, other: &Snapshot) -> bool {
        self.credentials == other.credentials
            && Arc::ptr_eq(&self.context, &other.context)
            && Arc::ptr_eq(&self.descriptors, &other.descriptors)
            && self.name == other.name
    }
}

/// How many threads to come a process has before it is looked which of them have come.
const STARTING: usize = 64;
/// How often, and how far apart, it is looked for threads on their way, where one that differs is to be made.
const LOOKS: (usize, std::time::Duration) = (200, std::time::Duration::from_micros(100));

/// Keeps a snapshot for the child that the host is about to make. Called before `CONTINUE`.
///
/// Errors: `EAGAIN` at `RLIMIT_NPROC`.
pub fn expect_child(process: &Arc<Process>, thread: &Arc<Thread>, flags: u64) -> Result<()> {
    adopt::bind(process, thread);
    check_limit(process, thread)?;
    adopt::sweep_now_and_then();
    let snapshot = Snapshot::take(process, thread, flags);
    if snapshot.is_thread() {
        expect_thread(process, snapshot);
    } else {
        *thread.fork.lock() = Some(snapshot);
    }
    Ok(())
}

fn expect_thread(process: &Arc<Process>, snapshot: Snapshot) {
    let fits = |starting: &[Snapshot]| starting.len() < STARTING && starting.first().is_none_or(|other| other.equals(&snapshot));
    {
        let mut starting = process.starting.lock();
        if fits(&starting) {
            starting.push(snapshot);
            return;
        }
    }
    // Others are on their way that inherit something else, or whose clone has failed: an unknown thread could not be told whose it is.
    dispatcher().heed();
    for _ in 0..LOOKS.0 {
        adopt::threads(process);
        if fits(&process.starting.lock()) {
            break;
        }
        std::thread::sleep(LOOKS.1);
    }
    let mut starting = process.starting.lock();
    // What is left by now failed.
    let kept = starting.iter().take(STARTING - 1).filter(|other| other.equals(&snapshot)).cloned().collect();
    let dropped = std::mem::replace(&mut *starting, kept);
    starting.push(snapshot);
    drop(starting);
    drop(dropped);
}

/// `RLIMIT_NPROC`: threads of the caller's real user, in the pod (fork(2), `EAGAIN`).
fn check_limit(process: &Process, thread: &Thread) -> Result<()> {
    let limit = process.limits.read().0[libc::RLIMIT_NPROC as usize].soft;
    let who = thread.credentials.read().clone();
    if limit == u64::MAX || who.uid == 0 || who.capable(Capability::SysResource) || who.capable(Capability::SysAdmin) {
        return Ok(());
    }
    let threads: Vec<Arc<Thread>> = kernel().threads.read().values().cloned().collect();
    let mut count = 0;
    for other in threads.iter().filter(|other| other.credentials.read().uid == who.uid) {
        // One that its parent has waited for is gone before this kernel hears of it.
        if !other.process().is_some_and(|process| has_thread(process.pid, other.tid)) {
            continue;
        }
        count += 1 + usize::from(other.fork.lock().is_some());
    }
    let processes: Vec<Arc<Process>> = kernel().processes.read().values().cloned().collect();
    for other in processes {
        count += other.starting.lock().iter().filter(|snapshot| snapshot.credentials.uid == who.uid).count();
    }
    if count as u64 >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// The process with this number, as a container's processes count; a child that has not shown itself yet is looked for.
pub fn find(container: &Arc<Container>, inner: i32) -> Option<Arc<Process>> {
    let known = || kernel().processes.read().values().find(|process| process.inner == inner && process.container.sees(container)).cloned();
    if let Some(process) = known() {
        return Some(process);
    }
    if reveal() { known() } else { None }
}

/// Looks for the children that have made no call yet: whoever asks for a process group or for all processes means them too. A shell signals its job right
/// after it has forked it. Gives whether any was expected.
pub fn reveal() -> bool {
    let waiting: Vec<Arc<Thread>> = kernel().threads.read().values().filter(|thread| thread.fork.lock().is_some()).cloned().collect();
    for thread in &waiting {
        if let Some(process) = thread.process() {
            adopt::bind_to_child(&process, thread);
        }
    }
    !waiting.is_empty()
}

/// The thread with this number, as a container's processes count; one that has made no call yet is looked for: it may never make any.
pub fn find_thread(container: &Arc<Container>, inner: i32) -> Option<Arc<Thread>> {
    let known = || {
        let threads: Vec<Arc<Thread>> = kernel().threads.read().values().filter(|thread| thread.inner == inner).cloned().collect();
        threads.into_iter().find(|thread| thread.process().is_some_and(|process| process.container.sees(container)))
    };
    if let Some(thread) = known() {
        return Some(thread);
    }
    let mut waiting = signal::in_sight(container);
    waiting.retain(|process| !process.starting.lock().is_empty());
    waiting.iter().for_each(adopt::threads);
    if waiting.is_empty() { None } else { known() }
}

/// The process with this number, or that has a thread with it.
pub fn find_either(container: &Arc<Container>, inner: i32) -> Option<Arc<Process>> {
    find(container, inner).or_else(|| find_thread(container, inner)?.process())
}

/// A container's view of a process number; 0 where the process is not in it.
pub fn inner_number(container: &Arc<Container>, pid: Pid) -> i32 {
    match kernel().processes.read().get(&pid) {
        Some(process) if process.container.sees(container) => process.inner,
        _ => 0,
    }
}
