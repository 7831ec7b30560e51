//! Descriptors: close(2), dup(2), fcntl(2), ioctl(2), pipe(2), flock(2), close_range(2).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::OnceLock;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::fs::pipe::{self, PipeEnd};
use crate::kernel::credentials::Capability;
use crate::kernel::fork;
use crate::net::socket::Socket;
use crate::platform::dispatch::dispatcher;
use crate::platform::memory::Address;
use crate::vfs::descriptor::{Descriptor as Number_, Taken};
use crate::vfs::file::{OpenFile, SignalOwner};
use crate::vfs::locks;

use Argument::{Descriptor, Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_close, "close", close, &[Descriptor]),
    Entry::new(libc::SYS_close_range, "close_range", close_range, &[Number, Number, Hex]),
    Entry::new(libc::SYS_dup, "dup", dup, &[Descriptor]),
    Entry::new(libc::SYS_dup2, "dup2", dup2, &[Descriptor, Descriptor]),
    Entry::new(libc::SYS_dup3, "dup3", dup3, &[Descriptor, Descriptor, Hex]),
    Entry::new(libc::SYS_fcntl, "fcntl", fcntl, &[Descriptor, Number, Hex]),
    Entry::new(libc::SYS_ioctl, "ioctl", ioctl, &[Descriptor, Hex, Hex]),
    Entry::new(libc::SYS_pipe, "pipe", |call| make_pipe(call, 0), &[Pointer]),
    Entry::new(libc::SYS_pipe2, "pipe2", |call| make_pipe(call, call.int(1)), &[Pointer, Hex]),
    Entry::new(libc::SYS_flock, "flock", flock, &[Descriptor, Hex]),
];

fn close(call: &Call) -> Result<Outcome> {
    let taken = call.descriptors().remove(call.descriptor(0)?)?;
    closed(call, taken)?;
    Ok(().into())
}

/// What a close releases beside the descriptor: the process's record locks on that file, and what was donated at its number. Gives what the object
/// has to say about it.
fn closed(call: &Call, taken: Taken) -> Result<()> {
    locks::release_closed(&taken.file, locks::Owner::of_table(&call.descriptors()));
    if taken.donated {
        take_back(call, taken.number);
    }
    taken.file.file.flush()
}

/// Lets go of a file that is open natively at a number: nothing takes its place. The workload itself does not close it, because another of its
/// threads may have something new donated there by then.
fn take_back(call: &Call, number: Number_) {
    if let Ok(nothing) = nothing() {
        let _ = dispatcher().listener().donate(call.id, nothing.as_fd(), number.0, true);
    }
}

/// An empty file that is open for writing only: a thread whose mmap comes upon it is refused (`EACCES`), and maps nothing.
fn nothing() -> Result<&'static OwnedFd> {
    static FILE: OnceLock<OwnedFd> = OnceLock::new();
    if FILE.get().is_none() {
        crate::fs::host::identity::assume_kernel();
        let file = nix::sys::memfd::memfd_create(c"nothing", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC;
        let _ = FILE.set(nix::fcntl::open(path.as_str(), flags, nix::sys::stat::Mode::empty())?);
    }
    FILE.get().ok_or(Errno::ENOMEM)
}

fn close_range(call: &Call) -> Result<Outcome> {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    let (first, last, flags) = (call.uint(0), call.uint(1), call.uint(2));
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    if flags & UNSHARE != 0 {
        let own = call.thread.descriptors.read().fork();
        let before = std::mem::replace(&mut *call.thread.descriptors.write(), own);
        drop(before);
    }
    let table = call.descriptors();
    if flags & CLOEXEC != 0 {
        for number in table.numbers() {
            if number.0 >= first && number.0 <= last {
                let _ = table.set_close_on_exec(number, true);
            }
        }
    } else {
        for taken in table.remove_range(first, last) {
            let _ = closed(call, taken);
        }
    }
    Ok(().into())
}

fn dup(call: &Call) -> Result<Outcome> {
    let file = call.any_file(0)?;
    Ok(Outcome::Value(i64::from(call.install(file, false)?.0)))
}

fn dup2(call: &Call) -> Result<Outcome> {
    if call.uint(0) == call.uint(1) {
        call.any_file(0)?;
        return Ok(Outcome::Value(i64::from(call.uint(0))));
    }
    duplicate_to(call, false)
}

