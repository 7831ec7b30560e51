//! The door: who comes in, what it turns out to be, and who goes.
//!
//! A client's first bytes say what it is. One that attaches descriptors is served here; one that calls gets a connection to the agent of its own, and goes on in
//! [`super::calls`].

use std::io::{self, Write};
use std::os::fd::AsFd;

use bulkhead_launch::log;
use bulkhead_protocol::guest::CONTROL_PORT;
use bulkhead_protocol::streams::{ACKNOWLEDGED, receive_frame};
use nix::sys::epoll::EpollFlags;

use super::client::{Calls, Client, ClientKind, first_bytes};
use super::watch::{Wanted, Watched};
use super::{Entry, Relay, token};

impl Relay<'_> {
    pub(super) fn accept(&mut self) {
        loop {
            let socket = match self.door.get().accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EINTR)) => continue,
                Err(error) => {
                    // Out of descriptors or memory: the client waits until somebody has gone.
                    log::error(&format!("control: accept: {error}"));
                    let _ = self.door.want(Wanted::Nothing);
                    return;
                }
            };
            let entry = self.entry();
            let mut socket = Watched::new(&self.epoll, token(entry, false), socket);
            // Edge-triggered until its kind is known: the first of its bytes are only looked at.
            let wanted = Wanted::Events(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET);
            if socket.get().set_nonblocking(true).is_ok() && socket.want(wanted).is_ok() {
                self.entries.insert(entry, Entry::Client(Client { socket, kind: ClientKind::Unknown }));
            }
        }
    }

    pub(super) fn recognize(&mut self, entry: u64, client: &mut Client) -> bool {
        match first_bytes(client.socket.get()) {
            Err(_) => false,
            Ok(None) => true,
            Ok(Some(true)) => {
                client.kind = ClientKind::Streams(Vec::new());
                client.socket.want(Wanted::Events(EpollFlags::EPOLLIN)).is_ok() && self.take_streams(client)
            }
            Ok(Some(false)) => match self.to_guest(CONTROL_PORT, entry) {
                Ok(agent) => {
                    client.kind = ClientKind::Calls(Box::new(Calls::new(agent)));
                    self.calls(entry, client, Some(false))
                }
                Err(error) => {
                    log::error(&format!("control: connecting to the guest's agent: {error}"));
                    false
                }
            },
        }
    }

    /// Takes descriptors that a client attaches. False: it is gone.
    pub(super) fn take_streams(&mut self, client: &mut Client) -> bool {
        let ClientKind::Streams(own) = &mut client.kind else { return false };
        loop {
            match receive_frame(client.socket.get().as_fd()) {
                Ok(Some((id, descriptor))) => {
                    self.attached.insert(id.number(), descriptor);
                    own.push(id.number());
                    if !matches!(client.socket.get().write(&[ACKNOWLEDGED]), Ok(1)) {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(None) | Err(_) => return false,
            }
        }
    }

    pub(super) fn end_client(&mut self, mut client: Client) {
        match &mut client.kind {
            ClientKind::Unknown => {}
            ClientKind::Streams(own) => own.iter().for_each(|identifier| drop(self.attached.remove(identifier))),
            ClientKind::Calls(calls) => self.client_has_gone(calls),
        }
        drop(client);
        self.make_room();
    }

    /// Somebody has gone: whoever knocks may come in again.
    pub(super) fn make_room(&mut self) {
        let _ = self.door.want(Wanted::Events(EpollFlags::EPOLLIN));
    }
}
