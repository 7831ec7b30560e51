//! A client's connection: ttrpc frames in, answers out.

use std::os::fd::{AsFd, OwnedFd};

use bulkhead_protocol::call::{Refusal, decode_call, encode_response};
use bulkhead_protocol::frame::FrameDecoder;
use bulkhead_protocol::protobuf::MessageDyn;
use nix::errno::Errno;

use super::{Agent, Reply};
use crate::events::{Source, Watch};

/// An answer: a message, or why not.
pub(super) type Answer = Result<Box<dyn MessageDyn>, Refusal>;

/// Bytes of answers that a client may leave unread before it is read from no more.
const UNREAD: usize = 1 << 20;

/// A connection.
pub(super) struct Connection {
    socket: OwnedFd,
    watch: Watch,
    decoder: FrameDecoder,
    /// What has not been sent yet.
    out: Vec<u8>,
    /// Processes that die when the client goes before it has been answered how they ended, or has let them run.
    pub(super) wards: Vec<Ward>,
}

/// What becomes of a process when the client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ward {
    /// It dies unless it has ended.
    Waited(u64),
    /// It dies if it still stands before its program.
    Held(u64),
}

impl Agent {
    /// Serves a fresh connection.
    pub(super) fn connect(&mut self, socket: OwnedFd) {
        let number = self.number();
        match self.events.watch(&socket, Source::Connection(number)) {
            Ok(watch) => {
                let connection = Connection { socket, watch, decoder: FrameDecoder::new(), out: Vec::new(), wards: Vec::new() };
                self.connections.insert(number, connection);
                self.converse(number);
            }
            Err(error) => crate::log::error(format_args!("a client's connection: {error}")),
        }
    }

    /// Sends what there is room for, and takes what has come.
    pub(super) fn converse(&mut self, number: u64) {
        loop {
            self.flush(number);
            let Some(connection) = self.connections.get_mut(&number) else { return };
            if connection.out.len() > UNREAD {
                // The kernel tells when there is room.
                return;
            }
            let mut bytes = [0; 16 << 10];
            match nix::unistd::read(&connection.socket, &mut bytes) {
                Ok(0) => return self.disconnect(number),
                Ok(length) => connection.decoder.feed(&bytes[..length]),
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => continue,
                Err(_) => return self.disconnect(number),
            }
            self.take_frames(number);
        }
    }

    fn take_frames(&mut self, number: u64) {
        loop {
            let Some(connection) = self.connections.get_mut(&number) else { return };
            match connection.decoder.next_frame() {
                Ok(None) => return,
                Ok(Some(frame)) => {
                    let reply = Reply { connection: number, stream: frame.stream };
                    match decode_call(&frame) {
                        Ok(call) => self.request(reply, call.request),
                        Err(refusal) => self.answer(reply, Err(refusal)),
                    }
                }
                Err(error) => {
                    crate::log::error(format_args!("control: {error}"));
                    return self.disconnect(number);
                }
            }
        }
    }

    /// Answers a call. A client that is gone needs no answer.
    pub(super) fn answer(&mut self, reply: Reply, answer: Answer) {
        let bytes = match &answer {
            Ok(message) => encode_response(reply.stream, Ok(message.as_ref())),
            Err(refusal) => encode_response(reply.stream, Err(refusal)),
        };
        if let Some(connection) = self.connections.get_mut(&reply.connection) {
            connection.out.extend_from_slice(&bytes);
            self.flush(reply.connection);
        }
    }

    fn flush(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        while !connection.out.is_empty() {
            match nix::unistd::write(&connection.socket, &connection.out) {
                Ok(written) => drop(connection.out.drain(..written)),
                Err(Errno::EINTR) => {}
                // The kernel tells when there is room; an error shows at the next read.
                Err(_) => return,
            }
        }
    }

    /// The client is gone.
    fn disconnect(&mut self, number: u64) {
        let Some(connection) = self.connections.remove(&number) else { return };
        self.events.forget(connection.watch, connection.socket.as_fd());
        for ward in connection.wards {
            match ward {
                Ward::Waited(process) => self.kill(process),
                Ward::Held(process) if self.processes.get(&process).is_some_and(|process| process.stage.is_waiting()) => self.kill(process),
                Ward::Held(_) => {}
            }
        }
    }
}
