//! The relay against an agent that the test plays.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_protocol::call::{Call, Code, Method, Refusal, Request, decode_call, encode_response};
use bulkhead_protocol::client::{CallError, Client as Caller};
use bulkhead_protocol::frame::FrameDecoder;
use bulkhead_protocol::guest::{CONTROL_PORT, READY, STREAMS_PORT};
use bulkhead_protocol::messages::*;
use bulkhead_protocol::protobuf::MessageDyn;
use bulkhead_protocol::streams::StreamConnection;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::held::GRACE;
use super::*;

/// Longer than anything here takes: a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Recorded(mpsc::Sender<String>);

impl Trees for Recorded {
    fn add(&self, name: &str, tree: OwnedFd) -> io::Result<()> {
        let kind = if File::from(tree).metadata()?.is_dir() { "directory" } else { "file" };
        self.0.send(format!("+{name} {kind}")).map_err(io::Error::other)
    }

    fn remove(&self, name: &str) {
        self.0.send(format!("-{name}")).unwrap();
    }
}

/// A pod whose agent is the test.
struct Pod {
    directory: tempfile::TempDir,
    connections: Receiver<(u32, UnixStream)>,
    /// The agent's end of its first connection.
    boot: Option<UnixStream>,
    trees: Receiver<String>,
    /// A byte ends the guest.
    end: OwnedFd,
    relay: JoinHandle<Outcome>,
}

impl Pod {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let control = UnixListener::bind(directory.path().join("control.sock")).unwrap();
        let (connected, connections) = channel();
        let (recorded, trees) = channel();
        let (boot, theirs) = UnixStream::pair().unwrap();
        let (ended, end) = nix::unistd::pipe().unwrap();
        let connect: Box<dyn Fn(u32) -> io::Result<UnixStream> + Send> = Box::new(move |port| {
            let (here, there) = UnixStream::pair()?;
            there.set_read_timeout(Some(PATIENCE))?;
            connected.send((port, there)).map_err(io::Error::other)?;
            Ok(here)
        });
        let relay = std::thread::spawn(move || {
            let trees = Box::new(Recorded(recorded));
            Relay::new(Sides { control, connect, trees, ended: ended.as_fd(), agent: theirs }).unwrap().run().unwrap()
        });
        Self { directory, connections, boot: Some(boot), trees, end, relay }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn client(&self) -> Caller {
        let client = Caller::connect(&self.socket()).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        client
    }

    fn streams(&self) -> StreamConnection {
        StreamConnection::open(&self.socket()).unwrap()
    }

    /// The next connection to the agent.
    fn accept(&self, port: u32) -> UnixStream {
        let (asked, connection) = self.connections.recv_timeout(PATIENCE).unwrap();
        assert_eq!(asked, port);
        connection
    }

    /// The next control connection, and a call on it.
    fn control(&self) -> Agent {
        Agent { connection: self.accept(CONTROL_PORT), decoder: FrameDecoder::new() }
    }

    /// Takes the next stream: its identifier and connection.
    fn take_stream(&self) -> (u32, UnixStream) {
        let mut connection = self.accept(STREAMS_PORT);
        let mut identifier = [0; 4];
        connection.read_exact(&mut identifier).unwrap();
        connection.write_all(&[READY]).unwrap();
        (u32::from_le_bytes(identifier), connection)
    }

    fn tree(&self) -> String {
        self.trees.recv_timeout(PATIENCE).unwrap()
    }

    /// A container of which nobody needs to know more.
    fn create(&self, name: &str) {
        let mut client = self.client();
        client.send(Method::Create, &creation(name)).unwrap();
        let mut agent = self.control();
        agent.answer(&CreateResponse::new());
        client.receive::<CreateResponse>().unwrap();
    }
}

/// The agent's end of one control connection.
struct Agent {
    connection: UnixStream,
    decoder: FrameDecoder,
}

