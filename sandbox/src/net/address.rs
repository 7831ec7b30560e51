//! Socket addresses: `struct sockaddr` of every family that is served, decoded once into types.
//!
//! A workload passes bytes and a length; each family reads them its own way (unix(7), ip(7), ipv6(7), netlink(7)). The length
//! that comes back is part of the answer: an unnamed Unix socket shows two bytes, a path its terminating NUL, an abstract
//! name exactly what was bound.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::errno::{Errno, Result};

/// The longest address that any call takes (`struct sockaddr_storage`).
pub const LONGEST: usize = 128;
/// The longest Unix address: family and 108 bytes of name.
const UNIX_LONGEST: usize = 110;

/// The name of a Unix socket.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum UnixName {
    /// A path, without its NUL; never empty.
    Path(Arc<[u8]>),
    /// An abstract name, without the NUL before it; may be empty.
    Abstract(Arc<[u8]>),
}

/// A socket's address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SocketAddress {
    /// `AF_UNSPEC`: dissolves an association.
    Unspecified,
    /// `AF_UNIX`; `None` for a socket without a name (or a request for one of the kernel's choice).
    Unix(Option<UnixName>),
    /// `AF_INET`.
    Inet(Ipv4Addr, u16),
    /// `AF_INET6`.
    Inet6 {
        /// The address.
        address: Ipv6Addr,
        /// The port, in host order.
        port: u16,
        /// `sin6_flowinfo`, as it stands in memory.
        flow: u32,
        /// `sin6_scope_id`: an interface's index.
        scope: u32,
    },
    /// `AF_NETLINK`.
    Netlink {
        /// `nl_pid`.
        port: u32,
        /// `nl_groups`.
        groups: u32,
    },
    /// Any other family.
    Other(u16),
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]]))
}

impl SocketAddress {
    /// Decodes what a call passed. `EINVAL` where the bytes are too few for the family they name, or too many.
    pub fn decode(bytes: &[u8]) -> Result<SocketAddress> {
        let Some(&[low, high]) = bytes.get(..2) else { return Err(Errno::EINVAL) };
        let family = u16::from_ne_bytes([low, high]);
        let port = || u16::from_be_bytes([bytes[2], bytes[3]]);
        let at_least = |length| if bytes.len() < length { Err(Errno::EINVAL) } else { Ok(()) };
        match i32::from(family) {
            libc::AF_UNSPEC => Ok(SocketAddress::Unspecified),
            libc::AF_UNIX if bytes.len() > UNIX_LONGEST => Err(Errno::EINVAL),
            libc::AF_UNIX => Ok(SocketAddress::Unix(unix_name(&bytes[2..]))),
            libc::AF_INET => {
                at_least(16)?;
                Ok(SocketAddress::Inet(Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]), port()))
            }
            libc::AF_INET6 => {
                // RFC 2133's shorter form has no scope.
                at_least(24)?;
                let mut address = [0; 16];
                address.copy_from_slice(&bytes[8..24]);
                Ok(SocketAddress::Inet6 { address: address.into(), port: port(), flow: word(bytes, 4), scope: word(bytes, 24) })
            }
            libc::AF_NETLINK => {
                at_least(12)?;
                Ok(SocketAddress::Netlink { port: word(bytes, 4), groups: word(bytes, 8) })
            }
            _ => Ok(SocketAddress::Other(family)),
        }
    }

    /// The family, `AF_*`.
    pub fn family(&self) -> u16 {
        match self {
            SocketAddress::Unspecified => libc::AF_UNSPEC as u16,
            SocketAddress::Unix(_) => libc::AF_UNIX as u16,
            SocketAddress::Inet(..) => libc::AF_INET as u16,
            SocketAddress::Inet6 { .. } => libc::AF_INET6 as u16,
            SocketAddress::Netlink { .. } => libc::AF_NETLINK as u16,
            SocketAddress::Other(family) => *family,
        }
    }

    /// The bytes that a program sees; their number is the address's length.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.family().to_ne_bytes().to_vec();
        match self {
            SocketAddress::Unspecified => bytes.resize(16, 0),
            SocketAddress::Unix(Some(UnixName::Path(path))) => {
                bytes.extend_from_slice(path);
                bytes.push(0);
            }
            SocketAddress::Unix(Some(UnixName::Abstract(name))) => {
                bytes.push(0);
                bytes.extend_from_slice(name);
            }
            SocketAddress::Unix(None) | SocketAddress::Other(_) => {}
            SocketAddress::Inet(address, port) => {
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(&address.octets());
                bytes.extend_from_slice(&[0; 8]);
            }
            SocketAddress::Inet6 { address, port, flow, scope } => {
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(&flow.to_ne_bytes());
                bytes.extend_from_slice(&address.octets());
                bytes.extend_from_slice(&scope.to_ne_bytes());
            }
            SocketAddress::Netlink { port, groups } => {
                bytes.extend_from_slice(&[0; 2]);
                bytes.extend_from_slice(&port.to_ne_bytes());
                bytes.extend_from_slice(&groups.to_ne_bytes());
            }
        }
        bytes
    }

    /// The port of an internet address.
    pub fn port(&self) -> Option<u16> {
        match self {
            SocketAddress::Inet(_, port) | SocketAddress::Inet6 { port, .. } => Some(*port),
            _ => None,
        }
    }
}

