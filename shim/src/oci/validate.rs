//! What the types of `oci-spec` let through and a container can not be made from.
//!
//! Texts that runc's clients may match on are runc's.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxDeviceType, LinuxNamespaceType, Process, Spec};
use serde_json::Value;

use super::{ConfigError, mount_options};

type Checked = Result<(), ConfigError>;

/// Validates a whole configuration. `json` is where `spec` came from.
pub fn validate(spec: &Spec, json: &Value) -> Checked {
    version(spec.version())?;
    let root = spec.root().as_ref().ok_or(ConfigError::Missing("root"))?;
    if root.path().as_os_str().is_empty() {
        return Err(ConfigError::field("root.path", root.path(), "empty"));
    }
    let process = spec.process().as_ref().ok_or(ConfigError::Missing("process"))?;
    validate_process(process)?;
    mounts(spec)?;
    hooks(json)?;
    if let Some(annotations) = spec.annotations()
        && annotations.contains_key("")
    {
        return Err(ConfigError::field("annotations", annotations, "an empty key"));
    }
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if let Some(name) = name.as_ref().filter(|name| name.len() > 64) {
            return Err(ConfigError::field(field, name, "longer than 64 bytes (uname(2))"));
        }
    }
    let linux = spec.linux().as_ref().ok_or(ConfigError::Missing("linux"))?;
    namespaces(linux)?;
    let has = |kind| namespace(linux, kind).is_some();
    if spec.hostname().as_ref().is_some_and(|name| !name.is_empty()) && !has(LinuxNamespaceType::Uts) {
        return Err(ConfigError::field("hostname", spec.hostname(), "unable to set hostname without a private UTS namespace"));
    }
    sysctls(linux, has(LinuxNamespaceType::Network), has(LinuxNamespaceType::Ipc))?;
    devices(linux)?;
    paths(linux)?;
    match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate" | "slave" | "rslave" | "unbindable" | "runbindable") => Ok(()),
        Some("shared" | "rshared") => Err(ConfigError::field(
            "linux.rootfsPropagation",
            linux.rootfs_propagation(),
            "mounts behind the wall do not propagate to the host",
        )),
        Some(_) => Err(ConfigError::field("linux.rootfsPropagation", linux.rootfs_propagation(), "no such propagation")),
    }
}

/// Validates what a process is made from.
///
/// # Errors
/// The first field that is not accepted.
pub fn validate_process(process: &Process) -> Checked {
    match process.args() {
        Some(args) if !args.is_empty() => {
            if let Some(bad) = args.iter().find(|arg| arg.contains('\0')) {
                return Err(ConfigError::field("process.args", bad, "holds a zero byte"));
            }
        }
        args => return Err(ConfigError::field("process.args", args, "args must not be empty")),
    }
    let cwd = process.cwd();
    if cwd.as_os_str().is_empty() {
        return Err(ConfigError::field("process.cwd", cwd, "Cwd property must not be empty"));
    }
    if !cwd.is_absolute() {
        return Err(ConfigError::field("process.cwd", cwd, "Cwd must be an absolute path"));
    }
    if let Some(bad) =
        process.env().iter().flatten().find(|variable| variable.contains('\0') || variable.find('=').is_none_or(|at| at == 0))
    {
        return Err(ConfigError::field("process.env", bad, "not NAME=value"));
    }
    let mut seen = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let field = format!("process.rlimits[{index}]");
        if seen.contains(&limit.typ()) {
            return Err(ConfigError::field(format!("{field}.type"), limit.typ(), "given twice"));
        }
        seen.push(limit.typ());
        if limit.soft() > limit.hard() {
            return Err(ConfigError::field(format!("{field}.soft"), limit.soft(), format!("above the hard limit {}", limit.hard())));
        }
    }
    if let Some(adjustment) = process.oom_score_adj().filter(|adjustment| !(-1000..=1000).contains(adjustment)) {
        return Err(ConfigError::field("process.oomScoreAdj", adjustment, "not between -1000 and 1000"));
    }
    if let Some(umask) = process.user().umask().filter(|umask| *umask > 0o777) {
        return Err(ConfigError::field("process.user.umask", umask, "not a file mode mask"));
    }
    for (field, id) in [("process.user.uid", process.user().uid()), ("process.user.gid", process.user().gid())] {
        if id == u32::MAX {
            return Err(ConfigError::field(field, id, "not an id (setresuid(2))"));
        }
    }
    Ok(())
}

