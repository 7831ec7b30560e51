//! From `bulkhead` to a fresh process in namespaces of its own.
//!
//! Between clone and execve the child is a copy of a process with threads: it only makes plain system calls on what was prepared before.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;

use super::{ARGUMENT, BootError, Sandbox, SpawnOptions};

/// The namespaces that the process is born in. Its cgroup namespace it makes itself, once it has joined its cgroups.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

/// Where the new process finds what it was given; 0 to 2 are /dev/null, with errors to the log where there is one.
const CONTROL: RawFd = 3;
const SYNC: RawFd = 4;
const FIRST_FREE: RawFd = 5;
/// Above every number used above: where descriptors wait while the low numbers are filled.
const AWAY: RawFd = 64;

/// What the binary was started with.
pub(super) struct Inherited {
    pub control: OwnedFd,
    pub log: Option<OwnedFd>,
    pub json: bool,
    pub debug: bool,
}

/// Takes what [`launch`] left. `None` where somebody else started this.
pub(super) fn inherited() -> Option<(Inherited, UnixStream)> {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [log, json, debug] = arguments.as_slice() else { return None };
    let own = |number: RawFd| {
        // SAFETY: `launch` put a descriptor there for us alone; it is taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).ok().map(|_| fd)
    };
    let log = match log.as_str() {
        "log" => std::io::stderr().as_fd().try_clone_to_owned().ok(),
        _ => None,
    };
    let inherited = Inherited { control: own(CONTROL)?, log, json: json == "json", debug: debug == "debug" };
    Some((inherited, UnixStream::from(own(SYNC)?)))
}

/// A process that waits before its execve. Dropped without [`Held::release`], it ends; so it does when this process dies.
pub(super) struct Held {
    pub sandbox: Sandbox,
    /// Our end of the pipe that it reads: a byte lets it go, the end of the stream ends it.
    go: OwnedFd,
}

impl Held {
    /// Lets the process go.
    pub fn release(self) -> Result<Sandbox, BootError> {
        host("letting the process go", nix::unistd::write(&self.go, b"\n"))?;
        Ok(self.sandbox)
    }

    /// Ends the process.
    pub fn abandon(self) {
        drop(self.go);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.sandbox.pid), None);
    }
}

/// Everything that the child needs, made before the clone.
struct Child {
    null: OwnedFd,
    log: Option<OwnedFd>,
    control: OwnedFd,
    sync: UnixStream,
    cgroups: Vec<OwnedFd>,
    go: OwnedFd,
    /// The child's copy of the pipe's other end, by number: while it is open here, the stream has no end.
    held: RawFd,
    binary: OwnedFd,
    arguments: Vec<CString>,
}

/// Makes the process, which waits to be released. Runs on a thread whose network namespace may change.
pub(super) fn launch(options: SpawnOptions, sync: UnixStream) -> Result<Held, BootError> {
    if let Some(network) = options.network {
        host("entering the network namespace", nix::sched::setns(network, CloneFlags::CLONE_NEWNET))?;
    }
    let open = |path: &str, flags: OFlag| nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty());
    let binary = host("opening this binary", open("/proc/self/exe", OFlag::O_PATH))?;
    let null = host("opening /dev/null", open("/dev/null", OFlag::O_RDWR))?;
    let (go, held) = host("making a pipe", nix::unistd::pipe2(OFlag::O_CLOEXEC))?;
    let log = if options.log.is_some() { c"log" } else { c"-" };
    let format = if options.log_format_json { c"json" } else { c"text" };
    let level = if options.debug { c"debug" } else { c"info" };
    let own_name = CString::new(ARGUMENT).unwrap_or_default();
    let arguments = [c"bulkhead-sandbox", &own_name, log, format, level].map(CString::from).to_vec();
    let (control, cgroups, other_end) = (options.control, options.cgroups, held.as_raw_fd());
    let child = Child { null, log: options.log, control, sync, cgroups, go, held: other_end, binary, arguments };
    let mut pidfd: RawFd = -1;
    let flags = NAMESPACES | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is fork(2); the child, in which only this thread exists, makes only the plain calls of `Child::run`.
    // The host writes the pidfd's number into `pidfd`, which lives through the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &mut pidfd, 0, 0) } as i32;
    if pid == 0 {
        child.run();
    }
    if pid < 0 {
        return Err(BootError::Host("cloning into new namespaces", std::io::Error::last_os_error()));
    }
    // SAFETY: the host has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let held = Held { sandbox: Sandbox { pid, pidfd }, go: held };
    match equip(pid) {
        Ok(()) => Ok(held),
        Err(error) => {
            held.abandon();
            Err(error)
        }
    }
}

