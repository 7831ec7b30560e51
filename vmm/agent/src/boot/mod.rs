//! From the kernel's first program to an agent that serves.
//!
//! The order matters. File systems first, for everything else is found in them; then the modules, for without the transport's there is no device;
//! then what the devices give: the console for the log, the shared trees, the conversation with the monitor. The monitor sends entropy and the time
//! (a guest has neither of its own that it could rely on) and the network, and is told that the agent serves, or why it can not. The conversation
//! stays open: when the monitor ends it, the guest is over.
//!
//! | room | |
//! |---|---|
//! | [`tree`] | the root and the file systems |
//! | [`modules`] | the kernel's modules |
//! | [`monitor`] | the conversation |

use std::os::fd::OwnedFd;
use std::path::Path;

use bulkhead_protocol::guest::SHARED;

use crate::server::Places;

pub mod modules;
pub mod monitor;
pub mod tree;

/// Where things are in a guest.
pub fn places() -> Places {
    Places { shared: SHARED.into(), workspace: "/run/bulkhead/root".into(), cgroups: "/sys/fs/cgroup".into() }
}

/// Boots the guest; gives the conversation with the monitor, which waits for the word that the agent serves.
///
/// # Errors
/// What is not as it must be. The monitor has been told where it could be reached.
pub fn boot() -> anyhow::Result<OwnedFd> {
    tree::rebase()?;
    tree::mount_all()?;
    let loaded = modules::load(Path::new("/modules"));
    tree::log_to_console();
    tree::seal()?;
    let shared = loaded.map_err(anyhow::Error::from).and_then(|()| Ok(tree::mount_shared()?));
    let connection = match monitor::dial() {
        Ok(connection) => connection,
        Err(error) => {
            // The cause may be that a module was not loaded: whoever reads the console is to know both.
            if let Err(error) = shared {
                crate::log::error(format_args!("{error:#}"));
            }
            return Err(error.into());
        }
    };
    match shared.and_then(|()| Ok(monitor::follow(&connection)?)) {
        Ok(()) => Ok(connection),
        Err(error) => {
            monitor::say_failed(&connection, &error);
            Err(error)
        }
    }
}
