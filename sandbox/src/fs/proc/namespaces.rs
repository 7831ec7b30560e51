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
