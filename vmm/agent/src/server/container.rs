//! What is known of a container.

use std::fs::File;

use bulkhead_protocol::seccomp::Profile;

use super::Reply;
use super::connection::Answer;
use crate::events::{Events, Source, Watch};
use crate::resources::cgroup::{Cgroup, CgroupError};

/// A container.
pub(super) struct Container {
    pub(super) cgroup: Cgroup,
    /// Its profile, which its execs install too.
    pub(super) seccomp: Option<Profile>,
    /// Its first process.
    pub(super) init: u64,
    /// Those that entered, by their names.
    pub(super) execs: Vec<(String, u64)>,
    pub(super) paused: bool,
    /// Who waits until it is frozen.
    pub(super) pausing: Vec<Reply>,
    /// How often memory has run out.
    pub(super) memory_kills: u64,
    /// Who waits for that to be more than they know of.
    pub(super) memory_waits: Vec<(Reply, u64)>,
    /// It is to go; who asked, and what they are told when it is gone.
    pub(super) ending: Option<Vec<(Reply, Answer)>>,
    watched: Vec<(File, Watch)>,
}

impl Container {
    /// A container with this cgroup, whose files are watched from now on.
    ///
    /// # Errors
    /// cgroup.events can not be watched.
    pub(super) fn new(id: &str, cgroup: Cgroup, seccomp: Option<Profile>, events: &mut Events) -> Result<Self, CgroupError> {
        let mut watched = Vec::new();
        let mut watch = |file: File, source| {
            // A file that can not be watched is looked at when a process ends.
            if let Ok(watch) = events.watch(&file, source) {
                watched.push((file, watch));
            }
        };
        watch(cgroup.open("cgroup.events")?, Source::Cgroup(id.to_owned()));
        if cgroup.has("memory.events") {
            watch(cgroup.open("memory.events")?, Source::Memory(id.to_owned()));
        }
        Ok(Self {
            cgroup,
            seccomp,
            init: 0,
            execs: Vec::new(),
            paused: false,
            pausing: Vec::new(),
            memory_kills: 0,
            memory_waits: Vec::new(),
            ending: None,
            watched,
        })
    }

    /// Its cgroup's files are watched no longer.
    pub(super) fn unwatch(&mut self, events: &mut Events) {
        for (file, watch) in self.watched.drain(..) {
            events.forget(watch, &file);
        }
    }
}
