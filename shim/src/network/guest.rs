//! A microVM's network: the guest's cards are the pod's interfaces.
//!
//! The network plugin configures the pod's network namespace as for any container: interfaces, addresses, routes. The guest's kernel
//! gets the same configuration ([`Plumbed::network`], which the agent applies), and for each interface a virtual card with the same
//! MAC address. The wire of that card is a tap device in the namespace:
//!
//! ```text
//!   host's bridge ---- eth0 ---- ingress hook: redirect --> bulk0 == file ==> virtio-net ---- eth0 in the guest
//!                      eth0 <--- ingress hook: redirect --- bulk0 <== file == virtio-net
//! ```
//!
//! Two classifiers that match everything (tc-mirred(8)) take each frame from the one interface to the way out of the other. They stand
//! before the host's protocols, so that nothing reaches the namespace's own stack: not it answers ARP, neighbour solicitations, pings
//! and connections, but the guest. The interface keeps its addresses all the same: who looks into the namespace (`ip netns exec`, the
//! plugin when it checks or deletes) finds what the plugin made. A bridge instead would take the interface's addresses away from it, and
//! show the wire one MAC address more.
//!
//! The tap devices vanish with their files, whose only holder is the monitor. The hook on the plugin's interface does not: [`unplumb`]
//! removes it, with the pod, and [`plumb`] when it fails halfway or finds what an earlier process that was killed left behind. Between the
//! end of a monitor and `unplumb`, frames for the pod are dropped: a redirect without a target lets nothing pass (`tcf_mirred_act()`).
//! If somebody else's discipline is on the interface already, the classifier joins it, last, and it alone is removed.
//!
//! What is carried: interfaces that are up, their MAC addresses and MTUs, `disable_ipv6` and `accept_ra`; addresses, but those that
//! the guest's kernel makes or learns itself; the main table's routes; permanent neighbours; sysctls of config.json below `net.`.
//! What is not: policy rules and other routing tables, lifetimes and labels of addresses, additional addresses of the loopback
//! interface, the namespace's netfilter rules (frames pass them by).
//!
//! The multicast groups that the guest joins are its own affair, so the interface hears all (a macvlan or physical one would
//! otherwise let in those alone that the host's side has joined).
//!
//! Names are resolved in a container as its `/etc/resolv.conf` says, which comes with its mounts or root file system as everywhere;
//! there is nothing to tell the guest.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use bulkhead_netlink::{Change, Error, Hook, Link, Socket};
use bulkhead_protocol::guest::Network;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};

use super::read::Configuration;
use super::{NetworkError, tap, within_thread};

/// How the note on each of our tap devices begins; the name of its interface follows.
const ALIAS: &str = "bulkhead: the guest's ";
/// The preference of our classifier: behind other people's, which are given lower numbers (tc(8)). Its last bits say what else there
/// is to take back from the interface, so that a process that knows nothing of the one that plumbed can do it.
const PREFERENCE: u16 = 0xb000;
/// The hooks are ours.
const HOOKS: u16 = 1;
/// That it hears all multicast groups is our doing.
const MULTICAST: u16 = 2;

/// A namespace that a virtual machine can be connected to.
#[derive(Debug)]
pub struct Plumbed {
    /// What the guest is to be told.
    pub network: Network,
    /// The wire of each of `network.interfaces`, in the same order: a tap device, not blocking, each of whose frames begins with a
    /// `virtio_net_hdr` (of 10 bytes until `TUNSETVNETHDRSZ` says otherwise).
    pub taps: Vec<File>,
}

/// Connects each interface of a network namespace with a new tap device. What an earlier call left is replaced, and when it fails nothing is left.
/// A namespace with nothing but its loopback interface gives an empty network, and is not touched.
///
/// # Errors
/// [`NetworkError::Interface`] and [`NetworkError::Route`] for what a virtual machine can not have, [`NetworkError::Tap`] and
/// [`NetworkError::Step`] for what the host does not do.
pub fn plumb(namespace: &OwnedFd, sysctls: &[(String, String)]) -> Result<Plumbed, NetworkError> {
    let sysctls = sysctls.to_vec();
    inside(namespace, move || {
        let mut socket = Socket::open().map_err(step("opening a socket"))?;
        clear(&mut socket)?;
        let plumbed = connect_all(&mut socket, &sysctls);
        if plumbed.is_err() {
            // The first error is the one to tell.
            let _ = clear(&mut socket);
        }
        plumbed
    })
}

/// Takes back what [`plumb`] did to a namespace. Where there is nothing to take back, nothing happens.
///
/// # Errors
/// [`NetworkError::Step`] for what the host does not do.
pub fn unplumb(namespace: &OwnedFd) -> Result<(), NetworkError> {
    inside(namespace, || clear(&mut Socket::open().map_err(step("opening a socket"))?))
}

/// An error of a step, to `map_err` with.
pub(super) fn step(what: impl Into<String>) -> impl FnOnce(Error) -> NetworkError {
    move |source| NetworkError::Step { step: what.into(), source }
}

