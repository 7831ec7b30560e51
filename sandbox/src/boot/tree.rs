//! The kernel process's own tree: a tmpfs with nothing of the host but what containers were given.
//!
//! - `/proc`: of the pod's PID namespace, and of nothing but its processes: where the host tells about those of the workload
//! - `/facts`: what else a proc tells (memory, processors, sysctls), read-only: see [`fact`]
//! - `/exec`: the exec roots, one directory per container, and (unnamed) the backing files of memory file systems
//! - `/data`: the same once more, without execution: for mappings of files on `noexec` mounts
//! - `/dev/pts`: host pseudo-terminals, the wires of consoles
//! - `/containers/ID`: the root file systems and volumes, mounted in when a container is created

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Where the exec roots are.
pub const EXEC_ROOTS: &str = "/exec";
/// Where containers' trees are.
pub const CONTAINERS: &str = "/containers";

/// Where the tree may be built before it becomes the root: directories that hosts have. Nobody else sees this namespace.
const PLACES: [&str; 4] = ["/tmp", "/run", "/mnt", "/proc"];

/// One mount of the tree: where, type, options, and whether programs may be executed from it.
const MOUNTS: [(&str, &str, &str, bool); 4] = [
    ("proc", "proc", "subset=pid", false),
    (FACTS, "proc", "", false),
    ("exec", "tmpfs", "mode=755,size=100%,nr_inodes=0", true),
    ("dev/pts", "devpts", "newinstance,ptmxmode=0600,mode=0600", false),
];

/// Where the whole proc is, below the root.
const FACTS: &str = "facts";
/// Whether this process lives in the tree: unit tests do not.
static INSIDE: AtomicBool = AtomicBool::new(false);

/// The path of what /proc tells that is no process's, for reading.
///
/// Ids map to themselves, so to the host this process is root where a *user id* decides alone, and not a capability: the sysctls, `/proc/sysrq-trigger` and
/// their like. So it has them read-only only, and the filter ([`crate::confine`]) lets it neither change a mount's flags nor mount a proc again.
pub fn fact(name: &str) -> PathBuf {
    let root = if INSIDE.load(Ordering::Relaxed) { Path::new("/facts") } else { Path::new("/proc") };
    root.join(name)
}

/// Builds the tree and makes it the root.
pub fn enter() -> Result<(), String> {
    crate::fs::sys::remember();
    let none = None::<&str>;
    let failed = |what: &'static str| move |error: nix::errno::Errno| format!("{what}: {error}");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("making mounts private"))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let place = PLACES.into_iter().find(|place| Path::new(place).is_dir()).ok_or("no directory to build the sandbox's tree on")?;
    mount(Some("tmpfs"), place, Some("tmpfs"), quiet | MsFlags::MS_NOEXEC, Some("mode=755,size=1m")).map_err(failed("mounting a tmpfs"))?;
    nix::unistd::chdir(place).map_err(failed("entering the tree"))?;
    for directory in ["proc", FACTS, "exec", "data", "dev", "dev/pts", "containers", "old"] {
        std::fs::create_dir(directory).map_err(|error| format!("making /{directory}: {error}"))?;
    }
    for (place, kind, options, executable) in MOUNTS {
        // Terminals are devices: their own file system is where this process opens them.
        let devices = if kind == "devpts" { MsFlags::MS_NOSUID } else { quiet };
        let mut flags = if executable { devices } else { devices | MsFlags::MS_NOEXEC };
        flags.set(MsFlags::MS_RDONLY, place == FACTS);
        mount(Some(kind), place, Some(kind), flags, Some(options)).map_err(|error| format!("mounting {kind} on /{place}: {error}"))?;
    }
    mount(Some("exec"), "data", none, MsFlags::MS_BIND, none).map_err(failed("binding /data"))?;
    let again = quiet | MsFlags::MS_NOEXEC | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    mount(none, "data", none, again, none).map_err(failed("restricting /data"))?;
    nix::unistd::pivot_root(".", "old").map_err(failed("pivot_root"))?;
    nix::unistd::chdir("/").map_err(failed("entering the tree"))?;
    umount2("/old", MntFlags::MNT_DETACH).map_err(failed("letting go of the host's tree"))?;
    std::fs::remove_dir("/old").map_err(|error| format!("removing /old: {error}"))?;
    INSIDE.store(true, Ordering::Relaxed);
    Ok(())
}
