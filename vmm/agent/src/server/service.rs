//! The service: what each request does.

use std::os::fd::AsFd;

use bulkhead_protocol::call::{Code, Refusal, Request};
use bulkhead_protocol::messages::{Empty, WaitRequest};
use bulkhead_protocol::protobuf::MessageDyn;
use nix::errno::Errno;

use super::connection::{Answer, Ward};
use super::container::Container;
use super::{Agent, Reply, reap, report};
use crate::container::{internal, invalid, text};
use crate::resources::{limits, statistics};
use crate::system;

fn done() -> Option<Answer> {
    Some(Ok(Box::new(Empty::new())))
}

fn boxed(message: impl MessageDyn) -> Option<Answer> {
    Some(Ok(Box::new(message)))
}

impl Agent {
    /// Serves one request; the answer may come later.
    pub(super) fn request(&mut self, reply: Reply, request: Request) {
        crate::log::debug(format_args!("{} ({})", request.method().name(), reply.connection));
        match self.serve_one(reply, request) {
            Ok(Some(answer)) => self.answer(reply, answer),
            Ok(None) => {}
            Err(refusal) => self.answer(reply, Err(refusal)),
        }
    }

    /// The answer, or none where it comes later.
    fn serve_one(&mut self, reply: Reply, request: Request) -> Result<Option<Answer>, Refusal> {
        Ok(match request {
            Request::Create(request) => {
                self.create(reply, &request)?;
                None
            }
            Request::Start(request) => {
                self.start(reply, &request.container_id, &request.exec_id)?;
                None
            }
            Request::Exec(request) => {
                self.exec(reply, &request)?;
                None
            }
            Request::Signal(request) => {
                self.signal(&request.container_id, &request.exec_id, request.signal, request.all)?;
                done()
            }
            Request::Wait(request) => {
                self.wait(reply, &request)?;
                None
            }
            Request::ResizeTerminal(request) => {
                self.resize(&request.container_id, &request.exec_id, request.rows, request.columns)?;
                done()
            }
            Request::Processes(request) => boxed(self.processes_of(&request.container_id)?),
            Request::State(request) => boxed(self.state(&request.container_id)?),
            Request::Pause(request) => self.pause(reply, &request.container_id)?,
            Request::Resume(request) => {
                let container = self.container_mut(&request.container_id)?;
                container.cgroup.freeze(false).map_err(|error| internal(error.to_string()))?;
                container.paused = false;
                done()
            }
            Request::Delete(request) => {
                self.container(&request.container_id)?;
                self.end(&request.container_id, reply, Ok(Box::new(Empty::new())));
                None
            }
            Request::SyscallCounts(request) => {
                self.container(&request.container_id)?;
                let reason = "a virtual machine's programs call its own kernel, which does not count";
                return Err(Refusal::new(Code::Unimplemented, reason));
            }
            Request::Update(request) => {
                let resources = serde_json::from_slice(&request.resources_json).map_err(|error| invalid(format!("resources: {error}")))?;
                let container = self.container(&request.container_id)?;
                limits::apply(&container.cgroup, &resources).map_err(|error| invalid(error.to_string()))?;
                done()
            }
            Request::Stats(request) => boxed(statistics::read(&self.container(&request.container_id)?.cgroup)),
            Request::OutOfMemory(request) => {
                self.memory_ran_out(&request.container_id);
                let container = self.container_mut(&request.container_id)?;
                if container.memory_kills > request.known {
                    boxed(report::out_of_memory(container.memory_kills))
                } else {
                    container.memory_waits.push((reply, request.known));
                    None
                }
            }
        })
    }

    /// The container with this id.
    pub(super) fn container(&self, id: &str) -> Result<&Container, Refusal> {
        self.containers.get(id).ok_or_else(|| Refusal::new(Code::NotFound, format!("container {id:?} does not exist")))
    }

    fn container_mut(&mut self, id: &str) -> Result<&mut Container, Refusal> {
        self.containers.get_mut(id).ok_or_else(|| Refusal::new(Code::NotFound, format!("container {id:?} does not exist")))
    }

