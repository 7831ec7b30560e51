//! What a container has used, in the shape in which `runc events` prints it, from its cgroup (v1 or v2) or from its wall.
//!
//! A file that this machine's kernel does not have counts for nothing: which there are depends on its version and options.
//! Source of the names: runc's types/events.go; Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bulkhead_protocol::messages::StatsResponse;
use serde::Serialize;

use super::hierarchies::with_file;

fn zero(number: &u64) -> bool {
    *number == 0
}

/// Everything; times in nanoseconds, sizes in bytes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Processor time.
    pub cpu: Cpu,
    /// The processors and memory nodes it may use (v1).
    pub cpuset: BTreeMap<&'static str, Setting>,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Block devices.
    pub blkio: BlockIo,
    /// Huge pages, by their size.
    pub hugetlb: BTreeMap<String, HugePages>,
    /// Cache allocation: never there.
    pub intel_rdt: BTreeMap<(), ()>,
    /// Network interfaces, which runc leaves to its clients as well.
    pub network_interfaces: Option<()>,
}

/// A value of cpuset's: a list or a number.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Setting {
    /// The numbers of processors or nodes.
    List(Vec<u64>),
    /// Anything else.
    Number(i64),
}

/// Processor time.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Used.
    pub usage: CpuUsage,
    /// Held back.
    pub throttling: Throttling,
}

/// Used processor time.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct CpuUsage {
    /// In all.
    #[serde(skip_serializing_if = "zero")]
    pub total: u64,
    /// By processor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// By processor, in the host's kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// By processor, outside of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the host's kernel.
    pub kernel: u64,
    /// Outside of it.
    pub user: u64,
}

/// How a quota held it back.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Throttling {
    /// Periods that have passed.
    #[serde(skip_serializing_if = "zero")]
    pub periods: u64,
    /// Those in which it was held back.
    #[serde(rename = "throttledPeriods", skip_serializing_if = "zero")]
    pub throttled_periods: u64,
    /// For how long.
    #[serde(rename = "throttledTime", skip_serializing_if = "zero")]
    pub throttled_time: u64,
}

/// Memory.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Page cache.
    #[serde(skip_serializing_if = "zero")]
    pub cache: u64,
    /// All of it.
    pub usage: MemoryEntry,
    /// v1: with swap; v2: swap alone.
    pub swap: MemoryEntry,
    /// The host kernel's part.
    pub kernel: MemoryEntry,
    /// Its TCP buffers.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    /// `memory.stat`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
}

/// One kind of memory.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryEntry {
    /// The most it may use.
    pub limit: u64,
    /// What it uses.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The most it has used.
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often it met its limit.
    pub failcnt: u64,
}

/// Processes.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// How many there are.
    #[serde(skip_serializing_if = "zero")]
    pub current: u64,
    /// How many there may be; 0 for no limit.
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

/// Block devices.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockIo {
    /// Bytes moved.
    #[serde(rename = "ioServiceBytesRecursive", skip_serializing_if = "Vec::is_empty")]
    pub bytes: Vec<DeviceEntry>,
    /// Operations.
    #[serde(rename = "ioServicedRecursive", skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<DeviceEntry>,
}

/// One count of one device.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct DeviceEntry {
    #[serde(skip_serializing_if = "zero")]
    pub major: u64,
    #[serde(skip_serializing_if = "zero")]
    pub minor: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    #[serde(skip_serializing_if = "zero")]
    pub value: u64,
}

/// Huge pages of one size.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct HugePages {
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    pub failcnt: u64,
}

/// What the cgroup with these directories has used.
pub fn of_cgroup(directories: &[PathBuf]) -> Statistics {
    if with_file(directories, "cgroup.controllers").is_some() { version_2(directories) } else { version_1(directories) }
}

/// One file of a cgroup; empty where it is not there.
fn text(directories: &[PathBuf], file: &str) -> String {
    with_file(directories, file).and_then(|directory| std::fs::read_to_string(directory.join(file)).ok()).unwrap_or_default()
}

/// A file with one number; `max` is the highest there is.
fn number(directories: &[PathBuf], file: &str) -> u64 {
    match text(directories, file).trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or(0),
    }
}

/// A file with lines of a name and a number.
fn named(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| line.split_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)));
    text.lines().filter_map(pair).collect()
}

