//! How large a pod's virtual machine is.
//!
//! Each of the two, processors and memory, is the first of these that is there:
//! 1. the annotation `bulkhead.dev/vcpus` or `bulkhead.dev/memory` of the pod's first container;
//! 2. the configuration file's `[microvm]`: `vcpus`, `memory`;
//! 3. what the pod's limits need: those that containerd tells of the whole pod (`io.kubernetes.cri.sandbox-cpu-quota`, `-cpu-period`, `-memory`), else
//!    those of `linux.resources`: the quota rounded up to whole processors; the limit of memory and [`OVERHEAD`];
//! 4. [`VCPUS`] and [`MEMORY`].

use std::collections::HashMap;

use oci_spec::runtime::{LinuxMemory, LinuxResources};

use crate::config::Microvm;

/// Processors of a pod that says nothing.
pub const VCPUS: u8 = 1;
/// Memory of a pod that says nothing, bytes.
pub const MEMORY: u64 = 512 << 20;
/// What a guest's kernel, its page tables for its memory, its agent and the files of its first root file system take beside its containers, bytes.
pub const OVERHEAD: u64 = 128 << 20;
/// What the monitor takes beside its guest's memory, bytes: itself, KVM's page tables.
const MONITOR: i64 = 64 << 20;

/// The fewest and the most processors.
const PROCESSORS: std::ops::RangeInclusive<u64> = 1..=32;
/// The least memory: below it a distribution's kernel does not unpack its initramfs.
const LEAST: u64 = 128 << 20;
/// Memory is given in whole units of this many bytes.
const UNIT: u64 = 1 << 20;

/// A machine's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Virtual processors.
    pub vcpus: u8,
    /// Memory, bytes.
    pub memory: u64,
}

/// A size that can not be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {value}: {reason}")]
pub struct SizeError {
    /// Who asks for it.
    source_name: &'static str,
    value: String,
    reason: String,
}

impl SizeError {
    fn new(source_name: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self { source_name, value: value.to_string(), reason: reason.into() }
    }
}

const VCPUS_KEY: &str = "bulkhead.dev/vcpus";
const MEMORY_KEY: &str = "bulkhead.dev/memory";
/// containerd's: what the pod's containers may have together.
const POD_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const POD_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";
const POD_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";

/// The size of a pod's machine on a host with so much memory.
///
/// # Errors
/// [`SizeError`]: who asks for how much, and why that can not be.
pub fn of(
    settings: &Microvm,
    annotations: &HashMap<String, String>,
    resources: Option<&LinuxResources>,
    host_memory: u64,
) -> Result<Size, SizeError> {
    let vcpus = if let Some(text) = annotations.get(VCPUS_KEY) {
        let asked = text.parse().map_err(|_| SizeError::new(VCPUS_KEY, format!("{text:?}"), "not a number of processors"))?;
        processors(VCPUS_KEY, asked)?
    } else if let Some(asked) = settings.vcpus {
        processors("microvm.vcpus", asked.into())?
    } else {
        // More than there can be are more than anybody can use.
        quota(annotations, resources).map_or(VCPUS, |asked| asked.clamp(*PROCESSORS.start(), *PROCESSORS.end()) as u8)
    };
    let limit = || limit(annotations, resources);
    let (source, asked) = if let Some(text) = annotations.get(MEMORY_KEY) {
        (MEMORY_KEY, bytes(text).map_err(|reason| SizeError::new(MEMORY_KEY, format!("{text:?}"), reason))?)
    } else if let Some(text) = &settings.memory {
        ("microvm.memory", bytes(text).map_err(|reason| SizeError::new("microvm.memory", format!("{text:?}"), reason))?)
    } else if let Some(limit) = limit() {
        // A limit beyond what the host has is none.
        ("linux.resources.memory.limit", limit.saturating_add(OVERHEAD).min(host_memory))
    } else {
        ("the built-in default", MEMORY)
    };
    let memory = asked.checked_next_multiple_of(UNIT).unwrap_or(u64::MAX);
    if memory < LEAST {
        return Err(SizeError::new(source, asked, format!("a virtual machine needs {} MiB at least", LEAST >> 20)));
    }
    // A limit of all that the host has may be a unit more, rounded.
    if memory > host_memory.saturating_add(UNIT) {
        return Err(SizeError::new(source, asked, format!("this host has {} MiB", host_memory >> 20)));
    }
    Ok(Size { vcpus, memory })
}

fn processors(source: &'static str, asked: u64) -> Result<u8, SizeError> {
    if !PROCESSORS.contains(&asked) {
        return Err(SizeError::new(source, asked, format!("a virtual machine has {} to {}", PROCESSORS.start(), PROCESSORS.end())));
    }
    Ok(asked as u8)
}

/// The processors that a quota needs.
fn quota(annotations: &HashMap<String, String>, resources: Option<&LinuxResources>) -> Option<u64> {
    let number = |key: &str| annotations.get(key).and_then(|text| text.parse::<i64>().ok());
    let pods = number(POD_QUOTA).zip(number(POD_PERIOD));
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    // The period that Linux takes where none is given (cgroup v2, cpu.max).
    let own =
        || cpu.and_then(|cpu| cpu.quota()).map(|quota| (quota, cpu.and_then(|cpu| cpu.period()).map_or(100_000, |period| period as i64)));
    let (quota, period) = pods.filter(|(quota, period)| *quota > 0 && *period > 0).or_else(own)?;
    (quota > 0 && period > 0).then(|| (quota as u64).div_ceil(period as u64))
}

