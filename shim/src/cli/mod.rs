//! The command line: runc's commands and flags, and a few of our own.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bulkhead_protocol::messages::{ContainerRequest, ProcessesRequest};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use crate::console::Relay;
use crate::foreground::{Signals, attend};
use crate::lifecycle::{self, CreateOptions, Session, Started};
use crate::oci::template;
use crate::state::Store;
use crate::{log, oci};

/// An OCI runtime that starts every pod behind a second wall.
#[derive(Parser)]
#[command(name = "bulkhead", version)]
struct Cli {
    /// Where state is kept
    #[arg(long, global = true, default_value = "/run/bulkhead")]
    root: PathBuf,
    /// Where log lines go
    #[arg(long, global = true)]
    log: Option<PathBuf>,
    /// Their format
    #[arg(long, global = true, default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// Log more
    #[arg(long, global = true)]
    debug: bool,
    /// The configuration file
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// The wall: sandbox or microvm
    #[arg(long, global = true)]
    isolation: Option<String>,
    /// Have systemd make cgroups
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Where writes to the root file system go: none, memory, dir=PATH
    #[arg(long, global = true)]
    overlay: Option<String>,
    /// Log every system call with decoded arguments
    #[arg(long, global = true)]
    strace: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Default)]
struct Making {
    /// The bundle's directory
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// Write the process's number there
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Send the terminal's master to this socket
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// Pass this many descriptors from 3 on
    #[arg(long, default_value_t = 0)]
    preserve_fds: u32,
    /// Accepted for compatibility: the wall pivots in its own tree
    #[arg(long)]
    no_pivot: bool,
    /// Accepted for compatibility: workloads have no keyrings
    #[arg(long)]
    no_new_keyring: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Create a container
    Create {
        #[command(flatten)]
        making: Making,
        id: String,
    },
    /// Run the program of a created container
    Start { id: String },
    /// Print a container's state
    State { id: String },
    /// Send a signal to a container's init process
    Kill {
        /// To all its processes
        #[arg(short, long)]
        all: bool,
        id: String,
        #[arg(default_value = "SIGTERM")]
        signal: String,
    },
    /// Delete a stopped container
    Delete {
        /// Kill it first where it runs
        #[arg(short, long)]
        force: bool,
        id: String,
    },
    /// Create and start a container, and wait for it
    Run {
        #[command(flatten)]
        making: Making,
        /// Do not wait
        #[arg(short, long)]
        detach: bool,
        /// Keep the container when it has ended
        #[arg(long)]
        keep: bool,
        id: String,
    },
    /// Run one more program in a container
    Exec(Exec),
    /// List a container's processes
    Ps {
        #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
        id: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// List containers
    List {
        #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
        /// Their ids alone
        #[arg(short, long)]
        quiet: bool,
    },
    /// Write a config.json to start from
    Spec {
        #[arg(short, long, default_value = ".")]
        bundle: PathBuf,
    },
    /// Print what this runtime supports
    Features,
    /// Suspend a container
    Pause { id: String },
    /// Resume it
    Resume { id: String },
    /// Run a command on a view of this machine's own root, no bundle needed
    Do {
        /// No writes to the root file system
        #[arg(long)]
        ro: bool,
        /// Where the command starts
        #[arg(long, default_value = "/")]
        cwd: PathBuf,
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Look inside
    #[command(subcommand)]
    Debug(Debug),
}

#[derive(Args)]
struct Exec {
    /// The process, as a file with an OCI process object
    #[arg(short, long)]
    process: Option<PathBuf>,
    /// Do not wait
    #[arg(short, long)]
    detach: bool,
    /// With a terminal
    #[arg(short, long)]
    tty: bool,
    /// Where it starts
    #[arg(long)]
    cwd: Option<String>,
    /// One more variable
    #[arg(short, long)]
    env: Vec<String>,
    /// UID[:GID]
    #[arg(short, long)]
    user: Option<String>,
    /// One more group
    #[arg(short = 'g', long)]
    additional_gids: Vec<u32>,
    /// One more capability
    #[arg(short, long)]
    cap: Vec<String>,
    /// No new privileges
    #[arg(long)]
    no_new_privs: bool,
    #[arg(long)]
    pid_file: Option<PathBuf>,
    #[arg(long)]
    console_socket: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    preserve_fds: u32,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Subcommand)]
enum Debug {
    /// What a container called, how often, and what was refused
    Syscalls { id: String },
    /// What a workload may have the host execute
    DirectSet,
    /// What the kernel process may have the host execute
    KernelCalls,
    /// Which fields of config.json are honoured
    ConfigFields,
}

/// The configuration file.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    default_isolation: Option<String>,
    overlay: Option<String>,
}

