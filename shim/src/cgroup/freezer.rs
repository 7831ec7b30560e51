//! Pausing the workload: freezing its processes, and not those of its wall.
//!
//! The kernel process is in the cgroup of the container that it was started for, so that cgroup is not frozen as a whole. What is to be
//! frozen is moved into a cgroup of its own below it: in version 1 in the freezer's hierarchy alone, in version 2 a child
//! without controllers, which changes nothing about limits and counts. It is made when a container is first paused: a container
//! that is never paused pays nothing for it (a move costs up to 15 ms on an idle machine, because the host waits for every processor).
//!
//! The wall stops answering first (`Pause`). A process can then make no other: fork is a call. So moving ends: what was just being
//! made is found when the list is read again. A thread that waits for an answer is not frozen by the host, which lets a
//! wait in seccomp be killed but not frozen; it does not run either, and the state stays `FREEZING` (v1) or `frozen 0` (v2).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CgroupError, hierarchies, processes_in};
use crate::state::Cgroup;

/// Below a container's cgroup: the workload's processes alone.
const WORKLOAD: &str = "workload";

/// Version 1 and version 2: the file, what freezes, what thaws, and the file that says what has come of it.
const CONTROLS: [(&str, &str, &str, &str, &str); 2] =
    [("freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN"), ("cgroup.freeze", "1", "0", "cgroup.events", "frozen 1")];

/// The directory of a cgroup in which it can be frozen.
pub fn directory(directories: &[PathBuf]) -> Option<&Path> {
    CONTROLS.iter().find_map(|(file, ..)| hierarchies::with_file(directories, file))
}

/// The place below it for the workload's processes.
pub fn workload(directory: &Path) -> PathBuf {
    directory.join(WORKLOAD)
}

/// Freezes the processes of the workload. Returns when those that the host can freeze are frozen.
///
/// # Errors
/// The host's; the processes may be frozen in part, which [`thaw`] undoes.
pub fn freeze(cgroup: &Cgroup, wall: i32) -> Result<(), CgroupError> {
    let directory = directory(&cgroup.directories).ok_or(CgroupError::NoFreezer)?;
    let place = workload(directory);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CgroupError::Host { path, source }
    };
    match std::fs::create_dir(&place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&place)(error)),
        _ => {}
    }
    let procs = place.join("cgroup.procs");
    let depth = namespaces_of(wall);
    loop {
        let outside: Vec<i32> = processes_in(directory).filter(|pid| namespaces_of(*pid) > depth).collect();
        if outside.is_empty() {
            break;
        }
        for pid in outside {
            match std::fs::write(&procs, pid.to_string()) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                moved => moved.map_err(failed(&procs))?,
            }
        }
    }
    for (file, frozen, _, events, done) in CONTROLS {
        let control = place.join(file);
        if !control.exists() {
            continue;
        }
        std::fs::write(&control, frozen).map_err(failed(&control))?;
        // The host tells each thread, which then stops at its next return from the kernel. Threads that wait for an answer never say so.
        for _ in 0..20 {
            if std::fs::read_to_string(place.join(events)).is_ok_and(|text| text.lines().any(|line| line == done)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Lets the processes of the workload go on. Nothing is done where they were never frozen.
pub fn thaw(cgroup: &Cgroup) {
    if let Some(directory) = directory(&cgroup.directories) {
        thaw_directory(&workload(directory));
    }
}

/// Thaws what is in one directory, if it is there.
pub fn thaw_directory(directory: &Path) {
    for (file, _, thawed, ..) in CONTROLS {
        let control = directory.join(file);
        if control.exists() {
            let _ = std::fs::write(control, thawed);
        }
    }
}

/// In how many PID namespaces a process is, as this one sees it (`NSpid` of proc_pid_status(5)); 0 for none.
///
/// The wall is first in one of its own, its spawner with it, its stand-ins in none but this; each process of a workload is at least one deeper.
fn namespaces_of(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("NSpid:")).map_or(0, |numbers| numbers.split_whitespace().count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Freezes a process that has a PID namespace of its own in a cgroup below `mount`, and leaves one that has not.
    fn check(mount: &Path) {
        if !nix::unistd::geteuid().is_root() || !mount.join("cgroup.procs").exists() {
            return;
        }
        let cgroup = Cgroup {
            path: format!("/bulkhead-freezer-{}", std::process::id()).into(),
            systemd: false,
            directories: vec![mount.join(format!("bulkhead-freezer-{}", std::process::id()))],
        };
        let directory = &cgroup.directories[0];
        std::fs::create_dir(directory).unwrap();
        let spin = "while :; do :; done";
        let mut inside = Command::new("unshare");
        inside.args(["--pid", "--fork", "--kill-child", "sh", "-c", spin]).stderr(std::process::Stdio::null());
        let mut inside = inside.spawn().unwrap();
        let mut outside = Command::new("sleep").arg("1000").spawn().unwrap();
        let until = |what: &str, holds: &dyn Fn() -> bool| {
            let begun = std::time::Instant::now();
            while !holds() {
                assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let child = || std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", inside.id())).unwrap().trim().parse::<i32>();
        // Deeper from its birth on; a shell, which spins, a little later.
        let spins = || child().is_ok_and(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sh"));
        until("it spins", &spins);
        let deep = child().unwrap();
        for pid in [deep, outside.id() as i32] {
            std::fs::write(directory.join("cgroup.procs"), pid.to_string()).unwrap();
        }
        let ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{deep}/stat")).unwrap();
            stat[stat.rfind(')').unwrap()..].split_whitespace().nth(12).unwrap().parse::<u64>().unwrap()
        };
        freeze(&cgroup, std::process::id() as i32).unwrap();
        let before = ticks();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(ticks(), before, "it does not run");
        assert_eq!(processes_in(directory).collect::<Vec<_>>(), [outside.id() as i32], "the other is not moved");
        thaw(&cgroup);
        until("it runs again", &|| ticks() > before);
        freeze(&cgroup, std::process::id() as i32).unwrap();
        super::super::remove(&crate::oci::id::Id::new("x").unwrap(), &cgroup).unwrap();
        assert!(!directory.exists(), "a frozen cgroup is removed with what is in it");
        let _ = (inside.wait(), outside.wait());
    }

    #[test]
    fn version_1_freezes_the_workload_alone() {
        check(Path::new("/sys/fs/cgroup/freezer"));
    }

    #[test]
    fn version_2_freezes_the_workload_alone() {
        check(Path::new("/sys/fs/cgroup/unified"));
        if hierarchies::are_unified(&hierarchies::mounted().unwrap()) {
            check(Path::new("/sys/fs/cgroup"));
        }
    }
}
