//! What the tests of this room share.

use std::sync::Arc;

use super::address::SocketAddress;
use super::socket::{Caller, Incoming, Outgoing, Request, Socket};
use crate::errno::Result;
use crate::kernel::credentials::Credentials;
use crate::vfs::file::{OpenFile, Sink, Source};

/// Bytes to send.
pub struct Bytes<'a>(pub &'a [u8]);

impl Source for Bytes<'_> {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = buffer.len().min(self.0.len());
        buffer[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

/// Room to receive into.
pub struct Room {
    pub bytes: Vec<u8>,
    pub limit: usize,
}

impl Sink for Room {
    fn remaining(&self) -> usize {
        self.limit - self.bytes.len()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= self.remaining());
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

pub fn caller() -> Caller {
    crate::kernel::initialize().unwrap();
    Caller { credentials: Credentials::kernel(), process: None, place: None }
}

pub fn bind(socket: &Socket, address: &SocketAddress) -> Result<()> {
    socket.protocol.bind(&caller(), &address.into(), 0o777)
}

pub fn connect(socket: &Socket, address: &SocketAddress) -> Result<()> {
    socket.protocol.connect(&caller(), &address.into())
}

pub fn accept(socket: &Socket) -> Result<Arc<Socket>> {
    socket.protocol.accept(&caller()).map(|(accepted, _)| accepted)
}

/// A message to an address.
pub fn addressed(address: &SocketAddress) -> Outgoing {
    Outgoing { to: Some(address.into()), ..Outgoing::default() }
}

pub fn send(socket: &Socket, bytes: &[u8]) -> Result<usize> {
    send_message(socket, bytes, Outgoing::default())
}

pub fn send_message(socket: &Socket, bytes: &[u8], message: Outgoing) -> Result<usize> {
    socket.protocol.send(&caller(), &message, &mut Bytes(bytes))
}

pub fn receive(socket: &Socket, limit: usize) -> Result<Vec<u8>> {
    receive_message(socket, limit, 0).map(|(bytes, _)| bytes)
}

pub fn receive_message(socket: &Socket, limit: usize, flags: i32) -> Result<(Vec<u8>, Incoming)> {
    let mut room = Room { bytes: Vec::new(), limit };
    let incoming = socket.protocol.receive(Request { flags, control: 4096, name: true }, &mut room)?;
    Ok((room.bytes, incoming))
}

pub fn open(socket: Arc<Socket>) -> Arc<OpenFile> {
    socket.open(false, Credentials::kernel())
}
