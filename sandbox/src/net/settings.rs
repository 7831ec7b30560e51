//! Settings of the pod's network (`net.*` sysctls) that are judged here rather than by the host.
//!
//! The client lifts two of them in the pod's network namespace, because the kernel process has no right there that would lift them for a
//! workload which has it: `ip_unprivileged_port_start` and `ping_group_range`. What they are to the workload is what config.json says, or
//! Linux's own value; the rest is the namespace's.

use std::sync::LazyLock;

use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};
use crate::sync::RwLock;

/// `net.ipv4.ip_unprivileged_port_start` of a fresh namespace.
const FIRST_FREE_PORT: u16 = 1024;

/// What is judged here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Settings {
    first_free_port: u16,
    /// First and last group; nobody where the last comes first.
    ping_groups: (u32, u32),
}

static SETTINGS: LazyLock<RwLock<Settings>> =
    LazyLock::new(|| RwLock::new(Settings { first_free_port: FIRST_FREE_PORT, ping_groups: (1, 0) }));

/// Takes over a sysctl of config.json (`linux.sysctl`). Those of the pod's other containers count too: they share its network.
pub fn set(name: &str, value: &str) {
    let mut settings = SETTINGS.write();
    let name = name.replace('/', ".");
    match name.as_str() {
        "net.ipv4.ip_unprivileged_port_start" => {
            settings.first_free_port = value.trim().parse().unwrap_or(settings.first_free_port);
        }
        "net.ipv4.ping_group_range" => {
            let mut numbers = value.split_whitespace().map(str::parse::<u32>);
            if let (Some(Ok(first)), Some(Ok(last))) = (numbers.next(), numbers.next()) {
                settings.ping_groups = (first, last);
            }
        }
        _ => {}
    }
}

/// The first port that needs no right.
pub fn first_free_port() -> u16 {
    SETTINGS.read().first_free_port
}

/// Whether someone may have a socket for ICMP echo (icmp(7)). `EACCES`. Who holds `CAP_NET_RAW` may: on Linux it opens a raw socket to the same end, and
/// those do not exist here.
pub fn may_ping(who: &Credentials) -> Result<()> {
    let (first, last) = SETTINGS.read().ping_groups;
    let range = first..=last;
    let member = range.contains(&who.egid) || who.groups.iter().any(|group| range.contains(group));
    if member || who.capable(Capability::NetRaw) { Ok(()) } else { Err(Errno::EACCES) }
}

/// A file of /proc/sys/net, by its path below that: what is judged here, or the host's own word on the pod's namespace. `None` where the host has none.
pub fn text(path: &str) -> Option<String> {
    let settings = *SETTINGS.read();
    match path {
        "ipv4/ip_unprivileged_port_start" => Some(format!("{}\n", settings.first_free_port)),
        "ipv4/ping_group_range" => Some(format!("{}\t{}\n", settings.ping_groups.0, settings.ping_groups.1)),
        _ => std::fs::read_to_string(crate::boot::tree::fact(&format!("sys/net/{path}"))).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::credentials::Capabilities;

    #[test]
    fn groups_in_the_range_may_ping() {
        let nobody = |group, groups: &[u32]| Credentials::of(1000, group, groups, Capabilities::NONE);
        assert_eq!(may_ping(&nobody(1000, &[])), Err(Errno::EACCES));
        assert_eq!(may_ping(&Credentials::kernel()), Ok(()));
        set("net/ipv4/ping_group_range", "100\t200");
        assert_eq!(text("ipv4/ping_group_range").unwrap(), "100\t200\n");
        assert_eq!(may_ping(&nobody(150, &[])), Ok(()));
        assert_eq!(may_ping(&nobody(1000, &[7, 200])), Ok(()));
        assert_eq!(may_ping(&nobody(201, &[99])), Err(Errno::EACCES));
        set("net.ipv4.ping_group_range", "nonsense");
        assert_eq!(may_ping(&nobody(150, &[])), Ok(()));
        set("net.ipv4.ping_group_range", "1 0");
    }
}
