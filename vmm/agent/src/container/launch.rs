//! Forking a container's process: which namespaces it is born into, and with which descriptors.
//!
//! A process enters a PID namespace by being born: the agent says for a moment that its next child is to be in another one
//! (`unshare(CLONE_NEWPID)`, or setns(2) with a pidfd), forks, and takes that back. So every process of every container is the agent's own child,
//! to be waited for like any other.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::Pid;
use oci_spec::runtime::Process;

use super::plan::Plan;
use super::{gate, init};
use crate::resources::cgroup::Cgroup;
use crate::system;
use bulkhead_protocol::seccomp::Profile;

/// How a process comes into its container.
#[derive(Debug, Clone, Copy)]
pub enum Entry<'a> {
    /// As its first.
    First {
        /// What it makes.
        plan: &'a Plan,
        /// The cgroup that it joins.
        cgroup: &'a Cgroup,
        /// Whose PID namespace it joins (a pidfd); none for one of its own.
        join: Option<BorrowedFd<'a>>,
    },
    /// By exec, into the namespaces of the container's first (a pidfd).
    Exec(BorrowedFd<'a>),
}

/// A process that is to be.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// How it comes.
    pub entry: Entry<'a>,
    /// OCI's `process`.
    pub process: &'a Process,
    /// The container's profile.
    pub seccomp: Option<&'a Profile>,
    /// It has a terminal, with this many rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// Its first descriptors, in order. With a terminal the standard ones are replaced.
    pub descriptors: &'a [OwnedFd],
}

/// A process that stands before its program.
#[derive(Debug)]
pub struct Launched {
    /// By the agent's numbers.
    pub pid: Pid,
    /// A handle that no other process can get.
    pub pidfd: OwnedFd,
    /// Its gate.
    pub gate: OwnedFd,
}

/// Forks processes.
#[derive(Debug)]
pub struct Launcher {
    /// The agent's own PID namespace.
    home: File,
}

impl Launcher {
    /// A launcher.
    ///
    /// # Errors
    /// /proc is not there.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { home: File::open("/proc/self/ns/pid")? })
    }

    /// Forks a process, which prepares itself and then waits at its gate.
    ///
    /// # Errors
    /// The kernel's; nothing is left then.
    pub fn launch(&self, launch: &Launch<'_>) -> nix::Result<Launched> {
        let (ours, theirs) = gate::pair()?;
        match launch.entry {
            Entry::First { join: None, .. } => unshare(CloneFlags::CLONE_NEWPID)?,
            Entry::First { join: Some(other), .. } | Entry::Exec(other) => setns(other, CloneFlags::CLONE_NEWPID)?,
        }
        let forked = system::fork(|| init::run(launch, theirs.as_raw_fd()));
        let home = setns(self.home.as_fd(), CloneFlags::CLONE_NEWPID);
        let pid = forked?;
        let pidfd = home.and_then(|()| system::pidfd_open(pid)).inspect_err(|_| {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        })?;
        Ok(Launched { pid, pidfd, gate: ours })
    }
}
