//! One client's connection.
//!
//! Its first bytes say what it is: descriptors to attach ([`bulkhead_protocol::streams`]), or calls, which go on to the agent over a connection of their own.
//! Frames are relayed as they are. A request that names streams waits until the agent has taken each; meanwhile the client is not read.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use bulkhead_protocol::call::{Code, Refusal, decode_response, encode_response};
use bulkhead_protocol::frame::{Frame, FrameDecoder, FrameError, Kind};
use bulkhead_protocol::messages::{CreateResponse, Empty, ExecResponse, WaitResponse};
use bulkhead_protocol::protobuf::{Message, MessageDyn};
use nix::sys::epoll::EpollFlags;

use super::pump::Process;
use super::watch::{Outgoing, Wanted, Watched};

/// How much may wait for a side before the other is not read any more, bytes. One frame may be longer than that.
const BACKLOG: usize = 256 << 10;
/// Bytes of one read.
const CHUNK: usize = 32 << 10;

/// A connection of a client's.
pub(super) struct Client {
    pub socket: Watched<UnixStream>,
    pub kind: ClientKind,
}

/// What a connection is.
pub(super) enum ClientKind {
    /// Its first bytes have not all come.
    Unknown,
    /// It attaches descriptors; these are its, as long as no request has claimed them.
    Streams(Vec<u32>),
    /// It calls.
    Calls(Box<Calls>),
}

/// A connection that calls.
pub(super) struct Calls {
    /// None once the agent has closed it: what it has said is still delivered.
    pub agent: Option<Watched<UnixStream>>,
    requests: FrameDecoder,
    answers: FrameDecoder,
    pub to_agent: Outgoing,
    pub to_client: Outgoing,
    pub attaching: Option<Attaching>,
    /// Calls whose answers mean something here, by their stream.
    pub pending: HashMap<u32, Pending>,
    /// The client has gone; what it has said is still delivered.
    pub gone: bool,
}

/// A request that waits for its streams.
pub(super) struct Attaching {
    pub stream: u32,
    /// The request's frame.
    pub frame: Vec<u8>,
    /// How many handshakes are to come.
    pub left: usize,
    pub pending: Pending,
}

/// What the answer to a call is waited for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// A container, with its trees and streams.
    Create { container: String, trees: Vec<String>, pumps: Vec<u64> },
    /// A process, with its streams.
    Exec { pumps: Vec<u64> },
    /// A container's end.
    Delete { container: String },
    /// A process's end.
    Wait(Process),
}

impl Pending {
    /// The streams that begin, or end, with the answer.
    pub fn pumps(&self) -> &[u64] {
        match self {
            Pending::Create { pumps, .. } | Pending::Exec { pumps } => pumps,
            Pending::Delete { .. } | Pending::Wait(_) => &[],
        }
    }

    pub fn pumps_mut(&mut self) -> Option<&mut Vec<u64>> {
        match self {
            Pending::Create { pumps, .. } | Pending::Exec { pumps } => Some(pumps),
            Pending::Delete { .. } | Pending::Wait(_) => None,
        }
    }
}

impl Calls {
    pub fn new(agent: Watched<UnixStream>) -> Self {
        Self {
            agent: Some(agent),
            requests: FrameDecoder::new(),
            answers: FrameDecoder::new(),
            to_agent: Outgoing::default(),
            to_client: Outgoing::default(),
            attaching: None,
            pending: HashMap::new(),
            gone: false,
        }
    }

    /// Reads what the client has said. False: it is gone.
    pub fn read_client(&mut self, socket: &UnixStream) -> bool {
        read(socket, |bytes| self.requests.feed(bytes))
    }

    /// The client's next request.
    pub fn request(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.attaching.is_some() || self.to_agent.len() > BACKLOG { Ok(None) } else { self.requests.next_frame() }
    }

    /// Reads what the agent has said. False: it has closed the connection.
    pub fn read_agent(&mut self) -> bool {
        match &self.agent {
            Some(agent) => read(agent.get(), |bytes| self.answers.feed(bytes)),
            None => true,
        }
    }

    /// The agent's next frame.
    pub fn answer(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.to_client.len() > BACKLOG { Ok(None) } else { self.answers.next_frame() }
    }

    /// Tells the client why its call is refused.
    pub fn refuse(&mut self, stream: u32, refusal: &Refusal) {
        self.to_client.push(&encode_response(stream, Err(refusal)));
    }

    /// Writes what can be written. False: the connection is over.
    pub fn flush(&mut self, socket: &UnixStream) -> bool {
        if self.gone {
            self.to_client = Outgoing::default();
        } else if self.to_client.flush(|bytes| (&*socket).write(bytes)).is_err() {
            // Its end shows at the next read as well.
            self.gone = true;
        }
        match &self.agent {
            Some(agent) => {
                if self.to_agent.flush(|bytes| agent.get().write(bytes)).is_err() {
                    self.agent = None;
                }
            }
            None => self.to_agent = Outgoing::default(),
        }
        !(self.gone && self.to_agent.is_empty() || self.agent.is_none() && self.to_client.is_empty())
    }

