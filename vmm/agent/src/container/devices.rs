//! What a container's /dev has in it: Linux's usual six devices, those of config.json, and the links that runc makes.
//!
//! There is no device controller. A device number means the guest kernel's device, the guest has none of the host's, and who may make nodes
//! (`CAP_MKNOD`) is said by config.json; what the controller would guard against is on the other side of the wall.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use bulkhead_protocol::call::Refusal;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknodat, umask};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use super::root::{Kind, Root};
use super::{invalid, text};

const DEFAULT: [(&str, u64, u64); 6] = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes them.
///
/// # Errors
/// The device that can not be made.
pub fn make(root: &Root, spec: &Spec) -> Result<(), Refusal> {
    let before = umask(Mode::empty());
    let made = populate(root, spec);
    umask(before);
    made
}

fn populate(root: &Root, spec: &Spec) -> Result<(), Refusal> {
    let directory = root.make(Path::new("/dev"), Kind::Directory).map_err(|error| invalid(format!("making /dev: {}", text(error))))?;
    for (name, major, minor) in DEFAULT {
        let mode = Mode::from_bits_truncate(0o666);
        match mknodat(&directory, name, SFlag::S_IFCHR, mode, makedev(major, minor)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(invalid(format!("making /dev/{name}: {}", text(error)))),
        }
    }
    for (name, target) in LINKS {
        match symlinkat(target, &directory, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(invalid(format!("making /dev/{name}: {}", text(error)))),
        }
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for device in devices.into_iter().flatten() {
        one(root, device).map_err(|error| invalid(format!("linux.devices: making {}: {}", device.path().display(), text(error))))?;
    }
    Ok(())
}

fn one(root: &Root, device: &LinuxDevice) -> nix::Result<()> {
    let (parent, name) = root.parent(device.path())?;
    let kind = match device.typ() {
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::A => return Err(Errno::EINVAL),
    };
    let mode = Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666) & 0o7777);
    let number = makedev(u64::try_from(device.major()).unwrap_or(0), u64::try_from(device.minor()).unwrap_or(0));
    // One of the default devices may have the name.
    match nix::unistd::unlinkat(&parent, name.as_path(), nix::unistd::UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    mknodat(&parent, name.as_path(), kind, mode, number)?;
    let owner = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
    chown(parent.as_fd(), &name, owner)
}

fn chown(parent: BorrowedFd<'_>, name: &Path, (uid, gid): (Option<Uid>, Option<Gid>)) -> nix::Result<()> {
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    fchownat(parent, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)
}
