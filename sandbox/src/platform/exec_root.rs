//! Exec roots: the native root directory of a container's processes.
//!
//! A workload's native root is a directory of a tmpfs that holds nothing but executables, each at the *literal* path that some
//! execve(2) named: the kernel has resolved the path in its own tree, and shows the file to the host there, by a read-only bind mount, so that
//! the host's loader finds it. What cannot be mounted is copied: a file that not everybody may execute (natively the workload is nobody), one
//! of a mount that is `noexec` on the host, a memfd, and a file of a memory file system, which is open for writing here as long as it lives (the host
//! executes no such file). One that lives on this very tmpfs and is not open for writing is linked.
//!
//! Literal names collide: two processes in different directories both run `./conftest`. Per literal path there is one file it stands
//! for and a count of execs in flight; it is replaced only while that count is zero ([`ExecRoot::show`] gives `EAGAIN` otherwise, and the
//! caller tries again a moment later). What has not been used for longest is taken away when there are too many.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::statvfs::FsFlags;

use crate::errno::{Errno, Result};
use crate::sync::Mutex;

/// How many executables one exec root shows before the least recently used go.
const SHOWN: usize = 256;
/// How an executable is shown: for reading, and without what set-user-ID bits and device nodes mean. Access times stay as they are (mount(2)).
pub const PROTECTED: MsFlags =
    MsFlags::MS_REMOUNT.union(MsFlags::MS_BIND).union(MsFlags::MS_RDONLY).union(MsFlags::MS_NOSUID).union(MsFlags::MS_NODEV);
/// How many bytes of copies it keeps before the least recently used go.
const COPIED: u64 = 64 << 20;

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
    source: Source,
    form: Form,
    /// What `/proc/PID/exe` shows for it: differs from the source for copies.
    visible: (u64, u64),
    in_flight: usize,
    used: u64,
}

/// How a file is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// By a bind mount, which holds the file: its inode's number cannot become another's.
    Mount,
    /// By a second name, which holds it as well.
    Link,
    /// By its bytes, at this moment of its last change; so many of them.
    Copy { changed: (i64, i64), length: u64 },
}

/// Which file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Source {
    device: u64,
    inode: u64,
    /// Whether natively everybody may execute it.
    for_all: bool,
}

impl Shown {
    /// Whether it still stands for this file as it is now.
    fn stands_for(&self, source: Source, metadata: &Metadata) -> bool {
        let fresh = match self.form {
            Form::Mount | Form::Link => true,
            Form::Copy { changed, length } => changed == changed_at(metadata) && length == metadata.len(),
        };
        fresh && self.source == source
    }
}

