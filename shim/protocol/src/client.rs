//! The calling side: synchronous, one call at a time on one connection.
//!
//! There is no deadline unless one is set on the connection: `Wait` blocks for as long as the process lives. A caller
//! that waits and does something else meanwhile sends with [`Client::send`], polls the connection's descriptor, and
//! takes the answer with [`Client::receive`].

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use protobuf::Message;

use crate::call::{Method, Refusal, decode_response, encode_request};
use crate::frame::{FrameDecoder, FrameError, Kind};

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The wall refused the call; the message is its reason.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection failed.
    #[error("the wall's control connection failed")]
    Connection(#[source] io::Error),
    /// The wall's process is gone: the connection closed before the answer.
    #[error("the wall closed its control connection")]
    Closed,
    /// The wall answered in something that is not ttrpc.
    #[error("the wall's answer is malformed")]
    Frame(#[from] FrameError),
    /// The wall's answer is not the message that the method answers.
    #[error("the wall's answer is malformed")]
    Message(#[from] protobuf::Error),
}

impl CallError {
    /// Whether this says that nobody is there any more, rather than no.
    pub fn is_disconnected(&self) -> bool {
        matches!(self, CallError::Closed | CallError::Connection(_))
    }
}

/// One control connection.
#[derive(Debug)]
pub struct Client {
    connection: UnixStream,
    decoder: FrameDecoder,
    /// The stream of the last call; a client's are odd.
    stream: u32,
}

impl Client {
    /// A client on a connection that has not been used.
    pub fn new(connection: UnixStream) -> Self {
        Self { connection, decoder: FrameDecoder::new(), stream: u32::MAX }
    }

    /// Connects to the control socket at `path`, which may be longer than an address of a Unix socket (108 bytes).
    ///
    /// # Errors
    /// `connect(2)`'s.
    pub fn connect(path: &Path) -> io::Result<Self> {
        connect(path).map(Self::new)
    }

    /// Bounds how long each later call waits for bytes; none waits for ever.
    ///
    /// # Errors
    /// `setsockopt(2)`'s.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.connection.set_read_timeout(timeout)
    }

    /// Sends a request and blocks until its answer is here.
    pub(crate) fn call<Answer: Message>(&mut self, method: Method, request: &impl Message) -> Result<Answer, CallError> {
        self.send(method, request)?;
        self.receive()
    }

    /// Sends a request, whose answer [`Client::receive`] takes.
    ///
    /// # Errors
    /// The connection's failure.
    pub fn send(&mut self, method: Method, request: &impl Message) -> Result<(), CallError> {
        self.stream = self.stream.wrapping_add(2);
        let bytes = encode_request(self.stream, method, request)?;
        self.connection.write_all(&bytes).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => CallError::Closed,
            _ => CallError::Connection(error),
        })
    }

    /// Blocks until the answer to the last request is here.
    ///
    /// # Errors
    /// The wall's refusal, or the connection's failure.
    pub fn receive<Answer: Message>(&mut self) -> Result<Answer, CallError> {
        let mut buffer = [0; 16 << 10];
        loop {
            while let Some(frame) = self.decoder.next_frame()? {
                if frame.stream == self.stream && frame.kind == Kind::Response {
                    return Ok(Answer::parse_from_bytes(&decode_response(&frame)?)?);
                }
            }
            match self.connection.read(&mut buffer) {
                Ok(0) => return Err(CallError::Closed),
                Ok(length) => self.decoder.feed(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(CallError::Closed);
                }
                Err(error) => return Err(CallError::Connection(error)),
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

/// Connects to a Unix stream socket at a path of any length: through the descriptor of its directory, because a
/// socket's address holds 108 bytes (unix(7)).
///
/// # Errors
/// `open(2)`'s for the directory, `connect(2)`'s for the socket.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let directory = std::fs::File::open(directory)?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Code, decode_call, encode_response};
    use crate::messages::*;

    /// Answers each call with `answer`, in pieces of one byte, after a frame that belongs to nobody.
    fn serve(mut connection: UnixStream, calls: usize, answer: impl Fn() -> Result<StateResponse, Refusal>) {
        let mut decoder = FrameDecoder::new();
        let mut buffer = [0; 7];
        for _ in 0..calls {
            let frame = loop {
                if let Some(frame) = decoder.next_frame().unwrap() {
                    break frame;
                }
                let length = connection.read(&mut buffer).unwrap();
                decoder.feed(&buffer[..length]);
            };
            let call = decode_call(&frame).unwrap();
            connection.write_all(&encode_response(call.stream ^ 0x100, Ok(&Empty::new()))).unwrap();
            let answer = answer();
            let bytes = encode_response(call.stream, answer.as_ref().map(|message| message as _));
            bytes.chunks(1).for_each(|byte| connection.write_all(byte).unwrap());
        }
    }

    #[test]
    fn a_call_is_answered_refused_or_cut_off() {
        let (here, there) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let again = there.try_clone().unwrap();
            serve(there, 2, || {
                let mut answer = StateResponse::new();
                answer.pid = 42;
                Ok(answer)
            });
            serve(again, 1, || Err(Refusal::new(Code::NotFound, "container \"x\" does not exist")));
        });
        let mut client = Client::new(here);
        let request = StateRequest::new();
        assert_eq!(client.state(&request).unwrap().pid, 42);
        assert_eq!(client.state(&request).unwrap().pid, 42);
        let error = client.state(&request).unwrap_err();
        assert_eq!(error.to_string(), "container \"x\" does not exist");
        server.join().unwrap();
        assert!(client.state(&request).unwrap_err().is_disconnected());
    }
}
