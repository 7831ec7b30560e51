//! From `bulkhead` to a fresh process in namespaces of its own.
//!
//! Between clone and execve the child is a copy of a process with threads: it only makes plain system calls on what was prepared before.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

use super::{Inherited, LaunchError, Network, Options, Process, Words};

/// The namespaces that the process is born in. Its cgroup namespace it makes itself, once it has joined its cgroups.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

/// Where the new process finds the socket for its word; 0 to 2 are /dev/null, with errors to [`Options::errors`] where there is one.
const WORDS: RawFd = 3;
/// Where it finds what it was given.
const FIRST: RawFd = 4;

/// Takes what [`super::prepare`] left: `count` descriptors. `None` where somebody else started this process. To be called once, before anything is opened.
pub fn inherited(count: usize) -> Option<Inherited> {
    let arguments = std::env::args().skip(2).collect();
    let own = |number: RawFd| {
        // SAFETY: fcntl(2) takes any number, and fails for one that is not open.
        if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return None;
        }
        // SAFETY: `launch` put a descriptor there for us alone; it is taken once. Unsafe, because an inherited descriptor is known by its number alone.
        Some(unsafe { OwnedFd::from_raw_fd(number) })
    };
    let words = Words(UnixStream::from(own(WORDS)?));
    let descriptors = (0..count).map(|index| own(FIRST + index as RawFd)).collect::<Option<Vec<OwnedFd>>>()?;
    Some(Inherited { arguments, descriptors, words })
}

/// A process that waits before its execve. Dropped without [`Held::release`], it ends; so it does when this process dies.
#[derive(Debug)]
pub(super) struct Held {
    pub process: Process,
    /// Our end of the pipe that it reads: a byte lets it go, the end of the stream ends it.
    go: OwnedFd,
}

impl Held {
    /// Lets the process go. One that has ended before can not be let go (`EPIPE`, the only error of a fresh pipe): what it has said, or that it has said
    /// nothing, tells that as well as for one that ends later.
    pub fn release(self) -> Process {
        let _ = nix::unistd::write(&self.go, b"\n");
        self.process
    }

    /// Ends the process.
    fn abandon(self) {
        drop(self.go);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.process.pid), None);
    }
}

/// Kills a process and reaps it.
pub(super) fn end(process: &Process) {
    let information: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null information is allowed: the host fills it in as kill(2) would. By the handle, so that no other process is meant.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.pidfd.as_raw_fd(), libc::SIGKILL, information, 0) };
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(process.pid), None);
}

/// Everything that the child needs, made before the clone.
struct Child {
    null: OwnedFd,
    errors: Option<OwnedFd>,
    words: UnixStream,
    cgroups: Vec<OwnedFd>,
    go: OwnedFd,
    /// The child's copy of the pipe's other end, by number: while it is open here, the stream has no end.
    held: RawFd,
    binary: OwnedFd,
    descriptors: Vec<OwnedFd>,
    /// Where the descriptors wait while the low numbers are filled; as long as they are.
    away: Vec<RawFd>,
    /// Behind the null-terminated array of addresses that execve(2) takes.
    arguments: Vec<CString>,
    addresses: Vec<*const libc::c_char>,
}

/// Makes the process, which waits to be released. Runs on a thread whose network namespace may change.
pub(super) fn launch(options: Options, words: UnixStream) -> Result<Held, LaunchError> {
    let mut flags = NAMESPACES | libc::CLONE_PIDFD | libc::SIGCHLD;
    match options.network {
        Network::Inherited => {}
        Network::Entered(network) => host("entering the network namespace", nix::sched::setns(network, CloneFlags::CLONE_NEWNET))?,
        Network::Empty => flags |= libc::CLONE_NEWNET,
    }
    let open = |path: &str, flags: OFlag| nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty());
    let binary = host("opening this binary", open("/proc/self/exe", OFlag::O_PATH))?;
    let null = host("opening /dev/null", open("/dev/null", OFlag::O_RDWR))?;
    let (go, held) = host("making a pipe", nix::unistd::pipe2(OFlag::O_CLOEXEC))?;
    let away = vec![-1; options.descriptors.len()];
    let other_end = held.as_raw_fd();
    let (errors, cgroups, descriptors, arguments) = (options.errors, options.cgroups, options.descriptors, options.arguments);
    let addresses = arguments.iter().map(|argument| argument.as_ptr()).chain([std::ptr::null()]).collect();
    let child = Child { null, errors, words, cgroups, go, held: other_end, binary, descriptors, away, arguments, addresses };
    let mut pidfd: RawFd = -1;
    // SAFETY: without CLONE_VM this is fork(2); the child, in which only this thread exists, makes only the plain calls of `Child::run`.
    // The host writes the pidfd's number into `pidfd`, which lives through the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &mut pidfd, 0, 0) } as i32;
    if pid == 0 {
        child.run();
    }
    if pid < 0 {
        return Err(LaunchError::Host("cloning into new namespaces", std::io::Error::last_os_error()));
    }
    // SAFETY: the host has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let held = Held { process: Process { pid, pidfd }, go: held };
    match equip(pid, &options.limits, options.out_of_memory) {
        Ok(()) => Ok(held),
        Err(error) => {
            held.abandon();
            Err(error)
        }
    }
}

