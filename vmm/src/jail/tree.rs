//! The monitor's own tree: a tmpfs with nothing of the host.
//!
//! - `/proc`: of its PID namespace, and of nothing but its processes: the file system opens descriptors anew through `/proc/self/fd`
//! - `/dev/pts`: an instance of its own, for the wires of consoles

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::JailError;

/// Where the tree may be built before it becomes the root: directories that hosts have. Nobody else sees this namespace.
const PLACES: [&str; 4] = ["/tmp", "/run", "/mnt", "/proc"];

/// Builds the tree and makes it the root.
pub(super) fn enter() -> Result<(), JailError> {
    let none = None::<&str>;
    let failed = |what: &'static str| move |error: nix::errno::Errno| JailError::new(what, error);
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("making mounts private"))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let place = PLACES.into_iter().find(|place| Path::new(place).is_dir());
    let place = place.ok_or_else(|| JailError::new("no directory to build the monitor's tree on", std::io::ErrorKind::NotFound))?;
    mount(Some("tmpfs"), place, Some("tmpfs"), quiet, Some("mode=755,size=64k")).map_err(failed("mounting a tmpfs"))?;
    nix::unistd::chdir(place).map_err(failed("entering the tree"))?;
    for directory in ["proc", "dev", "dev/pts", "old"] {
        std::fs::create_dir(directory).map_err(|error| JailError::new(format!("making /{directory}"), error))?;
    }
    mount(Some("proc"), "proc", Some("proc"), quiet, Some("subset=pid")).map_err(failed("mounting /proc"))?;
    // Terminals are devices: their own file system is where this process opens them.
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some("newinstance,ptmxmode=0600,mode=0600");
    mount(Some("devpts"), "dev/pts", Some("devpts"), terminals, options).map_err(failed("mounting /dev/pts"))?;
    nix::unistd::pivot_root(".", "old").map_err(failed("pivot_root"))?;
    nix::unistd::chdir("/").map_err(failed("entering the tree"))?;
    umount2("/old", MntFlags::MNT_DETACH).map_err(failed("letting go of the host's tree"))?;
    std::fs::remove_dir("/old").map_err(|error| JailError::new("removing /old", error))?;
    let again = quiet | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, "/", none, again, none).map_err(failed("making the tree read-only"))
}
