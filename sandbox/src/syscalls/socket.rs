//! Making, naming and connecting sockets: socket, socketpair, bind, listen, accept, connect, getsockname, getpeername, shutdown.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::park::Flag;
use crate::kernel::timer::Deadline;
use crate::kernel::wait::Ready;
use crate::net::address::{LONGEST, Passed};
use crate::net::socket::{Caller, Socket};
use crate::net::{self};
use crate::platform::memory::Address;
use crate::vfs::file::OpenFile;

use Argument::{Descriptor, Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_socket, "socket", socket, &[Number, Hex, Number]),
    Entry::new(libc::SYS_socketpair, "socketpair", socketpair, &[Number, Hex, Number, Pointer]),
    Entry::new(libc::SYS_bind, "bind", bind, &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_listen, "listen", listen, &[Descriptor, Number]),
    Entry::new(libc::SYS_accept, "accept", |call| accept(call, 0), &[Descriptor, Pointer, Pointer]),
    Entry::new(libc::SYS_accept4, "accept4", |call| accept(call, call.int(3)), &[Descriptor, Pointer, Pointer, Hex]),
    Entry::new(libc::SYS_connect, "connect", connect, &[Descriptor, Pointer, Number]),
    Entry::new(libc::SYS_getsockname, "getsockname", getsockname, &[Descriptor, Pointer, Pointer]),
    Entry::new(libc::SYS_getpeername, "getpeername", getpeername, &[Descriptor, Pointer, Pointer]),
    Entry::new(libc::SYS_shutdown, "shutdown", shutdown, &[Descriptor, Number]),
];

/// `SOCK_TYPE_MASK` of Linux's include/linux/net.h.
const TYPE: i32 = 0xf;

