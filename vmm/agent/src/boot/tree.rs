//! The guest's own tree.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use bulkhead_protocol::guest::{SHARED, SHARED_TAG};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::system::text;

/// A mount that failed.
#[derive(Debug, thiserror::Error)]
#[error("mounting {kind} at {}: {}", place, text(*error))]
pub struct MountError {
    kind: &'static str,
    place: &'static str,
    error: Errno,
}

/// A mount of the guest's.
struct Row {
    kind: &'static str,
    place: &'static str,
    flags: MsFlags,
    options: &'static str,
}

/// No set-user-ID programs, no programs, no devices.
const DATA: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// In order. With `nsdelegate` a container can not reach beyond its own cgroup even where it may write to it.
const ROWS: &[Row] = &[
    Row { kind: "proc", place: "/proc", flags: DATA, options: "" },
    Row { kind: "sysfs", place: "/sys", flags: DATA, options: "" },
    Row { kind: "devtmpfs", place: "/dev", flags: MsFlags::MS_NOSUID, options: "mode=0755" },
    Row { kind: "devpts", place: "/dev/pts", flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC), options: "mode=0620,ptmxmode=0666" },
    Row { kind: "tmpfs", place: "/dev/shm", flags: DATA, options: "mode=1777" },
    Row { kind: "tmpfs", place: "/run", flags: DATA, options: "mode=0755" },
    Row { kind: "cgroup2", place: "/sys/fs/cgroup", flags: DATA, options: "nsdelegate,memory_recursiveprot" },
];

/// Puts a mount of the root file system over itself.
///
/// The kernel's first file system, into which it unpacks the initramfs, can not be exchanged (pivot_root(2): "EINVAL The current root is on the
/// rootfs (initial ramfs) mount"), and containers must exchange theirs. A mount upon it can be.
///
/// # Errors
/// The kernel's.
pub fn rebase() -> Result<(), MountError> {
    const BASE: &str = "/.base";
    let failed = |error| MountError { kind: "the root file system", place: "/", error };
    match nix::unistd::mkdir(BASE, nix::sys::stat::Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(failed(error)),
    }
    let nothing: Option<&str> = None;
    mount(Some("/"), BASE, nothing, MsFlags::MS_BIND, nothing).map_err(failed)?;
    nix::unistd::chdir(BASE).map_err(failed)?;
    mount(Some("."), "/", nothing, MsFlags::MS_MOVE, nothing).map_err(failed)?;
    nix::unistd::chroot(".").map_err(failed)?;
    nix::unistd::chdir("/").map_err(failed)
}

/// Mounts what every Linux system has.
///
/// # Errors
/// The first mount that fails.
pub fn mount_all() -> Result<(), MountError> {
    ROWS.iter().try_for_each(|row| one(row.kind, row.kind, row.place, row.flags, row.options))
}

fn one(source: &str, kind: &'static str, place: &'static str, flags: MsFlags, options: &str) -> Result<(), MountError> {
    // It is there, or mounting will say that it is not.
    let _ = fs::create_dir_all(place);
    match mount(Some(source), place, Some(kind), flags, Some(options)) {
        // The kernel has mounted it itself.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(error) => Err(MountError { kind, place, error }),
    }
}

/// Makes the first file system read-only: the agent's program is in it, and a process of the agent's is for a moment where a container's
/// processes could open it for writing.
///
/// # Errors
/// The kernel's.
pub fn seal() -> Result<(), MountError> {
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, nothing).map_err(|error| MountError {
        kind: "the root file system, read-only,",
        place: "/",
        error,
    })
}

/// Mounts the file system of shared trees. Set-user-ID programs and devices are what they are in the guest: images have both.
///
/// # Errors
/// `EINVAL` where there is no such device.
pub fn mount_shared() -> Result<(), MountError> {
    one(SHARED_TAG, "virtiofs", SHARED, MsFlags::empty(), "")
}

/// Standard streams lead to the console that the monitor reads: the virtio one, or the kernel's.
pub fn log_to_console() {
    let open = |path: &Path| File::options().read(true).write(true).open(path);
    let console: io::Result<File> = open(Path::new("/dev/hvc0")).or_else(|_| open(Path::new("/dev/console")));
    let null = open(Path::new("/dev/null"));
    if let Ok(null) = &null {
        let _ = nix::unistd::dup2_stdin(null);
    }
    // Without any console there is nobody to tell.
    if let Ok(console) = console.or(null) {
        let _ = nix::unistd::dup2_stdout(&console);
        let _ = nix::unistd::dup2_stderr(&console);
    }
}
