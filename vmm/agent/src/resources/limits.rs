//! `linux.resources` as writes to a cgroup's files.
//!
//! Processors, memory nodes and block devices are named in config.json by the host's numbers. The guest's are others: a limit on one that the guest does
//! not have binds on the host, where the machine's own cgroup carries it, and is logged here. Rules for devices there are none: see
//! [`crate::container::devices`].

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::cgroup::{Cgroup, CgroupError};

/// Why a limit is refused.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The kernel's word.
    #[error("linux.resources.{field}: {error}")]
    Refused {
        /// The field of config.json.
        field: String,
        /// Why.
        error: CgroupError,
    },
    /// It can not be meant.
    #[error("linux.resources.{field}: {value}: {reason}")]
    Invalid {
        /// The field of config.json.
        field: &'static str,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    /// The field of config.json that asks for it.
    field: String,
    file: String,
    value: String,
    /// It names the host's hardware: where the guest has none such, the host's limit is the one that binds.
    hosts: bool,
}

/// Sets the limits that are there; others stay.
///
/// # Errors
/// The first that is refused.
pub fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), LimitError> {
    for write in writes(resources)? {
        match cgroup.write(&write.file, &write.value) {
            Ok(()) => {}
            Err(error) if write.hosts => crate::log::error(format_args!("linux.resources.{}: left to the host: {error}", write.field)),
            Err(error) => return Err(LimitError::Refused { field: write.field, error }),
        }
    }
    Ok(())
}

/// What is to be written, in order.
fn writes(resources: &LinuxResources) -> Result<Vec<Write>, LimitError> {
    let mut writes = Vec::new();
    let mut write = |field: &str, file: &str, value: String| {
        writes.push(Write { field: field.to_owned(), file: file.to_owned(), value, hosts: false });
    };
    if let Some(cpu) = resources.cpu() {
        processor(cpu, &mut write)?;
    }
    if let Some(memory) = resources.memory() {
        self::memory(memory, &mut write)?;
    }
    if let Some(pids) = resources.pids() {
        // As runc has it: what is not above zero is no limit.
        write("pids.limit", "pids.max", bound(if pids.limit() > 0 { pids.limit() } else { -1 }));
    }
    for page in resources.hugepage_limits().iter().flatten() {
        if page.page_size().contains('/') {
            return Err(LimitError::Invalid { field: "hugepageLimits", value: page.page_size().clone(), reason: "not a page size" });
        }
        write("hugepageLimits", &format!("hugetlb.{}.max", page.page_size()), bound(page.limit()));
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") {
            return Err(LimitError::Invalid { field: "unified", value: file.clone(), reason: "not a controller's file" });
        }
        write(&format!("unified[{file:?}]"), file, value.clone());
    }
    if let Some(cpu) = resources.cpu() {
        for (field, file, list) in [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())] {
            if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
                writes.push(Write { field: field.to_owned(), file: file.to_owned(), value: list.clone(), hosts: true });
            }
        }
    }
    if let Some(block) = resources.block_io() {
        writes.extend(block_devices(block));
    }
    Ok(writes)
}

/// A limit in the kernel's words.
fn bound(limit: i64) -> String {
    if limit < 0 { String::from("max") } else { limit.to_string() }
}

fn processor(cpu: &LinuxCpu, write: &mut dyn FnMut(&str, &str, String)) -> Result<(), LimitError> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
        write("cpu.shares", "cpu.weight", weight(shares).to_string());
    }
    let (quota, period) = (cpu.quota().filter(|quota| *quota != 0), cpu.period().filter(|period| *period != 0));
    if quota.is_some() || period.is_some() {
        let quota = bound(quota.unwrap_or(-1));
        // Without a period the kernel keeps the one that it has.
        write("cpu.quota", "cpu.max", period.map_or(quota.clone(), |period| format!("{quota} {period}")));
    }
    if let Some(burst) = cpu.burst() {
        write("cpu.burst", "cpu.max.burst", burst.to_string());
    }
    if let Some(idle) = cpu.idle() {
        write("cpu.idle", "cpu.idle", idle.to_string());
    }
    match (cpu.realtime_runtime(), cpu.realtime_period()) {
        (None | Some(0), None | Some(0)) => Ok(()),
        (runtime, _) => Err(LimitError::Invalid {
            field: "cpu.realtimeRuntime",
            value: runtime.unwrap_or(0).to_string(),
            reason: "cgroup v2 has no real-time scheduling",
        }),
    }
}

