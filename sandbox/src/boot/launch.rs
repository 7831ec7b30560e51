//! What the kernel process is given, on the way from `bulkhead` to the re-executed binary ([`bulkhead_launch`]).

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_launch::{LaunchError, Network, Options, Prepared, Words};

use super::{ARGUMENT, PATIENCE, SpawnOptions};

/// What the binary was started with.
pub(super) struct Inherited {
    pub control: OwnedFd,
    pub log: Option<OwnedFd>,
    pub json: bool,
    pub debug: bool,
}

/// Takes what [`launch`] left. `None` where somebody else started this.
pub(super) fn inherited() -> Option<(Inherited, Words)> {
    let mut inherited = bulkhead_launch::inherited(1)?;
    let [log, json, debug] = inherited.arguments.as_slice() else { return None };
    let log = match log.as_str() {
        "log" => std::io::stderr().as_fd().try_clone_to_owned().ok(),
        _ => None,
    };
    let found = Inherited { control: inherited.descriptors.pop()?, log, json: json == "json", debug: debug == "debug" };
    Some((found, inherited.words))
}

/// Makes the process, which waits to be released.
pub(super) fn launch(options: SpawnOptions) -> Result<Prepared, LaunchError> {
    let log = if options.log.is_some() { c"log" } else { c"-" };
    let format = if options.log_format_json { c"json" } else { c"text" };
    let level = if options.debug { c"debug" } else { c"info" };
    let own_name = CString::new(ARGUMENT).unwrap_or_default();
    let none = libc::RLIM_INFINITY;
    bulkhead_launch::prepare(Options {
        arguments: [c"bulkhead-sandbox", &own_name, log, format, level].map(CString::from).to_vec(),
        network: options.network.map_or(Network::Inherited, Network::Entered),
        cgroups: options.cgroups,
        errors: options.log,
        descriptors: vec![options.control],
        limits: vec![
            // Every file of every workload process is open here as well.
            (libc::RLIMIT_NOFILE, bulkhead_launch::most_files()),
            (libc::RLIMIT_NPROC, none),
            (libc::RLIMIT_MEMLOCK, none),
            (libc::RLIMIT_AS, none),
            (libc::RLIMIT_DATA, none),
            (libc::RLIMIT_FSIZE, none),
            (libc::RLIMIT_CPU, none),
            (libc::RLIMIT_SIGPENDING, none),
            (libc::RLIMIT_CORE, 1),
        ],
        // It outlives its workload (`kernel::oom`), whose memory it holds.
        out_of_memory: -999,
        patience: PATIENCE,
    })
}
