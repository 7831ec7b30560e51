//! `features`: what this runtime supports (runtime-spec, features.md), from the tables that decide it.

use serde_json::{Value, json};

use crate::oci::mount_options;
use crate::wall::Isolation;

const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const OPERATORS: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

const FLAGS: [&str; 3] = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"];

/// What `features` prints.
pub fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mount_options::names(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "capabilities": capabilities(),
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": true,
                "actions": ACTIONS,
                "operators": OPERATORS,
                "archs": ["SCMP_ARCH_X86_64"],
                "knownFlags": FLAGS,
                "supportedFlags": FLAGS,
            },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } },
            "netDevices": { "enabled": false }
        },
        "annotations": {
            "dev.bulkhead.version": env!("CARGO_PKG_VERSION"),
            "dev.bulkhead.isolation": Isolation::Sandbox.to_string()
        },
        "potentiallyUnsafeConfigAnnotations": []
    })
}

/// Every capability, in the order of their numbers.
fn capabilities() -> Vec<String> {
    let mut all: Vec<_> = caps::all().into_iter().collect();
    all.sort_by_key(|capability| capability.index());
    all.into_iter().map(|capability| capability.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_of_seccomp_is_what_profiles_may_use() {
        let compiles = |profile: Value| bulkhead_sandbox::platform::profile::compile(profile.to_string().as_bytes()).is_ok();
        for action in ACTIONS {
            assert!(compiles(json!({ "defaultAction": action })), "{action}");
        }
        for operator in OPERATORS {
            let rule = json!({ "names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 1, "op": operator }] });
            assert!(compiles(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] })), "{operator}");
        }
        for flag in FLAGS {
            assert!(compiles(json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": [flag] })), "{flag}");
        }
        assert!(!compiles(json!({ "defaultAction": "SCMP_ACT_NOTIFY" })), "there is one listener, and it is the wall's");
    }

    #[test]
    fn every_member_of_the_specification_is_there() {
        let shown = features();
        for pointer in [
            "/ociVersionMin",
            "/ociVersionMax",
            "/hooks",
            "/mountOptions",
            "/linux/namespaces",
            "/linux/capabilities",
            "/linux/cgroup/rdma",
            "/linux/seccomp/supportedFlags",
            "/linux/apparmor/enabled",
            "/linux/selinux/enabled",
            "/linux/intelRdt/enabled",
            "/linux/mountExtensions/idmap/enabled",
            "/annotations",
            "/potentiallyUnsafeConfigAnnotations",
        ] {
            assert!(shown.pointer(pointer).is_some(), "{pointer}");
        }
        assert_eq!(shown["linux"]["capabilities"][0], "CAP_CHOWN");
        let _: oci_spec::runtime::Features = serde_json::from_value(shown).unwrap();
    }
}
