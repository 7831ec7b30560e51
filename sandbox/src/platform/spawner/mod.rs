//! The spawner: process 2 of the pod, from which every workload process descends.
//!
//! A seccomp filter can only be put on oneself, and passes to one's children. So before the kernel process confines itself it
//! forks the spawner, which installs the workload filter once ([`process`]); the kernel takes the listener. From then
//! on the spawner waits for [`SpawnRequest`]s and clones. A child's parent is the kernel process (`CLONE_PARENT`), which
//! reaps it; it lives in a PID namespace of its own or in its container's.
//!
//! The spawner and its children are under the filter like everybody: their calls arrive as notifications, and the kernel lets
//! them pass ([`intercept`]) up to the child's execve(2). *That* notification is kept, and [`Spawner::spawn`] gives it out: it is the gate between OCI's `created`
//! and `running`. Served like any other execve of the workload, it makes the process one.
//!
//! **What an attacker who owns it could do:** the spawner takes no byte from a workload; its input comes from the kernel alone. Whoever
//! owned it would be root of the pod's user namespace with the capabilities of [`process::CAPABILITIES`], in a root
//! that holds executables only, without network: it could start processes and enter PID namespaces of its own pod, and make
//! no host call that the kernel process does not see.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use parking_lot::Condvar;

use super::notify::{Listener, Notification, NotificationId};
use super::process::{Status, pidfd_getfd, pidfd_open, reap};
use crate::errno::{Errno, Result};
use crate::kernel::task::Pid;
use crate::sync::Mutex;

mod process;
mod request;

pub use request::{Profile, SpawnRequest};

/// A page that the kernel, the spawner and its children share: what they must tell each other where a call would not do.
#[repr(C)]
struct Shared {
    /// The listener's number in the spawner's table; -1 before it is there; minus an error number minus one where it failed.
    listener: AtomicI32,
    /// The child that is being made: the host writes its number before the child runs (`CLONE_PARENT_SETTID`).
    child: AtomicI32,
    /// The step that failed in the child: an index into [`process::STEPS`].
    step: AtomicI32,
    /// And why; 0 while nothing has failed.
    errno: AtomicI32,
}

/// A step of the new process that failed before its execve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpawnError {
    /// The spawner is gone.
    #[error("the spawner is gone: the pod cannot start processes any more")]
    Gone,
    /// The request is not one.
    #[error("the request cannot be sent: {0}")]
    Request(Errno),
    /// clone(2) failed.
    #[error("the host made no process: {0}")]
    Clone(Errno),
    /// A step between clone and execve failed.
    #[error("the new process could not {0}: {1}")]
    Step(&'static str, Errno),
    /// It was killed.
    #[error("the new process died before its execve")]
    Died,
}

impl From<SpawnError> for Errno {
    fn from(error: SpawnError) -> Errno {
        crate::log::error(&error.to_string());
        match error {
            SpawnError::Gone => Errno::EIO,
            SpawnError::Died => Errno::ECHILD,
            SpawnError::Request(errno) | SpawnError::Clone(errno) | SpawnError::Step(_, errno) => errno,
        }
    }
}

/// The kernel's end.
pub struct Spawner {
    pid: Pid,
    /// Held from a request to the child's execve: one process is made at a time.
    socket: Mutex<UnixStream>,
    shared: &'static Shared,
    gate: Mutex<Gate>,
    arrived: Condvar,
}

/// What has become of the child that is being made.
enum Gate {
    Closed,
    /// It waits in this execve.
    Waiting(Notification),
    /// It is about to exit.
    Failed,
}

static SPAWNER: OnceLock<Spawner> = OnceLock::new();

/// The pod's spawner.
///
/// # Panics
/// Before [`start`].
pub fn spawner() -> &'static Spawner {
    SPAWNER.get().expect("the spawner has been started")
}

/// Forks the spawner and takes the workload filter's listener from it. `exec_roots` is the directory that it is shut into. Called once,
/// while the kernel process has one thread and all its rights.
pub fn start(exec_roots: &str) -> Result<Listener> {
    let shared = share()?;
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: this process has one thread, so the child may do anything a process may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            drop(ours);
            process::run(theirs, shared, exec_roots)
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(theirs);
            let pid = Pid(child.as_raw());
            let number = wait_for_listener(shared, pid)?;
            let fd = pidfd_getfd(pidfd_open(pid)?, number)?;
            let spawner = Spawner { pid, socket: Mutex::new(ours), shared, gate: Mutex::new(Gate::Closed), arrived: Condvar::new() };
            SPAWNER.set(spawner).map_err(|_| Errno::EBUSY)?;
            Ok(Listener::new(fd))
        }
    }
}

fn share() -> Result<&'static Shared> {
    let length = std::num::NonZeroUsize::new(4096).ok_or(Errno::EINVAL)?;
    let protection = nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping at an address of the host's choice touches nothing that exists. Needed: the page must be
    // shared between processes.
    let page = unsafe { nix::sys::mman::mmap_anonymous(None, length, protection, nix::sys::mman::MapFlags::MAP_SHARED) }?;
    // SAFETY: the page is zeroed, aligned, larger than `Shared`, never unmapped, and only ever used through atomics.
    let shared: &'static Shared = unsafe { page.cast().as_ref() };
    shared.listener.store(-1, Ordering::SeqCst);
    Ok(shared)
}

