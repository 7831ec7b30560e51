//! Sending and receiving on sockets: sendto, recvfrom, sendmsg, recvmsg, sendmmsg, recvmmsg.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::socket::{Wait, address, attempt, write_address};
use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Capability;
use crate::kernel::fork;
use crate::kernel::timer::{Deadline, Moment};
use crate::kernel::wait::Ready;
use crate::net::address::{LONGEST, SocketAddress};
use crate::net::control::{self, Encoder, MOST_DESCRIPTORS, Record};
use crate::net::socket::{Caller, Identity, Incoming, Outgoing, Request, Socket};
use crate::platform::memory::{Address, MAX_SEGMENTS, MAX_TRANSFER, Segments};
use crate::vfs::descriptor;
use crate::vfs::file::{OpenFile, Sink, Source};

use Argument::{Descriptor, Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_sendto, "sendto", sendto, &[Descriptor, Pointer, Number, Hex, Pointer, Number]),
    Entry::new(libc::SYS_recvfrom, "recvfrom", recvfrom, &[Descriptor, Pointer, Number, Hex, Pointer, Pointer]),
    Entry::new(libc::SYS_sendmsg, "sendmsg", sendmsg, &[Descriptor, Pointer, Hex]),
    Entry::new(libc::SYS_recvmsg, "recvmsg", recvmsg, &[Descriptor, Pointer, Hex]),
    Entry::new(libc::SYS_sendmmsg, "sendmmsg", sendmmsg, &[Descriptor, Pointer, Number, Hex]),
    Entry::new(libc::SYS_recvmmsg, "recvmmsg", recvmmsg, &[Descriptor, Pointer, Number, Hex, Pointer]),
];

/// `sizeof(struct mmsghdr)`: a `struct msghdr` and a length, padded.
const MANY_STRIDE: u64 = 64;
/// Where its length stands.
const MANY_LENGTH: u64 = 56;
/// Offsets in `struct msghdr` (recvmsg(2)): what is written back.
const NAME_LENGTH: u64 = 8;
const CONTROL_LENGTH: u64 = 40;
const FLAGS: u64 = 48;

/// A `struct msghdr`, copied once.
struct Header {
    at: Address,
    name: Address,
    name_length: i32,
    segments: Segments,
    control: Address,
    control_length: usize,
}

impl Header {
    fn read(call: &Call, at: Address) -> Result<Header> {
        let memory = call.memory();
        let [name, name_length, vector, count, control, control_length, _flags]: [u64; 7] = memory.read_value(at)?;
        let name_length = name_length as i32;
        if name_length < 0 {
            return Err(Errno::EINVAL);
        }
        if count > MAX_SEGMENTS as u64 {
            return Err(Errno::EMSGSIZE);
        }
        Ok(Header {
            at,
            name: Address(name),
            // Longer ones are cut, as Linux cuts them here.
            name_length: name_length.min(LONGEST as i32),
            segments: memory.read_segments(Address(vector), count)?,
            control: Address(control),
            control_length: usize::try_from(control_length).unwrap_or(usize::MAX),
        })
    }
}

fn sendto(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    Socket::of(&file)?;
    // Cut first: import_ubuf() in lib/iov_iter.c.
    let segments = call.memory().segment(call.address(1), call.raw(2).min(MAX_TRANSFER as u64))?;
    let to = match call.address(4).optional() {
        Some(at) => Some(address(call, at, call.int(5))?),
        None => None,
    };
    send(call, &file, Outgoing { flags: call.int(3), to, ..Outgoing::default() }, segments)
}

fn sendmsg(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    send_header(call, &file, call.address(1), call.int(2))
}

fn send_header(call: &Call, file: &Arc<OpenFile>, at: Address, flags: i32) -> Result<Outcome> {
    Socket::of(file)?;
    let header = Header::read(call, at)?;
    let to = match header.name.optional() {
        Some(at) if header.name_length > 0 => Some(address(call, at, header.name_length)?),
        _ => None,
    };
    let mut message = Outgoing { flags, to, ..Outgoing::default() };
    if header.control_length > 0 {
        if header.control_length > control::LONGEST {
            return Err(Errno::ENOBUFS);
        }
        let mut bytes = vec![0; header.control_length];
        call.memory().read(header.control, &mut bytes)?;
        for record in control::decode(&bytes)? {
            add_control(call, Socket::of(file)?, &mut message, record)?;
        }
    }
    send(call, file, message, header.segments)
}

