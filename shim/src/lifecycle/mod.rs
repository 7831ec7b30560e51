//! A container's life, as the OCI runtime commands drive it: a file for each step.
//!
//! Nothing here knows which wall answers: a pod's wall is chosen and started by [`crate::wall`], asked by [`create`] for the pod's first
//! container; everything after speaks the control protocol.
//!
//! **Locks.** `create`, `start`, `update` and `delete` hold the container's lock, but not while they run hooks after their work is
//! done: a hook may call us. The pod's lock is held while its wall is started or ended. The others only read.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bulkhead_protocol::client::Client;
use bulkhead_protocol::messages::{StateRequest, Stdio, state_response::Status as WallStatus};
use nix::sys::resource::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::config::Microvm;
use crate::host;
use crate::oci::id::Id;
use crate::state::{Container, Store};
use crate::wall::{Attachments, Isolation};

mod create;
mod delete;
mod exec;
mod pause;
mod signal;
mod start;
mod update;

pub use create::{create, create_from, network_sysctls};
pub use delete::{delete, sweep};
pub use exec::{ExecOptions, exec, stand_in_of};
pub use pause::{pause, resume};
pub use signal::kill;
pub use start::start;
pub use update::update;

/// How long a killed process may take to be gone, and a wall to answer what it answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every command knows.
pub struct Session {
    /// Where state is kept.
    pub store: Store,
    /// Cgroups are made by systemd.
    pub systemd_cgroup: bool,
    /// The wall that was asked for.
    pub isolation: Isolation,
    /// Where writes to the root file system go: `memory`, `none`, `dir=PATH`.
    pub overlay: String,
    /// Log every system call.
    pub strace: bool,
    /// What virtual machines are to be like.
    pub microvm: Microvm,
    /// The directory of the image that they boot.
    pub image: PathBuf,
}

/// What `create`, `run` and `exec` are asked beside the configuration.
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

/// A container's status, in the words of the specification (runtime.md, "State") and runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// A container's status, as its wall has it.
pub fn status(session: &Session, container: &Container) -> Status {
    let mut request = StateRequest::new();
    request.container_id = container.id.as_str().to_owned();
    let answer = connect(session, container).ok().and_then(|mut client| client.state(&request).ok());
    match answer.map(|answer| answer.status.enum_value_or_default()) {
        Some(WallStatus::CREATED) => Status::Created,
        Some(WallStatus::RUNNING) => Status::Running,
        Some(WallStatus::PAUSED) => Status::Paused,
        _ => Status::Stopped,
    }
}

/// A connection to a container's wall, whose answers are waited for so long as [`PATIENCE`] lasts.
fn connect(session: &Session, container: &Container) -> std::io::Result<Client> {
    let client = Client::connect(&session.store.control_socket(&container.pod))?;
    client.set_timeout(Some(PATIENCE))?;
    Ok(client)
}

/// A client of the wall that a container is behind.
pub fn client(session: &Session, id: &str) -> anyhow::Result<(Client, Container)> {
    let container = session.store.read(&Id::new(id)?)?;
    let client = connect(session, &container).context("container not running")?;
    Ok((client, container))
}

/// The version of the specification that `state` names.
const OCI_VERSION: &str = "1.0.2";

/// The state that hooks read (runtime.md, "State").
fn hook_state(container: &Container, status: Status) -> String {
    let mut state = json!({
        "ociVersion": OCI_VERSION,
        "id": container.id.as_str(),
        "status": status.as_str(),
        "bundle": container.bundle,
    });
    if status != Status::Stopped {
        state["pid"] = json!(container.stand_in.map_or(0, |handle| handle.pid));
    }
    let annotations = container.annotations();
    if !annotations.is_empty() {
        state["annotations"] = json!(annotations);
    }
    state.to_string()
}

/// The state that `state` prints, and `list`: the specification's and runc's own fields.
pub fn state(container: &Container, status: Status) -> Value {
    let pid = if status == Status::Stopped { 0 } else { container.stand_in.map_or(0, |handle| handle.pid) };
    let mut state = json!({
        "ociVersion": OCI_VERSION,
        "id": container.id.as_str(),
        "pid": pid,
        "status": status.as_str(),
        "bundle": container.bundle,
        "rootfs": container.rootfs,
        "created": container.created,
        "owner": container.owner,
        "isolation": container.isolation.to_string(),
    });
    let annotations = container.annotations();
    if !annotations.is_empty() {
        state["annotations"] = json!(annotations);
    }
    state
}

