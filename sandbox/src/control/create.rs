//! Creating a container: from OCI's configuration to a process that stands before its program.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_protocol::call::{Code, Refusal};
use bulkhead_protocol::messages::{CreateRequest, CreateResponse};
use oci_spec::runtime::Spec;

use super::{launch, memory, mounts, streams};
use crate::boot::{CONTAINERS, EXEC_ROOTS};
use crate::errno::{Errno, Result};
use crate::fs::devpts::Instance;
use crate::fs::host::HostNode;
use crate::kernel::container::{CallCount, Container, UtsNames};
use crate::kernel::kernel;
use crate::platform::exec_root::ExecRoot;
use crate::platform::spawner::Profile;
use crate::sync::{Mutex, RwLock};
use crate::vfs::mount::{Mount, MountFlags, MountNamespace};
use crate::vfs::node::NodeRef;

/// Creates a container. Whatever fails, nothing is left of it.
pub fn create(request: &CreateRequest) -> Result<CreateResponse, Refusal> {
    let id = &request.container_id;
    if kernel().containers.read().contains_key(id) {
        return Err(Refusal::new(Code::AlreadyExists, format!("container with id exists: {id}")));
    }
    let spec: Spec = serde_json::from_slice(&request.config_json)
        .map_err(|error| Refusal::new(Code::InvalidArgument, format!("config.json: {error}")))?;
    if request.memory_events != 0 {
        memory::count_in(id, streams::claim(request.memory_events)?.0);
    }
    let made = build(request, &spec).and_then(|container| {
        let started = launch::init(&container, &spec, request);
        if started.is_err() {
            container.exec_root.remove();
        }
        started.map(|response| (container, response))
    });
    match made {
        Ok((container, response)) => {
            kernel().containers.write().insert(id.clone(), container);
            Ok(response)
        }
        Err(refusal) => {
            unmount(id);
            memory::forget(id);
            Err(refusal)
        }
    }
}

/// Where a container's trees are mounted in this process's own tree.
fn place(id: &str) -> PathBuf {
    Path::new(CONTAINERS).join(id)
}

/// Takes a container's trees away.
pub fn unmount(id: &str) {
    crate::fs::host::identity::assume_kernel();
    if let Ok(entries) = std::fs::read_dir(place(id)) {
        for entry in entries.flatten() {
            let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
            let _ = std::fs::remove_dir(entry.path()).or_else(|_| std::fs::remove_file(entry.path()));
        }
    }
    let _ = std::fs::remove_dir(place(id));
}

/// Mounts a detached tree under a name of the container's; gives its root.
pub fn attach_tree(id: &str, name: &str, stream: u32) -> Result<NodeRef, Refusal> {
    let (tree, _) = streams::claim(stream)?;
    let failed = |error: Errno| Refusal::new(Code::Internal, format!("mounting {name} of container {id}: {error}"));
    attach(id, name, &tree).map_err(failed)
}

fn attach(id: &str, name: &str, tree: &OwnedFd) -> Result<NodeRef> {
    crate::fs::host::identity::assume_kernel();
    std::fs::create_dir_all(place(id))?;
    let path = place(id).join(name);
    let stat = nix::sys::stat::fstat(tree)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        std::fs::create_dir(&path)?;
    } else {
        std::fs::File::create(&path)?;
    }
    let target = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
    /// `MOVE_MOUNT_F_EMPTY_PATH`.
    const EMPTY_PATH: u32 = 4;
    // SAFETY: both paths are NUL-terminated and live through the call.
    let moved = unsafe { libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), EMPTY_PATH) };
    if moved < 0 {
        return Err(Errno::last());
    }
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
    HostNode::root(nix::fcntl::open(&path, flags, nix::sys::stat::Mode::empty())?)
}

/// Builds everything but the process.
fn build(request: &CreateRequest, spec: &Spec) -> Result<Arc<Container>, Refusal> {
    let id = &request.container_id;
    let host_root = attach_tree(id, "root", request.root.stream)?;
    let root = layered(request, host_root)?;
    let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    let flags = MountFlags::RELATIVE_ACCESS_TIME | mounts::restrictions(&root);
    let base = Mount::new(root, flags, "overlay", "overlay", "");
    let namespace = Arc::new(MountNamespace { root: base.clone(), generation: Default::default() });
    let terminals = Instance::new().map_err(|error| Refusal::new(Code::Internal, format!("devpts of container {id}: {error}")))?;
    mounts::build(id, &namespace, spec, request, &terminals)?;
    if read_only {
        *base.flags.write() |= MountFlags::READ_ONLY;
    }
    for (name, value) in spec.linux().iter().filter_map(|linux| linux.sysctl().as_ref()).flatten() {
        crate::net::settings::set(name, value);
    }
    let profile = profile(&request.config_json)?;
    let failed = |error: Errno| Refusal::new(Code::Internal, format!("making the exec root of container {id}: {error}"));
    crate::fs::host::identity::assume_kernel();
    let exec_root = ExecRoot::create(Path::new(EXEC_ROOTS), &exec_root_name(id)).map_err(failed)?;
    let names = UtsNames {
        host: spec.hostname().clone().unwrap_or_default(),
        domain: spec.domainname().clone().unwrap_or_else(|| String::from("(none)")),
    };
    let mut counts = Vec::new();
    counts.resize_with(crate::syscalls::NUMBERS, CallCount::default);
    let joined = kernel().containers.read().get(&request.pid_namespace_of).map(|other| other.pid_namespace.clone());
    Ok(Arc::new(Container {
        id: id.clone(),
        pid_namespace: joined.unwrap_or_default(),
        mounts: namespace,
        names: RwLock::new(names),
        init: RwLock::new(None),
        gate: Mutex::new(None),
        counts: counts.into_boxed_slice(),
        strace: request.strace,
        profile,
        exec_root,
        terminals,
        execs: Mutex::default(),
        root_read_only: read_only,
    }))
}

/// Compiles `linux.seccomp`, where config.json has one.
fn profile(json: &[u8]) -> Result<Option<Profile>, Refusal> {
    let wrong = |error: String| Refusal::new(Code::InvalidArgument, format!("config.json: linux.seccomp: {error}"));
    let config: serde_json::Value = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
    let seccomp = &config["linux"]["seccomp"];
    if seccomp.is_null() {
        return Ok(None);
    }
    let compiled = crate::platform::profile::compile(seccomp.to_string().as_bytes()).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(compiled))
}

/// The exec root's directory: an id may be longer than a name, and must not be a special one.
pub fn exec_root_name(id: &str) -> String {
    format!("c-{id}")
}

/// The root file system with the overlay that the client asks for.
fn layered(request: &CreateRequest, lower: NodeRef) -> Result<NodeRef, Refusal> {
    match request.overlay.as_str() {
        "" | "none" => Ok(lower),
        "memory" => {
            let upper = crate::fs::tmpfs::FileSystem::create(0o755, 0, 0, crate::fs::tmpfs::Limits::default());
            Ok(crate::fs::overlay::mount(lower, upper))
        }
        "dir" => {
            let upper = attach_tree(&request.container_id, "upper", request.overlay_dir.stream)?;
            Ok(crate::fs::overlay::mount(lower, upper))
        }
        other => Err(Refusal::new(Code::InvalidArgument, format!("overlay {other:?}: memory, none or dir"))),
    }
}
