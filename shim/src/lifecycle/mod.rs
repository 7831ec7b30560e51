//! A container's life, as the OCI runtime commands drive it.
//!
//! *Where is the wall chosen?* Here, in [`create`]: a pod's wall is started by [`wall`] for its first container, and everything after speaks the
//! control protocol with it, whichever it is.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bulkhead_protocol::client::Client;
use bulkhead_protocol::messages::{
    ContainerRequest, CreateRequest, ExecRequest, Mount, SignalRequest, StartRequest, StateRequest, Stdio, Tree, WaitRequest,
    state_response::Status,
};
use bulkhead_protocol::streams::StreamConnection;
use oci_spec::runtime::LinuxNamespaceType;
use serde_json::{Value, json};

use crate::oci::id::Id;
use crate::oci::{self, Config, mount_options, validate};
use crate::stand_in::{Assignment, StandIn};
use crate::state::{Container, Directory, Pod, ProcessHandle, Stage, StateError, Store, time};
use crate::{cgroup, console, hooks, host, log, network, trees};

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every command knows.
pub struct Session {
    /// Where state is kept.
    pub store: Store,
    /// Cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// The wall that was asked for.
    pub isolation: String,
    /// Where writes to the root file system go: `memory`, `none`, `dir=PATH`.
    pub overlay: String,
    /// Log every system call.
    pub strace: bool,
}

/// What `create` and `run` are asked beside the configuration.
#[derive(Default)]
pub struct CreateOptions {
    /// Where a terminal's master is sent.
    pub console_socket: Option<PathBuf>,
    /// Where the process's number is written.
    pub pid_file: Option<PathBuf>,
    /// Descriptors from 3 on that the process keeps.
    pub preserve_fds: u32,
}

/// A created process: who stands in for it, and its terminal's master where it came back to us.
pub struct Started {
    /// The stand-in's number.
    pub pid: i32,
    /// The terminal.
    pub master: Option<OwnedFd>,
}

/// The configuration's status word of a container.
pub fn status(session: &Session, container: &Container) -> &'static str {
    let mut request = StateRequest::new();
    request.container_id = container.id.as_str().to_owned();
    let answer = Client::connect(&session.store.control_socket(&container.pod)).ok().and_then(|mut client| client.state(&request).ok());
    match answer.map(|answer| answer.status.enum_value_or_default()) {
        Some(Status::CREATED) => "created",
        Some(Status::RUNNING) => "running",
        Some(Status::PAUSED) => "paused",
        _ => "stopped",
    }
}

/// The state that `state` prints and hooks read (runtime.md, "State").
pub fn state(session: &Session, container: &Container, status: &str) -> Value {
    let _ = session;
    let pid = if status == "stopped" { 0 } else { container.stand_in.map_or(0, |handle| handle.pid) };
    json!({
        "ociVersion": "1.0.2",
        "id": container.id.as_str(),
        "pid": pid,
        "status": status,
        "bundle": container.bundle,
        "rootfs": container.rootfs,
        "created": container.created,
        "annotations": container.annotations(),
        "owner": container.owner,
    })
}

/// The pod that a container belongs to: containerd's and CRI-O's annotations, or a pod of its own.
fn pod_of(id: &Id, config: &Config) -> anyhow::Result<Id> {
    const KEYS: [(&str, &str); 2] = [
        ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
        ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
    ];
    let annotations = config.spec.annotations().clone().unwrap_or_default();
    for (kind, sandbox) in KEYS {
        if annotations.get(kind).is_some_and(|kind| kind == "container")
            && let Some(sandbox) = annotations.get(sandbox)
        {
            return Ok(Id::new(sandbox)?);
        }
    }
    Ok(id.clone())
}

/// Creates a container from a bundle; its process waits for [`start`].
pub fn create(session: &Session, id: &str, bundle: &Path, options: &CreateOptions, foreground: bool) -> anyhow::Result<Started> {
    let id = Id::new(id)?;
    let bundle = bundle.canonicalize().with_context(|| format!("bundle {}", bundle.display()))?;
    let config = oci::load(&bundle)?;
    create_from(session, &id, &bundle, &config, options, foreground)
}