    /// Waits for what is possible next.
    pub fn watch(&mut self, socket: &mut Watched<UnixStream>) -> io::Result<()> {
        let (full_agent, full_client) = (self.to_agent.len() > BACKLOG, self.to_client.len() > BACKLOG);
        let mut client = EpollFlags::EPOLLRDHUP;
        client.set(EpollFlags::EPOLLIN, self.attaching.is_none() && !full_agent);
        client.set(EpollFlags::EPOLLOUT, !self.to_client.is_empty());
        socket.want(if self.gone { Wanted::Nothing } else { Wanted::Events(client) })?;
        let mut agent = EpollFlags::empty();
        agent.set(EpollFlags::EPOLLIN, !full_client);
        agent.set(EpollFlags::EPOLLOUT, !self.to_agent.is_empty());
        if let Some(connection) = &mut self.agent {
            connection.want(if agent.is_empty() { Wanted::Nothing } else { Wanted::Events(agent) })?;
        }
        Ok(())
    }
}

/// Reads one chunk. False: the other side is gone.
fn read(mut from: &UnixStream, take: impl FnOnce(&[u8])) -> bool {
    let mut bytes = [0; CHUNK];
    match from.read(&mut bytes) {
        Ok(0) => false,
        Ok(length) => {
            take(&bytes[..length]);
            true
        }
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// What an answer of the guest's says about a call that is waited for, and the bytes that the client gets: the guest's own, but for what it can not know. A
/// process in a virtual machine is none of the host's: an answer that names one would have the client wait for a handle, or look for a cgroup, that never comes.
pub(super) fn settle(pending: &Pending, frame: &Frame) -> (Result<(), Refusal>, Vec<u8>) {
    let outcome = match (frame.kind, decode_response(frame)) {
        (Kind::Request, _) => Err(Refusal::new(Code::Internal, "the guest's agent answered a call with a request")),
        (Kind::Response, Err(refusal)) => Err(refusal),
        (Kind::Response, Ok(payload)) => corrected(pending, &payload),
    };
    let bytes = match &outcome {
        Ok(message) => encode_response(frame.stream, Ok(message.as_ref())),
        Err(refusal) => encode_response(frame.stream, Err(refusal)),
    };
    (outcome.map(drop), bytes)
}

fn corrected(pending: &Pending, payload: &[u8]) -> Result<Box<dyn MessageDyn>, Refusal> {
    let malformed = |_| Refusal::new(Code::Internal, "the guest's agent gave a malformed answer");
    Ok(match pending {
        Pending::Create { .. } => {
            let mut answer = CreateResponse::parse_from_bytes(payload).map_err(malformed)?;
            (answer.pid_stream, answer.host_cgroup) = (0, false);
            Box::new(answer)
        }
        Pending::Exec { .. } => {
            let mut answer = ExecResponse::parse_from_bytes(payload).map_err(malformed)?;
            answer.pid_stream = 0;
            Box::new(answer)
        }
        Pending::Delete { .. } => Box::new(Empty::parse_from_bytes(payload).map_err(malformed)?),
        Pending::Wait(_) => Box::new(WaitResponse::parse_from_bytes(payload).map_err(malformed)?),
    })
}

/// Reads the first bytes of a connection, without taking them. None: not enough have come; an error: it is over.
pub(super) fn first_bytes(socket: &UnixStream) -> io::Result<Option<bool>> {
    use bulkhead_protocol::streams::MAGIC;
    use nix::sys::socket::{MsgFlags, recv};
    let mut first = [0; MAGIC.len()];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recv(std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd()), &mut first, flags) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) if first[..length] != MAGIC[..length] => Ok(Some(false)),
        Ok(length) if length == MAGIC.len() => {
            let mut socket = socket;
            socket.read_exact(&mut first)?;
            Ok(Some(true))
        }
        Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(bytes: &[u8]) -> Frame {
        let mut decoder = FrameDecoder::new();
        decoder.feed(bytes);
        decoder.next_frame().unwrap().unwrap()
    }

    fn creation() -> Pending {
        Pending::Create { container: "c".into(), trees: Vec::new(), pumps: Vec::new() }
    }

    #[test]
    fn a_guest_names_no_process_and_no_cgroup_of_the_host() {
        let mut lie = CreateResponse::new();
        (lie.pid, lie.pid_stream, lie.host_cgroup) = (7, 99, true);
        let (outcome, bytes) = settle(&creation(), &frame(&encode_response(5, Ok(&lie))));
        assert_eq!(outcome, Ok(()));
        let told = CreateResponse::parse_from_bytes(&decode_response(&frame(&bytes)).unwrap()).unwrap();
        assert_eq!((told.pid, told.pid_stream, told.host_cgroup), (7, 0, false));
        assert_eq!(frame(&bytes).stream, 5);
    }

    #[test]
    fn a_refusal_is_passed_on() {
        let refusal = Refusal::new(Code::NotFound, "exec: \"x\": executable file not found in $PATH");
        let sent = encode_response(9, Err(&refusal));
        let (outcome, bytes) = settle(&creation(), &frame(&sent));
        assert_eq!(outcome, Err(refusal));
        assert_eq!(bytes, sent);
        let odd = Frame { stream: 9, kind: Kind::Request, payload: Vec::new() };
        assert_eq!(settle(&creation(), &odd).0.unwrap_err().code, Code::Internal);
    }

    proptest! {
        #[test]
        fn hostile_answers_are_settled_one_way_or_the_other(payload in proptest::collection::vec(any::<u8>(), 0..300), stream in any::<u32>()) {
            for pending in [creation(), Pending::Exec { pumps: Vec::new() }, Pending::Delete { container: "c".into() }] {
                let (outcome, bytes) = settle(&pending, &Frame { stream, kind: Kind::Response, payload: payload.clone() });
                let told = frame(&bytes);
                prop_assert_eq!(told.stream, stream);
                prop_assert_eq!(decode_response(&told).is_ok(), outcome.is_ok());
            }
        }
    }
}
