//! The guest's network: its cards get the names, addresses and routes of the interfaces in the pod's network namespace on the host.
//!
//! What the monitor sends was read from that namespace; it is trusted, but it is text, so it is parsed as a whole first ([`Plan`]) and an
//! entry that says nothing is named. Then things are done in the order in which each needs the ones before: names, because sysctls
//! and routes use them; sysctls, because some hold only for what comes up after them; MTUs; the cards up; addresses; routes, those that gateways are
//! reached by before those through gateways; neighbours.
//!
//! Addresses can be used at once. Nobody asks whether another has them (RFC 4862's duplicate address detection, a second or two):
//! the host's network plugin gave them out, and the pod's interface on the host has them already.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;

use bulkhead_netlink::{Change, Error, InterfaceAddress, Link, Neighbour, NotAnAddress, Route, Socket};
use bulkhead_protocol::guest::Network;
use nix::errno::Errno;

/// Why the guest has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An entry is not what its place says.
    #[error("guest network: {entry}: {text:?}: {source}")]
    Text {
        /// Where.
        entry: String,
        /// What is there.
        text: String,
        /// What it is not.
        source: NotAnAddress,
    },
    /// An entry speaks of an interface that there is none of.
    #[error("guest network: {entry}: interface {name}: there is none")]
    NoInterface {
        /// Where.
        entry: String,
        /// Which.
        name: String,
    },
    /// The machine has no such card.
    #[error("guest network: interface {name}: no card with the MAC address {mac} (is the driver virtio_net there?)")]
    NoCard {
        /// The interface.
        name: String,
        /// Its address.
        mac: Mac,
    },
    /// The kernel refuses something.
    #[error("guest network: {entry}: {source}")]
    Refused {
        /// What.
        entry: String,
        /// Why.
        source: Error,
    },
    /// The kernel refuses a sysctl.
    #[error("guest network: sysctl {key}: {value:?}: {source}")]
    Sysctl {
        /// The sysctl.
        key: String,
        /// Its value.
        value: String,
        /// Why.
        source: io::Error,
    },
}

/// An Ethernet address, shown as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// Configures the calling thread's network namespace, whose cards are as yet down, as `network` says; and its loopback interface.
///
/// # Errors
/// [`NetworkError`] names the entry. What was done before it stays: a guest without its network does not serve.
pub fn apply(network: &Network) -> Result<(), NetworkError> {
    let plan = Plan::parse(network)?;
    let mut socket = Socket::open().map_err(refused("socket"))?;
    let links = socket.links().map_err(refused("interfaces"))?;
    let cards = cards(network, &links)?;
    let mut indices = HashMap::new();
    for link in links.iter().filter(|link| link.is_loopback()) {
        socket.change_link(link.index, Change::Up).map_err(refused(&link.name))?;
        indices.insert(link.name.as_str(), link.index);
    }
    rename(&mut socket, network, &cards)?;
    indices.extend(network.interfaces.iter().zip(&cards).map(|(interface, card)| (interface.name.as_str(), card.index)));
    set_sysctls(network)?;
    for ((interface, addresses), card) in network.interfaces.iter().zip(&plan.addresses).zip(&cards) {
        let entry = format!("interface {}", interface.name);
        socket.change_link(card.index, Change::Mtu(interface.mtu)).map_err(refused(format!("{entry}: MTU {}", interface.mtu)))?;
        socket.change_link(card.index, Change::Up).map_err(refused(&entry))?;
        for address in addresses {
            socket.add_address(card.index, *address).map_err(refused(format!("{entry}: address {address}")))?;
        }
    }
    for (position, (route, asked)) in plan.routes.iter().zip(&network.routes).enumerate() {
        let entry = format!("routes[{position}]: to {}", asked.destination);
        let interface = index(&indices, &entry, &asked.interface)?;
        let route = Route { interface: route.leads_somewhere().then_some(interface), ..route.clone() };
        match socket.add_route(&route) {
            // The very same: the kernel made it, for the loopback interface or a link-local address.
            Err(error) if error.errno() == Some(Errno::EEXIST) => {}
            other => other.map_err(refused(entry))?,
        }
    }
    for (position, (address, asked)) in plan.neighbours.iter().zip(&network.neighbours).enumerate() {
        let entry = format!("neighbours[{position}]: {}", asked.address);
        let interface = index(&indices, &entry, &asked.interface)?;
        let neighbour = Neighbour { interface, address: *address, mac: asked.mac, state: libc::NUD_PERMANENT };
        socket.add_neighbour(&neighbour).map_err(refused(entry))?;
    }
    Ok(())
}

