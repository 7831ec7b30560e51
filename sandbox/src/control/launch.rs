//! Starting processes: the init of a container, and those that enter it by exec.
//!
//! A process is made by the spawner and stands before its execve(2). Here it gets its emulated identity, descriptors and limits; then, when it may
//! go, its call is served like any other: the exec handler finds the program in the container's tree.

use std::os::fd::AsFd;
use std::sync::Arc;

use bulkhead_protocol::call::{Code, Refusal};
use bulkhead_protocol::messages::{CreateRequest, CreateResponse, ExecRequest, ExecResponse, Stdio};
use oci_spec::runtime::{Capability as Named, Process as Wanted, Spec};

use super::connection::Connection;
use super::create::exec_root_name;
use super::{environment, streams};
use crate::errno::Errno;
use crate::fs::host_stream;
use crate::kernel::adopt;
use crate::kernel::container::Container;
use crate::kernel::credentials::{Capabilities, Credentials};
use crate::kernel::fork::Snapshot;
use crate::kernel::limits::{Limit, Limits};
use crate::kernel::oom::Adjustment;
use crate::kernel::task::{FileSystemContext, FileSystemState, Process};
use crate::platform::dispatch::dispatcher;
use crate::platform::memory::Address;
use crate::platform::notify::{Notification, NotificationId};
use crate::platform::process::{self, Status};
use crate::platform::spawner::{SpawnRequest, spawner};
use crate::sync::Mutex;
use crate::syscalls::{self, Call, Outcome};
use crate::vfs::descriptor::DescriptorTable;
use crate::vfs::mount::{Location, MountFlags};
use crate::vfs::node::{FileType, Permission};
use crate::vfs::walk::{self, Walk, WalkFlags};

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidArgument, message)
}

/// Makes the init of a container; it waits for [`start`].
pub fn init(container: &Arc<Container>, spec: &Spec, request: &CreateRequest) -> Result<CreateResponse, Refusal> {
    let wanted = spec.process().as_ref().ok_or_else(|| invalid("config.json: process: missing"))?;
    let stdio = request.stdio.as_ref().cloned().unwrap_or_default();
    let join = joined_process(&request.pid_namespace_of)?;
    let (process, gate) = make(container, wanted, &stdio, &request.preserved_streams, Entry::First(join))?;
    *container.init.write() = Some(process.clone());
    *container.gate.lock() = Some(gate);
    let mut response = CreateResponse::new();
    response.pid = process.pid.0;
    response.pid_stream = give_back(&process, &stdio)?;
    response.host_cgroup = true;
    Ok(response)
}

/// The process whose PID namespace a container joins: another container's init.
fn joined_process(id: &str) -> Result<i32, Refusal> {
    if id.is_empty() {
        return Ok(0);
    }
    let other = crate::kernel::kernel().containers.read().get(id).cloned();
    let init = other.and_then(|other| other.init.read().clone());
    init.map(|init| init.pid.0).ok_or_else(|| Refusal::new(Code::NotFound, format!("container {id:?} does not exist")))
}

/// Lets the init of a created container, or an exec that is held, run its program.
pub fn start(container: &Arc<Container>, exec_id: &str) -> Result<(), Refusal> {
    if !exec_id.is_empty() {
        let held = take_held(&container.id, exec_id);
        let (process, gate) = held.ok_or_else(|| Refusal::new(Code::FailedPrecondition, format!("exec {exec_id:?} is not held")))?;
        return go(&process, &gate);
    }
    let gate = container.gate.lock().take();
    let gate = gate.ok_or_else(|| Refusal::new(Code::FailedPrecondition, "cannot start a container that has been started"))?;
    let init = container.init.read().clone();
    let init = init.ok_or_else(|| Refusal::new(Code::FailedPrecondition, "cannot start a container that has stopped"))?;
    go(&init, &gate)
}

