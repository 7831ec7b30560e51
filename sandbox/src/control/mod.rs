//! The control protocol's server, on the kernel's own reactor: no thread per connection, no thread per waiting client.
//!
//! A connection is either a ttrpc connection ([`connection`]) or, when its first bytes say so, a stream connection that carries descriptors
//! ([`streams`]). Requests are answered by [`service`]; [`create`] makes containers and [`launch`] processes;
//! [`memory`] tells which of them ended because memory ran out.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::errno::Result;
use crate::kernel::kernel;
use crate::kernel::reactor::Watch;
use crate::kernel::wait::{Observer, Ready};

mod connection;
mod create;
mod environment;
mod launch;
mod memory;
mod mounts;
mod populate;
mod service;
mod streams;

/// The listening socket.
struct Door {
    socket: std::os::unix::net::UnixListener,
    _watch: std::sync::OnceLock<Watch>,
}

impl Observer for Door {
    fn notify(&self, _: Ready) {
        while let Ok((socket, _)) = self.socket.accept() {
            connection::serve(socket);
        }
    }
}

/// Serves connections to this listening socket, on the reactor.
pub fn listen(socket: OwnedFd) -> Result<()> {
    let socket = std::os::unix::net::UnixListener::from(socket);
    socket.set_nonblocking(true)?;
    let door = Arc::new(Door { socket, _watch: std::sync::OnceLock::new() });
    let watch = kernel().reactor.watch(door.socket.as_fd(), Ready::IN, door.clone())?;
    let _ = door._watch.set(watch);
    // Clients that came before the watch.
    door.notify(Ready::IN);
    Ok(())
}
