//! /proc/sys: the settings that programs read. One table.

use crate::fs::synthetic::{Named, constant, directory, file};
use crate::kernel::task;
use crate::syscalls::system_names::{RELEASE, VERSION};

/// Settings with one value: path below /proc/sys, text.
const CONSTANTS: &[(&str, &str)] = &[
    ("kernel/ostype", "Linux"),
    ("kernel/osrelease", RELEASE),
    ("kernel/version", VERSION),
    ("kernel/pid_max", "4194304"),
    ("kernel/threads-max", "127234"),
    ("kernel/ngroups_max", "65536"),
    ("kernel/cap_last_cap", "40"),
    ("kernel/overflowuid", "65534"),
    ("kernel/overflowgid", "65534"),
    ("kernel/core_pattern", "core"),
    ("kernel/randomize_va_space", "2"),
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
    ("vm/overcommit_memory", "0"),
    ("vm/overcommit_ratio", "50"),
    ("vm/max_map_count", "65530"),
    ("vm/mmap_min_addr", "65536"),
    ("vm/swappiness", "60"),
    ("vm/min_free_kbytes", "67584"),
    ("fs/file-max", "9223372036854775807"),
    ("fs/file-nr", "1024\t0\t9223372036854775807"),
    ("fs/nr_open", "1048576"),
    ("fs/pipe-max-size", "1048576"),
    ("fs/pipe-user-pages-soft", "16384"),
    ("fs/protected_hardlinks", "0"),
    ("fs/protected_symlinks", "0"),
    ("fs/inotify/max_user_watches", "0"),
    ("fs/mqueue/msg_max", "10"),
    ("net/core/somaxconn", "4096"),
    ("net/core/rmem_max", "212992"),
    ("net/core/wmem_max", "212992"),
    ("net/core/rmem_default", "212992"),
    ("net/core/wmem_default", "212992"),
    ("net/ipv4/ip_local_port_range", "32768\t60999"),
    ("net/ipv4/tcp_keepalive_time", "7200"),
    ("net/ipv4/tcp_fin_timeout", "60"),
    ("net/ipv4/tcp_max_syn_backlog", "512"),
    ("net/ipv4/tcp_rmem", "4096\t131072\t6291456"),
    ("net/ipv4/tcp_wmem", "4096\t16384\t4194304"),
    ("net/ipv4/ip_unprivileged_port_start", "1024"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
];

/// The directory's items.
pub fn list() -> Vec<Named> {
    below("")
}

/// What stands below a path of the table.
fn below(prefix: &str) -> Vec<Named> {
    let mut items: Vec<Named> = Vec::new();
    for (path, value) in CONSTANTS {
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
            items.push(constant(name, &format!("{value}\n")));
        }
    }
    match prefix {
        "kernel" => {
            items.push(file("hostname", || Ok(names(|names| format!("{}\n", names.host)))));
            items.push(file("domainname", || Ok(names(|names| format!("{}\n", names.domain)))));
        }
        "kernel/random" => {
            items.push(file("uuid", || Ok(format!("{}\n", uuid()).into_bytes())));
            items.push(file("boot_id", || Ok(std::fs::read("/proc/sys/kernel/random/boot_id")?)));
        }
        _ => {}
    }
    items
}

fn names(show: impl Fn(&crate::kernel::container::UtsNames) -> String) -> Vec<u8> {
    let process = task::current().and_then(|thread| thread.process());
    process.map(|process| show(&process.container.names.read()).into_bytes()).unwrap_or_default()
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