/// Whether this command has a terminal that could be joined with a container's.
fn has_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdin().is_terminal()
        || std::io::stdout().is_terminal()
        || std::io::stderr().is_terminal()
        || std::fs::File::options().read(true).write(true).open("/dev/tty").is_ok()
}

/// Refuses a terminal without anybody to give it to, and a console socket without a terminal; in runc's words.
fn check_terminal(terminal: bool, options: &CreateOptions, foreground: bool) -> anyhow::Result<()> {
    if terminal && options.console_socket.is_none() && !foreground {
        bail!("cannot allocate tty if runc will detach without setting console socket");
    }
    if terminal && options.console_socket.is_none() && !has_terminal() {
        bail!("open /dev/tty: no such device or address");
    }
    if (!terminal || foreground)
        && let Some(path) = &options.console_socket
    {
        bail!("cannot use console socket if runc will not detach or allocate tty: --console-socket {}", path.display());
    }
    Ok(())
}

/// Attaches standard streams, or a console; gives our end of the console's socket where nobody else wants the terminal.
fn give_stdio(
    attachments: &mut Attachments,
    stdio: &mut Stdio,
    terminal: bool,
    console_socket: Option<&Path>,
) -> anyhow::Result<Option<UnixStream>> {
    stdio.terminal = terminal;
    if !terminal {
        stdio.stdin = attachments.stream(std::io::stdin())?;
        stdio.stdout = attachments.stream(std::io::stdout())?;
        stdio.stderr = attachments.stream(std::io::stderr())?;
        return Ok(None);
    }
    if let Some(path) = console_socket {
        let socket = bulkhead_protocol::client::connect(path).with_context(|| format!("--console-socket {}", path.display()))?;
        stdio.console = attachments.stream(&socket)?;
        return Ok(None);
    }
    let (ours, theirs) = UnixStream::pair()?;
    stdio.console = attachments.stream(&theirs)?;
    Ok(Some(ours))
}

/// Attaches the descriptors from 3 on that a process keeps: systemd's, by `LISTEN_FDS` (sd_listen_fds(3)), then those of `--preserve-fds`.
fn give_preserved(attachments: &mut Attachments, wanted: u32) -> anyhow::Result<Vec<u32>> {
    let mut given = Vec::new();
    for number in 3..3 + listen_fds() + wanted {
        let descriptor = host::inherited(number as i32).with_context(|| format!("--preserve-fds {wanted}: descriptor {number}"))?;
        given.push(attachments.stream(&descriptor)?);
    }
    Ok(given)
}

/// How many descriptors systemd has passed us: the variables are for whom they name.
fn listen_fds() -> u32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID") == Some(std::process::id());
    number("LISTEN_FDS").filter(|count| ours && *count < 1024).unwrap_or(0)
}

/// The variables that tell a process of those descriptors: its own number is 1 in its namespace.
fn listen_environment(process: &mut Value) {
    let count = listen_fds();
    if count == 0 {
        return;
    }
    let mut environment = process["env"].as_array().cloned().unwrap_or_default();
    environment.extend([json!(format!("LISTEN_FDS={count}")), json!("LISTEN_PID=1")]);
    process["env"] = json!(environment);
}

/// The limits that a process does not name are ours, which it would inherit from runc.
fn inherit_limits(process: &mut Value) {
    let mut limits = process["rlimits"].as_array().cloned().unwrap_or_default();
    for (name, resource) in LIMITS {
        let named = limits.iter().any(|limit| limit["type"] == name);
        if !named && let Ok((soft, hard)) = getrlimit(resource) {
            limits.push(json!({ "type": name, "soft": soft, "hard": hard }));
        }
    }
    process["rlimits"] = json!(limits);
}

/// Those that mean something behind a wall, and are not what protects the host from the wall's own processes.
const LIMITS: [(&str, Resource); 9] = [
    ("RLIMIT_AS", Resource::RLIMIT_AS),
    ("RLIMIT_CORE", Resource::RLIMIT_CORE),
    ("RLIMIT_CPU", Resource::RLIMIT_CPU),
    ("RLIMIT_DATA", Resource::RLIMIT_DATA),
    ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
    ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
    ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
    ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
    ("RLIMIT_STACK", Resource::RLIMIT_STACK),
];

/// The number of the process behind a pidfd, as this process sees it (pidfd_open(2), `/proc/PID/fdinfo`).
fn number_of(pidfd: &OwnedFd) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok().filter(|pid| *pid > 0)
}
