//! The command line: runc's commands and flags, and a few of our own.
//!
//! The exit code is runc's: 1 for a command that failed, 3 for one that there is not, 255 for an exec that did not come about, else the
//! process's own.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::config::{Settings, check_overlay};
use crate::console::Relay;
use crate::foreground::{Signals, attend};
use crate::lifecycle::{self, CreateOptions, Session, Started};
use crate::oci::template;
use crate::state::Store;
use crate::{host, log};

mod check;
mod debug;
mod events;
mod exec;
mod features;
mod guest;
mod here;
mod show;
mod signals;
mod update;

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
    /// Accepted for compatibility: a wall needs the host's root. Before the command, as `spec` has a flag of this name
    #[arg(long = "rootless", id = "as-rootless", value_parser = ["true", "false", "auto"])]
    rootless: Option<String>,
    /// Accepted for compatibility: there is no checkpoint
    #[arg(long, global = true, hide = true)]
    criu: Option<PathBuf>,
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
    /// Pass this many descriptors from 3 on, after those of $LISTEN_FDS
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
        /// Accepted for compatibility: a container's processes are reaped behind the wall
        #[arg(long)]
        no_subreaper: bool,
        id: String,
    },
    /// Run one more program in a container
    Exec(exec::Exec),
    /// List a container's processes
    Ps(show::Ps),
    /// List containers
    List(show::List),
    /// Write a config.json to start from
    Spec {
        #[arg(short, long, default_value = ".")]
        bundle: PathBuf,
        /// Containers without the host's root: refused, as a wall needs it
        #[arg(long)]
        rootless: bool,
    },
    /// Print what this runtime supports
    Features,
    /// Suspend a container
    Pause { id: String },
    /// Resume it
    Resume { id: String },
    /// Change a container's limits
    Update(update::Update),
    /// Print what a container uses, and when memory runs out
    Events(events::Events),
    /// Not supported: the state behind a wall can not be saved
    #[command(disable_help_flag = true)]
    Checkpoint {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Not supported: the state behind a wall can not be saved
    #[command(disable_help_flag = true)]
    Restore {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run a command on a view of this machine's own root, no bundle needed
    Do(here::Do),
    /// Say what this machine can do, for either wall
    Check(check::Check),
    /// The image that microVMs boot
    #[command(subcommand)]
    Guest(guest::Guest),
    /// Look inside
    #[command(subcommand)]
    Debug(debug::Debug),
}

/// Runs the command line; gives the exit code, runc's.
pub fn main() -> ExitCode {
    // What a client has left open is nobody's whom we start; what it preserves is taken by number.
    let _ = host::close_on_exec_from(3);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(match error.kind() {
                ErrorKind::InvalidSubcommand => 3,
                _ if error.use_stderr() => 1,
                _ => 0,
            });
        }
    };
    if let Err(error) = log::open(cli.log.as_ref(), cli.log_format == "json", cli.debug) {
        eprintln!("--log {}: {error}", cli.log.unwrap_or_default().display());
        return ExitCode::FAILURE;
    }
    let failure = if matches!(cli.command, Command::Exec(_)) { 255 } else { 1 };
    match run(cli) {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            log::error(format!("{error:#}"));
            ExitCode::from(failure)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<i32> {
    let settings = Settings::load(cli.config.as_deref())?;
    // What needs no session, and no wall that works.
    match cli.command {
        Command::Check(check) => return check.run(cli.isolation.as_deref(), &settings),
        Command::Guest(guest) => return guest.run(settings.guest_image()),
        _ => {}
    }
    let isolation = cli.isolation.or(settings.default_isolation.clone()).unwrap_or_else(|| String::from("sandbox"));
    let overlay = cli.overlay.or(settings.overlay.clone());
    if let Some(overlay) = &overlay {
        check_overlay(overlay).map_err(|reason| anyhow!("--overlay {reason}"))?;
    }
    let session = Session {
        store: Store::new(std::path::absolute(cli.root)?),
        systemd_cgroup: cli.systemd_cgroup,
        isolation: isolation.parse()?,
        overlay: overlay.unwrap_or_else(|| String::from("none")),
        strace: cli.strace,
        image: settings.guest_image().to_owned(),
        microvm: settings.microvm,
    };
    match cli.command {
        Command::Create { making, id } => {
            lifecycle::create(&session, &id, &making.bundle, &making.options(), false).context("create failed")?;
            Ok(0)
        }
        Command::Start { id } => lifecycle::start(&session, &id).map(|()| 0),
        Command::State { id } => show::state(&session, &id),
        Command::Kill { all, id, signal } => {
            let signal = signals::number(&signal).ok_or_else(|| anyhow!("unknown signal {signal:?}"))?;
            lifecycle::kill(&session, &id, signal, all).map(|()| 0)
        }
        Command::Delete { force, id } => lifecycle::delete(&session, &id, force).map(|()| 0),
        Command::Run { making, detach, keep, no_subreaper: _, id } => {
            run_container(&session, &making, detach, keep, &id).context("run failed")
        }
        Command::Exec(exec) => exec.run(&session).context("exec failed"),
        Command::Ps(ps) => ps.run(&session),
        Command::List(list) => list.run(&session),
        Command::Spec { bundle, rootless } => spec(&bundle, rootless),
        Command::Features => {
            say(&format!("{}\n", serde_json::to_string_pretty(&features::features())?))?;
            Ok(0)
        }
        Command::Pause { id } => lifecycle::pause(&session, &id).map(|()| 0),
        Command::Resume { id } => lifecycle::resume(&session, &id).map(|()| 0),
        Command::Update(update) => update.run(&session),
        Command::Events(events) => events.run(&session),
        Command::Checkpoint { .. } => bail!("checkpoint: not supported: the state behind a wall can not be saved"),
        Command::Restore { .. } => bail!("restore: not supported: the state behind a wall can not be saved"),
        Command::Do(command) => command.run(session),
        Command::Check(_) | Command::Guest(_) => unreachable!("answered above, without a session"),
        Command::Debug(debug) => debug.run(&session),
    }
}

impl Making {
    fn options(&self) -> CreateOptions {
        CreateOptions { console_socket: self.console_socket.clone(), pid_file: self.pid_file.clone(), preserve_fds: self.preserve_fds }
    }
}

fn run_container(session: &Session, making: &Making, detach: bool, keep: bool, id: &str) -> anyhow::Result<i32> {
    let signals = Signals::block()?;
    let started = lifecycle::create(session, id, &making.bundle, &making.options(), !detach)?;
    start_and_wait(session, id, started, &signals, detach, keep)
}

/// Starts what has been created, and waits for it unless it is to be detached. A container that does not start is deleted.
fn start_and_wait(session: &Session, id: &str, started: Started, signals: &Signals, detach: bool, keep: bool) -> anyhow::Result<i32> {
    if let Err(error) = lifecycle::start(session, id) {
        if let Err(error) = lifecycle::delete(session, id, true) {
            log::warning(format!("{error:#}"));
        }
        return Err(error);
    }
    if detach {
        return Ok(0);
    }
    let code = wait(started, signals)?;
    if !keep {
        lifecycle::delete(session, id, true)?;
    }
    Ok(code)
}

fn wait(started: Started, signals: &Signals) -> anyhow::Result<i32> {
    let relay = started.master.map(Relay::new).transpose()?;
    Ok(attend(started.pid, signals, relay)?)
}

/// Prints. A reader that has gone away (`| head`) wanted no more: the command ends as one that SIGPIPE ends, without a word.
fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(128 + libc::SIGPIPE),
        result => result,
    }
}

