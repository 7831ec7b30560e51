//! The container's cgroup: made and limited by libcgroups (v1, hybrid, v2, systemd), joined by the stand-in and the wall.
//!
//! A pod's wall joins the cgroup of the container that started it, so that limits apply to a workload and its kernel
//! together. The processes of a later container of the pod are moved to that container's own cgroup before they run.
//!
//! libcgroups makes a cgroup by adding a process to it. That process is the stand-in; the wall then joins the same
//! directories, by `cgroup.procs` files that are opened here and written by the wall itself, before it gives up the
//! right to.
//!
//! - [`hierarchies`]: which there are, and where a cgroup is in each
//! - [`limits`]: which limits this machine can set, and changing them
//! - [`freezer`]: pausing the workload's processes, and not its kernel's
//! - [`statistics`]: what a container has used
//! - [`memory`]: being told that memory ran out

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libcgroups::common::{AnyCgroupManager, AnyManagerError, CgroupConfig, CgroupManager, CreateCgroupSetupError};
use nix_of_libcgroups::unistd::Pid;
use oci_spec::runtime::{LinuxResources, Spec};

use crate::host;
use crate::oci::id::Id;
use crate::state::Cgroup;
use crate::state::process::has_ended;

pub mod freezer;
pub mod hierarchies;
pub mod limits;
pub mod memory;
pub mod statistics;

/// Why a cgroup could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup file system, or systemd does not answer.
    #[error("cgroup {}: {source}", path.display())]
    Setup {
        /// The cgroup.
        path: PathBuf,
        /// Why.
        source: CreateCgroupSetupError,
    },
    /// It could not be made, limited or removed.
    #[error("cgroup {} ({}): {source}", path.display(), doing)]
    Manager {
        /// The cgroup.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: Box<AnyManagerError>,
    },
    /// A limit asks for what this machine's cgroups do not have.
    #[error("linux.resources.{0}: {1}")]
    Unsupported(String, &'static str),
    /// A limit has a value that can not be.
    #[error("linux.resources.{field}: {value}: {reason}")]
    Value {
        /// Which.
        field: String,
        /// Its value.
        value: String,
        /// Why not.
        reason: &'static str,
    },
    /// The host has no freezer.
    #[error("this machine has no freezer for cgroups")]
    NoFreezer,
    /// systemd was asked for where it makes no cgroups.
    #[error("{0} (--systemd-cgroup)")]
    Systemd(&'static str),
    /// Others are in the cgroup, whom deleting the container would kill.
    #[error("linux.cgroupsPath: {}: processes are in it already ({})", path.display(), directory.display())]
    Occupied {
        /// The cgroup.
        path: PathBuf,
        /// One of its directories with processes.
        directory: PathBuf,
    },
    /// `/proc` could not be read, or a `cgroup.procs` not opened.
    #[error("{}: {source}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Where the configuration puts the container; runc's rules.
fn place(id: &Id, spec: &Spec, systemd: bool) -> PathBuf {
    let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()).filter(|path| !path.as_os_str().is_empty());
    match (systemd, asked) {
        (true, asked) => asked.unwrap_or_else(|| format!(":bulkhead:{id}").into()),
        (false, asked) => Path::new("/").join(asked.unwrap_or_else(|| format!("bulkhead-{id}").into())),
    }
}

/// Chooses the container's cgroup, which is neither made nor joined yet; from now on it may be removed. `pod` is the cgroup of its pod's wall.
///
/// # Errors
/// [`CgroupError::Occupied`]: removing it would kill others' processes. [`CgroupError::Systemd`].
pub fn choose(id: &Id, spec: &Spec, systemd: bool, pod: Option<&Cgroup>) -> Result<Cgroup, CgroupError> {
    let path = place(id, spec, systemd);
    let hierarchies = hierarchies::mounted()?;
    if systemd {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(CgroupError::Systemd("systemd cgroup flag passed, but systemd support for managing cgroups is not available"));
        }
        if !hierarchies::are_unified(&hierarchies) {
            return Err(CgroupError::Systemd("this machine's cgroups are not v2"));
        }
        return Ok(Cgroup { path, systemd, directories: Vec::new() });
    }
    let directories = hierarchies::places(&hierarchies, &path);
    let shared = pod.is_some_and(|pod| pod.path == path);
    if !shared && let Some(full) = directories.iter().find(|directory| processes_in(directory).next().is_some()) {
        return Err(CgroupError::Occupied { path, directory: full.clone() });
    }
    Ok(Cgroup { path, systemd, directories })
}

fn manager(id: &Id, cgroup: &Cgroup) -> Result<AnyCgroupManager, CgroupError> {
    let config = CgroupConfig { cgroup_path: cgroup.path.clone(), systemd_cgroup: cgroup.systemd, container_name: id.to_string() };
    libcgroups::common::create_cgroup_manager(config).map_err(|source| CgroupError::Setup { path: cgroup.path.clone(), source })
}

