//! The socket: what all families have in common.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use super::address::{Passed, SocketAddress};
use super::control::Record;
use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};
use crate::kernel::task::{FileSystemState, Process};
use crate::kernel::wait::{Ready, WaitQueue};
use crate::sync::Mutex;
use crate::syscalls::Call;
use crate::vfs::file::{File, OpenFile, Position, Sink, Source};
use crate::vfs::node::{Attributes, FileSystemStatistics, SetAttributes, Timestamp};

/// `SOCKFS_MAGIC`.
const MAGIC: i64 = 0x534f_434b;
/// The device number that sockets show: an anonymous one, as Linux gives sockfs.
const DEVICE: u64 = 8;

/// How a socket moves data (socket(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    Stream,
    Datagram,
    SequencedPacket,
}

impl Kind {
    /// `SOCK_*`.
    pub fn number(self) -> i32 {
        match self {
            Kind::Stream => libc::SOCK_STREAM,
            Kind::Datagram => libc::SOCK_DGRAM,
            Kind::SequencedPacket => libc::SOCK_SEQPACKET,
        }
    }
}

/// Who calls.
#[derive(Clone)]
pub struct Caller {
    /// Its identity.
    pub credentials: Arc<Credentials>,
    /// Its process; `None` for the kernel's own errands.
    pub process: Option<Arc<Process>>,
    /// Where paths start, and the umask: for calls that name sockets.
    pub place: Option<FileSystemState>,
}

impl Caller {
    /// Who made a call.
    pub fn of(call: &Call) -> Caller {
        Caller { credentials: call.credentials(), process: Some(call.process.clone()), place: None }
    }

    /// The same, with root, working directory and umask: for calls that take paths.
    pub fn with_place(call: &Call) -> Caller {
        Caller { place: Some(call.context()), ..Caller::of(call) }
    }

    /// How it shows in `SO_PEERCRED`: with its effective user and group.
    pub fn identity(&self) -> Identity {
        self.identity_of(self.credentials.euid, self.credentials.egid)
    }

    /// How it shows in `SCM_CREDENTIALS` where it does not say: with its real user and group.
    pub fn sender(&self) -> Identity {
        self.identity_of(self.credentials.uid, self.credentials.gid)
    }

    fn identity_of(&self, uid: u32, gid: u32) -> Identity {
        let (pid, container) = match &self.process {
            Some(process) => (process.inner, Arc::as_ptr(&process.container) as usize),
            None => (0, 0),
        };
        Identity { pid, container, uid, gid, groups: self.credentials.groups.clone() }
    }
}

/// Who a process was when it sent or connected (`struct ucred`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The number in its container.
    pub pid: i32,
    /// Which container: numbers mean nothing in another.
    container: usize,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups (`SO_PEERGROUPS`).
    pub groups: Arc<[u32]>,
}

impl Identity {
    /// Nobody: what a message without credentials shows.
    pub fn nobody() -> Identity {
        Identity { pid: 0, container: 0, uid: 65_534, gid: 65_534, groups: Arc::from([]) }
    }

    /// The same sender with other numbers, as `SCM_CREDENTIALS` allows some callers to say.
    pub fn claiming(&self, pid: i32, uid: u32, gid: u32) -> Identity {
        Identity { pid, uid, gid, ..self.clone() }
    }

    /// `struct ucred`, as a process of `viewer`'s container sees it: numbers from other containers are 0.
    pub fn encode(&self, viewer: &Caller) -> Vec<u8> {
        let own = viewer.process.as_ref().map_or(0, |process| Arc::as_ptr(&process.container) as usize);
        let pid = if own == self.container { self.pid } else { 0 };
        [pid.to_ne_bytes(), self.uid.to_ne_bytes(), self.gid.to_ne_bytes()].concat()
    }
}

/// What goes with the bytes of a message.
#[derive(Clone, Default)]
pub struct Outgoing {
    /// `MSG_*`.
    pub flags: i32,
    /// To whom, where the call says.
    pub to: Option<Passed>,
    /// Descriptors (`SCM_RIGHTS`).
    pub rights: Vec<Arc<OpenFile>>,
    /// `SCM_CREDENTIALS`, already checked.
    pub identity: Option<Identity>,
    /// Other records.
    pub control: Vec<Record>,
    /// The call has found no room before, and waited for it.
    pub waited: bool,
}

