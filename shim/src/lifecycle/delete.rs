//! `delete`, and clearing away what a creation left: every step may have been done already, and may be cut off.

use std::os::fd::OwnedFd;

use anyhow::bail;
use bulkhead_protocol::messages::ContainerRequest;

use super::{PATIENCE, Session, Status, connect, hook_state, status};
use crate::oci::id::Id;
use crate::state::{Container, Stage, StateError};
use crate::{cgroup, hooks, log, wall};

/// Deletes a container that has stopped, or, as runc does, one that has not been started; with `force`, any.
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
        // A creation was cut off before it made anything else.
        return Ok(directory.remove()?);
    };
    let now = status(session, &container);
    if !matches!(now, Status::Stopped | Status::Created) && !force && container.stage == Stage::Created {
        bail!("cannot delete container {id} that is not stopped: {}", now.as_str());
    }
    clear(session, &container);
    let spec: Option<oci_spec::runtime::Spec> = serde_json::from_value(container.config.clone()).ok();
    let poststop = spec.as_ref().and_then(|spec| spec.hooks().as_ref()).and_then(|hooks| hooks.poststop().as_ref());
    // Before the record goes: a deletion that is cut off is begun again, and so are its hooks.
    if let Err(error) = hooks::run("poststop", poststop, &hook_state(&container, Status::Stopped), &container.bundle, None) {
        log::warning(error);
    }
    Ok(directory.remove()?)
}

/// Clears away what a container has on the host beside its record.
pub(super) fn clear(session: &Session, container: &Container) {
    if let Some(cgroup) = &container.cgroup {
        cgroup::freezer::thaw(cgroup);
    }
    if let Ok(mut client) = connect(session, container) {
        let mut request = ContainerRequest::new();
        request.container_id = container.id.as_str().to_owned();
        let _ = client.delete(&request);
    }
    let pods_cgroup = leave_pod(session, container).unwrap_or_else(|error| {
        log::warning(error);
        None
    });
    if let Some(handle) = container.stand_in
        && !handle.kill(PATIENCE)
    {
        log::warning(format!("the stand-in of container {} (process {}) does not end", container.id, handle.pid));
    }
    if let Some(cgroup) = &container.cgroup
        && pods_cgroup.as_ref() != Some(&cgroup.path)
        && let Err(error) = cgroup::remove(&container.id, cgroup)
    {
        log::warning(error);
    }
}

/// Takes a container out of its pod. The last one ends the pod: its wall, its cgroup, its directory. Otherwise gives the path of the cgroup
/// that the pod's wall lives on in, which may be this container's.
fn leave_pod(session: &Session, container: &Container) -> Result<Option<std::path::PathBuf>, StateError> {
    let (directory, pod) = session.store.pod(&container.pod)?;
    directory.remove_member(&container.id)?;
    if !session.store.members(&container.pod)?.is_empty() {
        return Ok(pod.and_then(|pod| pod.cgroup).map(|cgroup| cgroup.path));
    }
    if let Some(pod) = pod {
        if !pod.wall.kill(PATIENCE) {
            log::warning(format!("the wall of pod {} (process {}) does not end", pod.id, pod.wall.pid));
        }
        if let Some(cgroup) = &pod.cgroup
            && let Err(error) = cgroup::remove(&pod.id, cgroup)
        {
            log::warning(error);
        }
    }
    // Also where the wall was never written down. A namespace without a path was the pod's alone, and went with its last process.
    if let Some(network) = network_of(container) {
        wall::ended(container.isolation, &network);
    }
    directory.remove()?;
    Ok(None)
}

/// The network namespace that a container's configuration names, if it is still there.
fn network_of(container: &Container) -> Option<OwnedFd> {
    let namespaces = container.config["linux"]["namespaces"].as_array()?;
    let path = namespaces.iter().find(|namespace| namespace["type"] == "network")?["path"].as_str()?;
    std::fs::File::open(path).ok().map(Into::into)
}

/// Deletes the containers that `do` made and was killed before it deleted: those of `prefix` whose maker, whose number follows, is gone.
pub fn sweep(session: &Session, prefix: &str) {
    for container in session.store.containers().unwrap_or_default() {
        let maker = container.id.as_str().strip_prefix(prefix).and_then(|number| number.parse::<i32>().ok());
        if maker.is_some_and(|maker| crate::host::pidfd_open(maker).is_err())
            && let Err(error) = delete(session, container.id.as_str(), true)
        {
            log::warning(format!("{}: {error:#}", container.id));
        }
    }
}
