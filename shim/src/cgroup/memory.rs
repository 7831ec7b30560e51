//! Memory that runs out: the host's count of it, and being told, without asking again and again.
//!
//! | | counts | tells |
//! |---|---|---|
//! | v1 | `oom_kill` of `memory.oom_control` | an eventfd registered in `cgroup.event_control` |
//! | v2 | `oom_kill` of `memory.events` | inotify's `IN_MODIFY` of that file |

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::hierarchies::with_file;

const COUNTERS: [&str; 2] = ["memory.events", "memory.oom_control"];

/// The file that counts, open for reading; none without a memory controller.
pub fn counter(directories: &[PathBuf]) -> Option<File> {
    let path = COUNTERS.iter().find_map(|file| with_file(directories, file).map(|directory| directory.join(file)))?;
    File::open(path).ok()
}

/// How often the host has killed in this cgroup because memory ran out.
pub fn kills(directories: &[PathBuf]) -> u64 {
    let mut text = String::new();
    let read = counter(directories).and_then(|mut file| file.read_to_string(&mut text).ok());
    let count = || text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    read.and_then(|_| count()).unwrap_or(0)
}

/// Becomes readable when memory has run out in a cgroup; perhaps at other times too.
pub enum Watch {
    /// Version 1.
    Event(EventFd),
    /// Version 2.
    File(Inotify),
}

impl Watch {
    /// Watches a cgroup; none without a memory controller.
    ///
    /// # Errors
    /// The host's.
    pub fn new(directories: &[PathBuf]) -> io::Result<Option<Watch>> {
        if let Some(directory) = with_file(directories, "memory.events") {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            inotify.add_watch(&directory.join("memory.events"), AddWatchFlags::IN_MODIFY)?;
            return Ok(Some(Watch::File(inotify)));
        }
        let Some(directory) = with_file(directories, "cgroup.event_control") else { return Ok(None) };
        Self::version_1(directory).map(Some)
    }

    fn version_1(directory: &Path) -> io::Result<Watch> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let control = File::open(directory.join("memory.oom_control"))?;
        // "<event_fd> <control_fd>"; the host keeps what it needs of both (cgroup-v1/memory.rst, section 9).
        let registration = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
        std::fs::write(directory.join("cgroup.event_control"), registration)?;
        Ok(Watch::Event(event))
    }

    /// Takes what made it readable.
    pub fn clear(&self) {
        match self {
            Watch::Event(event) => drop(event.read()),
            Watch::File(inotify) => drop(inotify.read_events()),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Watch::Event(event) => event.as_fd(),
            Watch::File(inotify) => inotify.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_where_there_is_a_counter() {
        let directory = tempfile::tempdir().unwrap();
        let directories = [directory.path().to_owned()];
        assert_eq!(kills(&directories), 0);
        assert!(Watch::new(&directories).unwrap().is_none());
        std::fs::write(directory.path().join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n").unwrap();
        assert_eq!(kills(&directories), 2);
        std::fs::write(directory.path().join("memory.events"), "oom 5\noom_kill 4\n").unwrap();
        assert_eq!(kills(&directories), 4, "version 2 has the word");
        let watch = Watch::new(&directories).unwrap().unwrap();
        let ready = || nix::poll::poll(&mut [nix::poll::PollFd::new(watch.as_fd(), nix::poll::PollFlags::POLLIN)], 0u8).unwrap();
        assert_eq!(ready(), 0);
        std::fs::write(directory.path().join("memory.events"), "oom 6\noom_kill 5\n").unwrap();
        assert_eq!(ready(), 1);
        watch.clear();
        assert_eq!(ready(), 0);
    }
}