/// Runs something in a thread that is in the namespace.
fn inside<T: Send + 'static>(
    namespace: &OwnedFd,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let namespace = namespace.try_clone()?;
    within_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })?
}

fn connect_all(socket: &mut Socket, sysctls: &[(String, String)]) -> Result<Plumbed, NetworkError> {
    let configuration = Configuration::read(socket)?;
    let (links, network) = configuration.describe(sysctls)?;
    let taps = links.into_iter().map(|link| connect(socket, link)).collect::<Result<_, _>>()?;
    Ok(Plumbed { network, taps })
}

/// Makes an interface's tap device and connects the two. The interface is touched last, when all behind it is ready.
fn connect(socket: &mut Socket, link: &Link) -> Result<File, NetworkError> {
    let (file, name) = tap::create().map_err(NetworkError::Tap)?;
    let tap = if_nametoindex(name.as_str()).map_err(|errno| NetworkError::Tap(errno.into()))?;
    // The host would solicit neighbours and routers on it, and the guest would hear. Without the file the host has no IPv6.
    match fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(NetworkError::Tap(error)),
        _ => {}
    }
    let alias = format!("{ALIAS}{}", link.name);
    for change in [Change::Alias(&alias), Change::Mtu(link.mtu), Change::Up] {
        socket.change_link(tap, change).map_err(step(format!("tap device of {}: {change}", link.name)))?;
    }
    socket.add_hooks(tap).map_err(step(format!("tap device of {}: clsact", link.name)))?;
    socket.add_redirect(tap, link.index, PREFERENCE).map_err(step(format!("tap device of {}: redirect to it", link.name)))?;

    let hooks = match socket.add_hooks(link.index) {
        Ok(()) => HOOKS,
        Err(error) if error.errno() == Some(Errno::EEXIST) => 0,
        Err(error) => return Err(step(format!("{}: clsact", link.name))(error)),
    };
    let multicast = if link.hears_all_multicast() { 0 } else { MULTICAST };
    socket.add_redirect(link.index, tap, PREFERENCE | hooks | multicast).map_err(|error| {
        if hooks == HOOKS {
            // Nothing on it says any more that we made them.
            let _ = socket.delete_hooks(link.index);
        }
        step(format!("{}: redirect to its tap device", link.name))(error)
    })?;
    // The guest's groups are not known here. Only now, when the classifier says that it is to be taken back.
    socket.change_link(link.index, Change::AllMulticast(true)).map_err(step(format!("{}: all multicast groups", link.name)))?;
    Ok(file)
}

/// Removes our tap devices, whoever holds them, and our classifiers and hooks.
fn clear(socket: &mut Socket) -> Result<(), NetworkError> {
    for link in socket.links().map_err(step("reading its interfaces"))? {
        if link.kind.as_deref() == Some("tun") && link.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS)) {
            // Its file may be closed meanwhile.
            allowing(&[Errno::ENODEV], socket.delete_link(link.index)).map_err(step(format!("{}: deleting it", link.name)))?;
        } else if !link.is_loopback() {
            disconnect(socket, link.index).map_err(step(format!("{}: removing its redirect", link.name)))?;
        }
    }
    Ok(())
}

/// Takes back what the classifiers with our preferences say; the classifier last but for the hooks, which stay if somebody else uses them by now.
fn disconnect(socket: &mut Socket, interface: u32) -> Result<(), Error> {
    let mut preferences = filters(socket, interface, Hook::Ingress)?;
    preferences.retain(|preference| preference & !(HOOKS | MULTICAST) == PREFERENCE);
    preferences.dedup();
    for preference in preferences {
        if preference & MULTICAST != 0 {
            socket.change_link(interface, Change::AllMulticast(false))?;
        }
        allowing(&[Errno::ENOENT], socket.delete_redirect(interface, preference))?;
        let mut used = false;
        for hook in [Hook::Ingress, Hook::Egress] {
            used |= !filters(socket, interface, hook)?.is_empty();
        }
        if preference & HOOKS != 0 && !used {
            // What is gone is gone: EINVAL is the kernel's word for a discipline that is not there.
            allowing(&[Errno::ENOENT, Errno::EINVAL], socket.delete_hooks(interface))?;
        }
    }
    Ok(())
}

/// The preferences of the classifiers at a hook; none in a kernel without classifiers, and on an interface that is gone.
fn filters(socket: &mut Socket, interface: u32, hook: Hook) -> Result<Vec<u16>, Error> {
    match socket.filters(interface, hook) {
        Ok(filters) => Ok(filters.into_iter().map(|filter| filter.preference).collect()),
        Err(error) if matches!(error.errno(), Some(Errno::EOPNOTSUPP | Errno::ENODEV)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A result, in which these refusals are success.
fn allowing(errnos: &[Errno], result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| errnos.contains(&errno)) => Ok(()),
        other => other,
    }
}