fn wait_for_listener(shared: &Shared, spawner: Pid) -> Result<i32> {
    loop {
        match shared.listener.load(Ordering::SeqCst) {
            -1 => futex_wait(&shared.listener, -1),
            number if number < 0 => {
                let _ = reap(spawner);
                return Err(Errno(-number - 1));
            }
            number => return Ok(number),
        }
        match reap(spawner) {
            Err(Errno::EAGAIN) => {}
            _ => return Err(Errno::ECHILD),
        }
    }
}

/// Sleeps while `word` is `value`, for a tenth of a second at most.
fn futex_wait(word: &AtomicI32, value: i32) {
    let timeout = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    // SAFETY: the word and the time-out live through the call. Needed: the standard library has no futex between processes.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &timeout) };
}

fn futex_wake(word: &AtomicI32) {
    // SAFETY: the word lives through the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

/// What to do with a notification that may be the spawner's or its child's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interception {
    /// It is a workload's.
    Workload,
    /// It has been answered, or is kept.
    Taken,
}

/// Lets calls of the spawner and of the child it is making pass; keeps the child's execve. Cheap for everybody else.
pub fn intercept(listener: &Listener, notification: &Notification) -> Interception {
    let Some(spawner) = SPAWNER.get() else { return Interception::Workload };
    let thread = notification.thread as i32;
    let is_child = spawner.shared.child.load(Ordering::SeqCst) == thread;
    if !is_child && thread != spawner.pid.0 {
        return Interception::Workload;
    }
    let number = i64::from(notification.number);
    if is_child && number == libc::SYS_execve {
        *spawner.gate.lock() = Gate::Waiting(*notification);
        spawner.arrived.notify_all();
        return Interception::Taken;
    }
    if is_child && number == libc::SYS_exit_group {
        *spawner.gate.lock() = Gate::Failed;
        spawner.arrived.notify_all();
    }
    // Registers do not matter: this is our own code, before any byte of the workload's runs in it.
    listener.let_go(NotificationId(notification.id));
    Interception::Taken
}

impl Spawner {
    /// Makes a process, up to its execve. Gives its number and the notification of that call, to be served when it may go. Takes about
    /// a millisecond; must not be called by the thread that receives notifications.
    pub fn spawn(&self, request: &SpawnRequest) -> Result<(Pid, Notification), SpawnError> {
        let body = request.encode().map_err(SpawnError::Request)?;
        let joined = match request.join {
            0 => None,
            init => Some(namespace_of_first(Pid(init)).map_err(SpawnError::Request)?),
        };
        let mut socket = self.socket.lock();
        self.shared.step.store(0, Ordering::SeqCst);
        self.shared.errno.store(0, Ordering::SeqCst);
        *self.gate.lock() = Gate::Closed;
        send(&mut socket, joined.as_ref().map(AsFd::as_fd), &body).map_err(|_| SpawnError::Gone)?;
        let mut reply = [0u8; 4];
        socket.read_exact(&mut reply).map_err(|_| SpawnError::Gone)?;
        let pid = i32::from_le_bytes(reply);
        if pid < 0 {
            return Err(SpawnError::Clone(Errno(-pid)));
        }
        let pid = Pid(pid);
        let outcome = self.wait_for_execve(pid);
        // From here on the number is the process's like any other's.
        self.shared.child.store(0, Ordering::SeqCst);
        let notification = outcome?;
        Ok((pid, notification))
    }

    fn wait_for_execve(&self, pid: Pid) -> Result<Notification, SpawnError> {
        let mut gate = self.gate.lock();
        loop {
            match std::mem::replace(&mut *gate, Gate::Closed) {
                Gate::Waiting(notification) => return Ok(notification),
                Gate::Failed => break,
                Gate::Closed => {}
            }
            let timed_out = self.arrived.wait_for(&mut gate, Duration::from_millis(100)).timed_out();
            if timed_out && reap(pid) != Err(Errno::EAGAIN) {
                return Err(SpawnError::Died);
            }
        }
        drop(gate);
        while reap(pid) == Err(Errno::EAGAIN) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let step = process::STEPS.get(self.shared.step.load(Ordering::SeqCst) as usize).copied();
        match (self.shared.errno.load(Ordering::SeqCst), step) {
            (0, _) | (_, None) => Err(SpawnError::Died),
            (errno, Some(step)) => Err(SpawnError::Step(step, Errno(errno))),
        }
    }
}

/// The PID namespace that a process is the first of. `ESRCH` where the number is another's by now. A handle on the namespace, not on the process: entering
/// that would take the right to look into the process, which the spawner does not have.
fn namespace_of_first(pid: Pid) -> Result<OwnedFd> {
    let pidfd = pidfd_open(pid)?;
    let namespace = std::fs::File::open(format!("/proc/{}/ns/pid", pid.0))?;
    let first = Status::read(pid)?.inner == 1;
    drop(pidfd);
    if first { Ok(namespace.into()) } else { Err(Errno::ESRCH) }
}

/// A request on the wire: its length, 1 where a pidfd comes along, then the body.
fn send(socket: &mut UnixStream, joined: Option<BorrowedFd<'_>>, body: &[u8]) -> Result<()> {
    let mut head = [0u8; 8];
    head[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    head[4] = u8::from(joined.is_some());
    let descriptors = joined.map(|pidfd| [pidfd.as_raw_fd()]);
    let control: Vec<ControlMessage<'_>> = descriptors.iter().map(|numbers| ControlMessage::ScmRights(numbers)).collect();
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&head)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    socket.write_all(body)?;
    Ok(())
}
