//! Limits: what of `linux.resources` this machine can set, and setting it.
//!
//! libcgroups sets them. What it would pass over in silence is refused here, by name.

use libcgroups::common::{AnyCgroupManager, AnyManagerError, CgroupManager, ControllerOpt};
use oci_spec::runtime::{LinuxPidsBuilder, LinuxResources};

use super::CgroupError;
use crate::oci::id::Id;
use crate::state::Cgroup;

/// Refuses limits that would have no effect.
///
/// # Errors
/// The first such limit.
pub fn check(resources: &LinuxResources, unified: bool) -> Result<(), CgroupError> {
    let refuse = |field: &str, reason| Err(CgroupError::Unsupported(field.to_owned(), reason));
    if !unified && resources.unified().as_ref().is_some_and(|entries| !entries.is_empty()) {
        return refuse("unified", "this machine's cgroups are not v2");
    }
    if let Some(name) = resources.unified().iter().flatten().map(|(name, _)| name).find(|name| name.contains('/') || name.is_empty()) {
        return Err(CgroupError::Value { field: format!("unified[{name:?}]"), value: name.clone(), reason: "not the name of a file" });
    }
    if let Some(cpu) = resources.cpu() {
        let realtime = cpu.realtime_runtime().unwrap_or(0) != 0 || cpu.realtime_period().unwrap_or(0) != 0;
        if unified && realtime {
            return refuse("cpu.realtimeRuntime", "cgroup v2 has no such limit");
        }
    }
    if let Some(io) = resources.block_io() {
        for (index, device) in io.weight_device().iter().flatten().enumerate() {
            if !unified && device.weight().unwrap_or(0) != 0 {
                return refuse(&format!("blockIO.weightDevice[{index}].weight"), "Linux has dropped it for cgroup v1 (5.0)");
            }
        }
    }
    if let Some(swappiness) = resources.memory().as_ref().and_then(|memory| memory.swappiness()) {
        let (field, value) = (String::from("memory.swappiness"), swappiness.to_string());
        if swappiness > 100 {
            return Err(CgroupError::Value { field, value, reason: "not between 0 and 100" });
        }
        if unified {
            return refuse("memory.swappiness", "cgroup v2 has no such limit");
        }
    }
    Ok(())
}

/// The limits as the host gets them. Device rules are left out: the workload opens no device of the host, and the wall,
/// which shares the cgroup, needs its own.
fn applied(resources: &LinuxResources) -> LinuxResources {
    let mut applied = resources.clone();
    applied.set_devices(None);
    // runc's reading: zero pids mean no limit.
    if applied.pids().as_ref().is_some_and(|pids| pids.limit() <= 0) {
        applied.set_pids(LinuxPidsBuilder::default().limit(-1i64).build().ok());
    }
    // With a quota or shares beside it libcgroups writes a burst; alone it would not look.
    if let Some(cpu) = applied.cpu_mut()
        && cpu.burst().is_some()
        && cpu.shares().is_none()
    {
        cpu.set_shares(Some(0));
    }
    applied
}

/// Sets limits.
pub(super) fn set(manager: &AnyCgroupManager, resources: &LinuxResources) -> Result<(), AnyManagerError> {
    let resources = applied(resources);
    manager.apply(&ControllerOpt { resources: &resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None })
}

/// Changes the limits of a container that exists; those that are absent stay.
///
/// # Errors
/// As for its creation; a limit of memory below its use where `checkBeforeUpdate` asks for it.
pub fn update(id: &Id, cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), CgroupError> {
    check(resources, super::hierarchies::are_unified(&super::hierarchies::mounted()?))?;
    if let Some(memory) = resources.memory()
        && memory.check_before_update() == Some(true)
        && let Some(limit) = memory.limit().and_then(|limit| u64::try_from(limit).ok())
        && limit != 0
    {
        let used = super::statistics::of_cgroup(&cgroup.directories).memory.usage.usage;
        if limit < used {
            let (field, value) = (String::from("memory.limit"), limit.to_string());
            return Err(CgroupError::Value { field, value, reason: "below what is used (memory.checkBeforeUpdate)" });
        }
    }
    let failed = |source| CgroupError::Manager { path: cgroup.path.clone(), doing: "setting linux.resources", source: Box::new(source) };
    set(&super::manager(id, cgroup)?, resources).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refused(resources: Value, unified: bool) -> String {
        check(&serde_json::from_value(resources).unwrap(), unified).expect_err("a refusal").to_string()
    }

    #[test]
    fn what_would_have_no_effect_is_refused_by_name() {
        for (resources, unified, text) in [
            (json!({ "unified": { "memory.high": "1" } }), false, "linux.resources.unified: this machine's cgroups are not v2"),
            (json!({ "unified": { "../x": "1" } }), true, "linux.resources.unified[\"../x\"]: ../x: not the name of a file"),
            (json!({ "cpu": { "realtimeRuntime": 1 } }), true, "linux.resources.cpu.realtimeRuntime: cgroup v2 has no such limit"),
            (
                json!({ "blockIO": { "weightDevice": [{ "major": 8, "minor": 0, "weight": 10 }] } }),
                false,
                "linux.resources.blockIO.weightDevice[0].weight: Linux has dropped it for cgroup v1 (5.0)",
            ),
            (json!({ "memory": { "swappiness": 101 } }), false, "linux.resources.memory.swappiness: 101: not between 0 and 100"),
            (json!({ "memory": { "swappiness": 10 } }), true, "linux.resources.memory.swappiness: cgroup v2 has no such limit"),
        ] {
            assert_eq!(refused(resources, unified), text);
        }
        let zeros = json!({ "cpu": { "realtimeRuntime": 0 }, "unified": {}, "memory": { "swappiness": 0 } });
        assert!(check(&serde_json::from_value(zeros).unwrap(), false).is_ok());
    }

    #[test]
    fn a_burst_alone_is_applied_and_no_pids_mean_no_limit() {
        let resources = json!({ "cpu": { "burst": 5 }, "pids": { "limit": 0 }, "devices": [{ "allow": false }] });
        let applied = applied(&serde_json::from_value(resources).unwrap());
        assert_eq!(applied.cpu().as_ref().unwrap().shares(), Some(0));
        assert_eq!(applied.pids().as_ref().unwrap().limit(), -1);
        assert!(applied.devices().is_none());
    }
}
