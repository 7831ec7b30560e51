//! The first process inside the guest: serves the control protocol and runs containers.
//!
//! It is the guest's whole user space beside the containers: a static program that the kernel starts from the initramfs, with one thread and one
//! loop. [`boot`] makes a system of the kernel, [`server`] serves the same protocol that the user-space kernel serves on the other wall,
//! [`container`] makes containers, [`streams`] carries what they read and write, [`resources`] limits and counts. [`transport`] is vsock, or,
//! for tests on any machine, a directory of Unix sockets: `bulkhead-agent serve DIRECTORY`.
#![warn(clippy::undocumented_unsafe_blocks)]

use std::path::Path;

use anyhow::bail;

mod boot;
mod container;
mod events;
mod log;
mod network;
mod resources;
mod server;
mod streams;
mod system;
mod transport;

use server::{Agent, Places};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [serve, directory] if serve == "serve" => serve_in(Path::new(directory)),
        _ if std::process::id() == 1 => {
            if let Err(error) = in_guest() {
                log::error(format_args!("{error:#}"));
            }
            // Without its first process a kernel panics: whichever way this one ends, the machine does too.
            system::power_off();
            Ok(())
        }
        _ => bail!("this is the first program of a virtual machine; elsewhere: bulkhead-agent serve DIRECTORY"),
    }
}

fn in_guest() -> anyhow::Result<()> {
    let monitor = boot::boot()?;
    let agent = match Agent::new(Box::new(transport::Vsock), boot::places()) {
        Ok(agent) => agent,
        Err(error) => {
            boot::monitor::say_failed(&monitor, &error);
            return Err(error);
        }
    };
    // The ports are open: whoever connects from now on is served.
    boot::monitor::say_ready(&monitor)?;
    agent.serve(Some(monitor))
}

/// Serves on Unix sockets in a directory, which also holds the shared trees, `shared`. The caller has given this process namespaces of its own.
fn serve_in(directory: &Path) -> anyhow::Result<()> {
    log::set_debug(std::env::var_os("BULKHEAD_DEBUG").is_some());
    let places = Places { shared: directory.join("shared"), workspace: directory.join("root"), cgroups: "/sys/fs/cgroup".into() };
    Agent::new(Box::new(transport::Directory(directory.to_owned())), places)?.serve(None)
}
