//! A stream before a request has claimed it: its connection says which one it is.

use std::os::fd::{AsFd, OwnedFd};

use bulkhead_protocol::guest::READY;
use bulkhead_protocol::streams::StreamId;
use nix::errno::Errno;

use crate::events::Watch;

/// A connection to the port of streams.
#[derive(Debug)]
pub struct Arrival {
    connection: OwnedFd,
    watch: Watch,
    identifier: [u8; 4],
    length: usize,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of the identifier are missing.
    Incomplete,
    /// It is this stream, and has been told that it is known.
    Known(StreamId),
    /// It is none.
    Over,
}

impl Arrival {
    /// A connection that does not block.
    pub fn new(connection: OwnedFd, watch: Watch) -> Self {
        Self { connection, watch, identifier: [0; 4], length: 0 }
    }

    /// Reads the identifier, not a byte more: what follows is the stream's.
    pub fn progress(&mut self) -> Progress {
        while self.length < self.identifier.len() {
            match nix::unistd::read(&self.connection, &mut self.identifier[self.length..]) {
                Ok(0) => return Progress::Over,
                Ok(length) => self.length += length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Progress::Incomplete,
                Err(_) => return Progress::Over,
            }
        }
        let Some(identifier) = StreamId::new(u32::from_le_bytes(self.identifier)) else { return Progress::Over };
        // The first byte on a fresh connection always fits.
        match nix::unistd::write(&self.connection, &[READY]) {
            Ok(1) => Progress::Known(identifier),
            _ => Progress::Over,
        }
    }

    /// Its parts.
    pub fn into_parts(self) -> (OwnedFd, Watch) {
        (self.connection, self.watch)
    }
}

impl AsFd for Arrival {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
