//! Creating containers and execs, and letting them go.

use std::os::fd::AsFd;

use bulkhead_protocol::call::{Code, Refusal};
use bulkhead_protocol::messages::{CreateRequest, CreateResponse, Empty, ExecRequest, ExecResponse, Stdio};
use nix::errno::Errno;
use oci_spec::runtime::Process as Wanted;

use super::connection::{Answer, Ward};
use super::container::Container;
use super::process::{Owed, Process, Stage};
use super::{Agent, Reply};
use crate::container::gate::{self, Word};
use crate::container::launch::{Entry, Launch};
use crate::container::plan::Plan;
use crate::container::{init, internal, invalid, text};
use crate::events::Source;
use crate::resources::cgroup::Cgroup;
use crate::resources::limits;

/// A window's size in columns or rows; a request's numbers are wider than any terminal.
fn narrow(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn size(stdio: &Stdio) -> Option<(u16, u16)> {
    stdio.terminal.then(|| (narrow(stdio.rows), narrow(stdio.columns)))
}

impl Agent {
    /// Begins a container; it is answered when its process stands before its program. Whatever fails, nothing is left of it.
    pub(super) fn create(&mut self, reply: Reply, request: &CreateRequest) -> Result<(), Refusal> {
        let id = &request.container_id;
        if self.containers.contains_key(id) {
            return Err(Refusal::new(Code::AlreadyExists, format!("container with id exists: {id}")));
        }
        let plan = Plan::read(request, &self.places.shared, &self.places.workspace, !self.begun)?;
        let cgroup = self.hierarchy.create(id).map_err(|error| internal(error.to_string()))?;
        let made = self.make(reply, request, &plan, &cgroup);
        if made.is_err()
            && let Err(error) = cgroup.remove()
        {
            crate::log::error(error);
        }
        made
    }

    fn make(&mut self, reply: Reply, request: &CreateRequest, plan: &Plan, cgroup: &Cgroup) -> Result<(), Refusal> {
        let id = &request.container_id;
        if let Some(resources) = plan.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) {
            limits::apply(cgroup, resources).map_err(|error| invalid(error.to_string()))?;
        }
        let join = match request.pid_namespace_of.as_str() {
            "" => None,
            other => Some(self.alive(other)?),
        };
        let stdio = request.stdio.as_ref().cloned().unwrap_or_default();
        let streams = self.streams(&stdio, &request.preserved_streams)?;
        let mut container =
            Container::new(id, cgroup.clone(), plan.seccomp.clone(), &mut self.events).map_err(|error| internal(error.to_string()))?;
        let join = join.and_then(|init| self.processes.get(&init)).and_then(|init| init.pidfd.as_ref()).map(AsFd::as_fd);
        let launch = Launch {
            entry: Entry::First { plan, cgroup, join },
            process: plan.process()?,
            seccomp: plan.seccomp.as_ref(),
            terminal: size(&stdio),
            descriptors: &streams.descriptors,
        };
        let launched = match self.launcher.launch(&launch) {
            Ok(launched) => launched,
            Err(error) => {
                container.unwatch(&mut self.events);
                self.give_up(streams);
                return Err(internal(format!("starting a process: {}", text(error))));
            }
        };
        self.begun = true;
        let kills = cgroup.memory_kills();
        container.init = self.register(id, "", launched, Owed::Create(reply), streams, kills)?;
        self.containers.insert(id.clone(), container);
        Ok(())
    }

    /// Takes a process that has been forked into the books.
    fn register(
        &mut self,
        container: &str,
        exec: &str,
        launched: crate::container::launch::Launched,
        owed: Owed,
        streams: super::streaming::Streams,
        kills: u64,
    ) -> Result<u64, Refusal> {
        let number = self.number();
        let watch = self.events.watch(&launched.gate, Source::Gate(number)).map_err(|error| {
            let _ = crate::system::pidfd_send_signal(launched.pidfd.as_fd(), libc::SIGKILL);
            internal(format!("watching a process: {}", text(error)))
        })?;
        let mut process = Process::new(container, exec, launched, watch, owed);
        process.kills_before = kills;
        process.console = streams.console;
        self.processes.insert(number, process);
        // The process has its ends; ours must not keep them open.
        drop(streams.descriptors);
        for relay in streams.relays {
            self.begin_relay(number, relay);
        }
        Ok(number)
    }

    /// The first process of a container, which must not have ended.
    fn alive(&self, id: &str) -> Result<u64, Refusal> {
        let container = self.container(id)?;
        match self.processes.get(&container.init) {
            Some(init) if init.exit.is_none() && container.ending.is_none() => Ok(container.init),
            _ => Err(Refusal::new(Code::FailedPrecondition, format!("container {id:?} has stopped"))),
        }
    }

    /// Begins an exec; it is answered when its program runs or, held, when it stands before it.
    pub(super) fn exec(&mut self, reply: Reply, request: &ExecRequest) -> Result<(), Refusal> {
        let wanted: Wanted = serde_json::from_slice(&request.process_json).map_err(|error| invalid(format!("process: {error}")))?;
        let id = &request.container_id;
        self.container(id)?;
        let stopped = |_| Refusal::new(Code::FailedPrecondition, "cannot exec in a stopped container");
        let init = self.alive(id).map_err(stopped)?;
        if request.exec_id.is_empty() {
            return Err(invalid("exec_id: empty"));
        }
        let earlier = self.container(id)?.execs.iter().find(|(name, _)| *name == request.exec_id).map(|(_, number)| *number);
        if earlier.and_then(|number| self.processes.get(&number)).is_some_and(|process| process.exit.is_none()) {
            return Err(Refusal::new(Code::AlreadyExists, format!("exec {:?} is running", request.exec_id)));
        }
        let stdio = request.stdio.as_ref().cloned().unwrap_or_default();
        let streams = self.streams(&stdio, &request.preserved_streams)?;
        let container = self.container(id)?;
        let kills = container.cgroup.memory_kills();
        let first = self.processes.get(&init).and_then(|init| init.pidfd.as_ref());
        let first = first.ok_or_else(|| internal("a container without its process"))?;
        let launch = Launch {
            entry: Entry::Exec(first.as_fd()),
            process: &wanted,
            seccomp: container.seccomp.as_ref(),
            terminal: size(&stdio),
            descriptors: &streams.descriptors,
        };
        let launched = match self.launcher.launch(&launch) {
            Ok(launched) => launched,
            Err(error) => {
                self.give_up(streams);
                return Err(internal(format!("starting a process: {}", text(error))));
            }
        };
        let owed = Owed::Exec { reply, held: request.held };
        let number = self.register(id, &request.exec_id, launched, owed, streams, kills)?;
        if let Some(earlier) = earlier {
            self.processes.remove(&earlier);
        }
        if let Some(container) = self.containers.get_mut(id) {
            container.execs.retain(|(name, _)| *name != request.exec_id);
            container.execs.push((request.exec_id.clone(), number));
        }
        if request.held {
            self.guard(reply, Ward::Held(number));
        }
        Ok(())
    }

    /// Remembers what becomes of a process when the client goes.
    pub(super) fn guard(&mut self, reply: Reply, ward: Ward) {
        if let Some(connection) = self.connections.get_mut(&reply.connection)
            && !connection.wards.contains(&ward)
        {
            connection.wards.push(ward);
        }
    }

    /// Lets the init of a created container, or an exec that is held, run its program.
    pub(super) fn start(&mut self, reply: Reply, id: &str, exec: &str) -> Result<(), Refusal> {
        let precondition = |text: String| Refusal::new(Code::FailedPrecondition, text);
        self.container(id)?;
        let found = self.process(id, exec);
        let number = if exec.is_empty() { found? } else { found.map_err(|_| precondition(format!("exec {exec:?} is not held")))? };
        match self.processes.get(&number) {
            Some(process) if process.stage == Stage::Waiting && process.exit.is_none() => {
                self.release(number, Owed::Start(reply));
                Ok(())
            }
            Some(process) if exec.is_empty() && process.stage == Stage::Waiting => {
                Err(precondition("cannot start a container that has stopped".into()))
            }
            _ if exec.is_empty() => Err(precondition("cannot start a container that has been started".into())),
            _ => Err(precondition(format!("exec {exec:?} is not held"))),
        }
    }

    /// A process at its gate has said something, or its gate is closed.
    pub(super) fn hear(&mut self, number: u64) {
        loop {
            let Some(process) = self.processes.get_mut(&number) else { return };
            let Some((gate, _)) = &process.gate else { return };
            match gate::hear(gate.as_fd()) {
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Ok(Some((Word::Ready, terminal))) if matches!(process.stage, Stage::Preparing(_)) => {
                    if let Some(terminal) = terminal {
                        self.begin_console(number, terminal);
                    }
                    self.ready(number);
                }
                Ok(Some((Word::Failed(refusal), _))) => return self.refused(number, refusal),
                // A word out of its order is not the child's any more: nobody else has the socket, so it ends with it.
                Ok(Some((Word::Ready, _))) => {}
                Ok(None) | Err(_) => {
                    self.close_gate(number);
                    return match self.processes.get_mut(&number) {
                        Some(Process { stage: Stage::Preparing(_), .. }) => self.refused(number, init::wordless()),
                        Some(process) => {
                            let owed = if let Stage::Executing(owed) = process.stage { owed } else { None };
                            if owed.is_some() || matches!(process.stage, Stage::Executing(_)) {
                                process.stage = Stage::Running;
                            }
                            if let Some(owed) = owed {
                                self.settle(number, owed);
                            }
                        }
                        None => {}
                    };
                }
            }
        }
    }

    fn close_gate(&mut self, number: u64) {
        if let Some((gate, watch)) = self.processes.get_mut(&number).and_then(|process| process.gate.take()) {
            self.events.forget(watch, &gate);
        }
    }

    /// A process stands before its program.
    fn ready(&mut self, number: u64) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let Stage::Preparing(owed) = process.stage else { return };
        process.stage = Stage::Waiting;
        let (pid, id) = (process.pid.as_raw(), process.container.clone());
        if let Owed::Exec { held, .. } = owed {
            // Not before: in a paused container it would be frozen before it is ready.
            let taken = match self.containers.get(&id) {
                Some(container) => {
                    let first = self.processes.get(&container.init).map(|init| init.pid.as_raw());
                    let beside = first.and_then(|first| self.hierarchy.of(first));
                    container.cgroup.take(pid, beside.as_ref()).map_err(|error| internal(error.to_string()))
                }
                None => Err(Refusal::new(Code::NotFound, format!("container {id:?} does not exist"))),
            };
            match taken {
                Err(refusal) => return self.refused(number, refusal),
                Ok(()) if !held => return self.release(number, owed),
                Ok(()) => {}
            }
        }
        self.settle(number, owed);
    }

    /// Lets a process go. What it owes is settled when its program runs; in a paused container, now.
    fn release(&mut self, number: u64, owed: Owed) {
        let Some(process) = self.processes.get_mut(&number) else { return };
        let paused = self.containers.get(&process.container).is_some_and(|container| container.paused);
        process.stage = Stage::Executing((!paused).then_some(owed));
        let gone = match &process.gate {
            // A socket that has carried one word has room for one byte.
            Some((gate, _)) => nix::unistd::write(gate, &[1]).is_err(),
            None => true,
        };
        if gone {
            process.stage = Stage::Running;
            return self.answer(owed.reply(), Err(Refusal::new(Code::FailedPrecondition, "process already finished")));
        }
        if paused {
            self.settle(number, owed);
        }
    }

    /// Gives the answer that is owed.
    fn settle(&mut self, number: u64, owed: Owed) {
        let Some(process) = self.processes.get(&number) else { return };
        let pid = process.pid.as_raw();
        let answer: Answer = match owed {
            Owed::Create(_) => Ok(Box::new(CreateResponse { pid, ..CreateResponse::new() })),
            Owed::Start(_) => Ok(Box::new(Empty::new())),
            Owed::Exec { .. } => Ok(Box::new(ExecResponse { pid, ..ExecResponse::new() })),
        };
        self.answer(owed.reply(), answer);
    }

    /// A process can not be what it was to be, or its program can not be executed. That one ends by itself, as a shell's child does.
    fn refused(&mut self, number: u64, refusal: Refusal) {
        self.close_gate(number);
        let Some(process) = self.processes.get_mut(&number) else { return };
        let stage = std::mem::replace(&mut process.stage, Stage::Running);
        let (id, exec) = (process.container.clone(), process.exec.clone());
        let owed = match stage {
            Stage::Preparing(owed) => Some(owed),
            Stage::Executing(owed) => owed,
            Stage::Waiting | Stage::Running => None,
        };
        match (stage, owed) {
            (Stage::Preparing(_), Some(Owed::Create(reply))) => self.end(&id, reply, Err(refusal)),
            (Stage::Executing(_), None) | (_, None) => crate::log::error(format_args!("container {id}: {exec}: {refusal}")),
            (stage, Some(owed)) => {
                if matches!(stage, Stage::Preparing(_)) {
                    self.kill(number);
                }
                if matches!(owed, Owed::Exec { .. }) {
                    // It has never been; its number is reaped like an orphan's.
                    self.forget_process(number);
                    if let Some(container) = self.containers.get_mut(&id) {
                        container.execs.retain(|(_, other)| *other != number);
                    }
                }
                self.answer(owed.reply(), Err(refusal));
            }
        }
    }
}
