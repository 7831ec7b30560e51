//! The service's methods: one table, from which the names, the decoded requests and the client's functions come.

use nix::errno::Errno;
use protobuf::Message;

use crate::frame::{Frame, FrameError, Kind};
use crate::messages::envelope;
use crate::messages::*;

/// The service's full name on the wire.
pub const SERVICE: &str = "bulkhead.control.v1.Control";

macro_rules! methods {
    ($($(#[$doc:meta])* $method:ident, $function:ident: $request:ty => $response:ty;)*) => {
        /// A method of the service.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Method { $($(#[$doc])* $method,)* }

        impl Method {
            /// Every method, in the order of `control.proto`.
            pub const ALL: &'static [Method] = &[$(Method::$method,)*];

            /// The method's name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Method::$method => stringify!($method),)* }
            }

            /// The method of that name.
            pub fn from_name(name: &str) -> Option<Method> {
                Self::ALL.iter().copied().find(|method| method.name() == name)
            }
        }

        /// A request as the server got it, decoded.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Request { $($(#[$doc])* $method($request),)* }

        impl Request {
            /// Which method is called.
            pub fn method(&self) -> Method {
                match self { $(Request::$method(_) => Method::$method,)* }
            }

            fn parse(method: Method, payload: &[u8]) -> protobuf::Result<Request> {
                Ok(match method { $(Method::$method => Request::$method(<$request>::parse_from_bytes(payload)?),)* })
            }
        }

        impl crate::client::Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// The wall's refusal, or the connection's failure.
                pub fn $function(&mut self, request: &$request) -> Result<$response, crate::client::CallError> {
                    self.call(Method::$method, request)
                }
            )*
        }
    };
}

methods! {
    /// Creates a container.
    Create, create: CreateRequest => CreateResponse;
    /// Lets the init of a created container, or an exec that is held, run its program.
    Start, start: StartRequest => Empty;
    /// Starts one more process in a container.
    Exec, exec: ExecRequest => ExecResponse;
    /// Sends a signal.
    Signal, signal: SignalRequest => Empty;
    /// Answers when the process has ended.
    Wait, wait: WaitRequest => WaitResponse;
    /// Changes a terminal's size.
    ResizeTerminal, resize_terminal: ResizeTerminalRequest => Empty;
    /// Lists the processes of a container.
    Processes, processes: ProcessesRequest => ProcessesResponse;
    /// The state of one container.
    State, state: StateRequest => StateResponse;
    /// Freezes the container's processes.
    Pause, pause: ContainerRequest => Empty;
    /// Thaws them.
    Resume, resume: ContainerRequest => Empty;
    /// Kills what is left of a container and forgets it.
    Delete, delete: ContainerRequest => Empty;
    /// What the container's programs called.
    SyscallCounts, syscall_counts: ContainerRequest => SyscallCountsResponse;
    /// Changes limits.
    Update, update: UpdateRequest => Empty;
    /// What the container has used, and may.
    Stats, stats: ContainerRequest => StatsResponse;
    /// Answers when memory has run out once more.
    OutOfMemory, out_of_memory: OutOfMemoryRequest => OutOfMemoryResponse;
}

/// Why a call was refused: gRPC's numbers, those of them that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// An error of a kind that has no number.
    Unknown = 2,
    /// The request itself is wrong; the message names the field and its value.
    InvalidArgument = 3,
    /// A container, process or program that does not exist.
    NotFound = 5,
    /// An identifier that is taken.
    AlreadyExists = 6,
    /// A program that may not be executed.
    PermissionDenied = 7,
    /// A limit was hit.
    ResourceExhausted = 8,
    /// Right, but not in the container's present state.
    FailedPrecondition = 9,
    /// A method or an option that the wall does not have.
    Unimplemented = 12,
    /// The wall failed.
    Internal = 13,
}

impl Code {
    /// The code of that number; numbers unused here become [`Code::Unknown`].
    pub fn from_number(number: i32) -> Code {
        use Code::*;
        [InvalidArgument, NotFound, AlreadyExists, PermissionDenied, ResourceExhausted, FailedPrecondition, Unimplemented, Internal]
            .into_iter()
            .find(|code| *code as i32 == number)
            .unwrap_or(Unknown)
    }
}

