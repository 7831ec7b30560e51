//! execve(2) and execveat(2).

use std::os::fd::AsFd;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::exec::{self, PLANTED};
use crate::platform::dispatch::dispatcher;
use crate::platform::exec_stop;

use Argument::{Directory, Hex, Path, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_execve, "execve", execve, &[Path, Pointer, Pointer]),
    Entry::new(libc::SYS_execveat, "execveat", execveat, &[Directory, Path, Pointer, Pointer, Hex]),
];

fn execve(call: &Call) -> Result<Outcome> {
    let path = call.path(0)?;
    start(call, &path)
}

/// The host would resolve a path relative to a native descriptor, which the caller does not have. What does not need one is
/// served; the rest is `ENOSYS`, upon which the C library executes `/proc/self/fd/N`.
fn execveat(call: &Call) -> Result<Outcome> {
    let path = call.path(1)?;
    let no_follow = libc::AT_SYMLINK_NOFOLLOW as u64;
    if call.raw(4) & !(no_follow | libc::AT_EMPTY_PATH as u64) != 0 {
        return Err(Errno::EINVAL);
    }
    if call.raw(4) & no_follow == 0 && (path.starts_with(b"/") || (call.int(0) == libc::AT_FDCWD && !path.is_empty())) {
        return start(call, &path);
    }
    Err(Errno::ENOSYS)
}

fn start(call: &Call, path: &[u8]) -> Result<Outcome> {
    crate::kernel::adopt::bind(&call.process, &call.thread);
    let mut pending = exec::prepare(call, path);
    for look in 0..50 {
        // Another process executes another file by the same literal name right now: an exec takes well under a millisecond.
        if !matches!(pending, Err(Errno::EAGAIN)) {
            break;
        }
        if look == 0 {
            dispatcher().heed();
        }
        std::thread::sleep(std::time::Duration::from_micros(500));
        exec::settle_all();
        pending = exec::prepare(call, path);
    }
    let pending = pending?;
    let privileged = pending.privileged;
    dispatcher().listener().donate(call.id, exec::planted_file()?.as_fd(), PLANTED, true)?;
    if !exec::enter(&call.process, pending)? {
        return Ok(Outcome::Gone);
    }
    if privileged { exec_stop::supervise(call) } else { Ok(Outcome::Continue) }
}
