//! `pause` and `resume`.
//!
//! The wall stops answering, then the host freezes the processes that do not wait for an answer; back in the opposite order. A `pause` that is
//! cut off in between has paused all but processes that only compute, is shown as `paused`, and is undone by `resume`.

use anyhow::{Context as _, bail};
use bulkhead_protocol::messages::ContainerRequest;

use super::{Session, Status, connect, status};
use crate::cgroup::freezer;
use crate::oci::id::Id;
use crate::state::Container;

fn request(container: &Container) -> ContainerRequest {
    let mut request = ContainerRequest::new();
    request.container_id = container.id.as_str().to_owned();
    request
}

/// Suspends a container's processes.
pub fn pause(session: &Session, id: &str) -> anyhow::Result<()> {
    let container = session.store.read(&Id::new(id)?)?;
    if !matches!(status(session, &container), Status::Created | Status::Running) {
        bail!("container not running");
    }
    let pod = session.store.read_pod(&container.pod)?.context("container not running")?;
    connect(session, &container).context("container not running")?.pause(&request(&container))?;
    if let Some(cgroup) = container.cgroup.as_ref().filter(|_| container.host_cgroup)
        && let Err(error) = freezer::freeze(cgroup, pod.wall.pid)
    {
        thaw(session, &container)?;
        return Err(error.into());
    }
    Ok(())
}

/// Lets them go on.
pub fn resume(session: &Session, id: &str) -> anyhow::Result<()> {
    let container = session.store.read(&Id::new(id)?)?;
    match status(session, &container) {
        Status::Paused => thaw(session, &container),
        _ => bail!("container not paused"),
    }
}

/// The same, whatever their state.
pub(super) fn thaw(session: &Session, container: &Container) -> anyhow::Result<()> {
    if let Some(cgroup) = container.cgroup.as_ref().filter(|_| container.host_cgroup) {
        freezer::thaw(cgroup);
    }
    connect(session, container).context("container not running")?.resume(&request(container))?;
    Ok(())
}
