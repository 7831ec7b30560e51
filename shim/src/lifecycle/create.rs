//! `create`: from a bundle to a process that waits for `start`.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, bail};
use bulkhead_protocol::client::Client;
use bulkhead_protocol::messages::{CreateRequest, Mount};
use oci_spec::runtime::LinuxNamespaceType;
use serde_json::json;

use super::{CreateOptions, Session, Started, Status, check_terminal, delete, give_preserved, give_stdio, hook_state, number_of};
use crate::oci::id::Id;
use crate::oci::{self, Config, mount_options, validate};
use crate::stand_in::{Assignment, StandIn};
use crate::state::{Container, Directory, Pod, Stage, time};
use crate::wall::{self, Attachments};
use crate::{cgroup, console, hooks, log, network, trees};

/// Creates a container from a bundle; its process waits for [`super::start`].
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
    for warning in &config.warnings {
        log::warning(format!("config.json: {warning}"));
    }
    let terminal = config.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    check_terminal(terminal, options, foreground)?;
    let (directory, leftover) = session.store.claim(id)?;
    if let Some(leftover) = leftover {
        delete::clear(session, &leftover);
    }
    match make(session, id, &directory, bundle, config, options) {
        Ok(started) => Ok(started),
        Err(error) => {
            if let Err(error) = directory.remove() {
                log::warning(error);
            }
            Err(error)
        }
    }
}

/// Writes down what is about to be made, and makes it. Where that fails nothing is left but the directory.
fn make(
    session: &Session,
    id: &Id,
    directory: &Directory,
    bundle: &Path,
    config: &Config,
    options: &CreateOptions,
) -> anyhow::Result<Started> {
    let root = config.spec.root().as_ref().context("config.json: root: missing")?;
    let pod = pod_of(id, config)?;
    let pods_cgroup = session.store.read_pod(&pod)?.and_then(|pod| pod.cgroup);
    // Chosen before the first record: what is recorded is cleared away, and so must not be another's.
    let cgroup = cgroup::choose(id, &config.spec, session.systemd_cgroup, pods_cgroup.as_ref())?;
    let mut container = Container {
        id: id.clone(),
        pod,
        stage: Stage::Creating,
        bundle: bundle.to_owned(),
        rootfs: bundle.join(root.path()),
        created: time::now(),
        owner: owner(),
        isolation: session.isolation,
        stand_in: None,
        cgroup: Some(cgroup),
        host_cgroup: false,
        config: config.json.clone(),
    };
    directory.write_container(&container)?;
    let built = build(session, directory, &mut container, config, options);
    if built.is_err() {
        delete::clear(session, &container);
    }
    built
}

/// The name of who creates.
fn owner() -> String {
    let user = nix::unistd::getuid();
    nix::unistd::User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name)
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
            && let Some(value) = annotations.get(sandbox)
        {
            return Id::new(value).with_context(|| format!("annotations[{sandbox:?}]"));
        }
    }
    Ok(id.clone())
}

fn build(
    session: &Session,
    directory: &Directory,
    container: &mut Container,
    config: &Config,
    options: &CreateOptions,
) -> anyhow::Result<Started> {
    let namespace = network(config)?;
    let stand_in = StandIn::fork(Some(&namespace))?;
    container.stand_in = Some(stand_in.handle());
    directory.write_container(container)?;
    if let Some(cgroup) = &mut container.cgroup {
        let resources = config.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let resources = resources.map(|resources| wall::cgroup_limits(container.isolation, resources));
        cgroup::create(&container.id, cgroup, resources.as_ref(), stand_in.handle().pid)?;
        directory.write_container(container)?;
    }
    let pod = wall(session, container, config, namespace.try_clone()?)?;
    let socket = session.store.control_socket(&container.pod);
    let mut attachments = Attachments::open(&socket)?;
    let mut request = request(session, container, config, &mut attachments)?;
    let process = config.spec.process().as_ref().context("config.json: process: missing")?;
    let stdio = request.stdio.mut_or_insert_default();
    if let Some(size) = process.console_size() {
        stdio.rows = size.height() as u32;
        stdio.columns = size.width() as u32;
    }
    let terminal = process.terminal().unwrap_or(false);
    let ours = give_stdio(&mut attachments, stdio, terminal, options.console_socket.as_deref())?;
    request.preserved_streams = give_preserved(&mut attachments, options.preserve_fds)?;
    let answer = Client::connect(&socket)?.create(&request).context("unable to start container process")?;
    container.host_cgroup = answer.host_cgroup;
    let process = attachments.process(answer.pid_stream)?;
    if let (Some(cgroup), Some(pid)) = (&container.cgroup, process.as_ref().and_then(number_of))
        && !is_pods(&pod, container)
    {
        // It was made where its wall is.
        cgroup::join(cgroup, pid)?;
    }
    let master = ours.map(|socket| console::receive_master(&socket)).transpose()?;
    run_hooks(container, config, &namespace)?;
    let handle = stand_in.assign(&socket, &Assignment::new(container.id.as_str(), ""))?;
    container.stand_in = Some(handle);
    container.stage = Stage::Created;
    directory.write_container(container)?;
    if let Some(path) = &options.pid_file {
        crate::state::write_atomically(path, handle.pid.to_string().as_bytes(), 0o644)
            .with_context(|| format!("--pid-file {}", path.display()))?;
    }
    Ok(Started { pid: handle.pid, master })
}

/// Whether a container's cgroup is the one that its pod's wall is in.
pub(super) fn is_pods(pod: &Pod, container: &Container) -> bool {
    let path = |cgroup: &Option<crate::state::Cgroup>| cgroup.as_ref().map(|cgroup| cgroup.path.clone());
    path(&pod.cgroup) == path(&container.cgroup)
}

