//! Exec roots: the native root directory of a container's processes.
//!
//! A workload's native root is a directory of a tmpfs that holds nothing but executables, each at the *literal* path that some
//! execve(2) named: the kernel has resolved the path in its own tree, and shows the file to the host there, by a read-only bind mount, so that
//! the host's loader finds it. A file that lives on this very tmpfs (the memory file systems' backing files) is linked instead; a
//! file that nobody but its owner may execute is copied, since natively the workload is nobody.
//!
//! Literal names collide: two processes in different directories both run `./conftest`. Per literal path there is one file it stands
//! for and a count of execs in flight; it is replaced only while that count is zero ([`ExecRoot::show`] gives `EAGAIN` otherwise, and the
//! caller tries again a moment later). What has not been used for longest is taken away when there are too many.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::Mode;

use crate::errno::{Errno, Result};
use crate::sync::Mutex;

/// How many executables one exec root shows before the least recently used go.
const SHOWN: usize = 256;

/// The exec root of one container.
pub struct ExecRoot {
    directory: PathBuf,
    /// The tmpfs's device number: files on it are linked.
    device: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clock: u64,
    shown: HashMap<PathBuf, Shown>,
}

struct Shown {
    source: Identity,
    /// What `/proc/PID/exe` shows for it: differs from the source for copies.
    visible: (u64, u64),
    in_flight: usize,
    used: u64,
    mounted: bool,
}

/// Which version of which file: a changed file must be copied anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    mode: u32,
}

/// An executable that is being executed; its literal path stands for it until this is dropped.
pub struct InFlight {
    root: Arc<ExecRoot>,
    path: PathBuf,
    /// Device and inode that the running process will show.
    pub visible: (u64, u64),
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(shown) = self.root.state.lock().shown.get_mut(&self.path) {
            shown.in_flight = shown.in_flight.saturating_sub(1);
        }
    }
}

impl ExecRoot {
    /// Makes the directory `name` below the exec roots' tmpfs.
    pub fn create(roots: &Path, name: &str) -> Result<Arc<ExecRoot>> {
        let directory = roots.join(name);
        std::fs::create_dir(&directory)?;
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
        let device = std::fs::metadata(&directory)?.dev();
        Ok(Arc::new(ExecRoot { directory, device, state: Mutex::default() }))
    }

    /// Shows `file` at `literal`, the bytes that the workload passes to execve(2), until the result is dropped and the room is needed.
    pub fn show(self: &Arc<Self>, literal: &[u8], file: BorrowedFd<'_>) -> Result<InFlight> {
        // The exec roots are this kernel's own, whoever's exec it is.
        crate::fs::host::identity::assume_kernel();
        let metadata = std::fs::metadata(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        // A linked file is the file itself; linking it changes its times.
        let linked = metadata.dev() == self.device;
        let source = Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: if linked { (0, 0) } else { (metadata.ctime(), metadata.ctime_nsec()) },
            mode: metadata.mode(),
        };
        let path = self.native_path(literal)?;
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        match state.shown.get_mut(&path) {
            Some(shown) if shown.source == source => {
                shown.in_flight += 1;
                shown.used = now;
                return Ok(InFlight { root: self.clone(), path, visible: shown.visible });
            }
            Some(shown) if shown.in_flight > 0 => return Err(Errno::EAGAIN),
            Some(_) => Self::hide(&mut state, &path),
            None => {}
        }
        if state.shown.len() >= SHOWN {
            let idle = state.shown.iter().filter(|(_, shown)| shown.in_flight == 0);
            let oldest = idle.min_by_key(|(_, shown)| shown.used).map(|(path, _)| path.clone());
            if let Some(oldest) = oldest {
                Self::hide(&mut state, &oldest);
            }
        }
        self.make_room(&mut state, &path)?;
        let (visible, mounted) = self.place(&path, file, &metadata)?;
        state.shown.insert(path.clone(), Shown { source, visible, in_flight: 1, used: now, mounted });
        Ok(InFlight { root: self.clone(), path, visible })
    }

