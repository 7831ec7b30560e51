//! What a container's /dev has in it.

use std::sync::Arc;

use oci_spec::runtime::{LinuxDeviceType, Spec};

use crate::errno::Result;
use crate::fs::dev::DEFAULT;
use crate::fs::tmpfs::TmpNode;
use crate::vfs::node::{FileType, Node, SetAttributes};

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
        let Ok(name) = device.path().strip_prefix("/dev") else { continue };
        let Some(name) = name.to_str().filter(|name| !name.contains('/')) else { continue };
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            _ => FileType::CharacterDevice,
        };
        let number = libc::makedev(device.major() as u32, device.minor() as u32);
        let who = crate::kernel::credentials::Credentials::kernel();
        let _ = Node::unlink(root.clone(), name.as_bytes(), false, &who);
        let node = root.put(name, kind, device.file_mode().unwrap_or(0o666), number)?;
        node.set_attributes(&SetAttributes { uid: device.uid(), gid: device.gid(), ..Default::default() }, &who)?;
    }
    Ok(())
}