impl Agent {
    fn call(&mut self) -> Call {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return decode_call(&frame).unwrap();
            }
            let mut bytes = [0; 1024];
            let length = self.connection.read(&mut bytes).unwrap();
            assert_ne!(length, 0, "the client has gone");
            self.decoder.feed(&bytes[..length]);
        }
    }

    /// Takes a call and answers it.
    fn answer(&mut self, message: &dyn MessageDyn) -> Call {
        let call = self.call();
        self.connection.write_all(&encode_response(call.stream, Ok(message))).unwrap();
        call
    }

    fn refuse(&mut self, code: Code) {
        let stream = self.call().stream;
        self.connection.write_all(&encode_response(stream, Err(&Refusal::new(code, "no")))).unwrap();
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.connection.read(&mut [0; 16]), Ok(0))
    }
}

fn creation(name: &str) -> CreateRequest {
    CreateRequest { container_id: name.into(), ..CreateRequest::new() }
}

fn named(name: &str) -> ContainerRequest {
    ContainerRequest { container_id: name.into(), ..ContainerRequest::new() }
}

fn read_all(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_containers_streams_and_trees_reach_the_guest() {
    let pod = Pod::new();
    let mut streams = pod.streams();
    let (input, mut keyboard) = io::pipe().unwrap();
    let (screen, output) = io::pipe().unwrap();
    let counter = tempfile::tempfile().unwrap();
    let directory = File::open("/").unwrap();
    let mut request = creation("web");
    let stdio = request.stdio.mut_or_insert_default();
    stdio.stdin = streams.attach(&input).unwrap().number();
    stdio.stdout = streams.attach(&output).unwrap().number();
    request.memory_events = streams.attach(&counter).unwrap().number();
    request.root.mut_or_insert_default().stream = streams.attach(&directory).unwrap().number();
    request.mounts.push(Mount::new());
    request.mounts[0].source.mut_or_insert_default().stream = streams.attach(&counter).unwrap().number();
    drop((input, output));

    let mut client = pod.client();
    client.send(Method::Create, &request).unwrap();
    let mut agent = pod.control();
    assert_eq!(pod.tree(), format!("+{} directory", request.root.stream));
    assert_eq!(pod.tree(), format!("+{} file", request.mounts[0].source.stream));
    let (first, mut stdin) = pod.take_stream();
    let (second, mut stdout) = pod.take_stream();
    assert_eq!((first, second), (request.stdio.stdin, request.stdio.stdout));
    keyboard.write_all(b"typed").unwrap();
    let call = agent.call();
    assert_eq!(call.request, Request::Create(request.clone()));
    stdin.set_nonblocking(true).unwrap();
    assert!(stdin.read(&mut [0]).is_err(), "nothing is taken before the container is there");
    stdin.set_nonblocking(false).unwrap();
    let lie = CreateResponse { pid: 1, pid_stream: 77, host_cgroup: true, ..CreateResponse::new() };
    agent.connection.write_all(&encode_response(call.stream, Ok(&lie))).unwrap();
    let answer: CreateResponse = client.receive().unwrap();
    assert_eq!((answer.pid, answer.pid_stream, answer.host_cgroup), (1, 0, false));

    let mut typed = [0; 5];
    stdin.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"typed");
    keyboard.write_all(b" more").unwrap();
    drop(keyboard);
    assert_eq!(read_all(&stdin), " more", "the end of standard input is one");
    stdout.write_all(b"shown").unwrap();
    drop(stdout);
    assert_eq!(read_all(screen), "shown");

    client.send(Method::Delete, &named("web")).unwrap();
    agent.answer(&Empty::new());
    client.receive::<Empty>().unwrap();
    assert_eq!(pod.tree(), format!("-{}", request.root.stream));
    assert_eq!(pod.tree(), format!("-{}", request.mounts[0].source.stream));
    assert_eq!(pod.relay.join().unwrap(), Outcome::Over);
}

