//! The end of a container: everything in it is killed, and when it is empty it is forgotten.

use bulkhead_protocol::call::{Code, Refusal};
use bulkhead_protocol::messages::Empty;

use super::connection::Answer;
use super::{Agent, Reply};

impl Agent {
    /// Kills what is left of a container; `answer` is given when it is gone.
    pub(super) fn end(&mut self, id: &str, reply: Reply, answer: Answer) {
        let Some(container) = self.containers.get_mut(id) else { return self.answer(reply, answer) };
        if let Some(ending) = &mut container.ending {
            return ending.push((reply, answer));
        }
        container.ending = Some(vec![(reply, answer)]);
        if let Err(error) = container.cgroup.kill() {
            crate::log::error(error);
        }
        let processes: Vec<u64> = self.processes.iter().filter(|(_, process)| process.container == id).map(|(number, _)| *number).collect();
        for number in processes {
            // One that prepares itself for an exec is not in the cgroup yet.
            self.kill(number);
        }
        self.advance_end(id);
    }

    /// A container's cgroup has changed: it is frozen, or empty.
    pub(super) fn cgroup_changed(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let state = container.cgroup.state();
        // An empty cgroup freezes at once, but a paused container that was killed will never say so.
        if state.frozen || !state.populated {
            for reply in std::mem::take(&mut container.pausing) {
                self.answer(reply, Ok(Box::new(Empty::new())));
            }
        }
        self.advance_end(id);
    }

    /// Forgets a container that is to go, if it is empty.
    pub(super) fn advance_end(&mut self, id: &str) {
        let Some(container) = self.containers.get(id) else { return };
        if container.ending.is_none() || container.cgroup.state().populated {
            return;
        }
        if self.processes.values().any(|process| process.container == id && process.exit.is_none()) {
            return;
        }
        let Some(mut container) = self.containers.remove(id) else { return };
        container.unwatch(&mut self.events);
        let processes: Vec<u64> = self.processes.iter().filter(|(_, process)| process.container == id).map(|(number, _)| *number).collect();
        for number in processes {
            // A client that does not take its output must not keep the container: what is on its way goes on by itself.
            if let Some(process) = self.processes.get_mut(&number) {
                process.undelivered.clear();
            }
            self.announce(number);
            self.forget_process(number);
        }
        if let Err(error) = container.cgroup.remove() {
            crate::log::error(error);
        }
        let gone = || Refusal::new(Code::NotFound, format!("container {id:?} does not exist"));
        for (reply, _) in container.memory_waits {
            self.answer(reply, Err(gone()));
        }
        for reply in container.pausing {
            self.answer(reply, Err(gone()));
        }
        for (reply, answer) in container.ending.into_iter().flatten() {
            self.answer(reply, answer);
        }
    }
}
