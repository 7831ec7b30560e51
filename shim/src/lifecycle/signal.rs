//! `kill`: a signal for a container's init, or for all its processes.

use anyhow::{Context as _, bail};
use bulkhead_protocol::messages::SignalRequest;

use super::{Session, Status, connect, pause, status};
use crate::oci::id::Id;

/// Sends a signal to a container's init, or to all its processes.
pub fn kill(session: &Session, id: &str, signal: i32, all: bool) -> anyhow::Result<()> {
    let container = session.store.read(&Id::new(id)?)?;
    let now = status(session, &container);
    if now == Status::Stopped {
        if all {
            return Ok(());
        }
        bail!("container not running");
    }
    let mut request = SignalRequest::new();
    request.container_id = id.to_owned();
    request.signal = signal as u32;
    request.all = all;
    connect(session, &container).context("container not running")?.signal(&request).context("container not running")?;
    // What is frozen does not die before it is thawed (cgroup v1); runc thaws for this signal alone.
    if now == Status::Paused && signal == libc::SIGKILL {
        pause::thaw(session, &container)?;
    }
    Ok(())
}