#[test]
fn of_a_refused_container_nothing_stays() {
    let pod = Pod::new();
    let mut streams = pod.streams();
    let (mut input, mut keyboard) = io::pipe().unwrap();
    let mut request = creation("web");
    request.stdio.mut_or_insert_default().stdin = streams.attach(&input).unwrap().number();
    request.root.mut_or_insert_default().stream = streams.attach(File::open("/").unwrap()).unwrap().number();
    keyboard.write_all(b"kept").unwrap();
    let mut client = pod.client();
    client.send(Method::Create, &request).unwrap();
    let mut agent = pod.control();
    let (_, stdin) = pod.take_stream();
    agent.refuse(Code::NotFound);
    assert_eq!(client.receive::<CreateResponse>().unwrap_err().to_string(), "no");
    assert_eq!(read_all(&stdin), "", "its stream is closed");
    assert_eq!(pod.tree(), format!("+{} directory", request.root.stream));
    assert_eq!(pod.tree(), format!("-{}", request.root.stream));
    let mut kept = [0; 4];
    input.read_exact(&mut kept).unwrap();
    assert_eq!(&kept, b"kept");
    // What was claimed is gone; what was never attached is named.
    client.send(Method::Create, &request).unwrap();
    let error = client.receive::<CreateResponse>().unwrap_err().to_string();
    assert_eq!(error, format!("stream {} has not been attached", request.stdio.stdin));
}

#[test]
fn an_agent_that_does_not_take_a_stream_fails_the_request() {
    let pod = Pod::new();
    let mut streams = pod.streams();
    let mut request = ExecRequest::new();
    request.stdio.mut_or_insert_default().stdout = streams.attach(File::open("/dev/null").unwrap()).unwrap().number();
    let mut client = pod.client();
    client.send(Method::Exec, &request).unwrap();
    let mut agent = pod.control();
    let mut stream = pod.accept(STREAMS_PORT);
    stream.read_exact(&mut [0; 4]).unwrap();
    drop(stream);
    let error = client.receive::<ExecResponse>().unwrap_err().to_string();
    assert_eq!(error, "attaching a stream: the guest's agent does not take it");
    // The connection goes on; the refused call was never seen.
    client.send(Method::State, &StateRequest::new()).unwrap();
    assert_eq!(agent.answer(&StateResponse::new()).request, Request::State(StateRequest::new()));
    client.receive::<StateResponse>().unwrap();
}

fn receive_master(socket: &UnixStream) -> File {
    let mut name = [0; 64];
    let mut slices = [IoSliceMut::new(&mut name)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let Some(ControlMessageOwned::ScmRights(descriptors)) = message.cmsgs().unwrap().next() else { panic!("no descriptor") };
    // SAFETY: the host has just installed it for us.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(descriptors[0]) }
}

#[test]
fn a_console_is_a_terminal_of_the_hosts_whose_size_the_guest_is_told() {
    let pod = Pod::new();
    let mut streams = pod.streams();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut request = creation("shell");
    let stdio = request.stdio.mut_or_insert_default();
    (stdio.terminal, stdio.rows, stdio.columns) = (true, 10, 20);
    stdio.console = streams.attach(&theirs).unwrap().number();
    let mut client = pod.client();
    client.send(Method::Create, &request).unwrap();
    let mut agent = pod.control();
    let (identifier, mut wire) = pod.take_stream();
    assert_eq!(identifier, request.stdio.console);
    let mut master = receive_master(&ours);
    assert_eq!(terminal::size(&master), Some((10, 20)));
    agent.answer(&CreateResponse::new());
    client.receive::<CreateResponse>().unwrap();

    master.write_all(b"\x03").unwrap();
    let mut typed = [0];
    wire.read_exact(&mut typed).unwrap();
    assert_eq!(typed, [3]);
    terminal::set_size(&master, (30, 90)).unwrap();
    wire.write_all(b"$ ").unwrap();
    let mut shown = [0; 2];
    master.read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"$ ");
    let mut own = pod.control();
    let resized = ResizeTerminalRequest { container_id: "shell".into(), rows: 30, columns: 90, ..ResizeTerminalRequest::new() };
    assert_eq!(own.answer(&Empty::new()).request, Request::ResizeTerminal(resized.clone()));
    // And once more when the process begins.
    terminal::set_size(&master, (31, 91)).unwrap();
    client.send(Method::Start, &StartRequest { container_id: "shell".into(), ..StartRequest::new() }).unwrap();
    let resized = ResizeTerminalRequest { rows: 31, columns: 91, ..resized };
    assert_eq!(own.answer(&Empty::new()).request, Request::ResizeTerminal(resized));
    agent.answer(&Empty::new());
    client.receive::<Empty>().unwrap();

    drop(master);
    assert_eq!(read_all(&wire), "", "hung up");
}