/// Starts one more process.
pub fn exec(container: &Arc<Container>, request: &ExecRequest, connection: &Connection) -> Result<ExecResponse, Refusal> {
    let wanted: Wanted = serde_json::from_slice(&request.process_json).map_err(|error| invalid(format!("process: {error}")))?;
    let init = container.init.read().clone().filter(|init| init.exit.get().is_none());
    let init = init.ok_or_else(|| Refusal::new(Code::FailedPrecondition, "cannot exec in a stopped container"))?;
    if container.execs.lock().iter().any(|(name, process)| *name == request.exec_id && process.exit.get().is_none()) {
        return Err(Refusal::new(Code::AlreadyExists, format!("exec {:?} is running", request.exec_id)));
    }
    let stdio = request.stdio.as_ref().cloned().unwrap_or_default();
    let (process, gate) = make(container, &wanted, &stdio, &request.preserved_streams, Entry::Exec(init.pid.0))?;
    {
        let mut execs = container.execs.lock();
        execs.retain(|(name, _)| *name != request.exec_id);
        execs.push((request.exec_id.clone(), process.clone()));
    }
    let mut response = ExecResponse::new();
    response.pid = process.pid.0;
    response.pid_stream = give_back(&process, &stdio)?;
    if !request.held {
        go(&process, &gate)?;
        return Ok(response);
    }
    held().lock().push(Held { container: container.id.clone(), exec: request.exec_id.clone(), process, gate });
    let (container, exec) = (container.id.clone(), request.exec_id.clone());
    connection.at_end(Box::new(move || {
        if let Some((process, _)) = take_held(&container, &exec) {
            let _ = process::kill(process.pid.0, libc::SIGKILL);
        }
    }));
    Ok(response)
}

/// An exec that stands before its program until its client says otherwise.
struct Held {
    container: String,
    exec: String,
    process: Arc<Process>,
    gate: Notification,
}

fn held() -> &'static Mutex<Vec<Held>> {
    static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());
    &HELD
}

fn take_held(container: &str, exec: &str) -> Option<(Arc<Process>, Notification)> {
    let mut held = held().lock();
    let index = held.iter().position(|held| held.container == container && held.exec == exec)?;
    let taken = held.swap_remove(index);
    Some((taken.process, taken.gate))
}

/// Gives the client a pidfd of the process, by the connection that its standard streams came by.
fn give_back(process: &Process, stdio: &Stdio) -> Result<u32, Refusal> {
    let _ = stdio;
    let connection = LAST_STREAMS.with(|last| last.borrow_mut().take());
    if let Some(connection) = connection {
        let number = process.pid.0 as u32;
        if connection.give(number, process.pidfd.as_fd()).is_ok() {
            return Ok(number);
        }
    }
    Ok(0)
}

thread_local! {
    /// The stream connection of the request that is being served, as seen by the streams it claimed.
    static LAST_STREAMS: std::cell::RefCell<Option<Arc<Connection>>> = const { std::cell::RefCell::new(None) };
}

/// Claims a stream and remembers by which connection it came.
fn claim(number: u32) -> Result<std::os::fd::OwnedFd, Refusal> {
    let (descriptor, connection) = streams::claim(number)?;
    LAST_STREAMS.with(|last| *last.borrow_mut() = connection);
    Ok(descriptor)
}

/// Lets a process go from its first execve.
fn go(process: &Arc<Process>, gate: &Notification) -> Result<(), Refusal> {
    let thread =
        process.threads.lock().first().cloned().ok_or_else(|| Refusal::new(Code::FailedPrecondition, "process already finished"))?;
    let id = NotificationId(gate.id);
    let call = Call {
        thread,
        process: process.clone(),
        number: libc::SYS_execve,
        arguments: gate.arguments,
        instruction: Address(gate.instruction),
        id,
        seen: None,
    };
    let path = String::from_utf8_lossy(&call.path(0).unwrap_or_default()).into_owned();
    let entry = syscalls::lookup(libc::SYS_execve);
    match entry.map(|entry| (entry.handler)(&call)) {
        Some(Ok(Outcome::Continue)) => {
            dispatcher().let_go(&call);
            Ok(())
        }
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => {
            let _ = process::kill(process.pid.0, libc::SIGKILL);
            Err(exec_refusal(&path, error))
        }
        None => Err(Refusal::new(Code::Internal, "no execve")),
    }
}