/// What a record of control data means (`__scm_send()` in Linux's net/core/scm.c).
fn add_control(call: &Call, socket: &Socket, message: &mut Outgoing, record: Record) -> Result<()> {
    if socket.domain != libc::AF_UNIX {
        if record.level != libc::SOL_SOCKET || !matches!(record.kind, libc::SCM_RIGHTS | libc::SCM_CREDENTIALS) {
            message.control.push(record);
        }
        return Ok(());
    }
    match (record.level, record.kind) {
        (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
            let numbers = record.integers();
            if numbers.len() + message.rights.len() > MOST_DESCRIPTORS {
                return Err(Errno::EINVAL);
            }
            let table = call.descriptors();
            for number in numbers {
                message.rights.push(table.get(descriptor::Descriptor::from_register(number as u64)?)?);
            }
        }
        (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => message.identity = Some(claimed(call, &record)?),
        (libc::SOL_SOCKET, _) => return Err(Errno::EINVAL),
        _ => {}
    }
    Ok(())
}

/// Who a sender says it is (scm_check_creds() in Linux's net/core/scm.c). `EPERM` unless it is, or may say so (unix(7), `SCM_CREDENTIALS`).
fn claimed(call: &Call, record: &Record) -> Result<Identity> {
    let (&[pid, uid, gid], 12) = (record.integers().as_slice(), record.data.len()) else { return Err(Errno::EINVAL) };
    let (uid, gid) = (uid as u32, gid as u32);
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::EINVAL);
    }
    let own = call.credentials();
    let caller = Caller::of(call);
    let true_pid = pid == call.process.inner || own.capable(Capability::SysAdmin);
    let true_uid = [own.uid, own.euid, own.suid].contains(&uid) || own.capable(Capability::Setuid);
    let true_gid = [own.gid, own.egid, own.sgid].contains(&gid) || own.capable(Capability::Setgid);
    if !(true_pid && true_uid && true_gid) {
        return Err(Errno::EPERM);
    }
    if pid != call.process.inner && fork::find(&call.process.container, pid).is_none() {
        return Err(Errno::ESRCH);
    }
    Ok(caller.sender().claiming(pid, uid, gid))
}

fn send(call: &Call, file: &Arc<OpenFile>, mut message: Outgoing, mut segments: Segments) -> Result<Outcome> {
    let socket = Socket::of(file)?;
    let stream = socket.kind == libc::SOCK_STREAM;
    let nonblocking = file.nonblocking() || message.flags & libc::MSG_DONTWAIT != 0;
    let wait = Wait { interest: Ready::WRITABLE, patience: socket.patience.lock().send, timed_out: Errno::EAGAIN };
    if socket.domain == libc::AF_UNIX {
        // A name of no length is none.
        message.to = message.to.filter(|to| !to.bytes().is_empty());
    }
    let named = socket.domain == libc::AF_UNIX && message.to.is_some();
    let caller = if named { Caller::with_place(call) } else { Caller::of(call) };
    let call = call.clone();
    let mut done = 0;
    attempt(file, nonblocking, wait, move |socket, ended| {
        let error = loop {
            if let Some(error) = ended {
                break error;
            }
            match socket.protocol.send(&caller, &message, &mut segments) {
                Ok(sent) => {
                    done += sent;
                    message.rights.clear();
                    if !stream || sent == 0 || Source::remaining(&segments) == 0 {
                        return Ok(Outcome::from(done));
                    }
                }
                Err(Errno::EAGAIN) if !nonblocking => {
                    message.waited = true;
                    return Err(Errno::EAGAIN);
                }
                // TCP Fast Open: this send has begun a connection. Who waits, waits for it, and sends what did not go along.
                Err(Errno::EINPROGRESS | Errno::EALREADY) if !nonblocking => {
                    message.flags &= !libc::MSG_FASTOPEN;
                    message.to = None;
                    return Err(Errno::EAGAIN);
                }
                Err(error) => break error,
            }
        };
        if done > 0 {
            return Ok(Outcome::from(done));
        }
        if error == Errno::EPIPE && stream && message.flags & libc::MSG_NOSIGNAL == 0 {
            let _ = crate::kernel::signal::send_to_thread(call.process.pid, call.thread.tid, libc::SIGPIPE);
        }
        Err(error)
    })
}

/// write(2) and writev(2) on a socket.
pub fn write(call: &Call, file: &Arc<OpenFile>, segments: Segments) -> Result<Outcome> {
    send(call, file, Outgoing::default(), segments)
}

/// read(2) and readv(2) on a socket. Nothing is nothing, whatever waits (sock_read_iter() in Linux's net/socket.c).
pub fn read(call: &Call, file: &Arc<OpenFile>, segments: Segments) -> Result<Outcome> {
    if Sink::remaining(&segments) == 0 { Ok(Outcome::Value(0)) } else { receive(call, file, 0, segments, Answer::Name(None)) }
}

