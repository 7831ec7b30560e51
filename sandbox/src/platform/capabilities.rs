//! The *host's* capabilities of the kernel process and the spawner (capabilities(7)). They count inside the pod's user namespace
//! only. The workload's emulated ones are [`crate::kernel::credentials`].

use caps::Capability;

use crate::errno::{Errno, Result};

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h).
const VERSION: u32 = 0x2008_0522;

/// Makes the calling thread's effective and permitted sets `mask`, its inheritable set empty.
pub fn set(mask: u64) -> Result<()> {
    let header: [u32; 2] = [VERSION, 0];
    let (low, high) = (mask as u32, (mask >> 32) as u32);
    let data: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: both arrays are what version 3 demands (two words; twice effective, permitted, inheritable) and live through the call.
    // Needed: one call instead of the six that the `caps` crate makes; each costs a round trip under the workload filter.
    if unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) } < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// Keeps a table's capabilities, and gives up all others for good: for this thread and those it will start.
pub fn keep_only(table: &[(Capability, &str)]) -> Result<()> {
    for number in 0..64 {
        // SAFETY: no memory is passed. Fails from the first number that the host does not know.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } < 0 {
            break;
        }
    }
    set(table.iter().fold(0, |mask, (capability, _)| mask | 1 << capability.index()))
}
