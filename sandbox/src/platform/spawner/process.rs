//! The spawner's own life, and its children's up to their execve.
//!
//! It shuts itself in, installs the workload filter, then clones on request. Everything that all children have in common is
//! done here once and inherited; a child does what differs, drops its identity, and executes.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use caps::Capability;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::request::{LONGEST, SpawnRequest};
use super::{Shared, futex_wake};
use crate::errno::{Errno, Result};
use crate::platform::capabilities;
use crate::platform::{filter, notify};

/// What the spawner keeps, and why. Its children drop these too, before their execve.
pub const CAPABILITIES: &[(Capability, &str)] = &[
    (Capability::CAP_SYS_ADMIN, "clone(2) and setns(2) of PID namespaces"),
    (Capability::CAP_SYS_CHROOT, "the container's directory of executables becomes a child's root"),
    (Capability::CAP_SETUID, "a child drops its user"),
    (Capability::CAP_SETGID, "a child drops its groups"),
];

/// The user and group that every workload process has on the host (`nobody` and `nogroup`, by Debian's names).
const NOBODY: u32 = 65534;

/// What a child does, in order: for naming the one that failed.
pub(super) const STEPS: &[&str] = &[
    "start a session",
    "set its limits",
    "enter its root",
    "drop its groups",
    "drop its group",
    "drop its user",
    "drop its capabilities",
    "close its descriptors",
    "install its seccomp profile",
];

/// The spawner's main function.
pub(super) fn run(socket: UnixStream, shared: &'static Shared, exec_roots: &str) -> ! {
    match prepare(exec_roots, &socket).and_then(|()| notify::install(&filter::workload())) {
        Ok(listener) => {
            shared.listener.store(listener.as_raw_fd(), Ordering::SeqCst);
            futex_wake(&shared.listener);
            // From here on every call but the direct set waits for the kernel, which takes its copy of the listener before it
            // answers any; this copy may go.
            drop(listener);
        }
        Err(error) => {
            shared.listener.store(-error.0 - 1, Ordering::SeqCst);
            futex_wake(&shared.listener);
            exit(1);
        }
    }
    let _ = serve(socket, shared);
    exit(0)
}

fn exit(status: i32) -> ! {
    // SAFETY: ends the process; nothing of it is needed any more, and destructors of the kernel process's state must not run.
    unsafe { libc::_exit(status) }
}

/// Everything that all workload processes have in common.
fn prepare(exec_roots: &str, socket: &UnixStream) -> Result<()> {
    close_all_but(socket);
    // Whatever the kernel process ignores or blocks, programs begin with the default.
    for signal in 1..=64 {
        // SAFETY: the default action has no handler. Fails for SIGKILL, SIGSTOP and libc's own two, which have it already.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    nix::unistd::setsid()?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)?;
    nix::unistd::chroot(exec_roots)?;
    nix::unistd::chdir("/")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // Donated descriptors sit at the workload's own numbers; what it may open is this kernel's business.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    // 1 and not 0: a core_pattern with a pipe hands the workload's bytes to a program of the host at 0 too, and never at 1.
    setrlimit(Resource::RLIMIT_CORE, 1, 1)?;
    capabilities::keep_only(CAPABILITIES)?;
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::prctl::set_name(c"bulkhead-spawn")?;
    Ok(())
}

/// Makes processes until the kernel's end closes.
fn serve(socket: UnixStream, shared: &'static Shared) -> Result<()> {
    let own = super::pidfd_open(crate::kernel::task::Pid(std::process::id() as i32))?;
    loop {
        let (body, joined) = receive(&socket)?;
        let made = SpawnRequest::decode(&body).and_then(|request| make(&request, joined, &own, shared));
        drop(body);
        let reply = match made {
            Ok(pid) => pid,
            Err(error) => -error.0,
        };
        nix::unistd::write(&socket, &reply.to_le_bytes())?;
    }
}

/// One request. An end of the stream is `EPIPE`.
fn receive(socket: &UnixStream) -> Result<(Vec<u8>, Option<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut head = [0u8; 8];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut vectors = [std::io::IoSliceMut::new(&mut head)];
    let flags = MsgFlags::MSG_WAITALL | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut vectors, Some(&mut space), flags)?;
    let mut pidfd = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the host has just put these descriptors into our table; nobody else owns them.
            pidfd = numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).next_back();
        }
    }
    if message.bytes < 8 {
        return Err(Errno::EPIPE);
    }
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if length > LONGEST {
        return Err(Errno::E2BIG);
    }
    let mut body = vec![0u8; length];
    std::io::Read::read_exact(&mut &*socket, &mut body)?;
    Ok((body, pidfd))
}

