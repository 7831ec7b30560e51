//! How the kernel process comes to be.
//!
//! [`spawn`] runs in `bulkhead`, as root on the host. It re-executes the binary, which runs [`main`]:
//!
//! 1. as host root: join the cgroups, enter the pod's network namespace, leave into new user, mount, PID, UTS, IPC and cgroup namespaces;
//!    the parent writes the id maps (every id to itself: ownership on disk stays what it is, power outside is gone);
//! 2. fork: the child is PID 1 of the new PID namespace. When it dies, every process in it dies ([`init`]);
//! 3. build a tree of its own on a tmpfs, pivot into it, and let go of the host's;
//! 4. fork the spawner, drop what is not needed, confine, start the threads, serve the control protocol.
//!
//! Until the child says "ready" over a socket, [`spawn`] waits; a failure comes back as text.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;

use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use crate::kernel::task::Pid;
use crate::platform::process;

pub mod init;
mod tree;

/// What the kernel process is started with.
pub struct SpawnOptions {
    /// The listening control socket.
    pub control: OwnedFd,
    /// Where log lines go.
    pub log: Option<OwnedFd>,
    /// Log lines in JSON.
    pub log_format_json: bool,
    /// Log more.
    pub debug: bool,
    /// The pod's network namespace; `None` for the caller's own.
    pub network: Option<OwnedFd>,
    /// Open `cgroup.procs` files: the process writes itself into them before anything else.
    pub cgroups: Vec<OwnedFd>,
}

/// A running kernel process.
pub struct Sandbox {
    /// Its number on the host.
    pub pid: i32,
    /// A handle on it.
    pub pidfd: OwnedFd,
}

/// Why a kernel process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The host refused something.
    #[error("starting the sandbox: {0}")]
    Host(#[from] std::io::Error),
    /// The new process said what it could not do.
    #[error("starting the sandbox: {0}")]
    Failed(String),
}

/// The argument that makes the binary become a kernel process.
pub const ARGUMENT: &str = "sandbox-kernel";

/// The descriptors' numbers in the new process.
#[derive(Serialize, Deserialize)]
struct Plan {
    sync: i32,
    control: i32,
    log: Option<i32>,
    json: bool,
    debug: bool,
    network: Option<i32>,
    cgroups: Vec<i32>,
}

/// Starts a kernel process and waits until it serves.
pub fn spawn(options: SpawnOptions) -> Result<Sandbox, BootError> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut inherited = vec![theirs.as_raw_fd(), options.control.as_raw_fd()];
    inherited.extend(options.log.iter().chain(&options.network).chain(&options.cgroups).map(AsRawFd::as_raw_fd));
    let plan = Plan {
        sync: theirs.as_raw_fd(),
        control: options.control.as_raw_fd(),
        log: options.log.as_ref().map(AsRawFd::as_raw_fd),
        json: options.log_format_json,
        debug: options.debug,
        network: options.network.as_ref().map(AsRawFd::as_raw_fd),
        cgroups: options.cgroups.iter().map(AsRawFd::as_raw_fd).collect(),
    };
    let plan = serde_json::to_string(&plan).map_err(std::io::Error::from)?;
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("bulkhead-sandbox").arg(ARGUMENT).arg(plan).env_clear().current_dir("/");
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    // SAFETY: between fork and exec the closure makes only fcntl calls on descriptors that live until `spawn` below returns.
    unsafe {
        command.pre_exec(move || {
            for fd in &inherited {
                let fd = BorrowedFd::borrow_raw(*fd);
                nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
            }
            Ok(())
        });
    }
    let mut first = command.spawn()?;
    drop(theirs);
    let outcome = attend(&mut ours, first.id());
    // The first process only makes the second, and ends.
    first.wait()?;
    outcome
}

/// The parent's side of the start.
fn attend(sync: &mut UnixStream, first: u32) -> Result<Sandbox, BootError> {
    expect(sync, "unshared")?;
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{first}/{file}"), "0 0 4294967295")?;
    }
    sync.write_all(b"\n")?;
    let pid = line(sync)?;
    let pid: i32 = pid.strip_prefix("pid ").and_then(|pid| pid.parse().ok()).ok_or(BootError::Failed(pid))?;
    let pidfd = process::pidfd_open(Pid(pid)).map_err(|error| std::io::Error::from_raw_os_error(error.0))?;
    match expect(sync, "ready") {
        Ok(()) => Ok(Sandbox { pid, pidfd }),
        Err(error) => {
            let _ = process::kill(pid, libc::SIGKILL);
            Err(error)
        }
    }
}

fn expect(sync: &mut UnixStream, word: &str) -> Result<(), BootError> {
    let said = line(sync)?;
    if said == word { Ok(()) } else { Err(BootError::Failed(said)) }
}

fn line(sync: &mut UnixStream) -> Result<String, BootError> {
    let mut text = Vec::new();
    let mut byte = [0u8];
    while sync.read(&mut byte)? == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    if text.is_empty() {
        text.extend_from_slice(b"the process ended without a word");
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Becomes a kernel process: the body of the re-executed binary. Never returns.
pub fn main() -> ! {
    let plan = std::env::args().nth(2).and_then(|plan| serde_json::from_str::<Plan>(&plan).ok());
    let Some(plan) = plan else {
        eprintln!("bulkhead: {ARGUMENT} is started by bulkhead itself");
        std::process::exit(1);
    };
    let mut sync = UnixStream::from(own(plan.sync));
    let error = run(plan, &mut sync).err().unwrap_or_default();
    let _ = writeln!(sync, "{error}");
    std::process::exit(1);
}

/// Takes over an inherited descriptor.
fn own(number: i32) -> OwnedFd {
    // SAFETY: the parent passed this number for us alone, and it is taken once.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    let _ = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC));
    fd
}

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}

/// Stage 1, as host root.
fn run(plan: Plan, sync: &mut UnixStream) -> Result<(), String> {
    for cgroup in &plan.cgroups {
        let mut file = std::fs::File::from(own(*cgroup));
        file.write_all(b"0").map_err(failed("joining the cgroup"))?;
    }
    if let Some(network) = plan.network {
        nix::sched::setns(own(network), CloneFlags::CLONE_NEWNET).map_err(failed("entering the network namespace"))?;
    }
    let namespaces = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    nix::sched::unshare(namespaces).map_err(failed("making namespaces"))?;
    sync.write_all(b"unshared\n").map_err(failed("speaking to the parent"))?;
    sync.read_exact(&mut [0u8]).map_err(failed("waiting for the id maps"))?;
    // SAFETY: one thread: the child may go on as a whole program.
    match unsafe { nix::unistd::fork() }.map_err(failed("forking init"))? {
        nix::unistd::ForkResult::Parent { child } => {
            writeln!(sync, "pid {child}").map_err(failed("speaking to the parent"))?;
            std::process::exit(0);
        }
        nix::unistd::ForkResult::Child => init::run(own(plan.control), plan.log.map(own), plan.json, sync),
    }
}