/// Why the host, or this kernel, would not execute a program.
fn exec_refusal(path: &str, error: Errno) -> Refusal {
    Refusal::of_execution(path, nix::errno::Errno::from_raw(error.0))
}

/// How a process comes into its container; with the first process of the PID namespace that it joins, 0 for none.
enum Entry {
    First(i32),
    Exec(i32),
}

/// Makes a process that stands before its execve, with everything it is to have.
fn make(
    container: &Arc<Container>,
    wanted: &Wanted,
    stdio: &Stdio,
    preserved: &[u32],
    entry: Entry,
) -> Result<(Arc<Process>, Notification), Refusal> {
    let (join, first) = match entry {
        Entry::First(join) => (join, true),
        Entry::Exec(join) => (join, false),
    };
    let credentials = Arc::new(identity(wanted)?);
    let root = super::mounts::top(&container.mounts);
    let environment = environment::complete(wanted.env().as_deref().unwrap_or_default(), &root, wanted.user().uid());
    let cwd = working_directory(&root, wanted, first)?;
    let arguments = wanted.args().clone().filter(|arguments| !arguments.is_empty()).ok_or_else(|| invalid("process.args: empty"))?;
    let path = find_program(&root, &cwd, &credentials, &arguments[0], &environment)?;
    let umask = wanted.user().umask().unwrap_or(0o022) & 0o777;
    let context = FileSystemContext::new(FileSystemState { root, cwd, umask });
    let limits = limits(wanted)?;
    let descriptors = descriptors(container, stdio, preserved, &credentials)?;
    let adjustment = Adjustment::new(wanted.oom_score_adj().unwrap_or(0));
    let request = SpawnRequest {
        exec_root: exec_root_name(&container.id),
        join,
        path: path.into_bytes(),
        arguments: arguments.into_iter().map(String::into_bytes).collect(),
        environment: environment.into_iter().map(String::into_bytes).collect(),
        limits: native_limits(wanted, &limits),
        profiles: container.profile.iter().cloned().collect(),
    };
    let (pid, gate) = spawner().spawn(&request).map_err(|error| Refusal::new(Code::Internal, format!("starting a process: {error}")))?;
    adjustment.apply(pid);
    let console = stdio.terminal.then(|| descriptors.get(crate::vfs::descriptor::Descriptor(0)).ok()).flatten();
    let snapshot = Snapshot {
        flags: 0,
        container: container.clone(),
        credentials,
        context,
        descriptors,
        limits,
        executable: None,
        name: [0; 16],
        dumpable: 1,
        login: Default::default(),
        oom: adjustment,
    };
    let adopted = Status::read(pid)
        .and_then(|status| adopt::new_process(pid, &status, snapshot))
        .and_then(|thread| thread.process().ok_or(Errno::ESRCH));
    let process = adopted.map_err(|error| {
        let _ = process::kill(pid.0, libc::SIGKILL);
        Refusal::new(Code::Internal, format!("starting a process: {error}"))
    })?;
    super::memory::begins(&process);
    if let Some(slave) = console.as_ref().and_then(|open| open.file.as_any().downcast_ref::<crate::fs::tty::Slave>()) {
        slave.adopt(&process);
    }
    Ok((process, gate))
}

fn capability_set(names: Option<&std::collections::HashSet<Named>>) -> Capabilities {
    names.into_iter().flatten().fold(Capabilities::NONE, |set, name| Capabilities(set.0 | 1 << caps_number(*name)))
}

