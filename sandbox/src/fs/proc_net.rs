//! /proc/net: the network of the pod, from the host's own view of its namespace.

use super::synthetic::{Named, file};
use crate::errno::Errno;

/// The files that are shown as the host shows them: the pod's own network namespace, and nothing else.
const FILES: [&str; 16] = [
    "dev",
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "raw",
    "raw6",
    "route",
    "ipv6_route",
    "if_inet6",
    "arp",
    "snmp",
    "snmp6",
    "netstat",
    "sockstat",
    "sockstat6",
];

/// The directory's items.
pub fn list() -> Vec<Named> {
    FILES.iter().map(|name| file(name, move || std::fs::read(format!("/proc/self/net/{name}")).map_err(|_| Errno::ENOENT))).collect()
}