fn host<T, E: Into<std::io::Error>>(what: &'static str, result: Result<T, E>) -> Result<T, LaunchError> {
    result.map_err(|error| LaunchError::Host(what, error.into()))
}

/// What only the host's root can do for it: id maps, limits, its place when memory runs out.
fn equip(pid: i32, limits: &[(libc::__rlimit_resource_t, u64)], out_of_memory: i32) -> Result<(), LaunchError> {
    for file in ["uid_map", "gid_map"] {
        host("writing its id maps", std::fs::write(format!("/proc/{pid}/{file}"), "0 0 4294967295"))?;
    }
    for &(resource, value) in limits {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: `limit` lives through the call; the old value is not asked for. A host that does not let us raise a limit leaves
        // the lower one.
        unsafe { libc::prlimit(pid, resource, &limit, std::ptr::null_mut()) };
    }
    // Only who has CAP_SYS_RESOURCE on the host may lower the value: elsewhere it stays, and whoever is to go first has the highest there is.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), out_of_memory.to_string());
    Ok(())
}

impl Child {
    /// From the clone to the execve.
    fn run(mut self) -> ! {
        let step = match self.prepare() {
            Ok(()) => "executing this binary",
            Err(step) => step,
        };
        let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        // No allocation here: the number alone.
        let digits = [b'0' + (error / 100 % 10) as u8, b'0' + (error / 10 % 10) as u8, b'0' + (error % 10) as u8, b'\n'];
        for part in [step.as_bytes(), b": errno ", &digits] {
            let _ = (&self.words).write_all(part);
        }
        // SAFETY: ends this process; what belongs to its parent's half of the fork is not run.
        unsafe { libc::_exit(1) }
    }

    /// Joins, waits, arranges descriptors, executes. Gives what failed; `errno` says why.
    fn prepare(&mut self) -> Result<(), &'static str> {
        let check = |result: libc::c_long, step: &'static str| if result < 0 { Err(step) } else { Ok(result as RawFd) };
        // The first number that the new program is not to find open: above every one that is placed.
        let free = FIRST + self.descriptors.len() as RawFd;
        debug_assert_eq!(self.addresses.len(), self.arguments.len() + 1);
        // SAFETY: plain system calls on descriptors that `self` owns and on buffers that live through each
        // call (`addresses` are those of `arguments`, and end with a null); nothing in this process uses the descriptors that are overwritten or closed.
        // Needed: nothing here may allocate.
        unsafe {
            libc::close(self.held);
            for cgroup in &self.cgroups {
                check(libc::write(cgroup.as_raw_fd(), b"0".as_ptr().cast(), 1) as libc::c_long, "joining a cgroup")?;
            }
            let mut byte = 0u8;
            if libc::read(self.go.as_raw_fd(), (&raw mut byte).cast(), 1) != 1 {
                return Err("waiting for the id maps");
            }
            check(libc::setsid().into(), "setsid")?;
            check(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWCGROUP), "making a cgroup namespace")?;
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            let away = |fd: RawFd| check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, free).into(), "moving a descriptor");
            let null = away(self.null.as_raw_fd())?;
            let errors = match &self.errors {
                Some(errors) => away(errors.as_raw_fd())?,
                None => null,
            };
            let words = away(self.words.as_raw_fd())?;
            let binary = away(self.binary.as_raw_fd())?;
            for (place, descriptor) in self.away.iter_mut().zip(&self.descriptors) {
                *place = away(descriptor.as_raw_fd())?;
            }
            for (from, to) in [(null, 0), (null, 1), (errors, 2), (words, WORDS)] {
                check(libc::dup2(from, to).into(), "placing a descriptor")?;
            }
            for (from, to) in self.away.iter().zip(FIRST..) {
                check(libc::dup2(*from, to).into(), "placing a descriptor")?;
            }
            check(libc::syscall(libc::SYS_close_range, free, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC), "closing descriptors")?;
            let environment: [*const libc::c_char; 1] = [std::ptr::null()];
            libc::syscall(libc::SYS_execveat, binary, c"".as_ptr(), self.addresses.as_ptr(), environment.as_ptr(), libc::AT_EMPTY_PATH);
        }
        Ok(())
    }
}
