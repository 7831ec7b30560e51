//! Directories and files of the host's: virtio-fs (virtio 1.3, section 5.11).
//!
//! The device carries FUSE: the guest's kernel sends the requests that it would send to a FUSE daemon, and the monitor answers them from
//! *trees*, which the host puts in and takes out while the guest runs ([`Handle`]). Each tree is an entry of the file system's root. A tree
//! may be a directory or any single file: `/etc/resolv.conf` is commonly mounted as one.
//!
//! # How it is done
//! [`request`] parses, [`serve`] answers; [`names`], [`attributes`], [`files`] and [`directories`] do what is asked, on [`node`]s (files
//! that the guest knows) and [`handle`]s (files that it has open). fuse-backend-rs has the structures of the protocol and moves file
//! contents between guest memory and files without a copy. Its `PassthroughFs` and `Vfs` are not used, because they can not do what a pod
//! needs:
//!
//! - a tree whose root is a single file, and a tree that is removed while the guest still knows its files;
//! - one inode for a file that two containers reach through two trees (Unix sockets and locks in a shared volume: see [`node`]);
//! - creating files as a user who may because of a supplementary group: `PassthroughFs` lets the host check again, without the groups;
//! - forgetting: its table of inodes keeps an entry for every file that was ever seen, as long as the file system lives;
//! - `..`, which its lookup follows everywhere but at the root.
//!
//! # What a hostile guest can do
//! Anything, to the trees that it was given with write access; nothing else. The walls, outermost first:
//!
//! - the monitor's jail: an own user namespace, and a file system that holds nothing;
//! - every path that reaches the host is a single [`request::Name`], relative to a directory's descriptor, and is never followed if it is a
//!   symbolic link (`O_NOFOLLOW`). There is no `..`, so a directory that somebody moves out of a tree leads nowhere;
//! - files are held with `O_PATH`; only regular files and directories are ever opened for more, so that no fifo blocks the monitor and no
//!   device notices it;
//! - no file handles (open_by_handle_at(2)): numbers of nodes and handles are entries of tables here;
//! - devices can not be made, and set-user-ID bits are dropped when the guest says that the writer may not keep them;
//! - what a guest costs is bounded. It may hold three quarters of the descriptors that the process can have (`RLIMIT_NOFILE`); beyond that
//!   it gets `ENFILE`. So the limit has to be high: a guest's kernel keeps files known for as long as it has memory to. A request is at
//!   most 128 KiB, the data of a write 1 MiB.
//!
//! # What a guest may believe, and for how long
//! Files may change on the host at any time: a ConfigMap is a directory whose link `..data` is replaced by rename(2). Names and attributes
//! are believed for 100 ms: long enough that a path that is used all the time costs ten lookups a second, too short for anybody to see.
//! Names that do not exist are not believed at all. Contents are cached by the guest, without a limit in time, under two conditions: size
//! and times are as they were when the file was last opened (else the cache is dropped at open(2)), and as they were when attributes were
//! last asked for (`FUSE_AUTO_INVAL_DATA`). Writes go to the host at once: no write-back cache, which could lose them with the guest, and
//! would have the guest's idea of size and times override the host's.
//!
//! # Who is who
//! User and group ids are the same on both sides. Permissions are checked by the guest's kernel alone (virtio-fs always mounts with
//! `default_permissions`): it knows its users' groups and capabilities, and it is the guest's own files that it protects. The monitor acts
//! with what capabilities its namespace gives it, and makes files as the user who asked ([`host::Identity`]). Modes come from the guest,
//! which has applied the maker's umask(2); that is why [`FileSystem::new`] sets this process's own to zero.
//!
//! # What is not there
//! Locks stay in the guest: they work between its containers, not with processes on the host. Access control lists are not negotiated: the
//! guest does not see the host's. inotify(7) in the guest tells of changes made in the guest alone. No DAX, no notifications, no
//! `FUSE_SYNCFS`: sync(2) in the guest has the host write what it has when it would, fsync(2) at once.
//!
//! In a user namespace the host lets nobody keep the set-user-ID bit of a file that he writes to, so neither does the guest's root.
//!
//! # Locks
//! [`tree::Trees`] and the server each have a lock; neither is held while the other is taken but in one order: server, then trees. A
//! request holds the server's for as long as the host's file system takes.

mod attributes;
mod device;
mod directories;
mod files;
mod handle;
mod host;
mod names;
mod node;
mod request;
mod serve;
#[cfg(test)]
mod tests;
mod tree;
mod worker;

pub use device::{FileSystem, Handle};
