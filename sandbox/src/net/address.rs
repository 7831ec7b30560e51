//! Socket addresses: `struct sockaddr` of every family that is served, decoded once into types.
//!
//! A workload passes bytes and a length ([`Passed`]); each family reads them its own way (unix(7), ip(7), ipv6(7), netlink(7)), because
//! they do not agree on what is too short, nor on what a foreign family means. The length of the [`SocketAddress`] that comes back is part
//! of the answer: an unnamed Unix socket shows two bytes, a path its terminating NUL, an abstract name exactly what was bound.

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

/// An address as a call passed it, copied once and not yet understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Passed {
    /// Of these bytes. `EINVAL` for more than any call takes.
    pub fn new(bytes: &[u8]) -> Result<Passed> {
        let mut passed = Passed { bytes: [0; LONGEST], length: bytes.len() };
        passed.bytes.get_mut(..bytes.len()).ok_or(Errno::EINVAL)?.copy_from_slice(bytes);
        Ok(passed)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The family, `AF_*`; `None` where the bytes end before it does.
    pub fn family(&self) -> Option<i32> {
        (self.length >= 2).then(|| i32::from(u16::from_ne_bytes([self.bytes[0], self.bytes[1]])))
    }

    /// As a Unix address: `None` for a request for a name of the kernel's choice. `EINVAL` for another family, and for a length that no such
    /// address has.
    pub fn unix(&self) -> Result<Option<UnixName>> {
        if self.family() != Some(libc::AF_UNIX) || self.length > UNIX_LONGEST {
            return Err(Errno::EINVAL);
        }
        Ok(unix_name(&self.bytes()[2..]))
    }

    /// As a netlink address: port and groups.
    pub fn netlink(&self) -> Result<(u32, u32)> {
        if self.length < 12 || self.family() != Some(libc::AF_NETLINK) {
            return Err(Errno::EINVAL);
        }
        Ok((word(&self.bytes, 4), word(&self.bytes, 8)))
    }

    /// The port of an internet address of this family; `None` for what is none.
    pub fn port(&self, family: i32) -> Option<u16> {
        // RFC 2133's shorter form of an IPv6 address has no scope.
        let least = if family == libc::AF_INET { 16 } else { 24 };
        let whole = self.family() == Some(family) && self.length >= least;
        whole.then(|| u16::from_be_bytes([self.bytes[2], self.bytes[3]]))
    }

    /// What an internet socket of the host may be told: an internet address as it stands; of any other, nothing but the family and the
    /// length, by which the host tells what is wrong with it.
    pub fn for_host(&self) -> Passed {
        match self.family() {
            Some(libc::AF_UNSPEC | libc::AF_INET | libc::AF_INET6) => *self,
            _ => {
                let mut bare = Passed { bytes: [0; LONGEST], length: self.length };
                bare.bytes[..2].copy_from_slice(&self.bytes[..2]);
                bare
            }
        }
    }
}

impl From<&SocketAddress> for Passed {
    fn from(address: &SocketAddress) -> Passed {
        let bytes = address.encode();
        let mut passed = Passed { bytes: [0; LONGEST], length: bytes.len().min(LONGEST) };
        passed.bytes[..passed.length].copy_from_slice(&bytes[..passed.length]);
        passed
    }
}

impl SocketAddress {
    /// Decodes what the host says. `EINVAL` where the bytes are too few for the family they name, or too many.
    pub fn decode(bytes: &[u8]) -> Result<SocketAddress> {
        let Some(&[low, high]) = bytes.get(..2) else { return Err(Errno::EINVAL) };
        let family = u16::from_ne_bytes([low, high]);
        let port = || u16::from_be_bytes([bytes[2], bytes[3]]);
        let at_least = |length| if bytes.len() < length { Err(Errno::EINVAL) } else { Ok(()) };
        match i32::from(family) {
            libc::AF_UNSPEC => Ok(SocketAddress::Unspecified),
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

    fn passed(bytes: &[u8]) -> Passed {
        Passed::new(bytes).unwrap()
    }

    #[test]
    fn unix_lengths_are_those_of_linux() {
        assert_eq!(SocketAddress::Unix(None).encode().len(), 2);
        let path = passed(b"\x01\x00/a/b\0rest").unix().unwrap();
        assert_eq!(path, Some(UnixName::Path(Arc::from(&b"/a/b"[..]))));
        assert_eq!(SocketAddress::Unix(path).encode(), b"\x01\x00/a/b\0");
        let name = passed(b"\x01\x00\0x\0y").unix().unwrap();
        assert_eq!(SocketAddress::Unix(name).encode(), b"\x01\x00\0x\0y");
        assert_eq!(passed(b"\x01\x00").unix(), Ok(None));
        for wrong in [&[1][..], &[], &[&[1u8, 0][..], &[b'x'; 109]].concat(), &[2, 0, b'x']] {
            assert_eq!(passed(wrong).unix(), Err(Errno::EINVAL));
        }
        assert_eq!(Passed::new(&[0; 129]), Err(Errno::EINVAL));
    }

    #[test]
    fn what_is_no_internet_address_has_no_port_and_does_not_reach_the_host() {
        let mut four = [2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(passed(&four).port(libc::AF_INET), Some(80));
        assert_eq!(passed(&four[..15]).port(libc::AF_INET), None);
        assert_eq!(passed(&four).port(libc::AF_INET6), None);
        assert_eq!(passed(&four).for_host(), passed(&four));
        four[0] = 1;
        assert_eq!(passed(&four).for_host().bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let short = passed(&[&[10, 0, 0, 9][..], &[0; 20]].concat());
        assert_eq!(short.port(libc::AF_INET6), Some(9));
    }

    proptest! {
        #[test]
        fn whatever_the_host_says_encodes_to_something_that_decodes_to_the_same(
            family in prop::sample::select(vec![0u16, 2, 10, 16, 17]), rest in prop::collection::vec(any::<u8>(), 0..126)
        ) {
            let bytes = [&family.to_ne_bytes()[..], &rest].concat();
            if let Ok(address) = SocketAddress::decode(&bytes) {
                let encoded = address.encode();
                prop_assert!(encoded.len() <= LONGEST);
                prop_assert_eq!(SocketAddress::decode(&encoded), Ok(address));
            }
        }

        #[test]
        fn a_unix_name_that_is_shown_is_the_name_that_was_bound(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let mut bytes = bytes;
            if bytes.len() >= 2 {
                bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
            }
            if let Ok(name) = passed(&bytes).unix() {
                let shown = SocketAddress::Unix(name.clone()).encode();
                // A path that fills sun_path gets a NUL behind it: getsockname(2) shows it one byte longer than bind(2) takes it (unix(7)).
                let whole = shown.len() > UNIX_LONGEST;
                prop_assert!(shown.len() <= UNIX_LONGEST + 1);
                prop_assert_eq!(passed(if whole { &shown[..UNIX_LONGEST] } else { &shown }).unix(), Ok(name));
            }
        }

        #[test]
        fn nothing_but_internet_addresses_reaches_the_host(bytes in prop::collection::vec(any::<u8>(), 0..129)) {
            let address = passed(&bytes);
            let told = address.for_host();
            prop_assert_eq!(told.bytes().len(), bytes.len());
            prop_assert_eq!(told.family(), address.family());
            if !matches!(address.family(), Some(libc::AF_UNSPEC | libc::AF_INET | libc::AF_INET6)) {
                prop_assert!(told.bytes().iter().skip(2).all(|byte| *byte == 0));
            }
            let _ = (address.netlink(), address.port(libc::AF_INET), address.port(libc::AF_INET6));
        }
    }
}
