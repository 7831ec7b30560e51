//! `update`: other limits for a container that exists.

use anyhow::{Context as _, bail};
use bulkhead_protocol::messages::UpdateRequest;
use oci_spec::runtime::LinuxResources;
use serde_json::Value;

use super::{Session, Status, connect, status};
use crate::cgroup::limits;
use crate::oci::id::Id;

/// Sets limits; those that `resources` does not name stay.
pub fn update(session: &Session, id: &str, resources: &Value) -> anyhow::Result<()> {
    let (directory, mut container) = session.store.lock(&Id::new(id)?)?;
    if status(session, &container) == Status::Stopped {
        bail!("container not running");
    }
    let typed: LinuxResources = crate::oci::parse_resources(resources)?;
    match &container.cgroup {
        Some(cgroup) if container.host_cgroup => limits::update(&container.id, cgroup, &typed)?,
        _ => {
            let mut request = UpdateRequest::new();
            request.container_id = id.to_owned();
            request.resources_json = serde_json::to_vec(resources)?;
            connect(session, &container).context("container not running")?.update(&request)?;
        }
    }
    merge(&mut container.config["linux"]["resources"], resources);
    directory.write_container(&container)?;
    Ok(())
}

/// Puts what `new` has over what `old` has, member by member.
fn merge(old: &mut Value, new: &Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new.clone(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn new_limits_stand_beside_old_ones() {
        let mut old = serde_json::json!({ "memory": { "limit": 1, "swap": 2 }, "pids": { "limit": 3 } });
        super::merge(&mut old, &serde_json::json!({ "memory": { "limit": 5 }, "cpu": { "shares": 7 } }));
        assert_eq!(old, serde_json::json!({ "memory": { "limit": 5, "swap": 2 }, "pids": { "limit": 3 }, "cpu": { "shares": 7 } }));
    }
}