/// The same from a configuration that has been read.
pub fn create_from(
    session: &Session,
    id: &Id,
    bundle: &Path,
    config: &Config,
    options: &CreateOptions,
    foreground: bool,
) -> anyhow::Result<Started> {
    if session.isolation != "sandbox" {
        bail!("isolation {:?}: this release has the sandbox wall alone", session.isolation);
    }
    for field in &config.unknown {
        log::warning(format!("config.json: {field}: not a field of the runtime specification"));
    }
    let terminal = config.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    if terminal && options.console_socket.is_none() && !foreground {
        bail!("cannot allocate tty if runc will detach without setting console socket");
    }
    if !terminal && options.console_socket.is_some() {
        bail!("cannot use console socket if runc will not detach or allocate tty");
    }
    let (directory, leftover) = session.store.claim(id)?;
    if let Some(leftover) = leftover {
        clear(session, &leftover);
    }
    let root = config.spec.root().as_ref().context("config.json: root: missing")?;
    let mut container = Container {
        id: id.clone(),
        pod: pod_of(id, config)?,
        stage: Stage::Creating,
        bundle: bundle.to_owned(),
        rootfs: bundle.join(root.path()),
        created: time::now(),
        owner: String::from("root"),
        isolation: session.isolation.clone(),
        stand_in: None,
        cgroup: Some(cgroup::place(id, &config.spec, session.systemd_cgroup)),
        config: config.json.clone(),
    };
    directory.write_container(&container)?;
    match build(session, &directory, &mut container, config, options) {
        Ok(started) => Ok(started),
        Err(error) => {
            clear(session, &container);
            directory.remove()?;
            Err(error)
        }
    }
}

fn build(
    session: &Session,
    directory: &Directory,
    container: &mut Container,
    config: &Config,
    options: &CreateOptions,
) -> anyhow::Result<Started> {
    let linux = config.spec.linux().as_ref();
    let own_network = linux.and_then(|linux| validate::namespace(linux, LinuxNamespaceType::Network));
    let namespace = match own_network {
        Some(namespace) => {
            let opened = network::open(namespace.path().as_ref())?;
            let sysctls = linux.and_then(|linux| linux.sysctl().clone()).unwrap_or_default();
            network::configure(&opened, sysctls.into_iter().filter(|(key, _)| key.starts_with("net.")).collect())?;
            opened
        }
        None => std::fs::File::open("/proc/self/ns/net")?.into(),
    };
    let stand_in = StandIn::fork(Some(&namespace))?;
    container.stand_in = Some(stand_in.handle());
    directory.write_container(container)?;
    if let Some(cgroup) = &container.cgroup {
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        cgroup::create(&container.id, cgroup, resources, stand_in.handle().pid)?;
    }
    let socket = wall(session, container, namespace.try_clone()?, stand_in.handle())?;
    let mut streams = StreamConnection::open(&socket)?;
    let mut request = CreateRequest::new();
    request.container_id = container.id.as_str().to_owned();
    let mut json = config.json.clone();
    if json["hostname"].is_null() {
        json["hostname"] = json!(nix::unistd::gethostname()?.to_string_lossy());
    }
    request.config_json = serde_json::to_vec(&json)?;
    if let Some(path) =
        linux.and_then(|linux| validate::namespace(linux, LinuxNamespaceType::Pid)).and_then(|namespace| namespace.path().clone())
    {
        request.pid_namespace_of = stands_in_at(session, container, &path)?;
    }
    request.strace = session.strace;
    let read_only = config.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
    let root = config.spec.root().as_ref().context("config.json: root: missing")?;
    let (rootfs, tree) = trees::root(&container.bundle, root.path(), read_only)?;
    container.rootfs = rootfs;
    request.root = Some(attached(&mut streams, &tree)?).into();
    match session.overlay.split_once('=') {
        Some(("dir", path)) => {
            std::fs::create_dir_all(path).with_context(|| format!("--overlay dir={path}"))?;
            let upper = trees::source(Path::new("/"), 0, Path::new(path), mount_options::MountOptions::default())?;
            request.overlay = String::from("dir");
            request.overlay_dir = Some(attached(&mut streams, &upper)?).into();
        }
        _ => request.overlay = session.overlay.clone(),
    }
    for (index, mount) in config.spec.mounts().iter().flatten().enumerate() {
        let mut wanted = Mount::new();
        wanted.destination = mount.destination().to_string_lossy().into_owned();
        wanted.type_ = mount.typ().clone().unwrap_or_default();
        wanted.options = mount.options().clone().unwrap_or_default();
        let read = mount_options::parse(mount.typ().as_deref().unwrap_or(""), wanted.options.iter().map(String::as_str));
        let read = read.map_err(|(option, reason)| anyhow::anyhow!("mounts[{index}]: {option:?}: {reason}"))?;
        if read.bind.is_some() {
            let source = mount.source().as_ref().with_context(|| format!("mounts[{index}].source: missing"))?;
            let tree = trees::source(&container.bundle, index, source, read)?;
            wanted.source = Some(attached(&mut streams, &tree)?).into();
        }
        request.mounts.push(wanted);
    }
    let process = config.spec.process().as_ref().context("config.json: process: missing")?;
    let terminal = process.terminal().unwrap_or(false);
    if let Some(size) = process.console_size() {
        let stdio = request.stdio.mut_or_insert_default();
        stdio.rows = size.height() as u32;
        stdio.columns = size.width() as u32;
    }
    let ours = give_stdio(&mut streams, request.stdio.mut_or_insert_default(), terminal, options.console_socket.as_deref())?;
    for number in 3..3 + options.preserve_fds {
        let descriptor = host::inherited(number as i32)?;
        request.preserved_streams.push(streams.attach(&descriptor)?.number());
    }
    Client::connect(&socket)?.create(&request)?;
    let master = ours.map(|socket| console::receive_master(&socket)).transpose()?;
    let shown = state(session, container, "creating").to_string();
    let kinds = config.spec.hooks().as_ref();
    #[allow(deprecated)]
    hooks::run("prestart", kinds.and_then(|hooks| hooks.prestart().as_ref()), &shown, None)?;
    hooks::run("createRuntime", kinds.and_then(|hooks| hooks.create_runtime().as_ref()), &shown, None)?;
    hooks::run("createContainer", kinds.and_then(|hooks| hooks.create_container().as_ref()), &shown, Some(&namespace))?;
    let handle = stand_in.assign(&Assignment::new(&socket, container.id.as_str(), ""))?;
    container.stand_in = Some(handle);
    container.stage = Stage::Created;
    directory.write_container(container)?;
    if let Some(path) = &options.pid_file {
        crate::state::write_atomically(path, handle.pid.to_string().as_bytes())
            .with_context(|| format!("--pid-file {}", path.display()))?;
    }
    Ok(Started { pid: handle.pid, master })
}

