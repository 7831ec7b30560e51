//! What a container has used, from the files of its cgroup.

use bulkhead_protocol::messages::{StatsResponse, stats_response};

use super::cgroup::{Cgroup, keyed};

/// Reads them all.
pub fn read(cgroup: &Cgroup) -> StatsResponse {
    let text = |name: &str| cgroup.read(name).unwrap_or_default();
    let mut statistics = StatsResponse::new();
    statistics.cpu = Some(processor(&text("cpu.stat"))).into();
    let mut memory = memory(&text("memory.stat"));
    memory.usage = number(&text("memory.current"));
    memory.maximum = number(&text("memory.peak"));
    memory.limit = limit(&text("memory.max"));
    memory.failures = keyed(&text("memory.events"), "max").unwrap_or(0);
    memory.swap_usage = number(&text("memory.swap.current"));
    memory.swap_limit = limit(&text("memory.swap.max"));
    statistics.memory = Some(memory).into();
    let mut pids = stats_response::Pids::new();
    pids.current = number(&text("pids.current"));
    pids.limit = limit(&text("pids.max"));
    statistics.pids = Some(pids).into();
    statistics.devices = devices(&text("io.stat"));
    statistics
}

/// A file of one number; 0 where it is not there.
fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// A file of one limit; none where it says `max` or is not there.
fn limit(text: &str) -> u64 {
    text.trim().parse().unwrap_or(u64::MAX)
}

/// cpu.stat counts in microseconds.
fn processor(text: &str) -> stats_response::Cpu {
    let nanoseconds = |key| keyed(text, key).unwrap_or(0).saturating_mul(1000);
    let count = |key| keyed(text, key).unwrap_or(0);
    stats_response::Cpu {
        total: nanoseconds("usage_usec"),
        user: nanoseconds("user_usec"),
        kernel: nanoseconds("system_usec"),
        periods: count("nr_periods"),
        throttled_periods: count("nr_throttled"),
        throttled_time: nanoseconds("throttled_usec"),
        ..stats_response::Cpu::new()
    }
}

fn memory(text: &str) -> stats_response::Memory {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let details = lines.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?))).collect();
    stats_response::Memory { page_cache: keyed(text, "file").unwrap_or(0), details, ..stats_response::Memory::new() }
}

/// io.stat: lines of `major:minor key=value...`.
fn devices(text: &str) -> Vec<stats_response::Device> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let mut device = stats_response::Device { major: major.parse().ok()?, minor: minor.parse().ok()?, ..stats_response::Device::new() };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => device.read_bytes = value,
                "wbytes" => device.written_bytes = value,
                "rios" => device.reads = value,
                "wios" => device.writes = value,
                _ => {}
            }
        }
        Some(device)
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let cpu = processor("usage_usec 12\nuser_usec 7\nsystem_usec 5\nnr_periods 3\nnr_throttled 2\nthrottled_usec 9\n");
        assert_eq!((cpu.total, cpu.user, cpu.kernel), (12_000, 7_000, 5_000));
        assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled_time), (3, 2, 9_000));
        let memory = memory("anon 4096\nfile 8192\nfile_mapped 1\n");
        assert_eq!((memory.page_cache, memory.details["anon"], memory.details["file_mapped"]), (8192, 4096, 1));
        let devices = devices("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:0\n");
        assert_eq!(devices.len(), 2);
        assert_eq!((devices[0].major, devices[0].read_bytes, devices[0].writes), (254, 1, 4));
        assert_eq!((limit("max\n"), limit("12\n"), number("3\n"), number("")), (u64::MAX, 12, 3, 0));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z0-9:= \n_]{0,120}") {
            let _ = (processor(&text), memory(&text), devices(&text));
        }
    }
}
