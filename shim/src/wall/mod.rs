//! The wall: *where it is chosen*, how it is started, and how it is given what does not fit into messages.
//!
//! Everything else above `shim/protocol` speaks the control protocol with whichever wall there is. A wall is started once
//! for each pod, in two steps ([`prepare`], [`Prepared::release`]) between which its process is written down; from then on it
//! is a control socket in the pod's directory, and a process to kill at the end.
//!
//! | | [`sandbox`] | a virtual machine |
//! |---|---|---|
//! | is given | pod directory, network namespace, cgroup files, log | the same |
//! | a directory of the host reaches it | as the descriptor of a detached mount | mounted below the directory that its file-sharing device exports |
//! | streams | as descriptors over the control socket | the same, carried on by the monitor |

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;

use bulkhead_protocol::messages::Tree;
use bulkhead_protocol::streams::StreamConnection;
use serde::{Deserialize, Serialize};

use crate::state::ProcessHandle;

mod sandbox;

/// Which wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// The user-space kernel.
    Sandbox,
}

/// A wall that there is not.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsolationError {
    /// It is to come.
    #[error("isolation {0:?}: this release has the sandbox wall alone")]
    NotYet(String),
    /// Nobody knows it.
    #[error("isolation {0:?}: sandbox or microvm")]
    Unknown(String),
}

impl FromStr for Isolation {
    type Err = IsolationError;

    fn from_str(text: &str) -> Result<Self, IsolationError> {
        match text {
            "sandbox" => Ok(Isolation::Sandbox),
            "microvm" => Err(IsolationError::NotYet(text.to_owned())),
            _ => Err(IsolationError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Isolation::Sandbox => "sandbox",
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
    }
}

/// What travels beside one request: streams and directories to the wall, handles on processes back.
pub struct Attachments {
    isolation: Isolation,
    streams: StreamConnection,
}

impl Attachments {
    /// For requests to the wall behind this control socket.
    ///
    /// # Errors
    /// The connection's.
    pub fn open(isolation: Isolation, socket: &Path) -> io::Result<Self> {
        Ok(Self { isolation, streams: StreamConnection::open(socket)? })
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
        match self.isolation {
            Isolation::Sandbox => sandbox::tree(&mut self.streams, tree),
        }
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
        assert_eq!(Isolation::Sandbox.to_string(), "sandbox");
        assert_eq!(
            "microvm".parse::<Isolation>().unwrap_err().to_string(),
            "isolation \"microvm\": this release has the sandbox wall alone"
        );
        assert_eq!("vm".parse::<Isolation>().unwrap_err().to_string(), "isolation \"vm\": sandbox or microvm");
    }
}
