//! What /proc/net and /sys/class/net show of the pod's network.
//!
//! The kernel process lives in the pod's network namespace, so its own /proc/self/net is the pod's. Files that the host
//! keeps per namespace are handed through; the rest is made here, or does not exist.

use std::os::fd::{AsFd, OwnedFd};

use super::inet::host;
use super::unix;
use crate::errno::{Errno, Result};

/// Files that are the host's own, word for word: they hold what belongs to this network namespace and nothing else.
const HANDED_THROUGH: &[&str] = &[
    "arp",
    "dev",
    "dev_mcast",
    "fib_trie",
    "fib_triestat",
    "icmp",
    "icmp6",
    "if_inet6",
    "igmp",
    "igmp6",
    "ipv6_route",
    "mcfilter",
    "mcfilter6",
    "netstat",
    "raw",
    "raw6",
    "route",
    "rt6_stats",
    "rt_cache",
    "snmp",
    "snmp6",
    "sockstat",
    "sockstat6",
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udplite",
    "udplite6",
    "wireless",
];

/// Files that are made here, with the text of those that are always empty.
const MADE: &[(&str, &str)] = &[
    ("netlink", "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"),
    ("packet", "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"),
    ("ptype", "Type Device      Function\n"),
    ("unix", ""),
];

/// The names in /proc/net.
pub fn proc_names() -> Vec<&'static str> {
    let there = |name: &&&str| std::path::Path::new("/proc/self/net").join(name).exists();
    let mut names: Vec<&str> = HANDED_THROUGH.iter().filter(there).copied().collect();
    names.extend(MADE.iter().map(|(name, _)| *name));
    names
}

/// The text of one file of /proc/net. `ENOENT` for what is not there.
pub fn proc_text(name: &str) -> Result<Vec<u8>> {
    if name == "unix" {
        return Ok(unix::names::proc_text().into_bytes());
    }
    if let Some((_, text)) = MADE.iter().find(|(made, _)| *made == name) {
        return Ok(text.as_bytes().to_vec());
    }
    if !HANDED_THROUGH.contains(&name) {
        return Err(Errno::ENOENT);
    }
    Ok(std::fs::read(format!("/proc/self/net/{name}"))?)
}

/// The interfaces' names: the directories of /sys/class/net.
pub fn interfaces() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// The attributes of an interface that [`interface_attribute`] knows: the files of /sys/class/net/NAME.
pub const INTERFACE_ATTRIBUTES: &[&str] = &["address", "carrier", "flags", "ifindex", "mtu", "operstate", "tx_queue_len", "type"];

/// One attribute's text, as sysfs shows it. `ENOENT` for what is not there.
pub fn interface_attribute(interface: &str, attribute: &str) -> Result<Vec<u8>> {
    let socket = host::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let ask = |command| ask(&socket, interface, command);
    // A `struct ifreq`: 16 bytes of name, then the answer (netdevice(7)).
    let number = |request: [u8; 40]| i32::from_ne_bytes([request[16], request[17], request[18], request[19]]);
    let flags = |request: [u8; 40]| u16::from_ne_bytes([request[16], request[17]]);
    let text = match attribute {
        // What netdevice(7) adds for what the link is like now is not in sysfs.
        "flags" => format!("{:#x}", flags(ask(0x8913)?) & !RUNNING),
        "mtu" => number(ask(0x8921)?).to_string(),
        "ifindex" => number(ask(0x8933)?).to_string(),
        "tx_queue_len" => number(ask(0x8942)?).to_string(),
        "type" => flags(ask(0x8927)?).to_string(),
        "address" => ask(0x8927)?[18..24].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"),
        "carrier" => u16::from(flags(ask(0x8913)?) & RUNNING != 0).to_string(),
        "operstate" => operational_state(flags(ask(0x8913)?)).to_owned(),
        _ => return Err(Errno::ENOENT),
    };
    Ok((text + "\n").into_bytes())
}

const LOOPBACK: u16 = libc::IFF_LOOPBACK as u16;
const RUNNING: u16 = libc::IFF_RUNNING as u16;

fn operational_state(flags: u16) -> &'static str {
    match (flags & LOOPBACK != 0, flags & RUNNING != 0) {
        (true, _) => "unknown",
        (false, true) => "up",
        (false, false) => "down",
    }
}

fn ask(socket: &OwnedFd, interface: &str, command: u32) -> Result<[u8; 40]> {
    // IFNAMSIZ is 16, with the NUL.
    if interface.len() > 15 {
        return Err(Errno::ENOENT);
    }
    let mut request = [0u8; 40];
    request[..interface.len()].copy_from_slice(interface.as_bytes());
    host::interface(socket.as_fd(), command, &mut request).map_err(|_| Errno::ENOENT)?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_there_or_not() {
        assert!(proc_text("dev").unwrap().starts_with(b"Inter-|"));
        assert!(proc_text("unix").unwrap().starts_with(b"Num "));
        assert_eq!(proc_text("../cmdline"), Err(Errno::ENOENT));
        assert!(proc_names().contains(&"tcp"));
    }

    #[test]
    fn loopback_is_an_interface() {
        assert!(interfaces().iter().any(|name| name == "lo"));
        assert_eq!(interface_attribute("lo", "ifindex").unwrap(), b"1\n");
        assert_eq!(interface_attribute("lo", "type").unwrap(), b"772\n");
        assert_eq!(interface_attribute("lo", "address").unwrap(), b"00:00:00:00:00:00\n");
        assert_eq!(interface_attribute("nowhere", "mtu"), Err(Errno::ENOENT));
        assert_eq!(interface_attribute("lo", "uevent"), Err(Errno::ENOENT));
    }
}