/// The container of the same pod whose stand-in a namespace path names (`/proc/PID/ns/pid`).
fn stands_in_at(session: &Session, container: &Container, path: &Path) -> anyhow::Result<String> {
    let pid = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()?.to_str()?.parse::<i32>().ok());
    let others = session.store.containers()?;
    let found = others.iter().find(|other| other.pod == container.pod && pid.is_some() && other.stand_in.map(|handle| handle.pid) == pid);
    match found {
        Some(other) => Ok(other.id.as_str().to_owned()),
        None => bail!("linux.namespaces: pid: path {path:?}: not of a container of the same pod"),
    }
}

fn attached(streams: &mut StreamConnection, tree: &OwnedFd) -> anyhow::Result<Tree> {
    let mut attached = Tree::new();
    attached.stream = streams.attach(tree)?.number();
    Ok(attached)
}

/// Attaches standard streams, or a console; gives our end of the console's socket where nobody else wants the terminal.
fn give_stdio(
    streams: &mut StreamConnection,
    stdio: &mut Stdio,
    terminal: bool,
    console_socket: Option<&Path>,
) -> anyhow::Result<Option<UnixStream>> {
    stdio.terminal = terminal;
    if !terminal {
        stdio.stdin = streams.attach(std::io::stdin())?.number();
        stdio.stdout = streams.attach(std::io::stdout())?.number();
        stdio.stderr = streams.attach(std::io::stderr())?.number();
        return Ok(None);
    }
    if let Some(path) = console_socket {
        let socket = UnixStream::connect(path).with_context(|| format!("--console-socket {}", path.display()))?;
        stdio.console = streams.attach(&socket)?.number();
        return Ok(None);
    }
    let (ours, theirs) = UnixStream::pair()?;
    stdio.console = streams.attach(&theirs)?.number();
    Ok(Some(ours))
}

