//! Every field of config.json, and what becomes of it: the one table.
//!
//! Validation reads it (a refused field that is set fails the container, by name), the README's table is printed from
//! it (`bulkhead debug config-fields`), and a test holds it against the types of `oci-spec`, so that a field which
//! appears there can not be ignored here. A field that neither this table nor the specification knows is logged: the
//! specification forbids to fail for it (config.md, "Extensibility").

use serde_json::Value;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It has its effect; the text says how, where that is not plain.
    Honoured(&'static str),
    /// It has no effect here, and who sets it is warned; the text says why nothing is lost by that.
    Ineffective(&'static str),
    /// A configuration that sets it is refused; the text says why.
    Refused(&'static str),
}

use Treatment::{Honoured, Ineffective, Refused};

/// One row: a field, or with a trailing `.*` everything below it.
pub struct Field {
    /// Dotted path; `[]` follows a list's name, `{}` a map's.
    pub path: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
}

const fn row(path: &'static str, treatment: Treatment) -> Field {
    Field { path, treatment }
}

const OTHER_SYSTEM: Treatment = Refused("not a Linux container");
const NO_USER_NAMESPACE: Treatment = Refused("user namespaces of containers are not supported");
const CGROUP: Treatment = Honoured("cgroup of workload and kernel together");
const HOOK: Treatment = Honoured("");
const SECCOMP: Treatment = Honoured("installed natively, on top of the wall's own filter");
const SCHEDULER: Treatment = Refused("scheduling policies are not supported");

/// The table, in the specification's order of chapters.
pub const FIELDS: &[Field] = &[
    row("ociVersion", Honoured("1.x")),
    row("root.path", Honoured("")),
    row("root.readonly", Honoured("")),
    row("mounts[].destination", Honoured("")),
    row("mounts[].source", Honoured("bind mounts; other types name no file of the host")),
    row("mounts[].type", Honoured("bind, tmpfs, proc, sysfs, devpts, mqueue, cgroup; others are refused by name")),
    row("mounts[].options[]", Honoured("sync, dirsync and lazytime have no effect; options without a meaning here are refused by name")),
    row("mounts[].uidMappings.*", Refused("id-mapped mounts are not supported")),
    row("mounts[].gidMappings.*", Refused("id-mapped mounts are not supported")),
    row("process.terminal", Honoured("")),
    row("process.consoleSize.height", Honoured("")),
    row("process.consoleSize.width", Honoured("")),
    row("process.cwd", Honoured("")),
    row("process.env[]", Honoured("")),
    row("process.args[]", Honoured("")),
    row("process.commandLine", OTHER_SYSTEM),
    row("process.rlimits[].type", Honoured("")),
    row("process.rlimits[].soft", Honoured("")),
    row("process.rlimits[].hard", Honoured("")),
    row("process.noNewPrivileges", Honoured("")),
    row("process.oomScoreAdj", Honoured("raised where the workload would not die before its kernel")),
    row("process.scheduler.*", SCHEDULER),
    row("process.ioPriority.*", SCHEDULER),
    row("process.execCPUAffinity.*", SCHEDULER),
    row("process.capabilities.bounding[]", Honoured("within the user-space kernel; an unknown name is ignored with a warning")),
    row("process.capabilities.effective[]", Honoured("within the user-space kernel")),
    row("process.capabilities.inheritable[]", Honoured("within the user-space kernel")),
    row("process.capabilities.permitted[]", Honoured("within the user-space kernel")),
    row("process.capabilities.ambient[]", Honoured("within the user-space kernel")),
    // Container managers set it for every container of a node that has AppArmor.
    row("process.apparmorProfile", Ineffective("the workload reaches nothing that a profile of the host could mediate")),
    row("process.selinuxLabel", Refused("the workload reaches nothing that a label of the host could mediate")),
    row("process.user.uid", Honoured("")),
    row("process.user.gid", Honoured("")),
    row("process.user.umask", Honoured("")),
    row("process.user.additionalGids[]", Honoured("")),
    row("process.user.username", OTHER_SYSTEM),
    row("hostname", Honoured("")),
    row("domainname", Honoured("")),
    row("annotations{}", Honoured("CRI's name the pod; all go to hooks and `state`")),
    row("uidMappings.*", NO_USER_NAMESPACE),
    row("gidMappings.*", NO_USER_NAMESPACE),
    row("hooks.prestart[].path", HOOK),
    row("hooks.prestart[].args[]", HOOK),
    row("hooks.prestart[].env[]", HOOK),
    row("hooks.prestart[].timeout", HOOK),
    row("hooks.createRuntime[].path", HOOK),
    row("hooks.createRuntime[].args[]", HOOK),
    row("hooks.createRuntime[].env[]", HOOK),
    row("hooks.createRuntime[].timeout", HOOK),
    row("hooks.createContainer[].path", Honoured("on the host, in the pod's network namespace")),
    row("hooks.createContainer[].args[]", HOOK),
    row("hooks.createContainer[].env[]", HOOK),
    row("hooks.createContainer[].timeout", HOOK),
    row("hooks.startContainer[].path", Honoured("behind the wall, as a process of the container")),
    row("hooks.startContainer[].args[]", HOOK),
    row("hooks.startContainer[].env[]", HOOK),
    row("hooks.startContainer[].timeout", HOOK),
    row("hooks.poststart[].path", HOOK),
    row("hooks.poststart[].args[]", HOOK),
    row("hooks.poststart[].env[]", HOOK),
    row("hooks.poststart[].timeout", HOOK),
    row("hooks.poststop[].path", HOOK),
    row("hooks.poststop[].args[]", HOOK),
    row("hooks.poststop[].env[]", HOOK),
    row("hooks.poststop[].timeout", HOOK),
    row("linux.namespaces[].type", Honoured("pid, network, mount, ipc, uts, cgroup; user and time are refused")),
    row("linux.namespaces[].path", Honoured("network; pid, ipc and uts of a container of the same pod")),
    row("linux.uidMappings.*", NO_USER_NAMESPACE),
    row("linux.gidMappings.*", NO_USER_NAMESPACE),
    row("linux.timeOffsets.*", Refused("time namespaces are not supported")),
    row("linux.devices[].path", Honoured("below /dev")),
    row("linux.devices[].type", Honoured("")),
    row("linux.devices[].major", Honoured("the devices of the user-space kernel; no device of the host is opened")),
    row("linux.devices[].minor", Honoured("")),
    row("linux.devices[].fileMode", Honoured("")),
    row("linux.devices[].uid", Honoured("")),
    row("linux.devices[].gid", Honoured("")),
    row("linux.netDevices.*", Refused("moving network devices is not supported")),
    row("linux.cgroupsPath", Honoured("")),
    row("linux.resources.devices[].allow", Honoured("by construction: no device of the host is ever opened")),
    row("linux.resources.devices[].type", Honoured("")),
    row("linux.resources.devices[].major", Honoured("")),
    row("linux.resources.devices[].minor", Honoured("")),
    row("linux.resources.devices[].access", Honoured("")),
    row("linux.resources.memory.limit", CGROUP),
    row("linux.resources.memory.reservation", CGROUP),
    row("linux.resources.memory.swap", CGROUP),
    row("linux.resources.memory.kernel", Refused("Linux has dropped this limit (5.16)")),
    row("linux.resources.memory.kernelTCP", Refused("cgroup v2 has no such limit")),
    row("linux.resources.memory.swappiness", Honoured("cgroup v1; refused on v2")),
    row("linux.resources.memory.disableOOMKiller", Refused("the workload must die before its kernel when memory runs out")),
    row("linux.resources.memory.useHierarchy", Honoured("always so since Linux 5.11")),
    row("linux.resources.memory.checkBeforeUpdate", Honoured("`update` refuses a limit below what is used")),
    row("linux.resources.cpu.shares", CGROUP),
    row("linux.resources.cpu.quota", CGROUP),
    row("linux.resources.cpu.burst", CGROUP),
    row("linux.resources.cpu.period", CGROUP),
    row("linux.resources.cpu.realtimeRuntime", Honoured("cgroup v1; refused on v2")),
    row("linux.resources.cpu.realtimePeriod", Honoured("cgroup v1; refused on v2")),
    row("linux.resources.cpu.cpus", CGROUP),
    row("linux.resources.cpu.mems", CGROUP),
    row("linux.resources.cpu.idle", CGROUP),
    row("linux.resources.pids.limit", CGROUP),
    row("linux.resources.blockIO.weight", CGROUP),
    row("linux.resources.blockIO.leafWeight", Refused("Linux has dropped it (5.0)")),
    row("linux.resources.blockIO.weightDevice[].major", CGROUP),
    row("linux.resources.blockIO.weightDevice[].minor", CGROUP),
    row("linux.resources.blockIO.weightDevice[].weight", Honoured("cgroup v2; refused on v1")),
    row("linux.resources.blockIO.weightDevice[].leafWeight", Refused("Linux has dropped it (5.0)")),
    row("linux.resources.blockIO.throttleReadBpsDevice[].major", CGROUP),
    row("linux.resources.blockIO.throttleReadBpsDevice[].minor", CGROUP),
    row("linux.resources.blockIO.throttleReadBpsDevice[].rate", CGROUP),
    row("linux.resources.blockIO.throttleWriteBpsDevice[].major", CGROUP),
    row("linux.resources.blockIO.throttleWriteBpsDevice[].minor", CGROUP),
    row("linux.resources.blockIO.throttleWriteBpsDevice[].rate", CGROUP),
    row("linux.resources.blockIO.throttleReadIOPSDevice[].major", CGROUP),
    row("linux.resources.blockIO.throttleReadIOPSDevice[].minor", CGROUP),
    row("linux.resources.blockIO.throttleReadIOPSDevice[].rate", CGROUP),
    row("linux.resources.blockIO.throttleWriteIOPSDevice[].major", CGROUP),
    row("linux.resources.blockIO.throttleWriteIOPSDevice[].minor", CGROUP),
    row("linux.resources.blockIO.throttleWriteIOPSDevice[].rate", CGROUP),
    row("linux.resources.hugepageLimits[].pageSize", CGROUP),
    row("linux.resources.hugepageLimits[].limit", CGROUP),
    row("linux.resources.network.*", Refused("cgroup v2 has no such controller")),
    row("linux.resources.rdma.*", Refused("the workload reaches no RDMA device")),
    row("linux.resources.unified{}", Honoured("cgroup v2; refused on v1")),
    row("linux.rootfsPropagation", Honoured("private and slave; shared is refused")),
    row("linux.seccomp.defaultAction", SECCOMP),
    row("linux.seccomp.defaultErrnoRet", SECCOMP),
    row("linux.seccomp.architectures[]", SECCOMP),
    row("linux.seccomp.flags[]", SECCOMP),
    row("linux.seccomp.listenerPath", Refused("the wall has the one listener that a process may have")),
    row("linux.seccomp.listenerMetadata", Refused("the wall has the one listener that a process may have")),
    row("linux.seccomp.syscalls[].names[]", SECCOMP),
    row("linux.seccomp.syscalls[].action", SECCOMP),
    row("linux.seccomp.syscalls[].errnoRet", SECCOMP),
    row("linux.seccomp.syscalls[].args[].index", SECCOMP),
    row("linux.seccomp.syscalls[].args[].value", SECCOMP),
    row("linux.seccomp.syscalls[].args[].valueTwo", SECCOMP),
    row("linux.seccomp.syscalls[].args[].op", SECCOMP),
    row("linux.sysctl{}", Honoured("net.*, in the pod's network namespace; others are refused by name")),
    row("linux.maskedPaths[]", Honoured("")),
    row("linux.readonlyPaths[]", Honoured("")),
    row("linux.mountLabel", Refused("the workload reaches nothing that a label of the host could mediate")),
    row("linux.personality.*", Refused("the only personality is LINUX")),
    row("linux.intelRdt.*", Refused("cache allocation is not supported")),
    row("linux.memoryPolicy.*", Refused("memory policies are not supported")),
    row("solaris.*", OTHER_SYSTEM),
    row("windows.*", OTHER_SYSTEM),
    row("vm.*", Refused("the wall brings its own kernel")),
    row("zos.*", OTHER_SYSTEM),
];

/// The row for a field: its own, or that of a part of the tree above it.
pub fn lookup(path: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| match field.path.strip_suffix(".*") {
        Some(tree) => path.strip_prefix(tree).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', '{'])),
        None => field.path == path,
    })
}

/// Something about a configuration's fields.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// A field that is refused is set.
    Refused {
        /// Where it stands, with indices.
        field: String,
        /// Its value, shortened.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// A field that has no effect is set.
    Ineffective {
        /// Where it stands, with indices.
        field: String,
        /// Its value, shortened.
        value: String,
        /// Why.
        reason: &'static str,
    },
    /// A field that is not the specification's.
    Unknown(String),
}

/// Holds a configuration against the table.
pub fn examine(config: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    descend(config, "", "", &mut findings);
    findings
}

/// `pattern` is the path as the table writes it, `place` with this configuration's indices and keys.
fn descend(value: &Value, pattern: &str, place: &str, findings: &mut Vec<Finding>) {
    if let Some(Field { treatment, .. }) = (!pattern.is_empty()).then(|| lookup(pattern)).flatten() {
        if !is_set(value) {
            return;
        }
        let (field, value) = (place.to_owned(), shortened(value));
        match *treatment {
            Honoured(_) => {}
            Ineffective(reason) => findings.push(Finding::Ineffective { field, value, reason }),
            Refused(reason) => findings.push(Finding::Refused { field, value, reason }),
        }
        return;
    }
    let below = |name: &str| FIELDS.iter().any(|field| field.path.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(name)));
    match value {
        Value::Object(entries) => {
            let map = !pattern.is_empty() && below("{}");
            for (key, value) in entries {
                let (pattern, place) = match (map, pattern.is_empty()) {
                    (true, _) => (format!("{pattern}{{}}"), format!("{place}[{key:?}]")),
                    (false, true) => (key.clone(), key.clone()),
                    (false, false) => (format!("{pattern}.{key}"), format!("{place}.{key}")),
                };
                descend(value, &pattern, &place, findings);
            }
        }
        Value::Array(entries) => {
            for (index, value) in entries.iter().enumerate() {
                descend(value, &format!("{pattern}[]"), &format!("{place}[{index}]"), findings);
            }
        }
        // What is absent is no field; a struct of the specification without members is none either.
        Value::Null => {}
        _ => findings.push(Finding::Unknown(place.to_owned())),
    }
}

fn shortened(value: &Value) -> String {
    let shown = value.to_string();
    if shown.len() > 80 { shown.chars().take(77).collect::<String>() + "..." } else { shown }
}

/// Whether a value says anything: absent, empty, `false` and 0 are what a field means when it is not there.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(value) => value.as_f64() != Some(0.0),
        Value::String(value) => !value.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => values.values().any(is_set),
    }
}

