//! What a configuration may leave out, and may ask for in vain.
//!
//! Engines write configurations with the Go types of the specification, in which a number that is not there is zero; `oci-spec`'s types want
//! some of them to be there. And a capability that nobody knows must not fail a container (config.md, "Linux Process": "SHOULD NOT
//! fail if the container configuration requests capabilities that cannot be granted"): runc warns, and so does this.

use oci_spec::runtime::Capability;
use serde_json::{Value, json};

/// Members that are zero where they are not there: the dotted path of the object, `[]` after a list's name; the member.
const ZEROS: &[(&str, &str)] = &[
    ("process.user", "uid"),
    ("process.user", "gid"),
    ("process.consoleSize", "height"),
    ("process.consoleSize", "width"),
    ("process.rlimits[]", "soft"),
    ("process.rlimits[]", "hard"),
    ("linux.devices[]", "major"),
    ("linux.devices[]", "minor"),
    ("linux.resources.pids", "limit"),
    ("linux.resources.blockIO.weightDevice[]", "major"),
    ("linux.resources.blockIO.weightDevice[]", "minor"),
    ("linux.resources.blockIO.throttleReadBpsDevice[]", "major"),
    ("linux.resources.blockIO.throttleReadBpsDevice[]", "minor"),
    ("linux.resources.blockIO.throttleReadBpsDevice[]", "rate"),
    ("linux.resources.blockIO.throttleWriteBpsDevice[]", "major"),
    ("linux.resources.blockIO.throttleWriteBpsDevice[]", "minor"),
    ("linux.resources.blockIO.throttleWriteBpsDevice[]", "rate"),
    ("linux.resources.blockIO.throttleReadIOPSDevice[]", "major"),
    ("linux.resources.blockIO.throttleReadIOPSDevice[]", "minor"),
    ("linux.resources.blockIO.throttleReadIOPSDevice[]", "rate"),
    ("linux.resources.blockIO.throttleWriteIOPSDevice[]", "major"),
    ("linux.resources.blockIO.throttleWriteIOPSDevice[]", "minor"),
    ("linux.resources.blockIO.throttleWriteIOPSDevice[]", "rate"),
    ("linux.seccomp.syscalls[].args[]", "index"),
    ("linux.seccomp.syscalls[].args[]", "value"),
];

/// Fills in what may be left out of a configuration, or of one that is made of a part alone.
pub fn fill(config: &mut Value) {
    if let Some(process) = config.get_mut("process").filter(|process| process.is_object()) {
        set_absent(process, "user", json!({}));
        set_absent(process, "cwd", json!(""));
    }
    if let Some(root) = config.get_mut("root").filter(|root| root.is_object()) {
        set_absent(root, "path", json!(""));
    }
    for (path, member) in ZEROS {
        each(config, path, &mut |object| set_absent(object, member, json!(0)));
    }
    each(config, "linux.resources.devices[]", &mut |rule| set_absent(rule, "allow", json!(false)));
}

fn set_absent(object: &mut Value, member: &str, value: Value) {
    if let Some(members) = object.as_object_mut()
        && members.get(member).is_none_or(Value::is_null)
    {
        members.insert(member.to_owned(), value);
    }
}

/// Calls `change` with every object at a path.
fn each(value: &mut Value, path: &str, change: &mut dyn FnMut(&mut Value)) {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let mut go_on = |value: &mut Value| match rest {
        Some(rest) => each(value, rest, change),
        None => change(value),
    };
    match name.strip_suffix("[]") {
        Some(name) => value.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().for_each(go_on),
        None => {
            if let Some(value) = value.get_mut(name) {
                go_on(value);
            }
        }
    }
}

/// Takes capabilities that nobody knows out of a process; gives each with its field.
pub fn drop_unknown_capabilities(process: &mut Value) -> Vec<String> {
    let mut dropped = Vec::new();
    let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) else { return dropped };
    for (set, names) in sets {
        if let Some(names) = names.as_array_mut() {
            names.retain(|name| {
                // What is no string is a mistake of another kind.
                let known = name.as_str().is_none_or(is_known);
                if !known {
                    dropped.push(format!("process.capabilities.{set}: {name}: ignoring unknown or unavailable capability"));
                }
                known
            });
        }
    }
    dropped
}

fn is_known(name: &str) -> bool {
    name.starts_with("CAP_") && serde_json::from_value::<Capability>(json!(name)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_leaves_out_is_filled_in() {
        let mut config = json!({
            "process": { "args": ["x"], "rlimits": [{ "type": "RLIMIT_CORE" }] },
            "root": {},
            "linux": {
                "devices": [{ "path": "/dev/x", "type": "p" }],
                "resources": { "devices": [{ "access": "rwm" }], "blockIO": { "throttleReadBpsDevice": [{ "major": 8 }] }, "pids": {} }
            }
        });
        fill(&mut config);
        assert_eq!(config["process"]["user"], json!({ "uid": 0, "gid": 0 }));
        assert_eq!(config["process"]["rlimits"][0], json!({ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }));
        assert_eq!((&config["process"]["cwd"], &config["root"]["path"]), (&json!(""), &json!("")));
        assert_eq!(config["linux"]["devices"][0]["minor"], 0);
        assert_eq!(config["linux"]["resources"]["devices"][0]["allow"], false);
        assert_eq!(config["linux"]["resources"]["blockIO"]["throttleReadBpsDevice"][0], json!({ "major": 8, "minor": 0, "rate": 0 }));
        let mut nothing = json!({ "process": null, "linux": 3, "root": [] });
        fill(&mut nothing);
        assert_eq!(nothing, json!({ "process": null, "linux": 3, "root": [] }));
    }

    #[test]
    fn unknown_capabilities_are_dropped_and_named() {
        let mut process = json!({ "capabilities": { "bounding": ["CAP_KILL", "CAP_FLY", "kill", 3], "effective": null } });
        let dropped = drop_unknown_capabilities(&mut process);
        assert_eq!(process["capabilities"]["bounding"], json!(["CAP_KILL", 3]));
        assert_eq!(dropped[0], "process.capabilities.bounding: \"CAP_FLY\": ignoring unknown or unavailable capability");
        assert_eq!(dropped.len(), 2);
    }
}