/// Where a receiving call wants its answers.
enum Answer {
    /// recvfrom(2): the sender's address, where one is wanted.
    Name(Option<(Address, Address)>),
    /// recvmsg(2).
    Header { at: Address, name: Option<Address>, control: Option<Address>, control_room: usize },
}

fn recvfrom(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    // Cut first: import_ubuf() in lib/iov_iter.c.
    let segments = call.memory().segment(call.address(1), call.raw(2).min(MAX_TRANSFER as u64))?;
    let name = call.address(4).optional().map(|at| (at, call.address(5)));
    receive(call, &file, call.int(3), segments, Answer::Name(name))
}

fn recvmsg(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    receive_header(call, &file, call.address(1), call.int(2))
}

fn receive_header(call: &Call, file: &Arc<OpenFile>, at: Address, flags: i32) -> Result<Outcome> {
    Socket::of(file)?;
    let header = Header::read(call, at)?;
    let answer = Answer::Header {
        at: header.at,
        name: header.name.optional(),
        control: header.control.optional(),
        control_room: if header.control.is_null() { 0 } else { header.control_length },
    };
    receive(call, file, flags, header.segments, answer)
}

fn receive(call: &Call, file: &Arc<OpenFile>, flags: i32, mut segments: Segments, answer: Answer) -> Result<Outcome> {
    let socket = Socket::of(file)?;
    let stream = socket.kind == libc::SOCK_STREAM;
    // Errors that came back are asked for, never waited for; other families have none, and do not look at the flag.
    let inet = matches!(socket.domain, libc::AF_INET | libc::AF_INET6);
    let nonblocking = file.nonblocking() || flags & libc::MSG_DONTWAIT != 0 || inet && flags & libc::MSG_ERRQUEUE != 0;
    let wait = Wait { interest: Ready::READABLE | Ready::RDHUP, patience: socket.patience.lock().receive, timed_out: Errno::EAGAIN };
    let control = match &answer {
        Answer::Header { control_room, .. } => *control_room,
        Answer::Name(_) => 0,
    };
    // How many bytes end the waiting: one, or what SO_RCVLOWAT or MSG_WAITALL ask for.
    let size = Sink::remaining(&segments);
    let target = match stream && flags & (libc::MSG_PEEK | libc::MSG_OOB) == 0 {
        true if flags & libc::MSG_WAITALL != 0 => size,
        true => size.min(usize::try_from(socket.low_water.load(Ordering::Relaxed)).unwrap_or(1)),
        false => 0,
    };
    let passed = flags & !(libc::MSG_WAITALL | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC);
    let request =
        Request { flags: passed | if nonblocking { libc::MSG_DONTWAIT } else { 0 }, control, name: !matches!(answer, Answer::Name(None)) };
    let call = call.clone();
    let mut so_far: Option<Incoming> = None;
    attempt(file, nonblocking, wait, move |socket, ended| {
        loop {
            let received = match ended {
                Some(error) => Err(error),
                None => socket.protocol.receive(request, &mut segments),
            };
            match received {
                Ok(next) => {
                    let progress = next.length > 0 && !next.border;
                    let incoming = match so_far.take() {
                        None => next,
                        Some(before) => Incoming { length: before.length + next.length, rights: next.rights, ..before },
                    };
                    if !progress || incoming.length >= target || Sink::remaining(&segments) == 0 {
                        return answer.give(&call, flags, incoming);
                    }
                    so_far = Some(incoming);
                }
                Err(Errno::EAGAIN) if !nonblocking && ended.is_none() => return Err(Errno::EAGAIN),
                Err(error) => {
                    return match so_far.take() {
                        Some(incoming) => answer.give(&call, flags, incoming),
                        None => Err(error),
                    };
                }
            }
        }
    })
}

impl Answer {
    /// Writes back all but the bytes.
    fn give(&self, call: &Call, flags: i32, incoming: Incoming) -> Result<Outcome> {
        let name = incoming.from.as_ref().map(SocketAddress::encode).unwrap_or_default();
        let length = incoming.length;
        match *self {
            Answer::Name(None) => {}
            Answer::Name(Some((at, length_at))) => write_address(call, &name, at, length_at)?,
            Answer::Header { at, name: name_at, control, control_room } => {
                if let Some(name_at) = name_at {
                    write_address(call, &name, name_at, at.offset(NAME_LENGTH)?)?;
                }
                let mut shown = incoming.flags | flags & libc::MSG_CMSG_CLOEXEC;
                let written = give_control(call, flags, control, control_room, incoming, &mut shown)?;
                call.memory().write_value(at.offset(CONTROL_LENGTH)?, &(written as u64))?;
                call.memory().write_value(at.offset(FLAGS)?, &shown)?;
            }
        }
        Ok(Outcome::from(length))
    }
}

