//! The directories under `--root`: made, locked, written so that a crash leaves the old record or the new one, removed.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Container, Pod, Stage};
use crate::oci::id::Id;

const PODS: &str = "@pods";

/// How long a creation that was cut off may go on holding its lock: what it had just forked has a copy, until it sees that nobody is there and ends.
const LAST_HOLDERS: Duration = Duration::from_millis(500);
const MEMBERS: &str = "members";

/// Why a record can not be had.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is a container of that name.
    #[error("container with given ID already exists: {0}")]
    Exists(Id),
    /// There is none.
    #[error("container does not exist: {id:?}", id = .0.as_str())]
    Missing(Id),
    /// The container's creation was cut off.
    #[error("container does not exist: {id:?}: its creation was interrupted; `delete --force` clears it away", id = .0.as_str())]
    Interrupted(Id),
    /// The host refused.
    #[error("{}: {source}", path.display())]
    Host {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record can not be understood.
    #[error("{}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Host { path, source }
}

/// The root directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// A container's or a pod's directory, locked for as long as this lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// The store under `root`, which is made when something is first written.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Makes a container's directory and locks it. A directory in which a creation was cut off is returned with its
    /// record, for the caller to clear away what it tells of.
    ///
    /// # Errors
    /// [`StateError::Exists`] when there is such a container, or one is being created.
    pub fn claim(&self, id: &Id) -> Result<(Directory, Option<Container>), StateError> {
        let path = self.root.join(id);
        let exists = || StateError::Exists(id.clone());
        let deadline = Instant::now() + LAST_HOLDERS;
        let directory = loop {
            if let Some(directory) = Directory::make(&path, FlockArg::LockExclusiveNonblock)? {
                break directory;
            }
            if self.read(id).is_ok() || Instant::now() > deadline {
                return Err(exists());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        match directory.read::<Container>("state.json")? {
            Some(container) if container.stage == Stage::Created => Err(exists()),
            leftover => Ok((directory, leftover)),
        }
    }

    /// Locks a container's directory, waiting for whoever holds it, and reads its record.
    ///
    /// # Errors
    /// [`StateError::Missing`], [`StateError::Interrupted`].
    pub fn lock(&self, id: &Id) -> Result<(Directory, Container), StateError> {
        let (directory, container) = self.lock_any(id)?;
        match container {
            Some(container) if container.stage == Stage::Created => Ok((directory, container)),
            _ => Err(StateError::Interrupted(id.clone())),
        }
    }

    /// As [`Store::lock`], also where a creation was cut off.
    ///
    /// # Errors
    /// [`StateError::Missing`].
    pub fn lock_any(&self, id: &Id) -> Result<(Directory, Option<Container>), StateError> {
        let directory = Directory::open(&self.root.join(id))?.ok_or_else(|| StateError::Missing(id.clone()))?;
        let container = directory.read("state.json")?;
        Ok((directory, container))
    }

    /// A container's record, without its lock.
    ///
    /// # Errors
    /// [`StateError::Missing`], also while it is being created.
    pub fn read(&self, id: &Id) -> Result<Container, StateError> {
        let path = self.root.join(id).join("state.json");
        match read::<Container>(&path)? {
            Some(container) if container.stage == Stage::Created => Ok(container),
            _ => Err(StateError::Missing(id.clone())),
        }
    }

    /// Every container's record, by identifier; those being created included.
    ///
    /// # Errors
    /// The root can not be read. Records that vanish meanwhile are left out.
    pub fn containers(&self) -> Result<Vec<Container>, StateError> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at(&self.root))?,
        };
        let mut containers = Vec::new();
        for entry in entries {
            let entry = entry.map_err(at(&self.root))?;
            if Id::new(&entry.file_name().to_string_lossy()).is_ok()
                && let Ok(Some(container)) = read::<Container>(&entry.path().join("state.json"))
            {
                containers.push(container);
            }
        }
        containers.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(containers)
    }

    /// Makes a pod's directory, or finds it, and locks it.
    ///
    /// # Errors
    /// The host's.
    pub fn pod(&self, id: &Id) -> Result<(Directory, Option<Pod>), StateError> {
        let path = self.pod_path(id);
        let directory = loop {
            if let Some(directory) = Directory::make(&path, FlockArg::LockExclusive)? {
                break directory;
            }
        };
        let pod = directory.read("pod.json")?;
        Ok((directory, pod))
    }

    /// A pod's record, without its lock; none where there is no such pod.
    ///
    /// # Errors
    /// The record can not be read.
    pub fn read_pod(&self, id: &Id) -> Result<Option<Pod>, StateError> {
        read(&self.pod_path(id).join("pod.json"))
    }

    /// The containers of a pod. A member whose container's directory is gone has left the pod: whoever removed it was killed
    /// before it said so.
    ///
    /// # Errors
    /// The host's.
    pub fn members(&self, pod: &Id) -> Result<Vec<Id>, StateError> {
        let path = self.pod_path(pod).join(MEMBERS);
        let entries = match std::fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(at(&path))?,
        };
        let names = entries.flatten().filter_map(|entry| Id::new(&entry.file_name().to_string_lossy()).ok());
        Ok(names.filter(|id| self.root.join(id).exists()).collect())
    }

    /// A pod's directory.
    pub fn pod_path(&self, id: &Id) -> PathBuf {
        self.root.join(PODS).join(id)
    }

    /// The socket on which a pod's wall serves the control protocol.
    pub fn control_socket(&self, pod: &Id) -> PathBuf {
        self.pod_path(pod).join("control.sock")
    }
}

