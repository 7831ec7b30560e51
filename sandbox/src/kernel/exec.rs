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

use super::adopt;
use super::credentials::{Capabilities, Capability, Credentials};
use super::elf::{self, Program};
use super::task::{Executable, Holds, Pid, Process, Thread};
use crate::errno::{Errno, Result};
use crate::platform::dispatch::dispatcher;
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
    /// Whether others of its user may look into it.
    pub dumpable: bool,
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
                let Transition { credentials, privileged, dumpable } = transition(call, &found.location)?;
                let executable = Arc::new(Executable { location: found.location, path: literal });
                return Ok(PendingExec {
                    thread: call.thread.tid,
                    executable,
                    identity,
                    credentials: Arc::new(credentials),
                    name: name_of(path),
                    shown,
                    privileged,
                    dumpable,
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

/// What a program makes of its caller's identity.
struct Transition {
    credentials: Credentials,
    /// It has more rights than its caller: see [`crate::platform::exec_stop`].
    privileged: bool,
    dumpable: bool,
}

/// The identity that a program runs with (capabilities(7), "Transformation of capabilities during execve()"), and whether it
/// has more rights than its caller.
fn transition(call: &Call, location: &Location) -> Result<Transition> {
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
    let root = after.securebits & NO_ROOT == 0 && (after.euid == 0 || after.uid == 0);
    let effective = root && after.euid == 0;
    after.permitted = if root { before.bounding.union(before.inheritable) } else { Capabilities::NONE };
    // From here on as cap_bprm_creds_from_file() in security/commoncap.c has it.
    let gained = |after: &Credentials| after.permitted.difference(before.permitted) != Capabilities::NONE;
    let changed = after.euid != before.euid || !before.in_group(after.egid);
    if (changed || gained(&after)) && (before.no_new_privs || is_unsafe(call)?) {
        if !before.capable(Capability::Setuid) || before.no_new_privs {
            after.euid = after.uid;
            after.egid = after.gid;
        }
        after.permitted = after.permitted.intersection(before.permitted);
    }
    after.suid = after.euid;
    after.fsuid = after.euid;
    after.sgid = after.egid;
    after.fsgid = after.egid;
    after.ambient = if changed { Capabilities::NONE } else { before.ambient };
    after.permitted = after.permitted.union(after.ambient);
    after.effective = if effective { after.permitted } else { after.ambient };
    after.securebits &= !KEEP;
    let grew = effective || after.permitted.difference(after.ambient) != Capabilities::NONE;
    let privileged = changed || after.euid != before.uid || after.egid != before.gid || (after.uid != 0 && grew);
    // commit_creds() in kernel/cred.c, would_dump() in fs/exec.c.
    let moved = (before.euid, before.egid, before.fsuid, before.fsgid) != (after.euid, after.egid, after.fsuid, after.fsgid);
    let readable = attributes.mode & 0o444 == 0o444 || location.node.access(Permission::READ, &before).is_ok();
    let dumpable = readable && !moved && !gained(&after) && after.euid == after.uid && after.egid == after.gid;
    Ok(Transition { credentials: after, privileged, dumpable })
}

/// Whether the caller could reach into a program that has more rights than itself.
fn is_unsafe(call: &Call) -> Result<bool> {
    Ok(shares_context(call) || process::personality(call.thread.tid)? & UNSAFE_PERSONALITY != 0)
}

/// What Linux takes from a program that gains rights (`PER_CLEAR_ON_SETID` in linux/personality.h): `READ_IMPLIES_EXEC`, `ADDR_NO_RANDOMIZE`,
/// `ADDR_COMPAT_LAYOUT`, `MMAP_PAGE_ZERO`. The host does not see that it gains any, so here it does not.
const UNSAFE_PERSONALITY: u32 = 0x0040_0000 | 0x0004_0000 | 0x0020_0000 | 0x0010_0000;

/// Whether a process other than the caller's has the caller's root, working directory and umask (`CLONE_FS`): it could move them from under the program.
fn shares_context(call: &Call) -> bool {
    let context = call.thread.context.read().clone();
    let threads = call.process.threads.lock().clone();
    let own = threads.iter().filter(|thread| Arc::ptr_eq(&thread.context.read(), &context)).count();
    let starting = call.process.starting.lock().iter().filter(|snapshot| Arc::ptr_eq(&snapshot.context, &context)).count();
    Arc::strong_count(&context) > 1 + own + starting
}

/// Whether the host has done it: the planted descriptor is closed. Anything else says that it is under way, or has failed.
fn has_succeeded(process: &Process, pending: &PendingExec) -> bool {
    if !matches!(process::pidfd_getfd(&process.pidfd, PLANTED as i32), Err(Errno::EBADF)) {
        return false;
    }
    // A first thread that has exited shows no descriptors at all, while another one executes. Once that has succeeded, it has the first one's number.
    pending.thread == process.pid || !process::has_thread(process.pid, pending.thread)
}

/// Looks whether an exec in flight has happened. Called before any call of the process is served; `Err` means that
/// the process has been killed.
pub fn settle(process: &Arc<Process>, caller: Option<&Arc<Thread>>) -> Result<()> {
    let mut slot = process.exec.lock();
    let Some(pending) = slot.as_ref() else { return Ok(()) };
    // One that is held at its exec stop is completed there.
    if !has_succeeded(process, pending) || (pending.privileged && caller.is_none()) {
        // It failed, if the thread that called is back.
        if caller.is_some_and(|caller| caller.tid == pending.thread) {
            let failed = slot.take();
            drop(slot);
            drop(failed);
        }
        return Ok(());
    }
    if pending.privileged {
        // Only its supervisor may say what it has become, and has before the program's first call: it did not see this one.
        let _ = process::kill(process.pid.0, libc::SIGKILL);
        return Err(Errno::ESRCH);
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
        let _ = settle(&process, None);
    }
}

/// Notes an exec that the host will be let go on with. Of several threads that execute at once, the host takes one after the other: so here. `false`:
/// another one's has succeeded, and the caller is gone.
///
/// Errors: `EAGAIN` where another's is neither done nor failed after long.
pub fn enter(process: &Arc<Process>, pending: PendingExec) -> Result<bool> {
    /// Two seconds: an exec takes well under a millisecond, and whoever's fails makes a call next.
    const LOOKS: usize = 4000;
    for look in 0..LOOKS {
        {
            let mut slot = process.exec.lock();
            match slot.as_ref() {
                Some(other) if other.thread != pending.thread => {}
                _ => {
                    let before = slot.replace(pending);
                    drop(slot);
                    drop(before);
                    return Ok(true);
                }
            }
        }
        if look == 0 {
            dispatcher().heed();
        }
        std::thread::sleep(std::time::Duration::from_micros(500));
        settle(process, None)?;
        if process.exited.load(Ordering::SeqCst) || !process.threads.lock().iter().any(|thread| thread.tid == pending.thread) {
            return Ok(false);
        }
    }
    Err(Errno::EAGAIN)
}

/// The host runs the new program: makes it so here.
pub fn complete(process: &Arc<Process>, done: PendingExec) -> Result<()> {
    if process::executable_identity(process.pid) != Ok(done.identity) {
        crate::log::error(&format!("container {}: process {} raced its own exec and was killed", process.container.id, process.inner));
        let _ = process::kill(process.pid.0, libc::SIGKILL);
        return Err(Errno::ESRCH);
    }
    // The other threads are gone, and the one that called has the process's number now.
    let threads = process.threads.lock().clone();
    let survivor = threads.iter().find(|thread| thread.tid == done.thread).or(threads.first()).cloned().ok_or(Errno::ESRCH)?;
    adopt::settle(process, &threads);
    for thread in threads.iter().filter(|thread| !Arc::ptr_eq(thread, &survivor)) {
        let parked = thread.parked.lock().take();
        if let Some(parked) = parked {
            parked.cancel();
        }
    }
    super::posix_timer::delete_all(process);
    let descriptors = survivor.descriptors.read().clone();
    // A table that others share stays theirs (execve(2)): one reference is ours here, the rest may be this process's threads'.
    let own = threads.iter().filter(|thread| Arc::ptr_eq(&thread.descriptors.read(), &descriptors)).count();
    let own = if Arc::strong_count(&descriptors) > 1 + own { descriptors.fork() } else { descriptors };
    let closed = own.remove_close_on_exec();
    let context = survivor.context.read().clone();
    let holds = Holds { credentials: done.credentials, context, descriptors: own, name: done.name };
    let leader = Thread::new(process.pid, process.inner, process, holds);
    *process.threads.lock() = vec![leader.clone()];
    process.leaving.lock().clear();
    let starting = std::mem::take(&mut *process.starting.lock());
    {
        let mut known = super::kernel().threads.write();
        for thread in &threads {
            known.remove(&thread.tid);
        }
        known.insert(process.pid, leader);
    }
    *process.executable.write() = Some(done.executable);
    process.executed.store(true, Ordering::Relaxed);
    process.dumpable.store(i32::from(done.dumpable), Ordering::Relaxed);
    if done.privileged {
        process.minds_parent.store(false, Ordering::Relaxed);
    }
    for taken in closed {
        let _ = taken.file.file.flush();
    }
    drop(starting);
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
