//! Containers: OCI's semantics, made from the guest kernel's namespaces, mounts, cgroups and credentials.
//!
//! A container's creation reads as a story: [`plan`] turns the request into what is to be done, [`launch`] forks, and the child ([`init`])
//! makes itself the container's process, step by step: [`filesystem`] (with [`options`], [`root`], [`devices`], [`copy`]), then
//! [`credentials`] and [`program`]. It says over its [`gate`] that it is ready, waits there for `Start`, and executes the program. An exec takes the
//! same way and enters instead of making.
//!
//! Youki's `libcontainer` could do part of this and is absent on purpose. It wants a bundle directory and a state directory to be kept in step with
//! what the agent knows anyway, takes configuration as files where here it is a message, reads seccomp profiles through libseccomp (a C library
//! that the static binary would carry; the other wall's compiler is there already), and forks processes of its own, which whoever is PID 1 must tell
//! from orphans. The agent is PID 1 of a machine that is one pod: it knows its children and what they are for.

use bulkhead_protocol::call::{Code, Refusal};
use nix::errno::Errno;

pub mod copy;
pub mod credentials;
pub mod devices;
pub mod environment;
pub mod filesystem;
pub mod gate;
pub mod init;
pub mod launch;
pub mod options;
pub mod plan;
pub mod program;
pub mod root;

/// An errno as people read it.
pub(crate) use crate::system::text;

/// The request or the configuration is wrong.
pub(crate) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidArgument, message)
}

/// The agent, or its kernel, failed.
pub(crate) fn internal(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::Internal, message)
}

/// The refusal of a call that the kernel did not take.
pub(crate) fn failed(what: &'static str) -> impl Fn(Errno) -> Refusal {
    move |error| internal(format!("{what}: {}", text(error)))
}
