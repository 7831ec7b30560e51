//! The server: one request after another, from the bytes to the answer.
//!
//! What a request does is in [`names`](super::names), [`attributes`](super::attributes), [`files`](super::files) and
//! [`directories`](super::directories), by the part of the file system that it is about. They take parsed values and give values or an
//! errno; only this file knows what an answer looks like in the guest's memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{
    Attr, AttrOut, EntryOut, FsOptions, InHeader, InitIn, InitOut, KERNEL_MINOR_VERSION, KERNEL_VERSION, LseekOut, OutHeader, WriteOut,
};
use fuse_backend_rs::transport::{Reader, VirtioFsWriter};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use vm_memory::ByteValued;

use super::handle::{Handles, Open};
use super::node::{Backing, Node, Nodes};
use super::request::{Request, body_length, is_silent, is_write};
use super::tree::{TreeId, Trees};

/// How long the guest may believe a name or attributes: see [`super`].
const BELIEF: Duration = Duration::from_millis(100);
/// The most pages of one read or write, and the bytes in them.
const MOST_PAGES: u16 = 256;
pub(super) const MOST_BYTES: u32 = MOST_PAGES as u32 * 4096;
/// Protocol 7.31 is Linux 5.4, the first with virtio-fs.
const OLDEST_MINOR: u32 = 31;
/// Where this process's descriptors have names.
const DESCRIPTORS: &str = "/proc/self/fd";

/// What follows an answer's header.
pub(super) enum Answer {
    /// Nothing.
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes, which are where they belong already.
    InPlace(usize),
}

impl Answer {
    /// A structure.
    pub(super) fn of(object: impl ByteValued) -> Self {
        Self::Bytes(object.as_slice().to_vec())
    }

    /// A node's entry, from its number and attributes.
    fn entry(entry: EntryOut) -> Self {
        Self::of(entry)
    }

    fn attributes(attr: Attr) -> Self {
        Self::of(AttrOut { attr_valid: BELIEF.as_secs(), attr_valid_nsec: BELIEF.subsec_nanos(), dummy: 0, attr })
    }
}

/// A name's answer: the node and what it is.
pub(super) fn entry(nodeid: u64, attr: Attr) -> EntryOut {
    EntryOut {
        nodeid,
        // Numbers are never used again.
        generation: 0,
        entry_valid: BELIEF.as_secs(),
        attr_valid: BELIEF.as_secs(),
        entry_valid_nsec: BELIEF.subsec_nanos(),
        attr_valid_nsec: BELIEF.subsec_nanos(),
        attr,
    }
}

/// An error of the standard library's as an errno.
pub(super) fn errno(error: io::Error) -> Errno {
    match (error.raw_os_error(), error.kind()) {
        (Some(number), _) => Errno::from_raw(number),
        (None, io::ErrorKind::InvalidInput) => Errno::EINVAL,
        _ => Errno::EIO,
    }
}

/// The file system.
pub(super) struct Server {
    pub(super) trees: Arc<Trees>,
    pub(super) nodes: Nodes,
    pub(super) handles: Handles,
    /// [`DESCRIPTORS`], open with `O_PATH`: a file that is open with `O_PATH` is opened for good, or named in a call, through its number
    /// here.
    pub(super) descriptors: OwnedFd,
    /// How many descriptors nodes and handles may hold.
    limit: usize,
    /// Where bodies and directories are read into.
    body: Vec<u8>,
    pub(super) entries: Box<[u8]>,
}

