//! What a guest is told about the pod's network namespace: read from the kernel ([`Configuration::read`]), then chosen and put into
//! the words of the control protocol ([`Configuration::describe`]), which touches nothing and is tested without a namespace.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;

use bulkhead_netlink::{Address, Link, Neighbour, Route, Socket};
use bulkhead_protocol::guest;

use super::NetworkError;
use super::guest::step;

/// The interfaces' own sysctls that a network plugin may have set and without which the guest's kernel would behave otherwise; with
/// the value that a guest has when it is not told one.
const SETTINGS: [(&str, &str); 2] = [("disable_ipv6", "0"), ("accept_ra", "1")];

/// A namespace's configuration.
#[derive(Debug, Default)]
pub(super) struct Configuration {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
    /// Those of [`SETTINGS`] that are not as in a guest, by the interface's name.
    settings: HashMap<String, Vec<(&'static str, String)>>,
}

impl Configuration {
    /// Reads the calling thread's namespace's.
    pub(super) fn read(socket: &mut Socket) -> Result<Configuration, NetworkError> {
        let links = socket.links().map_err(step("reading its interfaces"))?;
        let settings = links.iter().map(|link| (link.name.clone(), settings(&link.name))).collect();
        Ok(Configuration {
            links,
            addresses: socket.addresses().map_err(step("reading its addresses"))?,
            routes: socket.routes().map_err(step("reading its routes"))?,
            neighbours: socket.neighbours().map_err(step("reading its neighbours"))?,
            settings,
        })
    }

    /// The interfaces that become the guest's, and what the guest is told; `sysctls` are config.json's.
    ///
    /// Carried is an interface that is up. One that is down carries nothing on the host either; the kernel's own fallback devices, such
    /// as `sit0` and `tunl0`, are in every namespace, and down.
    pub(super) fn describe(&self, sysctls: &[(String, String)]) -> Result<(Vec<&Link>, guest::Network), NetworkError> {
        let carried: Vec<&Link> = self.links.iter().filter(|link| !link.is_loopback() && link.is_up()).collect();
        let mut network = guest::Network::default();
        for (position, link) in carried.iter().enumerate() {
            let refused = |reason| NetworkError::Interface { name: link.name.clone(), reason };
            let mac = card(link).map_err(refused)?;
            if let Some(twin) = carried[..position].iter().find(|other| other.mac == Some(mac)) {
                return Err(refused(format!("its MAC address is that of {}, and a guest tells its cards apart by them", twin.name)));
            }
            let addresses = self.addresses_of(link.index, mac);
            network.interfaces.push(guest::Interface { name: link.name.clone(), mac, mtu: link.mtu, addresses });
            for (setting, value) in self.settings.get(&link.name).into_iter().flatten() {
                // With slashes, for the interface's name may have dots (sysctl.d(5)).
                network.sysctls.push((format!("net/ipv6/conf/{}/{setting}", link.name), value.clone()));
            }
        }
        network.sysctls.extend(sysctls.iter().filter(|(key, _)| key.starts_with("net.") || key.starts_with("net/")).cloned());
        network.routes = self.routes(&carried)?;
        network.neighbours = self.neighbours(&carried);
        Ok((carried, network))
    }

    /// An interface's addresses, in the order in which they can be added again.
    fn addresses_of(&self, interface: u32, mac: [u8; 6]) -> Vec<String> {
        let wanted = |one: &&Address| one.interface == interface && !one.is_unusable() && !one.is_made_by_the_kernel(mac);
        let (fourth, sixth): (Vec<_>, Vec<_>) = self.addresses.iter().filter(wanted).partition(|one| one.address.local.is_ipv4());
        // The kernel lists IPv6's newest first, and prefers it where nothing else decides (RFC 6724).
        fourth.into_iter().chain(sixth.into_iter().rev()).map(|one| one.address.to_string()).collect()
    }

