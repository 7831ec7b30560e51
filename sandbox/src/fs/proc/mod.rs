//! /proc: processes and the system, as a container's programs see them (proc(5)).
//!
//! Only the caller's container is visible, by its own numbers. What the host knows better (memory maps, times, states) is read from the host's /proc and
//! rewritten; everything else comes from this kernel's own objects.

use std::sync::Arc;

use super::synthetic::{self, Kind, Named, constant, directory, file, link};
use crate::errno::{Errno, Result};
use crate::kernel::signal;
use crate::kernel::task::{self, Process};
use crate::vfs::node::{LinkTarget, NodeRef};

mod process;
mod sysctl;
mod system;

/// The tree's root.
pub fn root() -> NodeRef {
    synthetic::root(Kind { magic: 0x9fa0, device: 0x14 }, list)
}

/// The processes of the caller's container, by their numbers there.
fn visible() -> Vec<Arc<Process>> {
    let Some(container) = task::current().and_then(|thread| thread.process()).map(|process| process.container.clone()) else {
        return Vec::new();
    };
    let mut processes = signal::of_container(&container);
    processes.sort_by_key(|process| process.inner);
    processes
}

/// The caller's process.
fn caller() -> Result<Arc<Process>> {
    task::current().and_then(|thread| thread.process()).ok_or(Errno::ESRCH)
}

fn path_link(text: String) -> Result<LinkTarget> {
    Ok(LinkTarget::Path(text.into_bytes()))
}

fn list() -> Vec<Named> {
    let mut items = vec![
        link("self", || path_link(caller()?.inner.to_string())),
        link("thread-self", || {
            let thread = task::current().ok_or(Errno::ESRCH)?;
            path_link(format!("{}/task/{}", caller()?.inner, thread.inner))
        }),
        link("mounts", || path_link(String::from("self/mounts"))),
        link("net", || path_link(String::from("self/net"))),
        directory("sys", sysctl::list),
        file("cpuinfo", || system::of_host("cpuinfo")),
        file("meminfo", || system::of_host("meminfo")),
        file("stat", || system::of_host("stat")),
        file("loadavg", || system::of_host("loadavg")),
        file("uptime", || system::of_host("uptime")),
        file("swaps", || Ok(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec())),
        file("version", || Ok(system::version())),
        constant("filesystems", system::FILE_SYSTEMS),
        constant("cmdline", "bulkhead\n"),
        constant("devices", system::DEVICES),
        constant("partitions", "major minor  #blocks  name\n\n"),
        constant("modules", ""),
        constant("interrupts", ""),
    ];
    for process in visible() {
        items.push(process::directory_of(&process));
    }
    items
}
