//! The monitor: the process that is a pod's virtual machine, seen from the host.
//!
//! 1. [`prepare`] runs in `bulkhead`, as root on the host: it makes a process in namespaces of its own, which executes the binary again once it is released
//!    ([`bulkhead_launch`], [`settings`]). There `main` takes over.
//! 2. It enters its jail ([`crate::jail`]), builds the machine and its devices, starts it, and waits until the guest's agent says that it serves ([`run`],
//!    [`greeting`]). An agent that does not say so in time has its reason told with the end of the guest's console ([`tail`]).
//! 3. From then on its main thread is the [`relay`] between the pod's control socket and the agent.
//!
//! The process ends with status 0 when the last container has been deleted, and with 1 when the guest ends by itself: its control connections close
//! then, which clients take for the death of all that ran behind them. Nothing outlives it: the machine, its taps and its terminals are descriptors of this process.

use std::time::Duration;

use bulkhead_launch::{LaunchError, log};

pub mod greeting;
pub mod relay;
mod run;
mod settings;
mod tail;
mod wiring;

pub use bulkhead_launch::Process as Monitor;
pub use settings::{HostVsock, Options};
pub use tail::Tail;
pub use wiring::open_kvm;

/// The argument that makes the binary become a monitor.
pub const ARGUMENT: &str = "microvm-monitor";

/// How long an agent may take to be ready, unless somebody knows better: a guest of a nested machine, in software, needs ten seconds.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Why a monitor could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The host refused something.
    #[error("starting the microVM: {0}: {1}")]
    Host(&'static str, #[source] std::io::Error),
    /// The new process said what it could not do.
    #[error("starting the microVM: {0}")]
    Failed(String),
}

impl From<LaunchError> for MonitorError {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Host(what, error) => MonitorError::Host(what, error),
            LaunchError::Failed(reason) => MonitorError::Failed(reason),
        }
    }
}

/// A monitor that exists and waits for [`Prepared::release`]. Dropped, it ends; so it does when this process dies.
pub struct Prepared(bulkhead_launch::Prepared);

/// Makes a monitor, up to the point from which it would live on without its caller: a caller that writes down whom it has started does so now. A child of the
/// caller: reap it, or leave it to whoever adopts it.
///
/// # Errors
/// What the host refuses; nothing is left then.
pub fn prepare(options: Options) -> Result<Prepared, MonitorError> {
    let packed = settings::pack(options).map_err(|error| MonitorError::Host("writing its settings", error))?;
    Ok(Prepared(bulkhead_launch::prepare(packed)?))
}

impl Prepared {
    /// Its number on the host.
    pub fn pid(&self) -> i32 {
        self.0.pid()
    }

    /// Lets it go, and waits until its guest's agent serves.
    ///
    /// # Errors
    /// What it says that it could not do; it is gone then.
    pub fn release(self) -> Result<Monitor, MonitorError> {
        Ok(self.0.release()?)
    }
}

/// Becomes a monitor: the body of the re-executed binary. Never returns.
pub fn main() -> ! {
    let count = std::env::args().nth(2).and_then(|count| count.parse().ok());
    let inherited = count.and_then(bulkhead_launch::inherited);
    let Some((given, words)) = inherited.and_then(|inherited| Some((settings::unpack(inherited.descriptors)?, inherited.words))) else {
        eprintln!("bulkhead: {ARGUMENT} is started by bulkhead itself");
        std::process::exit(1);
    };
    let mut words = Some(words);
    let status = match run::run(given, &mut words, wiring::wire) {
        Ok(()) => 0,
        Err(error) => {
            log::error(&error);
            if let Some(words) = words {
                words.failed(&error);
            }
            1
        }
    };
    std::process::exit(status)
}
