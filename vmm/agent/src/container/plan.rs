//! What a request asks for, read once: the configuration, what of it can not be done, and which namespaces are made.

use std::path::Path;

use bulkhead_protocol::call::Refusal;
use bulkhead_protocol::messages::CreateRequest;
use bulkhead_protocol::seccomp::{self, Profile};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use super::filesystem::Layout;
use super::invalid;

/// A container that is to be made.
#[derive(Debug)]
pub struct Plan {
    /// config.json.
    pub spec: Spec,
    /// Its trees.
    pub layout: Layout,
    /// It gets an IPC namespace of its own; otherwise it has the guest's, which is the pod's.
    pub own_ipc: bool,
    /// The same for UTS.
    pub own_uts: bool,
    /// It names the machine; otherwise another container of the pod has.
    pub names: bool,
    /// What every process of it installs.
    pub seccomp: Option<Profile>,
}

impl Plan {
    /// Reads a request. The pod's `first` container has the guest's own IPC and UTS namespaces, in which nobody else is: they are what later
    /// ones mean that join the pod's by a path of the host's.
    ///
    /// # Errors
    /// The field that is not accepted.
    pub fn read(request: &CreateRequest, shared: &Path, place: &Path, first: bool) -> Result<Self, Refusal> {
        let spec: Spec = serde_json::from_slice(&request.config_json).map_err(|error| invalid(format!("config.json: {error}")))?;
        if spec.process().is_none() {
            return Err(invalid("config.json: process: missing"));
        }
        refuse(&spec)?;
        let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().clone()).unwrap_or_default();
        let own = |kind| {
            namespaces
                .iter()
                .any(|namespace| namespace.typ() == kind && namespace.path().as_ref().is_none_or(|path| path.as_os_str().is_empty()))
        };
        let asked = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
        let uts = LinuxNamespaceType::Uts;
        Ok(Self {
            layout: Layout::read(request, shared, place)?,
            own_ipc: own(LinuxNamespaceType::Ipc) && !first,
            own_uts: own(uts) && !first,
            // Without a namespace the configuration carries the host's name, which the guest then shows.
            names: own(uts) || (!asked(uts) && first),
            seccomp: profile(&request.config_json)?,
            spec,
        })
    }

    /// The first process.
    ///
    /// # Errors
    /// There is none.
    pub fn process(&self) -> Result<&Process, Refusal> {
        self.spec.process().as_ref().ok_or_else(|| invalid("config.json: process: missing"))
    }
}

/// What can not be done is refused by name.
fn refuse(spec: &Spec) -> Result<(), Refusal> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    for namespace in linux.namespaces().iter().flatten() {
        if matches!(namespace.typ(), LinuxNamespaceType::User | LinuxNamespaceType::Time) {
            return Err(invalid(format!("linux.namespaces: {:?}: not supported in the guest", namespace.typ().to_string())));
        }
    }
    let refused = [
        ("linux.uidMappings", linux.uid_mappings().as_ref().is_some_and(|list| !list.is_empty()), "there is no user namespace"),
        ("linux.gidMappings", linux.gid_mappings().as_ref().is_some_and(|list| !list.is_empty()), "there is no user namespace"),
        ("linux.timeOffsets", linux.time_offsets().as_ref().is_some_and(|map| !map.is_empty()), "there is no time namespace"),
        ("linux.intelRdt", linux.intel_rdt().is_some(), "the guest's processors are not the host's"),
        ("linux.memoryPolicy", linux.memory_policy().is_some(), "the guest's memory nodes are not the host's"),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|map| !map.is_empty()), "the guest has none of the host's devices"),
    ];
    match refused.iter().find(|(_, asked, _)| *asked) {
        Some((field, _, reason)) => Err(invalid(format!("{field}: not supported: {reason}"))),
        None => Ok(()),
    }
}

/// Compiles `linux.seccomp`, where config.json has one. Here it is the only filter: calls by the numbers of other architectures, for which it
/// has no table, are not there.
fn profile(json: &[u8]) -> Result<Option<Profile>, Refusal> {
    let wrong = |error: String| invalid(format!("config.json: linux.seccomp: {error}"));
    let config: serde_json::Value = serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?;
    let seccomp = &config["linux"]["seccomp"];
    if seccomp.is_null() {
        return Ok(None);
    }
    let others = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    seccomp::compile(seccomp.to_string().as_bytes(), others).map(Some).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use bulkhead_protocol::messages::Tree;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(linux: Value, first: bool) -> Result<Plan, Refusal> {
        let config = json!({"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "linux": linux,
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["true"]}});
        let mut request = CreateRequest::new();
        request.config_json = config.to_string().into_bytes();
        request.root = Some(Tree { stream: 7, ..Tree::default() }).into();
        Plan::read(&request, Path::new("/shared"), Path::new("/place"), first)
    }

    #[test]
    fn the_first_containers_namespaces_are_the_pods() {
        let own = json!({"namespaces": [{"type": "ipc"}, {"type": "uts"}]});
        let joins = json!({"namespaces": [{"type": "ipc", "path": "/proc/1/ns/ipc"}, {"type": "uts", "path": "/proc/1/ns/uts"}]});
        let flags = |linux: &Value, first| {
            let plan = read(linux.clone(), first).unwrap();
            (plan.own_ipc, plan.own_uts, plan.names)
        };
        assert_eq!(flags(&own, true), (false, false, true));
        assert_eq!(flags(&joins, false), (false, false, false));
        assert_eq!(flags(&own, false), (true, true, true));
        assert_eq!(flags(&json!({}), true), (false, false, true));
        assert_eq!(flags(&json!({}), false), (false, false, false));
        assert_eq!(read(own, true).unwrap().layout.root, Path::new("/shared/7"));
    }

    #[test]
    fn what_can_not_be_done_is_refused_by_name() {
        let message = |linux| read(linux, true).unwrap_err().message;
        assert!(message(json!({"namespaces": [{"type": "user"}]})).contains("\"user\""));
        assert!(message(json!({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]})).contains("linux.uidMappings"));
        assert!(message(json!({"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY"}})).contains("SCMP_ACT_NOTIFY"));
    }

    proptest! {
        #[test]
        fn any_configuration_is_read_or_refused(text in "\\PC{0,200}") {
            let mut request = CreateRequest::new();
            request.config_json = text.into_bytes();
            prop_assert!(Plan::read(&request, Path::new("/shared"), Path::new("/place"), true).is_err());
        }
    }
}
