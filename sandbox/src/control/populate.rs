//! What a container's /dev has in it.

use std::sync::Arc;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};

use crate::errno::{Errno, Result};
use crate::fs::dev::DEFAULT;
use crate::fs::tmpfs::TmpNode;
use crate::vfs::node::{FileType, NodeRef, SetAttributes};

/// The links that runc makes.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the default devices, those of config.json, and the links.
pub fn devices(root: &Arc<TmpNode>, spec: &Spec) -> Result<()> {
    for (name, major, minor) in DEFAULT {
        root.put(name, FileType::CharacterDevice, 0o666, libc::makedev(major, minor))?;
    }
    for (name, target) in LINKS {
        root.add_link(name, target)?;
    }
    if spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false) {
        root.put("console", FileType::CharacterDevice, 0o620, libc::makedev(5, 1))?;
    }
    let devices = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    for device in devices.into_iter().flatten() {
        make(root, device)?;
    }
    Ok(())
}

/// Makes a device of config.json, in the directory below /dev that its path names.
fn make(root: &Arc<TmpNode>, device: &LinuxDevice) -> Result<()> {
    let who = crate::kernel::credentials::Credentials::kernel();
    let path = device.path().strip_prefix("/dev").ok().and_then(|path| path.to_str()).ok_or(Errno::EINVAL)?;
    let (directories, name) = path.rsplit_once('/').map_or((None, path), |(directories, name)| (Some(directories), name));
    let mut directory: NodeRef = root.clone();
    for part in directories.into_iter().flat_map(|path| path.split('/')) {
        directory = match directory.clone().lookup(part.as_bytes(), &who) {
            Err(Errno::ENOENT) => directory.make_directory(part.as_bytes(), 0o755, &who)?,
            found => found?,
        };
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let number = libc::makedev(device.major() as u32, device.minor() as u32);
    // One of the default devices may have the name.
    let _ = directory.clone().unlink(name.as_bytes(), false, &who);
    let node = directory.make_node(name.as_bytes(), kind.mode() | device.file_mode().unwrap_or(0o666), number, &who)?;
    node.set_attributes(&SetAttributes { uid: device.uid(), gid: device.gid(), ..Default::default() }, &who)
}
