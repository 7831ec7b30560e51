//! Neighbours: which link-layer address has an Internet address on the link (`RTM_*NEIGH`).

use std::net::IpAddr;

use crate::socket::{Error, Socket};
use crate::wire::{self, Malformed, Request, attributes, family, fixed, number};

/// An entry of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub interface: u32,
    /// Whose.
    pub address: IpAddr,
    /// Where.
    pub mac: [u8; 6],
    /// `NUD_PERMANENT` and the like.
    pub state: u16,
}

impl Neighbour {
    /// Whether somebody set it, for good; the others are found out again.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.state & libc::NUD_PERMANENT != 0
    }

    /// None for an entry of another protocol or link layer, and for one whose link-layer address is not known.
    fn decode(payload: &[u8]) -> Result<Option<Neighbour>, Malformed> {
        let (structure, rest) = fixed::<12>(payload)?;
        let (mut address, mut mac) = (None, None);
        if !matches!(i32::from(structure[0]), libc::AF_INET | libc::AF_INET6) {
            return Ok(None);
        }
        for attribute in attributes(rest) {
            match attribute? {
                (libc::NDA_DST, value) => address = Some(wire::address(value)?),
                (libc::NDA_LLADDR, value) => mac = value.try_into().ok(),
                _ => {}
            }
        }
        let state = u16::from_ne_bytes([structure[8], structure[9]]);
        let interface = number(&structure[4..8])?;
        Ok(address.zip(mac).map(|(address, mac)| Neighbour { interface, address, mac, state }))
    }
}

impl Socket {
    /// The neighbours that are known.
    ///
    /// # Errors
    /// The kernel's, and those of the conversation.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        let all = self.dump(&Request::new(libc::RTM_GETNEIGH, 0, &[&[0; 12]]), libc::RTM_NEWNEIGH, Neighbour::decode)?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Adds a neighbour, or changes the one with that address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), Error> {
        // ndmsg: family, index, state, flags, type.
        let fields: [&[u8]; 4] =
            [&[family(neighbour.address), 0, 0, 0], &neighbour.interface.to_ne_bytes(), &neighbour.state.to_ne_bytes(), &[0; 2]];
        let mut request = Request::new(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &fields);
        request.attributes.put_address(libc::NDA_DST, neighbour.address).put(libc::NDA_LLADDR, &neighbour.mac);
        self.request(&request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_neighbour_or_none(
            mut payload in proptest::collection::vec(any::<u8>(), 0..80),
            family in prop_oneof![Just(2u8), Just(10u8)],
        ) {
            if let Some(first) = payload.first_mut() {
                *first = family;
            }
            let _ = Neighbour::decode(&payload);
        }
    }
}
