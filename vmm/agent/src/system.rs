//! The kernel calls for which there is no safe wrapper: this crate's one unsafe module.
//!
//! Mounts are made with the descriptors of the newer interface (fsopen(2), open_tree(2), move_mount(2), mount_setattr(2)): a path inside a
//! container's tree is resolved once, below the container's root, and what was resolved is what is mounted upon. With mount(2) the kernel would
//! resolve the text again, and a symbolic link of the image's could lead it out.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bulkhead_protocol::seccomp::Profile;
use nix::errno::Errno;
use nix::unistd::Pid;

/// Turns a call's result into what Rust expects.
fn checked(result: libc::c_long) -> nix::Result<libc::c_long> {
    Errno::result(result)
}

fn descriptor(result: libc::c_long) -> nix::Result<OwnedFd> {
    let number = checked(result)? as RawFd;
    // SAFETY: the kernel has just returned this number for a new descriptor, which nobody else knows. Unsafe, because a raw system call
    // returns numbers.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The next connection to a listening socket, without blocking; none where there is none now.
///
/// # Errors
/// accept(2)'s.
pub fn accept(listener: BorrowedFd<'_>) -> nix::Result<Option<OwnedFd>> {
    use nix::sys::socket::{SockFlag, accept4};
    match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
        Ok(number) => descriptor(number.into()).map(Some),
        Err(Errno::EAGAIN | Errno::ECONNABORTED | Errno::EINTR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Receives one message and the descriptor that comes with it, close-on-exec.
///
/// # Errors
/// recvmsg(2)'s.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut slices = [io::IoSliceMut::new(bytes)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut received = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                received = Some(descriptor(number.into())?);
            }
        }
    }
    Ok((message.bytes, received))
}

/// A path or another text as the kernel takes it.
///
/// # Errors
/// `EINVAL` for one that holds a zero byte.
pub fn c_string(text: impl AsRef<Path>) -> nix::Result<CString> {
    CString::new(text.as_ref().as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

/// Flags of `mount_setattr(2)` (include/uapi/linux/mount.h).
pub mod attribute {
    /// Read-only.
    pub const READ_ONLY: u64 = 0x1;
    /// Set-user-ID bits mean nothing.
    pub const NO_SUID: u64 = 0x2;
    /// Device nodes can not be opened.
    pub const NO_DEVICES: u64 = 0x4;
    /// Nothing can be executed.
    pub const NO_EXEC: u64 = 0x8;
    /// Access times: a field of three bits; relatime is 0.
    pub const ATIME: u64 = 0x70;
    /// Access times are not kept.
    pub const NO_ATIME: u64 = 0x10;
    /// Access times are always kept.
    pub const STRICT_ATIME: u64 = 0x20;
    /// Access times of directories are not kept.
    pub const NO_DIRECTORY_ATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NO_SYMLINKS: u64 = 0x20_0000;
}

// include/uapi/linux/mount.h: enum fsconfig_command and flags that libc does not have.
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// A file system that is being made (fsopen(2)).
#[derive(Debug)]
pub struct NewFileSystem(OwnedFd);

impl NewFileSystem {
    /// Begins one of this type.
    ///
    /// # Errors
    /// `ENODEV` where the kernel does not have the type.
    pub fn open(kind: &str) -> nix::Result<Self> {
        let kind = c_string(kind)?;
        // SAFETY: the name is a C string that outlives the call. Unsafe, because libc offers no wrapper.
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    /// Sets an option: `key=value`, or a flag where there is no value.
    ///
    /// # Errors
    /// `EINVAL` for one that the file system does not take.
    pub fn set(&self, key: &str, value: Option<&str>) -> nix::Result<()> {
        let key = c_string(key)?;
        let value = value.map(c_string).transpose()?;
        let command = if value.is_some() { FSCONFIG_SET_STRING } else { FSCONFIG_SET_FLAG };
        let value = value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr());
        // SAFETY: both texts are C strings that outlive the call; a flag has a null value (fsconfig(2)). Unsafe, because libc offers no wrapper.
        checked(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key.as_ptr(), value, 0) }).map(drop)
    }

    /// Makes the file system and gives a detached mount of it.
    ///
    /// # Errors
    /// mount(2)'s.
    pub fn mount(self, attributes: u64) -> nix::Result<OwnedFd> {
        let nothing: *const libc::c_char = std::ptr::null();
        // SAFETY: creating takes neither key nor value. Unsafe, because libc offers no wrapper.
        checked(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), FSCONFIG_CMD_CREATE, nothing, nothing, 0) })?;
        // SAFETY: the arguments are numbers. Unsafe, because libc offers no wrapper.
        descriptor(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as libc::c_uint) })
    }

    /// What the file system says about its refusal (fsopen(2): reading gives messages); empty where it says nothing.
    pub fn complaint(&self) -> String {
        let mut text = [0; 512];
        let length = nix::unistd::read(&self.0, &mut text).unwrap_or(0);
        String::from_utf8_lossy(&text[..length]).trim_end().trim_start_matches("e ").to_owned()
    }
}

