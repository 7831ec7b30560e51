//! The kernel process's own tree: a tmpfs with nothing of the host but what containers were given.
//!
//! - `/proc`: of the pod's PID namespace; where the host tells about workload processes
//! - `/exec`: the exec roots, one directory per container, and (unnamed) the backing files of memory file systems
//! - `/dev/pts`: host pseudo-terminals, the wires of consoles
//! - `/containers/ID`: the root file systems and volumes, mounted in when a container is created

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where the exec roots are.
pub const EXEC_ROOTS: &str = "/exec";
/// Where containers' trees are.
pub const CONTAINERS: &str = "/containers";

/// Builds the tree and makes it the root.
pub fn enter() -> Result<(), String> {
    let none = None::<&str>;
    let failed = |what: &'static str| move |error: nix::errno::Errno| format!("{what}: {error}");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("making mounts private"))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // Any directory serves as the place to build on: nobody else sees this namespace.
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), quiet | MsFlags::MS_NOEXEC, Some("mode=755,size=1m"))
        .map_err(failed("mounting a tmpfs on /tmp"))?;
    for directory in ["/tmp/proc", "/tmp/exec", "/tmp/dev", "/tmp/dev/pts", "/tmp/containers", "/tmp/old"] {
        std::fs::create_dir(directory).map_err(|error| format!("making {directory}: {error}"))?;
    }
    mount(Some("proc"), "/tmp/proc", Some("proc"), quiet | MsFlags::MS_NOEXEC, none).map_err(failed("mounting proc"))?;
    mount(Some("tmpfs"), "/tmp/exec", Some("tmpfs"), quiet, Some("mode=755")).map_err(failed("mounting the exec roots"))?;
    let terminals = Some("newinstance,ptmxmode=0600,mode=0600");
    mount(Some("devpts"), "/tmp/dev/pts", Some("devpts"), quiet | MsFlags::MS_NOEXEC, terminals).map_err(failed("mounting devpts"))?;
    nix::unistd::chdir("/tmp").map_err(failed("entering the tree"))?;
    nix::unistd::pivot_root(".", "old").map_err(failed("pivot_root"))?;
    nix::unistd::chdir("/").map_err(failed("entering the tree"))?;
    umount2("/old", MntFlags::MNT_DETACH).map_err(failed("letting go of the host's tree"))?;
    std::fs::remove_dir(Path::new("/old")).map_err(|error| format!("removing /old: {error}"))?;
    Ok(())
}
