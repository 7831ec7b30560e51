//! Mount options: one table of what each means in the guest, and the types of file system that a container can have.
//!
//! Source of the names: runtime-spec, config.md, "Linux mount options"; mount(8).

use crate::system::attribute::{ATIME, NO_ATIME, NO_DEVICES, NO_DIRECTORY_ATIME, NO_EXEC, NO_SUID, NO_SYMLINKS, READ_ONLY, STRICT_ATIME};

/// What an option does.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    /// A bind mount; recursive or not.
    Bind(bool),
    /// Sets and clears attributes of the mount.
    Attributes(u64, u64),
    /// The same, of the mount and everything below it.
    Below(u64, u64),
    /// How mounts made later spread from and to it; on everything below it or not.
    Propagation(libc::c_ulong, bool),
    /// An option of the file system itself, whatever its type (fsopen(2)).
    FileSystem,
    /// Copies what the mount hides into it.
    CopyUp(bool),
    /// Linux's default, or without a meaning for a fresh mount.
    Nothing,
}

use Meaning::{Attributes, Below, Bind, CopyUp, FileSystem, Nothing, Propagation};

const OPTIONS: &[(&str, Meaning)] = &[
    ("bind", Bind(false)),
    ("rbind", Bind(true)),
    ("defaults", Nothing),
    ("ro", Attributes(READ_ONLY, 0)),
    ("rw", Attributes(0, READ_ONLY)),
    ("nosuid", Attributes(NO_SUID, 0)),
    ("suid", Attributes(0, NO_SUID)),
    ("nodev", Attributes(NO_DEVICES, 0)),
    ("dev", Attributes(0, NO_DEVICES)),
    ("noexec", Attributes(NO_EXEC, 0)),
    ("exec", Attributes(0, NO_EXEC)),
    ("relatime", Attributes(0, ATIME)),
    ("norelatime", Nothing),
    ("noatime", Attributes(NO_ATIME, ATIME)),
    ("atime", Nothing),
    ("strictatime", Attributes(STRICT_ATIME, ATIME)),
    ("nostrictatime", Nothing),
    ("nodiratime", Attributes(NO_DIRECTORY_ATIME, 0)),
    ("diratime", Attributes(0, NO_DIRECTORY_ATIME)),
    ("nosymfollow", Attributes(NO_SYMLINKS, 0)),
    ("symfollow", Attributes(0, NO_SYMLINKS)),
    ("rro", Below(READ_ONLY, 0)),
    ("rrw", Below(0, READ_ONLY)),
    ("rnosuid", Below(NO_SUID, 0)),
    ("rsuid", Below(0, NO_SUID)),
    ("rnodev", Below(NO_DEVICES, 0)),
    ("rdev", Below(0, NO_DEVICES)),
    ("rnoexec", Below(NO_EXEC, 0)),
    ("rexec", Below(0, NO_EXEC)),
    ("rrelatime", Below(0, ATIME)),
    ("rnoatime", Below(NO_ATIME, ATIME)),
    ("rstrictatime", Below(STRICT_ATIME, ATIME)),
    ("rnodiratime", Below(NO_DIRECTORY_ATIME, 0)),
    ("rdiratime", Below(0, NO_DIRECTORY_ATIME)),
    ("rnosymfollow", Below(NO_SYMLINKS, 0)),
    ("rsymfollow", Below(0, NO_SYMLINKS)),
    ("private", Propagation(libc::MS_PRIVATE, false)),
    ("rprivate", Propagation(libc::MS_PRIVATE, true)),
    ("shared", Propagation(libc::MS_SHARED, false)),
    ("rshared", Propagation(libc::MS_SHARED, true)),
    ("slave", Propagation(libc::MS_SLAVE, false)),
    ("rslave", Propagation(libc::MS_SLAVE, true)),
    ("unbindable", Propagation(libc::MS_UNBINDABLE, false)),
    ("runbindable", Propagation(libc::MS_UNBINDABLE, true)),
    ("sync", FileSystem),
    ("async", Nothing),
    ("dirsync", FileSystem),
    ("lazytime", FileSystem),
    ("nolazytime", Nothing),
    ("loud", Nothing),
    ("silent", Nothing),
    ("tmpcopyup", CopyUp(true)),
    ("notmpcopyup", CopyUp(false)),
];

/// The types, and the keys of the options that each takes besides the common ones.
const FILE_SYSTEMS: &[(&str, &[&str])] = &[
    ("tmpfs", &["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge", "inode32", "inode64", "noswap"]),
    ("proc", &["hidepid", "gid", "subset"]),
    ("sysfs", &[]),
    ("devpts", &["newinstance", "mode", "ptmxmode", "uid", "gid", "max"]),
    ("mqueue", &[]),
    ("cgroup", &[]),
    ("cgroup2", &["nsdelegate", "memory_localevents", "memory_recursiveprot"]),
];

/// What the kernel knows a type as: containers see the one hierarchy, whichever version was asked for.
pub fn kernel_type(kind: &str) -> Option<&'static str> {
    let (kind, _) = FILE_SYSTEMS.iter().find(|(name, _)| *name == kind)?;
    Some(if *kind == "cgroup" { "cgroup2" } else { kind })
}