/// The namespace of a kind, when the container has one of its own.
pub fn namespace(linux: &Linux, kind: LinuxNamespaceType) -> Option<&oci_spec::runtime::LinuxNamespace> {
    linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == kind)
}

fn version(version: &str) -> Checked {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = core.split('.').map(|part| part.parse().ok()).collect();
    match numbers[..] {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => Err(ConfigError::field("ociVersion", version, "only version 1 of the specification is known")),
        _ => Err(ConfigError::field("ociVersion", version, "not a version (SemVer 2.0.0)")),
    }
}

fn mounts(spec: &Spec) -> Checked {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let destination = mount.destination();
        if !destination.is_absolute() {
            return Err(ConfigError::field(format!("mounts[{index}].destination"), destination, "mount destination not absolute"));
        }
        let kind = mount.typ().as_deref().unwrap_or_default();
        let options = mount.options().iter().flatten().map(String::as_str);
        let read = mount_options::parse(kind, options).map_err(|(value, reason)| {
            let field = if value == kind { "type" } else { "options" };
            ConfigError::field(format!("mounts[{index}].{field}"), value, reason)
        })?;
        if read.bind.is_some() && mount.source().as_ref().is_none_or(|source| source.as_os_str().is_empty()) {
            return Err(ConfigError::field(format!("mounts[{index}].source"), mount.source(), "a bind mount needs a source"));
        }
    }
    Ok(())
}

fn hooks(json: &Value) -> Checked {
    let Some(kinds) = json.get("hooks").and_then(Value::as_object) else { return Ok(()) };
    for (kind, hooks) in kinds {
        for (index, hook) in hooks.as_array().into_iter().flatten().enumerate() {
            let field = format!("hooks.{kind}[{index}]");
            let path = hook.get("path").and_then(Value::as_str).unwrap_or_default();
            if !path.starts_with('/') {
                return Err(ConfigError::field(format!("{field}.path"), path, "not an absolute path"));
            }
            if let Some(timeout) = hook.get("timeout").and_then(Value::as_i64).filter(|timeout| *timeout <= 0) {
                return Err(ConfigError::field(format!("{field}.timeout"), timeout, "not greater than zero"));
            }
        }
    }
    Ok(())
}

fn namespaces(linux: &Linux) -> Checked {
    let mut seen = HashSet::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        let kind = namespace.typ();
        if !seen.insert(kind) {
            return Err(ConfigError::field(format!("{field}.type"), kind, "given twice"));
        }
        if matches!(kind, LinuxNamespaceType::User | LinuxNamespaceType::Time) {
            return Err(ConfigError::field(format!("{field}.type"), kind, "not supported"));
        }
        if let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            if !path.is_absolute() {
                return Err(ConfigError::field(format!("{field}.path"), path, "not an absolute path"));
            }
            if matches!(kind, LinuxNamespaceType::Mount | LinuxNamespaceType::Cgroup) {
                return Err(ConfigError::field(format!("{field}.path"), path, "a container behind a wall has its own"));
            }
        }
    }
    for kind in [LinuxNamespaceType::Pid, LinuxNamespaceType::Mount, LinuxNamespaceType::Ipc] {
        if !seen.contains(&kind) {
            let name = serde_json::to_string(&kind).unwrap_or_default();
            return Err(ConfigError::field("linux.namespaces", linux.namespaces(), format!("no {name}: the host's can not be shared")));
        }
    }
    Ok(())
}