#[test]
fn waits_are_answered_in_any_order_and_each_to_its_client() {
    let pod = Pod::new();
    let wait = |name: &str| WaitRequest { container_id: name.into(), ..WaitRequest::new() };
    let (mut first, mut second) = (pod.client(), pod.client());
    first.send(Method::Wait, &wait("a")).unwrap();
    let mut first_agent = pod.control();
    let waited = first_agent.call();
    second.send(Method::Wait, &wait("b")).unwrap();
    let mut second_agent = pod.control();
    second_agent.answer(&WaitResponse { exit_status: 2, ..WaitResponse::new() });
    assert_eq!(second.receive::<WaitResponse>().unwrap().exit_status, 2);
    let ended = WaitResponse { exit_status: 1, ..WaitResponse::new() };
    first_agent.connection.write_all(&encode_response(waited.stream, Ok(&ended))).unwrap();
    assert_eq!(first.receive::<WaitResponse>().unwrap().exit_status, 1);
}

#[test]
fn a_processs_end_is_told_after_its_last_output() {
    let pod = Pod::new();
    let mut streams = pod.streams();
    let (screen, output) = io::pipe().unwrap();
    let mut request = creation("web");
    request.stdio.mut_or_insert_default().stdout = streams.attach(&output).unwrap().number();
    drop(output);
    let mut client = pod.client();
    client.send(Method::Create, &request).unwrap();
    let mut agent = pod.control();
    let (_, mut stdout) = pod.take_stream();
    agent.answer(&CreateResponse::new());
    client.receive::<CreateResponse>().unwrap();
    client.send(Method::Wait, &WaitRequest { container_id: "web".into(), ..WaitRequest::new() }).unwrap();
    agent.answer(&WaitResponse { exit_status: 3, ..WaitResponse::new() });
    // More than a pipe holds, after the word of its end.
    let output = std::thread::spawn(move || stdout.write_all(&[b'x'; 300_000]).map(|()| stdout));
    client.set_timeout(Some(GRACE + Duration::from_millis(300))).unwrap();
    assert!(matches!(client.receive::<WaitResponse>(), Err(CallError::Connection(_))), "the screen has not taken everything");
    let reader = std::thread::spawn(move || read_all(screen).len());
    drop(output.join().unwrap().unwrap());
    client.set_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.receive::<WaitResponse>().unwrap().exit_status, 3);
    assert_eq!(reader.join().unwrap(), 300_000);
}

#[test]
fn a_processs_end_is_told_though_somebody_else_has_its_output_open() {
    let pod = Pod::new();
    let mut streams = pod.streams();
    let (_screen, output) = io::pipe().unwrap();
    let mut request = creation("web");
    request.stdio.mut_or_insert_default().stdout = streams.attach(&output).unwrap().number();
    let mut client = pod.client();
    client.send(Method::Create, &request).unwrap();
    let mut agent = pod.control();
    let (_, _stdout) = pod.take_stream();
    agent.answer(&CreateResponse::new());
    client.receive::<CreateResponse>().unwrap();
    let before = Instant::now();
    client.send(Method::Wait, &WaitRequest { container_id: "web".into(), ..WaitRequest::new() }).unwrap();
    agent.answer(&WaitResponse::new());
    client.receive::<WaitResponse>().unwrap();
    assert!(before.elapsed() >= GRACE);
}