/// The container's network namespace, with its sysctls set.
fn network(config: &Config) -> anyhow::Result<OwnedFd> {
    let linux = config.spec.linux().as_ref();
    let Some(namespace) = linux.and_then(|linux| validate::namespace(linux, LinuxNamespaceType::Network)) else {
        return Ok(std::fs::File::open("/proc/self/ns/net")?.into());
    };
    let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
    let opened = network::open(path)?;
    network::configure(&opened, network_sysctls(config))?;
    Ok(opened)
}

/// The sysctls that a network namespace has.
pub fn network_sysctls(config: &Config) -> Vec<(String, String)> {
    let sysctls = config.spec.linux().as_ref().and_then(|linux| linux.sysctl().clone()).unwrap_or_default();
    sysctls.into_iter().filter(|(key, _)| key.starts_with("net.") || key.starts_with("net/")).collect()
}

/// The pod's wall: the one that runs, or a fresh one. From here on the container is a member of its pod.
fn wall(session: &Session, container: &Container, config: &Config, network: OwnedFd) -> anyhow::Result<Pod> {
    let (directory, pod) = session.store.pod(&container.pod)?;
    directory.add_member(&container.id)?;
    if let Some(pod) = pod.filter(|pod| pod.wall.open().is_some()) {
        if pod.isolation != container.isolation {
            bail!("pod {} of container {}: isolation is {}, not {}", pod.id, container.id, pod.isolation, container.isolation);
        }
        return Ok(pod);
    }
    if container.pod != container.id {
        bail!("pod {} of container {}: its sandbox does not run", container.pod, container.id);
    }
    let cgroups = container.cgroup.as_ref().map(cgroup::procs_files).transpose()?.unwrap_or_default();
    let start = wall::Start {
        directory: directory.path(),
        network,
        cgroups,
        strace: session.strace,
        config,
        microvm: &session.microvm,
        image: &session.image,
    };
    let prepared = wall::prepare(container.isolation, start)?;
    let pod = Pod { id: container.pod.clone(), isolation: container.isolation, wall: prepared.handle(), cgroup: container.cgroup.clone() };
    // Known before it can live without us.
    directory.write_pod(&pod)?;
    prepared.release()?;
    Ok(pod)
}

/// What the wall is asked, but for the streams; the container's root file system and bind sources are handed over.
fn request(session: &Session, container: &mut Container, config: &Config, attachments: &mut Attachments) -> anyhow::Result<CreateRequest> {
    let mut request = CreateRequest::new();
    request.container_id = container.id.as_str().to_owned();
    let mut json = config.json.clone();
    if json["hostname"].is_null() {
        json["hostname"] = json!(nix::unistd::gethostname()?.to_string_lossy());
    }
    super::listen_environment(&mut json["process"]);
    super::inherit_limits(&mut json["process"]);
    request.config_json = serde_json::to_vec(&json)?;
    let linux = config.spec.linux().as_ref();
    if let Some(path) = linux
        .and_then(|linux| validate::namespace(linux, LinuxNamespaceType::Pid))
        .and_then(|namespace| namespace.path().clone())
        .filter(|path| !path.as_os_str().is_empty())
    {
        request.pid_namespace_of = stands_in_at(session, container, &path)?;
    }
    request.strace = session.strace;
    if let Some(counter) = container.cgroup.as_ref().and_then(|cgroup| cgroup::memory::counter(&cgroup.directories)) {
        request.memory_events = attachments.stream(&counter)?;
    }
    let root = config.spec.root().as_ref().context("config.json: root: missing")?;
    let (rootfs, tree) = trees::root(&container.bundle, root.path(), root.readonly().unwrap_or(false))?;
    container.rootfs = rootfs;
    request.root = Some(attachments.tree(&tree)?).into();
    match session.overlay.split_once('=') {
        Some(("dir", path)) => {
            let upper = trees::upper(Path::new(path))?;
            request.overlay = String::from("dir");
            request.overlay_dir = Some(attachments.tree(&upper)?).into();
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
            wanted.source = Some(attachments.tree(&tree)?).into();
        }
        request.mounts.push(wanted);
    }
    Ok(request)
}

/// The container of the same pod whose stand-in a namespace path names (`/proc/PID/ns/pid`).
fn stands_in_at(session: &Session, container: &Container, path: &Path) -> anyhow::Result<String> {
    let pid = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()?.to_str()?.parse::<i32>().ok());
    for id in session.store.members(&container.pod)? {
        if id != container.id
            && let Ok(other) = session.store.read(&id)
            && pid.is_some_and(|pid| other.stand_in.is_some_and(|handle| handle.pid == pid))
        {
            return Ok(id.as_str().to_owned());
        }
    }
    bail!("linux.namespaces: pid: path {path:?}: not of a container of the same pod")
}

fn run_hooks(container: &Container, config: &Config, network: &OwnedFd) -> Result<(), hooks::HookError> {
    let shown = hook_state(container, Status::Creating);
    let kinds = config.spec.hooks().as_ref();
    #[allow(deprecated)]
    hooks::run("prestart", kinds.and_then(|hooks| hooks.prestart().as_ref()), &shown, &container.bundle, None)?;
    hooks::run("createRuntime", kinds.and_then(|hooks| hooks.create_runtime().as_ref()), &shown, &container.bundle, None)?;
    hooks::run("createContainer", kinds.and_then(|hooks| hooks.create_container().as_ref()), &shown, &container.rootfs, Some(network))
}
