//! The first file system: the agent as `/init`, the modules it loads, and the directories it mounts on.
//!
//! | | |
//! |---|---|
//! | `/init` | the agent, which the kernel starts as process 1 |
//! | `/modules/order` | the names of the files beside it, one on each line, in the order in which they are to be loaded; empty where there are none |
//! | `/modules/*.ko` | modules, unpacked: the guest needs no unpacking program, nor its kernel the code (`MODULE_INIT_COMPRESSED_FILE`) |
//! | `/dev/console` | what the kernel opens for the first process's three descriptors, before anything could be mounted on `/dev` |
//! | `/dev`, `/proc`, `/sys`, `/run`, `/tmp`, `/mnt` | empty |
//!
//! The kernel unpacks it into a tmpfs or ramfs that stays: the agent may remove the modules when they are loaded, and gets their memory back.

use crate::BuildError;
use crate::cpio::Archive;
use crate::elf::Elf;
use crate::kernel::read_file;
use crate::modules::Module;
use std::path::Path;

/// Where modules are.
pub const MODULES: &str = "modules";
/// The file with their order, below [`MODULES`].
pub const ORDER: &str = "order";
/// The largest agent that is read, bytes.
const LARGEST_AGENT: u64 = 256 << 20;
/// `/dev/console`: `Documentation/admin-guide/devices.txt`.
const CONSOLE: (u32, u32) = (5, 1);

/// Writes one.
///
/// # Errors
/// [`BuildError::Initramfs`].
pub fn write(agent: &[u8], modules: &[Module]) -> Result<Vec<u8>, BuildError> {
    let mut archive = Archive::new();
    for (directory, mode) in
        [("dev", 0o755), ("mnt", 0o755), ("proc", 0o555), ("run", 0o755), ("sys", 0o555), ("tmp", 0o1777), (MODULES, 0o755)]
    {
        archive.directory(directory, mode)?;
    }
    archive.node("dev/console", 0o600, CONSOLE.0, CONSOLE.1)?;
    archive.file("init", 0o755, agent)?;
    let order: String = modules.iter().map(|module| format!("{}\n", module.file)).collect();
    archive.file(&format!("{MODULES}/{ORDER}"), 0o644, order.as_bytes())?;
    for module in modules {
        archive.file(&format!("{MODULES}/{}", module.file), 0o644, &module.bytes)?;
    }
    Ok(archive.finish())
}

/// Reads the agent, and refuses one that could not be a guest's first process: it has no dynamic loader and no libraries there.
///
/// # Errors
/// [`BuildError::Agent`], [`BuildError::File`].
pub fn read_agent(path: &Path) -> Result<Vec<u8>, BuildError> {
    let bytes = read_file(path, LARGEST_AGENT)?;
    let wrong = |reason: String| BuildError::Agent { path: path.to_owned(), reason };
    let elf = Elf::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    if !elf.is_program() {
        return Err(wrong(String::from("not a program")));
    }
    match elf.interpreter() {
        Some(loader) => Err(wrong(format!(
            "linked dynamically ({loader}), where a guest has no libraries: build it with -C target-feature=+crt-static"
        ))),
        None => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpio::tests::read;
    use crate::elf::tests::file;

    #[test]
    fn it_holds_what_the_agent_finds() {
        let modules = [Module { file: "vsock.ko".into(), bytes: vec![1] }, Module { file: "virtio_net.ko".into(), bytes: vec![2; 9] }];
        let image = write(b"agent", &modules).unwrap();
        let members = read(&image);
        let find = |name: &str| members.iter().find(|member| member.0 == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!((find("init").1, find("init").3.as_slice()), (libc::S_IFREG | 0o755, &b"agent"[..]));
        assert_eq!(find("modules/order").3, b"vsock.ko\nvirtio_net.ko\n");
        assert_eq!(find("modules/virtio_net.ko").3, [2; 9]);
        assert_eq!((find("dev/console").1, find("dev/console").2), (libc::S_IFCHR | 0o600, (5, 1)));
        assert_eq!(find("tmp").1, libc::S_IFDIR | 0o1777);
        assert_eq!(write(b"agent", &modules).unwrap(), image);
        let none = write(b"agent", &[]).unwrap();
        assert!(read(&none).iter().any(|member| member.0 == "modules/order" && member.3.is_empty()));
    }

    #[test]
    fn an_agent_that_could_not_start_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("agent");
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_agent(&path).unwrap_err().to_string().replace(path.to_str().unwrap(), "AGENT")
        };
        assert_eq!(refused(b"#!/bin/sh\n"), "the agent AGENT: not an ELF file");
        assert_eq!(refused(&file(1, &[], b"")), "the agent AGENT: not a program");
        let dynamic = file(3, &[(1, 0, b"x", 1), (3, 0, b"/lib64/ld.so\0", 0)], b"");
        assert!(refused(&dynamic).starts_with("the agent AGENT: linked dynamically (/lib64/ld.so), where"));
        std::fs::write(&path, file(3, &[(1, 0, b"x", 1)], b"")).unwrap();
        assert!(read_agent(&path).is_ok());
    }
}
