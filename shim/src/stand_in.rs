//! The stand-in: the host process whose number is reported as a container's, or an exec's.
//!
//! runc's clients take the reported number for a child that they adopt when `create` ends (they are subreapers): they
//! wait for it, take its exit status for the program's, signal it, and look up its namespaces and cgroup. The
//! workload's own processes can be none of that: their parent is the wall, their network namespace is empty. So each
//! container and each exec has a small process that
//!
//! - is forked by the command that creates, and is inherited by whoever inherits from it;
//! - is in the pod's network namespace and in the container's cgroup;
//! - asks the wall to `Wait`, and exits with what it is answered;
//! - forwards the signals that it gets. One that can not be caught means the process too: the wall kills the process
//!   when the stand-in's connection closes without having been answered (`kill_when_abandoned`).
//!
//! When the wall dies the stand-in exits as a killed process does, with 137.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use bulkhead_protocol::call::Method;
use bulkhead_protocol::client::{CallError, Client};
use bulkhead_protocol::messages::{SignalRequest, WaitRequest, WaitResponse};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use crate::host;
use crate::state::ProcessHandle;

/// The exit status of what SIGKILL ended.
pub const KILLED: i32 = 128 + libc::SIGKILL;

/// A stand-in that does not know yet for whom. Dropped, it ends.
#[derive(Debug)]
pub struct StandIn {
    handle: ProcessHandle,
    control: Option<UnixStream>,
}

/// For whom.
#[derive(Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// The control socket of the wall.
    pub socket: PathBuf,
    /// The container.
    pub container: String,
    /// The exec, or empty for the container's init.
    pub exec: String,
}

impl StandIn {
    /// Forks one, into `network` if given.
    ///
    /// # Errors
    /// The host's.
    pub fn fork(network: Option<&OwnedFd>) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let enter = || {
            setsid()?;
            if let Some(network) = network {
                setns(network, CloneFlags::CLONE_NEWNET)?;
            }
            std::env::set_current_dir("/")
        };
        let pid = host::fork_into(theirs.into(), enter, |control| live(control.into()).unwrap_or(1))?;
        let mut stand_in = Self { handle: ProcessHandle { pid, start_time: 0 }, control: Some(ours) };
        stand_in.handle = ProcessHandle::of(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(stand_in)
    }

    /// The process.
    pub fn handle(&self) -> ProcessHandle {
        self.handle
    }

    /// Tells it for whom it stands in, and returns when it waits. From now on it lives as long as the process.
    ///
    /// # Errors
    /// It is gone, or could not reach the wall.
    pub fn assign(mut self, assignment: &Assignment) -> io::Result<ProcessHandle> {
        let Some(mut control) = self.control.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        control.write_all(&serde_json::to_vec(assignment)?)?;
        control.shutdown(std::net::Shutdown::Write)?;
        let mut answer = [0];
        if let Err(error) = control.read_exact(&mut answer) {
            // It has ended, or ends now that nobody speaks to it.
            self.control = Some(control);
            return Err(error);
        }
        Ok(self.handle)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(control) = self.control.take() {
            drop(control);
            let _ = waitpid(Pid::from_raw(self.handle.pid), None);
        }
    }
}

/// The stand-in's life, from its fork to its exit status.
fn live(mut control: UnixStream) -> io::Result<i32> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut text = Vec::new();
    control.read_to_end(&mut text)?;
    let assignment: Assignment = serde_json::from_slice(&text)?;
    let mut client = Client::connect(&assignment.socket)?;
    let mut signalling = Client::connect(&assignment.socket)?;
    let mut request = WaitRequest::new();
    request.container_id.clone_from(&assignment.container);
    request.exec_id.clone_from(&assignment.exec);
    request.kill_when_abandoned = true;
    client.send(Method::Wait, &request).map_err(io::Error::other)?;
    control.write_all(&[0])?;
    drop(control);
    loop {
        let mut ready = [PollFd::new(client.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let answered = ready[0].any() == Some(true);
        while let Ok(Some(signal)) = signals.read_signal() {
            forward(&mut signalling, &assignment, signal.ssi_signo);
        }
        if answered {
            let answer: Result<WaitResponse, CallError> = client.receive();
            return Ok(answer.map_or(KILLED, |answer| answer.exit_status as i32 & 0xff));
        }
    }
}

/// A signal for the stand-in is one for the process. One that comes too late hits nobody, as it would have.
fn forward(client: &mut Client, assignment: &Assignment, signal: u32) {
    if signal == libc::SIGCHLD as u32 {
        return;
    }
    let mut request = SignalRequest::new();
    request.container_id.clone_from(&assignment.container);
    request.exec_id.clone_from(&assignment.exec);
    request.signal = signal;
    let _ = client.signal(&request);
}

impl Assignment {
    /// An assignment.
    pub fn new(socket: &Path, container: &str, exec: &str) -> Self {
        Self { socket: socket.to_owned(), container: container.to_owned(), exec: exec.to_owned() }
    }
}
