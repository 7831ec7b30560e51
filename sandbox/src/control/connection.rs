//! One client's connection.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bulkhead_protocol::call::{Refusal, decode_call, encode_response};
use bulkhead_protocol::frame::FrameDecoder;
use bulkhead_protocol::protobuf::MessageDyn;
use bulkhead_protocol::streams::{ACKNOWLEDGED, MAGIC};

use super::{service, streams};
use crate::kernel::kernel;
use crate::kernel::reactor::Watch;
use crate::kernel::wait::{Observer, Ready};
use crate::sync::Mutex;

/// A connection.
pub struct Connection {
    socket: UnixStream,
    state: Mutex<State>,
}

struct State {
    kind: Kind,
    /// What has not been sent yet.
    out: Vec<u8>,
    watch: Option<Watch>,
    /// What to do when the client goes.
    farewells: Vec<Box<dyn FnOnce() + Send>>,
    /// Numbers attached on this connection: dropped with it.
    attached: Vec<u32>,
}

enum Kind {
    /// Its first bytes have not all come.
    Unknown,
    Calls(FrameDecoder),
    Streams,
}

/// An answer: a message, or why not.
pub type Answer = Result<Box<dyn MessageDyn>, Refusal>;

/// Serves a fresh connection until its client goes.
pub fn serve(socket: UnixStream) {
    if socket.set_nonblocking(true).is_err() {
        return;
    }
    let state = State { kind: Kind::Unknown, out: Vec::new(), watch: None, farewells: Vec::new(), attached: Vec::new() };
    let connection = Arc::new(Connection { socket, state: Mutex::new(state) });
    let watch =
        kernel().reactor.watch(connection.socket.as_fd(), Ready::IN | Ready::OUT | Ready::RDHUP, Arc::new(Arrival(connection.clone())));
    if let Ok(watch) = watch {
        connection.state.lock().watch = Some(watch);
        observe(&connection);
    }
}

/// The reactor's word that a connection can be read or written. It keeps the connection alive until that ends.
struct Arrival(Arc<Connection>);

impl Observer for Arrival {
    fn notify(&self, _: Ready) {
        observe(&self.0);
    }
}

fn observe(connection: &Arc<Connection>) {
    connection.flush();
    if !read(connection) {
        connection.end();
    }
}

/// Takes what has come. False where the connection is over.
fn read(connection: &Arc<Connection>) -> bool {
    loop {
        let unknown = matches!(connection.state.lock().kind, Kind::Unknown);
        if unknown {
            let mut first = [0u8; 8];
            let peeked = nix::sys::socket::recv(
                std::os::fd::AsRawFd::as_raw_fd(&connection.socket),
                &mut first,
                nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT,
            );
            match peeked {
                Ok(0) => return false,
                Ok(length) if first[..length] != MAGIC[..length] => {
                    connection.state.lock().kind = Kind::Calls(FrameDecoder::new());
                }
                Ok(8) => {
                    let mut socket = &connection.socket;
                    if socket.read_exact(&mut first).is_err() {
                        return false;
                    }
                    connection.state.lock().kind = Kind::Streams;
                }
                Ok(_) => return true,
                Err(nix::errno::Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        } else if matches!(connection.state.lock().kind, Kind::Streams) {
            match bulkhead_protocol::streams::receive_frame(connection.socket.as_fd()) {
                Ok(Some((id, descriptor))) => {
                    streams::attach(id.number(), descriptor, connection);
                    connection.state.lock().attached.push(id.number());
                    connection.send(&[ACKNOWLEDGED]);
                }
                Ok(None) => return false,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        } else {
            let mut bytes = [0u8; 16 << 10];
            let mut socket = &connection.socket;
            match socket.read(&mut bytes) {
                Ok(0) => return false,
                Ok(length) => {
                    if !take_frames(connection, &bytes[..length]) {
                        return false;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

fn take_frames(connection: &Arc<Connection>, bytes: &[u8]) -> bool {
    if let Kind::Calls(decoder) = &mut connection.state.lock().kind {
        decoder.feed(bytes);
    }
    loop {
        let frame = match &mut connection.state.lock().kind {
            Kind::Calls(decoder) => decoder.next_frame(),
            _ => return false,
        };
        match frame {
            Ok(None) => return true,
            Ok(Some(frame)) => match decode_call(&frame) {
                Ok(call) => service::serve(connection, call.stream, call.request),
                Err(refusal) => connection.answer(frame.stream, Err(refusal)),
            },
            Err(error) => {
                crate::log::error(&format!("control: {error}"));
                return false;
            }
        }
    }
}

impl Connection {
    /// Sends the answer to the call on `stream`.
    pub fn answer(&self, stream: u32, answer: Answer) {
        let bytes = match &answer {
            Ok(message) => encode_response(stream, Ok(message.as_ref())),
            Err(refusal) => encode_response(stream, Err(refusal)),
        };
        self.send(&bytes);
    }

    /// Has something done when the client goes.
    pub fn at_end(&self, farewell: Box<dyn FnOnce() + Send>) {
        self.state.lock().farewells.push(farewell);
    }

    /// Gives a descriptor to the client of a stream connection.
    pub fn give(&self, number: u32, descriptor: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
        let id = bulkhead_protocol::streams::StreamId::new(number).ok_or(std::io::ErrorKind::InvalidInput)?;
        bulkhead_protocol::streams::send_frame(self.socket.as_fd(), id, descriptor)
    }

    fn send(&self, bytes: &[u8]) {
        self.state.lock().out.extend_from_slice(bytes);
        self.flush();
    }

    fn flush(&self) {
        let mut state = self.state.lock();
        while !state.out.is_empty() {
            let mut socket = &self.socket;
            match socket.write(&state.out) {
                Ok(written) => drop(state.out.drain(..written)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // The reactor tells when there is room; an error shows at the next read.
                Err(_) => return,
            }
        }
    }

    fn end(&self) {
        let (watch, farewells, attached) = {
            let mut state = self.state.lock();
            (state.watch.take(), std::mem::take(&mut state.farewells), std::mem::take(&mut state.attached))
        };
        for number in attached {
            streams::forget(number);
        }
        for farewell in farewells {
            farewell();
        }
        if let Some(watch) = watch {
            kernel().reactor.forget(self.socket.as_fd(), watch);
        }
    }
}
