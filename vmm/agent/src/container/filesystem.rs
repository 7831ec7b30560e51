//! From OCI's configuration to the tree that a container's processes see. All of it happens in the container's own mount namespace, by its first
//! process: what fails, and what ends with the container, needs no tidying up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use bulkhead_protocol::call::Refusal;
use bulkhead_protocol::messages;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;

use super::options::{self, Options, cleared};
use super::root::{Kind, Root};
use super::{copy, devices, internal, invalid, text};
use crate::system::{self, NewFileSystem, attribute};

/// Where writes to the root file system go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay {
    /// To the tree itself.
    None,
    /// To memory.
    Memory,
    /// To this directory of the host's: its `upper`, beside the `work` that overlayfs needs on the same file system.
    Directory(PathBuf),
}

/// A mount of config.json.
#[derive(Debug, Clone)]
pub struct Mount {
    /// Where, in the container.
    pub destination: PathBuf,
    /// The type; without a meaning where there is a source.
    pub kind: String,
    /// The tree that is bound, in the guest.
    pub source: Option<PathBuf>,
    /// OCI's and mount(8)'s options.
    pub options: Vec<String>,
}

/// The trees of a container.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The root file system, in the guest.
    pub root: PathBuf,
    /// Where writes to it go.
    pub overlay: Overlay,
    /// In order.
    pub mounts: Vec<Mount>,
    /// A directory of the agent's upon which the tree is put together.
    pub place: PathBuf,
}

impl Layout {
    /// What a request asks for, with the trees that it names in the directory of shared ones.
    ///
    /// # Errors
    /// The field that is not accepted.
    pub fn read(request: &messages::CreateRequest, shared: &Path, place: &Path) -> Result<Self, Refusal> {
        let tree = |tree: Option<&messages::Tree>, what: &str| match tree.map_or(0, |tree| tree.stream) {
            0 => Err(invalid(format!("{what}: no tree"))),
            stream => Ok(shared.join(stream.to_string())),
        };
        let overlay = match request.overlay.as_str() {
            "" | "none" => Overlay::None,
            "memory" => Overlay::Memory,
            "dir" => Overlay::Directory(tree(request.overlay_dir.as_ref(), "overlay_dir")?),
            other => return Err(invalid(format!("overlay {other:?}: memory, none or dir"))),
        };
        let mounts = request.mounts.iter().enumerate().map(|(index, mount)| {
            let source = mount.source.as_ref().map(|source| tree(Some(source), &format!("mounts[{index}].source"))).transpose()?;
            let (destination, kind) = (PathBuf::from(&mount.destination), mount.type_.clone());
            if !destination.is_absolute() {
                return Err(invalid(format!("mounts[{index}].destination: {destination:?}: mount destination not absolute")));
            }
            options::parse(&kind, source.is_some(), mount.options.iter().map(String::as_str))
                .map_err(|(value, reason)| invalid(format!("mounts[{index}]: {value:?}: {reason}")))?;
            Ok(Mount { destination, kind, source, options: mount.options.clone() })
        });
        Ok(Self {
            root: tree(request.root.as_ref(), "root")?,
            overlay,
            mounts: mounts.collect::<Result<_, Refusal>>()?,
            place: place.to_owned(),
        })
    }
}

/// Puts the tree together in the caller's mount namespace, which must be its own, and enters it.
///
/// # Errors
/// What can not be mounted, and why.
pub fn enter(layout: &Layout, spec: &Spec) -> Result<(), Refusal> {
    let nothing: Option<&str> = None;
    // Nothing that is mounted here is the agent's to see.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .map_err(|error| internal(format!("making mounts private: {}", text(error))))?;
    base(layout)?;
    let root = Root::open(&layout.place).map_err(|error| internal(format!("opening the root file system: {}", text(error))))?;
    for one in &layout.mounts {
        attach(&root, one).map_err(|reason| invalid(format!("mounting to {:?} in the container: {reason}", one.destination)))?;
    }
    let dev = Path::new("/dev");
    if !layout.mounts.iter().any(|mount| mount.source.is_some() && mount.destination.components().eq(dev.components())) {
        devices::make(&root, spec)?;
    }
    let cwd = spec.process().as_ref().map(|process| process.cwd().clone()).unwrap_or_default();
    if cwd.is_absolute() {
        // Made where it is not there, as runc does. What can not be made shows when it is entered.
        let _ = root.make(&cwd, Kind::Directory);
    }
    protect(&root, spec)?;
    pivot(&root).map_err(|error| internal(format!("entering the root file system: {}", text(error))))?;
    propagate(spec)
}

