//! Interfaces (`RTM_*LINK`).

use std::fmt;

use crate::socket::{Error, Socket};
use crate::wire::{Malformed, Request, attributes, fixed, number, text};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// By which other objects name it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What made it: `veth`, `macvlan`, `tun`; none for a device of hardware and for the loopback interface.
    pub kind: Option<String>,
    /// `ARPHRD_ETHER` and the like.
    pub hardware: u16,
    /// `IFF_UP` and the like (netdevice(7)).
    pub flags: u32,
    /// Its Ethernet address. None for all zeros and for other lengths.
    pub mac: Option<[u8; 6]>,
    /// Bytes.
    pub mtu: u32,
    /// The note that whoever made it may leave on it.
    pub alias: Option<String>,
}

impl Link {
    /// Whether frames leave it (`IFF_UP`, set by its administrator).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    /// Whether it is the loopback interface.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK as u32 != 0
    }

    /// Whether somebody asked that it hear all multicast groups (`IFF_ALLMULTI`), joined or not.
    #[must_use]
    pub fn hears_all_multicast(&self) -> bool {
        self.flags & libc::IFF_ALLMULTI as u32 != 0
    }

    fn decode(payload: &[u8]) -> Result<Link, Malformed> {
        let (structure, rest) = fixed::<16>(payload)?;
        let mut link = Link {
            index: number(&structure[4..8])?,
            name: String::new(),
            kind: None,
            hardware: u16::from_ne_bytes([structure[2], structure[3]]),
            flags: number(&structure[8..12])?,
            mac: None,
            mtu: 0,
            alias: None,
        };
        for attribute in attributes(rest) {
            match attribute? {
                (libc::IFLA_IFNAME, value) => link.name = text(value),
                (libc::IFLA_ADDRESS, value) => link.mac = value.try_into().ok().filter(|mac| *mac != [0; 6]),
                (libc::IFLA_MTU, value) => link.mtu = number(value)?,
                (libc::IFLA_IFALIAS, value) => link.alias = Some(text(value)),
                (libc::IFLA_LINKINFO, value) => {
                    for attribute in attributes(value) {
                        if let (libc::IFLA_INFO_KIND, value) = attribute? {
                            link.kind = Some(text(value));
                        }
                    }
                }
                _ => {}
            }
        }
        if link.name.is_empty() {
            return Err(Malformed("an interface without a name"));
        }
        Ok(link)
    }
}

/// What to change about an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Its name; only while it is down.
    Name(&'a str),
    /// Bytes.
    Mtu(u32),
    /// Its note.
    Alias(&'a str),
    /// Up.
    Up,
    /// Whether it hears all multicast groups.
    AllMulticast(bool),
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Name(name) => write!(formatter, "name {name:?}"),
            Change::Mtu(mtu) => write!(formatter, "MTU {mtu}"),
            Change::Alias(alias) => write!(formatter, "alias {alias:?}"),
            Change::Up => formatter.write_str("up"),
            Change::AllMulticast(all) => write!(formatter, "all multicast groups: {all}"),
        }
    }
}

impl Socket {
    /// The interfaces, in the order of their indices.
    ///
    /// # Errors
    /// The kernel's, and those of the conversation.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut links = self.dump(&Request::new(libc::RTM_GETLINK, 0, &[&[0; 16]]), libc::RTM_NEWLINK, Link::decode)?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// Changes an interface.
    ///
    /// # Errors
    /// The kernel's: `EEXIST` for a name that another has, `EINVAL` for what the device can not be.
    pub fn change_link(&mut self, index: u32, change: Change<'_>) -> Result<(), Error> {
        let (flags, mask) = match change {
            Change::Up => (libc::IFF_UP, libc::IFF_UP),
            Change::AllMulticast(all) => (if all { libc::IFF_ALLMULTI } else { 0 }, libc::IFF_ALLMULTI),
            _ => (0, 0),
        };
        // ifinfomsg: family, type, index, flags, which flags to change.
        let mut request = Request::new(libc::RTM_NEWLINK, 0, &[&[0; 4], &index.to_ne_bytes(), &flags.to_ne_bytes(), &mask.to_ne_bytes()]);
        match change {
            Change::Name(name) => request.attributes.put_text(libc::IFLA_IFNAME, name),
            Change::Mtu(mtu) => request.attributes.put_u32(libc::IFLA_MTU, mtu),
            // Without a NUL: the kernel counts it in.
            Change::Alias(alias) => request.attributes.put(libc::IFLA_IFALIAS, alias.as_bytes()),
            Change::Up | Change::AllMulticast(_) => &mut request.attributes,
        };
        self.request(&request)
    }

    /// Removes an interface and all that hangs on it.
    ///
    /// # Errors
    /// The kernel's: `ENODEV` where there is none, `EOPNOTSUPP` for hardware.
    pub fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        self.request(&Request::new(libc::RTM_DELLINK, 0, &[&[0; 4], &index.to_ne_bytes(), &[0; 8]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{HEADER, messages};
    use proptest::prelude::*;

    #[test]
    fn a_veth_is_read() {
        let mut request = Request::new(libc::RTM_NEWLINK, 0, &[&[0, 0, 1, 0], &7u32.to_ne_bytes(), &0x1043u32.to_ne_bytes(), &[0; 4]]);
        request.attributes.put_text(libc::IFLA_IFNAME, "eth0").put(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]).put_u32(libc::IFLA_MTU, 1450);
        request.attributes.nest(libc::IFLA_LINKINFO, |info| _ = info.put_text(libc::IFLA_INFO_KIND, "veth"));
        let bytes = request.encode(0, 1);
        let link = Link::decode(messages(&bytes).next().unwrap().unwrap().payload).unwrap();
        let kind = Some("veth".into());
        let mac = Some([2, 0, 0, 0, 0, 1]);
        assert_eq!(link, Link { index: 7, name: "eth0".into(), kind, hardware: 1, flags: 0x1043, mac, mtu: 1450, alias: None });
        assert!(link.is_up() && !link.is_loopback());
        for cut in HEADER..bytes.len() {
            let _ = Link::decode(&bytes[HEADER..cut]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_link_or_none(payload in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Link::decode(&payload);
        }
    }
}