    /// The main table's routes, those that gateways are reached by first. All that the kernel made for addresses that are carried are
    /// among them: a plugin may have removed one, and the guest must not have it either.
    fn routes(&self, carried: &[&Link]) -> Result<Vec<guest::Route>, NetworkError> {
        let mut routes = Vec::new();
        for route in self.routes.iter().filter(|route| route.table == u32::from(libc::RT_TABLE_MAIN) && !route.is_learned()) {
            let link = route.interface.and_then(|index| self.links.iter().find(|link| link.index == index));
            let loopback = link.is_some_and(Link::is_loopback);
            if loopback && route.is_made_by_the_kernel() || is_made_for_the_link(route) {
                continue;
            }
            // An interface that is down keeps none, but for the moment in which it goes down.
            if route.leads_somewhere()
                && !loopback
                && !carried.iter().any(|link| Some(link.index) == route.interface)
                && route.more.is_none()
            {
                continue;
            }
            let destination = route.destination.to_string();
            if let Some(reason) = route.more {
                return Err(NetworkError::Route { destination, reason });
            }
            // A route that leads nowhere has no interface; the protocol's field then names the one that every namespace has.
            let interface = link.map_or("lo", |link| link.name.as_str()).to_owned();
            routes.push(guest::Route {
                destination,
                gateway: route.gateway.map(|address| address.to_string()),
                interface,
                source: route.source.map(|address| address.to_string()),
                metric: route.metric,
                kind: route.kind,
                scope: route.scope,
                flags: route.flags,
                options: route.options.clone(),
            });
        }
        // Stable: among routes to the same destination with the same metric the first is taken.
        routes.sort_by_key(|route| route.gateway.is_some());
        Ok(routes)
    }

    fn neighbours(&self, carried: &[&Link]) -> Vec<guest::Neighbour> {
        let permanent = self.neighbours.iter().filter(|neighbour| neighbour.is_permanent());
        let named = permanent.filter_map(|neighbour| Some((neighbour, carried.iter().find(|link| link.index == neighbour.interface)?)));
        named
            .map(|(neighbour, link)| guest::Neighbour {
                address: neighbour.address.to_string(),
                mac: neighbour.mac,
                interface: link.name.clone(),
            })
            .collect()
    }
}

/// The MAC address of the virtual card that an interface becomes, or why it can not be one.
fn card(link: &Link) -> Result<[u8; 6], String> {
    if let Some(kind @ ("ipvlan" | "ipvtap")) = link.kind.as_deref() {
        return Err(format!(
            "the interfaces of an {kind} share one MAC address, and the host tells them apart by the addresses that it has itself; \
             use macvlan or veth with a microVM"
        ));
    }
    let ethernet = link.mac.filter(|_| link.hardware == libc::ARPHRD_ETHER);
    ethernet.ok_or_else(|| {
        let kind = link.kind.as_deref().unwrap_or("device");
        format!("a {kind} of hardware type {} carries no Ethernet frames, which are all that a virtual card has", link.hardware)
    })
}

/// Whether it is the route to link-local addresses, which the guest's kernel makes when it makes its own such address.
fn is_made_for_the_link(route: &Route) -> bool {
    let IpAddr::V6(address) = route.destination.address else { return false };
    route.is_made_by_the_kernel() && address.octets() == [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Those of [`SETTINGS`] that an interface of the calling thread's namespace has otherwise.
fn settings(interface: &str) -> Vec<(&'static str, String)> {
    let read = |setting| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/{setting}"));
    let mut other = Vec::new();
    for (setting, usual) in SETTINGS {
        // No such file: the host has no IPv6. The guest then has no addresses of it but what its kernel makes, which reach nobody.
        if let Ok(value) = read(setting)
            && value.trim() != usual
        {
            other.push((setting, value.trim().to_owned()));
        }
    }
    other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        let mac = Some([2, 0, 0, 0, 0, index as u8]);
        let kind = kind.map(Into::into);
        Link { index, name: name.into(), kind, hardware: libc::ARPHRD_ETHER, flags: libc::IFF_UP as u32, mac, mtu: 1500, alias: None }
    }

    fn route(destination: &str, gateway: Option<&str>) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            gateway: gateway.map(|text| text.parse().unwrap()),
            interface: Some(2),
            source: None,
            metric: 0,
            table: libc::RT_TABLE_MAIN.into(),
            protocol: libc::RTPROT_BOOT,
            scope: libc::RT_SCOPE_UNIVERSE,
            kind: libc::RTN_UNICAST,
            flags: 0,
            options: vec![],
            more: None,
        }
    }

