//! The wall: *where it is chosen*, how it is started, and how it is given what does not fit into messages.
//!
//! Everything else above `shim/protocol` speaks the control protocol with whichever wall there is. A wall is started once
//! for each pod, in two steps ([`prepare`], [`Prepared::release`]) between which its process is written down; from then on it
//! is a control socket in the pod's directory, and a process to kill at the end.
//!
//! | | [`sandbox`] | [`microvm`] |
//! |---|---|---|
//! | is given | control socket, network namespace, cgroup files, log | control socket, taps in the namespace, cgroup files, log, KVM, the guest's image |
//! | a directory of the host reaches it | as the descriptor of a detached mount, mounted in its tree | the same, shown by its file-system device |
//! | streams | as descriptors over the control socket | the same, carried on by the monitor |

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::str::FromStr;

use bulkhead_protocol::messages::Tree;
use bulkhead_protocol::streams::StreamConnection;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::config::Microvm;
use crate::oci::Config;
use crate::state::ProcessHandle;

mod microvm;
mod sandbox;
pub mod size;

/// Which wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The user-space kernel.
    Sandbox,
    /// A virtual machine.
    Microvm,
}

/// A wall that there is not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsolationError {
    /// Nobody knows it.
    #[error("isolation {0:?}: sandbox or microvm")]
    Unknown(String),
}

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, IsolationError> {
        match text {
            "sandbox" => Ok(Isolation::Sandbox),
            "microvm" => Ok(Isolation::Microvm),
            _ => Err(IsolationError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Isolation::Sandbox => "sandbox",
            Isolation::Microvm => "microvm",
        })
    }
}

/// What a wall is started with.
pub struct Start<'a> {
    /// The pod's directory, in which it serves `control.sock`.
    pub directory: &'a Path,
    /// The pod's network namespace.
    pub network: OwnedFd,
    /// `cgroup.procs` of each hierarchy, open for writing: the process joins before it does anything else.
    pub cgroups: Vec<OwnedFd>,
    /// Log every system call, where the wall can.
    pub strace: bool,
    /// The configuration of the container that it is started for: limits, annotations, sysctls.
    pub config: &'a Config,
    /// What virtual machines are to be like.
    pub microvm: &'a Microvm,
    /// The directory of the image that they boot.
    pub image: &'a Path,
}

/// Why a wall does not run.
#[derive(Debug, thiserror::Error)]
pub enum WallError {
    /// Its control socket can not be made.
    #[error("control socket in {directory}: {source}")]
    Socket {
        /// The pod's directory.
        directory: String,
        /// Why.
        source: io::Error,
    },
    /// The user-space kernel does not start.
    #[error(transparent)]
    Sandbox(#[from] bulkhead_sandbox::boot::BootError),
    /// The monitor does not start.
    #[error(transparent)]
    Microvm(#[from] bulkhead_vmm::monitor::MonitorError),
    /// There is no KVM that could run a guest.
    #[error("isolation microvm: {0}")]
    Kvm(#[from] bulkhead_vmm::vm::MachineError),
    /// There is no image to boot.
    #[error(transparent)]
    Image(#[from] bulkhead_guest::ImageError),
    /// The pod's network can not be a guest's.
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
    /// A machine of that size can not be.
    #[error(transparent)]
    Size(#[from] size::SizeError),
    /// The pod shares the host's network.
    #[error("linux.namespaces: network: missing: a virtual machine can not share the host's network")]
    HostNetwork,
    /// It ended at once.
    #[error("the wall's process has ended")]
    Ended,
}

/// A wall's process that exists, and ends with this process unless it is released.
pub trait Prepared {
    /// The process.
    fn handle(&self) -> ProcessHandle;

    /// Lets it go, and returns when it serves.
    ///
    /// # Errors
    /// What it says that it could not do; it is gone then.
    fn release(self: Box<Self>) -> Result<(), WallError>;
}

/// Makes a wall's process.
///
/// # Errors
/// [`WallError`]; nothing is left then.
pub fn prepare(isolation: Isolation, start: Start<'_>) -> Result<Box<dyn Prepared>, WallError> {
    match isolation {
        Isolation::Sandbox => Ok(Box::new(sandbox::prepare(start)?)),
        Isolation::Microvm => Ok(Box::new(microvm::prepare(start)?)),
    }
}

/// What of a container's limits the host's cgroup gets, in which its wall's process is.
pub fn cgroup_limits(isolation: Isolation, resources: &LinuxResources) -> LinuxResources {
    match isolation {
        Isolation::Sandbox => resources.clone(),
        Isolation::Microvm => size::cgroup_limits(resources),
    }
}

/// A wall's process is gone: takes back what it has changed outside.
pub fn ended(isolation: Isolation, network: &OwnedFd) {
    match isolation {
        Isolation::Sandbox => {}
        Isolation::Microvm => microvm::ended(network),
    }
}

/// A listening control socket in the pod's directory.
fn listen(directory: &Path) -> Result<OwnedFd, WallError> {
    let failed = |source| WallError::Socket { directory: directory.display().to_string(), source };
    // What a wall that is gone has left.
    match std::fs::remove_file(directory.join("control.sock")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let place = std::fs::File::open(directory).map_err(failed)?;
    // A socket's path may be 108 bytes long; a directory's descriptor has a short name.
    Ok(UnixListener::bind(format!("/proc/self/fd/{}/control.sock", place.as_raw_fd())).map_err(failed)?.into())
}

/// What travels beside one request: streams and directories to the wall, handles on processes back.
pub struct Attachments {
    streams: StreamConnection,
}

impl Attachments {
    /// For requests to the wall behind this control socket.
    ///
    /// # Errors
    /// The connection's.
    pub fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self { streams: StreamConnection::open(socket)? })
    }

    /// Gives the wall a byte stream; returns its number for a message's field.
    ///
    /// # Errors
    /// The connection's.
    pub fn stream(&mut self, descriptor: impl AsFd) -> io::Result<u32> {
        Ok(self.streams.attach(descriptor)?.number())
    }

    /// Gives the wall a directory or file of the host: a detached mount.
    ///
    /// # Errors
    /// The connection's.
    pub fn tree(&mut self, tree: &OwnedFd) -> io::Result<Tree> {
        // A descriptor like a stream's; what the wall does with it is its own affair.
        let mut attached = Tree::new();
        attached.stream = self.stream(tree)?;
        Ok(attached)
    }

    /// Takes the handle on a process that the answer to the request names; none where the process is not the host's.
    ///
    /// # Errors
    /// The connection's; `InvalidData` for another number than the answer's.
    pub fn process(&mut self, number: u32) -> io::Result<Option<OwnedFd>> {
        if number == 0 {
            return Ok(None);
        }
        let (given, pidfd) = self.streams.receive()?;
        if given.number() == number { Ok(Some(pidfd)) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "another process's handle")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walls_are_known_by_name() {
        assert_eq!("sandbox".parse(), Ok(Isolation::Sandbox));
        assert_eq!("microvm".parse(), Ok(Isolation::Microvm));
        for isolation in [Isolation::Sandbox, Isolation::Microvm] {
            assert_eq!(isolation.to_string().parse(), Ok(isolation));
        }
        assert_eq!("vm".parse::<Isolation>().unwrap_err().to_string(), "isolation \"vm\": sandbox or microvm");
    }
}
