//! `exec`: one more process in a container.
//!
//! The process stands before its program until all that belongs to it is there: its stand-in waits for it, it is in its cgroup, its number
//! is written down. Until then it dies with the connection that made it, so an `exec` that is killed half-way leaves nothing.

use std::os::fd::OwnedFd;

use anyhow::{Context as _, bail};
use bulkhead_protocol::client::Client;
use bulkhead_protocol::messages::{ExecRequest, StartRequest};
use serde_json::Value;

use super::create::is_pods;
use super::{
    CreateOptions, Session, Started, Status, check_terminal, give_preserved, give_stdio, inherit_limits, listen_environment, number_of,
    status,
};
use crate::oci::id::Id;
use crate::stand_in::{Assignment, StandIn};
use crate::wall::Attachments;
use crate::{cgroup, console};

/// What `exec` is asked beside the process.
#[derive(Default)]
pub struct ExecOptions {
    /// As for a container's first process.
    pub create: CreateOptions,
    /// We wait for the process.
    pub foreground: bool,
    /// Also where the container is paused: the process runs once it is resumed.
    pub ignore_paused: bool,
}

/// Starts one more process in a container.
pub fn exec(session: &Session, id: &str, process: &Value, options: &ExecOptions) -> anyhow::Result<Started> {
    let container = session.store.read(&Id::new(id)?)?;
    match status(session, &container) {
        Status::Stopped => bail!("cannot exec in a stopped container"),
        Status::Paused if !options.ignore_paused => bail!("cannot exec in a paused container (use --ignore-paused to override)"),
        _ => {}
    }
    let terminal = process["terminal"].as_bool().unwrap_or(false);
    check_terminal(terminal, &options.create, options.foreground)?;
    let pod = session.store.read_pod(&container.pod)?.context("container not running")?;
    let init = container.stand_in.filter(|init| init.open().is_some()).context("container not running")?;
    let namespace: OwnedFd = std::fs::File::open(format!("/proc/{}/ns/net", init.pid)).context("container not running")?.into();
    let stand_in = StandIn::fork(Some(&namespace))?;
    if let Some(cgroup) = &container.cgroup {
        cgroup::join(cgroup, stand_in.handle().pid).context("container not running")?;
    }
    let socket = session.store.control_socket(&container.pod);
    let mut attachments = Attachments::open(&socket).context("container not running")?;
    let mut process = process.clone();
    listen_environment(&mut process);
    inherit_limits(&mut process);
    let mut request = ExecRequest::new();
    request.container_id = id.to_owned();
    request.exec_id = name(stand_in.handle().pid);
    request.process_json = serde_json::to_vec(&process)?;
    request.held = true;
    let ours = give_stdio(&mut attachments, request.stdio.mut_or_insert_default(), terminal, options.create.console_socket.as_deref())?;
    request.preserved_streams = give_preserved(&mut attachments, options.create.preserve_fds)?;
    let mut client = Client::connect(&socket).context("container not running")?;
    let answer = client.exec(&request).context("unable to start container process")?;
    let made = attachments.process(answer.pid_stream)?;
    if let (Some(cgroup), Some(pid)) = (&container.cgroup, made.as_ref().and_then(number_of))
        && !is_pods(&pod, &container)
    {
        cgroup::join(cgroup, pid)?;
    }
    let master = ours.map(|socket| console::receive_master(&socket)).transpose()?;
    let handle = stand_in.assign(&socket, &Assignment::new(id, &request.exec_id))?;
    if let Some(path) = &options.create.pid_file {
        crate::state::write_atomically(path, handle.pid.to_string().as_bytes(), 0o644)
            .with_context(|| format!("--pid-file {}", path.display()))?;
    }
    let mut start = StartRequest::new();
    start.container_id = id.to_owned();
    start.exec_id = request.exec_id;
    if let Err(error) = client.start(&start) {
        if let Some(path) = &options.create.pid_file {
            let _ = std::fs::remove_file(path);
        }
        return Err(error).context("unable to start container process");
    }
    Ok(Started { pid: handle.pid, master })
}

/// An exec's name towards the wall: its stand-in's number, by which `ps` knows it again.
fn name(stand_in: i32) -> String {
    format!("exec-{stand_in}")
}

/// The stand-in of an exec, by its name.
pub fn stand_in_of(name: &str) -> Option<i32> {
    name.strip_prefix("exec-")?.parse().ok()
}
