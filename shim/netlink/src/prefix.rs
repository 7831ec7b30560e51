//! Addresses with prefix lengths, as text: `10.0.0.2/24`, `fd00::/64`, and ip-address(8)'s `10.0.0.1 peer 10.0.0.2/32`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A text is none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    /// Neither four numbers with dots nor RFC 4291's groups.
    #[error("not an Internet address")]
    Address,
    /// No `/` and number after it, or more than the address has bits.
    #[error("not an address with a prefix length")]
    Length,
    /// The two ends of a point-to-point link speak different protocols.
    #[error("an address and a peer of different families")]
    Peer,
}

/// What a route leads to: the addresses that agree with `address` in their first `length` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// An address.
    pub address: IpAddr,
    /// Bits: at most 32 for IPv4, 128 for IPv6.
    pub length: u8,
}

impl Prefix {
    /// Everything: the destination of a default route of the family (`AF_INET`, `AF_INET6`).
    pub(crate) fn everything(family: u8) -> Option<Prefix> {
        let address = match i32::from(family) {
            libc::AF_INET => IpAddr::from([0; 4]),
            libc::AF_INET6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        Some(Prefix { address, length: 0 })
    }
}

/// Bits of an address of that family.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Prefix {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Prefix, NotAnAddress> {
        let (address, length) = text.split_once('/').ok_or(NotAnAddress::Length)?;
        let address: IpAddr = address.parse().map_err(|_| NotAnAddress::Address)?;
        // u8's own parser would take "+8".
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length = length.parse().ok().filter(|length| digits && *length <= bits(address)).ok_or(NotAnAddress::Length)?;
        Ok(Prefix { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

/// What an interface is called and whom it reaches: its own address, and the network that the address makes reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InterfaceAddress {
    /// The interface's own (`IFA_LOCAL`).
    pub local: IpAddr,
    /// `IFA_ADDRESS`: the same, or the other end of a point-to-point link; with the prefix length.
    pub network: Prefix,
}

impl FromStr for InterfaceAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<InterfaceAddress, NotAnAddress> {
        let Some((local, peer)) = text.split_once(" peer ") else {
            let network: Prefix = text.parse()?;
            return Ok(InterfaceAddress { local: network.address, network });
        };
        let local: IpAddr = local.parse().map_err(|_| NotAnAddress::Address)?;
        let network: Prefix = peer.parse()?;
        if local.is_ipv4() != network.address.is_ipv4() {
            return Err(NotAnAddress::Peer);
        }
        Ok(InterfaceAddress { local, network })
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.local == self.network.address {
            return self.network.fmt(formatter);
        }
        write!(formatter, "{} peer {}", self.local, self.network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_address_is_said() {
        for (text, why) in [
            ("10.0.0.2", NotAnAddress::Length),
            ("10.0.0.2/", NotAnAddress::Length),
            ("10.0.0.2/+8", NotAnAddress::Length),
            ("10.0.0.2/33", NotAnAddress::Length),
            ("fd00::1/129", NotAnAddress::Length),
            ("10.0.0/24", NotAnAddress::Address),
            ("eth0/24", NotAnAddress::Address),
            ("10.0.0.1 peer fd00::1/128", NotAnAddress::Peer),
            ("10.0.0.1 peer 10.0.0.2", NotAnAddress::Length),
        ] {
            assert_eq!(text.parse::<InterfaceAddress>(), Err(why), "{text}");
        }
        let peer: InterfaceAddress = "10.0.0.1 peer 10.0.0.2/32".parse().unwrap();
        assert_eq!((peer.local.to_string(), peer.network.to_string()), ("10.0.0.1".into(), "10.0.0.2/32".into()));
    }

    proptest! {
        #[test]
        fn text_and_type_agree(local: IpAddr, other: IpAddr, point_to_point: bool, length in 0u8..=128) {
            let address = if point_to_point && other.is_ipv4() == local.is_ipv4() { other } else { local };
            let network = Prefix { address, length: length.min(bits(address)) };
            prop_assert_eq!(network.to_string().parse(), Ok(network));
            let whole = InterfaceAddress { local, network };
            prop_assert_eq!(whole.to_string().parse(), Ok(whole));
        }

        #[test]
        fn any_text_is_an_address_or_none(text in "[0-9a-f:./ per+-]{0,40}|\\PC{0,20}") {
            if let Ok(address) = text.parse::<InterfaceAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