/// A refused call: what the caller is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, for programs.
    pub code: Code,
    /// The reason, for people: names the object and the value.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Why a program could not be executed, in runc's words: clients match on them, whichever wall says them.
    pub fn of_execution(path: &str, error: Errno) -> Self {
        let (code, text) = match error {
            Errno::ENOENT => (Code::NotFound, "no such file or directory"),
            Errno::EACCES => (Code::PermissionDenied, "permission denied"),
            Errno::ENOEXEC => (Code::InvalidArgument, "exec format error"),
            Errno::ELOOP => (Code::InvalidArgument, "too many levels of symbolic links"),
            Errno::ENOTDIR => (Code::NotFound, "not a directory"),
            _ => (Code::Internal, "cannot be executed"),
        };
        if error == Errno::ENOENT && path.contains('/') {
            return Self::new(code, format!("exec: {path:?}: stat {path}: {text}"));
        }
        Self::new(code, format!("exec: {path:?}: {text}"))
    }
}

/// A call that arrived: what is asked, and where the answer goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// To be given to [`encode_response`].
    pub stream: u32,
    /// What is asked.
    pub request: Request,
}

/// Decodes a frame that a client sent.
///
/// # Errors
/// The response to send instead, when the frame is no call of this service.
pub fn decode_call(frame: &Frame) -> Result<Call, Refusal> {
    if frame.kind != Kind::Request {
        return Err(Refusal::new(Code::InvalidArgument, "a response where a request belongs"));
    }
    let envelope = envelope::Request::parse_from_bytes(&frame.payload)
        .map_err(|error| Refusal::new(Code::InvalidArgument, format!("malformed request envelope: {error}")))?;
    if envelope.service != SERVICE {
        return Err(Refusal::new(Code::Unimplemented, format!("unknown service {:?}", envelope.service)));
    }
    let method = Method::from_name(&envelope.method)
        .ok_or_else(|| Refusal::new(Code::Unimplemented, format!("unknown method {:?}", envelope.method)))?;
    let request = Request::parse(method, &envelope.payload)
        .map_err(|error| Refusal::new(Code::InvalidArgument, format!("malformed {} request: {error}", method.name())))?;
    Ok(Call { stream: frame.stream, request })
}

/// The bytes of a request.
///
/// # Errors
/// It is longer than a frame may be.
pub fn encode_request(stream: u32, method: Method, request: &impl Message) -> Result<Vec<u8>, FrameError> {
    let mut envelope = envelope::Request::new();
    envelope.service = SERVICE.to_owned();
    envelope.method = method.name().to_owned();
    envelope.payload = serialize(request);
    Frame { stream, kind: Kind::Request, payload: serialize(&envelope) }.encode()
}

/// The bytes of the answer to the call on `stream`. An answer too long for a frame becomes a refusal that says so.
pub fn encode_response(stream: u32, answer: Result<&dyn protobuf::MessageDyn, &Refusal>) -> Vec<u8> {
    let mut envelope = envelope::Response::new();
    match answer {
        Ok(message) => envelope.payload = message.write_to_bytes_dyn().unwrap_or_default(),
        Err(refusal) => {
            let status = envelope.status.mut_or_insert_default();
            status.code = refusal.code as i32;
            status.message = refusal.message.clone();
        }
    }
    let frame = Frame { stream, kind: Kind::Response, payload: serialize(&envelope) };
    frame.encode().unwrap_or_else(|error| {
        let refusal = Refusal::new(Code::ResourceExhausted, error.to_string());
        encode_response(stream, Err(&refusal))
    })
}

/// Decodes the answer that a server sent into its payload.
///
/// # Errors
/// The server's refusal, or that the envelope is malformed.
pub fn decode_response(frame: &Frame) -> Result<Vec<u8>, Refusal> {
    let envelope = envelope::Response::parse_from_bytes(&frame.payload)
        .map_err(|error| Refusal::new(Code::Internal, format!("malformed response envelope: {error}")))?;
    match envelope.status.into_option() {
        Some(status) if status.code != 0 => Err(Refusal::new(Code::from_number(status.code), status.message)),
        _ => Ok(envelope.payload),
    }
}

