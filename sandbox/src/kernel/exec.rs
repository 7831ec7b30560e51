//! execve(2): resolved here, executed by the host's own loader.
//!
//! 1. [`prepare`] walks the path in the caller's tree, checks the right to execute, follows a script to its interpreter and an ELF file to
//!    its dynamic loader, and *shows* every file on that way at its literal path in the container's exec root.
//! 2. A close-on-exec descriptor is planted in the caller, and the host is let go. It reads the path from the caller's memory again: a racing
//!    thread can make it find another file only among those that the exec root shows, all of them executables of this container.
//! 3. At the next call ([`settle`]) the planted descriptor tells whether the exec succeeded. If so, `/proc/PID/exe` must be the file that was
//!    prepared, or the process dies; then close-on-exec files are closed and the new identity takes hold.
//!
//! Where the wrong file would matter at once (the new program has more rights than the caller), the thread is held at its exec stop and looked
//! at before its first instruction: see [`crate::platform::exec_stop`].

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::credentials::{Capabilities, Credentials};
use super::elf::{self, Program};
use super::task::{Executable, Pid, Process, Thread};
use crate::errno::{Errno, Result};
use crate::platform::exec_root::InFlight;
use crate::platform::process;
use crate::syscalls::Call;
use crate::vfs::mount::{Location, MountFlags};
use crate::vfs::node::{FileType, Permission};
use crate::vfs::walk::WalkFlags;

/// Interpreters of interpreters at most (`ELOOP` beyond), as in fs/exec.c.
const SCRIPTS: usize = 5;
/// The native number of the planted descriptor: the last that fits a fresh descriptor table without growing it.
pub const PLANTED: u32 = 63;

/// An exec that the host has been allowed to do, until it is known whether it succeeded.
pub struct PendingExec {
    /// The thread that called.
    pub thread: Pid,
    /// What it will run.
    pub executable: Arc<Executable>,
    /// Device and inode that `/proc/PID/exe` must show.
    pub identity: (u64, u64),
    /// Identity after the exec.
    pub credentials: Arc<Credentials>,
    /// New thread name.
    pub name: [u8; 16],
    /// The files that the host may open for it.
    pub shown: Vec<InFlight>,
    /// Whether the new program has more rights than the caller had.
    pub privileged: bool,
}

/// A file that the host will open, found in the caller's tree.
struct Found {
    location: Location,
    file: OwnedFd,
}

/// Finds a file and checks the right to execute it.
fn find(call: &Call, path: &[u8]) -> Result<Found> {
    let location = call.resolve(path, WalkFlags::empty())?;
    if location.node.file_type() != FileType::Regular {
        return Err(Errno::EACCES);
    }
    if location.mount.has(MountFlags::NO_EXECUTE) {
        return Err(Errno::EACCES);
    }
    location.node.access(Permission::EXECUTE, &call.credentials())?;
    let file = location.node.host_file()?;
    Ok(Found { location, file })
}

/// Does everything that has to be done before the host may execute `path`.
pub fn prepare(call: &Call, path: &[u8]) -> Result<PendingExec> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let root = &call.process.container.exec_root;
    let mut shown = Vec::new();
    let mut literal = path.to_vec();
    let mut first: Option<Location> = None;
    for _ in 0..=SCRIPTS {
        let found = find(call, &literal)?;
        shown.push(root.show(&literal, found.file.as_fd())?);
        let identity = shown[shown.len() - 1].visible;
        first.get_or_insert_with(|| found.location.clone());
        let program = elf::examine(|into, at| {
            nix::sys::uio::pread(found.file.as_fd(), into, i64::try_from(at).map_err(|_| Errno::ENOEXEC)?).map_err(Errno::from)
        })?;
        match program {
            Program::Script(interpreter) => literal = interpreter,
            Program::Elf(loader) => {
                if let Some(loader) = loader {
                    let found = find(call, &loader)?;
                    shown.push(root.show(&loader, found.file.as_fd())?);
                }
                let (credentials, privileged) = credentials_after(call, &found.location)?;
                let executable = Arc::new(Executable { location: found.location, path: literal });
                return Ok(PendingExec {
                    thread: call.thread.tid,
                    executable,
                    identity,
                    credentials: Arc::new(credentials),
                    name: name_of(path),
                    shown,
                    privileged,
                });
            }
        }
    }
    Err(Errno::ELOOP)
}

/// The last component, cut to 15 bytes: what `comm` shows.
fn name_of(path: &[u8]) -> [u8; 16] {
    let base = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let mut name = [0u8; 16];
    let length = base.len().min(15);
    name[..length].copy_from_slice(&base[..length]);
    name
}

