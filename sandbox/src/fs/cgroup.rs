//! The cgroup file system of a container: its limits, as programs that size themselves look for them (cgroups(7), the unified hierarchy).
//!
//! The host's cgroups bind the pod's processes and its kernel; no container sees them. What it sees is its own group as the root of a hierarchy without
//! any other, as in a cgroup namespace: the limits that config.json set, and which processes are in it. Nothing here can be changed, and no group made.
//! Files that count use (`memory.current`, `cpu.stat`) are not there: part of what a container uses is used by this kernel, for all of the pod at once.

use oci_spec::runtime::{LinuxResources, Spec};

use super::synthetic::{self, Kind, Named, constant, directory, file};
use crate::kernel::signal;
use crate::kernel::task;
use crate::vfs::node::NodeRef;

/// The controllers that there are.
const CONTROLLERS: [&str; 4] = ["cpuset", "cpu", "memory", "pids"];

/// `/proc/cgroups`: every controller is of the unified hierarchy, number 0.
pub fn controllers_text() -> Vec<u8> {
    let lines: String = CONTROLLERS.iter().map(|name| format!("{name}\t0\t1\t1\n")).collect();
    format!("#subsys_name\thierarchy\tnum_cgroups\tenabled\n{lines}").into_bytes()
}

/// The tree's root for a container with this configuration.
pub fn root(spec: &Spec) -> NodeRef {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    let limits = limits(&resources);
    let list = move || {
        let mut items: Vec<Named> = limits.iter().map(|(name, value)| constant(name, &format!("{value}\n"))).collect();
        items.extend([
            constant("cgroup.controllers", &(CONTROLLERS.join(" ") + "\n")),
            constant("cgroup.subtree_control", "\n"),
            constant("cgroup.type", "domain\n"),
            constant("cgroup.events", "populated 1\nfrozen 0\n"),
            file("cgroup.procs", || Ok(numbers(false).into_bytes())),
            file("cgroup.threads", || Ok(numbers(true).into_bytes())),
            file("pids.current", || Ok(format!("{}\n", numbers(true).lines().count()).into_bytes())),
        ]);
        items
    };
    synthetic::root(Kind { magic: 0x6367_7270, device: 0x16, strict: true }, directory("", list))
}

/// The files that show a limit, and what they show.
fn limits(resources: &LinuxResources) -> Vec<(&'static str, String)> {
    /// The kernel's default period of `cpu.max`, microseconds.
    const PERIOD: u64 = 100_000;
    let memory = resources.memory().as_ref();
    let cpu = resources.cpu().as_ref();
    let or_max = |value: Option<i64>| value.filter(|value| *value >= 0).map_or_else(|| String::from("max"), |value| value.to_string());
    let limit = memory.and_then(|memory| memory.limit());
    // In config.json swap counts memory too; in the unified hierarchy it is swap alone.
    let swap = memory.and_then(|memory| memory.swap()).zip(limit).map(|(both, memory)| if both < 0 { -1 } else { (both - memory).max(0) });
    let quota = or_max(cpu.and_then(|cpu| cpu.quota()).filter(|quota| *quota > 0));
    let period = cpu.and_then(|cpu| cpu.period()).filter(|period| *period > 0).unwrap_or(PERIOD);
    let cpus = cpu.and_then(|cpu| cpu.cpus().clone()).unwrap_or_default();
    let effective = if cpus.is_empty() { super::sys::fact("cpu/online").trim().to_owned() } else { cpus.clone() };
    let pids = resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit > 0);
    vec![
        ("memory.max", or_max(limit)),
        ("memory.high", String::from("max")),
        ("memory.low", memory.and_then(|memory| memory.reservation()).unwrap_or(0).max(0).to_string()),
        ("memory.swap.max", or_max(swap)),
        ("cpu.max", format!("{quota} {period}")),
        ("cpu.weight", weight(cpu.and_then(|cpu| cpu.shares())).to_string()),
        ("cpuset.cpus", cpus),
        ("cpuset.cpus.effective", effective),
        ("pids.max", or_max(pids)),
    ]
}

/// `cpu.weight` for version 1's shares: 2 to 262144 onto 1 to 10000, as runc converts them.
fn weight(shares: Option<u64>) -> u64 {
    match shares {
        None | Some(0) => 100,
        Some(shares) => 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142,
    }
}

/// The container's processes, or threads, one a line.
fn numbers(threads: bool) -> String {
    let Some(process) = task::current().and_then(|thread| thread.process()) else { return String::new() };
    let mut found: Vec<i32> = Vec::new();
    for process in signal::of_container(&process.container) {
        if threads {
            found.extend(process.threads.lock().iter().map(|thread| thread.inner));
        } else {
            found.push(process.inner);
        }
    }
    found.sort_unstable();
    found.iter().map(|number| format!("{number}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str, name: &str) -> String {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        limits(&resources).into_iter().find(|(known, _)| *known == name).unwrap().1
    }

    #[test]
    fn limits_are_config_jsons() {
        assert_eq!(shown("{}", "memory.max"), "max");
        assert_eq!(shown("{}", "cpu.max"), "max 100000");
        let json = r#"{"memory": {"limit": 1048576, "swap": 3145728}, "cpu": {"quota": 50000, "period": 200000, "shares": 1024}, "pids": {"limit": 7}}"#;
        assert_eq!(shown(json, "memory.max"), "1048576");
        assert_eq!(shown(json, "memory.swap.max"), "2097152");
        assert_eq!(shown(json, "cpu.max"), "50000 200000");
        assert_eq!(shown(json, "cpu.weight"), "39");
        assert_eq!(shown(json, "pids.max"), "7");
    }

    #[test]
    fn no_limit_is_max() {
        let json = r#"{"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}"#;
        assert_eq!([shown(json, "memory.max"), shown(json, "memory.swap.max"), shown(json, "pids.max")], ["max", "max", "max"]);
        assert_eq!(shown(json, "cpu.max"), "max 100000");
    }
}
