//! The monitor's own calls: it tells the guest the sizes of terminals that clients change.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;

use bulkhead_launch::log;
use bulkhead_protocol::call::{Method, encode_request};
use bulkhead_protocol::guest::CONTROL_PORT;
use bulkhead_protocol::messages::ResizeTerminalRequest;
use nix::sys::epoll::EpollFlags;

use super::pump::{Process, Pump};
use super::watch::{Outgoing, Wanted, Watched};
use super::{Entry, OWN, Relay};

/// Calls that the monitor itself makes; what is answered is of no interest.
pub(super) struct OwnCalls {
    agent: Watched<UnixStream>,
    out: Outgoing,
    stream: u32,
}

impl Relay<'_> {
    /// Tells the guest the size of a terminal that the client has changed. Nothing tells the slave of a terminal that is nobody's controlling one; so it is asked
    /// whenever bytes go over it.
    pub(super) fn announce_size(&mut self, pump: &mut Pump) {
        let Some((rows, columns)) = pump.new_size() else { return };
        let mut request = ResizeTerminalRequest::new();
        (request.container_id, request.exec_id) = (pump.process.container.clone(), pump.process.exec.clone());
        (request.rows, request.columns) = (rows.into(), columns.into());
        if let Err(error) = self.resize(&request) {
            log::error(&format!("control: the size of a terminal of container {}: {error}", request.container_id));
            self.own = None;
        }
    }

    /// The same for a process that begins.
    pub(super) fn announce_sizes(&mut self, process: &Process) {
        let of = |pump: &Pump| pump.is_console() && pump.process == *process;
        let found = self.entries.iter().find(|(_, entry)| matches!(entry, Entry::Pump(pump) if of(pump))).map(|(entry, _)| *entry);
        if let Some(entry) = found
            && let Some(Entry::Pump(mut pump)) = self.entries.remove(&entry)
        {
            self.announce_size(&mut pump);
            self.entries.insert(entry, Entry::Pump(pump));
        }
    }

    fn resize(&mut self, request: &ResizeTerminalRequest) -> io::Result<()> {
        /// An agent that does not read is told no more sizes.
        const MOST: usize = 16 << 10;
        if self.own.is_none() {
            self.own = Some(OwnCalls { agent: self.to_guest(CONTROL_PORT, OWN)?, out: Outgoing::default(), stream: 1 });
        }
        let Some(own) = &mut self.own else { return Ok(()) };
        own.stream = own.stream.wrapping_add(2);
        if own.out.len() < MOST {
            own.out.push(&encode_request(own.stream, Method::ResizeTerminal, request).map_err(io::Error::other)?);
        }
        self.own_calls();
        Ok(())
    }

    /// Sends our own calls, and drops their answers unread.
    pub(super) fn own_calls(&mut self) {
        let Some(own) = &mut self.own else { return };
        let mut open = match io::Read::read(&mut own.agent.get(), &mut [0; 4096]) {
            Ok(length) => length > 0,
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
        open &= own.out.flush(|bytes| own.agent.get().write(bytes)).is_ok();
        let mut wanted = EpollFlags::EPOLLIN;
        wanted.set(EpollFlags::EPOLLOUT, !own.out.is_empty());
        if !open || own.agent.want(Wanted::Events(wanted)).is_err() {
            self.own = None;
        }
    }
}
