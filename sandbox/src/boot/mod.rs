//! How the kernel process comes to be.
//!
//! 1. [`prepare`] runs in `bulkhead`, as root on the host, on a thread of its own, which enters the pod's network namespace and clones the
//!    new process straight into new user, mount, PID, UTS and IPC namespaces ([`launch`]). It writes the id maps (every id to itself:
//!    ownership on disk stays what it is, power outside is gone) and raises the limits that the pod's root may not raise.
//! 2. The new process, PID 1 of its namespace, joins the pod's cgroups, keeps the few descriptors that it was given, and
//!    executes the binary again: from then on its memory belongs to the new user namespace, and nothing of the caller's is
//!    left in it. [`main`] takes over.
//! 3. It builds a tree of its own on a tmpfs, pivots into it, and lets go of the host's ([`tree`]).
//! 4. It forks the spawner, drops what it does not need, confines itself, starts its threads, serves the control protocol ([`init`]).
//!
//! Before its execve the process waits to be released: if its parent dies first, it ends, and a parent that writes down whom it starts before it
//! calls [`Prepared::release`] never leaves one behind that nobody knows. Then it says "ready" over a socket, or why not. After that it does not
//! depend on its parent: it has a session of its own and no parent-death signal. When it dies, every process of the pod dies (pid_namespaces(7)).

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

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

/// A kernel process that exists and waits for [`Prepared::release`]. Dropped, it ends; so it does when this process dies.
pub struct Prepared {
    held: launch::Held,
    /// Where it says that it is ready, or why not.
    words: UnixStream,
}

/// How long a kernel process may take from its release to its word.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a kernel process, up to the point from which it would live on without its caller: a caller that writes down whom it has
/// started does so now. A child of the caller: reap it, or leave it to whoever adopts it.
pub fn prepare(options: SpawnOptions) -> Result<Prepared, BootError> {
    let (mut words, theirs) = UnixStream::pair().map_err(|error| BootError::Host("making a socket pair", error))?;
    words.set_read_timeout(Some(PATIENCE)).map_err(|error| BootError::Host("setting a time-out", error))?;
    // The thread's network namespace changes; it ends here.
    let thread = std::thread::Builder::new().name("launch".into()).spawn(move || launch::launch(options, theirs));
    let thread = thread.map_err(|error| BootError::Host("starting a thread", error))?;
    match thread.join().map_err(|_| BootError::Failed(String::from("the launching thread ended early")))? {
        Ok(held) => Ok(Prepared { held, words }),
        // Where the process itself could not go on, its reason is the better one.
        Err(error) => Err(line(&mut words).map_or(error, BootError::Failed)),
    }
}

impl Prepared {
    /// Its number on the host.
    pub fn pid(&self) -> i32 {
        self.held.sandbox.pid
    }

    /// Lets it go, and waits until it serves.
    pub fn release(mut self) -> Result<Sandbox, BootError> {
        let sandbox = self.held.release()?;
        match line(&mut self.words).as_deref() {
            Some("ready") => Ok(sandbox),
            said => {
                let _ = process::kill(sandbox.pid, libc::SIGKILL);
                let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(sandbox.pid), None);
                Err(BootError::Failed(said.unwrap_or("the process ended without a word").to_owned()))
            }
        }
    }
}

/// Starts a kernel process and waits until it serves.
pub fn spawn(options: SpawnOptions) -> Result<Sandbox, BootError> {
    prepare(options)?.release()
}

/// What the new process says: one line; `None` where it ended, or took too long, without a word.
fn line(from: &mut UnixStream) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0u8];
    while from.read(&mut byte).is_ok_and(|read| read == 1) && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    (!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned())
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