fn dup3(call: &Call) -> Result<Outcome> {
    let flags = call.int(2);
    if flags & !libc::O_CLOEXEC != 0 || call.uint(0) == call.uint(1) {
        return Err(Errno::EINVAL);
    }
    duplicate_to(call, flags != 0)
}

fn duplicate_to(call: &Call, close_on_exec: bool) -> Result<Outcome> {
    let file = call.any_file(0)?;
    let to = call.descriptor(1)?;
    let limit = call.process.limits.read().descriptors();
    let before = call.descriptors().replace(to, file, close_on_exec, limit)?;
    if let Some(before) = before {
        let _ = closed(call, before);
    }
    Ok(Outcome::Value(i64::from(to.0)))
}

fn fcntl(call: &Call) -> Result<Outcome> {
    const GET_LEASE: i32 = 1025;
    const GET_OWNER_EX: i32 = 16;
    const SET_OWNER_EX: i32 = 15;
    const SET_SIGNAL: i32 = 10;
    const GET_SIGNAL: i32 = 11;
    let file = call.any_file(0)?;
    let number = call.descriptor(0)?;
    let argument = call.raw(2);
    let command = call.int(1);
    let with_path = [libc::F_DUPFD, libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL];
    if file.is_path() && !with_path.contains(&command) {
        return Err(Errno::EBADF);
    }
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let limit = call.process.limits.read().descriptors();
            let lowest = u32::try_from(argument).ok().filter(|lowest| u64::from(*lowest) < limit).ok_or(Errno::EINVAL)?;
            let new = call.descriptors().insert(file, command == libc::F_DUPFD_CLOEXEC, lowest, limit)?;
            Ok(Outcome::Value(i64::from(new.0)))
        }
        libc::F_GETFD => Ok(Outcome::Value(i64::from(call.descriptors().close_on_exec(number)?))),
        libc::F_SETFD => {
            call.descriptors().set_close_on_exec(number, argument & libc::FD_CLOEXEC as u64 != 0)?;
            Ok(().into())
        }
        libc::F_GETFL => Ok(Outcome::Value(i64::from(file.flags()))),
        libc::F_SETFL => {
            file.set_flags(argument as i32)?;
            Ok(().into())
        }
        libc::F_GETPIPE_SZ => Ok(pipe_of(&file)?.pipe().capacity().into()),
        libc::F_SETPIPE_SZ => {
            let privileged = call.credentials().capable(Capability::SysResource);
            let wanted = usize::try_from(argument as i32).map_err(|_| Errno::EINVAL)?;
            Ok(pipe_of(&file)?.pipe().resize(wanted, privileged)?.into())
        }
        libc::F_GETOWN => {
            let pid = file.owner.lock().pid;
            Ok(Outcome::Value(i64::from(shown(call, pid))))
        }
        libc::F_SETOWN => {
            set_owner(call, &file, argument as i32)?;
            Ok(().into())
        }
        GET_OWNER_EX => {
            let pid = file.owner.lock().pid;
            let (kind, pid) = if pid < 0 { (2, shown(call, -pid)) } else { (1, shown(call, pid)) };
            call.memory().write_value(Address(argument), &[kind, pid])?;
            Ok(().into())
        }
        SET_OWNER_EX => {
            let [kind, pid]: [i32; 2] = call.memory().read_value(Address(argument))?;
            set_owner(call, &file, if kind == 2 { -pid } else { pid })?;
            Ok(().into())
        }
        GET_SIGNAL => Ok(Outcome::Value(i64::from(file.owner.lock().signal))),
        SET_SIGNAL => {
            if argument > 64 {
                return Err(Errno::EINVAL);
            }
            file.owner.lock().signal = argument as i32;
            Ok(().into())
        }
        libc::F_GETLK | libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_GETLK | libc::F_OFD_SETLK | libc::F_OFD_SETLKW => {
            locks::fcntl(call, &file, command, Address(argument))
        }
        // Nobody has one: leases (F_SETLEASE) are not given here.
        GET_LEASE => Ok(Outcome::Value(libc::F_UNLCK as i64)),
        libc::F_ADD_SEALS | libc::F_GET_SEALS => crate::fs::memfd::seals(&file, command, argument as u32).map(Outcome::Value),
        _ => Err(Errno::EINVAL),
    }
}

