//! /proc: processes and the system, as a container's programs see them (proc(5)).
//!
//! Only the caller's container is visible, by its own numbers. What the host knows better (memory maps, times, states) is read from the host's /proc and
//! rewritten; everything else comes from this kernel's own objects.
//!
//! **What of the machine is shown.** Processors, memory, load and time (`cpuinfo`, `meminfo`, `stat`, `loadavg`, `uptime`, `vmstat`) are the machine's, as in
//! every Linux container: programs size themselves by them, and a container of another runtime shows the same. A container's own limits stand where Linux
//! has them, in the cgroup file system ([`super::cgroup`]), and programs that care look there. **What is not shown:** processes, mounts and devices of the
//! host; addresses and symbols of its kernel (`kallsyms`, `kcore`, `wchan`, `stack`); its log; anything that would change it (`sysrq-trigger`). Those
//! files are not there, as on a Linux that is built without them.
//!
//! | room | what |
//! |---|---|
//! | [`process`] | the directories of processes and threads: one table |
//! | [`access`] | who may look into a process |
//! | [`status`] | `status`, `stat`: the host's text with our identity and numbers |
//! | [`memory`] | `maps` and its kin, with the container's paths; arguments and environment |
//! | [`descriptors`] | `fd`, `fdinfo` |
//! | [`mounts`] | `mounts`, `mountinfo`, `mountstats` |
//! | [`namespaces`] | `ns` |
//! | [`zombies`] | processes that are dead and not waited for |
//! | [`system`], [`sysctl`] | the machine, /proc/sys |

use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::synthetic::{self, Kind, Named, constant, directory, file, link};
use crate::errno::{Errno, Result};
use crate::kernel::container::Container;
use crate::kernel::task::{self, Process, Thread};
use crate::kernel::{fork, signal};
use crate::vfs::node::{LinkTarget, NodeRef};

mod access;
mod descriptors;
mod memory;
mod mounts;
mod namespaces;
mod process;
mod status;
mod sysctl;
mod system;
pub mod zombies;

/// The tree's root.
pub fn root() -> NodeRef {
    let top = directory("", list).finding(find);
    synthetic::root(Kind { magic: 0x9fa0, device: 0x14, strict: false }, top)
}

/// The container that is looking.
fn container() -> Option<Arc<Container>> {
    caller().ok().map(|process| process.container.clone())
}

/// The caller's process.
fn caller() -> Result<Arc<Process>> {
    task::current().and_then(|thread| thread.process()).ok_or(Errno::ESRCH)
}

/// The thread that stands for a process.
fn first_thread(process: &Process) -> Result<Arc<Thread>> {
    let threads = process.threads.lock();
    threads.iter().find(|thread| thread.tid == process.pid).or(threads.first()).cloned().ok_or(Errno::ESRCH)
}

fn path_link(text: String) -> Result<LinkTarget> {
    Ok(LinkTarget::Path(text.into_bytes()))
}

fn list() -> Vec<Named> {
    let mut items = fixed();
    let Some(container) = container() else { return items };
    let mut processes = signal::of_container(&container);
    processes.retain(|process| !is_gone(process));
    processes.sort_by_key(|process| process.inner);
    items.extend(processes.iter().map(process::directory_of));
    items.extend(zombies::list(&container));
    items
}

/// One item, without making all of them: a directory of processes is looked into once for each of them.
fn find(name: &str) -> Option<Named> {
    if name.bytes().next().is_some_and(|first| first.is_ascii_digit()) {
        let number = name.parse().ok().filter(|number: &i32| number.to_string() == name)?;
        let container = container()?;
        return match fork::find(&container, number).filter(|process| !is_gone(process)) {
            Some(process) => Some(process::directory_of(&process)),
            // A thread's number is found, too, though it is not listed (proc(5)).
            None => process::of_thread(&container, number).or_else(|| zombies::find(&container, number)),
        };
    }
    fixed().into_iter().find(|item| item.name == name)
}

/// Whether it has died and been waited for, which this kernel hears of a moment after the one who waited.
fn is_gone(process: &Process) -> bool {
    use std::os::fd::AsFd;
    let mut watched = [PollFd::new(process.pidfd.as_fd(), PollFlags::POLLIN)];
    let dead = nix::poll::poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    dead && !std::path::Path::new(&format!("/proc/{}", process.pid.0)).exists()
}

/// What is there without any process.
fn fixed() -> Vec<Named> {
    let items = vec![
        link("self", || path_link(caller()?.inner.to_string())),
        link("thread-self", || {
            let thread = task::current().ok_or(Errno::ESRCH)?;
            path_link(format!("{}/task/{}", caller()?.inner, thread.inner))
        }),
        link("mounts", || path_link(String::from("self/mounts"))),
        link("net", || path_link(String::from("self/net"))),
        directory("sys", sysctl::list),
        directory("tty", system::terminals),
        file("cgroups", || Ok(super::cgroup::controllers_text())),
        file("cpuinfo", || system::of_host("cpuinfo")),
        file("meminfo", || system::of_host("meminfo")),
        file("stat", || system::of_host("stat")),
        file("vmstat", || system::of_host("vmstat")),
        file("uptime", || system::of_host("uptime")),
        file("loadavg", system::load),
        file("interrupts", system::interrupts),
        file("version", || Ok(system::version())),
        constant("swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
        constant("filesystems", system::FILE_SYSTEMS),
        constant("cmdline", "bulkhead\n"),
        constant("devices", system::DEVICES),
        constant("partitions", "major minor  #blocks  name\n\n"),
        constant("diskstats", ""),
        constant("modules", ""),
    ];
    // Files of the system have no way to be written to, where those of processes have a wrong one (`proc_reg_write()`, `vfs_write()`).
    items.into_iter().map(|item| item.refusing(Errno::EIO)).collect()
}