/// What a call wants to receive besides the bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Request {
    /// `MSG_*`; `MSG_DONTWAIT` also for a description that does not block.
    pub flags: i32,
    /// Bytes of control data that the caller takes; 0 where it takes none.
    pub control: usize,
    /// Whether the caller asks from whom.
    pub name: bool,
}

impl Request {
    /// Whether this flag is set.
    pub fn has(&self, flag: i32) -> bool {
        self.flags & flag != 0
    }
}

/// What was received besides the bytes.
#[derive(Default)]
pub struct Incoming {
    /// What the call returns: bytes given, or the message's true length with `MSG_TRUNC`.
    pub length: usize,
    /// From whom.
    pub from: Option<SocketAddress>,
    /// `msg_flags`.
    pub flags: i32,
    /// Credentials, where the receiver asked for them (`SO_PASSCRED`).
    pub identity: Option<Identity>,
    /// Descriptors.
    pub rights: Vec<Arc<OpenFile>>,
    /// Other records; they come first.
    pub control: Vec<Record>,
    /// It ends at a border of a stream: what follows belongs to another read.
    pub border: bool,
}

/// What a family does. An operation that would block gives `EAGAIN`.
#[allow(unused_variables)]
pub trait Protocol: Any + Send + Sync {
    /// bind(2). `mode`: the permissions that a socket file made for it gets, but for the umask.
    fn bind(&self, caller: &Caller, address: &Passed, mode: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// listen(2).
    fn listen(&self, caller: &Caller, backlog: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// connect(2). `EAGAIN`: wait for [`Ready::OUT`] and call again; `EINPROGRESS` and `EALREADY` are what a caller that does
    /// not wait gets to see, and mean the same.
    fn connect(&self, caller: &Caller, address: &Passed) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// accept(2): a connected socket, and whom it is connected with.
    fn accept(&self, caller: &Caller) -> Result<(Arc<Socket>, SocketAddress)> {
        Err(Errno::EOPNOTSUPP)
    }

    /// getsockname(2).
    fn name(&self) -> Result<SocketAddress>;

    /// getpeername(2).
    fn peer(&self) -> Result<SocketAddress> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Sends a message, or as much of a stream's bytes as there is room for; takes exactly what it counts from `from`.
    fn send(&self, caller: &Caller, message: &Outgoing, from: &mut dyn Source) -> Result<usize>;

    /// Receives.
    fn receive(&self, request: Request, into: &mut dyn Sink) -> Result<Incoming>;

    /// shutdown(2); `how` is 0, 1 or 2.
    fn shutdown(&self, how: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// getsockopt(2); `room` is what the caller takes.
    fn option(&self, caller: &Caller, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }

    /// setsockopt(2).
    fn set_option(&self, caller: &Caller, level: i32, name: i32, value: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// ioctl(2).
    fn ioctl(&self, call: &Call, command: u32, argument: u64) -> Result<i64> {
        Err(Errno::ENOTTY)
    }

    /// What is ready.
    fn poll(&self) -> Ready;

    /// Who to wait for.
    fn wait_queue(&self) -> &WaitQueue;

    /// The number in `socket:[N]`.
    fn number(&self) -> u64;

    /// A descriptor of it was closed; there may be others.
    fn descriptor_closed(&self) {}

    /// The last descriptor is gone.
    fn close(&self);

    /// The concrete type.
    fn as_any(&self) -> &dyn Any;
}

/// The next number of a socket that the host does not know. The host's own begin lower.
pub fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x4000_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// How long calls wait (`SO_RCVTIMEO`, `SO_SNDTIMEO`); `None` for ever.
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs)]
pub struct Patience {
    pub receive: Option<Duration>,
    pub send: Option<Duration>,
}

/// What fchown(2) and fchmod(2) change.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// A socket.
pub struct Socket {
    /// `AF_*`.
    pub domain: i32,
    /// `SOCK_*`.
    pub kind: i32,
    /// `IPPROTO_*`.
    pub protocol_number: i32,
    /// What it does.
    pub protocol: Box<dyn Protocol>,
    /// Time-outs.
    pub patience: Mutex<Patience>,
    /// `SO_RCVLOWAT`: so many bytes of a stream a call waits for.
    pub low_water: AtomicI32,
    created: Timestamp,
    owner: Mutex<Owner>,
    /// Who made it: the sender that plain write(2) shows.
    maker: Caller,
}

impl Socket {
    /// A socket of `maker`.
    pub fn new(domain: i32, kind: i32, protocol_number: i32, protocol: Box<dyn Protocol>, maker: &Caller) -> Arc<Socket> {
        let owner = Owner { uid: maker.credentials.fsuid, gid: maker.credentials.fsgid, mode: 0o777 };
        Arc::new(Socket {
            domain,
            kind,
            protocol_number,
            protocol,
            patience: Mutex::default(),
            low_water: AtomicI32::new(1),
            created: Timestamp::now(),
            owner: Mutex::new(owner),
            maker: Caller { place: None, ..maker.clone() },
        })
    }

    /// The socket behind an open file. `ENOTSOCK`.
    pub fn of(file: &OpenFile) -> Result<&Socket> {
        file.file.as_any().downcast_ref::<Socket>().ok_or(Errno::ENOTSOCK)
    }

    /// The permissions of the socket itself, which a file that it is bound to begins with.
    pub fn mode(&self) -> u32 {
        self.owner.lock().mode
    }

    /// An open file description of it, for reading and writing.
    pub fn open(self: Arc<Self>, nonblocking: bool, opener: Arc<Credentials>) -> Arc<OpenFile> {
        let flags = libc::O_RDWR | if nonblocking { libc::O_NONBLOCK } else { 0 };
        OpenFile::new(self, None, flags, opener)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.protocol.close();
    }
}

impl File for Socket {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, _: Position) -> Result<usize> {
        if into.remaining() == 0 {
            return Ok(0);
        }
        let received = self.protocol.receive(Request::default(), into)?;
        Ok(received.length)
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, _: Position) -> Result<usize> {
        self.protocol.send(&self.maker, &Outgoing::default(), from)
    }

    fn poll(&self) -> Ready {
        self.protocol.poll()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(self.protocol.wait_queue())
    }

    fn ioctl(&self, _: &OpenFile, call: &Call, command: u32, argument: u64) -> Result<i64> {
        self.protocol.ioctl(call, command, argument)
    }

    fn attributes(&self) -> Result<Attributes> {
        let Owner { uid, gid, mode } = *self.owner.lock();
        Ok(Attributes {
            device: DEVICE,
            inode: self.protocol.number(),
            mode: libc::S_IFSOCK | mode,
            links: 1,
            uid,
            gid,
            rdev: 0,
            size: 0,
            block_size: 4096,
            blocks: 0,
            accessed: self.created,
            modified: self.created,
            changed: self.created,
            born: None,
        })
    }

    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        let mut owner = self.owner.lock();
        let chown = change.uid.is_some_and(|uid| uid != owner.uid) || change.gid.is_some_and(|gid| gid != owner.gid);
        if chown && !who.capable(Capability::Chown) {
            return Err(Errno::EPERM);
        }
        if change.mode.is_some() && who.fsuid != owner.uid && !who.capable(Capability::Fowner) {
            return Err(Errno::EPERM);
        }
        *owner = Owner {
            uid: change.uid.unwrap_or(owner.uid),
            gid: change.gid.unwrap_or(owner.gid),
            mode: change.mode.map_or(owner.mode, |mode| mode & 0o7777),
        };
        Ok(())
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        Ok(FileSystemStatistics { kind: MAGIC, block_size: 4096, name_length: 255, ..FileSystemStatistics::default() })
    }

    fn description(&self) -> String {
        format!("socket:[{}]", self.protocol.number())
    }

    fn flush(&self) -> Result<()> {
        self.protocol.descriptor_closed();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