/// A capability's number, by its name.
fn caps_number(name: Named) -> u64 {
    let text = format!("CAP_{name}").replace("CAP_CAP_", "CAP_").to_uppercase();
    caps::all().into_iter().find(|capability| capability.to_string() == text).map_or(63, |capability| u64::from(capability.index()))
}

/// The emulated identity that config.json asks for.
fn identity(wanted: &Wanted) -> Result<Credentials, Refusal> {
    let user = wanted.user();
    let groups = user.additional_gids().clone().unwrap_or_default();
    let mut credentials = Credentials::of(user.uid(), user.gid(), &groups, Capabilities::NONE);
    if let Some(sets) = wanted.capabilities() {
        credentials.bounding = capability_set(sets.bounding().as_ref()).intersection(Capabilities::ALL);
        credentials.permitted = capability_set(sets.permitted().as_ref()).intersection(credentials.bounding);
        credentials.effective = capability_set(sets.effective().as_ref()).intersection(credentials.permitted);
        credentials.inheritable = capability_set(sets.inheritable().as_ref()).intersection(credentials.bounding);
        credentials.ambient =
            capability_set(sets.ambient().as_ref()).intersection(credentials.permitted).intersection(credentials.inheritable);
    }
    credentials.no_new_privs = wanted.no_new_privileges().unwrap_or(false);
    Ok(credentials)
}

fn walk<'a>(root: &'a Location, start: &'a Location, who: &'a Credentials) -> Walk<'a> {
    Walk { root, start, who, flags: WalkFlags::empty() }
}

/// The working directory. That of a container's first process is made where it is not there, as runc does.
fn working_directory(root: &Location, wanted: &Wanted, first: bool) -> Result<Location, Refusal> {
    let kernel = Credentials::kernel();
    let path = wanted.cwd().to_string_lossy().into_owned();
    let failed = |error: Errno| {
        let text = match error {
            Errno::ENOENT => String::from("no such file or directory"),
            Errno::ENOTDIR => String::from("not a directory"),
            error => error.to_string(),
        };
        invalid(format!("chdir to cwd ({path:?}) set in config.json failed: {text} (process.cwd)"))
    };
    let found = match walk::resolve(&walk(root, root, &kernel), path.as_bytes()) {
        Err(Errno::ENOENT) if first => {
            let mut here = root.clone();
            for name in path.split('/').filter(|name| !name.is_empty()) {
                here = match walk::resolve(&walk(root, &here, &kernel), name.as_bytes()) {
                    Err(Errno::ENOENT) => {
                        here.node.clone().make_directory(name.as_bytes(), 0o755, &kernel).map_err(failed)?;
                        walk::resolve(&walk(root, &here, &kernel), name.as_bytes()).map_err(failed)?
                    }
                    found => found.map_err(failed)?,
                };
            }
            here
        }
        found => found.map_err(failed)?,
    };
    if found.node.file_type() == FileType::Directory { Ok(found) } else { Err(failed(Errno::ENOTDIR)) }
}