fn get(map: &BTreeMap<String, u64>, name: &str) -> u64 {
    map.get(name).copied().unwrap_or(0)
}

fn version_1(directories: &[PathBuf]) -> Statistics {
    /// `USER_HZ` in nanoseconds: the unit of cpuacct.stat, 100 a second on every Linux for x86-64.
    const TICK: u64 = 10_000_000;
    let throttled = named(&text(directories, "cpu.stat"));
    let split = named(&text(directories, "cpuacct.stat"));
    let table = text(directories, "cpuacct.usage_all");
    let column =
        |index: usize| -> Vec<u64> { table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(index)?.parse().ok()).collect() };
    let memory = |prefix: &str| MemoryEntry {
        limit: number(directories, &format!("{prefix}.limit_in_bytes")),
        usage: number(directories, &format!("{prefix}.usage_in_bytes")),
        max: number(directories, &format!("{prefix}.max_usage_in_bytes")),
        failcnt: number(directories, &format!("{prefix}.failcnt")),
    };
    let raw = named(&text(directories, "memory.stat"));
    let devices = |file: &str| text(directories, file).lines().filter_map(device_line).collect();
    Statistics {
        cpu: Cpu {
            usage: CpuUsage {
                total: number(directories, "cpuacct.usage"),
                percpu: text(directories, "cpuacct.usage_percpu").split_whitespace().filter_map(|word| word.parse().ok()).collect(),
                percpu_user: column(1),
                percpu_kernel: column(2),
                kernel: get(&split, "system") * TICK,
                user: get(&split, "user") * TICK,
            },
            throttling: Throttling {
                periods: get(&throttled, "nr_periods"),
                throttled_periods: get(&throttled, "nr_throttled"),
                throttled_time: get(&throttled, "throttled_time"),
            },
        },
        cpuset: cpuset(directories),
        memory: Memory {
            cache: get(&raw, "cache"),
            usage: memory("memory"),
            swap: memory("memory.memsw"),
            kernel: memory("memory.kmem"),
            kernel_tcp: memory("memory.kmem.tcp"),
            raw,
        },
        pids: pids(directories),
        blkio: BlockIo {
            bytes: devices("blkio.throttle.io_service_bytes_recursive"),
            operations: devices("blkio.throttle.io_serviced_recursive"),
        },
        hugetlb: huge_pages(directories, "limit_in_bytes", |size| HugePages {
            usage: number(directories, &format!("hugetlb.{size}.usage_in_bytes")),
            max: number(directories, &format!("hugetlb.{size}.max_usage_in_bytes")),
            failcnt: number(directories, &format!("hugetlb.{size}.failcnt")),
        }),
        ..Statistics::default()
    }
}

fn version_2(directories: &[PathBuf]) -> Statistics {
    /// Microseconds in nanoseconds.
    const MICRO: u64 = 1000;
    let cpu = named(&text(directories, "cpu.stat"));
    let raw = named(&text(directories, "memory.stat"));
    let memory = |prefix: &str| MemoryEntry {
        limit: number(directories, &format!("{prefix}.max")),
        usage: number(directories, &format!("{prefix}.current")),
        max: number(directories, &format!("{prefix}.peak")),
        failcnt: get(&named(&text(directories, &format!("{prefix}.events"))), "max"),
    };
    let io = text(directories, "io.stat");
    let devices = |[read, written]: [&str; 2]| {
        io.lines().flat_map(|line| [entry_of_io_stat(line, read, "Read"), entry_of_io_stat(line, written, "Write")]).flatten().collect()
    };
    Statistics {
        cpu: Cpu {
            usage: CpuUsage {
                total: get(&cpu, "usage_usec") * MICRO,
                kernel: get(&cpu, "system_usec") * MICRO,
                user: get(&cpu, "user_usec") * MICRO,
                ..CpuUsage::default()
            },
            throttling: Throttling {
                periods: get(&cpu, "nr_periods"),
                throttled_periods: get(&cpu, "nr_throttled"),
                throttled_time: get(&cpu, "throttled_usec") * MICRO,
            },
        },
        memory: Memory {
            cache: get(&raw, "file"),
            usage: memory("memory"),
            swap: memory("memory.swap"),
            kernel: MemoryEntry { usage: get(&raw, "kernel"), ..MemoryEntry::default() },
            kernel_tcp: MemoryEntry { usage: get(&raw, "sock"), ..MemoryEntry::default() },
            raw,
        },
        pids: pids(directories),
        blkio: BlockIo { bytes: devices(["rbytes", "wbytes"]), operations: devices(["rios", "wios"]) },
        hugetlb: huge_pages(directories, "max", |size| HugePages {
            usage: number(directories, &format!("hugetlb.{size}.current")),
            failcnt: get(&named(&text(directories, &format!("hugetlb.{size}.events"))), "max"),
            max: 0,
        }),
        ..Statistics::default()
    }
}