/// Splits a type argument: the type, non-blocking, close-on-exec.
fn kind(argument: i32) -> Result<(i32, bool, bool)> {
    if argument & !(TYPE | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((argument & TYPE, argument & libc::SOCK_NONBLOCK != 0, argument & libc::SOCK_CLOEXEC != 0))
}

fn socket(call: &Call) -> Result<Outcome> {
    let (kind, nonblocking, close_on_exec) = kind(call.int(1))?;
    let caller = Caller::of(call);
    let socket = net::socket(call.int(0), kind, call.int(2), &caller)?;
    let number = call.install(socket.open(nonblocking, caller.credentials), close_on_exec)?;
    Ok(Outcome::Value(i64::from(number.0)))
}

fn socketpair(call: &Call) -> Result<Outcome> {
    let (kind, nonblocking, close_on_exec) = kind(call.int(1))?;
    let caller = Caller::of(call);
    let (first, second) = net::pair(call.int(0), kind, call.int(2), &caller)?;
    let first = call.install(first.open(nonblocking, caller.credentials.clone()), close_on_exec)?;
    let second = call.install(second.open(nonblocking, caller.credentials), close_on_exec);
    let written = second.and_then(|second| {
        let written = call.memory().write_value(call.address(3), &[first.0, second.0]);
        written.inspect_err(|_| drop(call.descriptors().remove(second)))
    });
    if let Err(error) = written {
        drop(call.descriptors().remove(first));
        return Err(error);
    }
    Ok(Outcome::Value(0))
}

/// An address argument with its length (move_addr_to_kernel() in Linux's net/socket.c).
pub fn address(call: &Call, at: Address, length: i32) -> Result<Passed> {
    let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
    if length > LONGEST {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; LONGEST];
    call.memory().read(at, &mut bytes[..length])?;
    Passed::new(&bytes[..length])
}

/// Writes an address back: cut at the length that the caller gave, which becomes the true one.
pub fn write_address(call: &Call, address: &[u8], at: Address, length_at: Address) -> Result<()> {
    let memory = call.memory();
    let room: i32 = memory.read_value(length_at)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    memory.write(at, &address[..address.len().min(room)])?;
    memory.write_value(length_at, &(address.len() as i32))
}

fn bind(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    let socket = Socket::of(&file)?;
    let address = address(call, call.address(1), call.int(2))?;
    socket.protocol.bind(&Caller::with_place(call), &address, socket.mode())?;
    Ok(Outcome::Value(0))
}

fn listen(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    Socket::of(&file)?.protocol.listen(&Caller::of(call), call.int(1))?;
    Ok(Outcome::Value(0))
}

/// How a call waits on a socket.
#[derive(Clone, Copy)]
pub struct Wait {
    /// For what.
    pub interest: Ready,
    /// How long at most; `None` for ever.
    pub patience: Option<Duration>,
    /// What it gives when that is over.
    pub timed_out: Errno,
}

/// Makes `attempt`, and, where it gives `EAGAIN` and the caller is willing to wait, goes on attempting. When the waiting ends
/// otherwise, by time or by a signal, `attempt` is called a last time with that error, and says what became of the call.
///
/// A signal interrupts the waiting with `ERESTARTSYS`; with a time-out it is `EINTR`, since a restart would wait anew
/// (signal(7), "Interruption of system calls": sockets with time-outs are never restarted).
pub fn attempt(
    file: &Arc<OpenFile>,
    nonblocking: bool,
    wait: Wait,
    mut attempt: impl FnMut(&Socket, Option<Errno>) -> Result<Outcome> + Send + 'static,
) -> Result<Outcome> {
    let first = attempt(Socket::of(file)?, None);
    if nonblocking || !matches!(first, Err(Errno::EAGAIN)) {
        return first;
    }
    let file = file.clone();
    Ok(Outcome::Park(Box::pin(async move {
        let socket = Socket::of(&file)?;
        let deadline = wait.patience.map_or(Deadline::Never, Deadline::within);
        let flag = Flag::new();
        let _observation = socket.protocol.wait_queue().observe(wait.interest, flag.clone());
        let _timer = deadline.arm(flag.clone());
        loop {
            flag.lower();
            match attempt(socket, None) {
                Err(Errno::EAGAIN) => {}
                outcome => return outcome,
            }
            if deadline.has_passed() {
                return attempt(socket, Some(wait.timed_out));
            }
            if let Err(error) = raised(&flag, wait.patience.is_some()).await {
                return attempt(socket, Some(error));
            }
        }
    })))
}

fn raised(flag: &Arc<Flag>, timed: bool) -> impl Future<Output = Result<()>> + Send + use<> {
    let raised = flag.raised();
    async move { raised.await.map_err(|error| if timed && error == Errno::ERESTARTSYS { Errno::EINTR } else { error }) }
}

fn accept(call: &Call, flags: i32) -> Result<Outcome> {
    let file = call.file(0)?;
    if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let patience = Socket::of(&file)?.patience.lock().receive;
    let wait = Wait { interest: Ready::READABLE, patience, timed_out: Errno::EAGAIN };
    let caller = Caller::of(call);
    let call = call.clone();
    let nonblocking = file.nonblocking();
    attempt(&file, nonblocking, wait, move |listener, ended| {
        ended.map_or(Ok(()), Err)?;
        // A connection for which there is no descriptor stays where it is.
        call.descriptors().has_room(call.process.limits.read().descriptors())?;
        let (accepted, peer) = listener.protocol.accept(&caller)?;
        if listener.domain != libc::AF_UNIX {
            *accepted.patience.lock() = *listener.patience.lock();
            accepted.low_water.store(listener.low_water.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        if let Some(at) = call.address(1).optional() {
            write_address(&call, &peer.encode(), at, call.address(2))?;
        }
        let open = accepted.open(flags & libc::SOCK_NONBLOCK != 0, caller.credentials.clone());
        let number = call.install(open, flags & libc::SOCK_CLOEXEC != 0)?;
        Ok(Outcome::Value(i64::from(number.0)))
    })
}

fn connect(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    let socket = Socket::of(&file)?;
    let address = address(call, call.address(1), call.int(2))?;
    let patience = socket.patience.lock().send;
    let wait = Wait { interest: Ready::WRITABLE, patience, timed_out: Errno::EAGAIN };
    let caller = Caller::with_place(call);
    let nonblocking = file.nonblocking();
    // What the waiting is for: the connection that this call began, or one that was under way already. When the time is over, it still is.
    let mut waits_for = None;
    attempt(&file, nonblocking, wait, move |socket, ended| {
        if let Some(error) = ended {
            return Err(if error == Errno::EAGAIN { waits_for.unwrap_or(error) } else { error });
        }
        match socket.protocol.connect(&caller, &address) {
            Err(error @ (Errno::EINPROGRESS | Errno::EALREADY)) if !nonblocking => {
                waits_for.get_or_insert(error);
                Err(Errno::EAGAIN)
            }
            result => result.map(Outcome::from),
        }
    })
}

fn getsockname(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    let name = Socket::of(&file)?.protocol.name()?;
    write_address(call, &name.encode(), call.address(1), call.address(2))?;
    Ok(Outcome::Value(0))
}

fn getpeername(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    let peer = Socket::of(&file)?.protocol.peer()?;
    write_address(call, &peer.encode(), call.address(1), call.address(2))?;
    Ok(Outcome::Value(0))
}

fn shutdown(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    let how = call.int(1);
    let socket = Socket::of(&file)?;
    if !(libc::SHUT_RD..=libc::SHUT_RDWR).contains(&how) {
        return Err(Errno::EINVAL);
    }
    socket.protocol.shutdown(how)?;
    Ok(Outcome::Value(0))
}
