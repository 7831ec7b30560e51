//! The socket options that reach the host: what is not in the table is `ENOPROTOOPT`.
//!
//! Absent on purpose: what loads programs (`SO_ATTACH_FILTER`, `SO_ATTACH_BPF`), changes how the stack treats a connection
//! (`TCP_ULP`, `TCP_REPAIR`, `TCP_MD5SIG`), hands out memory (`SO_ZEROCOPY`, packet rings), or needs rights in the network
//! namespace that the kernel process does not have (`SO_MARK`, `IP_TRANSPARENT`). IP options (`IP_OPTIONS`) may be asked for and cleared, not set.

use crate::errno::{Errno, Result};

/// What may be done with an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Access {
    Get,
    Both,
}

/// One row: level, name, access, and how many bytes of value there are at most.
type Row = (i32, i32, Access, usize);

use Access::{Both, Get};

const SOCKET: i32 = libc::SOL_SOCKET;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const TCP: i32 = libc::IPPROTO_TCP;
const UDP: i32 = libc::IPPROTO_UDP;

/// `struct group_req` and `struct group_source_req` (ip(7), x86-64).
const GROUP: usize = 136;
const GROUP_SOURCE: usize = 264;

/// Numbers from include/uapi/linux/{in,in6,tcp,udp}.h and asm-generic/socket.h where libc has no name.
const TABLE: &[Row] = &[
    (SOCKET, libc::SO_REUSEADDR, Both, 4),
    (SOCKET, libc::SO_ERROR, Get, 4),
    (SOCKET, libc::SO_DONTROUTE, Both, 4),
    (SOCKET, libc::SO_BROADCAST, Both, 4),
    (SOCKET, libc::SO_SNDBUF, Both, 4),
    (SOCKET, libc::SO_RCVBUF, Both, 4),
    (SOCKET, libc::SO_KEEPALIVE, Both, 4),
    (SOCKET, libc::SO_OOBINLINE, Both, 4),
    (SOCKET, libc::SO_NO_CHECK, Both, 4),
    (SOCKET, libc::SO_PRIORITY, Both, 4),
    (SOCKET, libc::SO_LINGER, Both, 8),
    (SOCKET, libc::SO_REUSEPORT, Both, 4),
    (SOCKET, libc::SO_RCVLOWAT, Both, 4),
    (SOCKET, libc::SO_SNDLOWAT, Get, 4),
    (SOCKET, libc::SO_BINDTODEVICE, Both, 16),
    (SOCKET, libc::SO_TIMESTAMP, Both, 4),
    (SOCKET, libc::SO_ACCEPTCONN, Get, 4),
    (SOCKET, libc::SO_TIMESTAMPNS, Both, 4),
    (SOCKET, libc::SO_MARK, Get, 4),
    (SOCKET, libc::SO_RXQ_OVFL, Both, 4),
    (SOCKET, libc::SO_PEEK_OFF, Both, 4),
    (SOCKET, libc::SO_BUSY_POLL, Both, 4),
    (SOCKET, libc::SO_DEBUG, Both, 4),
    (SOCKET, libc::SO_PASSCRED, Both, 4),
    (SOCKET, libc::SO_LOCK_FILTER, Both, 4),
    (SOCKET, libc::SO_DETACH_FILTER, Both, 4),
    (SOCKET, libc::SO_MAX_PACING_RATE, Both, 8),
    (SOCKET, libc::SO_INCOMING_CPU, Both, 4),
    (SOCKET, 55, Get, 36), // SO_MEMINFO
    (SOCKET, 57, Get, 8),  // SO_COOKIE
    (SOCKET, 62, Both, 4), // SO_BINDTOIFINDEX
    (IP, libc::IP_TOS, Both, 4),
    (IP, libc::IP_TTL, Both, 4),
    (IP, libc::IP_RECVOPTS, Both, 4),
    (IP, libc::IP_RETOPTS, Both, 4),
    (IP, libc::IP_OPTIONS, Both, 40),
    (IP, libc::IP_HDRINCL, Get, 4),
    (IP, libc::IP_TRANSPARENT, Get, 4),
    (IP, libc::IP_PKTINFO, Both, 4),
    (IP, libc::IP_MTU_DISCOVER, Both, 4),
    (IP, libc::IP_RECVERR, Both, 4),
    (IP, libc::IP_RECVTTL, Both, 4),
    (IP, libc::IP_RECVTOS, Both, 4),
    (IP, libc::IP_MTU, Get, 4),
    (IP, libc::IP_FREEBIND, Both, 4),
    (IP, libc::IP_RECVORIGDSTADDR, Both, 4),
    (IP, libc::IP_MINTTL, Both, 4),
    (IP, libc::IP_BIND_ADDRESS_NO_PORT, Both, 4),
    (IP, libc::IP_MULTICAST_IF, Both, 12),
    (IP, libc::IP_MULTICAST_TTL, Both, 4),
    (IP, libc::IP_MULTICAST_LOOP, Both, 4),
    (IP, libc::IP_ADD_MEMBERSHIP, Both, 12),
    (IP, libc::IP_DROP_MEMBERSHIP, Both, 12),
    (IP, 37, Both, 12),           // IP_UNBLOCK_SOURCE
    (IP, 38, Both, 12),           // IP_BLOCK_SOURCE
    (IP, 39, Both, 12),           // IP_ADD_SOURCE_MEMBERSHIP
    (IP, 40, Both, 12),           // IP_DROP_SOURCE_MEMBERSHIP
    (IP, 42, Both, GROUP),        // MCAST_JOIN_GROUP
    (IP, 45, Both, GROUP),        // MCAST_LEAVE_GROUP
    (IP, 46, Both, GROUP_SOURCE), // MCAST_JOIN_SOURCE_GROUP
    (IP, 47, Both, GROUP_SOURCE), // MCAST_LEAVE_SOURCE_GROUP
    (IP, 49, Both, 4),            // IP_MULTICAST_ALL
    (IP, 50, Both, 4),            // IP_UNICAST_IF
    (IP, 51, Both, 4),            // IP_LOCAL_PORT_RANGE
    (IP, 80, Get, 16),            // SO_ORIGINAL_DST
    (IPV6, libc::IPV6_UNICAST_HOPS, Both, 4),
    (IPV6, libc::IPV6_MULTICAST_IF, Both, 4),
    (IPV6, libc::IPV6_MULTICAST_HOPS, Both, 4),
    (IPV6, libc::IPV6_MULTICAST_LOOP, Both, 4),
    (IPV6, libc::IPV6_ADD_MEMBERSHIP, Both, 20),
    (IPV6, libc::IPV6_DROP_MEMBERSHIP, Both, 20),
    (IPV6, libc::IPV6_MTU_DISCOVER, Both, 4),
    (IPV6, libc::IPV6_MTU, Both, 4),
    (IPV6, libc::IPV6_RECVERR, Both, 4),
    (IPV6, libc::IPV6_V6ONLY, Both, 4),
    (IPV6, 1, Both, 4),             // IPV6_ADDRFORM
    (IPV6, 29, Both, 4),            // IPV6_MULTICAST_ALL
    (IPV6, 33, Both, 4),            // IPV6_FLOWINFO_SEND
    (IPV6, 42, Both, GROUP),        // MCAST_JOIN_GROUP
    (IPV6, 45, Both, GROUP),        // MCAST_LEAVE_GROUP
    (IPV6, 46, Both, GROUP_SOURCE), // MCAST_JOIN_SOURCE_GROUP
    (IPV6, 47, Both, GROUP_SOURCE), // MCAST_LEAVE_SOURCE_GROUP
    (IPV6, libc::IPV6_RECVPKTINFO, Both, 4),
    (IPV6, libc::IPV6_PKTINFO, Both, 20),
    (IPV6, libc::IPV6_RECVHOPLIMIT, Both, 4),
    (IPV6, libc::IPV6_RECVTCLASS, Both, 4),
    (IPV6, libc::IPV6_TCLASS, Both, 4),
    (IPV6, 56, Both, 4), // IPV6_RECVRTHDR
    (IPV6, 62, Both, 4), // IPV6_DONTFRAG
    (IPV6, 70, Both, 4), // IPV6_AUTOFLOWLABEL
    (IPV6, 72, Both, 4), // IPV6_ADDR_PREFERENCES
    (IPV6, 73, Both, 4), // IPV6_MINHOPCOUNT
    (IPV6, 74, Both, 4), // IPV6_RECVORIGDSTADDR
    (IPV6, 75, Get, 4),  // IPV6_TRANSPARENT
    (IPV6, 76, Both, 4), // IPV6_UNICAST_IF
    (IPV6, 78, Both, 4), // IPV6_FREEBIND
    (IPV6, 80, Get, 28), // IP6T_SO_ORIGINAL_DST
    (TCP, libc::TCP_NODELAY, Both, 4),
    (TCP, libc::TCP_MAXSEG, Both, 4),
    (TCP, libc::TCP_CORK, Both, 4),
    (TCP, libc::TCP_KEEPIDLE, Both, 4),
    (TCP, libc::TCP_KEEPINTVL, Both, 4),
    (TCP, libc::TCP_KEEPCNT, Both, 4),
    (TCP, libc::TCP_SYNCNT, Both, 4),
    (TCP, libc::TCP_LINGER2, Both, 4),
    (TCP, libc::TCP_DEFER_ACCEPT, Both, 4),
    (TCP, libc::TCP_WINDOW_CLAMP, Both, 4),
    (TCP, libc::TCP_INFO, Get, 256),
    (TCP, libc::TCP_QUICKACK, Both, 4),
    (TCP, libc::TCP_CONGESTION, Both, 16),
    (TCP, libc::TCP_USER_TIMEOUT, Both, 4),
    (TCP, libc::TCP_FASTOPEN, Both, 4),
    (TCP, 16, Both, 4), // TCP_THIN_LINEAR_TIMEOUTS
    (TCP, 17, Both, 4), // TCP_THIN_DUPACK
    (TCP, 27, Both, 4), // TCP_SAVE_SYN
    (TCP, 31, Get, 16), // TCP_ULP
    (TCP, libc::TCP_TIMESTAMP, Get, 4),
    (TCP, 25, Both, 4),  // TCP_NOTSENT_LOWAT
    (TCP, 30, Both, 4),  // TCP_FASTOPEN_CONNECT
    (TCP, 36, Both, 4),  // TCP_INQ
    (TCP, 37, Both, 4),  // TCP_TX_DELAY
    (UDP, 1, Both, 4),   // UDP_CORK
    (UDP, 103, Both, 4), // UDP_SEGMENT
    (UDP, 104, Both, 4), // UDP_GRO
];

