//! The host calls for which there is no safe wrapper: this crate's one unsafe module.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Turns a call's result into what Rust expects.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = checked(result)? as RawFd;
    // SAFETY: the host has just returned this number for a new descriptor, which nobody else knows. Unsafe, because a
    // raw system call returns numbers.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// `pidfd_open(2)`: a handle on a process.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the arguments are numbers. Unsafe, because libc offers no wrapper.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// `pidfd_send_signal(2)`.
///
/// # Errors
/// `ESRCH` when the process has ended.
pub fn pidfd_send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let information: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null information is allowed: the host fills it in as kill(2) would. Unsafe, because libc offers no wrapper.
    checked(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, information, 0) }).map(drop)
}

/// `open_tree(2)` with `OPEN_TREE_CLONE`: a detached copy of what is mounted at `path` below `directory`, with all that
/// is mounted below it when `recursive`.
///
/// # Errors
/// `open(2)`'s.
pub fn clone_tree(directory: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let path = c_string(path)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: `path` is a C string that outlives the call. Unsafe, because libc offers no wrapper.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })
}

/// `mount_setattr(2)`: sets attributes and, when `private`, cuts propagation on a detached tree.
///
/// # Errors
/// The host's.
pub fn set_mount_attributes(tree: &OwnedFd, set: u64, clear: u64, private: bool, recursive: bool) -> io::Result<()> {
    let attributes =
        libc::mount_attr { attr_set: set, attr_clr: clear, propagation: if private { libc::MS_PRIVATE } else { 0 }, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the structure outlives the call and its true size is given. Unsafe, because
    // libc offers no wrapper.
    checked(unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, &raw const attributes, size_of::<libc::mount_attr>())
    })
    .map(drop)
}

/// Makes a tap device in the calling thread's network namespace (Linux's Documentation/networking/tuntap.rst); gives it and the name that the host chose. It is gone
/// when it is closed.
///
/// # Errors
/// `ENOENT` or `ENODEV` without the module, `EPERM` without the capability.
pub fn tap() -> io::Result<(OwnedFd, String)> {
    let tap = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: the structure is plain numbers and bytes, for which zeros are values. Unsafe, because nothing says so of a C union.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: this request reads and writes one such structure, which outlives the call and which nobody else knows. Unsafe, because ioctl takes bare addresses.
    checked(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) }.into())?;
    // IFNAMSIZ has room for a name and its zero.
    let name: Vec<u8> = request.ifr_name.iter().map(|letter| *letter as u8).take_while(|letter| *letter != 0).collect();
    Ok((tap.into(), String::from_utf8_lossy(&name).into_owned()))
}

/// Marks every descriptor from `first` on close-on-exec: what we inherited is nobody's whom we start.
///
/// # Errors
/// `close_range(2)`'s.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: with the flag nothing is closed. Unsafe, because libc offers no wrapper.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, RawFd::MAX, libc::CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// `fork(2)` for a child that stays in this program and never returns: it runs `first`, lets go of every descriptor but
/// `keep` (the standard ones lead to `/dev/null`), and runs `then` with it, whose result is its exit status.
///
/// # Errors
/// The host's. Refused in a process with threads, whose locks the child would find taken for ever.
pub fn fork_into(keep: OwnedFd, first: impl FnOnce() -> io::Result<()>, then: impl FnOnce(OwnedFd) -> i32) -> io::Result<i32> {
    // A thread that has been joined may be listed a moment longer.
    let alone = || std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if !(0..500).any(|_| alone() || (std::thread::sleep(std::time::Duration::from_millis(1)), false).1) {
        return Err(io::Error::other("fork in a process with threads"));
    }
    // SAFETY: this process has one thread, so the child may do all that it could; it ends with `_exit`, without running
    // what the parent still wants to run. Unsafe, because fork copies every owner of a descriptor.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child.as_raw()),
        nix::unistd::ForkResult::Child => {
            // Opened first: the child may leave the tree in which it is.
            let null = std::fs::File::options().read(true).write(true).open("/dev/null");
            let status = null.and_then(|null| first().and_then(|()| keep_only(keep, null))).map_or(1, then);
            // SAFETY: ends the process; nothing of the parent's is flushed or dropped here.
            unsafe { libc::_exit(status) }
        }
    }
}

