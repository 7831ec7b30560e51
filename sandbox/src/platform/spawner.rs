//! The spawner: the process from which every workload process descends.
//!
//! The kernel process can not start workloads itself: its own seccomp filter and its open files would be inherited. So before it
//! confines itself it forks the spawner, which installs the *workload* filter once (one listener for the whole pod, inherited by
//! every descendant), is chrooted into the exec roots, sits in empty network, UTS and IPC namespaces, and then waits for
//! requests on a socket. For each it forks one child, which gives up everything, and executes its program.
//!
//! The spawner's own calls, and those of a child before its first execve, are notified like any workload's; the dispatcher
//! lets them through ([`super::dispatch`]). The child is made with `CLONE_PARENT`, so the kernel process is its parent and reaps
//! it. A new container gets a PID namespace of its own; a process that enters a container later is born in that one's.
//!
//! What an attacker who owned the spawner could do: start native processes inside the pod's user namespace, without any file
//! system but the exec roots and without a network. It reads nothing but the kernel's requests.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use super::filter::Instruction;
use super::{direct, filter, notify};
use crate::errno::{Errno, Result};
use crate::kernel::task::Pid;
use crate::sync::Mutex;

/// The native user and group of every workload process: nobody.
pub const NATIVE_ID: u32 = 65534;
/// The spawner's number in the kernel's PID namespace: the first child of its init.
pub const SPAWNER: Pid = Pid(2);

/// A process to start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SpawnRequest {
    /// Its exec root: a directory name below the exec roots.
    pub exec_root: String,
    /// A process whose PID namespace it joins; 0 for a new namespace.
    pub join: i32,
    /// The literal path it executes.
    pub path: Vec<u8>,
    /// Its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Its environment.
    pub environment: Vec<Vec<u8>>,
    /// Native resource limits: resource, soft, hard.
    pub limits: Vec<(u32, u64, u64)>,
    /// Seccomp programs of the container's own profile, as (code, if_true, if_false, operand).
    pub profiles: Vec<Vec<(u16, u8, u8, u32)>>,
}

/// The kernel's end.
pub struct Spawner {
    requests: Mutex<UnixStream>,
    /// Children that have reached their first execve.
    arrived: Mutex<HashMap<Pid, notify::Notification>>,
    arrival: parking_lot::Condvar,
}

static SPAWNER_HANDLE: OnceLock<Spawner> = OnceLock::new();

/// The spawner.
///
/// # Panics
/// Before [`start`].
pub fn spawner() -> &'static Spawner {
    SPAWNER_HANDLE.get().expect("the spawner has been started")
}

impl Spawner {
    /// Starts a process and waits until it stands before its execve. Gives its number and the notification to answer when
    /// it may go. Must not be called by a thread that receives notifications.
    pub fn spawn(&self, request: &SpawnRequest) -> Result<(Pid, notify::Notification)> {
        let bytes = serde_json::to_vec(request).map_err(|_| Errno::EINVAL)?;
        let mut socket = self.requests.lock();
        socket.write_all(&(bytes.len() as u32).to_ne_bytes())?;
        socket.write_all(&bytes)?;
        let mut answer = [0u8; 4];
        socket.read_exact(&mut answer)?;
        let pid = i32::from_ne_bytes(answer);
        if pid <= 0 {
            return Err(Errno(-pid));
        }
        let pid = Pid(pid);
        let mut arrived = self.arrived.lock();
        for _ in 0..100 {
            if let Some(notification) = arrived.remove(&pid) {
                return Ok((pid, notification));
            }
            self.arrival.wait_for(&mut arrived, Duration::from_millis(100));
            if super::process::Status::read(pid).map_or(true, |status| status.is_dead()) {
                let _ = super::process::reap(pid);
                return Err(Errno::ECHILD);
            }
        }
        let _ = super::process::kill(pid.0, libc::SIGKILL);
        Err(Errno::ETIMEDOUT)
    }

    /// A child of the spawner stands before its first execve.
    pub fn arrives(&self, notification: notify::Notification) {
        self.arrived.lock().insert(Pid(notification.thread as i32), notification);
        self.arrival.notify_all();
    }
}

/// Forks the spawner. Called once, while this process has one thread and is still init with all its rights. Gives the listener of the
/// workload filter.
pub fn start(exec_roots: &str) -> Result<notify::Listener> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: this process has one thread, so the child may go on as a whole program.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            drop(ours);
            let code = match serve(theirs, exec_roots) {
                Ok(()) => 0,
                Err(_) => 1,
            };
            // SAFETY: leaves without running what belongs to the kernel process's half of this fork.
            unsafe { libc::_exit(code) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            drop(theirs);
            let mut ours = ours;
            let mut number = [0u8; 4];
            ours.read_exact(&mut number)?;
            let number = i32::from_ne_bytes(number);
            if number < 0 {
                return Err(Errno(-number));
            }
            let pidfd = super::process::pidfd_open(Pid(child.as_raw()))?;
            let listener = take_listener(&pidfd, number)?;
            let handle = Spawner { requests: Mutex::new(ours), arrived: Mutex::default(), arrival: parking_lot::Condvar::new() };
            let _ = SPAWNER_HANDLE.set(handle);
            Ok(notify::Listener::new(listener))
        }
    }
}

/// The number that the listener will have in the spawner: the lowest, since all but the socket are closed.
const LISTENER: i32 = 0;

