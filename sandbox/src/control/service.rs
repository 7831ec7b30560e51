//! The service: what each request does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bulkhead_protocol::call::{Code, Refusal, Request};
use bulkhead_protocol::messages::{
    Empty, ProcessInfo, ProcessesResponse, StateResponse, SyscallCount, SyscallCountsResponse, WaitRequest, WaitResponse, state_response,
};
use bulkhead_protocol::protobuf::{EnumOrUnknown, MessageDyn};

use super::connection::{Answer, Connection};
use super::{create, launch, memory};
use crate::kernel::container::Container;
use crate::kernel::kernel;
use crate::kernel::park::{self, ParkedCall};
use crate::kernel::signal;
use crate::kernel::task::Process;
use crate::kernel::timer::Deadline;
use crate::kernel::wait::Ready;
use crate::platform::dispatch::dispatcher;
use crate::platform::process::Status;
use crate::syscalls::Outcome;

/// Serves one request; the answer may come later.
pub fn serve(connection: &Arc<Connection>, stream: u32, request: Request) {
    match request {
        Request::Wait(request) => wait(connection, stream, &request),
        request => {
            let answer = answer(connection, request);
            connection.answer(stream, answer);
            if kernel().containers.read().is_empty() && ENDED.load(Ordering::SeqCst) {
                // The last container has been deleted: the pod is over. Whatever process is left dies with this one.
                std::process::exit(0);
            }
        }
    }
}

/// Set once a container has been deleted: until then an empty pod is one that begins.
static ENDED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

fn done() -> Answer {
    Ok(Box::new(Empty::new()))
}

fn boxed(message: impl MessageDyn) -> Answer {
    Ok(Box::new(message))
}

fn answer(connection: &Connection, request: Request) -> Answer {
    match request {
        Request::Create(request) => boxed(create::create(&request)?),
        Request::Start(request) => {
            launch::start(&container(&request.container_id)?, &request.exec_id)?;
            done()
        }
        Request::Exec(request) => boxed(launch::exec(&container(&request.container_id)?, &request, connection)?),
        Request::Signal(request) => {
            let container = container(&request.container_id)?;
            send(&container, &request.exec_id, request.signal as i32, request.all)?;
            done()
        }
        Request::ResizeTerminal(request) => {
            let container = container(&request.container_id)?;
            launch::resize(&container, &request.exec_id, request.rows as u16, request.columns as u16)?;
            done()
        }
        Request::Processes(request) => boxed(processes(&container(&request.container_id)?)),
        Request::State(request) => boxed(state(&container(&request.container_id)?)),
        Request::Pause(request) => {
            dispatcher().freeze(&container(&request.container_id)?);
            done()
        }
        Request::Resume(request) => {
            dispatcher().thaw(&container(&request.container_id)?);
            done()
        }
        Request::Delete(request) => {
            delete(&container(&request.container_id)?);
            done()
        }
        Request::SyscallCounts(request) => boxed(counts(container(&request.container_id)?.as_ref())),
        Request::Update(_) | Request::Stats(_) | Request::OutOfMemory(_) => {
            Err(Refusal::new(Code::Unimplemented, "the container's cgroup on the host limits, counts and tells"))
        }
        Request::Wait(_) => Err(Refusal::new(Code::Internal, "wait is answered elsewhere")),
    }
}

/// The container with this id.
fn container(id: &str) -> Result<Arc<Container>, Refusal> {
    let found = kernel().containers.read().get(id).cloned();
    found.ok_or_else(|| Refusal::new(Code::NotFound, format!("container {id:?} does not exist")))
}

/// The process that a client means: the init, or one that entered by exec.
fn process(container: &Container, exec_id: &str) -> Result<Arc<Process>, Refusal> {
    let found = if exec_id.is_empty() {
        container.init.read().clone()
    } else {
        container.execs.lock().iter().find(|(name, _)| name == exec_id).map(|(_, process)| process.clone())
    };
    found.ok_or_else(|| Refusal::new(Code::NotFound, format!("process {exec_id:?} of container {} does not exist", container.id)))
}

fn send(container: &Arc<Container>, exec_id: &str, number: i32, all: bool) -> Result<(), Refusal> {
    if all {
        for process in signal::of_container(container) {
            if number == libc::SIGKILL {
                memory::killed_by_client(&process);
            }
            let _ = signal::send_to_process(&process, number);
        }
        return Ok(());
    }
    let process = process(container, exec_id)?;
    if number == libc::SIGKILL {
        memory::killed_by_client(&process);
    }
    let ended = || Refusal::new(Code::FailedPrecondition, "process already finished");
    if process.exit.get().is_some() {
        return Err(ended());
    }
    signal::send_to_process(&process, number).map_err(|_| ended())
}

