//! Containers of the pod, as the kernel sees them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::task::Process;
use crate::sync::{Mutex, RwLock};
use crate::vfs::mount::MountNamespace;

/// A PID namespace: numbers that containers share who have the same one.
#[derive(Default)]
pub struct PidNamespace;

/// One container.
pub struct Container {
    /// OCI's id.
    pub id: String,
    /// Whose numbers its processes have: its own, or those of the container whose PID namespace it joined.
    pub pid_namespace: Arc<PidNamespace>,
    /// What its processes see as file systems.
    pub mounts: Arc<MountNamespace>,
    /// UTS namespace: host and domain name.
    pub names: RwLock<UtsNames>,
    /// Its init; `None` before it is there.
    pub init: RwLock<Option<Arc<Process>>>,
    /// The execve that its init stands before, until it is started.
    pub gate: Mutex<Option<crate::platform::notify::Notification>>,
    /// What it called: indexed by system-call number; calls and refusals (`ENOSYS`).
    pub counts: Box<[CallCount]>,
    /// Log every call.
    pub strace: bool,
    /// The seccomp profile of config.json, installed natively on each of its processes.
    pub profile: Option<crate::platform::spawner::Profile>,
    /// What its processes find natively.
    pub exec_root: Arc<crate::platform::exec_root::ExecRoot>,
    /// Its terminals (`devpts` instance).
    pub terminals: Arc<crate::fs::devpts::Instance>,
    /// Processes that entered by exec, with the name the client gave.
    pub execs: Mutex<Vec<(String, Arc<Process>)>>,
    /// `linux.maskedPaths` and `readonlyPaths` have been turned into mounts; this is `process.noNewPrivileges` and the like.
    pub root_read_only: bool,
}

impl Container {
    /// Whether its processes have numbers for those of another: its own, and those it shares a PID namespace with.
    pub fn sees(&self, other: &Container) -> bool {
        Arc::ptr_eq(&self.pid_namespace, &other.pid_namespace)
    }
}

/// What uname(2) shows of a container.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct UtsNames {
    pub host: String,
    pub domain: String,
}

/// How often one call was made.
#[derive(Default)]
#[allow(missing_docs)]
pub struct CallCount {
    pub calls: AtomicU64,
    pub refused: AtomicU64,
}