/// The memory that a limit leaves.
fn limit(annotations: &HashMap<String, String>, resources: Option<&LinuxResources>) -> Option<u64> {
    let pods = annotations.get(POD_MEMORY).and_then(|text| text.parse::<i64>().ok());
    let own = || resources.and_then(|resources| resources.memory().as_ref()).and_then(LinuxMemory::limit);
    pods.filter(|limit| *limit > 0).or_else(own).and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
}

/// A number of bytes, with Kubernetes' suffixes: `Ki`, `Mi`, `Gi` of 1024, `k`, `M`, `G` of 1000.
fn bytes(text: &str) -> Result<u64, &'static str> {
    let digits = text.trim_end_matches(|character: char| !character.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err("not a number of bytes, Ki, Mi, Gi, k, M or G"),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number of bytes, Ki, Mi, Gi, k, M or G")?;
    number.checked_mul(unit).ok_or("too large")
}

/// The limits of the cgroup in which a virtual machine is: of the container's own only those that hold for the machine as a whole. What is left of its processes is
/// limited by the guest's own cgroups; the monitor's threads are none of them.
pub fn cgroup_limits(resources: &LinuxResources) -> LinuxResources {
    let mut limits = resources.clone();
    limits.set_pids(None);
    if let Some(memory) = limits.memory_mut() {
        let beside = OVERHEAD as i64 + MONITOR;
        let raised = |limit: Option<i64>| limit.map(|limit| if limit > 0 { limit.saturating_add(beside) } else { limit });
        memory.set_limit(raised(memory.limit()));
        memory.set_swap(raised(memory.swap()));
        memory.set_reservation(raised(memory.reservation()));
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const HOST: u64 = 8 << 30;

    fn size(settings: Microvm, annotations: &[(&str, &str)], resources: Value) -> Result<Size, String> {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        of(&settings, &annotations, Some(&resources), HOST).map_err(|error| error.to_string())
    }

    fn is(vcpus: u8, mebibytes: u64) -> Result<Size, String> {
        Ok(Size { vcpus, memory: mebibytes << 20 })
    }

    #[test]
    fn a_size_is_the_first_that_is_asked_for() {
        let none = Microvm::default;
        assert_eq!(size(none(), &[], json!({})), is(1, 512));
        let limits = json!({ "cpu": { "quota": 250_000, "period": 100_000 }, "memory": { "limit": 300 << 20 } });
        assert_eq!(size(none(), &[], limits.clone()), is(3, 428));
        let pod = [(POD_QUOTA, "400000"), (POD_PERIOD, "100000"), (POD_MEMORY, "1073741824")];
        assert_eq!(size(none(), &pod, limits.clone()), is(4, 1152));
        let settings = || Microvm { vcpus: Some(2), memory: Some("1Gi".into()) };
        assert_eq!(size(settings(), &pod, limits.clone()), is(2, 1024));
        assert_eq!(size(settings(), &[(VCPUS_KEY, "5"), (MEMORY_KEY, "256Mi")], limits), is(5, 256));
        let nothing = json!({ "cpu": { "quota": -1 }, "memory": { "limit": -1 } });
        assert_eq!(size(none(), &[(POD_QUOTA, "0"), (POD_PERIOD, "0"), (POD_MEMORY, "0")], nothing), is(1, 512));
    }

    #[test]
    fn limits_beyond_the_host_are_the_hosts() {
        let huge = json!({ "cpu": { "quota": i64::MAX, "period": 1 }, "memory": { "limit": i64::MAX } });
        assert_eq!(size(Microvm::default(), &[], huge), is(32, HOST >> 20));
    }

    #[test]
    fn what_can_not_be_is_named() {
        let refused = |key, value| size(Microvm::default(), &[(key, value)], json!({})).unwrap_err();
        assert_eq!(refused(VCPUS_KEY, "two"), "bulkhead.dev/vcpus: \"two\": not a number of processors");
        assert_eq!(refused(VCPUS_KEY, "0"), "bulkhead.dev/vcpus: 0: a virtual machine has 1 to 32");
        assert_eq!(refused(MEMORY_KEY, "64Mi"), "bulkhead.dev/memory: 67108864: a virtual machine needs 128 MiB at least");
        assert_eq!(refused(MEMORY_KEY, "9Gi"), "bulkhead.dev/memory: 9663676416: this host has 8192 MiB");
        assert_eq!(refused(MEMORY_KEY, "1X"), "bulkhead.dev/memory: \"1X\": not a number of bytes, Ki, Mi, Gi, k, M or G");
        let settings = Microvm { vcpus: Some(33), memory: None };
        assert_eq!(size(settings, &[], json!({})).unwrap_err(), "microvm.vcpus: 33: a virtual machine has 1 to 32");
    }

    #[test]
    fn the_machines_cgroup_has_room_for_its_overhead() {
        let resources = json!({ "memory": { "limit": 1 << 20, "swap": -1 }, "pids": { "limit": 3 }, "cpu": { "shares": 7 } });
        let limits = cgroup_limits(&serde_json::from_value(resources).unwrap());
        let memory = limits.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some((1 << 20) + (192 << 20)), Some(-1)));
        assert!(limits.pids().is_none());
        assert_eq!(limits.cpu().as_ref().unwrap().shares(), Some(7));
    }

    proptest! {
        #[test]
        fn any_annotation_is_a_size_or_an_error(vcpus in ".{0,20}", memory in ".{0,20}", number in any::<u64>(), suffix in "(Ki|Mi|Gi|k|M|G|)") {
            for memory in [memory.clone(), format!("{number}{suffix}")] {
                if let Ok(size) = size(Microvm::default(), &[(VCPUS_KEY, &vcpus), (MEMORY_KEY, &memory)], json!({})) {
                    prop_assert!((1..=32).contains(&size.vcpus) && size.memory >= LEAST && size.memory <= HOST + UNIT);
                }
            }
        }
    }
}
