//! How a wall's process comes to be: the one way, for every wall.
//!
//! 1. [`prepare`] runs in `bulkhead`, as root on the host, on a thread of its own, which enters the pod's network namespace where there is one to enter, and
//!    clones the new process straight into new user, mount, PID, UTS and IPC namespaces. It writes the id maps (every id to itself: ownership on disk
//!    stays what it is, power outside is gone) and the limits that the new process could not raise itself.
//! 2. The new process, PID 1 of its namespace, joins the pod's cgroups, keeps the few descriptors that it was given, and executes the binary again: from
//!    then on its memory belongs to the new user namespace, and nothing of the caller's is left in it. There [`inherited`] takes over.
//!
//! Before its execve the process waits to be released: if its parent dies first, it ends, and a parent that writes down whom it starts before it
//! calls [`Prepared::release`] never leaves one behind that nobody knows. Then it says "ready" over a socket ([`Words`]), or why not. After that it does not
//! depend on its parent: it has a session of its own and no parent-death signal. When it dies, every process of its PID namespace dies (pid_namespaces(7)).
//!
//! - [`process`]: from the clone to the execve; the crate's unsafe module.
//! - [`log`]: the launched process's log lines.

#![warn(missing_docs, clippy::undocumented_unsafe_blocks)]

use std::ffi::CString;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub mod log;
mod process;

pub use process::inherited;

/// Which network namespace the process gets.
#[derive(Debug)]
pub enum Network {
    /// The caller's own.
    Inherited,
    /// This one.
    Entered(OwnedFd),
    /// A new one, in which nothing is.
    Empty,
}

/// What the process is started with.
#[derive(Debug)]
pub struct Options {
    /// Its arguments. The first is its name on the process list, the second tells the binary what it is.
    pub arguments: Vec<CString>,
    /// Its network namespace.
    pub network: Network,
    /// Open `cgroup.procs` files: the process writes itself into them before anything else.
    pub cgroups: Vec<OwnedFd>,
    /// Its standard error; /dev/null where there is none, as its standard input and output always are.
    pub errors: Option<OwnedFd>,
    /// What [`inherited`] gives there, in this order.
    pub descriptors: Vec<OwnedFd>,
    /// Resources (`RLIMIT_*`, getrlimit(2)) and their limits.
    pub limits: Vec<(libc::__rlimit_resource_t, u64)>,
    /// Its place when memory runs out (proc(5), oom_score_adj).
    pub out_of_memory: i32,
    /// How long it may take from its release to its word.
    pub patience: Duration,
}

/// The most files that the host lets any process have open, for `RLIMIT_NOFILE`.
pub fn most_files() -> u64 {
    std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1 << 20)
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The host refused something.
    #[error("{0}: {1}")]
    Host(&'static str, #[source] std::io::Error),
    /// The new process said what it could not do.
    #[error("{0}")]
    Failed(String),
}

/// A launched process.
#[derive(Debug)]
pub struct Process {
    /// Its number on the host.
    pub pid: i32,
    /// A handle on it.
    pub pidfd: OwnedFd,
}

/// A process that exists and waits for [`Prepared::release`]. Dropped, it ends; so it does when this process dies.
#[derive(Debug)]
pub struct Prepared {
    held: process::Held,
    /// Where it says that it is ready, or why not.
    words: UnixStream,
}