impl Directory {
    /// Makes the directory, or finds it, and locks it; none where another holds the lock and `how` does not wait.
    fn make(path: &Path, how: FlockArg) -> Result<Option<Self>, StateError> {
        loop {
            match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at(path)(error)),
            }
            match Self::lock(path, how) {
                Ok(Some(directory)) => return Ok(Some(directory)),
                // Removed between the two steps: make it again.
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(Errno::EWOULDBLOCK as i32) => return Ok(None),
                Err(error) => return Err(at(path)(error)),
            }
        }
    }

    /// Locks the directory if it is there.
    fn open(path: &Path) -> Result<Option<Self>, StateError> {
        Self::lock(path, FlockArg::LockExclusive).map_err(at(path))
    }

    /// The lock counts only if the path still leads to what was locked: its last holder may have removed it.
    fn lock(path: &Path, how: FlockArg) -> io::Result<Option<Self>> {
        loop {
            let file = match std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            let lock = match Flock::lock(file, how) {
                Err((_, Errno::EINTR)) => continue,
                Err((_, errno)) => return Err(errno.into()),
                Ok(lock) => lock,
            };
            let held = lock.metadata()?;
            match std::fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Some(Self { path: path.to_owned(), _lock: lock }));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        read(&self.path.join(name))
    }

    /// Writes a container's record.
    ///
    /// # Errors
    /// The host's.
    pub fn write_container(&self, container: &Container) -> Result<(), StateError> {
        self.write("state.json", container)
    }

    /// Writes a pod's record.
    ///
    /// # Errors
    /// The host's.
    pub fn write_pod(&self, pod: &Pod) -> Result<(), StateError> {
        self.write("pod.json", pod)
    }

    fn write(&self, name: &str, record: &impl Serialize) -> Result<(), StateError> {
        let path = self.path.join(name);
        let bytes = serde_json::to_vec(record).map_err(|source| StateError::Record { path: path.clone(), source })?;
        write_atomically(&path, &bytes, 0o600).map_err(at(&path))
    }

    /// Counts a container among the pod's.
    ///
    /// # Errors
    /// The host's.
    pub fn add_member(&self, id: &Id) -> Result<(), StateError> {
        let path = self.path.join(MEMBERS);
        std::fs::create_dir_all(&path).map_err(at(&path))?;
        File::create(path.join(id)).map(drop).map_err(at(&path))
    }

    /// Counts a container among the pod's no more.
    ///
    /// # Errors
    /// The host's.
    pub fn remove_member(&self, id: &Id) -> Result<(), StateError> {
        let path = self.path.join(MEMBERS).join(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes the directory with all that is in it, and gives up the lock.
    ///
    /// # Errors
    /// The host's.
    pub fn remove(self) -> Result<(), StateError> {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&self.path)(error)),
            _ => Ok(()),
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let bytes = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(at(path))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| StateError::Record { path: path.to_owned(), source })
}