fn spec(bundle: &std::path::Path, rootless: bool) -> anyhow::Result<i32> {
    if rootless {
        bail!("spec --rootless: not supported: a wall needs the host's root, and its workload never has it");
    }
    let path = bundle.join("config.json");
    if path.exists() {
        bail!("File {} exists. Remove it first", path.display());
    }
    let mut text = serde_json::to_vec_pretty(&template::spec(false))?;
    text.push(b'\n');
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn clients_command_lines_are_understood() {
        let lines: [&[&str]; 12] = [
            &[
                "--root",
                "/r",
                "--log",
                "/l",
                "--log-format",
                "json",
                "--systemd-cgroup",
                "create",
                "--bundle",
                "/b",
                "--pid-file",
                "/p",
                "id",
            ],
            &["--rootless=auto", "--debug", "kill", "--all", "id", "9"],
            &["exec", "--process", "/p", "--detach", "--pid-file", "/x", "--console-socket", "/s", "id"],
            &["exec", "-t", "-u", "1:2", "-e", "A=b", "-g", "5", "-c", "CAP_KILL", "--ignore-paused", "id", "sh", "-c", "x"],
            &["ps", "--format", "json", "id"],
            &["spec", "--bundle", "/b"],
            &["spec", "--rootless"],
            &["--rootless=true", "--root", "/r", "spec"],
            &["checkpoint", "--image-path", "/i", "--leave-running", "id"],
            &[
                "guest", "build", "--output", "/o", "--kernel", "6.12", "--agent", "/a", "--tree", "/t", "--module", "tun", "--module",
                "veth",
            ],
            &["guest", "build", "--small", "--kernel", "/usr/src/linux", "--work", "/w", "--jobs", "3"],
            &["guest", "verify", "/o"],
        ];
        for line in lines {
            assert!(Cli::try_parse_from(["bulkhead"].iter().chain(line)).is_ok(), "{line:?}");
        }
    }
}