/// A mount's options, read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Options {
    /// It is a bind mount: `Some(true)` when what is mounted below its source comes along.
    pub bind: Option<bool>,
    /// Attributes to set on the mount, and to clear.
    pub attributes: (u64, u64),
    /// Attributes to set on it and on everything below it, and to clear.
    pub below: (u64, u64),
    /// Propagation, in order; on everything below it as well where true.
    pub propagation: Vec<(libc::c_ulong, bool)>,
    /// Options for the file system: keys, and values.
    pub file_system: Vec<(String, Option<String>)>,
    /// What the mount hides is copied into it.
    pub copy_up: bool,
}

/// Reads the options of a mount. `kind` is its type, without a meaning for bind mounts.
///
/// # Errors
/// The option, or the type, that is not accepted, and why.
pub fn parse<'a>(kind: &'a str, bind: bool, options: impl IntoIterator<Item = &'a str>) -> Result<Options, (&'a str, &'static str)> {
    let own: &[&str] = match FILE_SYSTEMS.iter().find(|(name, _)| *name == kind) {
        _ if bind => &[],
        Some((_, own)) => own,
        None => return Err((kind, "no such type of file system in the guest")),
    };
    let mut read = Options { bind: bind.then_some(false), ..Options::default() };
    let apply = |(set, clear): &mut (u64, u64), sets: u64, clears: u64| {
        *set = *set & !clears | sets;
        *clear = *clear & !sets | clears;
    };
    for option in options {
        let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
        if own.contains(&key) {
            read.file_system.push((key.to_owned(), value.map(str::to_owned)));
            continue;
        }
        match OPTIONS.iter().find(|(name, _)| *name == option).map(|(_, meaning)| *meaning) {
            Some(Bind(_)) if !bind => return Err((option, "a bind mount without a source")),
            Some(Bind(recursive)) => read.bind = Some(read.bind == Some(true) || recursive),
            Some(Attributes(set, clear)) => apply(&mut read.attributes, set, clear),
            Some(Below(set, clear)) => apply(&mut read.below, set, clear),
            Some(Propagation(kind, recursive)) => read.propagation.push((kind, recursive)),
            Some(FileSystem) if bind => {}
            Some(FileSystem) => read.file_system.push((option.to_owned(), None)),
            Some(CopyUp(copy)) if kind == "tmpfs" => read.copy_up = copy,
            Some(Nothing) => {}
            Some(CopyUp(_)) | None => return Err((option, "no such mount option")),
        }
    }
    Ok(read)
}

/// The access-time attributes are a field: whoever sets one of them clears the others (mount_setattr(2)).
pub fn cleared(set: u64, clear: u64) -> u64 {
    if set & ATIME != 0 || clear & ATIME != 0 { clear | ATIME } else { clear }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_are_read_in_their_order() {
        let read = parse("", true, ["rbind", "ro", "rw", "ro", "nosuid", "rslave", "rnoexec", "noatime", "relatime"]).unwrap();
        assert_eq!(read.bind, Some(true));
        assert_eq!(read.attributes.0, READ_ONLY | NO_SUID);
        assert_eq!(read.attributes.1 & (READ_ONLY | ATIME), ATIME);
        assert_eq!((read.below, read.propagation), ((NO_EXEC, 0), vec![(libc::MS_SLAVE, true)]));
        let read = parse("tmpfs", false, ["size=64k", "mode=1777", "sync", "tmpcopyup"]).unwrap();
        let pair = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        assert_eq!(read.file_system, [pair("size", Some("64k")), pair("mode", Some("1777")), pair("sync", None)]);
        assert!(read.copy_up);
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_name() {
        assert_eq!(parse("ext4", false, []), Err(("ext4", "no such type of file system in the guest")));
        assert_eq!(parse("proc", false, ["size=1"]), Err(("size=1", "no such mount option")));
        assert_eq!(parse("proc", false, ["bind"]), Err(("bind", "a bind mount without a source")));
        assert_eq!(parse("", true, ["size=1"]), Err(("size=1", "no such mount option")));
        assert_eq!(parse("sysfs", false, ["tmpcopyup"]), Err(("tmpcopyup", "no such mount option")));
    }

    proptest! {
        #[test]
        fn any_options_are_read_or_refused(
            kind in prop_oneof![Just("tmpfs"), Just("proc"), Just("cgroup"), Just("x")],
            bind in any::<bool>(),
            options in proptest::collection::vec(prop_oneof!["[a-z]{0,8}=?[a-z0-9]{0,4}", (0..OPTIONS.len()).prop_map(|index| OPTIONS[index].0.to_owned())], 0..8),
        ) {
            if let Ok(read) = parse(kind, bind, options.iter().map(String::as_str)) {
                prop_assert_eq!(read.attributes.0 & read.attributes.1 & !ATIME, 0);
                prop_assert_eq!(read.bind.is_some(), bind);
            }
        }
    }
}
