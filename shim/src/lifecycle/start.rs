//! `start`: the program of a created container runs.

use std::io::Write;

use anyhow::{Context as _, bail};
use bulkhead_protocol::client::Client;
use bulkhead_protocol::messages::{ExecRequest, SignalRequest, StartRequest, WaitRequest};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{Hook, Spec};
use serde_json::json;

use super::{Session, Status, connect, hook_state, status};
use crate::hooks;
use crate::oci::id::Id;
use crate::state::Container;
use crate::wall::Attachments;

/// Lets a created container run its program. A hook that fails stops the container: the specification asks for it of startContainer
/// hooks, and runc does so for poststart hooks too.
pub fn start(session: &Session, id: &str) -> anyhow::Result<()> {
    let (lock, container) = session.store.lock(&Id::new(id)?)?;
    match status(session, &container) {
        Status::Created => {}
        Status::Stopped => bail!("cannot start a container that has stopped"),
        Status::Running => bail!("cannot start an already running container"),
        status => bail!("cannot start a container in the {} state", status.as_str()),
    }
    let spec: Spec = serde_json::from_value(container.config.clone())?;
    let mut client = Client::connect(&session.store.control_socket(&container.pod))?;
    let inside = spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref());
    for (index, hook) in inside.into_iter().flatten().enumerate() {
        run_inside(session, &mut client, &container, hook, index).inspect_err(|_| stop(session, &container))?;
    }
    let mut request = StartRequest::new();
    request.container_id = id.to_owned();
    client.start(&request).context("unable to start container process")?;
    // A hook may ask us about the container.
    drop(lock);
    let shown = hook_state(&container, Status::Running);
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref());
    hooks::run("poststart", hooks, &shown, &container.bundle, None).inspect_err(|_| stop(session, &container))?;
    Ok(())
}

/// Kills a container's init.
fn stop(session: &Session, container: &Container) {
    let mut request = SignalRequest::new();
    request.container_id = container.id.as_str().to_owned();
    request.signal = libc::SIGKILL as u32;
    if let Ok(mut client) = connect(session, container) {
        let _ = client.signal(&request);
    }
}

/// Runs a startContainer hook, as a process of the container, with the state on its standard input.
fn run_inside(session: &Session, client: &mut Client, container: &Container, hook: &Hook, index: usize) -> anyhow::Result<()> {
    let path = hook.path().to_string_lossy().into_owned();
    let mut arguments = hook.args().clone().unwrap_or_else(|| vec![path.clone()]);
    if let Some(first) = arguments.first_mut() {
        *first = path.clone();
    }
    let mut process = container.config["process"].clone();
    process["args"] = json!(arguments);
    process["terminal"] = json!(false);
    if let Some(environment) = hook.env() {
        process["env"] = json!(environment);
    }
    let mut attachments = Attachments::open(&session.store.control_socket(&container.pod))?;
    let mut state = std::fs::File::from(memfd_create("state", MFdFlags::MFD_CLOEXEC)?);
    state.write_all(hook_state(container, Status::Created).as_bytes())?;
    std::io::Seek::rewind(&mut state)?;
    let mut request = ExecRequest::new();
    request.container_id = container.id.as_str().to_owned();
    request.exec_id = format!("startContainer-{index}");
    request.process_json = serde_json::to_vec(&process)?;
    request.stdio.mut_or_insert_default().stdin = attachments.stream(&state)?;
    let named = || format!("error running hook #{index}: hooks.startContainer[{index}].path: {path}");
    client.exec(&request).with_context(named)?;
    let mut wait = WaitRequest::new();
    wait.container_id.clone_from(&request.container_id);
    wait.exec_id.clone_from(&request.exec_id);
    let mut waiting = Client::connect(&session.store.control_socket(&container.pod))?;
    if let Some(seconds) = hook.timeout() {
        waiting.set_timeout(Some(std::time::Duration::from_secs(seconds.unsigned_abs())))?;
    }
    match waiting.wait(&wait) {
        Ok(ended) if ended.exit_status == 0 => Ok(()),
        Ok(ended) => bail!("{}: exit status {}", named(), ended.exit_status),
        Err(error) if error.is_disconnected() && hook.timeout().is_some() => {
            let mut signal = SignalRequest::new();
            signal.container_id = request.container_id;
            signal.exec_id = request.exec_id;
            signal.signal = libc::SIGKILL as u32;
            let _ = client.signal(&signal);
            bail!("{}: hook did not end within its timeout of {} s", named(), hook.timeout().unwrap_or(0))
        }
        Err(error) => Err(error).with_context(named),
    }
}
