//! Rules about rights that hold on every file system, for those whose files live in this process: who may remove a name (inode(7)), which set-id bits
//! go when a file changes hands or is written, and the protections of proc_sys_fs(5).
//!
//! On host directories the host applies the same rules itself. The protections are therefore as the host has them, on every file system.

use std::sync::OnceLock;

use super::node::{Attributes, FileType, NodeRef, Permission, permits};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};

/// Whether a name may be removed from a directory: write and search on it, and the sticky bit's rule.
pub fn may_remove(directory: &Attributes, child: &Attributes, who: &Credentials) -> Result<()> {
    permits(directory, Permission::WRITE | Permission::EXECUTE, who)?;
    let sticky = directory.mode & libc::S_ISVTX != 0;
    if sticky && who.fsuid != directory.uid && who.fsuid != child.uid && !who.capable(Capability::Fowner) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// The set-group-ID bit of a file without group execution stays for members of the group, and for the holder of `CAP_FSETID`.
fn in_group_or_capable(gid: u32, who: &Credentials) -> bool {
    who.in_group(gid) || who.capable(Capability::Fsetid)
}

/// A file's mode after chown(2): even root's takes the bits away, except from directories.
pub fn mode_after_chown(mode: u32, gid: u32, who: &Credentials) -> u32 {
    let mut kept = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 || !in_group_or_capable(gid, who) {
        kept &= !libc::S_ISGID;
    }
    kept
}

/// A file's mode after it has been written by `who`: the holder of `CAP_FSETID` changes nothing.
pub fn mode_after_write(mode: u32, gid: u32, who: &Credentials) -> u32 {
    if mode & (libc::S_ISUID | libc::S_ISGID) == 0 || who.capable(Capability::Fsetid) { mode } else { mode_after_chown(mode, gid, who) }
}

/// The mode of a new file in a directory that hands its group down: no set-group-ID program of a group that its maker is not in.
pub fn mode_of_new(mode: u32, kind: FileType, directory_gid: u32, who: &Credentials) -> u32 {
    const PROGRAM: u32 = libc::S_ISGID | libc::S_IXGRP;
    match kind {
        FileType::Directory => mode | libc::S_ISGID,
        _ if mode & PROGRAM == PROGRAM && !in_group_or_capable(directory_gid, who) => mode & !libc::S_ISGID,
        _ => mode,
    }
}

/// The switches of proc_sys_fs(5), as the host has them.
struct Protections {
    hardlinks: bool,
    symlinks: bool,
    fifos: u8,
    regular: u8,
}

fn protections() -> &'static Protections {
    static PROTECTIONS: OnceLock<Protections> = OnceLock::new();
    PROTECTIONS.get_or_init(|| {
        let read = |name: &str| {
            let text = std::fs::read_to_string(crate::boot::tree::fact(&format!("sys/fs/{name}"))).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        Protections {
            hardlinks: read("protected_hardlinks") != 0,
            symlinks: read("protected_symlinks") != 0,
            fifos: read("protected_fifos"),
            regular: read("protected_regular"),
        }
    })
}

/// `protected_hardlinks`: a link may be made by a file's owner, and to what its maker may read and write and is not a set-id program.
pub fn may_link(file: &NodeRef, who: &Credentials) -> Result<()> {
    if !protections().hardlinks {
        return Ok(());
    }
    let shown = file.attributes()?;
    if who.fsuid == shown.uid || who.capable(Capability::Fowner) {
        return Ok(());
    }
    const PROGRAM: u32 = libc::S_ISGID | libc::S_IXGRP;
    let safe = file.file_type() == FileType::Regular && shown.mode & libc::S_ISUID == 0 && shown.mode & PROGRAM != PROGRAM;
    if safe && file.access(Permission::READ | Permission::WRITE, who).is_ok() { Ok(()) } else { Err(Errno::EPERM) }
}

const OPEN_TO_ALL: u32 = libc::S_ISVTX | libc::S_IWOTH;

/// `protected_symlinks`: in a sticky directory that all may write to, only links of the follower or of the directory's owner are followed.
pub fn may_follow(directory: &NodeRef, link: &NodeRef, who: &Credentials) -> Result<()> {
    if !protections().symlinks {
        return Ok(());
    }
    let link = link.attributes()?;
    if link.uid == who.fsuid {
        return Ok(());
    }
    let directory = directory.attributes()?;
    if directory.mode & OPEN_TO_ALL != OPEN_TO_ALL || directory.uid == link.uid { Ok(()) } else { Err(Errno::EACCES) }
}

/// `protected_regular` and `protected_fifos`: in a sticky directory, `O_CREAT` does not open what somebody else has put there.
pub fn may_reuse(directory: &NodeRef, found: &NodeRef, who: &Credentials) -> Result<()> {
    let level = match found.file_type() {
        FileType::Fifo => protections().fifos,
        FileType::Regular => protections().regular,
        _ => 0,
    };
    if level == 0 {
        return Ok(());
    }
    let (above, file) = (directory.attributes()?, found.attributes()?);
    if above.mode & libc::S_ISVTX == 0 || file.uid == above.uid || file.uid == who.fsuid {
        return Ok(());
    }
    let shared = above.mode & libc::S_IWOTH != 0 || (level > 1 && above.mode & libc::S_IWGRP != 0);
    if shared { Err(Errno::EACCES) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::credentials::Capabilities;

    #[test]
    fn set_id_bits_go_as_in_linux() {
        let root = Credentials::of(0, 0, &[], Capabilities::ALL);
        let user = Credentials::of(1000, 1000, &[2000], Capabilities::NONE);
        assert_eq!(mode_after_chown(0o6755, 0, &root), 0o755);
        assert_eq!(mode_after_chown(0o6745, 0, &root), 0o2745);
        assert_eq!(mode_after_write(0o6755, 0, &root), 0o6755);
        assert_eq!(mode_after_write(0o6755, 1000, &user), 0o755);
        assert_eq!(mode_after_write(0o2745, 2000, &user), 0o2745);
        assert_eq!(mode_after_write(0o2745, 3000, &user), 0o745);
        assert_eq!(mode_of_new(0o2755, FileType::Regular, 3000, &user), 0o755);
        assert_eq!(mode_of_new(0o2745, FileType::Regular, 3000, &user), 0o2745);
        assert_eq!(mode_of_new(0o755, FileType::Directory, 3000, &user), 0o2755);
    }
}