/// The table as Markdown, for the README.
pub fn markdown() -> String {
    let mut text = String::from("| field of config.json | is | how, or why not |\n|---|---|---|\n");
    for field in FIELDS {
        let (word, how) = match field.treatment {
            Honoured(how) => ("honoured", how),
            Ineffective(why) => ("without effect", why),
            Refused(why) => ("refused", why),
        };
        text.push_str(&format!("| `{}` | {word} | {how} |\n", field.path));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::schema;

    #[test]
    fn every_field_of_the_specification_has_its_row() {
        let missing: Vec<String> = schema::leaves().into_iter().filter(|leaf| lookup(leaf).is_none()).collect();
        assert!(missing.is_empty(), "neither honoured nor refused: {missing:#?}");
    }

    #[test]
    fn every_row_is_a_field_of_the_specification() {
        let leaves = schema::leaves();
        for field in FIELDS {
            let used = leaves.iter().any(|leaf| lookup(leaf).is_some_and(|row| row.path == field.path));
            assert!(used, "{} is no field of oci-spec", field.path);
        }
    }

    /// A configuration in which one field of the table is set.
    fn setting(path: &str) -> Value {
        let value = if path.ends_with(".*") { serde_json::json!({ "x": 1 }) } else { serde_json::json!("x") };
        path.trim_end_matches(".*").rsplit('.').fold(value, |value, part| match part.strip_suffix("[]") {
            Some(name) => serde_json::json!({ name: [value] }),
            None => serde_json::json!({ part: value }),
        })
    }

    fn merge(base: &mut Value, over: Value) {
        match (base, over) {
            (Value::Object(base), Value::Object(over)) => {
                over.into_iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Value::Null), value));
            }
            (base, over) => *base = over,
        }
    }

    #[test]
    fn each_refused_field_is_refused_by_its_name() {
        let refused = FIELDS.iter().filter_map(|field| match field.treatment {
            Refused(reason) => Some((field.path, reason)),
            Honoured(_) | Ineffective(_) => None,
        });
        let mut count = 0;
        for (path, reason) in refused {
            let mut config = crate::oci::template::spec(false);
            merge(&mut config, setting(path));
            let error = crate::oci::parse(config).expect_err(path).to_string();
            let named = path.trim_end_matches(".*").replace("[]", "[0]");
            assert!(error.starts_with(&format!("{named}: ")) && error.contains(reason), "{path}: {error}");
            count += 1;
        }
        assert!(count > 20);
    }

    #[test]
    fn the_readme_has_the_table() {
        assert!(include_str!("../../../README.md").contains(&markdown()), "print it anew with `bulkhead debug config-fields`");
    }

    #[test]
    fn whole_subtrees_are_only_refused() {
        for field in FIELDS.iter().filter(|field| field.path.ends_with(".*")) {
            assert!(matches!(field.treatment, Refused(_)), "{} would honour fields nobody has read", field.path);
        }
    }

    #[test]
    fn refused_and_unknown_fields_are_named() {
        let config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": { "args": ["true"], "apparmorProfile": "cri", "selinuxLabel": "x", "colour": "red" },
            "mounts": [{}, { "uidMappings": [{ "hostID": 1 }] }],
            "windows": null,
            "linux": { "resources": { "unified": { "memory.high": "1" } }, "intelRdt": {} },
            "annotations": { "a.b": "c" },
        });
        let mut findings = examine(&config);
        findings.sort_by_key(|finding| format!("{finding:?}"));
        assert_eq!(
            findings,
            [
                Finding::Ineffective {
                    field: "process.apparmorProfile".into(),
                    value: "\"cri\"".into(),
                    reason: "the workload reaches nothing that a profile of the host could mediate"
                },
                Finding::Refused {
                    field: "mounts[1].uidMappings".into(),
                    value: "[{\"hostID\":1}]".into(),
                    reason: "id-mapped mounts are not supported"
                },
                Finding::Refused {
                    field: "process.selinuxLabel".into(),
                    value: "\"x\"".into(),
                    reason: "the workload reaches nothing that a label of the host could mediate"
                },
                Finding::Unknown("process.colour".into()),
            ]
        );
    }
}
