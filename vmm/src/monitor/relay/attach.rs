//! What a request names beside its own bytes: streams, and trees of the host.

use std::os::fd::{AsFd, OwnedFd};

use bulkhead_protocol::call::{Call, Code, Refusal, Request};
use bulkhead_protocol::messages::{CreateRequest, Stdio};

use super::host::Host;
use super::pump::{Console, Process};
use super::terminal;

/// A stream that a request names: its identifier, the host's end, and which ways its bytes go (to the guest, to the host).
pub(super) struct Stream {
    pub identifier: u32,
    pub host: Host,
    pub ways: (bool, bool),
    pub process: Process,
    pub console: Option<Console>,
}

/// What a request needs before the guest may see it, and what its answer means.
pub(super) enum Needs {
    /// A container is created.
    Create { container: String, streams: Vec<Stream>, trees: Vec<(String, OwnedFd)> },
    /// A process is started.
    Exec { streams: Vec<Stream> },
    /// A process that exists begins: its terminal has the size that the client has set meanwhile.
    Start(Process),
    /// A process's end is waited for: the answer comes after its last output.
    Wait(Process),
    /// A container is deleted.
    Delete { container: String },
    /// Nothing.
    Nothing,
}

impl Needs {
    /// Looks at a request; `claim` gives the descriptor that was attached under an identifier.
    ///
    /// # Errors
    /// What the client is told: an identifier that nobody has attached, or a descriptor that can not travel.
    pub fn of(call: &Call, claim: &mut dyn FnMut(u32) -> Option<OwnedFd>) -> Result<Self, Refusal> {
        let mut claim = |identifier: u32| {
            let missing = || Refusal::new(Code::InvalidArgument, format!("stream {identifier} has not been attached"));
            claim(identifier).ok_or_else(missing)
        };
        Ok(match &call.request {
            Request::Create(request) => {
                // The guest counts in its own cgroups; what the host's tells is not for it.
                if request.memory_events != 0 {
                    drop(claim(request.memory_events)?);
                }
                let process = process(&request.container_id, "");
                let mut streams = stdio(&request.stdio, &process, &mut claim)?;
                preserved(&request.preserved_streams, &process, &mut claim, &mut streams)?;
                Needs::Create { container: request.container_id.clone(), streams, trees: trees(request, &mut claim)? }
            }
            Request::Exec(request) => {
                let process = process(&request.container_id, &request.exec_id);
                let mut streams = stdio(&request.stdio, &process, &mut claim)?;
                preserved(&request.preserved_streams, &process, &mut claim, &mut streams)?;
                Needs::Exec { streams }
            }
            Request::Start(request) => Needs::Start(process(&request.container_id, &request.exec_id)),
            Request::Wait(request) => Needs::Wait(process(&request.container_id, &request.exec_id)),
            Request::Delete(request) => Needs::Delete { container: request.container_id.clone() },
            _ => Needs::Nothing,
        })
    }
}

type Claim<'a> = &'a mut dyn FnMut(u32) -> Result<OwnedFd, Refusal>;

fn process(container: &str, exec: &str) -> Process {
    Process { container: container.to_owned(), exec: exec.to_owned() }
}

fn stdio(stdio: &Stdio, process: &Process, claim: Claim<'_>) -> Result<Vec<Stream>, Refusal> {
    if stdio.terminal {
        return Ok(vec![console(stdio, process, claim)?]);
    }
    let mut streams = Vec::new();
    for (identifier, ways) in [(stdio.stdin, (true, false)), (stdio.stdout, (false, true)), (stdio.stderr, (false, true))] {
        if identifier != 0 {
            let host = host(identifier, claim(identifier)?)?;
            streams.push(Stream { identifier, host, ways, process: process.clone(), console: None });
        }
    }
    Ok(streams)
}

/// Makes the terminal of a process: the client gets its master, the guest what goes over its slave.
fn console(stdio: &Stdio, process: &Process, claim: Claim<'_>) -> Result<Stream, Refusal> {
    let socket = claim(stdio.console)?;
    let failed =
        |error: std::io::Error| Refusal::new(Code::Internal, format!("making the console of container {}: {error}", process.container));
    let (master, slave) = terminal::pair().map_err(failed)?;
    let asked = u16::try_from(stdio.rows).ok().zip(u16::try_from(stdio.columns).ok()).filter(|size| *size != (0, 0));
    if let Some(size) = asked {
        terminal::set_size(&slave, size).map_err(failed)?;
    }
    terminal::send_master(socket.as_fd(), &master).map_err(failed)?;
    let (host, console) = (Host::own(slave), Some(Console { size: asked }));
    Ok(Stream { identifier: stdio.console, host, ways: (true, true), process: process.clone(), console })
}

fn preserved(identifiers: &[u32], process: &Process, claim: Claim<'_>, streams: &mut Vec<Stream>) -> Result<(), Refusal> {
    for (number, &identifier) in (3..).zip(identifiers) {
        let host = host(identifier, claim(identifier)?)?;
        if host.listens() {
            let reason = format!(
                "descriptor {number}: a listening socket can not be preserved: its connections do not reach into a virtual machine"
            );
            return Err(Refusal::new(Code::InvalidArgument, reason));
        }
        let ways = host.access().map_err(|error| unusable(identifier, &error))?;
        streams.push(Stream { identifier, host, ways, process: process.clone(), console: None });
    }
    Ok(())
}

fn host(identifier: u32, descriptor: OwnedFd) -> Result<Host, Refusal> {
    Host::foreign(descriptor).map_err(|error| unusable(identifier, &error))
}

fn unusable(identifier: u32, error: &std::io::Error) -> Refusal {
    Refusal::new(Code::InvalidArgument, format!("stream {identifier}: {error}"))
}

/// The trees of a container: each is known to the guest by the decimal identifier of its stream.
fn trees(request: &CreateRequest, claim: Claim<'_>) -> Result<Vec<(String, OwnedFd)>, Refusal> {
    let mounts = request.mounts.iter().filter_map(|mount| mount.source.as_ref());
    let all = request.root.as_ref().into_iter().chain(request.overlay_dir.as_ref()).chain(mounts);
    all.map(|tree| Ok((tree.stream.to_string(), claim(tree.stream)?))).collect()
}
