//! Out-of-memory kills: which end of a process was the host's doing because memory ran out.
//!
//! The host says in a container's cgroup how often it killed for want of memory, not whom. A process is taken for such a victim where SIGKILL
//! ended it, no client of this kernel asked for that, and the count has risen since the process began. Looked at once, when it ends.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock, Weak};

use crate::kernel::exit::Ended;
use crate::kernel::task::Process;
use crate::sync::Mutex;

/// A process that clients wait for.
struct Watched {
    process: Weak<Process>,
    /// How often its container's cgroup had been short of memory when it began.
    kills_before: u64,
    /// A client has sent it SIGKILL.
    killed_by_client: bool,
    verdict: Option<bool>,
}

#[derive(Default)]
struct Table {
    /// By container: the host's file that counts.
    counters: HashMap<String, File>,
    watched: Vec<Watched>,
}

fn table() -> &'static Mutex<Table> {
    static TABLE: OnceLock<Mutex<Table>> = OnceLock::new();
    TABLE.get_or_init(Mutex::default)
}

impl Table {
    fn kills(&self, container: &str) -> u64 {
        let mut text = [0u8; 1024];
        let length = self.counters.get(container).and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        kills_in(&text[..length])
    }

    fn entry(&mut self, process: &Arc<Process>) -> Option<&mut Watched> {
        self.watched.iter_mut().find(|entry| entry.process.as_ptr() == Arc::as_ptr(process))
    }
}

/// The count in a `memory.events` (cgroup v2) or `memory.oom_control` (v1).
fn kills_in(text: &[u8]) -> u64 {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"oom_kill "));
    line.and_then(|number| std::str::from_utf8(number).ok()?.trim().parse().ok()).unwrap_or(0)
}

/// Has a container's kills counted in this file.
pub fn count_in(container: &str, file: OwnedFd) {
    table().lock().counters.insert(container.to_owned(), file.into());
}

/// Forgets a container.
pub fn forget(container: &str) {
    let removed = table().lock().counters.remove(container);
    drop(removed);
}

/// A process that clients may wait for begins.
pub fn begins(process: &Arc<Process>) {
    let mut table = table().lock();
    table.watched.retain(|entry| entry.process.strong_count() > 0);
    let kills_before = table.kills(&process.container.id);
    table.watched.push(Watched { process: Arc::downgrade(process), kills_before, killed_by_client: false, verdict: None });
}

/// A client kills it.
pub fn killed_by_client(process: &Arc<Process>) {
    if let Some(entry) = table().lock().entry(process) {
        entry.killed_by_client = true;
    }
}

/// Whether a process ended so because memory ran out.
pub fn ran_out(process: &Arc<Process>, ended: &Ended) -> bool {
    let killed = ended.status.is_some_and(|status| libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
    let mut table = table().lock();
    let kills = table.kills(&process.container.id);
    let Some(entry) = table.entry(process) else { return false };
    *entry.verdict.get_or_insert(killed && !entry.killed_by_client && kills > entry.kills_before)
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_kinds_of_counters_are_read() {
        let v1 = b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let v2 = b"low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!([super::kills_in(v1), super::kills_in(v2), super::kills_in(b""), super::kills_in(b"oom_kill x\n")], [3, 1, 0, 0]);
    }
}