/// Fetches the listener from the spawner. Once the filter stands, the spawner's next call waits for the listener's owner: it can
/// not say "now", so it is looked for, for at most two seconds.
fn take_listener(pidfd: &OwnedFd, number: i32) -> Result<OwnedFd> {
    for _ in 0..20_000 {
        match super::process::pidfd_getfd(pidfd, number) {
            Err(Errno::EBADF) => std::thread::sleep(Duration::from_micros(100)),
            result => return result,
        }
    }
    Err(Errno::ETIMEDOUT)
}

/// Prepares the spawner (namespaces, root, filter) and serves requests until the kernel is gone.
fn serve(mut socket: UnixStream, exec_roots: &str) -> Result<()> {
    let prepared = (|| -> Result<()> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)?;
        close_all_but(socket.as_raw_fd());
        nix::unistd::chroot(exec_roots)?;
        nix::unistd::chdir("/")?;
        nix::sys::prctl::set_no_new_privs()?;
        // A core file, or a host helper that is given one, would carry the workload's bytes out.
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 1, 1)?;
        let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most)?;
        Ok(())
    })();
    let answer = prepared.map_or_else(|error| -error.0, |()| LISTENER);
    socket.write_all(&answer.to_ne_bytes())?;
    prepared?;
    // From here on every call of this process waits for the kernel's answer.
    drop(notify::install(&filter::compile(direct::TABLE))?);
    let own = nix::unistd::getpid().as_raw();
    loop {
        let mut length = [0u8; 4];
        if socket.read_exact(&mut length).is_err() {
            return Ok(());
        }
        let mut bytes = vec![0u8; u32::from_ne_bytes(length) as usize];
        socket.read_exact(&mut bytes)?;
        let answer = match serde_json::from_slice::<SpawnRequest>(&bytes) {
            Ok(request) => spawn_child(&request, own).unwrap_or_else(|error| -error.0),
            Err(_) => -libc::EINVAL,
        };
        socket.write_all(&answer.to_ne_bytes())?;
    }
}

/// Closes every descriptor but the standard ones and one.
fn close_all_but(kept: i32) {
    // SAFETY: no memory is passed. The spawner owns none of these descriptors: they are the kernel's half of the fork.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, (kept - 1) as u32, 0);
        libc::syscall(libc::SYS_close_range, (kept + 1) as u32, u32::MAX, 0);
    }
}

/// Makes one child. Gives its number.
fn spawn_child(request: &SpawnRequest, own: i32) -> Result<i32> {
    let texts =
        |list: &[Vec<u8>]| list.iter().map(|text| CString::new(text.clone()).map_err(|_| Errno::EINVAL)).collect::<Result<Vec<_>>>();
    let path = CString::new(request.path.clone()).map_err(|_| Errno::EINVAL)?;
    let arguments = texts(&request.arguments)?;
    let environment = texts(&request.environment)?;
    if request.join > 0 {
        let target = super::process::pidfd_open(Pid(request.join))?;
        nix::sched::setns(target, CloneFlags::CLONE_NEWPID)?;
    } else {
        nix::sched::unshare(CloneFlags::CLONE_NEWPID)?;
    }
    // SAFETY: the spawner has one thread; without CLONE_VM the child has its own copy of this program, and goes on as a
    // whole. A null stack means the same stack in the copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        let error = become_workload(request, &path, &arguments, &environment);
        // SAFETY: as in `start`.
        unsafe { libc::_exit(if error == Errno::ENOENT { 127 } else { 126 }) }
    }
    let failed = if pid < 0 { Some(Errno::last()) } else { None };
    let own = super::process::pidfd_open(Pid(own))?;
    nix::sched::setns(own, CloneFlags::CLONE_NEWPID)?;
    failed.map_or(Ok(pid as i32), Err)
}

/// The child's way to its program: everything is given up, in the order in which it is needed last.
fn become_workload(request: &SpawnRequest, path: &CString, arguments: &[CString], environment: &[CString]) -> Errno {
    let prepared = (|| -> Result<()> {
        nix::unistd::setsid()?;
        nix::unistd::chroot(request.exec_root.as_str())?;
        nix::unistd::chdir("/")?;
        // SAFETY: no memory is passed; nothing in this child uses a descriptor any more.
        unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
        for (resource, soft, hard) in &request.limits {
            let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
            // SAFETY: `limit` lives through the call. Failing to raise a limit without CAP_SYS_RESOURCE leaves the lower one.
            unsafe { libc::setrlimit(*resource, &limit) };
        }
        caps::clear(None, caps::CapSet::Ambient).map_err(|_| Errno::EPERM)?;
        for capability in caps::all() {
            let _ = caps::drop(None, caps::CapSet::Bounding, capability);
        }
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(NATIVE_ID.into(), NATIVE_ID.into(), NATIVE_ID.into())?;
        nix::unistd::setresuid(NATIVE_ID.into(), NATIVE_ID.into(), NATIVE_ID.into())?;
        caps::clear(None, caps::CapSet::Inheritable).map_err(|_| Errno::EPERM)?;
        // Changing the user has made this memory one that only the host's own root may read; the kernel has to read the path.
        nix::sys::prctl::set_dumpable(true)?;
        for profile in &request.profiles {
            let program: Vec<Instruction> =
                profile.iter().map(|&(code, if_true, if_false, operand)| Instruction { code, if_true, if_false, operand }).collect();
            notify::restrict(&program)?;
        }
        Ok(())
    })();
    if let Err(error) = prepared {
        return error;
    }
    match nix::unistd::execve(path, arguments, environment) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}
