//! The conversation with the monitor, at [`BOOT_PORT`].

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use bulkhead_protocol::guest::{BOOT_PORT, Boot, FAILED, READY, read_message, write_message};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::network;
use crate::system::{self, text};
use crate::transport::Vsock;

/// Why a guest can not be what the monitor says.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Nobody answers.
    #[error("vsock port {BOOT_PORT} of the host")]
    Unreachable(#[source] io::Error),
    /// The message is none.
    #[error("the monitor's message")]
    Message(#[source] io::Error),
    /// The kernel refuses.
    #[error("{what}: {}", text(*error))]
    Refused {
        /// What it refuses.
        what: &'static str,
        /// Why.
        error: Errno,
    },
    /// The network can not be what it is to be.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
}

/// Connects to the monitor.
///
/// # Errors
/// [`BootError::Unreachable`].
pub fn dial() -> Result<OwnedFd, BootError> {
    Vsock::dial(BOOT_PORT).map_err(BootError::Unreachable)
}

/// Reads what the monitor says, and does it: entropy before anything draws random numbers, the time before anything is dated.
///
/// # Errors
/// What can not be done.
pub fn follow(connection: &OwnedFd) -> Result<(), BootError> {
    let boot: Boot = read_message(File::from(connection.try_clone().map_err(BootError::Message)?)).map_err(BootError::Message)?;
    crate::log::set_debug(boot.debug);
    let refused = |what| move |error| BootError::Refused { what, error };
    let random = nix::fcntl::open("/dev/urandom", nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
        .map_err(refused("/dev/urandom"))?;
    system::credit_entropy(random.as_fd(), &boot.entropy).map_err(refused("entropy"))?;
    let time = TimeSpec::new(boot.time.div_euclid(1_000_000_000), boot.time.rem_euclid(1_000_000_000));
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(refused("the time"))?;
    // The loopback interface among it, and the sysctls below `net.`.
    network::apply(&boot.network)?;
    Ok(())
}

/// Tells the monitor that the agent serves.
///
/// # Errors
/// [`BootError::Unreachable`].
pub fn say_ready(connection: &OwnedFd) -> Result<(), BootError> {
    connection.try_clone().map(File::from).and_then(|mut connection| connection.write_all(&[READY])).map_err(BootError::Unreachable)
}

/// Tells the monitor why it does not.
pub fn say_failed(connection: &OwnedFd, reason: &anyhow::Error) {
    let told = connection.try_clone().map(File::from).and_then(|mut connection| {
        connection.write_all(&[FAILED])?;
        write_message(&mut connection, &format!("{reason:#}"))
    });
    if let Err(error) = told {
        crate::log::error(format_args!("telling the monitor: {error}"));
    }
}
