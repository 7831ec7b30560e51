//! How the kernel process comes to be.
//!
//! 1. [`prepare`] runs in `bulkhead`, as root on the host: it makes a process in namespaces of its own and the pod's network namespace, which executes the
//!    binary again once it is released ([`bulkhead_launch`], [`launch`]). [`main`] takes over.
//! 2. It builds a tree of its own on a tmpfs, pivots into it, and lets go of the host's ([`tree`]).
//! 3. It forks the spawner, drops what it does not need, confines itself, starts its threads, serves the control protocol ([`init`]).
//!
//! When it dies, every process of the pod dies (pid_namespaces(7)).

use std::os::fd::OwnedFd;
use std::time::Duration;

use bulkhead_launch::LaunchError;

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
pub use bulkhead_launch::Process as Sandbox;

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

impl From<LaunchError> for BootError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Host(what, error) => BootError::Host(what, error),
            LaunchError::Failed(reason) => BootError::Failed(reason),
        }
    }
}

/// The argument that makes the binary become a kernel process.
pub const ARGUMENT: &str = "sandbox-kernel";

/// A kernel process that exists and waits for [`Prepared::release`]. Dropped, it ends; so it does when this process dies.
pub struct Prepared(bulkhead_launch::Prepared);

/// How long a kernel process may take from its release to its word.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a kernel process, up to the point from which it would live on without its caller: a caller that writes down whom it has
/// started does so now. A child of the caller: reap it, or leave it to whoever adopts it.
pub fn prepare(options: SpawnOptions) -> Result<Prepared, BootError> {
    Ok(Prepared(launch::launch(options)?))
}

impl Prepared {
    /// Its number on the host.
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// Lets it go, and waits until it serves.
    pub fn release(self) -> Result<Sandbox, BootError> {
        Ok(self.0.release()?)
    }
}

/// Starts a kernel process and waits until it serves.
pub fn spawn(options: SpawnOptions) -> Result<Sandbox, BootError> {
    prepare(options)?.release()
}

/// Becomes a kernel process: the body of the re-executed binary. Never returns.
pub fn main() -> ! {
    let Some((inherited, words)) = launch::inherited() else {
        eprintln!("bulkhead: {ARGUMENT} is started by bulkhead itself");
        std::process::exit(1);
    };
    let mut words = Some(words);
    let error = init::run(inherited, &mut words).err().unwrap_or_else(|| String::from("the kernel ended"));
    crate::log::error(&error);
    if let Some(words) = words {
        words.failed(&error);
    }
    std::process::exit(1);
}

/// Names what failed.
fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}