/// A process, or a group as a negative number, as its container numbers it.
fn shown(call: &Call, pid: i32) -> i32 {
    let inner = |pid| fork::inner_number(&call.process.container, crate::kernel::task::Pid(pid));
    match pid {
        0 => 0,
        1.. => inner(pid),
        _ => -inner(pid.saturating_neg()),
    }
}

fn set_owner(call: &Call, file: &OpenFile, inner: i32) -> Result<()> {
    let pid = match inner {
        0 => 0,
        1.. => fork::find(&call.process.container, inner).ok_or(Errno::ESRCH)?.pid.0,
        i32::MIN => return Err(Errno::EINVAL),
        _ => -fork::find(&call.process.container, -inner).ok_or(Errno::ESRCH)?.pid.0,
    };
    let mut owner = file.owner.lock();
    *owner = SignalOwner { pid, signal: owner.signal };
    Ok(())
}

/// `EBADF` where it is no pipe.
fn pipe_of(file: &OpenFile) -> Result<&PipeEnd> {
    file.file.as_any().downcast_ref::<PipeEnd>().ok_or(Errno::EBADF)
}

fn ioctl(call: &Call) -> Result<Outcome> {
    let file = call.file(0)?;
    let (command, argument) = (call.uint(1), call.raw(2));
    let toggle = |flag: i32| -> Result<Outcome> {
        let on: i32 = call.memory().read_value(Address(argument))?;
        let flags = if on != 0 { file.flags() | flag } else { file.flags() & !flag };
        file.set_flags(flags)?;
        Ok(().into())
    };
    match u64::from(command) {
        libc::FIOCLEX | libc::FIONCLEX => {
            call.descriptors().set_close_on_exec(call.descriptor(0)?, u64::from(command) == libc::FIOCLEX)?;
            Ok(().into())
        }
        // FIOSETOWN and SIOCSPGRP, FIOGETOWN and SIOCGPGRP: fcntl(2)'s owner, of sockets alone.
        0x8901 | 0x8902 if Socket::of(&file).is_ok() => {
            set_owner(call, &file, call.memory().read_value(Address(argument))?)?;
            Ok(().into())
        }
        0x8903 | 0x8904 if Socket::of(&file).is_ok() => {
            let pid = file.owner.lock().pid;
            call.memory().write_value(Address(argument), &shown(call, pid))?;
            Ok(().into())
        }
        libc::FIONBIO => toggle(libc::O_NONBLOCK),
        libc::FIOASYNC => toggle(libc::O_ASYNC),
        _ => match file.file.ioctl(&file, call, command, argument) {
            Err(Errno::ENOTTY) if u64::from(command) == libc::FIONREAD && super::io::is_regular(&file) => {
                // What is left, cut to an int, negative past the end (do_vfs_ioctl() in fs/ioctl.c).
                let left = file.attributes()?.size as i64 - *file.offset.lock() as i64;
                call.memory().write_value(Address(argument), &(left as i32))?;
                Ok(().into())
            }
            result => result.map(Outcome::Value),
        },
    }
}

fn make_pipe(call: &Call, flags: i32) -> Result<Outcome> {
    if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (reader, writer) = pipe::pipe();
    let status = flags & (libc::O_NONBLOCK | libc::O_DIRECT);
    let who = call.credentials();
    let close_on_exec = flags & libc::O_CLOEXEC != 0;
    let first = call.install(OpenFile::new(reader, None, libc::O_RDONLY | status, who.clone()), close_on_exec)?;
    let second = match call.install(OpenFile::new(writer, None, libc::O_WRONLY | status, who), close_on_exec) {
        Ok(second) => second,
        Err(error) => {
            let _ = call.descriptors().remove(first);
            return Err(error);
        }
    };
    give_pair(call, call.address(0), [first, second])?;
    Ok(().into())
}

/// Writes two fresh descriptors to the caller's memory; takes them back where that fails.
pub fn give_pair(call: &Call, to: Address, pair: [Number_; 2]) -> Result<()> {
    let written = call.memory().write_value(to, &[pair[0].0, pair[1].0]);
    if written.is_err() {
        for descriptor in pair {
            let _ = call.descriptors().remove(descriptor);
        }
    }
    written
}

fn flock(call: &Call) -> Result<Outcome> {
    locks::flock(call, call.file(0)?, call.int(1))
}