/// The pod's wall: the one that runs, or a fresh one. Gives its control socket.
fn wall(session: &Session, container: &Container, namespace: OwnedFd, stand_in: ProcessHandle) -> anyhow::Result<PathBuf> {
    let (directory, pod) = session.store.pod(&container.pod)?;
    let socket = session.store.control_socket(&container.pod);
    if pod.is_some_and(|pod| pod.wall.open().is_some()) {
        return Ok(socket);
    }
    if container.pod != container.id {
        bail!("pod {} of container {}: its sandbox does not run", container.pod.as_str(), container.id.as_str());
    }
    let _ = std::fs::remove_file(&socket);
    let place = std::fs::File::open(directory.path())?;
    // A socket's path may be 108 bytes long; a directory's descriptor has a short name.
    let control = UnixListener::bind(format!("/proc/self/fd/{}/control.sock", place.as_raw_fd()))?;
    let (json, debug) = log::settings();
    let sandbox = bulkhead_sandbox::boot::spawn(bulkhead_sandbox::boot::SpawnOptions {
        control: control.into(),
        log: log::for_wall(session.strace || debug),
        log_format_json: json,
        debug,
        network: Some(namespace),
        cgroups: cgroup::procs_files(stand_in.pid)?,
    })?;
    let wall = ProcessHandle::of(sandbox.pid).context("the sandbox has ended")?;
    directory.write_pod(&Pod { id: container.pod.clone(), wall })?;
    Ok(socket)
}

/// Clears away what a container has on the host beside its record. Every step may have been done already.
fn clear(session: &Session, container: &Container) {
    if let Ok(mut client) = Client::connect(&session.store.control_socket(&container.pod)) {
        let mut request = ContainerRequest::new();
        request.container_id = container.id.as_str().to_owned();
        let _ = client.delete(&request);
    }
    let others = session.store.containers().unwrap_or_default();
    if !others.iter().any(|other| other.pod == container.pod && other.id != container.id)
        && let Ok((directory, pod)) = session.store.pod(&container.pod)
    {
        if let Some(pod) = pod {
            pod.wall.kill(PATIENCE);
        }
        let _ = directory.remove();
    }
    if let Some(handle) = container.stand_in {
        handle.kill(PATIENCE);
    }
    if let Some(cgroup) = &container.cgroup
        && let Err(error) = cgroup::remove(&container.id, cgroup)
    {
        log::warning(error);
    }
}

/// Lets a created container run its program.
pub fn start(session: &Session, id: &str) -> anyhow::Result<()> {
    let (_directory, container) = session.store.lock(&Id::new(id)?)?;
    match status(session, &container) {
        "created" => {}
        "stopped" => bail!("cannot start a container that has stopped"),
        status => bail!("cannot start an already {status} container"),
    }
    let spec: oci_spec::runtime::Spec = serde_json::from_value(container.config.clone())?;
    let mut client = Client::connect(&session.store.control_socket(&container.pod))?;
    let inside = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
    for (index, hook) in inside.into_iter().flatten().enumerate() {
        run_inside(&mut client, &container, hook, index)?;
    }
    let mut request = StartRequest::new();
    request.container_id = id.to_owned();
    client.start(&request)?;
    let shown = state(session, &container, "running").to_string();
    if let Err(error) = hooks::run("poststart", spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref()), &shown, None) {
        log::warning(error);
    }
    Ok(())
}

/// Runs a startContainer hook, as a process of the container.
fn run_inside(client: &mut Client, container: &Container, hook: &oci_spec::runtime::Hook, index: usize) -> anyhow::Result<()> {
    let path = hook.path().to_string_lossy().into_owned();
    let mut arguments = hook.args().clone().unwrap_or_else(|| vec![path.clone()]);
    if let Some(first) = arguments.first_mut() {
        *first = path.clone();
    }
    let mut process = container.config["process"].clone();
    process["args"] = json!(arguments);
    process["terminal"] = json!(false);
    process["env"] = json!(hook.env().clone().unwrap_or_default());
    let mut request = ExecRequest::new();
    request.container_id = container.id.as_str().to_owned();
    request.exec_id = format!("startContainer-{index}");
    request.process_json = serde_json::to_vec(&process)?;
    let named = || format!("error running hook #{index}: hooks.startContainer[{index}].path: {path}");
    client.exec(&request).with_context(named)?;
    let mut wait = WaitRequest::new();
    wait.container_id.clone_from(&request.container_id);
    wait.exec_id.clone_from(&request.exec_id);
    match client.wait(&wait)?.exit_status {
        0 => Ok(()),
        code => bail!("{}: exit status {code}", named()),
    }
}