    fn refusal(links: Vec<Link>) -> String {
        Configuration { links, ..Configuration::default() }.describe(&[]).unwrap_err().to_string()
    }

    #[test]
    fn what_can_be_no_card_is_refused_by_name() {
        let error = refusal(vec![link(2, "eth0", Some("ipvlan"))]);
        assert!(error.starts_with("network interface eth0: the interfaces of an ipvlan share one MAC address"), "{error}");
        let tunnel = Link { hardware: libc::ARPHRD_NONE, mac: None, ..link(2, "wg0", Some("wireguard")) };
        let error = refusal(vec![tunnel.clone()]);
        assert!(error.starts_with("network interface wg0: a wireguard of hardware type 65534 carries no Ethernet"), "{error}");
        let error = refusal(vec![link(2, "eth0", None), Link { mac: Some([2, 0, 0, 0, 0, 2]), ..link(3, "eth0.7", Some("vlan")) }]);
        assert!(error.starts_with("network interface eth0.7: its MAC address is that of eth0"), "{error}");
        // Down, it is nobody's concern.
        let down = Configuration { links: vec![Link { flags: 0, ..tunnel }], ..Configuration::default() };
        assert_eq!(down.describe(&[]).unwrap().1, guest::Network::default());
    }

    #[test]
    fn a_route_that_can_not_be_told_is_an_error_and_one_that_is_found_again_is_left_out() {
        let mut configuration = Configuration { links: vec![link(2, "eth0", None)], ..Configuration::default() };
        let learned = Route { protocol: 9, ..route("::/0", Some("fe80::1")) };
        let local = Route { table: libc::RT_TABLE_LOCAL.into(), ..route("10.0.0.2/32", None) };
        let elsewhere = Route { interface: Some(9), ..route("10.7.0.0/16", None) };
        let link_local = Route { protocol: libc::RTPROT_KERNEL, ..route("fe80::/64", None) };
        let black = Route { kind: libc::RTN_BLACKHOLE, interface: None, ..route("10.9.0.0/16", None) };
        configuration.routes =
            vec![route("0.0.0.0/0", Some("10.0.0.1")), learned, elsewhere, local, link_local, route("10.0.0.0/24", None), black];
        let (_, network) = configuration.describe(&[]).unwrap();
        let told: Vec<_> = network.routes.iter().map(|route| (route.destination.as_str(), route.interface.as_str())).collect();
        assert_eq!(told, [("10.0.0.0/24", "eth0"), ("10.9.0.0/16", "lo"), ("0.0.0.0/0", "eth0")]);
        configuration.routes.push(Route { more: Some("it has several next hops"), ..route("10.8.0.0/16", None) });
        let error = configuration.describe(&[]).unwrap_err().to_string();
        assert!(error.starts_with("network: route to 10.8.0.0/16: it has several next hops"), "{error}");
    }

    #[test]
    fn only_the_networks_sysctls_are_told_and_the_configurations_come_last() {
        let settings = HashMap::from([("eth0".to_owned(), vec![("disable_ipv6", "1".to_owned())])]);
        let configuration = Configuration { links: vec![link(2, "eth0", None)], settings, ..Configuration::default() };
        let asked = [("kernel.shmmax", "1"), ("net.core.somaxconn", "9"), ("net/ipv4/ip_forward", "1")];
        let (_, network) = configuration.describe(&asked.map(|(key, value)| (key.into(), value.into()))).unwrap();
        let keys: Vec<_> = network.sysctls.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["net/ipv6/conf/eth0/disable_ipv6", "net.core.somaxconn", "net/ipv4/ip_forward"]);
    }
}