fn unix_name(name: &[u8]) -> Option<UnixName> {
    match name.first()? {
        0 => Some(UnixName::Abstract(name[1..].into())),
        _ => {
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            Some(UnixName::Path(name[..end].into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unix_lengths_are_those_of_linux() {
        assert_eq!(SocketAddress::Unix(None).encode().len(), 2);
        let path = SocketAddress::decode(b"\x01\x00/a/b\0rest").unwrap();
        assert_eq!(path, SocketAddress::Unix(Some(UnixName::Path(Arc::from(&b"/a/b"[..])))));
        assert_eq!(path.encode(), b"\x01\x00/a/b\0");
        let name = SocketAddress::decode(b"\x01\x00\0x\0y").unwrap();
        assert_eq!(name.encode(), b"\x01\x00\0x\0y");
        assert_eq!(SocketAddress::decode(&[1]), Err(Errno::EINVAL));
        assert_eq!(SocketAddress::decode(&[&[1u8, 0][..], &[b'x'; 109]].concat()), Err(Errno::EINVAL));
    }

    #[test]
    fn short_internet_addresses_are_invalid() {
        assert_eq!(SocketAddress::decode(&[2, 0, 0, 80, 127, 0, 0, 1]), Err(Errno::EINVAL));
        assert_eq!(SocketAddress::decode(&[&[10, 0][..], &[0; 21]].concat()), Err(Errno::EINVAL));
        let short = SocketAddress::decode(&[&[10, 0][..], &[0; 22]].concat()).unwrap();
        assert_eq!(short.port(), Some(0));
    }

    proptest! {
        #[test]
        fn whatever_is_decoded_encodes_to_something_that_decodes_to_the_same(
            family in prop::sample::select(vec![0u16, 1, 2, 10, 16, 17]), rest in prop::collection::vec(any::<u8>(), 0..126)
        ) {
            let bytes = [&family.to_ne_bytes()[..], &rest].concat();
            if let Ok(address) = SocketAddress::decode(&bytes) {
                let encoded = address.encode();
                prop_assert!(encoded.len() <= LONGEST);
                // A path that fills sun_path gets a NUL behind it: getsockname(2) shows it one byte longer than bind(2) takes it (unix(7)).
                if address.family() == libc::AF_UNIX as u16 && encoded.len() > UNIX_LONGEST {
                    prop_assert_eq!(encoded.len(), UNIX_LONGEST + 1);
                } else {
                    prop_assert_eq!(SocketAddress::decode(&encoded), Ok(address));
                }
            }
        }
    }
}
