//! `update`: limits from flags, or from a file.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use crate::lifecycle::{self, Session};
use crate::oci;

#[derive(Args)]
pub struct Update {
    /// A file with an OCI resources object, or - for standard input; flags are ignored then
    #[arg(short, long)]
    resources: Option<PathBuf>,
    /// Weight of block operations, 10 to 1000
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// Period of the quota in microseconds
    #[arg(long)]
    cpu_period: Option<u64>,
    /// Processor time in each period, in microseconds
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Relative weight of processor time
    #[arg(long)]
    cpu_share: Option<u64>,
    /// Period of the real-time limit in microseconds
    #[arg(long)]
    cpu_rt_period: Option<u64>,
    /// Real-time processor time in each period, in microseconds
    #[arg(long, allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// Processors to use
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Accepted for compatibility: Linux has dropped this limit (5.16)
    #[arg(long, allow_hyphen_values = true, hide = true)]
    kernel_memory: Option<String>,
    /// Accepted for compatibility
    #[arg(long, allow_hyphen_values = true, hide = true)]
    kernel_memory_tcp: Option<String>,
    /// Bytes of memory, with an optional k, m or g; -1 for no limit
    #[arg(long, allow_hyphen_values = true)]
    memory: Option<String>,
    /// The soft limit
    #[arg(long, allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// Memory and swap together; -1 for no limit
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Number of processes
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Cache allocation: refused
    #[arg(long)]
    l3_cache_schema: Option<String>,
    /// Memory bandwidth: refused
    #[arg(long)]
    mem_bw_schema: Option<String>,
    id: String,
}

impl Update {
    pub fn run(self, session: &Session) -> anyhow::Result<i32> {
        let resources = match &self.resources {
            Some(path) if path.as_os_str() == "-" => oci::read(std::path::Path::new("/dev/stdin"))?,
            Some(path) => oci::read(path)?,
            None => self.flags()?,
        };
        lifecycle::update(session, &self.id, &resources)?;
        Ok(0)
    }

    fn flags(&self) -> anyhow::Result<Value> {
        for (flag, value) in [("--l3-cache-schema", &self.l3_cache_schema), ("--mem-bw-schema", &self.mem_bw_schema)] {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                anyhow::bail!("{flag} {value:?}: cache allocation is not supported");
            }
        }
        let mut resources = json!({});
        let mut set = |group: &str, name: &str, value: Option<Value>| {
            if let Some(value) = value {
                resources[group][name] = value;
            }
        };
        let memory = |flag: &str, text: &Option<String>| -> anyhow::Result<Option<Value>> {
            let bytes = text.as_ref().map(|text| bytes(text).with_context(|| format!("{flag} {text:?}: not a number of bytes")));
            Ok(bytes.transpose()?.map(|bytes| json!(bytes)))
        };
        set("memory", "limit", memory("--memory", &self.memory)?);
        set("memory", "reservation", memory("--memory-reservation", &self.memory_reservation)?);
        set("memory", "swap", memory("--memory-swap", &self.memory_swap)?);
        set("cpu", "period", self.cpu_period.map(Value::from));
        set("cpu", "quota", self.cpu_quota.map(Value::from));
        set("cpu", "shares", self.cpu_share.map(Value::from));
        set("cpu", "realtimePeriod", self.cpu_rt_period.map(Value::from));
        set("cpu", "realtimeRuntime", self.cpu_rt_runtime.map(Value::from));
        set("cpu", "cpus", self.cpuset_cpus.as_deref().map(Value::from));
        set("cpu", "mems", self.cpuset_mems.as_deref().map(Value::from));
        set("blockIO", "weight", self.blkio_weight.map(Value::from));
        set("pids", "limit", self.pids_limit.map(Value::from));
        Ok(resources)
    }
}

/// `64m`, `1gb`, `4096`, `-1`: as Docker writes sizes.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.to_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let end = lower.find(|character: char| !character.is_ascii_digit() && character != '-').unwrap_or(lower.len());
    let number: i64 = lower[..end].parse().ok()?;
    let shift = match lower[end..].trim_start() {
        "" => 0,
        "k" | "ki" => 10,
        "m" | "mi" => 20,
        "g" | "gi" => 30,
        "t" | "ti" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift).filter(|bytes| *bytes >= -1)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, expected) in [("64m", 64 << 20), ("1GB", 1 << 30), ("4096", 4096), ("-1", -1), ("2KiB", 2048), ("10b", 10)] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "m", "1x", "-2", "-1m", "9999999999t", "1.5m"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
