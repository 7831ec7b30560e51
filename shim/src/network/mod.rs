//! The pod's network namespace: opened by the path that config.json gives, or made here and held by descriptor alone.
//!
//! The wall opens the pod's sockets in it; the workload never does. Because the wall's process has no capability in the
//! namespace, two limits that the workload's emulated `CAP_NET_BIND_SERVICE` and group ids would lift are lifted in
//! the namespace itself: ports below 1024 and ping sockets.
//!
//! A microVM has a network stack of its own: [`guest`] says what it is told of the namespace's, and connects the two.

pub mod guest;
mod read;
mod tap;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::host;

/// Why there is no network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The configured path can not be opened, or is none.
    #[error("linux.namespaces: network: path {path:?}: {source}")]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host refuses a new one.
    #[error("network namespace: {0}")]
    Host(#[from] io::Error),
    /// A sysctl of the configuration is not accepted.
    #[error("linux.sysctl[{key:?}]: {value:?}: {source}")]
    Sysctl {
        /// The sysctl.
        key: String,
        /// Its value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// An interface of the namespace can not be a virtual machine's.
    #[error("network interface {name}: {reason}")]
    Interface {
        /// The interface.
        name: String,
        /// Why.
        reason: String,
    },
    /// A route of the namespace can not be given to a virtual machine.
    #[error("network: route to {destination}: {reason}, which can not be carried into a virtual machine")]
    Route {
        /// Where it leads.
        destination: String,
        /// What is special about it.
        reason: &'static str,
    },
    /// The host refuses a step of connecting the namespace with a virtual machine.
    #[error("network: {step}: {source}")]
    Step {
        /// What was being done.
        step: String,
        /// Why not.
        source: bulkhead_netlink::Error,
    },
    /// There is no tap device.
    #[error("network: tap device: {0} (is the kernel's module tun there?)")]
    Tap(io::Error),
}

/// Opens the namespace at `path`, or makes one where there is no path.
///
/// # Errors
/// [`NetworkError::Path`], [`NetworkError::Host`].
pub fn open(path: Option<&PathBuf>) -> Result<OwnedFd, NetworkError> {
    let Some(path) = path else {
        return within_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            host::loopback_up(socket.as_fd())?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        })
        .map_err(NetworkError::from);
    };
    let failed = |source| NetworkError::Path { path: path.clone(), source };
    let namespace: OwnedFd = File::open(path).map_err(failed)?.into();
    // Entering it is the test that it is one.
    let probe = namespace.try_clone().map_err(failed)?;
    within_thread(move || Ok(setns(probe, CloneFlags::CLONE_NEWNET)?)).map_err(failed)?;
    Ok(namespace)
}

/// Sets what the configuration asks for, then what the wall needs, inside the namespace. Of the two limits that are lifted, the wall
/// keeps the configuration's values itself: it knows who among the workload's users may what, and the host does not.
///
/// # Errors
/// [`NetworkError::Sysctl`] for a value that the host does not take.
pub fn configure(namespace: &OwnedFd, sysctls: Vec<(String, String)>) -> Result<(), NetworkError> {
    let namespace = namespace.try_clone()?;
    let refused = within_thread(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        for (key, value) in sysctls {
            // In a name with a slash, dots are part of an interface's name (sysctl.d(5)).
            let file = if key.contains('/') { key.clone() } else { key.replace('.', "/") };
            if let Err(source) = std::fs::write(format!("/proc/sys/{file}"), &value) {
                return Ok(Some((key, value, source)));
            }
        }
        for (key, value) in [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")] {
            // A namespace of the host's may forbid it; what then fails in the workload is what fails without it.
            let _ = std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value);
        }
        Ok(None)
    })?;
    match refused {
        Some((key, value, source)) => Err(NetworkError::Sysctl { key, value, source }),
        None => Ok(()),
    }
}

/// Runs something in a thread of its own, which ends with it: its namespace is not this thread's.
pub(crate) fn within_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    std::thread::spawn(work).join().map_err(|_| io::Error::other("a helper thread panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_has_its_loopback_up_and_its_sysctls_set() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let namespace = open(None).unwrap();
        let asked = [("net.ipv4.ip_forward", "1"), ("net.ipv4.ip_unprivileged_port_start", "80")];
        configure(&namespace, asked.map(|(key, value)| (key.into(), value.into())).to_vec()).unwrap();
        let read = |file: &'static str| {
            let namespace = namespace.try_clone().unwrap();
            within_thread(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                std::fs::read_to_string(file)
            })
            .unwrap()
        };
        assert_eq!(read("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "0\n");
        assert_eq!(read("/proc/sys/net/ipv4/ip_forward"), "1\n");
        assert!(read("/proc/thread-self/net/if_inet6").contains("lo"));
        let error = configure(&namespace, vec![("net.ipv4.no_such".into(), "1".into())]).unwrap_err().to_string();
        assert!(error.starts_with("linux.sysctl[\"net.ipv4.no_such\"]: \"1\": "), "{error}");
    }

    #[test]
    fn a_path_that_is_no_namespace_is_named() {
        for path in ["/nowhere/at/all", "/dev/null", "/proc/self/ns/uts"] {
            let error = open(Some(&path.into())).unwrap_err().to_string();
            assert!(error.starts_with(&format!("linux.namespaces: network: path {path:?}: ")), "{error}");
        }
    }
}