/// The text of a [`Network`], understood; in its order.
#[derive(Debug)]
struct Plan {
    /// Of each interface.
    addresses: Vec<Vec<InterfaceAddress>>,
    /// Without their interfaces.
    routes: Vec<Route>,
    neighbours: Vec<IpAddr>,
}

impl Plan {
    fn parse(network: &Network) -> Result<Plan, NetworkError> {
        let mut plan = Plan { addresses: Vec::new(), routes: Vec::new(), neighbours: Vec::new() };
        for interface in &network.interfaces {
            let parsed = interface.addresses.iter().map(|text| read(text, || format!("interface {}: address", interface.name)));
            plan.addresses.push(parsed.collect::<Result<_, _>>()?);
        }
        for (position, route) in network.routes.iter().enumerate() {
            let entry = |field| move || format!("routes[{position}].{field}");
            plan.routes.push(Route {
                destination: read(&route.destination, entry("destination"))?,
                gateway: route.gateway.as_deref().map(|text| address(text, entry("gateway"))).transpose()?,
                interface: None,
                source: route.source.as_deref().map(|text| address(text, entry("source"))).transpose()?,
                metric: route.metric,
                table: libc::RT_TABLE_MAIN.into(),
                protocol: libc::RTPROT_STATIC,
                scope: route.scope,
                kind: route.kind,
                flags: route.flags,
                options: route.options.clone(),
                more: None,
            });
        }
        for (position, neighbour) in network.neighbours.iter().enumerate() {
            plan.neighbours.push(address(&neighbour.address, || format!("neighbours[{position}].address"))?);
        }
        Ok(plan)
    }
}

/// The card of each interface.
fn cards<'a>(network: &Network, links: &'a [Link]) -> Result<Vec<&'a Link>, NetworkError> {
    let find = |mac: [u8; 6]| links.iter().find(|link| !link.is_loopback() && link.mac == Some(mac));
    let interfaces = network.interfaces.iter();
    interfaces
        .map(|interface| find(interface.mac).ok_or_else(|| NetworkError::NoCard { name: interface.name.clone(), mac: Mac(interface.mac) }))
        .collect()
}

/// Gives the cards their interfaces' names. One card may have the name that another is to get: all that have to change step aside first.
fn rename(socket: &mut Socket, network: &Network, cards: &[&Link]) -> Result<(), NetworkError> {
    let wrong: Vec<_> = network.interfaces.iter().zip(cards).filter(|(interface, card)| interface.name != card.name).collect();
    for (_, card) in &wrong {
        let aside = format!("card{}", card.index);
        // The kernel's own name for it may be just that.
        if card.name != aside {
            socket.change_link(card.index, Change::Name(&aside)).map_err(refused(format!("interface {}: its name", card.name)))?;
        }
    }
    for (interface, card) in &wrong {
        socket
            .change_link(card.index, Change::Name(&interface.name))
            .map_err(refused(format!("interface {}: its name", interface.name)))?;
    }
    Ok(())
}