fn pids(directories: &[PathBuf]) -> Pids {
    let limit = number(directories, "pids.max");
    Pids { current: number(directories, "pids.current"), limit: if limit == u64::MAX { 0 } else { limit } }
}

fn cpuset(directories: &[PathBuf]) -> BTreeMap<&'static str, Setting> {
    const NUMBERS: [&str; 9] = [
        "cpu_exclusive",
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
        "sched_relax_domain_level",
    ];
    let mut settings = BTreeMap::new();
    if with_file(directories, "cpuset.cpus").is_none() {
        return settings;
    }
    for name in ["cpus", "mems"] {
        settings.insert(name, Setting::List(list(text(directories, &format!("cpuset.{name}")).trim())));
    }
    for name in NUMBERS {
        settings.insert(name, Setting::Number(text(directories, &format!("cpuset.{name}")).trim().parse().unwrap_or(0)));
    }
    settings
}

/// `0-2,5` as numbers.
fn list(text: &str) -> Vec<u64> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        // The highest number of processors that Linux can be built for, and then some.
        (last < 1 << 16).then_some(first..=last)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// `8:0 Read 4096`, as blkio's files have it; the lines without a device are totals.
fn device_line(line: &str) -> Option<DeviceEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let (op, value) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
    Some(DeviceEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
}

/// One count of a line of io.stat: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn entry_of_io_stat(line: &str, key: &str, op: &str) -> Option<DeviceEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let value = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?.parse().ok()?;
    Some(DeviceEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op: op.to_owned(), value })
}

fn huge_pages(directories: &[PathBuf], limit: &str, read: impl Fn(&str) -> HugePages) -> BTreeMap<String, HugePages> {
    let names = |directory: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let files = directories.iter().flat_map(|directory| names(directory));
    let size = |file: String| Some(file.strip_prefix("hugetlb.")?.strip_suffix(limit)?.strip_suffix('.')?.to_owned());
    files.filter_map(size).filter(|size| !size.contains('.')).map(|size| (size.clone(), read(&size))).collect()
}