/// cgroup v1's shares, 2 to 262144, as v2's weight, 1 to 10000: the line that runc draws.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn memory(memory: &LinuxMemory, write: &mut dyn FnMut(&str, &str, String)) -> Result<(), LimitError> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
        // config.json's is memory and swap together, v2's is swap alone.
        let swap = match (swap, limit) {
            (swap, _) if swap < 0 => -1,
            (swap, Some(limit)) if limit > 0 && swap >= limit => swap - limit,
            (swap, _) => {
                let reason = "memory and swap together need memory.limit, and are not less";
                return Err(LimitError::Invalid { field: "memory.swap", value: swap.to_string(), reason });
            }
        };
        write("memory.swap", "memory.swap.max", bound(swap));
    }
    if let Some(limit) = limit {
        write("memory.limit", "memory.max", bound(limit));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        write("memory.reservation", "memory.low", bound(reservation));
    }
    Ok(())
}

fn block_devices(block: &LinuxBlockIo) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut write = |field: &str, file: &str, value: String| {
        writes.push(Write { field: format!("blockIO.{field}"), file: file.to_owned(), value, hosts: true });
    };
    if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
        // v1's 10 to 1000 as v2's 1 to 10000, as runc has it.
        write("weight", "io.weight", (1 + (u64::from(weight).clamp(10, 1000) - 10) * 9999 / 990).to_string());
    }
    let throttles: [(&str, &str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("throttleReadBpsDevice", "rbps", block.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "wbps", block.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "riops", block.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "wiops", block.throttle_write_iops_device()),
    ];
    for (field, key, devices) in throttles {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { String::from("max") } else { device.rate().to_string() };
            write(field, "io.max", format!("{}:{} {key}={rate}", device.major(), device.minor()));
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(json: &str) -> Result<Vec<(String, String)>, String> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let writes = writes(&resources).map_err(|error| error.to_string())?;
        Ok(writes.into_iter().map(|write| (write.file, write.value)).collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        Ok(list.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn limits_are_written_as_runc_writes_them() {
        let json = r#"{"cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"}, "memory": {"limit": 1048576, "swap": 2097152,
            "reservation": 4096}, "pids": {"limit": 32}, "unified": {"memory.high": "900000"}}"#;
        let expected = [
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("memory.swap.max", "1048576"),
            ("memory.max", "1048576"),
            ("memory.low", "4096"),
            ("pids.max", "32"),
            ("memory.high", "900000"),
            ("cpuset.cpus", "0-1"),
        ];
        assert_eq!(written(json), pairs(&expected));
        assert_eq!(
            written(r#"{"cpu": {"quota": -1}, "memory": {"limit": -1}, "pids": {"limit": -1}}"#),
            pairs(&[("cpu.max", "max"), ("memory.max", "max"), ("pids.max", "max")])
        );
        assert_eq!(written("{}"), pairs(&[]));
    }

    #[test]
    fn block_devices_are_throttled_by_their_numbers() {
        let json = r#"{"blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 1000}]}}"#;
        assert_eq!(written(json), pairs(&[("io.weight", "4950"), ("io.max", "254:0 rbps=1000")]));
    }

    #[test]
    fn what_can_not_be_meant_is_refused_by_name() {
        assert!(written(r#"{"memory": {"swap": 5}}"#).unwrap_err().contains("memory.swap: 5"));
        assert!(written(r#"{"unified": {"../x.y": "1"}}"#).unwrap_err().contains("unified"));
        assert!(written(r#"{"unified": {"cgroup.procs": "1"}}"#).unwrap_err().contains("cgroup.procs"));
        assert!(written(r#"{"cpu": {"realtimeRuntime": 5}}"#).unwrap_err().contains("real-time"));
    }

    proptest! {
        #[test]
        fn weights_stay_in_their_range(shares in any::<u64>(), other in any::<u64>()) {
            prop_assert!((1..=10_000).contains(&weight(shares)));
            prop_assert!(shares > other || weight(shares) <= weight(other));
        }

        #[test]
        fn a_write_names_no_other_directory(file in "\\PC{0,12}", value in "\\PC{0,12}") {
            let resources: LinuxResources = serde_json::from_value(serde_json::json!({"unified": {file: value}})).unwrap();
            for write in writes(&resources).into_iter().flatten() {
                prop_assert!(!write.file.contains('/') && !write.file.starts_with("cgroup."));
            }
        }
    }
}
