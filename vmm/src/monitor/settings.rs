//! What a monitor is started with, and how that travels to the re-executed binary: open descriptors, the first of which holds the rest.

use std::ffi::CString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use bulkhead_protocol::guest::Network;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::ARGUMENT;

/// What a monitor is started with.
pub struct Options {
    /// The listening control socket.
    pub control: OwnedFd,
    /// Where log lines go.
    pub log: Option<OwnedFd>,
    /// Log lines in JSON.
    pub log_format_json: bool,
    /// Log more: the guest's console too.
    pub debug: bool,
    /// The pod's network.
    pub network: Network,
    /// The wires of its interfaces, in their order.
    pub taps: Vec<File>,
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory, bytes.
    pub memory: u64,
    /// The guest's kernel.
    pub kernel: File,
    /// Its initramfs.
    pub initramfs: File,
    /// `/dev/kvm`.
    pub kvm: File,
    /// Open `cgroup.procs` files: the process writes itself into them before anything else.
    pub cgroups: Vec<OwnedFd>,
    /// The monitor's place when the host's memory runs out (proc(5), oom_score_adj): it is the workload, to the host.
    pub out_of_memory: i32,
    /// How long the agent may take to be ready.
    pub deadline: Duration,
    /// Connections between the host and the guest beside the control protocol's, where they are wanted.
    pub vsock: Option<HostVsock>,
}

/// Firecracker's convention: who connects to the socket and writes `CONNECT port` reaches that port in the guest; a connection of the guest's to a port of the
/// host's reaches the Unix socket `NAME_PORT`.
pub struct HostVsock {
    /// The socket that hosts connect to.
    pub listener: UnixListener,
    /// The directory of the guest's own connections.
    pub directory: OwnedFd,
    /// Their sockets' name, without the port.
    pub name: String,
}

/// What of it is plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub log_format_json: bool,
    pub debug: bool,
    pub network: Network,
    pub vcpus: u8,
    pub memory: u64,
    pub deadline: Duration,
    pub log: bool,
    /// The name of [`HostVsock`], where there is one.
    pub vsock: Option<String>,
}

/// What the re-executed binary has been given.
pub(super) struct Given {
    pub settings: Settings,
    pub control: UnixListener,
    pub kvm: File,
    pub kernel: File,
    pub initramfs: File,
    pub vsock: Option<HostVsock>,
    pub taps: Vec<File>,
}

/// The arguments and descriptors for a process with these options; besides, what the launch itself needs of them.
pub(super) fn pack(options: Options) -> std::io::Result<bulkhead_launch::Options> {
    let settings = Settings {
        log_format_json: options.log_format_json,
        debug: options.debug,
        network: options.network,
        vcpus: options.vcpus,
        memory: options.memory,
        deadline: options.deadline,
        log: options.log.is_some(),
        vsock: options.vsock.as_ref().map(|vsock| vsock.name.clone()),
    };
    let mut file = File::from(memfd_create("settings", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&settings)?)?;
    file.rewind()?;
    let mut descriptors = vec![file.into(), options.control, options.kvm.into(), options.kernel.into(), options.initramfs.into()];
    if let Some(vsock) = options.vsock {
        descriptors.extend([vsock.listener.into(), vsock.directory]);
    }
    descriptors.extend(options.taps.into_iter().map(OwnedFd::from));
    let none = libc::RLIM_INFINITY;
    Ok(bulkhead_launch::Options {
        arguments: vec![c"bulkhead-microvm".to_owned(), CString::new(ARGUMENT)?, CString::new(descriptors.len().to_string())?],
        network: bulkhead_launch::Network::Empty,
        cgroups: options.cgroups,
        errors: options.log,
        descriptors,
        limits: vec![
            // A file of the guest's that is known is one that is open here.
            (libc::RLIMIT_NOFILE, bulkhead_launch::most_files()),
            (libc::RLIMIT_MEMLOCK, none),
            (libc::RLIMIT_AS, none),
            (libc::RLIMIT_DATA, none),
            (libc::RLIMIT_FSIZE, none),
            (libc::RLIMIT_CPU, none),
            // Guest memory is in this process: no file, and no helper of the host's, gets it (core(5)).
            (libc::RLIMIT_CORE, 1),
        ],
        out_of_memory: options.out_of_memory,
        // Beyond the agent's own deadline, so that it is the one that speaks.
        patience: options.deadline + Duration::from_secs(30),
    })
}

/// Takes what [`pack`] made. None where it is not that.
pub(super) fn unpack(descriptors: Vec<OwnedFd>) -> Option<Given> {
    let mut rest = descriptors.into_iter();
    let settings: Settings = serde_json::from_reader(File::from(rest.next()?)).ok()?;
    let control = UnixListener::from(rest.next()?);
    let [kvm, kernel, initramfs] = [rest.next()?, rest.next()?, rest.next()?].map(File::from);
    let vsock = match &settings.vsock {
        Some(name) => Some(HostVsock { listener: UnixListener::from(rest.next()?), directory: rest.next()?, name: name.clone() }),
        None => None,
    };
    let taps: Vec<File> = rest.map(File::from).collect();
    (taps.len() == settings.network.interfaces.len()).then_some(Given { settings, control, kvm, kernel, initramfs, vsock, taps })
}

/// Standard error, which the launch has made the log, as a descriptor of its own.
pub(super) fn log() -> Option<OwnedFd> {
    std::io::stderr().as_fd().try_clone_to_owned().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_protocol::guest::Interface;
    use std::os::fd::AsRawFd;

    fn options(vsock: bool) -> Options {
        let directory = tempfile::tempdir().unwrap();
        let listen = |name: &str| UnixListener::bind(directory.path().join(name)).unwrap();
        let file = || tempfile::tempfile().unwrap();
        let interface = Interface { name: "eth0".into(), mac: [2; 6], mtu: 1500, addresses: Vec::new() };
        Options {
            control: listen("control").into(),
            log: None,
            log_format_json: true,
            debug: false,
            network: Network { interfaces: vec![interface], ..Network::default() },
            taps: vec![file()],
            vcpus: 2,
            memory: 256 << 20,
            kernel: file(),
            initramfs: file(),
            kvm: file(),
            cgroups: Vec::new(),
            out_of_memory: -5,
            deadline: Duration::from_millis(1234),
            vsock: vsock.then(|| HostVsock {
                listener: listen("vsock"),
                directory: File::open(directory.path()).unwrap().into(),
                name: "vsock".into(),
            }),
        }
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        for vsock in [false, true] {
            let options = options(vsock);
            let numbers = [options.kvm.as_raw_fd(), options.kernel.as_raw_fd(), options.initramfs.as_raw_fd(), options.taps[0].as_raw_fd()];
            let network = options.network.clone();
            let packed = pack(options).unwrap();
            assert_eq!(packed.arguments[2].to_str().unwrap(), packed.descriptors.len().to_string());
            assert_eq!(packed.out_of_memory, -5);
            assert_eq!(packed.patience, Duration::from_millis(31_234));
            let given = unpack(packed.descriptors).unwrap();
            assert_eq!(numbers, [&given.kvm, &given.kernel, &given.initramfs, &given.taps[0]].map(|file| file.as_raw_fd()));
            assert_eq!((given.settings.vcpus, given.settings.memory, given.settings.network), (2, 256 << 20, network));
            assert_eq!(given.vsock.map(|vsock| vsock.name), vsock.then(|| "vsock".into()));
        }
    }

    #[test]
    fn an_interface_without_a_wire_is_refused() {
        let mut options = options(false);
        options.taps.clear();
        assert!(unpack(pack(options).unwrap().descriptors).is_none());
    }
}
