//! The cgroup hierarchies of this machine, and where a cgroup is in each.

use std::path::{Path, PathBuf};

use super::CgroupError;

/// The controllers of version 1 that a container is given cgroups in: those that libcgroups makes.
const CONTROLLERS: [&str; 12] =
    ["cpu", "cpuacct", "cpuset", "devices", "hugetlb", "memory", "pids", "perf_event", "blkio", "net_prio", "net_cls", "freezer"];

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers; none for version 2.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Which of its cgroups is mounted there.
    root: PathBuf,
}

impl Hierarchy {
    /// Version 2 has one hierarchy, without controllers in its name.
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|own| own == controller)
    }
}

fn read(path: &Path) -> Result<String, CgroupError> {
    std::fs::read_to_string(path).map_err(|source| CgroupError::Host { path: path.to_owned(), source })
}

/// Every hierarchy that is mounted.
///
/// # Errors
/// `/proc` can not be read.
pub fn mounted() -> Result<Vec<Hierarchy>, CgroupError> {
    Ok(parse(&read(Path::new("/proc/self/mountinfo"))?))
}

/// From the text of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = right.next()?;
        let options = right.nth(1)?;
        let controllers = match kind {
            "cgroup2" => Vec::new(),
            "cgroup" => options.split(',').filter(|option| *option != "rw" && *option != "ro").map(str::to_owned).collect(),
            _ => return None,
        };
        let mut left = left.split(' ').skip(3);
        let (root, mountpoint) = (left.next()?.into(), left.next()?.into());
        Some(Hierarchy { controllers, mountpoint, root })
    };
    mountinfo.lines().filter_map(hierarchy).collect()
}

/// Whether this machine has version 2 alone.
///
/// # Errors
/// `/proc` can not be read.
pub fn are_unified(hierarchies: &[Hierarchy]) -> bool {
    hierarchies.iter().any(|hierarchy| hierarchy.is_unified() && hierarchy.mountpoint == Path::new("/sys/fs/cgroup"))
}

/// Where the cgroup at `path` is in each hierarchy that containers have cgroups in; whether it is there or not.
pub fn places(hierarchies: &[Hierarchy], path: &Path) -> Vec<PathBuf> {
    let unified = are_unified(hierarchies);
    let below = path.strip_prefix("/").unwrap_or(path);
    let mut places: Vec<PathBuf> = hierarchies
        .iter()
        .filter(|hierarchy| if unified { hierarchy.is_unified() } else { CONTROLLERS.iter().any(|name| hierarchy.has(name)) })
        .map(|hierarchy| hierarchy.mountpoint.join(below))
        .collect();
    places.sort();
    places.dedup();
    places
}

/// Where the process `pid` is in the one hierarchy of version 2: where systemd has put it.
///
/// # Errors
/// `/proc` can not be read.
pub fn unified_place(hierarchies: &[Hierarchy], pid: i32) -> Result<Option<PathBuf>, CgroupError> {
    let text = read(&PathBuf::from(format!("/proc/{pid}/cgroup")))?;
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::")) else { return Ok(None) };
    let place = |hierarchy: &Hierarchy| Path::new(path).strip_prefix(&hierarchy.root).ok().map(|below| hierarchy.mountpoint.join(below));
    Ok(hierarchies.iter().filter(|hierarchy| hierarchy.is_unified()).find_map(place))
}

/// Of a cgroup's directories, the one in which `file` of a controller is: `memory.stat`, `freezer.state`, `cgroup.freeze`.
pub fn with_file<'a>(directories: &'a [PathBuf], file: &str) -> Option<&'a Path> {
    directories.iter().find(|directory| directory.join(file).exists()).map(PathBuf::as_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 23 0:26 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
                          31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                          32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                          33 23 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                          34 23 0:30 / /tmp rw - tmpfs tmpfs rw\n";

    #[test]
    fn a_cgroup_of_version_1_has_a_place_for_each_controller() {
        let hierarchies = parse(HYBRID);
        assert_eq!(hierarchies.len(), 4);
        assert!(!are_unified(&hierarchies));
        let places = places(&hierarchies, Path::new("/kubepods/x"));
        assert_eq!(places, [Path::new("/sys/fs/cgroup/cpu,cpuacct/kubepods/x"), Path::new("/sys/fs/cgroup/memory/kubepods/x")]);
    }

    #[test]
    fn a_cgroup_of_version_2_has_one_place() {
        let hierarchies = parse("30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(are_unified(&hierarchies));
        assert_eq!(places(&hierarchies, Path::new("/a")), [Path::new("/sys/fs/cgroup/a")]);
    }
}
