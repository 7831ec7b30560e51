//! Seccomp notifications (seccomp_unotify(2)): receiving calls and answering them.
//!
//! A [`Listener`] is the receiving end of the workload filter. The structures are the host's (include/uapi/linux/seccomp.h),
//! checked by their sizes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::filter::Instruction;
use crate::errno::{Errno, Result};

/// The host's name for a received call (`seccomp_notif.id`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NotificationId(pub u64);

/// A received call (`struct seccomp_notif`).
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Notification {
    pub id: u64,
    /// The thread, in the receiver's PID namespace.
    pub thread: u32,
    pub flags: u32,
    pub number: i32,
    pub architecture: u32,
    pub instruction: u64,
    pub arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    number: u32,
    descriptor_flags: u32,
}

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
const IS_VALID: libc::c_ulong = 0x4008_2102;
const ADD_DESCRIPTOR: libc::c_ulong = 0x4018_2103;
const SET_FLAGS: libc::c_ulong = 0x4008_2104;
const CONTINUE: u32 = 1;
const AT_NUMBER: u32 = 1;
const SYNCHRONOUS: libc::c_ulong = 1;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
const INSTALL_FLAGS: libc::c_ulong = 1 << 3 | 1 << 5;

const _: () = assert!(size_of::<Notification>() == 80 && size_of::<Response>() == 24 && size_of::<AddDescriptor>() == 24);

/// The receiving end of a filter.
pub struct Listener(OwnedFd);

impl Listener {
    /// Takes over a listener's descriptor and asks for synchronous wake-ups (Linux 6.6), where the host has them.
    pub fn new(descriptor: OwnedFd) -> Listener {
        // SAFETY: the argument is a number, no memory is passed. A host without the flag says EINVAL: slower, not wrong.
        unsafe { libc::ioctl(descriptor.as_raw_fd(), SET_FLAGS, SYNCHRONOUS) };
        Listener(descriptor)
    }

    /// Waits for the next call. `ENOENT` where its thread died meanwhile, `EINTR`: ask again.
    pub fn receive(&self) -> Result<Notification> {
        let mut notification = Notification::default();
        // SAFETY: the host fills exactly the 80 bytes of `notification`, which is zeroed as it demands.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), RECEIVE, &mut notification) } < 0 {
            return Err(Errno::last());
        }
        Ok(notification)
    }

    /// Whether another call waits already.
    pub fn has_more(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, alive through the call.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 && poll.revents & libc::POLLIN != 0 }
    }

    /// Whether the thread that made the call still waits for its answer. Where a call has been kept for long, its number may be another thread's by now.
    pub fn waits(&self, id: NotificationId) -> bool {
        // SAFETY: the host reads the eight bytes of `id`.
        unsafe { libc::ioctl(self.0.as_raw_fd(), IS_VALID, &id.0) == 0 }
    }

    /// Answers with a value or an error. A thread that died meanwhile is nobody to answer.
    pub fn answer(&self, id: NotificationId, result: Result<i64>) {
        let (value, error) = match result {
            Ok(value) => (value, 0),
            Err(Errno(number)) => (0, -number),
        };
        self.send(&Response { id: id.0, value, error, flags: 0 });
    }

    /// Lets the host execute the call.
    pub fn let_go(&self, id: NotificationId) {
        self.send(&Response { id: id.0, value: 0, error: 0, flags: CONTINUE });
    }

    fn send(&self, response: &Response) {
        // SAFETY: the host reads the 24 bytes of `response`. Its only failures are a dead thread (ENOENT) and a second answer
        // (EINPROGRESS), neither of which concerns anybody.
        unsafe { libc::ioctl(self.0.as_raw_fd(), SEND, response) };
    }

    /// Puts a copy of `source` into the waiting thread's native descriptor table, at exactly `number`.
    pub fn donate(&self, id: NotificationId, source: BorrowedFd<'_>, number: u32, close_on_exec: bool) -> Result<()> {
        let flags = if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 };
        let add = AddDescriptor { id: id.0, flags: AT_NUMBER, source: source.as_raw_fd() as u32, number, descriptor_flags: flags };
        // SAFETY: the host reads the 24 bytes of `add`.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), ADD_DESCRIPTOR, &add) } < 0 { Err(Errno::last()) } else { Ok(()) }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[repr(C)]
struct Program {
    length: u16,
    instructions: *const Instruction,
}

/// Installs a filter on the calling thread for ever and gives its listener. The thread must have `no_new_privs`.
pub fn install(program: &[Instruction]) -> Result<OwnedFd> {
    let fd = install_with(program, INSTALL_FLAGS)?;
    // SAFETY: the host has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Installs a filter without a listener on the calling thread. `flags`: `SECCOMP_FILTER_FLAG_*`.
pub fn restrict(program: &[Instruction], flags: u32) -> Result<()> {
    install_with(program, libc::c_ulong::from(flags) & !libc::SECCOMP_FILTER_FLAG_NEW_LISTENER).map(drop)
}

fn install_with(program: &[Instruction], flags: libc::c_ulong) -> Result<i32> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: `program` describes a slice that lives through the call; the host copies it.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, 1, flags, &program) };
    if fd < 0 { Err(Errno::last()) } else { Ok(fd as i32) }
}