fn host<T, E: Into<std::io::Error>>(what: &'static str, result: Result<T, E>) -> Result<T, BootError> {
    result.map_err(|error| BootError::Host(what, error.into()))
}

/// What only the host's root can do for it: id maps, limits, its place when memory runs out.
fn equip(pid: i32) -> Result<(), BootError> {
    for file in ["uid_map", "gid_map"] {
        host("writing its id maps", std::fs::write(format!("/proc/{pid}/{file}"), "0 0 4294967295"))?;
    }
    // The most that the host lets any process have open: every file of every workload process is open here as well.
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1 << 20);
    let none = libc::RLIM_INFINITY;
    let limits = [
        (libc::RLIMIT_NOFILE, most),
        (libc::RLIMIT_NPROC, none),
        (libc::RLIMIT_MEMLOCK, none),
        (libc::RLIMIT_AS, none),
        (libc::RLIMIT_DATA, none),
        (libc::RLIMIT_FSIZE, none),
        (libc::RLIMIT_CPU, none),
        (libc::RLIMIT_SIGPENDING, none),
        (libc::RLIMIT_CORE, 1),
    ];
    for (resource, value) in limits {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: `limit` lives through the call; the old value is not asked for. A host that does not let us raise a limit leaves
        // the lower one.
        unsafe { libc::prlimit(pid, resource, &limit, std::ptr::null_mut()) };
    }
    // It outlives its workload (`kernel::oom`), whose memory it holds. Only who has CAP_SYS_RESOURCE on the host may lower the value: elsewhere it stays, and
    // the workload's is the highest there is.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "-999");
    Ok(())
}

impl Child {
    /// From the clone to the execve.
    fn run(self) -> ! {
        let step = match self.prepare() {
            Ok(()) => "executing this binary",
            Err(step) => step,
        };
        let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        // No allocation here: the number alone.
        let digits = [b'0' + (error / 100 % 10) as u8, b'0' + (error / 10 % 10) as u8, b'0' + (error % 10) as u8, b'\n'];
        for part in [step.as_bytes(), b": errno ", &digits] {
            let _ = (&self.sync).write_all(part);
        }
        // SAFETY: ends this process; what belongs to its parent's half of the fork is not run.
        unsafe { libc::_exit(1) }
    }

    /// Joins, waits, arranges descriptors, executes. Gives what failed; `errno` says why.
    fn prepare(&self) -> Result<(), &'static str> {
        let check = |result: libc::c_long, step: &'static str| if result < 0 { Err(step) } else { Ok(result as RawFd) };
        // SAFETY: plain system calls on descriptors that `self` owns and on buffers that live through each
        // call; nothing in this process uses the descriptors that are overwritten or closed. Needed: nothing here may allocate.
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
            let away = |fd: RawFd| check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, AWAY).into(), "moving a descriptor");
            let null = away(self.null.as_raw_fd())?;
            let errors = match &self.log {
                Some(log) => away(log.as_raw_fd())?,
                None => null,
            };
            let (control, sync) = (away(self.control.as_raw_fd())?, away(self.sync.as_raw_fd())?);
            let binary = away(self.binary.as_raw_fd())?;
            for (from, to) in [(null, 0), (null, 1), (errors, 2), (control, CONTROL), (sync, SYNC)] {
                check(libc::dup2(from, to).into(), "placing a descriptor")?;
            }
            check(libc::syscall(libc::SYS_close_range, FIRST_FREE, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC), "closing descriptors")?;
            let mut arguments = [std::ptr::null(); 8];
            for (slot, argument) in arguments.iter_mut().zip(&self.arguments) {
                *slot = argument.as_ptr();
            }
            let environment: [*const libc::c_char; 1] = [std::ptr::null()];
            libc::syscall(libc::SYS_execveat, binary, c"".as_ptr(), arguments.as_ptr(), environment.as_ptr(), libc::AT_EMPTY_PATH);
        }
        Ok(())
    }
}