/// The identity that a program runs with (capabilities(7), "Transformation of capabilities during execve()"), and whether it
/// has more rights than its caller.
fn credentials_after(call: &Call, location: &Location) -> Result<(Credentials, bool)> {
    /// `SECBIT_NOROOT` and `SECBIT_KEEP_CAPS`.
    const NO_ROOT: u32 = 1;
    const KEEP: u32 = 1 << 4;
    let before = call.credentials();
    let mut after = (*before).clone();
    let attributes = location.node.attributes()?;
    if !before.no_new_privs && !location.mount.has(MountFlags::NO_SUID) {
        if attributes.mode & libc::S_ISUID != 0 {
            after.euid = attributes.uid;
        }
        if attributes.mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP {
            after.egid = attributes.gid;
        }
    }
    let set_id = after.euid != before.euid || after.egid != before.egid;
    after.suid = after.euid;
    after.fsuid = after.euid;
    after.sgid = after.egid;
    after.fsgid = after.egid;
    let root = after.securebits & NO_ROOT == 0 && (after.euid == 0 || after.uid == 0);
    let file = if root { Capabilities::ALL } else { Capabilities::NONE };
    let effective = root && after.euid == 0;
    after.ambient = if set_id { Capabilities::NONE } else { before.ambient };
    after.permitted = before.inheritable.intersection(file).union(file.intersection(before.bounding)).union(after.ambient);
    after.effective = if effective { after.permitted } else { after.ambient };
    after.securebits &= !KEEP;
    let gains = after.permitted.difference(before.permitted) != Capabilities::NONE && after.uid != 0;
    let secure = after.euid != after.uid || after.egid != after.gid;
    Ok((after, set_id || gains || (secure && (before.euid != before.uid || before.egid != before.gid))))
}

/// Looks whether an exec in flight has happened. Called before any call of the process is served; `Err` means that
/// the process has been killed.
pub fn settle(process: &Arc<Process>, caller: &Arc<Thread>) -> Result<()> {
    let mut slot = process.exec.lock();
    let Some(pending) = slot.as_ref() else { return Ok(()) };
    if process::pidfd_getfd(&process.pidfd, PLANTED as i32).is_ok() {
        // Still there: it failed, if the thread that called is back; otherwise it is still under way.
        if pending.thread == caller.tid {
            let failed = slot.take();
            drop(slot);
            drop(failed);
        }
        return Ok(());
    }
    let Some(done) = slot.take() else { return Ok(()) };
    // Held until all is done: another worker may be about to serve the new program's first call.
    let result = complete(process, done);
    drop(slot);
    result
}

/// Looks whether any exec in flight has succeeded: its program may run for long before it makes a call, and the names it was executed by
/// are not free until then.
pub fn settle_all() {
    let processes: Vec<Arc<Process>> = super::kernel().processes.read().values().cloned().collect();
    for process in processes {
        let mut slot = process.exec.lock();
        // The planted descriptor is gone only after success; while it is there the exec is under way or has failed.
        if slot.is_none() || !matches!(process::pidfd_getfd(&process.pidfd, PLANTED as i32), Err(Errno::EBADF)) {
            continue;
        }
        if let Some(done) = slot.take() {
            let _ = complete(&process, done);
        }
    }
}

/// The host runs the new program: makes it so here.
pub fn complete(process: &Arc<Process>, done: PendingExec) -> Result<()> {
    if process::executable_identity(process.pid)? != done.identity {
        crate::log::error(&format!("container {}: process {} raced its own exec and was killed", process.container.id, process.inner));
        let _ = process::kill(process.pid.0, libc::SIGKILL);
        return Err(Errno::ESRCH);
    }
    // The other threads are gone, and the one that called has the process's number now.
    let threads = std::mem::take(&mut *process.threads.lock());
    let survivor = threads.iter().find(|thread| thread.tid == done.thread).or(threads.first()).cloned().ok_or(Errno::ESRCH)?;
    {
        let mut known = super::kernel().threads.write();
        for thread in &threads {
            known.remove(&thread.tid);
        }
    }
    for thread in &threads {
        if !Arc::ptr_eq(thread, &survivor) {
            let parked = thread.parked.lock().take();
            if let Some(parked) = parked {
                parked.cancel();
            }
        }
    }
    super::posix_timer::delete_all(process);
    let descriptors = survivor.descriptors.read().clone();
    // A table that others share stays theirs (execve(2)); one reference is ours here, one the thread's.
    let shared = Arc::strong_count(&descriptors) > 2 + threads.len().saturating_sub(1);
    let own = if shared { descriptors.fork() } else { descriptors };
    let closed = own.remove_close_on_exec();
    let context = survivor.context.read().clone();
    let leader = Arc::new(Thread {
        tid: process.pid,
        inner: process.inner,
        process: Arc::downgrade(process),
        credentials: crate::sync::RwLock::new(done.credentials.clone()),
        context: crate::sync::RwLock::new(context),
        descriptors: crate::sync::RwLock::new(own),
        name: crate::sync::Mutex::new(done.name),
        parked: crate::sync::Mutex::new(None),
        wait_mask: crate::sync::Mutex::new(None),
        forks: crate::sync::Mutex::new(Vec::new()),
        keep_capabilities: std::sync::atomic::AtomicBool::new(false),
    });
    process.threads.lock().push(leader.clone());
    super::kernel().threads.write().insert(process.pid, leader);
    *process.executable.write() = Some(done.executable);
    process.executed.store(true, Ordering::Relaxed);
    let same = done.credentials.euid == done.credentials.uid && done.credentials.egid == done.credentials.gid;
    process.dumpable.store(i32::from(same), Ordering::Relaxed);
    drop(closed);
    // Whoever still knows one of them, say a worker that served it last, must not keep its files open with it.
    for thread in &threads {
        super::exit::drop_state(thread);
    }
    drop(threads);
    drop(done.shown);
    Ok(())
}

/// A host file of ours to plant: any regular one does; it is never used.
pub fn planted_file() -> Result<&'static OwnedFd> {
    static FILE: std::sync::OnceLock<OwnedFd> = std::sync::OnceLock::new();
    if FILE.get().is_none() {
        let file = nix::sys::memfd::memfd_create(c"planted", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        let _ = FILE.set(file);
    }
    let file = FILE.get().ok_or(Errno::ENOMEM)?;
    Ok(file)
}
