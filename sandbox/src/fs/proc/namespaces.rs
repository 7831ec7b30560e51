//! /proc/PID/ns: a name for each namespace, which is the same for processes that share it (namespaces(7)).
//!
//! A container has a mount, UTS and PID namespace of its own (a PID namespace may be shared, as pods do), and shares the pod's network and IPC. It
//! has the machine's user, cgroup and time namespaces for all it can tell: its ids are mapped to themselves.

use std::any::Any;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fs::synthetic::{Guard, Named, link};
use crate::kernel::credentials::Credentials;
use crate::kernel::task::Process;
use crate::platform::memory::Address;
use crate::syscalls::Call;
use crate::vfs::anonymous;
use crate::vfs::file::{File, OpenFile, Position, Sink};
use crate::vfs::node::{Attributes, FileSystemStatistics, LinkTarget, OpenRequest};

/// Names in the directory, and the namespace's own.
const NAMES: [(&str, &str); 10] = [
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("mnt", "mnt"),
    ("net", "net"),
    ("pid", "pid"),
    ("pid_for_children", "pid"),
    ("time", "time"),
    ("time_for_children", "time"),
    ("user", "user"),
    ("uts", "uts"),
];

/// The directory's items.
pub fn list(process: &Arc<Process>, guard: &Guard, owner: (u32, u32)) -> Vec<Named> {
    let item = |(name, kind): &(&'static str, &'static str)| {
        let (process, kind) = (process.clone(), *kind);
        let target = link(name, move || {
            let file = Arc::new(Namespace { kind, number: number(&process, kind)? });
            Ok(LinkTarget::Object(OpenFile::new(file, None, libc::O_RDONLY, Credentials::kernel())))
        });
        target.guarded(guard).owner(owner)
    };
    NAMES.iter().map(item).collect()
}

/// Which namespace of a kind a process is in. The initial ones have the numbers that Linux gives them (include/linux/proc_ns.h).
fn number(process: &Process, kind: &str) -> Result<u64> {
    /// Above what Linux gives out first: the numbers of namespaces that only this kernel knows.
    const OWN: u64 = 4_026_600_000;
    let host = |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).map(|found| found.ino()).map_err(|_| Errno::ESRCH);
    match kind {
        "cgroup" => Ok(4_026_531_835),
        "time" => Ok(4_026_531_834),
        "user" => Ok(4_026_531_837),
        // The pod's are those of this process.
        "net" | "ipc" => host("self"),
        "pid" => host(&process.pid.0.to_string()),
        // Two for each container, by the number of its root mount, which no other has.
        "mnt" => Ok(OWN + 2 * process.container.mounts.root.id),
        _ => Ok(OWN + 2 * process.container.mounts.root.id + 1),
    }
}

/// The flag of clone(2) that makes one of a kind.
fn clone_flag(kind: &str) -> i32 {
    /// `CLONE_NEWTIME`.
    const TIME: i32 = 0x80;
    match kind {
        "cgroup" => libc::CLONE_NEWCGROUP,
        "ipc" => libc::CLONE_NEWIPC,
        "mnt" => libc::CLONE_NEWNS,
        "net" => libc::CLONE_NEWNET,
        "pid" => libc::CLONE_NEWPID,
        "time" => TIME,
        "user" => libc::CLONE_NEWUSER,
        _ => libc::CLONE_NEWUTS,
    }
}

/// A namespace as a file: it can be held and compared, and is entered by nobody.
struct Namespace {
    kind: &'static str,
    number: u64,
}

impl File for Namespace {
    fn read(&self, _: &OpenFile, _: &mut dyn Sink, _: Position) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes { device: 4, ..anonymous::attributes(self.number, libc::S_IFREG | 0o444, 4096) })
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        /// `NSFS_MAGIC`.
        const MAGIC: i64 = 0x6e73_6673;
        Ok(FileSystemStatistics { kind: MAGIC, block_size: 4096, name_length: 255, ..Default::default() })
    }

    /// ioctl_nsfs(2): what kind it is, and which user namespace owns it. Above the container's there is none that it may see.
    fn ioctl(&self, _: &OpenFile, call: &Call, command: u32, argument: u64) -> Result<i64> {
        const USER: u32 = 0xb701;
        const PARENT: u32 = 0xb702;
        const KIND: u32 = 0xb703;
        const OWNER: u32 = 0xb704;
        match command {
            // The initial user namespace has no owner.
            USER if self.kind == "user" => Err(Errno::EPERM),
            USER => {
                let number = number(&call.process, "user")?;
                let owner = OpenFile::new(Arc::new(Namespace { kind: "user", number }), None, libc::O_RDONLY, call.credentials());
                Ok(i64::from(call.install(owner, true)?.0))
            }
            PARENT if matches!(self.kind, "user" | "pid") => Err(Errno::EPERM),
            PARENT => Err(Errno::EINVAL),
            KIND => Ok(i64::from(clone_flag(self.kind))),
            OWNER if self.kind == "user" => {
                call.memory().write_value(Address(argument), &0u32)?;
                Ok(0)
            }
            OWNER => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn description(&self) -> String {
        format!("{}:[{}]", self.kind, self.number)
    }

    fn reopen(&self, request: OpenRequest, _: &Credentials) -> Result<Arc<dyn File>> {
        if request.writes() { Err(Errno::EPERM) } else { Ok(Arc::new(Namespace { kind: self.kind, number: self.number })) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