/// A detached copy of what is mounted at `path` below `directory` (open_tree(2)), with all that is mounted below it when `recursive`.
///
/// # Errors
/// open(2)'s.
pub fn clone_tree(directory: BorrowedFd<'_>, path: &Path, recursive: bool) -> nix::Result<OwnedFd> {
    let path = c_string(path)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: the path is a C string that outlives the call. Unsafe, because libc offers no wrapper.
    descriptor(unsafe { libc::syscall(libc::SYS_open_tree, directory.as_raw_fd(), path.as_ptr(), flags) })
}

/// Attaches a detached mount on the file that `place` is (move_mount(2)).
///
/// # Errors
/// `ENOTDIR` where one is a directory and the other is not.
pub fn attach(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty C strings. Unsafe, because libc offers no wrapper.
    checked(unsafe { libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), place.as_raw_fd(), c"".as_ptr(), flags) })
        .map(drop)
}

/// Changes a mount's attributes and propagation (`MS_PRIVATE` and its kin, 0 to leave it), and those below it when `recursive`.
///
/// # Errors
/// mount_setattr(2)'s.
pub fn set_attributes(mount: BorrowedFd<'_>, set: u64, clear: u64, propagation: libc::c_ulong, recursive: bool) -> nix::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the structure outlives the call and its true size is given. Unsafe, because libc offers no wrapper.
    checked(unsafe {
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attributes, size_of::<libc::mount_attr>())
    })
    .map(drop)
}

/// fork(2) for a child that stays in this program until it executes another one, or ends with the status that `child` gives.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`; `EBUSY` in a process with threads, whose locks the child would find taken for ever.
pub fn fork(child: impl FnOnce() -> i32) -> nix::Result<Pid> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(Errno::EBUSY);
    }
    // SAFETY: this process has one thread, so the child may do all that it could; it ends in execve(2) or `_exit` and never runs what the
    // parent still wants to run. Unsafe, because fork copies every owner of a descriptor.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => exit(child()),
    }
}

/// Ends this process at once: nothing is flushed or dropped.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the process; what a forked child leaves behind is the parent's to drop.
    unsafe { libc::_exit(status) }
}

/// pidfd_open(2): a handle on a process.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn pidfd_open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: the arguments are numbers. Unsafe, because libc offers no wrapper.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// pidfd_send_signal(2).
///
/// # Errors
/// `ESRCH` when the process has ended, `EINVAL` for a number that is no signal.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    let information: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null information is allowed: the kernel fills it in as kill(2) would. Unsafe, because libc offers no wrapper.
    checked(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, information, 0) }).map(drop)
}

/// Gives a descriptor this number too; at the new number it survives execve(2).
///
/// # Errors
/// dup2(2)'s.
pub fn place_descriptor(from: RawFd, number: RawFd) -> nix::Result<()> {
    // SAFETY: only called in a forked child that is about to execute a program: whoever owned `number` never runs there. Unsafe, because
    // descriptors are dealt with as numbers.
    checked(unsafe { libc::dup2(from, number) }.into()).map(drop)
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// close_range(2)'s.
pub fn close_from(first: RawFd) -> nix::Result<()> {
    // SAFETY: as for `place_descriptor`: in a forked child, whose copies of the parent's owners are never dropped. Unsafe for the same reason.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, RawFd::MAX, 0) }).map(drop)
}

/// Borrows a descriptor of a forked child by its number.
pub fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the child has put the descriptor there itself and keeps it to its end. Unsafe, because it is known by its number alone.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// The signals' dispositions and mask as a fresh program expects them: Rust ignores `SIGPIPE`, and the agent blocks what it reads from a signalfd.
pub fn default_signals() -> nix::Result<()> {
    // SAFETY: SIG_DFL runs no code of ours. Unsafe, because nix takes any handler here.
    unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) }?;
    nix::sys::signal::SigSet::empty().thread_set_mask()
}