/// Mounts the root file system, with its overlay.
fn base(layout: &Layout) -> Result<(), Refusal> {
    let failed = |what: &str, error: Errno| invalid(format!("the root file system: {what}: {}", text(error)));
    let place =
        nix::fcntl::open(&layout.place, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(|error| failed("its place", error))?;
    let upper = match &layout.overlay {
        Overlay::None => {
            let tree = system::clone_tree(AT_FDCWD, &layout.root, true).map_err(|error| failed("its tree", error))?;
            return system::attach(tree.as_fd(), place.as_fd()).map_err(|error| failed("mounting", error));
        }
        Overlay::Memory => {
            let memory = NewFileSystem::open("tmpfs").and_then(|memory| {
                memory.set("mode", Some("0700"))?;
                memory.mount(0)
            });
            let memory = memory.map_err(|error| failed("memory for its overlay", error))?;
            system::attach(memory.as_fd(), place.as_fd()).map_err(|error| failed("memory for its overlay", error))?;
            layout.place.clone()
        }
        Overlay::Directory(directory) => directory.clone(),
    };
    let (work, upper) = (upper.join("work"), upper.join("upper"));
    for directory in [&work, &upper] {
        match nix::unistd::mkdir(directory, Mode::from_bits_truncate(0o755)) {
            Ok(()) if *directory == upper => imitate(&layout.root, directory).map_err(|error| failed("its attributes", error))?,
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(failed("directories for its overlay", error)),
        }
    }
    let overlay = NewFileSystem::open("overlay").map_err(|error| failed("overlay", error))?;
    let set = |key, path: &Path| {
        // overlayfs splits the list of lower layers at colons.
        let text = path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
        overlay.set(key, Some(&text)).map_err(|error| failed(&format!("overlay: {key}: {}", overlay.complaint()), error))
    };
    set("lowerdir", &layout.root)?;
    set("upperdir", &upper)?;
    set("workdir", &work)?;
    let tree = overlay.mount(0).map_err(|error| failed("overlay", error))?;
    // Over the memory, where that is in the same place: the overlay keeps hold of it.
    let place =
        nix::fcntl::open(&layout.place, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(|error| failed("its place", error))?;
    system::attach(tree.as_fd(), place.as_fd()).map_err(|error| failed("mounting", error))
}

/// An overlay's root has the attributes of its upper directory: gives that one the lower one's.
fn imitate(lower: &Path, upper: &Path) -> nix::Result<()> {
    let stat = nix::sys::stat::stat(lower)?;
    nix::unistd::chown(upper, Some(stat.st_uid.into()), Some(stat.st_gid.into()))?;
    let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777);
    nix::sys::stat::fchmodat(AT_FDCWD, upper, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)
}

/// Makes one mount of config.json; says why not.
fn attach(root: &Root, wanted: &Mount) -> Result<(), String> {
    let read = options::parse(&wanted.kind, wanted.source.is_some(), wanted.options.iter().map(String::as_str))
        .map_err(|(value, reason)| format!("{value:?}: {reason}"))?;
    if wanted.destination.components().count() < 2 {
        return Err("the root file system is mounted there".into());
    }
    let tree = match &wanted.source {
        Some(source) => bind(source, &read).map_err(|error| format!("its source: {}", text(error)))?,
        None => fresh(root, wanted, &read)?,
    };
    let kind = Kind::of(tree.as_fd()).map_err(text)?;
    let place = root.make(&wanted.destination, kind).map_err(text)?;
    if read.copy_up {
        copy::tree(place.as_fd(), tree.as_fd()).map_err(|error| format!("tmpcopyup: {}", text(error)))?;
    }
    let below = read.below;
    let set = |(set, clear): (u64, u64), recursive| match (set, clear) {
        (0, 0) => Ok(()),
        (set, clear) => system::set_attributes(tree.as_fd(), set, cleared(set, clear), 0, recursive),
    };
    set(read.attributes, false).and_then(|()| set(below, true)).map_err(text)?;
    system::attach(tree.as_fd(), place.as_fd()).map_err(text)?;
    for (propagation, recursive) in read.propagation {
        // Attached: a detached mount has nobody to share with.
        let here = root.find(&wanted.destination).map_err(text)?;
        system::set_attributes(here.as_fd(), 0, 0, propagation, recursive).map_err(text)?;
    }
    Ok(())
}

fn bind(source: &Path, read: &Options) -> nix::Result<OwnedFd> {
    system::clone_tree(AT_FDCWD, source, read.bind == Some(true))
}

/// A fresh file system.
fn fresh(root: &Root, wanted: &Mount, read: &Options) -> Result<OwnedFd, String> {
    let kind = options::kernel_type(&wanted.kind).ok_or("no such type of file system in the guest")?;
    let new = NewFileSystem::open(kind).map_err(text)?;
    let set = |key: &str, value: Option<&str>| new.set(key, value).map_err(|error| format!("{key}: {}", text(error)));
    if kind == "tmpfs"
        && !read.file_system.iter().any(|(key, _)| key == "mode")
        && let Ok(existing) = root.find(&wanted.destination)
        && let Ok(stat) = nix::sys::stat::fstat(&existing)
    {
        // As runc has it: the mount looks like what it hides.
        set("mode", Some(&format!("{:04o}", stat.st_mode & 0o7777)))?;
    }
    if let Some(source) = Some(&wanted.kind).filter(|kind| !kind.is_empty()) {
        set("source", Some(source))?;
    }
    for (key, value) in &read.file_system {
        set(key, value.as_deref())?;
    }
    new.mount(0).map_err(text)
}

/// `readonlyPaths`, `maskedPaths`, `root.readonly`.
fn protect(root: &Root, spec: &Spec) -> Result<(), Refusal> {
    let linux = spec.linux().as_ref();
    let paths = |paths: Option<&Vec<String>>| paths.cloned().unwrap_or_default();
    for path in paths(linux.and_then(|linux| linux.readonly_paths().as_ref())) {
        over(root, &path, |here| {
            let again = system::clone_tree(here, Path::new(""), true)?;
            system::set_attributes(again.as_fd(), attribute::READ_ONLY, 0, 0, true)?;
            Ok(again)
        })?;
    }
    for path in paths(linux.and_then(|linux| linux.masked_paths().as_ref())) {
        over(root, &path, |here| match Kind::of(here)? {
            Kind::Directory => {
                let empty = NewFileSystem::open("tmpfs")?;
                empty.set("size", Some("0"))?;
                empty.set("nr_inodes", Some("1"))?;
                empty.mount(attribute::READ_ONLY)
            }
            // The agent's own: the image's may be anything.
            Kind::File => system::clone_tree(AT_FDCWD, Path::new("/dev/null"), false),
        })?;
    }
    if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        system::set_attributes(root.as_fd(), attribute::READ_ONLY, 0, 0, false)
            .map_err(|error| internal(format!("root.readonly: {}", text(error))))?;
    }
    Ok(())
}

