//! A container's cgroup: a directory below the hierarchy's root.
//!
//! It holds every process of the container, whichever PID namespace that is in, so it is by what a container is paused, listed and killed. Inside,
//! the container sees it as the root of its hierarchy (cgroup_namespaces(7)) and may make cgroups of its own below.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// A file of a cgroup's that does not do what is asked.
#[derive(Debug, thiserror::Error)]
#[error("cgroup {}: {name}: {error}", path.display())]
pub struct CgroupError {
    path: PathBuf,
    name: String,
    /// Why.
    pub error: io::Error,
}

/// The hierarchy.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    root: PathBuf,
}

impl Hierarchy {
    /// The one that is mounted at `root`, with every controller that it has handed down to the cgroups that are made in it.
    pub fn open(root: &Path) -> Self {
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            // One at a time: a write with one that can not be handed down (cpu, while real-time processes run) would hand down none.
            if let Err(error) = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}")) {
                crate::log::error(format_args!("cgroup controller {controller}: {error}"));
            }
        }
        Self { root: root.to_owned() }
    }

    /// Makes a cgroup with this name.
    ///
    /// # Errors
    /// `InvalidInput` for what is no name; mkdir(2)'s.
    pub fn create(&self, name: &str) -> Result<Cgroup, CgroupError> {
        let path = self.root.join(name);
        let failed = |error| CgroupError { path: path.clone(), name: "creation".into(), error };
        if name.is_empty() || name.contains('/') || name.contains('\0') || matches!(name, "." | "..") {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        fs::create_dir(&path).map_err(failed)?;
        Ok(Cgroup { path })
    }

    /// The cgroup that a process is in, by the agent's numbers.
    pub fn of(&self, pid: i32) -> Option<Cgroup> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        Some(Cgroup { path: self.root.join(path) })
    }
}

/// What cgroup.events says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// There is a process in it or below.
    pub populated: bool,
    /// All of them are frozen.
    pub frozen: bool,
}

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn failed(&self, name: &str) -> impl Fn(io::Error) -> CgroupError {
        move |error| CgroupError { path: self.path.clone(), name: name.to_owned(), error }
    }

    /// Writes to one of its files.
    ///
    /// # Errors
    /// `NotFound` where its controller is not there.
    pub fn write(&self, name: &str, value: &str) -> Result<(), CgroupError> {
        let file = File::options().write(true).open(self.path.join(name));
        file.and_then(|mut file| file.write_all(value.as_bytes())).map_err(self.failed(name))
    }

    /// The text of one of its files; none where it is not there.
    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path.join(name)).ok()
    }

    /// Whether it has this file.
    pub fn has(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    /// Opens one of its files, to be watched: the kernel tells of changes by `EPOLLPRI`.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn open(&self, name: &str) -> Result<File, CgroupError> {
        File::open(self.path.join(name)).map_err(self.failed(name))
    }

    /// Has the calling process join it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&self) -> Result<(), CgroupError> {
        self.write("cgroup.procs", "0")
    }

    /// Takes a process in. Where the container has divided its cgroup, its top may hold none (`EBUSY`): then where `beside` is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&self, pid: i32, beside: Option<&Cgroup>) -> Result<(), CgroupError> {
        match (self.write("cgroup.procs", &pid.to_string()), beside) {
            (Err(error), Some(beside)) if error.error.raw_os_error() == Some(Errno::EBUSY as i32) => {
                beside.write("cgroup.procs", &pid.to_string())
            }
            (done, _) => done,
        }
    }

    /// Kills every process in it and below, even those that are being born (cgroup.kill, Linux 5.14).
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")
    }

    /// Freezes or thaws every process in it and below. Takes effect later; see [`Cgroup::state`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// What it says about itself.
    pub fn state(&self) -> State {
        let text = self.read("cgroup.events").unwrap_or_default();
        State { populated: keyed(&text, "populated") == Some(1), frozen: keyed(&text, "frozen") == Some(1) }
    }

    /// How often the kernel has killed in it for want of memory.
    pub fn memory_kills(&self) -> u64 {
        self.read("memory.events").and_then(|text| keyed(&text, "oom_kill")).unwrap_or(0)
    }

    /// The processes in it and below, by the agent's numbers.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        each_below(&self.path, &mut |path| {
            let mut text = String::new();
            let _ = File::open(path.join("cgroup.procs")).and_then(|mut file| file.read_to_string(&mut text));
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        });
        found.sort_unstable();
        found
    }

    /// Removes it, and those that the container has made below.
    ///
    /// # Errors
    /// `EBUSY` where there are processes left.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let mut result = Ok(());
        each_below(&self.path, &mut |path| match fs::remove_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => result = Err(error),
        });
        result.map_err(self.failed("removal"))
    }
}

/// Calls `visit` with a cgroup's directory, after those below it.
fn each_below(path: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each_below(&entry.path(), visit);
        }
    }
    visit(path);
}

/// The value of a key in a flat-keyed file: lines of `key value`.
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let text = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(["oom", "oom_kill", "max", "swap"].map(|key| keyed(text, key)), [Some(2), Some(1), Some(12), None]);
    }

    #[test]
    fn a_name_is_one_name() {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy { root: root.path().to_owned() };
        for name in ["", ".", "..", "a/b", "../x"] {
            assert!(hierarchy.create(name).is_err(), "{name:?}");
        }
        hierarchy.create("web").unwrap();
        assert!(root.path().join("web").is_dir());
    }

    proptest! {
        #[test]
        fn any_text_has_a_value_or_none(text in "\\PC{0,80}", key in "[a-z_]{0,6}") {
            let _ = keyed(&text, &key);
        }
    }
}