/// Installs a seccomp program on this thread (seccomp(2)).
///
/// # Errors
/// `EACCES` without `no_new_privs` or `CAP_SYS_ADMIN`, `EINVAL` for flags that the kernel does not have.
pub fn install_filter(profile: &Profile) -> nix::Result<()> {
    let length = u16::try_from(profile.program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len: length, filter: profile.program.as_ptr().cast_mut().cast() };
    // SAFETY: the instructions have the layout of `struct sock_filter` (repr(C), same fields), the kernel only reads them, and they outlive the
    // call; their number is the true one. Unsafe, because libc offers no wrapper.
    checked(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, profile.flags, &raw const program) }).map(drop)
}

/// Makes this terminal the controlling one of the caller's session (`TIOCSCTTY`, tty_ioctl(4)).
///
/// # Errors
/// `EPERM` where the caller leads no session or has a terminal.
pub fn control_terminal(terminal: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the argument is a number. Unsafe, because ioctl is untyped.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Unlocks a pseudo-terminal's master and opens its slave (`TIOCSPTLCK`, `TIOCGPTPEER`, ioctl_tty(2)): no path is looked up.
///
/// # Errors
/// ioctl(2)'s.
pub fn open_slave(master: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the kernel reads one int. Unsafe, because ioctl is untyped.
    checked(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the argument is a number. Unsafe, because ioctl is untyped.
    descriptor(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// The number of a pseudo-terminal (`TIOCGPTN`).
///
/// # Errors
/// ioctl(2)'s.
pub fn terminal_number(master: BorrowedFd<'_>) -> nix::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the kernel writes one unsigned int. Unsafe, because ioctl is untyped.
    checked(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) }.into())?;
    Ok(number)
}

/// Sets a terminal's size (`TIOCSWINSZ`).
///
/// # Errors
/// ioctl(2)'s.
pub fn set_window_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one `struct winsize`. Unsafe, because ioctl is untyped.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into()).map(drop)
}

/// Loads a kernel module (finit_module(2)); compressed ones the kernel unpacks itself where their name says so.
///
/// # Errors
/// `EEXIST` for one that is loaded.
pub fn load_module(module: BorrowedFd<'_>, compressed: bool) -> nix::Result<()> {
    /// `MODULE_INIT_COMPRESSED_FILE` (include/uapi/linux/module.h).
    const COMPRESSED: libc::c_int = 4;
    let flags = if compressed { COMPRESSED } else { 0 };
    // SAFETY: the parameters are an empty C string. Unsafe, because libc offers no wrapper.
    checked(unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), flags) }).map(drop)
}

/// Adds bytes to the kernel's source of randomness, counted as entropy, and has its generator use them now (`RNDADDENTROPY`, `RNDRESEEDCRNG`,
/// random(4)). Without the second a guest that was restored from a snapshot would repeat what another one drew.
///
/// # Errors
/// ioctl(2)'s; `EINVAL` for more than a page.
pub fn credit_entropy(random: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<()> {
    /// `_IOW('R', 0x03, int[2])` and `_IO('R', 0x07)` (include/uapi/linux/random.h).
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    if bytes.len() > 4096 {
        return Err(Errno::EINVAL);
    }
    // `struct rand_pool_info`: bits, bytes, then the bytes, as words of 32 bits so that it is aligned.
    let mut pool = vec![bytes.len() as u32 * 8, bytes.len() as u32];
    pool.extend(bytes.chunks(4).map(|chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_ne_bytes(word)
    }));
    // SAFETY: the kernel reads two ints and as many bytes as the second says, which are in the vector. Unsafe, because ioctl is untyped.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, pool.as_ptr()) }.into())?;
    // SAFETY: takes no argument. Unsafe, because ioctl is untyped.
    checked(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0) }.into()).map(drop)
}

/// Ends the machine (reboot(2)). Returns only where this is not the machine's first process.
pub fn power_off() {
    nix::unistd::sync();
    // SAFETY: takes a number; nothing of this process matters afterwards.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF) };
}

/// An errno as people read it, in the middle of a sentence.
pub fn text(error: Errno) -> String {
    let text = error.desc();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