/// The fresh child's descriptors: `/dev/null` three times, and `keep`.
fn keep_only(keep: OwnedFd, null: std::fs::File) -> io::Result<OwnedFd> {
    const KEPT: RawFd = 3;
    // Both are closed below, by number: their owners must not close what has their numbers then.
    let (keep, null) = (std::mem::ManuallyDrop::new(keep), std::mem::ManuallyDrop::new(null));
    // SAFETY: numbers 0 to 2 have no owner in Rust. Number 3 may have one, as may those that are closed: all of them are
    // the parent's, copied by fork, and their owners are never used or dropped here, because the child ends with `_exit`
    // and runs nothing but `then`, which was given none of them. Unsafe, because dup2 and close_range take bare numbers.
    unsafe {
        // `keep` first goes where dup2 onto 0 to 3 does not hit it, and neither does the null device.
        let keep = checked(libc::fcntl(keep.as_raw_fd(), libc::F_DUPFD, KEPT + 1).into())? as RawFd;
        let null = checked(libc::fcntl(null.as_raw_fd(), libc::F_DUPFD, KEPT + 1).into())? as RawFd;
        for number in 0..KEPT {
            checked(libc::dup2(null, number).into())?;
        }
        checked(libc::dup3(keep, KEPT, libc::O_CLOEXEC).into())?;
        checked(libc::syscall(libc::SYS_close_range, KEPT + 1, RawFd::MAX, 0))?;
        Ok(OwnedFd::from_raw_fd(KEPT))
    }
}

/// Takes a descriptor that was inherited under a number.
///
/// # Errors
/// `EBADF` when nothing is open under it.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) with F_DUPFD_CLOEXEC takes any number, and fails for one that is not open.
    descriptor(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())
}

/// Takes a descriptor that has just come in a message.
///
/// # Errors
/// `EBADF` when nothing is open under the number.
pub fn received(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) with F_GETFD takes any number, and fails for one that is not open.
    checked(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: recvmsg(2) has installed it for the caller, who asks once. Unsafe, because nix hands descriptors over as
    // numbers.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Standard input, borrowed for good.
pub fn standard_input() -> BorrowedFd<'static> {
    // SAFETY: number 0 is never closed by this process. Unsafe, because `io::stdin()` lends its descriptor only for as
    // long as a handle lives.
    unsafe { BorrowedFd::borrow_raw(0) }
}

/// Brings the loopback interface of the calling thread's network namespace up.
///
/// # Errors
/// `ioctl(2)`'s (netdevice(7)).
pub fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the structure is plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    // SAFETY: both requests read and write one `ifreq`, which outlives the calls. Reading the union's flags follows the
    // call that sets them. Unsafe, because ioctl's argument is whatever the request says.
    unsafe {
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request).into())?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        checked(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request).into())?;
    }
    Ok(())
}

/// A terminal's size as rows and columns.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    // SAFETY: the structure is plain data, for which zeros are a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes one `winsize`, which outlives the call.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }.into())?;
    Ok((size.ws_row, size.ws_col))
}

/// Gives a terminal its size.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn set_window_size(terminal: BorrowedFd<'_>, (rows, columns): (u16, u16)) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one `winsize`, which outlives the call.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_cloned_tree_is_read_only_and_leaves_the_original_alone() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(directory.path()).unwrap();
        let tree = clone_tree(file.as_fd(), Path::new(""), true).unwrap();
        set_mount_attributes(&tree, crate::oci::mount_options::attribute::READ_ONLY, 0, true, true).unwrap();
        let inside = format!("/proc/self/fd/{}/x", tree.as_raw_fd());
        assert_eq!(std::fs::write(inside, "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
        std::fs::write(directory.path().join("x"), "x").unwrap();
    }

    #[test]
    fn what_is_no_terminal_says_so() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(window_size(file.as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        assert_eq!(inherited(9999).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