/// Mounts something over a path of the container's; what is not there needs nothing.
fn over(root: &Root, path: &str, make: impl FnOnce(BorrowedFd<'_>) -> nix::Result<OwnedFd>) -> Result<(), Refusal> {
    let here = match root.find(Path::new(path)) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        here => here,
    };
    let done = here.and_then(|here| system::attach(make(here.as_fd())?.as_fd(), here.as_fd()));
    done.map_err(|error| invalid(format!("mounting to {path:?} in the container: {}", text(error))))
}

/// Makes the tree the root of this mount namespace and takes the old one away: pivot_root(2), "`.` and `.`".
fn pivot(root: &Root) -> nix::Result<()> {
    nix::unistd::fchdir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}

/// `linux.rootfsPropagation`. Everything is private already.
fn propagate(spec: &Spec) -> Result<(), Refusal> {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    let flag = match wanted.strip_prefix('r').unwrap_or(wanted) {
        "" | "private" => return Ok(()),
        "shared" => MsFlags::MS_SHARED,
        "slave" => MsFlags::MS_SLAVE,
        "unbindable" => MsFlags::MS_UNBINDABLE,
        _ => return Err(invalid(format!("linux.rootfsPropagation: {wanted:?}: no such propagation"))),
    };
    let recursive = if wanted.starts_with('r') { MsFlags::MS_REC } else { MsFlags::empty() };
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, flag | recursive, nothing)
        .map_err(|error| invalid(format!("linux.rootfsPropagation: {wanted:?}: {}", text(error))))
}