/// Runs the command line; gives the exit code, runc's.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = log::open(cli.log.as_ref(), cli.log_format == "json", cli.debug) {
        eprintln!("--log {}: {error}", cli.log.unwrap_or_default().display());
        return ExitCode::FAILURE;
    }
    match run(cli) {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            log::error(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Reads the configuration file: the one that is named, or /etc/bulkhead/config.toml where there is one.
fn settings(path: Option<&PathBuf>) -> anyhow::Result<Settings> {
    let default = PathBuf::from("/etc/bulkhead/config.toml");
    let path = match path {
        Some(path) => path,
        None if default.exists() => &default,
        None => return Ok(Settings::default()),
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("--config {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("--config {}", path.display()))
}

fn run(cli: Cli) -> anyhow::Result<i32> {
    let settings = settings(cli.config.as_ref())?;
    let mut session = Session {
        // The stand-ins and the wall leave this directory.
        store: Store::new(std::path::absolute(cli.root)?),
        systemd_cgroup: cli.systemd_cgroup,
        isolation: cli.isolation.or(settings.default_isolation).unwrap_or_else(|| String::from("sandbox")),
        overlay: cli.overlay.or(settings.overlay).unwrap_or_else(|| String::from("none")),
        strace: cli.strace,
    };
    if !["none", "memory"].contains(&session.overlay.as_str()) && !session.overlay.starts_with("dir=") {
        bail!("--overlay {:?}: none, memory or dir=PATH", session.overlay);
    }
    match cli.command {
        Command::Create { making, id } => {
            lifecycle::create(&session, &id, &making.bundle, &options(&making), false)?;
            Ok(0)
        }
        Command::Start { id } => lifecycle::start(&session, &id).map(|()| 0),
        Command::State { id } => {
            let container = session.store.read(&oci::id::Id::new(&id)?)?;
            let state = lifecycle::state(&session, &container, lifecycle::status(&session, &container));
            println!("{}", serde_json::to_string_pretty(&state)?);
            Ok(0)
        }
        Command::Kill { all, id, signal } => lifecycle::kill(&session, &id, signal_number(&signal)?, all).map(|()| 0),
        Command::Delete { force, id } => lifecycle::delete(&session, &id, force).map(|()| 0),
        Command::Run { making, detach, keep, id } => {
            let signals = Signals::block()?;
            let foreground = !detach && making.console_socket.is_none();
            let started = lifecycle::create(&session, &id, &making.bundle, &options(&making), foreground)?;
            if let Err(error) = lifecycle::start(&session, &id) {
                lifecycle::delete(&session, &id, true)?;
                return Err(error);
            }
            if detach {
                return Ok(0);
            }
            let code = wait(started, &signals)?;
            if !keep {
                lifecycle::delete(&session, &id, true)?;
            }
            Ok(code)
        }
        Command::Exec(exec) => self::exec(&session, exec),
        Command::Ps { format, id, arguments } => ps(&session, &format, &id, &arguments),
        Command::List { format, quiet } => list(&session, &format, quiet),
        Command::Spec { bundle } => {
            let path = bundle.join("config.json");
            if path.exists() {
                bail!("file {} exists. Remove it first", path.display());
            }
            std::fs::write(&path, serde_json::to_vec_pretty(&template::spec(false))?)?;
            Ok(0)
        }
        Command::Features => {
            println!("{}", serde_json::to_string_pretty(&features())?);
            Ok(0)
        }
        Command::Pause { id } => pause(&session, &id, true),
        Command::Resume { id } => pause(&session, &id, false),
        Command::Do { ro, cwd, command } => {
            if session.overlay == "none" && !ro {
                session.overlay = String::from("memory");
            }
            run_here(&session, ro, cwd, command)
        }
        Command::Debug(debug) => self::debug(&session, debug),
    }
}

fn options(making: &Making) -> CreateOptions {
    CreateOptions { console_socket: making.console_socket.clone(), pid_file: making.pid_file.clone(), preserve_fds: making.preserve_fds }
}

fn wait(started: Started, signals: &Signals) -> anyhow::Result<i32> {
    let relay = started.master.map(Relay::new).transpose()?;
    Ok(attend(started.pid, signals, relay)?)
}

/// A signal's number from its number or name, with or without `SIG`.
fn signal_number(text: &str) -> anyhow::Result<i32> {
    if let Ok(number) = text.parse::<i32>()
        && (0..=64).contains(&number)
    {
        return Ok(number);
    }
    let name = text.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    match name.parse::<nix::sys::signal::Signal>() {
        Ok(signal) => Ok(signal as i32),
        Err(_) => bail!("unknown signal {text:?}"),
    }
}

fn exec(session: &Session, exec: Exec) -> anyhow::Result<i32> {
    let container = session.store.read(&oci::id::Id::new(&exec.id)?)?;
    let process: Value = match &exec.process {
        Some(path) => {
            oci::load_process(path)?;
            serde_json::from_slice(&std::fs::read(path)?)?
        }
        None => {
            if exec.command.is_empty() {
                bail!("process args cannot be empty");
            }
            let mut process = container.config["process"].clone();
            process["args"] = json!(exec.command);
            process["terminal"] = json!(exec.tty);
            if let Some(cwd) = &exec.cwd {
                process["cwd"] = json!(cwd);
            }
            let mut environment: Vec<Value> = process["env"].as_array().cloned().unwrap_or_default();
            environment.extend(exec.env.iter().map(|variable| json!(variable)));
            process["env"] = json!(environment);
            if let Some(user) = &exec.user {
                let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
                process["user"]["uid"] = json!(uid.parse::<u32>().with_context(|| format!("--user {user:?}"))?);
                if let Some(gid) = gid {
                    process["user"]["gid"] = json!(gid.parse::<u32>().with_context(|| format!("--user {user:?}"))?);
                }
            }
            if !exec.additional_gids.is_empty() {
                process["user"]["additionalGids"] = json!(exec.additional_gids);
            }
            for capability in &exec.cap {
                for set in ["bounding", "effective", "permitted"] {
                    let mut names: Vec<Value> = process["capabilities"][set].as_array().cloned().unwrap_or_default();
                    names.push(json!(capability));
                    process["capabilities"][set] = json!(names);
                }
            }
            if exec.no_new_privs {
                process["noNewPrivileges"] = json!(true);
            }
            oci::parse_process(process.clone())?;
            process
        }
    };
    let signals = Signals::block()?;
    let options = CreateOptions { console_socket: exec.console_socket, pid_file: exec.pid_file, preserve_fds: exec.preserve_fds };
    let foreground = !exec.detach && options.console_socket.is_none();
    let started = lifecycle::exec(session, &exec.id, &process, &options, foreground)?;
    if exec.detach { Ok(0) } else { wait(started, &signals) }
}

/// The processes, by their host numbers where ps(1) is to show them.
fn ps(session: &Session, format: &str, id: &str, _: &[String]) -> anyhow::Result<i32> {
    let (mut client, _) = lifecycle::client(session, id)?;
    let mut request = ProcessesRequest::new();
    request.container_id = id.to_owned();
    let processes = client.processes(&request)?.processes;
    if format == "json" {
        let numbers: Vec<i32> = processes.iter().map(|process| process.container_pid).collect();
        println!("{}", serde_json::to_string(&numbers)?);
        return Ok(0);
    }
    println!("{:<8} {:>7} {:>7} CMD", "UID", "PID", "PPID");
    for process in processes {
        println!("{:<8} {:>7} {:>7} {}", process.uid, process.container_pid, process.parent, process.command);
    }
    Ok(0)
}

fn list(session: &Session, format: &str, quiet: bool) -> anyhow::Result<i32> {
    let containers = session.store.containers()?;
    let mut out = std::io::stdout().lock();
    if quiet {
        for container in containers {
            writeln!(out, "{}", container.id.as_str())?;
        }
        return Ok(0);
    }
    let states: Vec<Value> =
        containers.iter().map(|container| lifecycle::state(session, container, lifecycle::status(session, container))).collect();
    if format == "json" {
        writeln!(out, "{}", if states.is_empty() { String::from("null") } else { serde_json::to_string(&states)? })?;
        return Ok(0);
    }
    writeln!(out, "{:<12}{:<12}{:<12}{:<24}{:<32}OWNER", "ID", "PID", "STATUS", "BUNDLE", "CREATED")?;
    for state in states {
        let text = |key: &str| state[key].as_str().map_or_else(|| state[key].to_string(), str::to_owned);
        let columns = [text("id"), text("pid"), text("status"), text("bundle"), text("created")];
        writeln!(out, "{:<11} {:<11} {:<11} {:<23} {:<31} {}", columns[0], columns[1], columns[2], columns[3], columns[4], text("owner"))?;
    }
    Ok(0)
}

/// What `features` prints (runtime-spec, features.md).
fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "capabilities": caps::all().iter().map(|capability| capability.to_string()).collect::<Vec<_>>(),
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false },
            "seccomp": { "enabled": true },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false }
        },
        "annotations": { "dev.bulkhead.isolation": "sandbox" }
    })
}