impl Server {
    /// # Errors
    /// `/proc` is not there.
    pub(super) fn new(trees: Arc<Trees>) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let descriptors =
            nix::fcntl::open(DESCRIPTORS, flags, Mode::empty()).map_err(|error| io::Error::other(format!("{DESCRIPTORS}: {error}")))?;
        let entries = vec![0; 32 << 10].into();
        let (nodes, handles) = (Nodes::default(), Handles::default());
        Ok(Self { trees, nodes, handles, descriptors, limit: limit(), body: Vec::new(), entries })
    }

    /// Serves a request; how many bytes of the answer were written.
    pub(super) fn serve(&mut self, mut request: Reader<'_>, mut reply: VirtioFsWriter<'_>) -> u32 {
        // Without a header there is nobody to answer.
        let Ok(header) = request.read_obj::<InHeader>() else { return 0 };
        if is_silent(header.opcode) {
            // It has no room for an answer either, which is nothing but an error's.
            let _ = self.answer(&header, &mut request, &mut reply);
            return 0;
        }
        let Ok(mut data) = reply.split_at(size_of::<OutHeader>()) else { return 0 };
        let answer = self.answer(&header, &mut request, &mut data);
        let answer = answer.and_then(|answer| match answer {
            Answer::Empty => Ok(0),
            Answer::InPlace(length) => Ok(length),
            Answer::Bytes(bytes) => data.write_all(&bytes).map(|()| bytes.len()).map_err(errno),
        });
        let (length, error) = match answer {
            Ok(length) => (length, 0),
            Err(error) => (0, -(error as i32)),
        };
        // No answer is longer than MOST_BYTES.
        let length = (size_of::<OutHeader>() + length) as u32;
        match reply.write_obj(OutHeader { len: length, error, unique: header.unique }) {
            Ok(()) => length,
            Err(_) => 0,
        }
    }

    fn answer(&mut self, header: &InHeader, reader: &mut Reader<'_>, data: &mut VirtioFsWriter<'_>) -> Result<Answer, Errno> {
        let length = body_length(header)?;
        let mut body = std::mem::take(&mut self.body);
        body.resize(length, 0);
        let request = match reader.read_exact(&mut body) {
            Ok(()) => Request::parse(header.opcode, &body),
            Err(_) => Err(Errno::EINVAL),
        };
        self.body = body;
        self.execute(header, request?, reader, data)
    }

    #[rustfmt::skip] // A table: a request a line.
    fn execute(
        &mut self, header: &InHeader, request: Request, reader: &mut Reader<'_>, data: &mut VirtioFsWriter<'_>,
    ) -> Result<Answer, Errno> {
        debug_assert!(is_write(header.opcode) == matches!(request, Request::Write(_)));
        let (node, who) = (header.nodeid, (header.uid, header.gid));
        let none = |()| Answer::Empty;
        match request {
            Request::Init(init) => self.init(init),
            Request::Destroy => { self.clear(); Ok(Answer::Empty) }
            Request::Interrupt => Ok(Answer::Empty),
            Request::Forget(list) => {
                for (number, count) in list {
                    self.nodes.forget(if number == 0 { node } else { number }, count);
                }
                Ok(Answer::Empty)
            }
            Request::Lookup(name) => self.lookup(node, &name).map(Answer::entry),
            Request::SymbolicLink { name, target } => self.make_symbolic_link(who, node, &name, &target).map(Answer::entry),
            Request::MakeNode(name, made) => self.make_node(who, node, &name, &made).map(Answer::entry),
            Request::MakeDirectory(name, made) => self.make_directory(who, node, &name, &made).map(Answer::entry),
            Request::Link { node: target, name } => self.link(target, node, &name).map(Answer::entry),
            Request::Unlink(name) => self.unlink(node, &name, false).map(none),
            Request::RemoveDirectory(name) => self.unlink(node, &name, true).map(none),
            Request::Rename { from, to_directory, to, flags } => self.rename((node, &from), (to_directory, &to), flags).map(none),
            Request::ReadLink => self.read_link(node).map(Answer::Bytes),
            Request::GetAttributes { handle } => self.attributes(node, handle).map(Answer::attributes),
            Request::SetAttributes(wanted) => self.set_attributes(node, &wanted).map(Answer::attributes),
            Request::Statistics => self.statistics(node).map(Answer::of),
            Request::GetAttribute { name, size } => self.get_attribute(node, &name, size),
            Request::ListAttributes { size } => self.list_attributes(node, size),
            Request::SetAttribute { name, value, flags } => self.set_attribute(node, &name, &value, flags).map(none),
            Request::RemoveAttribute(name) => self.remove_attribute(node, &name).map(none),
            Request::Open(open) => self.open(node, &open).map(Answer::of),
            Request::Create(name, create) => self.create(who, node, &name, &create).map(Answer::Bytes),
            Request::Read(read) => self.read(node, &read, data).map(Answer::InPlace),
            Request::Write(write) => self.write(node, &write, reader).map(|size| Answer::of(WriteOut { size, padding: 0 })),
            Request::Release { handle } => self.handles.remove(handle, node).map(|_| Answer::Empty),
            Request::Synchronise { handle, data_only } => self.synchronise(node, handle, data_only).map(none),
            Request::Flush { handle } => self.flush(node, handle).map(none),
            Request::Allocate(allocate) => self.allocate(node, &allocate).map(none),
            Request::Seek(seek) => self.seek(node, &seek).map(|offset| Answer::of(LseekOut { offset })),
            Request::OpenDirectory => self.open_directory(node).map(Answer::of),
            Request::ReadDirectory { handle, offset, size, with_nodes } => {
                let room = (size as usize).min(data.available_bytes());
                self.read_directory(node, handle, offset, room, with_nodes).map(Answer::Bytes)
            }
        }
    }

    /// The guest mounts: agree on what the file system can do.
    fn init(&mut self, init: InitIn) -> Result<Answer, Errno> {
        if init.major > KERNEL_VERSION {
            // It will ask again, in our version.
            return Ok(Answer::of(InitOut { major: KERNEL_VERSION, minor: KERNEL_MINOR_VERSION, ..InitOut::default() }));
        }
        if init.major < KERNEL_VERSION || init.minor < OLDEST_MINOR {
            return Err(Errno::EPROTO);
        }
        self.clear();
        self.limit = limit();
        let wanted = FsOptions::ASYNC_READ
            | FsOptions::ASYNC_DIO
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::AUTO_INVAL_DATA
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            | FsOptions::PARALLEL_DIROPS
            // A symbolic link never changes: another target is another inode.
            | FsOptions::CACHE_SYMLINKS
            | FsOptions::HANDLE_KILLPRIV_V2;
        let agreed = FsOptions::from_bits_truncate(init.flags.into()) & wanted;
        Ok(Answer::of(InitOut {
            major: KERNEL_VERSION,
            minor: KERNEL_MINOR_VERSION,
            max_readahead: init.max_readahead,
            flags: agreed.bits() as u32,
            max_background: MOST_PAGES,
            congestion_threshold: MOST_PAGES / 4 * 3,
            max_write: MOST_BYTES,
            // Nanoseconds.
            time_gran: 1,
            max_pages: MOST_PAGES,
            ..InitOut::default()
        }))
    }

    /// Closes everything that the guest has.
    pub(super) fn clear(&mut self) {
        self.handles.clear();
        self.nodes.clear();
    }

    /// Closes everything of a tree. A regular file that is open and that another tree holds too stays open, through that one.
    pub(super) fn remove_tree(&mut self, tree: TreeId) {
        self.nodes.remove(tree);
        let (nodes, descriptors) = (&self.nodes, &self.descriptors);
        self.handles.replace(tree, |node, open| {
            let Open::File { flags, .. } = open else { return None };
            let (file, tree) = open_node(descriptors, nodes.get(node).ok()?, *flags - OFlag::O_TRUNC).ok()?;
            Some(Open::File { file, flags: *flags, tree })
        });
    }

    /// Whether one more descriptor may be held.
    ///
    /// # Errors
    /// `ENFILE`: the guest knows or has open as many files as this process can hold. It has to drop some from its cache.
    pub(super) fn room(&self) -> Result<(), Errno> {
        if self.nodes.held() + self.handles.count() < self.limit { Ok(()) } else { Err(Errno::ENFILE) }
    }

    /// Opens a node's file.
    pub(super) fn open_node(&self, node: &Node, flags: OFlag) -> Result<(File, TreeId), Errno> {
        open_node(&self.descriptors, node, flags)
    }

    #[cfg(test)]
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }
}