/// What the wall says that a container has used.
pub fn of_wall(answer: &StatsResponse) -> Statistics {
    let (cpu, memory) = (answer.cpu.get_or_default(), answer.memory.get_or_default());
    let entry = |device: (u64, u64), op: &str, value| DeviceEntry { major: device.0, minor: device.1, op: op.to_owned(), value };
    let mut blkio = BlockIo::default();
    for device in &answer.devices {
        let number = (device.major, device.minor);
        blkio.bytes.extend([entry(number, "Read", device.read_bytes), entry(number, "Write", device.written_bytes)]);
        blkio.operations.extend([entry(number, "Read", device.reads), entry(number, "Write", device.writes)]);
    }
    let limit = answer.pids.limit;
    Statistics {
        cpu: Cpu {
            usage: CpuUsage {
                total: cpu.total,
                percpu: cpu.total_by_cpu.clone(),
                kernel: cpu.kernel,
                user: cpu.user,
                ..CpuUsage::default()
            },
            throttling: Throttling { periods: cpu.periods, throttled_periods: cpu.throttled_periods, throttled_time: cpu.throttled_time },
        },
        memory: Memory {
            cache: memory.page_cache,
            usage: MemoryEntry { limit: memory.limit, usage: memory.usage, max: memory.maximum, failcnt: memory.failures },
            swap: MemoryEntry { limit: memory.swap_limit, usage: memory.swap_usage, ..MemoryEntry::default() },
            raw: memory.details.iter().map(|(name, value)| (name.clone(), *value)).collect(),
            ..Memory::default()
        },
        pids: Pids { current: answer.pids.current, limit: if limit == u64::MAX { 0 } else { limit } },
        blkio,
        ..Statistics::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let path = directory.path().to_owned();
        (directory, vec![path])
    }

    #[test]
    fn version_1_is_shown_in_runcs_shape() {
        let (_kept, directories) = directory(&[
            ("cpuacct.usage", "9921721\n"),
            ("cpuacct.usage_percpu", "377460 9544261 \n"),
            ("cpuacct.usage_all", "cpu user system\n0 0 0\n1 1 4000000\n"),
            ("cpuacct.stat", "user 1\nsystem 2\n"),
            ("cpu.stat", "nr_periods 3\nnr_throttled 1\nthrottled_time 7\n"),
            ("memory.usage_in_bytes", "950272\n"),
            ("memory.limit_in_bytes", "67108864\n"),
            ("memory.stat", "cache 4096\nrss 1\n"),
            ("pids.current", "1\n"),
            ("pids.max", "max\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 10\n8:0 Write 0\nTotal 10\n"),
            ("hugetlb.2MB.limit_in_bytes", "1\n"),
            ("hugetlb.2MB.rsvd.limit_in_bytes", "1\n"),
            ("cpuset.cpus", "0-1\n"),
            ("cpuset.mems", "0\n"),
        ]);
        let shown = serde_json::to_value(of_cgroup(&directories)).unwrap();
        assert_eq!(shown["cpu"]["usage"]["percpu_kernel"], json!([0, 4_000_000]));
        assert_eq!(shown["cpu"]["usage"]["kernel"], 20_000_000);
        assert_eq!(shown["cpu"]["throttling"], json!({ "periods": 3, "throttledPeriods": 1, "throttledTime": 7 }));
        assert_eq!(shown["memory"]["usage"], json!({ "limit": 67_108_864, "usage": 950_272, "failcnt": 0 }));
        assert_eq!(shown["memory"]["raw"], json!({ "cache": 4096, "rss": 1 }));
        assert_eq!(shown["pids"], json!({ "current": 1 }));
        assert_eq!(shown["blkio"]["ioServiceBytesRecursive"][0], json!({ "major": 8, "op": "Read", "value": 10 }));
        assert_eq!(shown["hugetlb"], json!({ "2MB": { "failcnt": 0 } }));
        assert_eq!(shown["cpuset"]["cpus"], json!([0, 1]));
        assert_eq!(shown["network_interfaces"], json!(null));
    }

    #[test]
    fn version_2_is_shown_in_the_same_shape() {
        let (_kept, directories) = directory(&[
            ("cgroup.controllers", "cpu memory\n"),
            ("cpu.stat", "usage_usec 10\nuser_usec 4\nsystem_usec 6\nnr_periods 1\nnr_throttled 1\nthrottled_usec 2\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\n"),
            ("memory.stat", "anon 1\nfile 2\nkernel 3\nsock 4\n"),
            ("pids.current", "7\n"),
            ("pids.max", "100\n"),
            ("io.stat", "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:32 \n"),
        ]);
        let shown = serde_json::to_value(of_cgroup(&directories)).unwrap();
        assert_eq!(shown["cpu"]["usage"], json!({ "total": 10_000, "kernel": 6_000, "user": 4_000 }));
        assert_eq!(shown["memory"]["usage"], json!({ "limit": u64::MAX, "usage": 4096, "failcnt": 5 }));
        assert_eq!((&shown["memory"]["cache"], &shown["memory"]["kernelTCP"]["usage"]), (&json!(2), &json!(4)));
        assert_eq!(shown["pids"], json!({ "current": 7, "limit": 100 }));
        assert_eq!(shown["blkio"]["ioServicedRecursive"][1], json!({ "major": 8, "minor": 16, "op": "Write", "value": 4 }));
    }

    #[test]
    fn a_walls_answer_is_shown_in_the_same_shape() {
        let mut answer = StatsResponse::new();
        answer.cpu.mut_or_insert_default().total = 5;
        answer.memory.mut_or_insert_default().limit = u64::MAX;
        answer.pids.mut_or_insert_default().limit = u64::MAX;
        let shown = serde_json::to_value(of_wall(&answer)).unwrap();
        assert_eq!(shown["cpu"]["usage"]["total"], 5);
        assert_eq!(shown["memory"]["usage"]["limit"], json!(u64::MAX));
        assert_eq!(shown["pids"], json!({}));
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(list("0-2,5"), [0, 1, 2, 5]);
        assert_eq!(list(""), Vec::<u64>::new());
        assert_eq!(list("0-99999999999,x-y,3"), [3]);
    }
}