/// How long an option's value is at most. `ENOPROTOOPT` for what is not in the table, or not to be set.
pub fn longest(level: i32, name: i32, set: bool) -> Result<usize> {
    match TABLE.iter().find(|row| row.0 == level && row.1 == name) {
        Some(row) if set && row.2 == Get => Err(Errno::ENOPROTOOPT),
        Some(row) => Ok(row.3),
        None => Err(Errno::ENOPROTOOPT),
    }
}

/// Whether internet sockets have options of this level.
pub fn is_level(level: i32) -> bool {
    [SOCKET, IP, IPV6, TCP, UDP].contains(&level)
}

/// Control records that reach the host with a message, by level and type (ip(7), ipv6(7), udp(7)).
const SENT: &[(i32, i32)] = &[
    (IP, libc::IP_PKTINFO),
    (IP, libc::IP_TTL),
    (IP, libc::IP_TOS),
    (IPV6, libc::IPV6_PKTINFO),
    (IPV6, libc::IPV6_HOPLIMIT),
    (IPV6, libc::IPV6_TCLASS),
    (UDP, 103),
];

/// Control records that a workload gets to see.
const RECEIVED: &[(i32, i32)] = &[
    (SOCKET, libc::SO_TIMESTAMP),
    (SOCKET, libc::SO_TIMESTAMPNS),
    (SOCKET, libc::SO_RXQ_OVFL),
    (IP, libc::IP_PKTINFO),
    (IP, libc::IP_TTL),
    (IP, libc::IP_TOS),
    (IP, libc::IP_RECVERR),
    (IP, libc::IP_RECVORIGDSTADDR),
    (IPV6, libc::IPV6_PKTINFO),
    (IPV6, libc::IPV6_HOPLIMIT),
    (IPV6, libc::IPV6_TCLASS),
    (IPV6, libc::IPV6_RECVERR),
    (IPV6, 74),
    (TCP, 36),
    (UDP, 104),
];

/// Whether a record goes to the host. Linux passes over levels that are none of a socket's own; `EINVAL` for a record of its own that is not known.
pub fn may_send(level: i32, kind: i32) -> Result<bool> {
    match SENT.contains(&(level, kind)) {
        true => Ok(true),
        false if [SOCKET, IP, IPV6, UDP].contains(&level) => Err(Errno::EINVAL),
        false => Ok(false),
    }
}

/// Whether a record may be received.
pub fn may_receive(level: i32, kind: i32) -> bool {
    RECEIVED.contains(&(level, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_stands_twice_and_none_loads_a_program() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(!TABLE[..index].iter().any(|other| (other.0, other.1) == (row.0, row.1)), "{row:?}");
        }
        for name in [libc::SO_ATTACH_FILTER, libc::SO_ATTACH_BPF, libc::SO_ZEROCOPY] {
            assert_eq!(longest(SOCKET, name, true), Err(Errno::ENOPROTOOPT));
        }
        assert_eq!(longest(TCP, libc::TCP_INFO, true), Err(Errno::ENOPROTOOPT));
    }
}