#[test]
fn a_reader_that_is_slow_or_gone_stops_its_writer() {
    let pod = Pod::new();
    let mut streams = pod.streams();
    let (screen, output) = io::pipe().unwrap();
    let mut request = creation("web");
    request.stdio.mut_or_insert_default().stdout = streams.attach(&output).unwrap().number();
    drop(output);
    let mut client = pod.client();
    client.send(Method::Create, &request).unwrap();
    let mut agent = pod.control();
    let (_, mut stdout) = pod.take_stream();
    agent.answer(&CreateResponse::new());
    client.receive::<CreateResponse>().unwrap();
    stdout.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut written = 0;
    while let Ok(length) = stdout.write(&[0; 32 << 10]) {
        written += length;
        assert!(written < 4 << 20, "somebody keeps what nobody reads");
    }
    assert!(written > 64 << 10);
    drop(screen);
    stdout.set_write_timeout(None).unwrap();
    let gone = loop {
        if let Err(error) = stdout.write(&[0]) {
            break error.kind();
        }
    };
    assert!(matches!(gone, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{gone}");
}

#[test]
fn preserved_descriptors_go_the_ways_that_they_are_open_for() {
    let pod = Pod::new();
    let mut streams = pod.streams();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut request = creation("web");
    request.preserved_streams.push(streams.attach(&theirs).unwrap().number());
    drop(theirs);
    let mut client = pod.client();
    client.send(Method::Create, &request).unwrap();
    let mut agent = pod.control();
    let (_, mut inside) = pod.take_stream();
    agent.answer(&CreateResponse::new());
    client.receive::<CreateResponse>().unwrap();
    ours.write_all(b"in").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(&inside), "in");
    inside.write_all(b"out").unwrap();
    drop(inside);
    assert_eq!(read_all(&ours), "out");
    let listener = UnixListener::bind(pod.directory.path().join("listening")).unwrap();
    let mut request = creation("other");
    request.preserved_streams.push(streams.attach(&listener).unwrap().number());
    client.send(Method::Create, &request).unwrap();
    let error = client.receive::<CreateResponse>().unwrap_err().to_string();
    assert!(error.starts_with("descriptor 3: a listening socket can not be preserved"), "{error}");
}

#[test]
fn a_client_that_dies_is_gone_for_the_agent_too() {
    let pod = Pod::new();
    let mut client = pod.client();
    client.send(Method::Wait, &WaitRequest { kill_when_abandoned: true, ..WaitRequest::new() }).unwrap();
    let mut agent = pod.control();
    agent.call();
    drop(client);
    assert!(agent.is_closed());
    // In the middle of a handshake that never ends.
    let mut streams = pod.streams();
    let mut request = creation("web");
    request.stdio.mut_or_insert_default().stdout = streams.attach(File::open("/dev/null").unwrap()).unwrap().number();
    request.root.mut_or_insert_default().stream = streams.attach(File::open("/").unwrap()).unwrap().number();
    let mut client = pod.client();
    client.send(Method::Create, &request).unwrap();
    let mut agent = pod.control();
    let mut stream = pod.accept(STREAMS_PORT);
    drop(client);
    assert!(agent.is_closed());
    stream.read_exact(&mut [0; 4]).unwrap();
    assert_eq!(read_all(&stream), "", "its end after its identifier");
    assert_eq!([pod.tree(), pod.tree()], [format!("+{} directory", request.root.stream), format!("-{}", request.root.stream)]);
    // A request that is sent by somebody who does not wait is delivered all the same.
    let mut client = pod.client();
    client.send(Method::Signal, &SignalRequest::new()).unwrap();
    drop(client);
    assert_eq!(pod.control().call().request, Request::Signal(SignalRequest::new()));
}

#[test]
fn what_nobody_claims_is_dropped_with_its_connection() {
    let pod = Pod::new();
    let mut streams = pod.streams();
    let (mut screen, output) = io::pipe().unwrap();
    streams.attach(&output).unwrap();
    drop((streams, output));
    assert_eq!(screen.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_pod_is_over_when_the_last_of_its_containers_is_deleted() {
    let pod = Pod::new();
    pod.create("a");
    pod.create("b");
    let mut client = pod.client();
    client.send(Method::Delete, &named("a")).unwrap();
    let mut agent = pod.control();
    agent.answer(&Empty::new());
    client.receive::<Empty>().unwrap();
    client.send(Method::Delete, &named("a")).unwrap();
    agent.refuse(Code::NotFound);
    assert!(client.receive::<Empty>().is_err());
    assert!(!pod.relay.is_finished());
    client.send(Method::Delete, &named("b")).unwrap();
    agent.answer(&Empty::new());
    client.receive::<Empty>().unwrap();
    assert_eq!(pod.relay.join().unwrap(), Outcome::Over);
}

#[test]
fn the_guests_end_and_the_agents_end_the_relay() {
    let mut pod = Pod::new();
    let mut client = pod.client();
    client.send(Method::Wait, &WaitRequest::new()).unwrap();
    pod.control().call();
    drop(pod.boot.take());
    assert_eq!(pod.relay.join().unwrap(), Outcome::AgentEnded);
    assert!(client.receive::<WaitResponse>().unwrap_err().is_disconnected());
    let pod = Pod::new();
    nix::unistd::write(&pod.end, b"x").unwrap();
    assert_eq!(pod.relay.join().unwrap(), Outcome::GuestEnded);
}

#[test]
fn hostile_frames_cost_their_own_connection_alone() {
    let pod = Pod::new();
    let mut other = pod.client();
    other.send(Method::State, &StateRequest::new()).unwrap();
    let mut other_agent = pod.control();
    let hostile: [&[u8]; 3] = [&[0xff; 64], &[0, 0, 0, 0, 0, 0, 0, 1, 9, 0], &[0, 0x40, 0, 1, 0, 0, 0, 1, 2, 0]];
    for bytes in hostile {
        let mut client = pod.client();
        client.send(Method::State, &StateRequest::new()).unwrap();
        let mut agent = pod.control();
        agent.connection.write_all(bytes).unwrap();
        let error = client.receive::<StateResponse>().unwrap_err();
        assert!(error.is_disconnected(), "{error}");
    }
    // Answers that nobody has asked for are the client's to drop.
    other_agent.connection.write_all(&encode_response(12345, Ok(&Empty::new()))).unwrap();
    other_agent.answer(&StateResponse { pid: 4, ..StateResponse::new() });
    assert_eq!(other.receive::<StateResponse>().unwrap().pid, 4);
    // A refusal of the agent's reaches its client as it is.
    other.send(Method::State, &StateRequest::new()).unwrap();
    other_agent.refuse(Code::FailedPrecondition);
    let error = other.receive::<StateResponse>().unwrap_err();
    assert!(matches!(error, CallError::Refused(Refusal { code: Code::FailedPrecondition, .. })));
}

#[test]
fn a_hostile_guest_that_floods_a_client_is_not_read_any_more() {
    let pod = Pod::new();
    let mut client = pod.client();
    client.send(Method::State, &StateRequest::new()).unwrap();
    let mut agent = pod.control();
    agent.call();
    let flood = encode_response(77, Err(&Refusal::new(Code::Unknown, "x".repeat(100_000))));
    agent.connection.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut written = 0;
    while let Ok(length) = agent.connection.write(&flood) {
        written += length;
        assert!(written < 8 << 20, "somebody keeps what nobody reads");
    }
}