/// Sets the sysctls, and before them that link-local addresses are used unasked: otherwise their second or two would be
/// the first that the workload waits.
fn set_sysctls(network: &Network) -> Result<(), NetworkError> {
    for interface in &network.interfaces {
        match write_sysctl(&format!("net/ipv6/conf/{}/accept_dad", interface.name), "0") {
            // This kernel has no IPv6.
            Err(NetworkError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    network.sysctls.iter().try_for_each(|(key, value)| write_sysctl(key, value))
}

fn write_sysctl(key: &str, value: &str) -> Result<(), NetworkError> {
    // In a name with a slash, dots are part of an interface's name (sysctl.d(5)).
    let file = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    let failed = |source| NetworkError::Sysctl { key: key.into(), value: value.into(), source };
    if !file.starts_with("net/") || file.split('/').any(|part| part == "..") {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not one of the network's")));
    }
    fs::write(format!("/proc/sys/{file}"), value).map_err(failed)
}

/// An error of an entry, to `map_err` with.
fn refused(entry: impl Into<String>) -> impl FnOnce(Error) -> NetworkError {
    move |source| NetworkError::Refused { entry: entry.into(), source }
}

fn index(indices: &HashMap<&str, u32>, entry: &str, name: &str) -> Result<u32, NetworkError> {
    let found = indices.get(name).copied();
    found.ok_or_else(|| NetworkError::NoInterface { entry: entry.into(), name: name.into() })
}

/// Parses an entry's text.
fn read<T: std::str::FromStr<Err = NotAnAddress>>(text: &str, entry: impl FnOnce() -> String) -> Result<T, NetworkError> {
    text.parse().map_err(|source| NetworkError::Text { entry: entry(), text: text.into(), source })
}

fn address(text: &str, entry: impl FnOnce() -> String) -> Result<IpAddr, NetworkError> {
    text.parse().map_err(|_| NetworkError::Text { entry: entry(), text: text.into(), source: NotAnAddress::Address })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_protocol::guest;
    use proptest::prelude::*;

    fn network(address: &str, destination: &str, gateway: &str) -> Network {
        let interface = guest::Interface { name: "eth0".into(), mac: [2, 0, 0, 0, 0, 1], mtu: 1500, addresses: vec![address.into()] };
        let route = guest::Route {
            destination: destination.into(),
            gateway: Some(gateway.into()),
            interface: "eth0".into(),
            source: None,
            metric: 0,
            kind: libc::RTN_UNICAST,
            scope: 0,
            flags: 0,
            options: vec![],
        };
        Network { interfaces: vec![interface], routes: vec![route], ..Network::default() }
    }

    #[test]
    fn an_entry_that_says_nothing_is_named() {
        for (network, expected) in [
            (network("10.0.0.2", "0.0.0.0/0", "10.0.0.1"), "interface eth0: address: \"10.0.0.2\": not an address with a prefix length"),
            (network("10.0.0.2/24", "default", "10.0.0.1"), "routes[0].destination: \"default\": not an address with a prefix length"),
            (network("10.0.0.2/24", "0.0.0.0/0", "10.0.0.1/24"), "routes[0].gateway: \"10.0.0.1/24\": not an Internet address"),
        ] {
            assert_eq!(Plan::parse(&network).unwrap_err().to_string(), format!("guest network: {expected}"));
        }
    }

    #[test]
    fn a_card_that_is_not_there_is_named() {
        let network = network("10.0.0.2/24", "0.0.0.0/0", "10.0.0.1");
        let error = cards(&network, &[]).unwrap_err().to_string();
        assert!(error.starts_with("guest network: interface eth0: no card with the MAC address 02:00:00:00:00:01"), "{error}");
    }

    #[test]
    fn a_sysctl_of_something_else_is_refused() {
        for key in ["kernel.hostname", "net/../kernel/hostname", "net/ipv4/../../kernel/hostname"] {
            let error = write_sysctl(key, "x").unwrap_err().to_string();
            assert!(error.ends_with("not one of the network's"), "{key}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_plan_or_an_error(address in "\\PC{0,20}", destination in "[0-9./:a-f]{0,20}", gateway in "[0-9./:a-f]{0,20}") {
            let _ = Plan::parse(&network(&address, &destination, &gateway));
        }
    }
}