/// Fills the control buffer: what is the family's own first, then credentials, then descriptors.
fn give_control(call: &Call, flags: i32, at: Option<Address>, room: usize, incoming: Incoming, shown: &mut i32) -> Result<usize> {
    let mut encoder = Encoder::new(room.min(control::LONGEST));
    for record in &incoming.control {
        encoder.add(record);
    }
    if let Some(identity) = &incoming.identity {
        encoder.add(&Record::new(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, identity.encode(&Caller::of(call))));
    }
    if !incoming.rights.is_empty() {
        let fit = (encoder.data_room() / 4).min(incoming.rights.len());
        let close_on_exec = flags & libc::MSG_CMSG_CLOEXEC != 0;
        let numbers: Vec<u8> = incoming.rights[..fit]
            .iter()
            .map_while(|file| call.install(file.clone(), close_on_exec).ok())
            .flat_map(|number| number.0.to_ne_bytes())
            .collect();
        encoder.truncated |= numbers.len() / 4 < incoming.rights.len();
        if !numbers.is_empty() {
            encoder.add(&Record::new(libc::SOL_SOCKET, libc::SCM_RIGHTS, numbers));
        }
    }
    if encoder.truncated {
        *shown |= libc::MSG_CTRUNC;
    }
    let bytes = encoder.finish();
    if let Some(at) = at {
        call.memory().write(at, &bytes)?;
    }
    Ok(bytes.len())
}

/// The most messages in one call (`UIO_MAXIOV`).
fn many(call: &Call) -> u64 {
    u64::from(call.uint(2)).min(MAX_SEGMENTS as u64)
}

/// One message of several: waits where it has to.
async fn conclude(outcome: Result<Outcome>) -> Result<i64> {
    let outcome = match outcome? {
        Outcome::Park(future) => future.await?,
        outcome => outcome,
    };
    match outcome {
        Outcome::Value(value) => Ok(value),
        _ => Err(Errno::EIO),
    }
}

/// After `done` messages an error is only told when there are none.
fn count(done: u64, error: Errno) -> Result<Outcome> {
    if done > 0 { Ok(Outcome::Value(done as i64)) } else { Err(error) }
}

fn sendmmsg(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    Socket::of(&file)?;
    let call = call.clone();
    Ok(Outcome::Park(Box::pin(async move {
        for index in 0..many(&call) {
            let at = call.address(1).offset(index * MANY_STRIDE)?;
            let sent = match conclude(send_header(&call, &file, at, call.int(3))).await {
                Ok(sent) => call.memory().write_value(at.offset(MANY_LENGTH)?, &(sent as u32)),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                return count(index, error);
            }
        }
        Ok(Outcome::Value(many(&call) as i64))
    })))
}

fn recvmmsg(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    Socket::of(&file)?;
    let deadline = match call.address(4).optional() {
        None => Deadline::Never,
        Some(at) => {
            let [seconds, nanoseconds]: [i64; 2] = call.memory().read_value(at)?;
            if seconds < 0 || !(0..1_000_000_000).contains(&nanoseconds) {
                return Err(Errno::EINVAL);
            }
            Deadline::within(Duration::new(seconds as u64, nanoseconds as u32))
        }
    };
    let call = call.clone();
    Ok(Outcome::Park(Box::pin(async move {
        let mut flags = call.int(3);
        let mut done = 0;
        while done < many(&call) {
            let at = call.address(1).offset(done * MANY_STRIDE)?;
            let received = match conclude(receive_header(&call, &file, at, flags & !libc::MSG_WAITFORONE)).await {
                Ok(length) => call.memory().write_value(at.offset(MANY_LENGTH)?, &(length as u32)),
                Err(error) => Err(error),
            };
            if let Err(error) = received {
                return count(done, error);
            }
            done += 1;
            if flags & libc::MSG_WAITFORONE != 0 {
                flags |= libc::MSG_DONTWAIT;
            }
            // As in Linux, the time is looked at after each message only (recvmmsg(2), "BUGS").
            if deadline.has_passed() {
                break;
            }
        }
        if let (Deadline::At(end), Some(at)) = (deadline, call.address(4).optional()) {
            let left = end.0.saturating_sub(Moment::now().0);
            call.memory().write_value(at, &[(left / 1_000_000_000) as i64, (left % 1_000_000_000) as i64])?;
        }
        Ok(Outcome::Value(done as i64))
    })))
}
