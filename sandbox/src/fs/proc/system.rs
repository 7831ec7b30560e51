//! Files about the machine.

use crate::errno::Result;
use crate::syscalls::system_names::{RELEASE, VERSION};

/// What file systems there are to mount.
pub const FILE_SYSTEMS: &str = "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevpts\nnodev\tmqueue\nnodev\toverlay\n";
/// What drivers there are.
pub const DEVICES: &str = "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n";

/// A file of the host about processors, memory or time: nothing in these names anything of the host's.
pub fn of_host(name: &str) -> Result<Vec<u8>> {
    Ok(std::fs::read(format!("/proc/{name}"))?)
}

/// /proc/version
pub fn version() -> Vec<u8> {
    format!("Linux version {RELEASE} (bulkhead) {VERSION}\n").into_bytes()
}