/// Serializing into memory fails only for messages beyond 2 GiB, or proto2's missing required fields: neither is made
/// here.
fn serialize(message: &impl Message) -> Vec<u8> {
    message.write_to_bytes().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameDecoder;
    use proptest::prelude::*;

    fn one_frame(bytes: &[u8]) -> Frame {
        let mut decoder = FrameDecoder::new();
        decoder.feed(bytes);
        decoder.next_frame().unwrap().unwrap()
    }

    #[test]
    fn the_table_holds_every_method_of_the_proto_file() {
        let proto = include_str!("../proto/control.proto");
        let declared: Vec<&str> =
            proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")).map(|line| line.split('(').next().unwrap()).collect();
        let table: Vec<&str> = Method::ALL.iter().map(|method| method.name()).collect();
        assert_eq!(table, declared);
        assert!(proto.contains("package bulkhead.control.v1;") && proto.contains("service Control {"));
    }

    #[test]
    fn a_call_and_its_answers_travel() {
        let mut request = SignalRequest::new();
        request.container_id = "web".into();
        request.signal = 15;
        let call = decode_call(&one_frame(&encode_request(7, Method::Signal, &request).unwrap())).unwrap();
        assert_eq!(call, Call { stream: 7, request: Request::Signal(request) });

        let mut answer = WaitResponse::new();
        answer.exit_status = 137;
        let payload = decode_response(&one_frame(&encode_response(7, Ok(&answer)))).unwrap();
        assert_eq!(WaitResponse::parse_from_bytes(&payload).unwrap(), answer);

        let refusal = Refusal::new(Code::NotFound, "container \"web\" does not exist");
        assert_eq!(decode_response(&one_frame(&encode_response(9, Err(&refusal)))), Err(refusal));
    }

    #[test]
    fn other_services_and_methods_are_refused_by_name() {
        let mut envelope = envelope::Request::new();
        envelope.service = SERVICE.into();
        envelope.method = "Destroy".into();
        let mut frame = Frame { stream: 1, kind: Kind::Request, payload: envelope.write_to_bytes().unwrap() };
        assert_eq!(decode_call(&frame), Err(Refusal::new(Code::Unimplemented, "unknown method \"Destroy\"")));
        envelope.service = "else.where".into();
        frame.payload = envelope.write_to_bytes().unwrap();
        assert_eq!(decode_call(&frame).unwrap_err().message, "unknown service \"else.where\"");
        frame.kind = Kind::Response;
        assert_eq!(decode_call(&frame).unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn an_answer_too_long_for_a_frame_becomes_a_refusal() {
        let mut answer = ProcessesResponse::new();
        let mut process = ProcessInfo::new();
        process.command = "x".repeat(crate::frame::MAXIMUM_PAYLOAD);
        answer.processes.push(process);
        let refusal = decode_response(&one_frame(&encode_response(3, Ok(&answer)))).unwrap_err();
        assert_eq!(refusal.code, Code::ResourceExhausted);
    }

    proptest! {
        #[test]
        fn hostile_payloads_are_refused_or_decoded(payload in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = decode_call(&Frame { stream: 1, kind: Kind::Request, payload: payload.clone() });
            let _ = decode_response(&Frame { stream: 1, kind: Kind::Response, payload });
        }

        #[test]
        fn hostile_bodies_of_real_methods_are_refused_or_decoded(
            index in 0..Method::ALL.len(),
            payload in proptest::collection::vec(any::<u8>(), 0..512),
        ) {
            let mut envelope = envelope::Request::new();
            envelope.service = SERVICE.into();
            envelope.method = Method::ALL[index].name().into();
            envelope.payload = payload;
            let frame = Frame { stream: 1, kind: Kind::Request, payload: envelope.write_to_bytes().unwrap() };
            if let Ok(call) = decode_call(&frame) {
                prop_assert_eq!(call.request.method(), Method::ALL[index]);
            }
        }
    }
}