/// Sends a signal to a container's init, or to all its processes.
pub fn kill(session: &Session, id: &str, signal: i32, all: bool) -> anyhow::Result<()> {
    let container = session.store.read(&Id::new(id)?)?;
    if status(session, &container) == "stopped" {
        if all {
            return Ok(());
        }
        bail!("container not running");
    }
    let mut request = SignalRequest::new();
    request.container_id = id.to_owned();
    request.signal = signal as u32;
    request.all = all;
    Client::connect(&session.store.control_socket(&container.pod))?.signal(&request).context("container not running")?;
    Ok(())
}

/// Deletes a container that has stopped; with `force`, any.
pub fn delete(session: &Session, id: &str, force: bool) -> anyhow::Result<()> {
    let id = Id::new(id)?;
    let (directory, container) = match session.store.lock_any(&id) {
        Err(StateError::Missing(_)) if force => return Ok(()),
        found => found?,
    };
    let Some(container) = container else {
        if !force {
            return Err(StateError::Interrupted(id).into());
        }
        return Ok(directory.remove()?);
    };
    let now = status(session, &container);
    if now != "stopped" && !force && container.stage == Stage::Created {
        bail!("cannot delete container {} that is not stopped: {now}", id.as_str());
    }
    clear(session, &container);
    let spec: Option<oci_spec::runtime::Spec> = serde_json::from_value(container.config.clone()).ok();
    let shown = state(session, &container, "stopped").to_string();
    let poststop = spec.as_ref().and_then(|spec| spec.hooks().as_ref()).and_then(|hooks| hooks.poststop().as_ref());
    if let Err(error) = hooks::run("poststop", poststop, &shown, None) {
        log::warning(error);
    }
    directory.remove()?;
    Ok(())
}

/// Starts one more process in a container.
pub fn exec(session: &Session, id: &str, process: &Value, options: &CreateOptions, foreground: bool) -> anyhow::Result<Started> {
    let container = session.store.read(&Id::new(id)?)?;
    if status(session, &container) == "stopped" {
        bail!("cannot exec in a stopped container");
    }
    let terminal = process["terminal"].as_bool().unwrap_or(false);
    if terminal && options.console_socket.is_none() && !foreground {
        bail!("cannot allocate tty if runc will detach without setting console socket");
    }
    let (_lock, pod) = session.store.pod(&container.pod)?;
    let pod = pod.context("container not running")?;
    let namespace: OwnedFd = std::fs::File::open(format!("/proc/{}/ns/net", pod.wall.pid))?.into();
    let stand_in = StandIn::fork(Some(&namespace))?;
    if let Some(cgroup) = &container.cgroup {
        cgroup::join(&container.id, cgroup, stand_in.handle().pid)?;
    }
    let socket = session.store.control_socket(&container.pod);
    let mut streams = StreamConnection::open(&socket)?;
    let mut request = ExecRequest::new();
    request.container_id = id.to_owned();
    request.exec_id = format!("exec-{}", stand_in.handle().pid);
    request.process_json = serde_json::to_vec(process)?;
    let ours = give_stdio(&mut streams, request.stdio.mut_or_insert_default(), terminal, options.console_socket.as_deref())?;
    for number in 3..3 + options.preserve_fds {
        let descriptor = host::inherited(number as i32)?;
        request.preserved_streams.push(streams.attach(&descriptor)?.number());
    }
    Client::connect(&socket)?.exec(&request)?;
    let master = ours.map(|socket| console::receive_master(&socket)).transpose()?;
    let handle = stand_in.assign(&Assignment::new(&socket, id, &request.exec_id))?;
    if let Some(path) = &options.pid_file {
        crate::state::write_atomically(path, handle.pid.to_string().as_bytes())?;
    }
    Ok(Started { pid: handle.pid, master })
}

/// A client of the wall that a container is behind.
pub fn client(session: &Session, id: &str) -> anyhow::Result<(Client, Container)> {
    let container = session.store.read(&Id::new(id)?)?;
    let client = Client::connect(&session.store.control_socket(&container.pod)).context("container not running")?;
    Ok((client, container))
}
