//! Pairing a stream of the host's with one of the guest's: the handshake, and then the bytes, as long as there are any.
//!
//! A request that names streams waits in its connection ([`Attaching`](super::client::Attaching)) until the agent has taken each of them.

use std::io::{self, Write};

use bulkhead_protocol::call::{Code, Refusal};
use bulkhead_protocol::guest::{READY, STREAMS_PORT};
use nix::sys::epoll::EpollFlags;

use super::attach::Stream;
use super::calls::forward;
use super::client::ClientKind;
use super::pump::{Pump, Stage};
use super::watch::Watched;
use super::{Entry, Relay, token};

impl Relay<'_> {
    /// Begins a stream's handshake.
    pub(super) fn attach(&mut self, client: u64, stream: Stream) -> io::Result<u64> {
        let entry = self.entry();
        let guest = self.to_guest(STREAMS_PORT, entry)?;
        // A fresh connection has room for four bytes.
        guest.get().write_all(&stream.identifier.to_le_bytes())?;
        let host = Watched::new(&self.epoll, token(entry, false), stream.host);
        let pump = Pump::new(client, guest, host, stream.ways, stream.process)?.with_console(stream.console);
        self.entries.insert(entry, Entry::Pump(Box::new(pump)));
        Ok(entry)
    }

    /// A stream of a client's request has been taken, or not. With the last one the request goes on.
    pub(super) fn attached_one(&mut self, entry: u64, failed: Option<&str>) {
        let Some(Entry::Client(mut client)) = self.entries.remove(&entry) else { return };
        if let ClientKind::Calls(calls) = &mut client.kind
            && let Some(mut attaching) = calls.attaching.take()
        {
            attaching.left -= 1;
            match failed {
                Some(reason) => {
                    let refusal = Refusal::new(Code::Internal, format!("attaching a stream: {reason}"));
                    calls.refuse(attaching.stream, &refusal);
                    self.settled(attaching.pending, Err(refusal));
                }
                None if attaching.left == 0 => forward(calls, attaching),
                None => calls.attaching = Some(attaching),
            }
        }
        self.resume(entry, client);
    }

    /// Something has happened on a stream.
    pub(super) fn pump(&mut self, entry: u64, mut pump: Box<Pump>, guest: bool, events: EpollFlags) {
        if let Stage::Handshake { client } = pump.stage {
            let answer = pump.handshake();
            match answer {
                Ok(None) => drop(self.entries.insert(entry, Entry::Pump(pump))),
                Ok(Some(READY)) => {
                    self.entries.insert(entry, Entry::Pump(pump));
                    self.attached_one(client, None);
                }
                _ => self.attached_one(client, Some("the guest's agent does not take it")),
            }
            return;
        }
        if pump.notice(guest, events) && self.carry(&mut pump) {
            self.entries.insert(entry, Entry::Pump(pump));
        } else {
            drop(pump);
            self.make_room();
        }
    }

    pub(super) fn carry(&mut self, pump: &mut Pump) -> bool {
        let stays = pump.stage != Stage::Running || pump.carry().unwrap_or(false);
        if stays {
            self.announce_size(pump);
        }
        stays
    }
}
