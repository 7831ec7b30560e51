//! /proc/sys: the settings that programs read. One table for what this kernel decides; what the host decides for workloads too is the host's, and the
//! network's settings are those of the pod's own network namespace.

use crate::errno::{Errno, Result};
use crate::fs::synthetic::{Named, constant, directory, file};
use crate::kernel::task;
use crate::net::settings;
use crate::syscalls::system_names::{RELEASE, VERSION};

/// Settings with one value: path below /proc/sys, text.
const CONSTANTS: &[(&str, &str)] = &[
    ("kernel/ostype", "Linux"),
    ("kernel/osrelease", RELEASE),
    ("kernel/version", VERSION),
    ("kernel/ngroups_max", "65536"),
    ("kernel/cap_last_cap", "40"),
    ("kernel/overflowuid", "65534"),
    ("kernel/overflowgid", "65534"),
    ("kernel/core_pattern", "core"),
    ("kernel/tainted", "0"),
    ("kernel/panic", "0"),
    ("kernel/sched_child_runs_first", "0"),
    ("kernel/shmmax", "18446744073692774399"),
    ("kernel/shmall", "18446744073692774399"),
    ("kernel/shmmni", "4096"),
    ("kernel/msgmax", "8192"),
    ("kernel/sem", "32000\t1024000000\t500\t32000"),
    ("kernel/seccomp/actions_avail", "kill_process kill_thread trap errno user_notif trace log allow"),
    ("kernel/random/entropy_avail", "256"),
    ("kernel/random/poolsize", "256"),
    ("kernel/yama/ptrace_scope", "1"),
    ("fs/nr_open", "1048576"),
    ("fs/pipe-max-size", "1048576"),
    ("fs/pipe-user-pages-soft", "16384"),
    ("fs/protected_hardlinks", "0"),
    ("fs/protected_symlinks", "0"),
    ("fs/inotify/max_user_watches", "0"),
    ("fs/mqueue/msg_max", "10"),
];

/// Settings that are the host's: it enforces them natively, or counts for all.
const OF_HOST: &[&str] = &[
    "kernel/arch",
    "kernel/pid_max",
    "kernel/threads-max",
    "kernel/randomize_va_space",
    "kernel/sched_rr_timeslice_ms",
    "vm/overcommit_memory",
    "vm/overcommit_ratio",
    "vm/overcommit_kbytes",
    "vm/max_map_count",
    "vm/mmap_min_addr",
    "vm/swappiness",
    "vm/min_free_kbytes",
    "vm/dirty_ratio",
    "vm/dirty_background_ratio",
    "vm/nr_hugepages",
    "vm/vfs_cache_pressure",
    "vm/zone_reclaim_mode",
    "fs/file-max",
    "fs/file-nr",
    "fs/epoll/max_user_watches",
];

/// Settings that nobody can change. The rest shows as changeable by root, as on Linux, and is found on a read-only mount or takes nothing.
const FIXED: &[&str] = &[
    "kernel/ostype",
    "kernel/osrelease",
    "kernel/version",
    "kernel/arch",
    "kernel/ngroups_max",
    "kernel/cap_last_cap",
    "kernel/seccomp/actions_avail",
    "kernel/random/entropy_avail",
    "kernel/random/poolsize",
    "fs/file-nr",
];

/// The directory's items.
pub fn list() -> Vec<Named> {
    let mut items = below("");
    items.push(directory("net", || handed_through("")));
    items
}

/// A directory of the pod's network settings, as far as everybody may read it.
fn handed_through(path: &str) -> Vec<Named> {
    use std::os::unix::fs::PermissionsExt;
    let mut items = Vec::new();
    for entry in std::fs::read_dir(crate::boot::tree::fact("sys/net").join(path)).into_iter().flatten().flatten() {
        let (Ok(metadata), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else { continue };
        let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        if metadata.is_dir() {
            items.push(directory(&name, move || handed_through(&below)));
        } else if metadata.permissions().mode() & 0o004 != 0 {
            let mode = metadata.permissions().mode() & 0o666;
            let read = move || settings::text(&below).map(String::into_bytes).ok_or(Errno::EIO);
            items.push(file(&name, read).mode(mode));
        }
    }
    items
}

/// What stands below a path of the table.
fn below(prefix: &str) -> Vec<Named> {
    let mut items: Vec<Named> = Vec::new();
    let known = CONSTANTS.iter().map(|(path, value)| (*path, Some(*value))).chain(OF_HOST.iter().map(|path| (*path, None)));
    for (path, value) in known {
        let Some(rest) = path.strip_prefix(prefix) else { continue };
        let rest = rest.strip_prefix('/').unwrap_or(rest);
        let (name, more) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
        if items.iter().any(|item| item.name == name) {
            continue;
        }
        if more {
            let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            items.push(directory(name, move || below(&full)));
        } else {
            let made = match value {
                Some(value) => constant(name, &format!("{value}\n")),
                None => file(name, move || Ok(std::fs::read(crate::boot::tree::fact(&format!("sys/{path}")))?)),
            };
            items.push(if FIXED.contains(&path) { made.sealed() } else { made.mode(0o644) });
        }
    }
    match prefix {
        "kernel" => {
            let host = file("hostname", || Ok(names(|names| format!("{}\n", names.host))));
            items.push(host.writable(|bytes| rename(bytes, |names, text| names.host = text)));
            let domain = file("domainname", || Ok(names(|names| format!("{}\n", names.domain))));
            items.push(domain.writable(|bytes| rename(bytes, |names, text| names.domain = text)));
        }
        "kernel/random" => {
            items.push(file("uuid", || Ok(format!("{}\n", uuid()).into_bytes())));
            items.push(file("boot_id", || Ok(std::fs::read(crate::boot::tree::fact("sys/kernel/random/boot_id"))?)));
        }
        _ => {}
    }
    items
}

fn names(show: impl Fn(&crate::kernel::container::UtsNames) -> String) -> Vec<u8> {
    let process = task::current().and_then(|thread| thread.process());
    process.map(|process| show(&process.container.names.read()).into_bytes()).unwrap_or_default()
}

/// Sets a name of the container's: a line, cut to what uname(2) has room for.
fn rename(bytes: &[u8], set: impl Fn(&mut crate::kernel::container::UtsNames, String)) -> Result<()> {
    const MOST: usize = 64;
    let process = super::caller()?;
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or(&[]);
    set(&mut process.container.names.write(), String::from_utf8_lossy(&line[..line.len().min(MOST)]).into_owned());
    Ok(())
}

/// A random UUID (RFC 9562, version 4).
fn uuid() -> String {
    let mut bytes = [0u8; 16];
    let _ = crate::fs::dev::fill_random(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
