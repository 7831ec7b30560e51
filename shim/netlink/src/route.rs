//! Routes (`RTM_*ROUTE`).

use std::net::IpAddr;

use crate::prefix::Prefix;
use crate::socket::{Error, Socket};
use crate::wire::{self, Malformed, Request, attributes, family, fixed, number};

/// `RTNH_F_ONLINK`: the gateway is on the link, whatever the routes say.
pub const ONLINK: u32 = 4;
/// The protocol of routes that a router's advertisement made (`RTPROT_RA`).
const BY_ADVERTISEMENT: u8 = 9;
/// The object that next hops may be kept in (`RTA_NH_ID`).
const RTA_NH_ID: u16 = 30;
/// The metric that names a congestion control algorithm: a string, unlike all others (`RTAX_CC_ALGO`).
const RTAX_CC_ALGO: u16 = 16;

/// A route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: Prefix,
    /// The next router; of the other family for IPv4 over an IPv6 link (RFC 5549). None: on the link.
    pub gateway: Option<IpAddr>,
    /// The interface. None for a route that leads nowhere (`RTN_BLACKHOLE` and its like).
    pub interface: Option<u32>,
    /// The address to send from.
    pub source: Option<IpAddr>,
    /// Its priority: the lowest is taken. 0 where there is none.
    pub metric: u32,
    /// `RT_TABLE_MAIN` and the like.
    pub table: u32,
    /// Who made it: `RTPROT_KERNEL` and the like.
    pub protocol: u8,
    /// `RT_SCOPE_LINK` and the like.
    pub scope: u8,
    /// `RTN_UNICAST` and the like.
    pub kind: u8,
    /// Of those the kernel knows, what was asked for and not what is so now: [`ONLINK`].
    pub flags: u32,
    /// `RTAX_MTU` and the like (`RTA_METRICS`).
    pub options: Vec<(u16, u32)>,
    /// What this type can not say about the route.
    pub more: Option<&'static str>,
}

impl Route {
    /// Whether a router's advertisement or redirect made it, or a lookup: it is found out again.
    #[must_use]
    pub fn is_learned(&self) -> bool {
        matches!(self.protocol, BY_ADVERTISEMENT | libc::RTPROT_REDIRECT)
    }

    /// Whether the kernel made it.
    #[must_use]
    pub fn is_made_by_the_kernel(&self) -> bool {
        self.protocol == libc::RTPROT_KERNEL
    }

    /// Whether it sends packets somewhere, rather than refuse them.
    #[must_use]
    pub fn leads_somewhere(&self) -> bool {
        leads_somewhere(self.kind)
    }

    /// None for a family that is not the Internet's, and for an entry of a cache.
    fn decode(payload: &[u8]) -> Result<Option<Route>, Malformed> {
        let (structure, rest) = fixed::<12>(payload)?;
        let [family, length, source_length, service, table, protocol, scope, kind, ..] = *structure;
        let flags = number(&structure[8..12])?;
        let Some(mut destination) = Prefix::everything(family).filter(|_| flags & libc::RTM_F_CLONED == 0) else {
            return Ok(None);
        };
        destination.length = length;
        let mut route = Route {
            destination,
            gateway: None,
            interface: None,
            source: None,
            metric: 0,
            table: table.into(),
            protocol,
            scope,
            kind,
            flags: flags & ONLINK,
            options: Vec::new(),
            more: None,
        };
        if source_length != 0 {
            route.more = Some("it depends on the source address");
        }
        if service != 0 {
            route.more = Some("it depends on the type of service");
        }
        for attribute in attributes(rest) {
            match attribute? {
                (libc::RTA_DST, value) => route.destination.address = wire::address(value)?,
                (libc::RTA_OIF, value) => route.interface = Some(number(value)?),
                (libc::RTA_GATEWAY, value) => route.gateway = Some(wire::address(value)?),
                // rtvia: a family, then its address.
                (libc::RTA_VIA, value) => route.gateway = Some(wire::address(value.get(2..).unwrap_or_default())?),
                (libc::RTA_PREFSRC, value) => route.source = Some(wire::address(value)?),
                (libc::RTA_PRIORITY, value) => route.metric = number(value)?,
                (libc::RTA_TABLE, value) => route.table = number(value)?,
                (libc::RTA_METRICS, value) => {
                    for option in attributes(value) {
                        match option? {
                            (RTAX_CC_ALGO, _) => route.more = Some("it names a congestion control algorithm"),
                            (option, value) => route.options.push((option, number(value)?)),
                        }
                    }
                }
                (libc::RTA_MULTIPATH, _) => route.more = Some("it has several next hops"),
                (libc::RTA_ENCAP, _) => route.more = Some("it encapsulates"),
                (RTA_NH_ID, _) => route.more = Some("it uses a next hop object"),
                _ => {}
            }
        }
        if !leads_somewhere(kind) {
            // IPv6 shows the loopback interface there.
            route.interface = None;
        }
        Ok(Some(route))
    }
}

/// Whether routes of a kind send packets to an interface.
fn leads_somewhere(kind: u8) -> bool {
    !matches!(kind, libc::RTN_BLACKHOLE | libc::RTN_UNREACHABLE | libc::RTN_PROHIBIT | libc::RTN_THROW)
}

impl Socket {
    /// The Internet's routes in all tables, in the kernel's order.
    ///
    /// # Errors
    /// The kernel's, and those of the conversation.
    pub fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let all = self.dump(&Request::new(libc::RTM_GETROUTE, 0, &[&[0; 12]]), libc::RTM_NEWROUTE, Route::decode)?;
        Ok(all.into_iter().flatten().collect())
    }

    /// Adds a route behind those to the same destination with the same metric.
    ///
    /// # Errors
    /// The kernel's: `EEXIST` when just that route is there, `ENETUNREACH` for a gateway that no route reaches.
    pub fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        let Prefix { address, length } = route.destination;
        // The table's number is in RTA_TABLE, whose values need not fit here.
        let fixed = [family(address), length, 0, 0, libc::RT_TABLE_UNSPEC, route.protocol, route.scope, route.kind];
        let mut request = Request::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, &[&fixed, &route.flags.to_ne_bytes()]);
        let attributes = &mut request.attributes;
        attributes.put_u32(libc::RTA_TABLE, route.table);
        if length != 0 {
            attributes.put_address(libc::RTA_DST, address);
        }
        if let Some(interface) = route.interface {
            attributes.put_u32(libc::RTA_OIF, interface);
        }
        match route.gateway {
            Some(gateway) if gateway.is_ipv4() == address.is_ipv4() => _ = attributes.put_address(libc::RTA_GATEWAY, gateway),
            Some(gateway) => {
                let via = [&u16::from(family(gateway)).to_ne_bytes()[..], &wire::octets(gateway)].concat();
                attributes.put(libc::RTA_VIA, &via);
            }
            None => {}
        }
        if let Some(source) = route.source {
            attributes.put_address(libc::RTA_PREFSRC, source);
        }
        if route.metric != 0 {
            attributes.put_u32(libc::RTA_PRIORITY, route.metric);
        }
        if !route.options.is_empty() {
            attributes.nest(libc::RTA_METRICS, |metrics| {
                for (option, value) in &route.options {
                    metrics.put_u32(*option, *value);
                }
            });
        }
        self.request(&request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_route_or_none(
            mut payload in proptest::collection::vec(any::<u8>(), 0..120),
            family in prop_oneof![Just(2u8), Just(10u8)],
        ) {
            if let Some(first) = payload.first_mut() {
                *first = family;
            }
            let _ = Route::decode(&payload);
        }
    }
}