/// Makes the cgroup, moves the process `pid` into it, and sets the limits.
///
/// # Errors
/// A controller that a limit needs is missing, or the host refuses. The caller removes what was made.
pub fn create(id: &Id, cgroup: &mut Cgroup, resources: Option<&LinuxResources>, pid: i32) -> Result<(), CgroupError> {
    let path = cgroup.path.clone();
    let failed = |doing| move |source| CgroupError::Manager { path, doing, source: Box::new(source) };
    let hierarchies = hierarchies::mounted()?;
    if let Some(resources) = resources {
        limits::check(resources, hierarchies::are_unified(&hierarchies))?;
    }
    let manager = manager(id, cgroup)?;
    manager.add_task(Pid::from_raw(pid)).map_err(failed.clone()("joining it"))?;
    if cgroup.systemd {
        cgroup.directories = hierarchies::unified_place(&hierarchies, pid)?.into_iter().collect();
    }
    match resources {
        Some(resources) => limits::set(&manager, resources).map_err(failed("setting linux.resources")),
        None => Ok(()),
    }
}

/// `cgroup.procs` of each of its directories, open for writing.
///
/// # Errors
/// The host's; `ENOENT` for a cgroup that has been removed.
pub fn procs_files(cgroup: &Cgroup) -> Result<Vec<OwnedFd>, CgroupError> {
    let open = |directory: &PathBuf| {
        let path = directory.join("cgroup.procs");
        File::options().write(true).open(&path).map(OwnedFd::from).map_err(|source| CgroupError::Host { path, source })
    };
    cgroup.directories.iter().map(open).collect()
}

/// Moves a process into a container's cgroup, which is not made where it is gone.
///
/// # Errors
/// The host's.
pub fn join(cgroup: &Cgroup, pid: i32) -> Result<(), CgroupError> {
    for directory in &cgroup.directories {
        let path = directory.join("cgroup.procs");
        let written = File::options().write(true).open(&path).and_then(|mut file| file.write_all(pid.to_string().as_bytes()));
        written.map_err(|source| CgroupError::Host { path, source })?;
    }
    Ok(())
}

/// The processes in one directory, not below it.
fn processes_in(directory: &Path) -> impl Iterator<Item = i32> + use<> {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>().into_iter()
}

/// The processes in a cgroup and below it.
pub fn processes(cgroup: &Cgroup) -> Vec<i32> {
    // Any hierarchy tells of all; one with a freezer has those that have been moved below.
    let Some(directory) = freezer::directory(&cgroup.directories).or(cgroup.directories.first().map(PathBuf::as_path)) else {
        return Vec::new();
    };
    processes_in(directory).chain(processes_in(&freezer::workload(directory))).collect()
}

/// How long killed processes may take to be gone from a cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills what is in the cgroup, frozen or not, and removes it. Nothing is done for one that is not there.
///
/// # Errors
/// The host's.
pub fn remove(id: &Id, cgroup: &Cgroup) -> Result<(), CgroupError> {
    for directory in &cgroup.directories {
        empty_and_remove(&freezer::workload(directory))?;
        empty_and_remove(directory)?;
    }
    if cgroup.systemd {
        let failed = |source| CgroupError::Manager { path: cgroup.path.clone(), doing: "removing it", source: Box::new(source) };
        manager(id, cgroup)?.remove().map_err(failed)?;
    }
    Ok(())
}

fn empty_and_remove(directory: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match std::fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) if Instant::now() >= deadline => return Err(CgroupError::Host { path: directory.to_owned(), source }),
            Err(_) => {}
        }
        // What is frozen can not die (v1).
        freezer::thaw_directory(directory);
        let dying: Vec<OwnedFd> = processes_in(directory).filter_map(|pid| host::pidfd_open(pid).ok()).collect();
        for pidfd in &dying {
            let _ = host::pidfd_send_signal(pidfd, libc::SIGKILL);
        }
        for pidfd in &dying {
            has_ended(pidfd, deadline.saturating_duration_since(Instant::now()));
        }
        if dying.is_empty() {
            if has_children(directory) {
                let source = std::io::Error::other("other cgroups are below it");
                return Err(CgroupError::Host { path: directory.to_owned(), source });
            }
            // The last of its processes is dead and not yet gone, or another is about to join.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn has_children(directory: &Path) -> bool {
    std::fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cgroups_are_placed_as_runc_places_them() {
        let id = Id::new("web").unwrap();
        let mut config = crate::oci::template::spec(false);
        let placed = |config: &serde_json::Value, systemd| place(&id, &crate::oci::parse(config.clone()).unwrap().spec, systemd);
        assert_eq!(placed(&config, false), Path::new("/bulkhead-web"));
        assert_eq!(placed(&config, true), Path::new(":bulkhead:web"));
        config["linux"]["cgroupsPath"] = json!("kubepods/x");
        assert_eq!(placed(&config, false), Path::new("/kubepods/x"));
        config["linux"]["cgroupsPath"] = json!("a.slice:b:c");
        assert_eq!(placed(&config, true), Path::new("a.slice:b:c"));
    }

    #[test]
    fn a_cgroup_with_others_in_it_is_not_taken() {
        let id = Id::new("web").unwrap();
        let mut config = crate::oci::template::spec(false);
        config["linux"]["cgroupsPath"] = json!("/");
        let spec = crate::oci::parse(config).unwrap().spec;
        if hierarchies::mounted().unwrap().is_empty() {
            return;
        }
        assert!(matches!(choose(&id, &spec, false, None), Err(CgroupError::Occupied { .. })));
        let pod = Cgroup { path: "/".into(), systemd: false, directories: Vec::new() };
        assert!(choose(&id, &spec, false, Some(&pod)).is_ok(), "its own pod's");
    }
}