fn wait(connection: &Arc<Connection>, stream: u32, request: &WaitRequest) {
    let process = container(&request.container_id).and_then(|container| process(&container, &request.exec_id));
    let process = match process {
        Ok(process) => process,
        Err(refusal) => return connection.answer(stream, Err(refusal)),
    };
    if request.kill_when_abandoned {
        let abandoned = process.clone();
        connection.at_end(Box::new(move || {
            if abandoned.exit.get().is_none() {
                memory::killed_by_client(&abandoned);
                let _ = signal::send_to_process(&abandoned, libc::SIGKILL);
            }
        }));
    }
    let connection = connection.clone();
    let waited = process.clone();
    let future = Box::pin(async move {
        let look = || waited.exit.get().map(|_| ()).ok_or(crate::errno::Errno::EAGAIN);
        park::retry(&waited.exit.queue, Ready::all(), Deadline::Never, look).await?;
        Ok(Outcome::Gone)
    });
    let finish = Box::new(move |_| {
        let mut response = WaitResponse::new();
        if let Some(ended) = process.exit.get() {
            response.exit_status = ended.exit_code();
            response.out_of_memory = memory::ran_out(&process, &ended);
            response.exited_at = ended.at.seconds.saturating_mul(1_000_000_000) + i64::from(ended.at.nanoseconds);
        }
        connection.answer(stream, Ok(Box::new(response)));
    });
    ParkedCall::new(future, finish).start();
}

fn processes(container: &Arc<Container>) -> ProcessesResponse {
    let mut response = ProcessesResponse::new();
    let execs = container.execs.lock().clone();
    for process in signal::of_container(container) {
        let mut info = ProcessInfo::new();
        info.pid = process.pid.0;
        info.container_pid = process.inner;
        // Who adopted it, where its parent is gone.
        let parent = Status::read(process.pid).map_or_else(|_| process.parent.load(Ordering::Relaxed), |status| status.parent);
        info.parent = crate::kernel::fork::inner_number(container, crate::kernel::task::Pid(parent));
        if let Some(thread) = process.threads.lock().first() {
            info.uid = thread.credentials.read().euid;
            let name = *thread.name.lock();
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            info.command = command_line(&process).unwrap_or_else(|| format!("[{}]", String::from_utf8_lossy(&name[..end])));
        }
        if let Some((name, _)) = execs.iter().find(|(_, other)| Arc::ptr_eq(other, &process)) {
            info.exec_id = name.clone();
        }
        response.processes.push(info);
    }
    response
}

/// The arguments that a process was started with, as ps(1) shows them; none where it has no more memory.
fn command_line(process: &Process) -> Option<String> {
    /// More is no list's business.
    const LONGEST: u64 = 4096;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(format!("/proc/{}/cmdline", process.pid.0)).ok()?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, LONGEST), &mut bytes).ok()?;
    let end = bytes.iter().rposition(|&byte| byte != 0)? + 1;
    bytes[..end].iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

fn state(container: &Arc<Container>) -> StateResponse {
    let mut response = StateResponse::new();
    let init = container.init.read().clone();
    let status = match &init {
        None => state_response::Status::UNKNOWN,
        Some(init) => {
            response.pid = init.pid.0;
            match init.exit.get() {
                Some(ended) => {
                    response.exit_status = ended.exit_code();
                    state_response::Status::STOPPED
                }
                None if dispatcher().is_frozen(container) => state_response::Status::PAUSED,
                None if container.gate.lock().is_some() => state_response::Status::CREATED,
                None => state_response::Status::RUNNING,
            }
        }
    };
    response.status = EnumOrUnknown::new(status);
    response
}

/// Kills what is left of a container and forgets it.
fn delete(container: &Arc<Container>) {
    for process in signal::of_container(container) {
        memory::killed_by_client(&process);
        let _ = signal::send_to_process(&process, libc::SIGKILL);
    }
    dispatcher().thaw(container);
    let removed = kernel().containers.write().remove(&container.id);
    ENDED.store(true, Ordering::SeqCst);
    container.exec_root.remove();
    create::unmount(&container.id);
    memory::forget(&container.id);
    drop(removed);
}

fn counts(container: &Container) -> SyscallCountsResponse {
    let mut response = SyscallCountsResponse::new();
    for (number, count) in container.counts.iter().enumerate() {
        let calls = count.calls.load(Ordering::Relaxed);
        if calls == 0 {
            continue;
        }
        let mut line = SyscallCount::new();
        line.number = number as i32;
        line.name = crate::syscalls::lookup(number as i64).map_or_else(|| format!("syscall_{number}"), |entry| entry.name.to_owned());
        line.calls = calls;
        line.refused = count.refused.load(Ordering::Relaxed);
        response.counts.push(line);
    }
    response
}
