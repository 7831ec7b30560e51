//! Confining the monitor: the second of the two walls between a guest and the host.
//!
//! The first is the processor's: a guest reaches nothing of the host but KVM and the devices. Whoever breaks out of it, through a bug in one of the devices
//! here or in what they are written with, finds itself in a process
//! - in namespaces of its own, made when it was cloned ([`bulkhead_launch`]): its user namespace maps every id to itself and has no power outside; its network
//!   namespace is empty (the pod's packets come over descriptors of taps); its PID namespace has one process;
//! - in a tree that holds nothing of the host ([`tree`]): an empty, read-only tmpfs with the process's own /proc and terminals. All that it was given is open already;
//! - with no capability but those of [`KEPT`], in its own user namespace, on the threads that serve files; the others have none;
//! - with the host calls of its thread's table ([`CALLS`]), and no way to execute a program, make a process or a namespace, or get executable memory.
//!
//! A call that is not in the table ends the process, and so the pod.
//!
//! **What an attacker could do who owns a thread.** A thread's filter binds that thread alone; its memory is all threads' memory. So ownership of one thread is
//! the sum below as soon as the attacker knows enough of the others' stacks. The tables still count: between the bug and the ownership stands one thread.
//!
//! | thread | could |
//! |---|---|
//! | vCPU | run any state of its own guest; signal the monitor's own threads; nothing with a name: it opens nothing |
//! | devices | send packets on the pod's taps and bytes on the pod's streams; connect to Unix sockets of the directory that was given for vsock, where one was |
//! | files | everything that the pod's own trees allow, under any user id; open what /proc tells of this process |
//! | control | answer the pod's clients with lies; make terminals; read and write what clients have passed for the pod's streams |
//!
//! None of them could reach another pod, another file of the host, or a device: that would take a bug in one of the listed calls, or in KVM.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use seccompiler::SeccompAction;

mod calls;
mod filter;
mod tree;

pub use calls::{CALLS, HostCall, Only, Row};

/// What a thread does, and so which host calls it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Thread {
    /// Runs a virtual processor, and the fronts of devices when the guest touches them.
    Vcpu,
    /// Serves devices that never wait for the host: network card, vsock, console, random numbers, balloon.
    Devices,
    /// Serves the file system and disks.
    Files,
    /// Serves clients.
    Control,
    /// The main thread from the time when all is built until the processors run: what it starts inherits its filter. Then it becomes [`Thread::Control`].
    Starting,
}

impl Thread {
    /// All of them.
    pub const ALL: [Thread; 5] = [Thread::Vcpu, Thread::Devices, Thread::Files, Thread::Control, Thread::Starting];
}

/// The capabilities that the threads which serve files keep, in the monitor's own user namespace, and why.
pub const KEPT: &[(Capability, &str)] = &[
    (Capability::CAP_CHOWN, "the guest's root gives files away"),
    (Capability::CAP_DAC_OVERRIDE, "the guest's kernel has decided who may open what"),
    (Capability::CAP_FOWNER, "chmod and times of files that are somebody else's"),
    (Capability::CAP_FSETID, "set-group-ID bits that the guest's kernel has let pass"),
    (Capability::CAP_SETUID, "files are made as the guest's user: setfsuid(2)"),
    (Capability::CAP_SETGID, "the same for groups"),
    (Capability::CAP_MKNOD, "white-outs of overlays; no other device"),
    (Capability::CAP_SETFCAP, "file capabilities that the guest sets"),
];

/// Why a process could not be jailed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct JailError {
    what: String,
    source: io::Error,
}

impl JailError {
    fn new(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self { what: what.into(), source: source.into() }
    }
}

/// Enters the tree, and gives up every capability that is not kept and the right to gain any: for this thread and those it will start. The process is one that
/// [`bulkhead_launch`] has made, and has one thread.
///
/// # Errors
/// The host's.
pub fn enter() -> Result<(), JailError> {
    tree::enter()?;
    let refused = |what: &'static str| move |error: caps::errors::CapsError| JailError::new(what, io::Error::other(error));
    for capability in caps::all() {
        // One that this host does not know is not there to be dropped.
        if caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, capability).map_err(refused("dropping the bounding set"))?;
        }
    }
    keep(&KEPT.iter().map(|(capability, _)| *capability).collect()).map_err(refused("dropping capabilities"))?;
    nix::sys::prctl::set_no_new_privs().map_err(|error| JailError::new("no_new_privs", error))
}

/// Makes the calling thread's sets these, and its inheritable and ambient ones empty.
fn keep(kept: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, kept)?;
    caps::set(None, CapSet::Permitted, kept)
}

/// Confines the calling thread, and those it will start, to its table of host calls; and takes its capabilities, unless it serves files. A call that is not in the
/// table ends the process; the host's audit log names its number. With `debug`, and in builds for development, it is a signal instead, and this process's log names it
/// before it ends.
///
/// # Errors
/// The host's.
pub fn confine(thread: Thread, debug: bool) -> io::Result<()> {
    if !matches!(thread, Thread::Files | Thread::Starting) {
        keep(&CapsHashSet::new()).map_err(io::Error::other)?;
    }
    let otherwise = if debug || cfg!(debug_assertions) {
        report_violations()?;
        SeccompAction::Trap
    } else {
        SeccompAction::KillProcess
    };
    for program in [filter::without_clone3()?, filter::compile(thread, otherwise)?] {
        seccompiler::apply_filter(&program).map_err(|error| io::Error::other(format!("installing the filter of {thread:?}: {error}")))?;
    }
    Ok(())
}

/// Has SIGSYS write which call it was for, and end the process.
fn report_violations() -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    static ONCE: std::sync::Once = std::sync::Once::new();
    let mut done = Ok(());
    ONCE.call_once(|| {
        let action = SigAction::new(SigHandler::SigAction(violation), SaFlags::SA_SIGINFO, SigSet::empty());
        // SAFETY: the handler only makes plain calls and does not return.
        done = unsafe { sigaction(Signal::SIGSYS, &action) }.map(drop);
    });
    Ok(done?)
}

extern "C" fn violation(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the host passes a valid siginfo_t; for SIGSYS the call's number stands behind the address, at byte 24
    // (asm-generic/siginfo.h). Needed: libc has no accessor for it.
    let number = unsafe { info.cast::<u8>().add(24).cast::<i32>().read() }.unsigned_abs();
    // SAFETY: with SA_SIGINFO the host passes the interrupted thread's ucontext_t, which lives as long as the handler runs.
    let second = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RSI as usize] } as u64;
    let mut text = *b"bulkhead: host call 0000 (second argument 00000000) is not in jail::CALLS of its thread\n";
    for (place, power) in [(20, 1000), (21, 100), (22, 10), (23, 1)] {
        text[place] = b'0' + (number / power % 10) as u8;
    }
    for digit in 0..8 {
        text[42 + digit] = b"0123456789abcdef"[(second >> (28 - 4 * digit) & 15) as usize];
    }
    // SAFETY: plain calls; `text` lives through the first. Standard error is the log.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(159);
    }
}
