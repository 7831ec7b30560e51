//! The container's cgroup: made and limited by libcgroups (v1, hybrid, v2, systemd), joined by the stand-in and the wall.
//!
//! A pod's wall joins the cgroup of the container that started it, so that limits apply to a workload and its kernel
//! together. The init of a later container of the pod is moved to that container's own cgroup before it runs.
//!
//! libcgroups makes a cgroup by adding a process to it. That process is the stand-in; the wall then joins where the
//! stand-in is, by `cgroup.procs` files that are opened here and written by the wall itself, before it gives up the
//! right to.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use libcgroups::common::{
    AnyCgroupManager, AnyManagerError, CgroupConfig, CgroupManager, CgroupSetup, ControllerOpt, CreateCgroupSetupError,
};
use nix_of_libcgroups::unistd::Pid;
use oci_spec::runtime::{LinuxResources, Spec};

use crate::oci::id::Id;
use crate::state::Cgroup;

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
    Unsupported(&'static str, &'static str),
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
pub fn place(id: &Id, spec: &Spec, systemd: bool) -> Cgroup {
    let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone()).filter(|path| !path.as_os_str().is_empty());
    if systemd {
        return Cgroup { path: asked.unwrap_or_else(|| format!(":bulkhead:{id}").into()), systemd };
    }
    Cgroup { path: Path::new("/").join(asked.unwrap_or_else(|| format!("bulkhead-{id}").into())), systemd }
}

fn manager(id: &Id, cgroup: &Cgroup) -> Result<AnyCgroupManager, CgroupError> {
    let config = CgroupConfig { cgroup_path: cgroup.path.clone(), systemd_cgroup: cgroup.systemd, container_name: id.to_string() };
    libcgroups::common::create_cgroup_manager(config).map_err(|source| CgroupError::Setup { path: cgroup.path.clone(), source })
}

/// Makes the cgroup, moves the process `pid` into it, and sets the limits.
///
/// # Errors
/// A controller that a limit needs is missing, or the host refuses. The caller removes what was made.
pub fn create(id: &Id, cgroup: &Cgroup, resources: Option<&LinuxResources>, pid: i32) -> Result<(), CgroupError> {
    let failed = |doing| move |source| CgroupError::Manager { path: cgroup.path.clone(), doing, source: Box::new(source) };
    let manager = manager(id, cgroup)?;
    manager.add_task(Pid::from_raw(pid)).map_err(failed("joining it"))?;
    let Some(resources) = resources else { return Ok(()) };
    let unified = matches!(libcgroups::common::get_cgroup_setup(), Ok(CgroupSetup::Unified));
    if !unified && resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()) {
        return Err(CgroupError::Unsupported("unified", "this machine's cgroups are not v2"));
    }
    let options = ControllerOpt { resources: &applied(resources), disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
    manager.apply(&options).map_err(failed("setting its limits"))
}

/// The limits as the host gets them. Device rules are left out: the workload opens no device of the host, and the wall,
/// which shares the cgroup, needs its own.
fn applied(resources: &LinuxResources) -> LinuxResources {
    let mut applied = resources.clone();
    applied.set_devices(None);
    // runc's reading: zero pids mean no limit.
    if applied.pids().as_ref().is_some_and(|pids| pids.limit() <= 0) {
        let unlimited = oci_spec::runtime::LinuxPidsBuilder::default().limit(-1i64).build();
        applied.set_pids(unlimited.ok());
    }
    applied
}

/// Moves a process into a container's cgroup.
///
/// # Errors
/// The host's.
pub fn join(id: &Id, cgroup: &Cgroup, pid: i32) -> Result<(), CgroupError> {
    manager(id, cgroup)?.add_task(Pid::from_raw(pid)).map_err(|source| CgroupError::Manager {
        path: cgroup.path.clone(),
        doing: "joining it",
        source: Box::new(source),
    })
}

/// Kills what is in the cgroup, and removes it. Nothing is done for one that is not there.
///
/// # Errors
/// The host's.
pub fn remove(id: &Id, cgroup: &Cgroup) -> Result<(), CgroupError> {
    manager(id, cgroup)?.remove().map_err(|source| CgroupError::Manager {
        path: cgroup.path.clone(),
        doing: "removing it",
        source: Box::new(source),
    })
}

/// Opens the `cgroup.procs` files of the cgroups that `pid` is in, for another process to join them; those that the
/// caller is in itself are left out.
///
/// # Errors
/// The host's.
pub fn procs_files(pid: i32) -> Result<Vec<OwnedFd>, CgroupError> {
    let read = |path: String| std::fs::read_to_string(&path).map_err(|source| CgroupError::Host { path: path.into(), source });
    let theirs = read(format!("/proc/{pid}/cgroup"))?;
    let ours = read("/proc/self/cgroup".into())?;
    let mounts = read("/proc/self/mountinfo".into())?;
    let mut files = Vec::new();
    for line in theirs.lines().filter(|line| !ours.lines().any(|other| other == *line)) {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let Some(directory) = mounted_at(&mounts, controllers, path) else { continue };
        let procs = directory.join("cgroup.procs");
        let file = File::options().write(true).open(&procs).map_err(|source| CgroupError::Host { path: procs, source })?;
        files.push(file.into());
    }
    Ok(files)
}

/// Where the cgroup `path` of the hierarchy with `controllers` (as `/proc/PID/cgroup` names it; empty for v2) is mounted.
fn mounted_at(mountinfo: &str, controllers: &str, path: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = right.next()?;
        let options = right.nth(1)?;
        let matches = match controllers {
            "" => kind == "cgroup2",
            _ => kind == "cgroup" && controllers.split(',').all(|wanted| options.split(',').any(|option| option == wanted)),
        };
        let mut left = left.split(' ').skip(3);
        let (root, mountpoint) = (left.next()?, left.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        matches.then(|| Path::new(mountpoint).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cgroups_are_placed_as_runc_places_them() {
        let id = Id::new("web").unwrap();
        let mut config = crate::oci::template::spec(false);
        let placed = |config: &serde_json::Value, systemd| place(&id, &crate::oci::parse(config.clone()).unwrap().spec, systemd).path;
        assert_eq!(placed(&config, false), Path::new("/bulkhead-web"));
        assert_eq!(placed(&config, true), Path::new(":bulkhead:web"));
        config["linux"]["cgroupsPath"] = json!("kubepods/x");
        assert_eq!(placed(&config, false), Path::new("/kubepods/x"));
        config["linux"]["cgroupsPath"] = json!("a.slice:b:c");
        assert_eq!(placed(&config, true), Path::new("a.slice:b:c"));
    }

    #[test]
    fn a_hierarchy_is_found_among_the_mounts() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
                      31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 23 0:28 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      33 23 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let at = |controllers, path| mounted_at(mounts, controllers, path);
        assert_eq!(at("", "/a").unwrap(), Path::new("/sys/fs/cgroup/unified/a"));
        assert_eq!(at("cpu,cpuacct", "/a/b").unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b"));
        assert_eq!(at("memory", "/docker/x/y").unwrap(), Path::new("/sys/fs/cgroup/memory/y"));
        assert_eq!(at("memory", "/elsewhere"), None);
        assert_eq!(at("name=systemd", "/").unwrap(), Path::new("/sys/fs/cgroup/systemd/"));
        assert_eq!(at("pids", "/"), None);
    }
}
