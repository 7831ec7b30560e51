//! Addresses of interfaces (`RTM_*ADDR`).

use std::net::{IpAddr, Ipv4Addr};

use crate::prefix::{InterfaceAddress, Prefix};
use crate::socket::{Error, Socket};
use crate::wire::{self, Malformed, Request, attributes, family, fixed, number};

/// Who made an address (Linux 5.18).
const IFA_PROTO: u16 = 11;
/// The kernel, from a router's advertisement (`IFAPROT_KERNEL_RA`).
const BY_ADVERTISEMENT: u8 = 2;
/// The kernel, because the interface came up (`IFAPROT_KERNEL_LL`).
const BY_COMING_UP: u8 = 3;

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: u32,
    /// The address.
    pub address: InterfaceAddress,
    /// `IFA_F_PERMANENT` and the like.
    pub flags: u32,
    /// Who made it (`IFA_PROTO`); 0 where that is not known.
    pub protocol: u8,
}

impl Address {
    /// Whether duplicate address detection found it taken: nothing can use it.
    #[must_use]
    pub fn is_unusable(&self) -> bool {
        self.flags & libc::IFA_F_DADFAILED != 0
    }

    /// Whether a kernel that has the same interface makes the same address by itself: from a router's advertisement, or the link-local
    /// one from the interface's `mac` (RFC 4291, appendix A). A kernel before 5.18 does not say who made an address; then the address tells.
    #[must_use]
    pub fn is_made_by_the_kernel(&self, mac: [u8; 6]) -> bool {
        let IpAddr::V6(address) = self.address.local else { return false };
        if self.protocol != 0 {
            return matches!(self.protocol, BY_ADVERTISEMENT | BY_COMING_UP);
        }
        let advertised = self.flags & (libc::IFA_F_MANAGETEMPADDR | libc::IFA_F_TEMPORARY) != 0;
        let [a, b, c, d, e, f] = mac;
        let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        advertised || address.octets() == link_local
    }

    /// None for a family that is not the Internet's.
    fn decode(payload: &[u8]) -> Result<Option<Address>, Malformed> {
        let (structure, rest) = fixed::<8>(payload)?;
        if Prefix::everything(structure[0]).is_none() {
            return Ok(None);
        }
        let (mut local, mut network, mut flags, mut protocol) = (None, None, u32::from(structure[2]), 0);
        for attribute in attributes(rest) {
            match attribute? {
                (libc::IFA_LOCAL, value) => local = Some(wire::address(value)?),
                (libc::IFA_ADDRESS, value) => network = Some(wire::address(value)?),
                (libc::IFA_FLAGS, value) => flags = number(value)?,
                (IFA_PROTO, value) => protocol = *value.first().ok_or(Malformed("an address's protocol"))?,
                _ => {}
            }
        }
        // IPv6 has no IFA_LOCAL without a peer; IPv4 leaves IFA_ADDRESS out for 0.0.0.0 alone.
        let address = network.or(local).ok_or(Malformed("an address without an address"))?;
        let network = Prefix { address, length: structure[1] };
        let address = InterfaceAddress { local: local.unwrap_or(address), network };
        Ok(Some(Address { interface: number(&structure[4..8])?, address, flags, protocol }))
    }
}

impl Socket {
    /// The Internet addresses of all interfaces: IPv4's in the order in which they were added, IPv6's in the opposite one
    /// (`ipv6_link_dev_addr()`).
    ///
    /// # Errors
    /// The kernel's, and those of the conversation.
    pub fn addresses(&mut self) -> Result<Vec<Address>, Error> {
        let all = self.dump(&Request::new(libc::RTM_GETADDR, 0, &[&[0; 8]]), libc::RTM_NEWADDR, Address::decode)?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Gives an interface an address, or changes the one it has. No route comes with it (`IFA_F_NOPREFIXROUTE`): which there are is
    /// said one by one. It can be used at once (`IFA_F_NODAD`): whoever gave it out knows whose it is.
    ///
    /// # Errors
    /// The kernel's, such as `ENODEV`, or `EACCES` for IPv6 where that is switched off.
    pub fn add_address(&mut self, interface: u32, address: InterfaceAddress) -> Result<(), Error> {
        let InterfaceAddress { local, network } = address;
        // An IPv4 address that no router forwards is in use on its link alone (RFC 3927); IPv6's scope is in the address.
        let scope = match local {
            IpAddr::V4(address) if address.is_link_local() => libc::RT_SCOPE_LINK,
            _ => libc::RT_SCOPE_UNIVERSE,
        };
        let fields: [&[u8]; 2] = [&[family(local), network.length, 0, scope], &interface.to_ne_bytes()];
        let mut request = Request::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &fields);
        request.attributes.put_address(libc::IFA_LOCAL, local).put_address(libc::IFA_ADDRESS, network.address);
        request.attributes.put_u32(libc::IFA_FLAGS, libc::IFA_F_NOPREFIXROUTE | libc::IFA_F_NODAD | libc::IFA_F_PERMANENT);
        if let Some(broadcast) = broadcast(network) {
            request.attributes.put_address(libc::IFA_BROADCAST, broadcast.into());
        }
        self.request(&request)
    }
}

/// An IPv4 network's broadcast address; networks of one or two addresses have none (RFC 3021).
fn broadcast(network: Prefix) -> Option<Ipv4Addr> {
    match network.address {
        IpAddr::V4(address) if network.length < 31 => Some(Ipv4Addr::from(u32::from(address) | u32::MAX >> network.length)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x16, 0x63, 0xbd, 0x7a, 0x97, 0xd7];

    fn address(text: &str, flags: u32, protocol: u8) -> Address {
        Address { interface: 2, address: text.parse().unwrap(), flags, protocol }
    }

    #[test]
    fn what_the_kernel_makes_again_is_told_from_what_was_given() {
        let permanent = libc::IFA_F_PERMANENT;
        for (one, made) in [
            (address("fe80::1463:bdff:fe7a:97d7/64", permanent, 0), true),
            (address("fe80::1463:bdff:fe7a:97d7/64", permanent, BY_COMING_UP), true),
            (address("fe80::1234:5678:9abc:def0/64", permanent, BY_COMING_UP), true),
            (address("fe80::1/64", permanent, 0), false),
            (address("fd00::1463:bdff:fe7a:97d7/64", libc::IFA_F_MANAGETEMPADDR, 0), true),
            (address("fd00::9/64", 0, BY_ADVERTISEMENT), true),
            (address("fd00::9/64", permanent, 0), false),
            (address("10.0.0.1/24", permanent, 0), false),
        ] {
            assert_eq!(one.is_made_by_the_kernel(MAC), made, "{one:?}");
        }
    }

    #[test]
    fn a_network_has_its_broadcast_address() {
        for (network, expected) in
            [("10.0.0.2/24", Some("10.0.0.255")), ("10.0.0.2/0", Some("255.255.255.255")), ("10.0.0.2/31", None), ("fd00::1/64", None)]
        {
            assert_eq!(broadcast(network.parse().unwrap()).map(|address| address.to_string()).as_deref(), expected, "{network}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_address_or_none(
            mut payload in proptest::collection::vec(any::<u8>(), 0..80),
            family in prop_oneof![Just(2u8), Just(10u8)],
        ) {
            if let Some(first) = payload.first_mut() {
                *first = family;
            }
            let _ = Address::decode(&payload);
        }
    }
}