fn changed_at(metadata: &Metadata) -> (i64, i64) {
    (metadata.ctime(), metadata.ctime_nsec())
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
    /// `file`: a regular file, open for reading or `O_PATH`.
    ///
    /// Errors: `EAGAIN` while another file is being executed by this name; `EACCES` for a path without a name in it.
    pub fn show(self: &Arc<Self>, literal: &[u8], file: BorrowedFd<'_>) -> Result<InFlight> {
        // The exec roots are this kernel's own, whoever's exec it is.
        crate::fs::host::identity::assume_kernel();
        let metadata = std::fs::metadata(by_descriptor(file))?;
        let source = Source { device: metadata.dev(), inode: metadata.ino(), for_all: metadata.mode() & 0o001 != 0 };
        let path = self.native_path(literal)?;
        let mut state = self.state.lock();
        state.clock += 1;
        let now = state.clock;
        self.make_passed_directories(literal)?;
        match state.shown.get_mut(&path) {
            Some(shown) if shown.stands_for(source, &metadata) => {
                shown.in_flight += 1;
                shown.used = now;
                return Ok(InFlight { root: self.clone(), path, visible: shown.visible });
            }
            Some(shown) if shown.in_flight > 0 => return Err(Errno::EAGAIN),
            Some(_) => self.hide(&mut state, &path),
            None => {}
        }
        self.make_room(&mut state, &path)?;
        let (form, visible) = self.place(&path, file, &metadata, source)?;
        state.shown.insert(path.clone(), Shown { source, form, visible, in_flight: 1, used: now });
        self.evict(&mut state);
        Ok(InFlight { root: self.clone(), path, visible })
    }

    /// Takes away what has not been used for longest, until what is left is within bounds. What is in flight stays.
    fn evict(&self, state: &mut State) {
        let copied = |shown: &Shown| if let Form::Copy { length, .. } = shown.form { length } else { 0 };
        loop {
            let total: u64 = state.shown.values().map(copied).sum();
            let idle = state.shown.iter().filter(|(_, shown)| shown.in_flight == 0);
            let candidates = idle.filter(|(_, shown)| state.shown.len() > SHOWN || (total > COPIED && copied(shown) > 0));
            let Some(oldest) = candidates.min_by_key(|(_, shown)| shown.used).map(|(path, _)| path.clone()) else { return };
            self.hide(state, &oldest);
        }
    }

    /// Where the host looks for a literal path, with the root as working directory. `..` at the root stays there, as on the host.
    fn native_path(&self, literal: &[u8]) -> Result<PathBuf> {
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
        Ok(path)
    }

    /// The host walks every name, so directories that `..` leaves again have to be there too.
    fn make_passed_directories(&self, literal: &[u8]) -> Result<()> {
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
            self.hide(state, &other);
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

    /// Puts the file there. Gives how, and the identity that a process which executes it will show.
    fn place(&self, path: &Path, file: BorrowedFd<'_>, metadata: &Metadata, source: Source) -> Result<(Form, (u64, u64))> {
        let own = (metadata.dev(), metadata.ino());
        if source.for_all && own.0 == self.device && !is_writable(file)? {
            let from = by_descriptor(file);
            nix::unistd::linkat(AT_FDCWD, from.as_path(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?;
            return Ok((Form::Link, own));
        }
        if source.for_all && own.0 != self.device && !forbids_execution(file)? && bind(file, path)? {
            return Ok((Form::Mount, own));
        }
        copy(file, path)?;
        let copied = std::fs::metadata(path)?;
        Ok((Form::Copy { changed: changed_at(metadata), length: metadata.len() }, (copied.dev(), copied.ino())))
    }

    /// Takes one away, and the directories above it that hold nothing else.
    fn hide(&self, state: &mut State, path: &Path) {
        let Some(shown) = state.shown.remove(path) else { return };
        if shown.form == Form::Mount {
            let _ = nix::mount::umount2(path, MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_file(path);
        let mut above = path.parent();
        while let Some(directory) = above.filter(|directory| *directory != self.directory) {
            if std::fs::remove_dir(directory).is_err() {
                break;
            }
            above = directory.parent();
        }
    }

    /// Takes everything away: the container is gone.
    pub fn remove(&self) {
        let mut state = self.state.lock();
        let paths: Vec<PathBuf> = state.shown.keys().cloned().collect();
        for path in paths {
            self.hide(&mut state, &path);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The path by which a descriptor's file is reached again.
fn by_descriptor(file: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Whether the file is open for writing here: then the host will not execute it (`ETXTBSY`).
fn is_writable(file: BorrowedFd<'_>) -> Result<bool> {
    let flags = nix::fcntl::fcntl(file, FcntlArg::F_GETFL)?;
    Ok(flags & libc::O_PATH == 0 && flags & libc::O_ACCMODE != libc::O_RDONLY)
}

/// Whether the file's own mount is `noexec` on the host. Whether it is in the container is not asked here.
fn forbids_execution(file: BorrowedFd<'_>) -> Result<bool> {
    Ok(nix::sys::statvfs::fstatvfs(file)?.flags().contains(FsFlags::ST_NOEXEC))
}

/// Shows the file by a bind mount, read-only and without set-user-ID. False where the host does not mount it: a file without a
/// place, like a memfd.
fn bind(file: BorrowedFd<'_>, path: &Path) -> Result<bool> {
    std::fs::File::create(path)?;
    let none = None::<&str>;
    if nix::mount::mount(Some(&by_descriptor(file)), path, none, MsFlags::MS_BIND, none).is_err() {
        std::fs::remove_file(path)?;
        return Ok(false);
    }
    // Its flags are those that the kernel's own filter lets through, and no others (`confine`).
    if nix::mount::mount(none, path, none, PROTECTED, none).is_err() {
        // A mount whose flags the host's owner has locked otherwise: copied instead.
        nix::mount::umount2(path, MntFlags::MNT_DETACH)?;
        std::fs::remove_file(path)?;
        return Ok(false);
    }
    Ok(true)
}

/// Copies an executable, readable and executable for all.
fn copy(file: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let mut from = std::fs::File::open(by_descriptor(file))?;
    let mut to = std::fs::File::create(path)?;
    std::io::copy(&mut from, &mut to)?;
    to.set_permissions(std::fs::Permissions::from_mode(0o555))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// An exec root in a temporary directory, and files on the same file system: they are linked, or copied where only their owner may
    /// execute them.
    struct Fixture {
        _directory: tempfile::TempDir,
        files: PathBuf,
        root: Arc<ExecRoot>,
    }

    fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let files = directory.path().join("files");
        std::fs::create_dir(&files).unwrap();
        let root = ExecRoot::create(directory.path(), "root").unwrap();
        Fixture { _directory: directory, files, root }
    }

    impl Fixture {
        fn file(&self, name: &str, text: &str, mode: u32) -> std::fs::File {
            let path = self.files.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            std::fs::File::open(path).unwrap()
        }

        fn shown(&self, path: &str) -> Option<String> {
            std::fs::read_to_string(self.root.directory.join(path)).ok()
        }
    }

    #[test]
    fn a_literal_path_stands_for_one_file_while_it_is_executed() {
        let fixture = fixture();
        let (one, two) = (fixture.file("one", "1", 0o755), fixture.file("two", "2", 0o755));
        let first = fixture.root.show(b"./conftest", one.as_fd()).unwrap();
        let again = fixture.root.show(b"conftest", one.as_fd()).unwrap();
        assert_eq!(fixture.root.show(b"./conftest", two.as_fd()).err(), Some(Errno::EAGAIN));
        drop(first);
        assert_eq!(fixture.root.show(b"./conftest", two.as_fd()).err(), Some(Errno::EAGAIN));
        drop(again);
        let _second = fixture.root.show(b"./conftest", two.as_fd()).unwrap();
        assert_eq!(fixture.shown("conftest").as_deref(), Some("2"));
    }

    #[test]
    fn paths_lead_where_the_host_looks() {
        let fixture = fixture();
        let file = fixture.file("one", "1", 0o755);
        for (literal, native) in [("/bin/x", "bin/x"), ("../../y", "y"), ("a/../b/./z", "b/z"), ("c/../b/z", "b/z"), ("//w", "w")] {
            fixture.root.show(literal.as_bytes(), file.as_fd()).unwrap();
            // Asked as the host asks, name by name.
            let asked = literal.trim_start_matches(['/', '.']).to_owned();
            assert!(fixture.shown(native).is_some(), "{literal}");
            assert!(fixture.shown(&asked).is_some(), "{literal}");
        }
        assert_eq!(fixture.root.show(b"/..", file.as_fd()).err(), Some(Errno::EACCES));
    }

    #[test]
    fn a_file_gives_way_to_a_directory_and_back() {
        let fixture = fixture();
        let file = fixture.file("one", "1", 0o755);
        drop(fixture.root.show(b"/x", file.as_fd()).unwrap());
        let below = fixture.root.show(b"/x/y", file.as_fd()).unwrap();
        assert_eq!(fixture.root.show(b"/x", file.as_fd()).err(), Some(Errno::EAGAIN));
        drop(below);
        fixture.root.show(b"/x", file.as_fd()).unwrap();
        assert_eq!(fixture.shown("x").as_deref(), Some("1"));
    }

    #[test]
    fn what_not_everybody_may_execute_is_copied_and_kept_fresh() {
        let fixture = fixture();
        let file = fixture.file("secret", "old", 0o700);
        let shown = fixture.root.show(b"/s", file.as_fd()).unwrap();
        let native = std::fs::metadata(fixture.root.directory.join("s")).unwrap();
        assert_eq!(shown.visible, (native.dev(), native.ino()));
        assert_eq!(native.mode() & 0o777, 0o555);
        drop(shown);
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::write(fixture.files.join("secret"), "newer").unwrap();
        fixture.root.show(b"/s", file.as_fd()).unwrap();
        assert_eq!(fixture.shown("s").as_deref(), Some("newer"));
    }

    #[test]
    fn a_file_that_is_open_for_writing_is_copied() {
        let fixture = fixture();
        drop(fixture.file("written", "1", 0o755));
        let file = std::fs::OpenOptions::new().read(true).write(true).open(fixture.files.join("written")).unwrap();
        let shown = fixture.root.show(b"/w", file.as_fd()).unwrap();
        let metadata = file.metadata().unwrap();
        assert_ne!(shown.visible, (metadata.dev(), metadata.ino()));
    }

    #[test]
    fn the_least_recently_used_go_with_their_directories() {
        let fixture = fixture();
        let file = fixture.file("one", "1", 0o755);
        for index in 0..SHOWN + 10 {
            fixture.root.show(format!("/d{index}/x").as_bytes(), file.as_fd()).unwrap();
        }
        assert_eq!(fixture.root.state.lock().shown.len(), SHOWN);
        assert!(!fixture.root.directory.join("d0").exists());
        assert!(fixture.shown(&format!("d{}/x", SHOWN + 9)).is_some());
        fixture.root.remove();
        assert!(!fixture.root.directory.exists());
    }
}
