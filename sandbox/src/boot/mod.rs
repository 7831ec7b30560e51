//! How the kernel process comes to be.
//!
//! 1. [`spawn`] runs in `bulkhead`, as root on the host, on a thread of its own, which enters the pod's network namespace and clones the
//!    new process straight into new user, mount, PID, UTS and IPC namespaces ([`launch`]). It writes the id maps (every id to itself:
//!    ownership on disk stays what it is, power outside is gone) and raises the limits that the pod's root may not raise.
//! 2. The new process, PID 1 of its namespace, joins the pod's cgroups, keeps the few descriptors that it was given, and
//!    executes the binary again: from then on its memory belongs to the new user namespace, and nothing of the caller's is
//!    left in it. [`main`] takes over.
//! 3. It builds a tree of its own on a tmpfs, pivots into it, and lets go of the host's ([`tree`]).
//! 4. It forks the spawner, drops what it does not need, confines itself, starts its threads, serves the control protocol ([`init`]).
//!
//! Until the process says "ready" over a socket, [`spawn`] waits; a failure comes back as text. After that it does not depend on its
//! parent: it has a session of its own and no parent-death signal. When it dies, every process of the pod dies (pid_namespaces(7)).

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::platform::process;

mod init;
mod launch;
pub mod tree;

pub use tree::{CONTAINERS, EXEC_ROOTS};

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
    #[error("starting the sandbox: {0}: {1}")]
    Host(&'static str, #[source] std::io::Error),
    /// The new process said what it could not do.
    #[error("starting the sandbox: {0}")]
    Failed(String),
}

/// The argument that makes the binary become a kernel process.
pub const ARGUMENT: &str = "sandbox-kernel";

/// Starts a kernel process and waits until it serves. A child of the caller: reap it, or leave it to whoever adopts it.
pub fn spawn(options: SpawnOptions) -> Result<Sandbox, BootError> {
    let (mut ours, theirs) = UnixStream::pair().map_err(|error| BootError::Host("making a socket pair", error))?;
    // The thread's network namespace changes; it ends here.
    let thread = std::thread::Builder::new().name("launch".into()).spawn(move || launch::launch(options, theirs));
    let thread = thread.map_err(|error| BootError::Host("starting a thread", error))?;
    let sandbox = thread.join().map_err(|_| BootError::Failed(String::from("the launching thread ended early")))??;
    match line(&mut ours).as_str() {
        "ready" => Ok(sandbox),
        said => {
            let _ = process::kill(sandbox.pid, libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(sandbox.pid), None);
            Err(BootError::Failed(said.to_owned()))
        }
    }
}

/// What the new process says: one line.
fn line(from: &mut UnixStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0u8];
    while from.read(&mut byte).is_ok_and(|read| read == 1) && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    if text.is_empty() { String::from("the process ended without a word") } else { String::from_utf8_lossy(&text).into_owned() }
}

/// Becomes a kernel process: the body of the re-executed binary. Never returns.
pub fn main() -> ! {
    let Some((inherited, mut sync)) = launch::inherited() else {
        eprintln!("bulkhead: {ARGUMENT} is started by bulkhead itself");
        std::process::exit(1);
    };
    let error = init::run(inherited, &mut sync).err().unwrap_or_else(|| String::from("the kernel ended"));
    crate::log::error(&error);
    let _ = writeln!(sync, "{error}");
    std::process::exit(1);
}

/// Names what failed.
fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}