/// The path of a program: as it is where it has a slash, else looked for in `PATH`.
fn find_program(root: &Location, cwd: &Location, who: &Credentials, name: &str, environment: &[String]) -> Result<String, Refusal> {
    let look = |path: &str| -> Result<(), Errno> {
        let found = walk::resolve(&walk(root, cwd, who), path.as_bytes())?;
        if found.node.file_type() != FileType::Regular || found.mount.has(MountFlags::NO_EXECUTE) {
            return Err(Errno::EACCES);
        }
        found.node.access(Permission::EXECUTE, who)
    };
    if name.contains('/') {
        return look(name).map(|()| name.to_owned()).map_err(|error| exec_refusal(name, error));
    }
    let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or("");
    for directory in path.split(':') {
        let candidate = format!("{}/{name}", if directory.is_empty() { "." } else { directory });
        if !name.is_empty() && look(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(Refusal::new(Code::NotFound, format!("exec: {name:?}: executable file not found in $PATH")))
}

/// The names of limits, at their numbers.
const LIMITS: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

fn limits(wanted: &Wanted) -> Result<Limits, Refusal> {
    let mut limits = Limits::default();
    for limit in wanted.rlimits().iter().flatten() {
        let name = limit.typ().to_string();
        let number = LIMITS.iter().position(|known| *known == name).ok_or_else(|| invalid(format!("process.rlimits: type {name:?}")))?;
        if limit.soft() > limit.hard() {
            return Err(invalid(format!("process.rlimits: {name}: soft {} is above hard {}", limit.soft(), limit.hard())));
        }
        limits.0[number] = Limit { soft: limit.soft(), hard: limit.hard() };
    }
    Ok(limits)
}

/// Those that the host enforces: the stack's, and what config.json names. The rest stay what the host gave the kernel process.
fn native_limits(wanted: &Wanted, limits: &Limits) -> Vec<(u32, u64, u64)> {
    const NATIVE: [u32; 6] =
        [libc::RLIMIT_CPU, libc::RLIMIT_DATA, libc::RLIMIT_STACK, libc::RLIMIT_AS, libc::RLIMIT_MEMLOCK, libc::RLIMIT_SIGPENDING];
    let named: Vec<String> = wanted.rlimits().iter().flatten().map(|limit| limit.typ().to_string()).collect();
    let is_named = |resource: u32| LIMITS.get(resource as usize).is_some_and(|name| named.iter().any(|other| other == name));
    NATIVE
        .into_iter()
        .filter(|resource| *resource == libc::RLIMIT_STACK || is_named(*resource))
        .filter_map(|resource| {
            // Without CAP_SYS_RESOURCE on the host none can be raised above this process's own: the program still sees what it asked for.
            let most = process::own_limit(resource);
            limits.get(resource).map(|limit| (resource, limit.soft.min(most), limit.hard.min(most)))
        })
        .collect()
}

/// The first descriptors: standard streams, and what the client preserves.
fn descriptors(
    container: &Arc<Container>,
    stdio: &Stdio,
    preserved: &[u32],
    who: &Arc<Credentials>,
) -> Result<Arc<DescriptorTable>, Refusal> {
    let table = DescriptorTable::new();
    let failed = |error: Errno| Refusal::new(Code::Internal, format!("standard streams of container {}: {error}", container.id));
    if stdio.terminal {
        let socket = if stdio.console != 0 { Some(claim(stdio.console)?) } else { None };
        let size = (stdio.rows as u16, stdio.columns as u16);
        let terminal = crate::fs::tty::console(container, socket, size, who.clone()).map_err(failed)?;
        for number in 0..3 {
            table.insert(terminal.clone(), false, number, u64::MAX).map_err(failed)?;
        }
    } else {
        for (number, stream) in [stdio.stdin, stdio.stdout, stdio.stderr].into_iter().enumerate() {
            let file = match stream {
                0 => host_stream::null(who.clone()),
                stream => host_stream::open(claim(stream)?, who.clone()).map_err(failed)?,
            };
            table.insert(file, false, number as u32, u64::MAX).map_err(failed)?;
        }
    }
    for (index, stream) in preserved.iter().enumerate() {
        let file = host_stream::open(claim(*stream)?, who.clone()).map_err(failed)?;
        table.insert(file, false, 3 + index as u32, u64::MAX).map_err(failed)?;
    }
    Ok(table)
}

/// Changes the size of a process's terminal.
pub fn resize(container: &Arc<Container>, exec_id: &str, rows: u16, columns: u16) -> Result<(), Refusal> {
    let _ = exec_id;
    crate::fs::tty::resize(container, rows, columns)
        .map_err(|error| Refusal::new(Code::FailedPrecondition, format!("resizing the terminal of container {}: {error}", container.id)))
}