fn pause(session: &Session, id: &str, pauses: bool) -> anyhow::Result<i32> {
    let (mut client, _) = lifecycle::client(session, id)?;
    let mut request = ContainerRequest::new();
    request.container_id = id.to_owned();
    if pauses {
        client.pause(&request)?
    } else {
        client.resume(&request)?
    };
    Ok(0)
}

/// `do`: a bundle made in memory, over this machine's own root.
fn run_here(session: &Session, read_only: bool, cwd: PathBuf, command: Vec<String>) -> anyhow::Result<i32> {
    let mut config = template::spec(true);
    let process = &mut config["process"];
    process["args"] = json!(command);
    process["cwd"] = json!(cwd);
    process["terminal"] = json!(nix::unistd::isatty(std::io::stdin()).unwrap_or(false));
    process["env"] = json!(std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>());
    config["root"] = json!({ "path": "/", "readonly": read_only });
    config["hostname"] = json!(nix::unistd::gethostname()?.to_string_lossy());
    if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
        // The host's own network, as a command on this machine expects.
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    let config = oci::parse(config)?;
    let signals = Signals::block()?;
    let id = oci::id::Id::new(&format!("do-{}", std::process::id()))?;
    let started = lifecycle::create_from(session, &id, std::path::Path::new("/"), &config, &CreateOptions::default(), true)?;
    if let Err(error) = lifecycle::start(session, id.as_str()) {
        lifecycle::delete(session, id.as_str(), true)?;
        return Err(error);
    }
    let code = wait(started, &signals)?;
    lifecycle::delete(session, id.as_str(), true)?;
    Ok(code)
}

fn debug(session: &Session, debug: Debug) -> anyhow::Result<i32> {
    match debug {
        Debug::Syscalls { id } => {
            let (mut client, _) = lifecycle::client(session, &id)?;
            let mut request = ContainerRequest::new();
            request.container_id = id;
            let mut counts = client.syscall_counts(&request)?.counts;
            counts.sort_by_key(|count| std::cmp::Reverse(count.calls));
            println!("{:>10} {:>10}  CALL", "CALLS", "REFUSED");
            for count in counts {
                println!("{:>10} {:>10}  {}", count.calls, count.refused, count.name);
            }
        }
        Debug::DirectSet => {
            for row in bulkhead_sandbox::platform::direct::TABLE {
                println!("{:>4} {:<24} direct: {}", row.number, row.name, row.reason);
            }
            for row in bulkhead_sandbox::platform::let_go::TABLE {
                println!("{:>4} {:<24} let go: {}", row.number, row.name, row.reason);
            }
        }
        Debug::KernelCalls => {
            for row in bulkhead_sandbox::confine::CALLS {
                println!("{:>4} {:<24} {}", row.number, row.name, row.reason);
            }
        }
        Debug::ConfigFields => print!("{}", crate::oci::fields::markdown()),
    }
    Ok(0)
}
