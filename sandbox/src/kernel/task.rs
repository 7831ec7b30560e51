//! Processes and threads, as this kernel knows them (clone(2), credentials(7)).
//!
//! The *host* schedules them, owns their memory, delivers their signals, and knows who is whose parent, group and session.
//! What is kept here is what the host must not know: identity, descriptors, working directory, limits, the executable.
//! Numbers are those of the kernel process's own PID namespace ([`Pid`]); the workload sees its container's numbers
//! (`inner`), translated at the edge.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};
use std::sync::{Arc, Weak};

use super::container::Container;
use super::credentials::Credentials;
use super::limits::Limits;
use super::park::ParkedCall;
use crate::sync::{Mutex, RwLock};
use crate::vfs::descriptor::DescriptorTable;
use crate::vfs::mount::Location;

/// A process or thread id in the kernel process's PID namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Pid(pub i32);

/// Working directory, root directory and umask: what `CLONE_FS` shares.
pub struct FileSystemContext {
    state: RwLock<FileSystemState>,
}

/// The values of a [`FileSystemContext`].
#[derive(Clone)]
#[allow(missing_docs)]
pub struct FileSystemState {
    pub root: Location,
    pub cwd: Location,
    pub umask: u32,
}

impl FileSystemContext {
    /// A context with these values.
    pub fn new(state: FileSystemState) -> Arc<FileSystemContext> {
        Arc::new(FileSystemContext { state: RwLock::new(state) })
    }

    /// A copy of the values now.
    pub fn get(&self) -> FileSystemState {
        self.state.read().clone()
    }

    /// Changes the values.
    pub fn update<T>(&self, change: impl FnOnce(&mut FileSystemState) -> T) -> T {
        change(&mut self.state.write())
    }

    /// A context of its own with the same values.
    pub fn fork(&self) -> Arc<FileSystemContext> {
        FileSystemContext::new(self.get())
    }
}

/// The program that a process runs.
pub struct Executable {
    /// Where it was found.
    pub location: Location,
    /// The path it was started by, as `AT_EXECFN` has it.
    pub path: Vec<u8>,
}

/// A process: Linux's thread group.
pub struct Process {
    /// Its number here.
    pub pid: Pid,
    /// Its number in its container.
    pub inner: i32,
    /// What its children inherit natively and nobody else has: see [`super::adopt`].
    pub mark: u64,
    /// Who forked it, or who adopted it since, as far as is known.
    pub parent: AtomicI32,
    /// The host's handle on it.
    pub pidfd: OwnedFd,
    /// Whose it is.
    pub container: Arc<Container>,
    /// Its threads. The first one stays when it exits before the others, as it does on Linux.
    pub threads: Mutex<Vec<Arc<Thread>>>,
    /// What threads inherit that have been allowed and have not shown themselves; all alike.
    pub starting: Mutex<Vec<super::fork::Snapshot>>,
    /// Threads that have said that they exit, and that the host may still have.
    pub leaving: Mutex<Vec<Pid>>,
    /// Has asked for a signal at its parent's death (`PR_SET_PDEATHSIG`).
    pub minds_parent: AtomicBool,
    /// What it runs; `None` before its first exec.
    pub executable: RwLock<Option<Arc<Executable>>>,
    /// getrlimit(2).
    pub limits: RwLock<Limits>,
    /// `prctl(PR_SET_DUMPABLE)`.
    pub dumpable: AtomicI32,
    /// Has executed since it was forked (setpgid(2) on a child then is `EACCES`; natively checked too).
    pub executed: AtomicBool,
    /// When it began, in nanoseconds of `CLOCK_BOOTTIME`.
    pub started: u64,
    /// Set once its exit has been seen (by call or pidfd): its objects are released.
    pub exited: AtomicBool,
    /// How it ended, and who waits for that.
    pub exit: super::exit::ExitState,
    /// The reactor's watch on its pidfd.
    pub watch: Mutex<Option<super::reactor::Watch>>,
    /// Until when its parked calls are looked at for signals (see `kernel::signal`), in nanoseconds of the monotonic clock; 0 for not at all.
    pub attention: AtomicU64,
    /// The signalfds that its threads look at.
    pub signal_files: crate::fs::signalfd::Listeners,
    /// Interval and POSIX timers.
    pub timers: Mutex<super::itimer::ProcessTimers>,
    /// The exec in flight, if any.
    pub exec: Mutex<Option<crate::kernel::exec::PendingExec>>,
    /// How many calls it has made.
    pub calls: AtomicU64,
    /// What it has read and written (proc_pid_io(5)).
    pub transfers: super::accounting::Transfers,
    /// Whom its session is accounted to.
    pub login: Mutex<super::accounting::Login>,
    /// Whether it goes early when memory runs out.
    pub oom: Mutex<super::oom::Adjustment>,
}

/// What a thread has from its birth or its exec on.
#[allow(missing_docs)]
pub struct Holds {
    pub credentials: Arc<Credentials>,
    pub context: Arc<FileSystemContext>,
    pub descriptors: Arc<DescriptorTable>,
    pub name: [u8; 16],
}

/// A thread: Linux's task.
pub struct Thread {
    /// Its number here.
    pub tid: Pid,
    /// Its number in its container.
    pub inner: i32,
    /// Its thread group.
    pub process: Weak<Process>,
    /// Identity; replaced as a whole.
    pub credentials: RwLock<Arc<Credentials>>,
    /// Working directory and kin.
    pub context: RwLock<Arc<FileSystemContext>>,
    /// Descriptors.
    pub descriptors: RwLock<Arc<DescriptorTable>>,
    /// `PR_SET_NAME`; 15 bytes and a NUL.
    pub name: Mutex<[u8; 16]>,
    /// The call it waits in.
    pub parked: Mutex<Option<Arc<ParkedCall>>>,
    /// The signal mask that its parked call waits with, where that is not the thread's own.
    pub wait_mask: Mutex<Option<u64>>,
    /// The fork that has been allowed and whose child has not shown itself yet.
    pub fork: Mutex<Option<super::fork::Snapshot>>,
}

impl Thread {
    /// A thread that does not wait in a call.
    pub fn new(tid: Pid, inner: i32, process: &Arc<Process>, holds: Holds) -> Arc<Thread> {
        Arc::new(Thread {
            tid,
            inner,
            process: Arc::downgrade(process),
            credentials: RwLock::new(holds.credentials),
            context: RwLock::new(holds.context),
            descriptors: RwLock::new(holds.descriptors),
            name: Mutex::new(holds.name),
            parked: Mutex::new(None),
            wait_mask: Mutex::new(None),
            fork: Mutex::new(None),
        })
    }

    /// Its thread group; `None` while that ends.
    pub fn process(&self) -> Option<Arc<Process>> {
        self.process.upgrade()
    }
}

thread_local! {
    static CURRENT: std::cell::RefCell<Option<Arc<Thread>>> = const { std::cell::RefCell::new(None) };
}

/// The thread whose call this worker serves: what `/proc/self` is to its caller.
pub fn current() -> Option<Arc<Thread>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Whose rights count in what this worker does now: the current thread's, or the kernel's own.
pub fn current_credentials() -> Arc<Credentials> {
    thread_local! {
        static KERNEL: Arc<Credentials> = Credentials::kernel();
    }
    CURRENT.with(|current| match &*current.borrow() {
        Some(thread) => thread.credentials.read().clone(),
        None => KERNEL.with(Arc::clone),
    })
}

/// Says whose call is served from now on. Called by the dispatcher.
pub fn set_current(thread: Option<Arc<Thread>>) {
    CURRENT.with(|current| current.replace(thread));
}
