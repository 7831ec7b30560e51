//! Files about the machine.

use super::container;
use crate::errno::Result;
use crate::fs::synthetic::{Named, constant};
use crate::kernel::signal;
use crate::syscalls::system_names::{RELEASE, VERSION};

/// What file systems there are to mount.
pub const FILE_SYSTEMS: &str = "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tcgroup2\nnodev\tdevpts\nnodev\tmqueue\nnodev\toverlay\n";
/// What drivers there are.
pub const DEVICES: &str = "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n";
/// What terminals there are (proc_tty(5)): `ps` takes their names from here.
const DRIVERS: &str = "/dev/tty             /dev/tty        5       0 system:/dev/tty\n\
                       /dev/console         /dev/console    5       1 system:console\n\
                       /dev/ptmx            /dev/ptmx       5       2 system\n\
                       pty_slave            /dev/pts      136 0-1048575 pty:slave\n";

/// A file of the host about processors, memory or time: nothing in these names anything of the host's.
pub fn of_host(name: &str) -> Result<Vec<u8>> {
    Ok(std::fs::read(crate::boot::tree::fact(name))?)
}

/// /proc/version
pub fn version() -> Vec<u8> {
    format!("Linux version {RELEASE} (bulkhead) {VERSION}\n").into_bytes()
}

/// /proc/tty.
pub fn terminals() -> Vec<Named> {
    vec![constant("drivers", DRIVERS)]
}

/// /proc/loadavg: the machine's load; threads and the last number given out are the container's.
pub fn load() -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(crate::boot::tree::fact("loadavg"))?;
    let fields: Vec<&str> = text.split_whitespace().collect();
    let running = fields.get(3).and_then(|field| field.split('/').next()?.parse::<usize>().ok()).unwrap_or(1);
    let (mut threads, mut last) = (0, 0);
    for process in container().iter().flat_map(signal::of_container) {
        for thread in process.threads.lock().iter() {
            threads += 1;
            last = last.max(thread.inner);
        }
    }
    let loads = fields.get(..3).unwrap_or(&[]).join(" ");
    Ok(format!("{loads} {}/{threads} {last}\n", running.clamp(1, threads.max(1))).into_bytes())
}

/// /proc/interrupts: a column for each processor, and no device of the host's.
pub fn interrupts() -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(crate::boot::tree::fact("interrupts"))?;
    Ok(text.lines().next().map(|head| format!("{head}\n")).unwrap_or_default().into_bytes())
}
