//! `exec`: a process from flags, or from a file.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use super::wait;
use crate::foreground::Signals;
use crate::lifecycle::{self, CreateOptions, ExecOptions, Session};
use crate::oci;

#[derive(Args)]
pub struct Exec {
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
    /// An AppArmor profile: has no effect, as for a container
    #[arg(long)]
    apparmor: Option<String>,
    /// An SELinux label: refused, as for a container
    #[arg(long)]
    process_label: Option<String>,
    /// Write the process's number there
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Send the terminal's master to this socket
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// Pass this many descriptors from 3 on, after those of $LISTEN_FDS
    #[arg(long, default_value_t = 0)]
    preserve_fds: u32,
    /// A cgroup below the container's: refused
    #[arg(long)]
    cgroup: Vec<String>,
    /// Also in a paused container
    #[arg(long)]
    ignore_paused: bool,
    id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub fn run(self, session: &Session) -> anyhow::Result<i32> {
        if let Some(cgroup) = self.cgroup.first() {
            bail!("--cgroup {cgroup:?}: a workload has no cgroups below its container's");
        }
        let container = session.store.read(&oci::id::Id::new(&self.id)?)?;
        let process = match &self.process {
            Some(path) => {
                let mut process = oci::load_process(path)?;
                // runc's reading: without capabilities of its own, the container's.
                if process["capabilities"].is_null() {
                    process["capabilities"] = container.config["process"]["capabilities"].clone();
                }
                process
            }
            None => self.described(&container.config["process"])?,
        };
        let signals = Signals::block()?;
        let create = CreateOptions { console_socket: self.console_socket, pid_file: self.pid_file, preserve_fds: self.preserve_fds };
        let options = ExecOptions { create, foreground: !self.detach, ignore_paused: self.ignore_paused };
        let started = lifecycle::exec(session, &self.id, &process, &options)?;
        if self.detach { Ok(0) } else { wait(started, &signals) }
    }

    /// The container's own process, with what the flags change.
    fn described(&self, init: &Value) -> anyhow::Result<Value> {
        if self.command.is_empty() {
            bail!("process args cannot be empty");
        }
        let mut process = init.clone();
        process["args"] = json!(self.command);
        process["terminal"] = json!(self.tty);
        if let Some(cwd) = &self.cwd {
            process["cwd"] = json!(cwd);
        }
        extend(&mut process["env"], &self.env);
        if let Some(user) = &self.user {
            let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
            let number = |text: &str| text.parse::<u32>().with_context(|| format!("--user {user:?}"));
            process["user"]["uid"] = json!(number(uid)?);
            if let Some(gid) = gid {
                process["user"]["gid"] = json!(number(gid)?);
            }
        }
        extend(&mut process["user"]["additionalGids"], &self.additional_gids);
        if !self.cap.is_empty() {
            for set in ["bounding", "effective", "permitted", "ambient"] {
                extend(&mut process["capabilities"][set], &self.cap);
            }
        }
        if self.no_new_privs {
            process["noNewPrivileges"] = json!(true);
        }
        for (field, value) in [("apparmorProfile", &self.apparmor), ("selinuxLabel", &self.process_label)] {
            if let Some(value) = value {
                process[field] = json!(value);
            }
        }
        Ok(oci::parse_process(process)?)
    }
}

/// Appends to a list that need not be there.
fn extend<T: serde::Serialize>(list: &mut Value, more: &[T]) {
    if more.is_empty() {
        return;
    }
    let mut entries = list.as_array().cloned().unwrap_or_default();
    entries.extend(more.iter().map(|entry| json!(entry)));
    *list = json!(entries);
}
