//! The kernel proper: tasks, identity, waiting, time.
//!
//! [`kernel`] is the one instance: this process *is* the kernel of its pod.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::errno::Result;
use crate::sync::RwLock;

pub mod accounting;
pub mod adopt;
pub mod container;
pub mod credentials;
pub mod elf;
pub mod exec;
pub mod exit;
pub mod fork;
pub mod itimer;
pub mod limits;
pub mod oom;
pub mod park;
pub mod posix_timer;
pub mod reactor;
pub mod sigmask;
pub mod signal;
pub mod signal_queue;
pub mod task;
pub mod timer;
pub mod wait;

use task::{Pid, Process, Thread};

/// Everything that exists once per pod.
pub struct Kernel {
    /// Host events.
    pub reactor: reactor::Reactor,
    /// Time-outs.
    pub timers: timer::Timers,
    /// Every thread of every container, by number.
    pub threads: RwLock<HashMap<Pid, Arc<Thread>>>,
    /// Every process.
    pub processes: RwLock<HashMap<Pid, Arc<Process>>>,
    /// The pod's containers, by id.
    pub containers: RwLock<HashMap<String, Arc<container::Container>>>,
}

static KERNEL: OnceLock<Kernel> = OnceLock::new();

/// Makes the kernel. Calling it again does nothing.
pub fn initialize() -> Result<&'static Kernel> {
    if KERNEL.get().is_none() {
        let fresh = Kernel {
            reactor: reactor::Reactor::new()?,
            timers: timer::Timers::new()?,
            threads: RwLock::default(),
            processes: RwLock::default(),
            containers: RwLock::default(),
        };
        let _ = KERNEL.set(fresh);
    }
    Ok(kernel())
}

/// The kernel.
///
/// # Panics
/// Before [`initialize`]: nothing of the kernel may be used before it exists.
pub fn kernel() -> &'static Kernel {
    KERNEL.get().expect("the kernel has been initialized")
}
