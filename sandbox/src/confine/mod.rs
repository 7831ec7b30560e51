//! Confining the kernel process: the second of the two walls between a workload and the host.
//!
//! A workload that takes over this process finds itself
//! - in a user namespace of its own: root of nothing but the pod, with the capabilities of [`KEPT`], which count inside that namespace only;
//! - in a tree that holds the pod's files alone (see [`crate::boot::tree`]), and the pod's network;
//! - with the host calls of [`CALLS`], and no way to execute a program, make a process or a namespace, or get executable memory.
//!
//! **What an attacker who owns it could do:** everything that the pod's own files and network connections allow, under any user id, to the
//! pod's own volumes included; mount what the client has given, within its tree; signal and rewrite the pod's processes, and
//! load the host's kernel through the listed calls. It could not reach another pod, another file of the host, or a device; those would take a
//! bug in one of the listed calls. The workload's processes are no way around: their filter sends every other call here.
//!
//! [`drop_rights`] and [`install`] run before the first thread but the main one starts, and so before the first workload
//! instruction; threads inherit both.

use caps::Capability;
use seccompiler::SeccompAction;

use crate::errno::{Errno, Result};
use crate::platform::capabilities;

mod calls;
mod filter;

pub use calls::{CALLS, HostCall, Only};

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

/// Drops every capability that is not kept, from every set, and the right to gain any. For the calling thread and those it will start.
pub fn drop_rights() -> Result<()> {
    capabilities::keep_only(KEPT)?;
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// Installs the process's own seccomp filter, for all its threads. A call that is not in the table ends the pod; the host's audit
/// log names its number. With `--debug`, and in builds for development, it is a signal instead, and this process's log names it before it ends.
pub fn install(debug: bool) -> Result<()> {
    let otherwise = if debug || cfg!(debug_assertions) {
        report_violations()?;
        SeccompAction::Trap
    } else {
        SeccompAction::KillProcess
    };
    for program in [filter::without_clone3()?, filter::compile(otherwise)?] {
        seccompiler::apply_filter_all_threads(&program).map_err(|error| {
            crate::log::error(&format!("installing the kernel's own filter: {error}"));
            Errno::EPERM
        })?;
    }
    Ok(())
}

/// Has SIGSYS write which call it was for, and end the process.
fn report_violations() -> Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let action = SigAction::new(SigHandler::SigAction(violation), SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler only makes two plain calls and does not return.
    unsafe { sigaction(Signal::SIGSYS, &action) }?;
    Ok(())
}

extern "C" fn violation(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the host passes a valid siginfo_t; for SIGSYS the call's number stands behind the address, at byte 24
    // (asm-generic/siginfo.h). Needed: libc has no accessor for it.
    let number = unsafe { info.cast::<u8>().add(24).cast::<i32>().read() }.unsigned_abs();
    let mut text = *b"bulkhead: host call 0000 is not in confine::CALLS\n";
    for (place, power) in [(20, 1000), (21, 100), (22, 10), (23, 1)] {
        text[place] = b'0' + (number / power % 10) as u8;
    }
    // SAFETY: plain calls; `text` lives through the first. Standard error is the log.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(159);
    }
}