/// The name in [`DESCRIPTORS`] of an open file.
pub(super) fn number(file: impl AsFd) -> String {
    file.as_fd().as_raw_fd().to_string()
}

/// Opens a file that is open with `O_PATH`.
///
/// The link in `/proc/self/fd` leads to the very file, whatever names it has by now: no path is followed.
pub(super) fn reopen(descriptors: impl AsFd, file: impl AsFd, flags: OFlag) -> Result<OwnedFd, Errno> {
    let flags = (flags - OFlag::O_NOFOLLOW - OFlag::O_CREAT - OFlag::O_EXCL) | OFlag::O_CLOEXEC;
    openat(descriptors, number(file).as_str(), flags, Mode::empty())
}

/// Opens a node's file, through a backing that allows it.
///
/// # Errors
/// `ENXIO`: neither a regular file nor a directory. Opening anything else could wait for ever (a fifo) or touch a device of the host's
/// (CVE-2020-35517); the guest's own kernel opens those itself. `EROFS`, `ESTALE`; the host's.
fn open_node(descriptors: &OwnedFd, node: &Node, flags: OFlag) -> Result<(File, TreeId), Errno> {
    if !matches!(node.kind, libc::S_IFREG | libc::S_IFDIR) {
        return Err(Errno::ENXIO);
    }
    let open = |backing: &Backing| reopen(descriptors, backing, flags).map(|file| (File::from(file), backing.tree));
    if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY && !flags.contains(OFlag::O_TRUNC) {
        return open(node.backing()?);
    }
    node.writable()?;
    // A mount in a tree may be read-only where the tree is not.
    let mut result = Err(Errno::EROFS);
    for backing in node.backings.iter().filter(|backing| !backing.read_only) {
        result = open(backing);
        if result.as_ref().err() != Some(&Errno::EROFS) {
            break;
        }
    }
    result
}

/// How many descriptors the guest may cost: three quarters of what the process can have. The rest is for everything else in it.
fn limit() -> usize {
    // It fails for no resource that exists.
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft / 4 * 3).unwrap_or(usize::MAX)
}
