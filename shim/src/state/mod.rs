//! What is remembered between two invocations: one record per container, one per pod, under `--root`.
//!
//! ```text
//! ROOT/<container>/state.json       the container's record
//! ROOT/@pods/<pod>/pod.json         the pod's record
//! ROOT/@pods/<pod>/members/<id>     an empty file for each container behind its wall
//! ROOT/@pods/<pod>/control.sock     where its wall serves the control protocol
//! ```
//!
//! `@` is in no identifier, so no container is called `@pods`.
//!
//! **Locks.** `flock(2)` on the directory itself; the host drops it with the process, whatever kills it. A container's
//! lock is taken before its pod's, never the other way round. Whether a container runs is not remembered: its wall is
//! asked.
//!
//! **Crashes.** A record is written to a temporary file, fsynced, renamed, and the directory is fsynced. A container's
//! first record says `creating` and holds all that is needed to clear away what comes after it; an invocation that
//! finds a directory unlocked and `creating` finds what another left behind when it was killed. Whatever is made
//! afterwards is either written down before it is made (cgroup, membership of a pod), or dies with the invocation until it has been
//! written down (the wall before its release, a stand-in before its assignment, an exec before its start).
//! Clearing away can itself be cut off and begun again: each step finds what is left.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::oci::id::Id;
use crate::wall::Isolation;

pub mod process;
mod store;
pub mod time;

pub use process::ProcessHandle;
pub use store::{Directory, StateError, Store, write_atomically};

/// How far a container's creation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It began, and has not ended.
    Creating,
    /// It ended well.
    Created,
}

/// One container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Container {
    /// Its identifier, which is its directory's name.
    pub id: Id,
    /// The pod it belongs to.
    pub pod: Id,
    /// How far its creation has come.
    pub stage: Stage,
    /// The bundle's absolute path; empty for `do`, which has none.
    pub bundle: PathBuf,
    /// The root file system's path on the host.
    pub rootfs: PathBuf,
    /// When it was created: RFC 3339, UTC.
    pub created: String,
    /// Who created it: a user's name.
    pub owner: String,
    /// The wall it is behind.
    pub isolation: Isolation,
    /// The host process that stands in for its init.
    pub stand_in: Option<ProcessHandle>,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// Its processes are the host's, in that cgroup; else the wall alone limits and counts them.
    #[serde(default)]
    pub host_cgroup: bool,
    /// The configuration it was created from.
    pub config: Value,
}

/// Where a container's cgroup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its path within the hierarchies, or systemd's `slice:prefix:name`.
    pub path: PathBuf,
    /// systemd makes it.
    pub systemd: bool,
    /// Its directories, one for each hierarchy; empty until they have been made.
    #[serde(default)]
    pub directories: Vec<PathBuf>,
}

/// One pod: the sandbox process and those behind it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pod {
    /// Its identifier, which is its directory's name.
    pub id: Id,
    /// Which wall it is.
    pub isolation: Isolation,
    /// The wall's process.
    pub wall: ProcessHandle,
    /// The cgroup that the wall's process is in: that of the container it was started for.
    pub cgroup: Option<Cgroup>,
}

impl Container {
    /// The configuration's annotations.
    pub fn annotations(&self) -> HashMap<String, String> {
        serde_json::from_value(self.config["annotations"].clone()).unwrap_or_default()
    }
}