    /// The process that a client means: the init, or one that entered by exec.
    pub(super) fn process(&self, id: &str, exec: &str) -> Result<u64, Refusal> {
        let container = self.container(id)?;
        let number = if exec.is_empty() {
            Some(container.init)
        } else {
            container.execs.iter().find(|(name, _)| name == exec).map(|(_, number)| *number)
        };
        number
            .filter(|number| self.processes.contains_key(number))
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("process {exec:?} of container {id} does not exist")))
    }

    fn signal(&mut self, id: &str, exec: &str, signal: u32, all: bool) -> Result<(), Refusal> {
        let number = i32::try_from(signal).unwrap_or(-1);
        let wrong = || invalid(format!("signal {signal}: no such signal"));
        if !(0..=libc::SIGRTMAX()).contains(&number) {
            return Err(wrong());
        }
        if all {
            self.signal_all(id, number)?;
            return Ok(());
        }
        let key = self.process(id, exec)?;
        let ended = || Refusal::new(Code::FailedPrecondition, "process already finished");
        let process = self.processes.get_mut(&key).ok_or_else(ended)?;
        let pidfd = process.pidfd.as_ref().ok_or_else(ended)?;
        if number == libc::SIGKILL {
            process.killed_by_client = true;
        }
        system::pidfd_send_signal(pidfd.as_fd(), number).map_err(|error| match error {
            Errno::ESRCH => ended(),
            Errno::EINVAL => wrong(),
            error => internal(text(error)),
        })
    }

    /// Sends a signal to everything in a container. SIGKILL is the cgroup's to give: it misses nobody who is being born.
    fn signal_all(&mut self, id: &str, signal: i32) -> Result<(), Refusal> {
        let cgroup = self.container(id)?.cgroup.clone();
        if signal != libc::SIGKILL {
            for pid in cgroup.processes() {
                let _ = system::pidfd_open(nix::unistd::Pid::from_raw(pid)).and_then(|one| system::pidfd_send_signal(one.as_fd(), signal));
            }
            return Ok(());
        }
        for process in self.processes.values_mut().filter(|process| process.container == id) {
            process.killed_by_client = true;
        }
        cgroup.kill().map_err(|error| internal(error.to_string()))
    }

    fn wait(&mut self, reply: Reply, request: &WaitRequest) -> Result<(), Refusal> {
        let number = self.process(&request.container_id, &request.exec_id)?;
        let Some(process) = self.processes.get_mut(&number) else { return Err(internal("a process without a record")) };
        match process.announced() {
            Some(exit) => self.answer(reply, Ok(Box::new(reap::response(exit)))),
            None => {
                process.waits.push(reply);
                if request.kill_when_abandoned {
                    self.guard(reply, Ward::Waited(number));
                }
            }
        }
        Ok(())
    }

    fn resize(&self, id: &str, exec: &str, rows: u32, columns: u32) -> Result<(), Refusal> {
        let number = self.process(id, exec)?;
        let failed = |reason: String| Refusal::new(Code::FailedPrecondition, format!("resizing the terminal of container {id}: {reason}"));
        let terminal = self.processes.get(&number).and_then(|process| process.terminal.as_ref());
        let terminal = terminal.ok_or_else(|| failed("it has none".into()))?;
        let narrow = |number| u16::try_from(number).unwrap_or(u16::MAX);
        system::set_window_size(terminal.as_fd(), narrow(rows), narrow(columns)).map_err(|error| failed(text(error)))
    }

    fn pause(&mut self, reply: Reply, id: &str) -> Result<Option<Answer>, Refusal> {
        let container = self.container_mut(id)?;
        container.cgroup.freeze(true).map_err(|error| internal(error.to_string()))?;
        container.paused = true;
        let state = container.cgroup.state();
        if state.frozen || !state.populated {
            return Ok(done());
        }
        container.pausing.push(reply);
        Ok(None)
    }
}