    /// Where the host looks for a literal path, with the root as working directory. `..` at the root stays there, as on the host.
    fn native_path(&self, literal: &[u8]) -> Result<PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let mut names: Vec<&[u8]> = Vec::new();
        for name in literal.split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    names.pop();
                }
                name => names.push(name),
            }
        }
        if names.is_empty() {
            return Err(Errno::EACCES);
        }
        let mut path = self.directory.clone();
        for name in names {
            path.push(std::ffi::OsStr::from_bytes(name));
        }
        // The host walks every name, so directories that `..` leaves again have to be there too.
        self.make_passed_directories(literal)?;
        Ok(path)
    }

    fn make_passed_directories(&self, literal: &[u8]) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        if !literal.split(|&byte| byte == b'/').any(|name| name == b"..") {
            return Ok(());
        }
        let mut path = self.directory.clone();
        for name in literal.split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    if path != self.directory {
                        match std::fs::create_dir(&path) {
                            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
                            _ => {}
                        }
                        path.pop();
                    }
                }
                name => path.push(std::ffi::OsStr::from_bytes(name)),
            }
        }
        Ok(())
    }

    /// Directories above the path, and nothing at it. An executable that stands where a directory is needed goes, and the other
    /// way round, unless it is in flight.
    fn make_room(&self, state: &mut State, path: &Path) -> Result<()> {
        let conflicting: Vec<PathBuf> =
            state.shown.keys().filter(|other| path.starts_with(other) || other.starts_with(path)).cloned().collect();
        for other in conflicting {
            if state.shown.get(&other).is_some_and(|shown| shown.in_flight > 0) {
                return Err(Errno::EAGAIN);
            }
            Self::hide(state, &other);
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if path.is_dir() {
            // Only empty directories are left, from paths that were hidden.
            std::fs::remove_dir_all(path)?;
        }
        Ok(())
    }

    /// Puts the file there: link, copy or bind mount. Gives its visible identity, and whether it is a mount.
    fn place(&self, path: &Path, file: BorrowedFd<'_>, metadata: &std::fs::Metadata) -> Result<((u64, u64), bool)> {
        let executable_by_all = metadata.mode() & 0o001 != 0;
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        if executable_by_all && metadata.dev() == self.device {
            nix::unistd::linkat(nix::fcntl::AT_FDCWD, source.as_str(), nix::fcntl::AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?;
            return Ok(((metadata.dev(), metadata.ino()), false));
        }
        if executable_by_all && metadata.mode() & libc::S_IFMT == libc::S_IFREG {
            std::fs::File::create(path)?;
            let flags = MsFlags::MS_BIND;
            if nix::mount::mount(Some(source.as_str()), path, None::<&str>, flags, None::<&str>).is_ok() {
                let protect = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
                nix::mount::mount(None::<&str>, path, None::<&str>, protect, None::<&str>)?;
                return Ok(((metadata.dev(), metadata.ino()), true));
            }
            std::fs::remove_file(path)?;
        }
        copy(file, path)?;
        let copied = std::fs::metadata(path)?;
        Ok(((copied.dev(), copied.ino()), false))
    }

    fn hide(state: &mut State, path: &Path) {
        if let Some(shown) = state.shown.remove(path) {
            if shown.mounted {
                let _ = nix::mount::umount2(path, MntFlags::MNT_DETACH);
            }
            let _ = std::fs::remove_file(path);
        }
    }

    /// Takes everything away: the container is gone.
    pub fn remove(&self) {
        let mut state = self.state.lock();
        let paths: Vec<PathBuf> = state.shown.keys().cloned().collect();
        for path in paths {
            Self::hide(&mut state, &path);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Copies an executable, readable and executable for all.
fn copy(file: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let source = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let mut from = std::fs::File::from(nix::fcntl::open(source.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?);
    let mut to = std::fs::File::create(path)?;
    std::io::copy(&mut from, &mut to)?;
    to.set_permissions(std::fs::Permissions::from_mode(0o555))?;
    Ok(())
}
