//! What is known of a process: of a container's first, or of one that has entered by exec.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::unistd::Pid;

use super::Reply;
use crate::container::launch::Launched;
use crate::events::Watch;

/// How far a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It makes itself what it is to be. Who asked for it is answered when it is.
    Preparing(Owed),
    /// It stands before its program.
    Waiting,
    /// It has been let go; none waits where it was let go in a paused container.
    Executing(Option<Owed>),
    /// Its program runs, or has run.
    Running,
}

impl Stage {
    /// It stands before its program, or is on its way there.
    pub(super) fn is_waiting(self) -> bool {
        matches!(self, Stage::Preparing(_) | Stage::Waiting)
    }
}

/// An answer that is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    /// To Create.
    Create(Reply),
    /// To Start.
    Start(Reply),
    /// To Exec; a held one is let go by Start.
    Exec {
        /// Where to.
        reply: Reply,
        /// It waits for Start.
        held: bool,
    },
}

impl Owed {
    pub(super) fn reply(self) -> Reply {
        match self {
            Owed::Create(reply) | Owed::Start(reply) | Owed::Exec { reply, .. } => reply,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exit {
    /// As a shell shows it.
    pub(super) status: u32,
    /// Nanoseconds since the epoch.
    pub(super) at: i64,
    /// The kernel ended it because memory ran out.
    pub(super) out_of_memory: bool,
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    /// Its container.
    pub(super) container: String,
    /// Its exec; empty for the container's first.
    pub(super) exec: String,
    pub(super) pid: Pid,
    /// A handle on it; none once it has ended: records of execs are kept, descriptors are few.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) gate: Option<(OwnedFd, Watch)>,
    pub(super) stage: Stage,
    pub(super) exit: Option<Exit>,
    /// Relays of its output that have not delivered everything that it wrote. Until it has ended: all of them.
    pub(super) undelivered: Vec<u64>,
    /// Who waits for its end.
    pub(super) waits: Vec<Reply>,
    /// The master of its terminal, and before there is one the connection that will carry it.
    pub(super) terminal: Option<Rc<OwnedFd>>,
    pub(super) console: Option<OwnedFd>,
    /// How often memory had run out in its container when it began.
    pub(super) kills_before: u64,
    /// A client has killed it.
    pub(super) killed_by_client: bool,
}

impl Process {
    pub(super) fn new(container: &str, exec: &str, launched: Launched, watch: Watch, owed: Owed) -> Self {
        Self {
            container: container.to_owned(),
            exec: exec.to_owned(),
            pid: launched.pid,
            pidfd: Some(launched.pidfd),
            gate: Some((launched.gate, watch)),
            stage: Stage::Preparing(owed),
            exit: None,
            undelivered: Vec::new(),
            waits: Vec::new(),
            terminal: None,
            console: None,
            kills_before: 0,
            killed_by_client: false,
        }
    }

    /// Its end, once everything that it wrote is delivered.
    pub(super) fn announced(&self) -> Option<Exit> {
        self.exit.filter(|_| self.undelivered.is_empty())
    }
}