/// The same rules as runc's: a sysctl must belong to a namespace that the container has.
fn sysctls(linux: &Linux, network: bool, ipc: bool) -> Checked {
    const IPC: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    for (key, value) in linux.sysctl().iter().flatten() {
        let field = format!("linux.sysctl[{key:?}]");
        let dotted = key.replace('/', ".");
        let plain = dotted.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) && !dotted.contains("..");
        if !plain {
            return Err(ConfigError::field(field, value, "not the name of a sysctl"));
        }
        let known = match dotted.as_str() {
            name if name.starts_with("net.") => network,
            name if IPC.contains(&name) || name.starts_with("fs.mqueue.") => ipc,
            _ => false,
        };
        if !known {
            return Err(ConfigError::field(field, value, "not in a separate kernel namespace"));
        }
    }
    Ok(())
}

fn devices(linux: &Linux) -> Checked {
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let field = |name| format!("linux.devices[{index}].{name}");
        if !device.path().is_absolute() {
            return Err(ConfigError::field(field("path"), device.path(), "not an absolute path"));
        }
        let below = device.path().strip_prefix("/dev").ok();
        if below.is_none_or(|name| {
            name.as_os_str().is_empty() || name.components().any(|part| !matches!(part, std::path::Component::Normal(_)))
        }) {
            return Err(ConfigError::field(field("path"), device.path(), "not below /dev"));
        }
        if device.typ() == LinuxDeviceType::A {
            return Err(ConfigError::field(field("type"), "a", "not a kind of file"));
        }
        if let Some(mode) = device.file_mode().filter(|mode| *mode > 0o7777) {
            return Err(ConfigError::field(field("fileMode"), mode, "not a file mode"));
        }
    }
    Ok(())
}