/// Makes a process, up to the point from which it would live on without its caller: a caller that writes down whom it has
/// started does so now. A child of the caller: reap it, or leave it to whoever adopts it.
///
/// # Errors
/// What the host refuses; what the process itself could not do. Nothing is left then.
pub fn prepare(options: Options) -> Result<Prepared, LaunchError> {
    let (mut words, theirs) = UnixStream::pair().map_err(|error| LaunchError::Host("making a socket pair", error))?;
    words.set_read_timeout(Some(options.patience)).map_err(|error| LaunchError::Host("setting a time-out", error))?;
    // The thread's network namespace changes; it ends here.
    let thread = std::thread::Builder::new().name("launch".into()).spawn(move || process::launch(options, theirs));
    let thread = thread.map_err(|error| LaunchError::Host("starting a thread", error))?;
    match thread.join().map_err(|_| LaunchError::Failed(String::from("the launching thread ended early")))? {
        Ok(held) => Ok(Prepared { held, words }),
        // Where the process itself could not go on, its reason is the better one.
        Err(error) => Err(said(&mut words).map_or(error, LaunchError::Failed)),
    }
}

impl Prepared {
    /// Its number on the host.
    pub fn pid(&self) -> i32 {
        self.held.process.pid
    }

    /// Lets it go, and waits until it is ready.
    ///
    /// # Errors
    /// What it says that it could not do; it is gone then.
    pub fn release(mut self) -> Result<Process, LaunchError> {
        let process = self.held.release();
        match said(&mut self.words).as_deref() {
            Some("ready") => Ok(process),
            reason => {
                process::end(&process);
                Err(LaunchError::Failed(reason.unwrap_or("the process ended without a word").to_owned()))
            }
        }
    }
}

/// "ready", with the line's end.
const READY: &[u8] = b"ready\n";
/// The longest reason that is listened to, bytes.
const LONGEST_REASON: usize = 64 << 10;

/// What the new process says: "ready", or its reason, which may have several lines and ends with the stream. `None` where it ended, or took too
/// long, without a word.
fn said(from: &mut UnixStream) -> Option<String> {
    let mut text = Vec::new();
    let mut bytes = [0; 1024];
    while text != READY && text.len() < LONGEST_REASON {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&bytes[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

/// What a launched process finds.
#[derive(Debug)]
pub struct Inherited {
    /// Its arguments, from the third on.
    pub arguments: Vec<String>,
    /// [`Options::descriptors`], close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// Where it says whether it is ready.
    pub words: Words,
}

/// Where a launched process says whether it is ready: once.
#[derive(Debug)]
pub struct Words(UnixStream);

impl Words {
    /// Says so.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub fn ready(self) -> std::io::Result<()> {
        (&self.0).write_all(READY)?;
        // A process that was forked meanwhile may have a copy: the stream ends for all.
        self.0.shutdown(Shutdown::Both)
    }

    /// Says why not.
    pub fn failed(self, reason: &str) {
        let _ = (&self.0).write_all(reason.as_bytes());
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(words: &[&[u8]]) -> Option<String> {
        let (mut here, there) = UnixStream::pair().unwrap();
        for part in words {
            (&there).write_all(part).unwrap();
        }
        drop(there);
        said(&mut here)
    }

    #[test]
    fn a_word_is_ready_or_a_reason_or_nothing() {
        assert_eq!(hear(&[b"rea", b"dy\n"]).as_deref(), Some("ready"));
        assert_eq!(hear(&[b"no room: errno 028\n"]).as_deref(), Some("no room: errno 028"));
        assert_eq!(hear(&[b"the console:\n", b"  a\n  b\n"]).as_deref(), Some("the console:\n  a\n  b"));
        assert_eq!(hear(&[]), None);
        assert!(hear(&[&[b'x'; LONGEST_REASON + 5000]]).unwrap().len() < LONGEST_REASON + 1025);
    }

    #[test]
    fn ready_is_heard_while_somebody_else_has_a_copy() {
        let (mut here, there) = UnixStream::pair().unwrap();
        let _copy = there.try_clone().unwrap();
        Words(there).ready().unwrap();
        assert_eq!(said(&mut here).as_deref(), Some("ready"));
        let (mut here, there) = UnixStream::pair().unwrap();
        let _copy = there.try_clone().unwrap();
        Words(there).failed("no");
        assert_eq!(said(&mut here).as_deref(), Some("no"));
    }
}