/// Clones. Gives the child's number in this namespace, which is the kernel process's.
fn make(request: &SpawnRequest, joined: Option<OwnedFd>, own: &OwnedFd, shared: &'static Shared) -> Result<i32> {
    let prepared = Prepared::new(request)?;
    // CLONE_PARENT: the kernel process is the parent, and is sent SIGCHLD as it would be for its own children.
    let mut flags = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID;
    match &joined {
        Some(pidfd) => setns(pidfd, CloneFlags::CLONE_NEWPID)?,
        None => flags |= libc::CLONE_NEWPID,
    }
    // SAFETY: without CLONE_VM this is fork(2): the child has a copy of this process, which has one thread. The host writes
    // the child's number into the shared page, which is never unmapped.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, shared.child.as_ptr(), 0, 0) };
    if child == 0 {
        prepared.run(shared);
    }
    let result = if child < 0 { Err(Errno::last()) } else { Ok(child as i32) };
    if joined.is_some() {
        setns(own, CloneFlags::CLONE_NEWPID)?;
    }
    result
}

/// A request in the form that the child needs: made before the clone, so that the child allocates nothing.
struct Prepared<'a> {
    request: &'a SpawnRequest,
    root: CString,
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Prepared<'_> {
    fn new(request: &SpawnRequest) -> Result<Prepared<'_>> {
        let string = |bytes: &Vec<u8>| CString::new(bytes.clone()).map_err(|_| Errno::EINVAL);
        Ok(Prepared {
            request,
            root: string(&request.exec_root.clone().into_bytes())?,
            path: string(&request.path)?,
            arguments: request.arguments.iter().map(string).collect::<Result<_>>()?,
            environment: request.environment.iter().map(string).collect::<Result<_>>()?,
        })
    }

    /// The child's life up to its execve.
    fn run(&self, shared: &Shared) -> ! {
        let steps: [fn(&Self) -> Result<()>; 9] = [
            |_| Ok(nix::unistd::setsid().map(drop)?),
            Self::limit,
            |own| {
                nix::unistd::chroot(own.root.as_c_str())?;
                Ok(nix::unistd::chdir("/")?)
            },
            |_| Ok(nix::unistd::setgroups(&[])?),
            |_| Ok(nix::unistd::setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into())?),
            // Clears the effective and permitted sets as well: from root to somebody else (capabilities(7)).
            |_| Ok(nix::unistd::setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into())?),
            // Explicitly: nothing rests on what setresuid(2) does as a side effect.
            |_| capabilities::set(0),
            |_| close_everything(),
            |own| own.request.profiles.iter().try_for_each(|profile| notify::restrict(&profile.program, profile.flags)),
        ];
        for (index, step) in steps.iter().enumerate() {
            if let Err(error) = step(self) {
                shared.step.store(index as i32, Ordering::SeqCst);
                shared.errno.store(error.0, Ordering::SeqCst);
                exit(125);
            }
        }
        let error = match nix::unistd::execve(&self.path, &self.arguments, &self.environment) {
            Err(error) => error,
            Ok(never) => match never {},
        };
        exit(if error == nix::errno::Errno::ENOENT { 127 } else { 126 })
    }

    fn limit(&self) -> Result<()> {
        for &(resource, soft, hard) in &self.request.limits {
            if [libc::RLIMIT_NOFILE, libc::RLIMIT_CORE].contains(&resource) {
                continue;
            }
            let raw = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: `raw` lives through the call. Needed: resources come as numbers.
            if unsafe { libc::setrlimit(resource, &raw) } < 0 {
                return Err(Errno::last());
            }
        }
        Ok(())
    }
}

/// Workloads have no native descriptors but those that are donated.
fn close_everything() -> Result<()> {
    // SAFETY: nothing in this process uses a descriptor after this; it executes another program or exits.
    if unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// Lets go of the kernel process's half of the fork, the standard descriptors among it.
fn close_all_but(kept: &UnixStream) {
    let kept = kept.as_raw_fd() as libc::c_uint;
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first <= last {
            // SAFETY: nothing in this process uses these descriptors: they are the kernel process's.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    };
    if kept > 0 {
        close(0, kept - 1);
    }
    close(kept + 1, libc::c_uint::MAX);
}