fn paths(linux: &Linux) -> Checked {
    for (field, paths) in [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())] {
        for (index, path) in paths.iter().flatten().enumerate() {
            if !Path::new(path).is_absolute() {
                return Err(ConfigError::field(format!("{field}[{index}]"), path, "not an absolute path"));
            }
        }
    }
    if linux.cgroups_path().as_ref().is_some_and(|path| path.components().any(|part| part == std::path::Component::ParentDir)) {
        return Err(ConfigError::field("linux.cgroupsPath", linux.cgroups_path(), "leads upwards"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::oci::{parse, template};
    use serde_json::{Value, json};

    /// The error for runc's default configuration with one value replaced.
    fn refused(pointer: &str, value: Value) -> String {
        let mut config = template::spec(false);
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = config.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(entries) => entries.push(value),
            _ => parent[key] = value,
        }
        parse(config).expect_err(pointer).to_string()
    }

    #[test]
    fn each_bad_value_is_named_with_its_field() {
        let cases = [
            ("/ociVersion", json!("2.0.0"), "ociVersion: \"2.0.0\": only version 1"),
            ("/ociVersion", json!("one"), "ociVersion: \"one\": not a version"),
            ("/root", json!(null), "root: missing"),
            ("/root/path", json!(""), "root.path: \"\": empty"),
            ("/process", json!(null), "process: missing"),
            ("/process/args", json!([]), "process.args: []: args must not be empty"),
            ("/process/args", json!(["a\0b"]), "process.args: \"a\\u0000b\": holds a zero byte"),
            ("/process/cwd", json!("x"), "process.cwd: \"x\": Cwd must be an absolute path"),
            ("/process/env", json!(["=x"]), "process.env: \"=x\": not NAME=value"),
            ("/process/capabilities/bounding", json!("CAP_KILL"), "process.capabilities.bounding"),
            (
                "/process/rlimits",
                json!([{ "type": "RLIMIT_SLEEP", "soft": 1, "hard": 1 }]),
                "process.rlimits[0].type: unknown variant `RLIMIT_SLEEP`",
            ),
            (
                "/process/rlimits",
                json!([{ "type": "RLIMIT_CPU", "soft": 2, "hard": 1 }]),
                "process.rlimits[0].soft: 2: above the hard limit 1",
            ),
            (
                "/process/rlimits/-",
                json!({ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 }),
                "process.rlimits[1].type: \"RLIMIT_NOFILE\": given twice",
            ),
            ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj: 1001: not between"),
            ("/process/user/uid", json!(u32::MAX), "process.user.uid: 4294967295: not an id"),
            ("/process/user/uid", json!(-1), "process.user.uid: invalid value: integer `-1`"),
            ("/hostname", json!("x".repeat(65)), "hostname: "),
            ("/mounts/-", json!({ "destination": "x", "type": "tmpfs" }), "mounts[7].destination: \"x\": mount destination not absolute"),
            ("/mounts/-", json!({ "destination": "/x", "type": "ext4" }), "mounts[7].type: \"ext4\": no such type"),
            (
                "/mounts/-",
                json!({ "destination": "/x", "type": "tmpfs", "options": ["fast"] }),
                "mounts[7].options: \"fast\": no such mount option",
            ),
            (
                "/mounts/-",
                json!({ "destination": "/x", "type": "bind", "options": ["bind"] }),
                "mounts[7].source: null: a bind mount needs a source",
            ),
            ("/hooks", json!({ "prestart": [{ "path": "x" }] }), "hooks.prestart[0].path: \"x\": not an absolute path"),
            ("/hooks", json!({ "poststop": [{ "path": "/x", "timeout": 0 }] }), "hooks.poststop[0].timeout: 0: not greater than zero"),
            ("/linux/namespaces/-", json!({ "type": "pid" }), "linux.namespaces[5].type: \"pid\": given twice"),
            ("/linux/namespaces/-", json!({ "type": "user" }), "linux.namespaces[5].type: \"user\": not supported"),
            ("/linux/namespaces/-", json!({ "type": "dream" }), "linux.namespaces[5].type: unknown variant `dream`"),
            ("/linux/namespaces", json!([{ "type": "mount" }]), "linux.namespaces: [{\"type\":\"mount\"}]: no \"pid\""),
            ("/linux/sysctl", json!({ "kernel.panic": "1" }), "linux.sysctl[\"kernel.panic\"]: \"1\": not in a separate kernel namespace"),
            ("/linux/sysctl", json!({ "net.../../x": "1" }), "linux.sysctl[\"net.../../x\"]: \"1\": not the name of a sysctl"),
            (
                "/linux/devices",
                json!([{ "path": "/dev/x", "type": "a", "major": 1, "minor": 1 }]),
                "linux.devices[0].type: \"a\": not a kind of file",
            ),
            (
                "/linux/devices",
                json!([{ "path": "/srv/x", "type": "c", "major": 1, "minor": 1 }]),
                "linux.devices[0].path: \"/srv/x\": not below /dev",
            ),
            (
                "/linux/devices",
                json!([{ "path": "/dev/../x", "type": "c", "major": 1, "minor": 1 }]),
                "linux.devices[0].path: \"/dev/../x\": not below /dev",
            ),
            ("/linux/maskedPaths", json!(["x"]), "linux.maskedPaths[0]: \"x\": not an absolute path"),
            ("/linux/cgroupsPath", json!("/a/../../b"), "linux.cgroupsPath: \"/a/../../b\": leads upwards"),
            ("/linux/rootfsPropagation", json!("shared"), "linux.rootfsPropagation: \"shared\": mounts behind the wall"),
            ("/annotations", json!({ "": "x" }), "annotations: {\"\":\"x\"}: an empty key"),
        ];
        for (pointer, value, text) in cases {
            let error = refused(pointer, value);
            assert!(error.starts_with(text), "{pointer}: {error}");
        }
    }
}
