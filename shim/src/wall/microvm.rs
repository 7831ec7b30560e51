//! A virtual machine: its monitor is a confined process of this very binary.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bulkhead_guest::Image;
use bulkhead_vmm::monitor;

use super::{Prepared, Start, WallError, listen, size};
use crate::log;
use crate::network::guest;
use crate::oci::Config;
use crate::state::ProcessHandle;

/// Where it is remembered that an image has been compared with its manifest, until the machine boots again.
const STAMPS: &str = "/run/bulkhead-guest";

/// A monitor before its release.
pub(super) struct Monitor {
    process: monitor::Prepared,
    handle: ProcessHandle,
}

/// Makes the process, with its listening socket, and everything that it is given open.
pub(super) fn prepare(start: Start<'_>) -> Result<Monitor, WallError> {
    // What can be refused is refused before anything is made.
    let kvm = monitor::open_kvm()?;
    let resources = start.config.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let annotations = start.config.spec.annotations().clone().unwrap_or_default();
    let size = size::of(start.microvm, &annotations, resources, host_memory())?;
    if is_hosts(&start.network) {
        return Err(WallError::HostNetwork);
    }
    let (kernel, initramfs) = Image::find(start.image)?.with_stamps(Path::new(STAMPS)).open()?;
    let sysctls = crate::lifecycle::network_sysctls(start.config);
    let plumbed = guest::plumb(&start.network, &sysctls)?;
    let Start { directory, network, cgroups, config, .. } = start;
    let made = launch(directory, config, cgroups, size, Boots { kvm, kernel, initramfs }, plumbed);
    if made.is_err() {
        ended(&network);
    }
    made
}

/// What a machine is made of and boots.
struct Boots {
    kvm: File,
    kernel: File,
    initramfs: File,
}

fn launch(
    directory: &Path,
    config: &Config,
    cgroups: Vec<OwnedFd>,
    size: size::Size,
    boots: Boots,
    plumbed: guest::Plumbed,
) -> Result<Monitor, WallError> {
    let control = listen(directory)?;
    let (json, debug) = log::settings();
    let process = monitor::prepare(monitor::Options {
        control,
        // Why a guest has ended is for whoever keeps a log, and for nobody else.
        log: log::for_wall(debug),
        log_format_json: json,
        debug,
        network: plumbed.network,
        taps: plumbed.taps,
        vcpus: size.vcpus,
        memory: size.memory,
        kernel: boots.kernel,
        initramfs: boots.initramfs,
        kvm: boots.kvm,
        cgroups,
        out_of_memory: config.spec.process().as_ref().and_then(|process| process.oom_score_adj()).unwrap_or(0),
        deadline: monitor::DEADLINE,
        vsock: None,
    })?;
    let handle = ProcessHandle::of(process.pid()).ok_or(WallError::Ended)?;
    Ok(Monitor { process, handle })
}

impl Prepared for Monitor {
    fn handle(&self) -> ProcessHandle {
        self.handle
    }

    fn release(self: Box<Self>) -> Result<(), WallError> {
        self.process.release()?;
        Ok(())
    }
}

/// Takes back what the machine's network has changed in its namespace, once the machine is gone.
pub(super) fn ended(network: &OwnedFd) {
    if !is_hosts(network)
        && let Err(error) = guest::unplumb(network)
    {
        log::warning(error);
    }
}

/// Whether it is our own namespace: its interfaces are the host's, which a guest can not have.
fn is_hosts(network: &OwnedFd) -> bool {
    let identity = |file: std::fs::File| file.metadata().map(|data| (data.dev(), data.ino())).ok();
    let theirs = network.try_clone().ok().map(std::fs::File::from).and_then(identity);
    let ours = std::fs::File::open("/proc/self/ns/net").ok().and_then(identity);
    theirs.is_none() || theirs == ours
}

/// The memory of this machine, bytes (proc_meminfo(5)); no bound where it does not tell.
fn host_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.map_or(u64::MAX, |kibibytes| kibibytes.saturating_mul(1024))
}
