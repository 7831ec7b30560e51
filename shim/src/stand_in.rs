//! The stand-in: the host process whose number is reported as a container's, or an exec's.
//!
//! runc's clients take the reported number for a child that they adopt when `create` ends (they are subreapers): they
//! wait for it, take its exit status for the program's, signal it, and look up its namespaces and cgroup. The
//! workload's own processes can be none of that: their parent is the wall, their network namespace is empty. So each
//! container and each exec has a small process that
//!
//! - is forked by the command that creates, and is inherited by whoever inherits from it;
//! - is in the pod's network namespace and in the container's cgroup;
//! - has an empty, read-only tree for its root, in a mount namespace of its own. Clients enter a container's tree by this number (`podman cp` writes
//!   there, `podman top` lists the /proc that it finds there, hooks mount there), and would find the host's. The container's own tree is the wall's to
//!   show; so they find nothing, and say so;
//! - asks the wall to `Wait`, and exits with what it is answered;
//! - forwards the signals that it gets. One that can not be caught means the process too: the wall kills the process
//!   when the stand-in's connection closes without having been answered (`kill_when_abandoned`).
//!
//! When the wall dies the stand-in exits as a killed process does, with 137.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bulkhead_protocol::call::Method;
use bulkhead_protocol::client::{CallError, Client};
use bulkhead_protocol::messages::{SignalRequest, WaitRequest, WaitResponse};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pivot_root, setsid};
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
            leave_tree()
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

    /// Tells it for whom it stands in, behind the wall with this control socket, and returns when it waits. From now on it lives as long as the
    /// process.
    ///
    /// # Errors
    /// It is gone, or could not reach the wall.
    pub fn assign(mut self, socket: &Path, assignment: &Assignment) -> io::Result<ProcessHandle> {
        let Some(mut control) = self.control.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        // It has no path to the socket: one connection to wait on, one to send signals on.
        let connections = [bulkhead_protocol::client::connect(socket)?, bulkhead_protocol::client::connect(socket)?];
        let text = serde_json::to_vec(assignment)?;
        let numbers = [connections[0].as_raw_fd(), connections[1].as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&numbers)];
        sendmsg::<()>(control.as_raw_fd(), &[IoSlice::new(&text)], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
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

/// Leaves the host's tree for an empty one, for good: the calling process's mount namespace is its own from here on.
fn leave_tree() -> io::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Over a directory that every host has.
    mount(Some("tmpfs"), "/proc", Some("tmpfs"), flags, Some("mode=555,size=4k,nr_inodes=2"))?;
    std::env::set_current_dir("/proc")?;
    // The old root is stacked on the new one, and taken away from there (pivot_root(2)).
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

/// Takes an assignment with its two connections. An end without one: nobody needs a stand-in any more.
fn receive(control: &UnixStream) -> io::Result<(Assignment, [Client; 2])> {
    // Two identifiers and their names.
    let mut text = [0; 4096];
    let mut slices = [IoSliceMut::new(&mut text)];
    let mut space = cmsg_space!([RawFd; 2]);
    let message = recvmsg::<()>(control.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut connections = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            for number in numbers {
                connections.push(Client::new(UnixStream::from(host::received(number)?)));
            }
        }
    }
    let length = message.bytes;
    let clients = connections.try_into().map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok((serde_json::from_slice(&text[..length])?, clients))
}

/// The stand-in's life, from its fork to its exit status.
fn live(mut control: UnixStream) -> io::Result<i32> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
    let signals = SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let (assignment, [mut client, mut signalling]) = receive(&control)?;
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
    pub fn new(container: &str, exec: &str) -> Self {
        Self { container: container.to_owned(), exec: exec.to_owned() }
    }
}