/// Writes a file so that after a crash at any moment its path leads to the old content or the new, whole. Where there is none yet, nothing
/// else is ever there: the file gets its name when it is complete (open(2), `O_TMPFILE`).
///
/// # Errors
/// The host's.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !path.exists()
        && let Ok(file) = std::fs::OpenOptions::new().write(true).mode(mode).custom_flags(libc::O_TMPFILE).open(directory)
    {
        (&file).write_all(bytes)?;
        file.sync_all()?;
        let source = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let link = nix::unistd::linkat(AT_FDCWD, source.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW);
        // Somebody else's file may have come meanwhile: then as below.
        if link.is_ok() {
            return File::open(directory)?.sync_all();
        }
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let temporary = directory.join(name);
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::time;

    fn container(id: &Id, stage: Stage) -> Container {
        Container {
            id: id.clone(),
            pod: id.clone(),
            stage,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: time::now(),
            owner: "root".into(),
            isolation: crate::wall::Isolation::Sandbox,
            stand_in: None,
            cgroup: None,
            host_cgroup: true,
            config: serde_json::json!({ "annotations": { "a": "b" } }),
        }
    }

    #[test]
    fn a_container_is_claimed_once() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().join("deep/root"));
        let id = Id::new("web").unwrap();
        assert!(matches!(store.lock(&id), Err(StateError::Missing(_))));
        assert!(store.containers().unwrap().is_empty());
        let (directory, leftover) = store.claim(&id).unwrap();
        assert!(leftover.is_none());
        assert!(matches!(store.claim(&id), Err(StateError::Exists(_))), "while it is being created");
        directory.write_container(&container(&id, Stage::Created)).unwrap();
        drop(directory);
        assert!(matches!(store.claim(&id), Err(StateError::Exists(_))), "once it is");
        let (directory, record) = store.lock(&id).unwrap();
        assert_eq!(record.annotations()["a"], "b");
        assert_eq!(store.containers().unwrap().len(), 1);
        directory.remove().unwrap();
        assert_eq!(store.read(&id).unwrap_err().to_string(), "container does not exist: \"web\"");
    }

    #[test]
    fn what_a_killed_creation_left_is_handed_to_the_next() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned());
        let id = Id::new("web").unwrap();
        // Killed before its first record, and after it.
        drop(store.claim(&id).unwrap());
        let (directory, leftover) = store.claim(&id).unwrap();
        assert!(leftover.is_none());
        directory.write_container(&container(&id, Stage::Creating)).unwrap();
        std::fs::write(directory.path().join(".state.json.new"), "{ half").unwrap();
        drop(directory);
        assert!(matches!(store.lock(&id), Err(StateError::Interrupted(_))));
        assert!(matches!(store.read(&id), Err(StateError::Missing(_))));
        let (_directory, leftover) = store.claim(&id).unwrap();
        assert_eq!(leftover.unwrap().stage, Stage::Creating);
    }

    #[test]
    fn a_pod_knows_its_members_and_forgets_those_whose_directory_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned());
        let [pod, web, gone] = ["pod", "web", "gone"].map(|name| Id::new(name).unwrap());
        assert!(store.members(&pod).unwrap().is_empty());
        let (directory, none) = store.pod(&pod).unwrap();
        assert!(none.is_none() && store.read_pod(&pod).unwrap().is_none());
        let _web = store.claim(&web).unwrap();
        directory.add_member(&web).unwrap();
        directory.add_member(&gone).unwrap();
        assert_eq!(store.members(&pod).unwrap(), std::slice::from_ref(&web));
        directory.remove_member(&web).unwrap();
        directory.remove_member(&web).unwrap();
        assert!(store.members(&pod).unwrap().is_empty());
    }

    #[test]
    fn a_lock_on_a_removed_directory_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned());
        let pod = Id::new("pod").unwrap();
        let (directory, none) = store.pod(&pod).unwrap();
        assert!(none.is_none());
        let waiting = {
            let (store, pod) = (store.clone(), pod.clone());
            std::thread::spawn(move || store.pod(&pod).unwrap().0.path().exists())
        };
        std::thread::sleep(std::time::Duration::from_millis(50));
        directory.remove().unwrap();
        assert!(waiting.join().unwrap(), "the second holder has a directory of its own");
    }
}
