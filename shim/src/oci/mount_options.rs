//! Mount options: one table of what each means, and the options that file systems take.
//!
//! Source of the names: runtime-spec, config.md, "Linux mount options"; mount(8).

/// Flags of `mount_setattr(2)`. Source: include/uapi/linux/mount.h.
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

/// What an option does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// A bind mount; recursive or not.
    Bind(bool),
    /// Sets and clears attributes.
    Attributes(u64, u64),
    /// The same, on the mount and everything below it.
    Recursive(u64, u64),
    /// Propagation from and to the host. A detached tree gets nothing and gives nothing: private and slave are met.
    Private,
    /// The user-space kernel's own affair, or without a meaning for it: passed on.
    Passed,
}

use Meaning::{Attributes, Bind, Passed, Private, Recursive};
use attribute::{ATIME, NO_ATIME, NO_DEVICES, NO_DIRECTORY_ATIME, NO_EXEC, NO_SUID, NO_SYMLINKS, READ_ONLY, STRICT_ATIME};

const OPTIONS: &[(&str, Meaning)] = &[
    ("bind", Bind(false)),
    ("rbind", Bind(true)),
    ("defaults", Passed),
    ("ro", Attributes(READ_ONLY, 0)),
    ("rw", Attributes(0, READ_ONLY)),
    ("nosuid", Attributes(NO_SUID, 0)),
    ("suid", Attributes(0, NO_SUID)),
    ("nodev", Attributes(NO_DEVICES, 0)),
    ("dev", Attributes(0, NO_DEVICES)),
    ("noexec", Attributes(NO_EXEC, 0)),
    ("exec", Attributes(0, NO_EXEC)),
    ("relatime", Attributes(0, ATIME)),
    ("norelatime", Passed),
    ("noatime", Attributes(NO_ATIME, ATIME)),
    ("atime", Passed),
    ("strictatime", Attributes(STRICT_ATIME, ATIME)),
    ("nostrictatime", Passed),
    ("nodiratime", Attributes(NO_DIRECTORY_ATIME, 0)),
    ("diratime", Attributes(0, NO_DIRECTORY_ATIME)),
    ("nosymfollow", Attributes(NO_SYMLINKS, 0)),
    ("symfollow", Attributes(0, NO_SYMLINKS)),
    ("rro", Recursive(READ_ONLY, 0)),
    ("rrw", Recursive(0, READ_ONLY)),
    ("rnosuid", Recursive(NO_SUID, 0)),
    ("rsuid", Recursive(0, NO_SUID)),
    ("rnodev", Recursive(NO_DEVICES, 0)),
    ("rdev", Recursive(0, NO_DEVICES)),
    ("rnoexec", Recursive(NO_EXEC, 0)),
    ("rexec", Recursive(0, NO_EXEC)),
    ("rrelatime", Recursive(0, ATIME)),
    ("rnoatime", Recursive(NO_ATIME, ATIME)),
    ("rstrictatime", Recursive(STRICT_ATIME, ATIME)),
    ("rnodiratime", Recursive(NO_DIRECTORY_ATIME, 0)),
    ("rdiratime", Recursive(0, NO_DIRECTORY_ATIME)),
    ("rnosymfollow", Recursive(NO_SYMLINKS, 0)),
    ("rsymfollow", Recursive(0, NO_SYMLINKS)),
    ("private", Private),
    ("rprivate", Private),
    ("slave", Private),
    ("rslave", Private),
    ("unbindable", Private),
    ("runbindable", Private),
    ("sync", Passed),
    ("async", Passed),
    ("dirsync", Passed),
    ("lazytime", Passed),
    ("nolazytime", Passed),
    ("loud", Passed),
    ("silent", Passed),
];

/// The types of file system that the user-space kernel mounts, and the options that each takes besides the common ones;
/// those that end in `=` take a value.
const FILE_SYSTEMS: &[(&str, &[&str])] = &[
    ("bind", &[]),
    ("none", &[]),
    ("tmpfs", &["size=", "mode=", "uid=", "gid=", "nr_inodes=", "nr_blocks=", "tmpcopyup", "notmpcopyup"]),
    ("proc", &[]),
    ("sysfs", &[]),
    ("devpts", &["newinstance", "mode=", "ptmxmode=", "uid=", "gid="]),
    ("mqueue", &[]),
    ("cgroup", &[]),
    ("cgroup2", &[]),
];

/// A mount's options, read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MountOptions {
    /// It is a bind mount: `Some(true)` when what is mounted below its source comes along.
    pub bind: Option<bool>,
    /// Attributes to set on the mount.
    pub set: u64,
    /// Attributes to set on it and on everything below it.
    pub set_below: u64,
}

/// The names of all options that are accepted on some mount, sorted; those that take a value without it.
pub fn names() -> Vec<&'static str> {
    let own = FILE_SYSTEMS.iter().flat_map(|(_, own)| own.iter().copied()).filter(|name| !name.ends_with('='));
    let mut names: Vec<_> = OPTIONS.iter().map(|(name, _)| *name).chain(own).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Reads the options of a mount of `kind`.
///
/// # Errors
/// The option, or the type, that is not accepted, and why.
pub fn parse<'a>(kind: &'a str, options: impl IntoIterator<Item = &'a str>) -> Result<MountOptions, (&'a str, &'static str)> {
    let Some((_, own)) = FILE_SYSTEMS.iter().find(|(name, _)| *name == kind || (kind.is_empty() && *name == "none")) else {
        return Err((kind, "no such type of file system behind the wall"));
    };
    let mut read = MountOptions { bind: (kind == "bind").then_some(false), ..MountOptions::default() };
    for option in options {
        let key = option.find('=').map_or(option, |at| &option[..=at]);
        if own.contains(&key) {
            continue;
        }
        match OPTIONS.iter().find(|(name, _)| *name == option) {
            Some((_, Bind(recursive))) => read.bind = Some(read.bind == Some(true) || *recursive),
            Some((_, Attributes(set, clear))) => read.set = read.set & !clear | set,
            Some((_, Recursive(set, clear))) => read.set_below = read.set_below & !clear | set,
            Some((_, Private | Passed)) => {}
            None => return Err((option, refusal(option))),
        }
    }
    if read.bind.is_none() && matches!(kind, "" | "none") {
        return Err((kind, "a mount without a type must be a bind mount"));
    }
    Ok(read)
}

fn refusal(option: &str) -> &'static str {
    match option {
        "shared" | "rshared" => "mounts behind the wall do not propagate to the host",
        "idmap" | "ridmap" => "id-mapped mounts are not supported",
        "remount" => "there is nothing to mount again",
        _ => "no such mount option",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_their_order() {
        let read = parse("bind", ["rbind", "ro", "rw", "ro", "nosuid", "rprivate", "rnoexec", "noatime", "relatime"]).unwrap();
        assert_eq!(read, MountOptions { bind: Some(true), set: READ_ONLY | NO_SUID, set_below: NO_EXEC });
        assert_eq!(parse("none", ["bind"]).unwrap().bind, Some(false));
        assert_eq!(parse("tmpfs", ["size=64k", "mode=1777", "nosuid"]).unwrap().bind, None);
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        assert_eq!(parse("ext4", []), Err(("ext4", "no such type of file system behind the wall")));
        assert_eq!(parse("bind", ["rshared"]).unwrap_err().0, "rshared");
        assert_eq!(parse("proc", ["size=1"]).unwrap_err(), ("size=1", "no such mount option"));
        assert_eq!(parse("", ["ro"]).unwrap_err().1, "a mount without a type must be a bind mount");
    }
}
