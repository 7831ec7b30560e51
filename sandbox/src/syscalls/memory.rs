//! Memory calls that are not direct: mmap(2) of files, memfd_create(2), process_vm_readv(2) between tasks.
//!
//! mmap of a file: this kernel puts its own host descriptor of the file at the very number that the caller passed, in the caller's native table, and
//! lets the host map it. The number, flags and protection are registers; the descriptor is one that this kernel has chosen, so whatever the host maps is what
//! was checked (design, invariant 3).

use std::os::fd::AsFd;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::fork;
use crate::platform::dispatch::dispatcher;
use crate::platform::memory::{MAX_SEGMENTS, Memory, Segments};
use crate::vfs::file::{Mapping, Sink, Source};
use crate::vfs::mount::MountFlags;

use Argument::{Descriptor, Hex, Number, Path, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_mmap, "mmap", mmap, &[Pointer, Number, Hex, Hex, Descriptor, Hex]),
    Entry::new(libc::SYS_memfd_create, "memfd_create", memfd_create, &[Path, Hex]),
    Entry::new(libc::SYS_madvise, "madvise", |_| Err(Errno::EINVAL), &[Pointer, Number, Number]),
    Entry::new(libc::SYS_mincore, "mincore", mincore, &[Pointer, Number, Pointer]),
    Entry::new(libc::SYS_mlockall, "mlockall", native, &[Hex]),
    Entry::new(libc::SYS_munlockall, "munlockall", native, &[]),
    Entry::new(libc::SYS_membarrier, "membarrier", native, &[Number, Hex]),
    Entry::new(
        libc::SYS_process_vm_readv,
        "process_vm_readv",
        |call| transfer(call, false),
        &[Number, Pointer, Number, Pointer, Number, Hex],
    ),
    Entry::new(
        libc::SYS_process_vm_writev,
        "process_vm_writev",
        |call| transfer(call, true),
        &[Number, Pointer, Number, Pointer, Number, Hex],
    ),
];

/// On the caller's own memory or threads, by registers alone.
fn native(_: &Call) -> Result<Outcome> {
    Ok(Outcome::Continue)
}

fn mmap(call: &Call) -> Result<Outcome> {
    let (protection, flags) = (call.int(2), call.int(3));
    if flags & libc::MAP_ANONYMOUS != 0 {
        // Huge pages are not reserved here, and stacks that grow by themselves are the host's to place.
        return Err(if flags & libc::MAP_HUGETLB != 0 { Errno::ENOMEM } else { Errno::EOPNOTSUPP });
    }
    let open = call.file(4)?;
    let shared = matches!(flags & libc::MAP_TYPE, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
    if !shared && flags & libc::MAP_TYPE != libc::MAP_PRIVATE {
        return Err(Errno::EINVAL);
    }
    if !open.reads() || (shared && protection & libc::PROT_WRITE != 0 && !open.writes()) {
        return Err(Errno::EACCES);
    }
    if protection & libc::PROT_EXEC != 0 {
        let forbidden = open.location.as_ref().is_some_and(|location| location.mount.has(MountFlags::NO_EXECUTE));
        if forbidden {
            return Err(Errno::EPERM);
        }
    }
    let number = call.uint(4);
    let owned;
    let mapping = open.file.map(&open, protection, flags)?;
    let source = match &mapping {
        Mapping::Host(fd) => *fd,
        Mapping::Owned(fd) => {
            owned = fd;
            owned.as_fd()
        }
    };
    dispatcher().listener().donate(call.id, source, number, true)?;
    call.descriptors().set_donated(call.descriptor(4)?);
    Ok(Outcome::Continue)
}

fn memfd_create(call: &Call) -> Result<Outcome> {
    let flags = call.uint(1);
    let executable = libc::MFD_NOEXEC_SEAL | libc::MFD_EXEC;
    if flags & !(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | executable) != 0 || flags & executable == executable {
        return Err(Errno::EINVAL);
    }
    let name = call
        .memory()
        .read_string(call.address(0), 250)
        .map_err(|error| if error == Errno::ENAMETOOLONG { Errno::EINVAL } else { error })?;
    call.has_room()?;
    let file = crate::fs::memfd::create(&name, flags, call.credentials())?;
    Ok(Outcome::Value(i64::from(call.install(file, flags & libc::MFD_CLOEXEC != 0)?.0)))
}

/// Says that every mapped page is in memory, as the call may for pages that are about to be; which pages of a file the host's cache holds is nobody's
/// business. `ENOMEM` where something in the range is not mapped: programs look for the ends of mappings so.
fn mincore(call: &Call) -> Result<Outcome> {
    let (start, length) = (call.raw(0), call.raw(1));
    if start % 4096 != 0 {
        return Err(Errno::EINVAL);
    }
    let end = start.checked_add(length).and_then(|end| end.checked_next_multiple_of(4096)).ok_or(Errno::ENOMEM)?;
    if !crate::platform::process::is_mapped(call.thread.tid, start, end)? {
        return Err(Errno::ENOMEM);
    }
    let pages = (end - start) / 4096;
    let mut written = 0;
    while written < pages {
        let piece = (pages - written).min(4096) as usize;
        call.memory().write(call.address(2).offset(written)?, &vec![1; piece])?;
        written += piece as u64;
    }
    Ok(().into())
}

/// process_vm_readv(2): the caller must have the identity of the other process, or `CAP_SYS_PTRACE`.
fn transfer(call: &Call, writes: bool) -> Result<Outcome> {
    if call.raw(5) != 0 || call.raw(2) > MAX_SEGMENTS as u64 || call.raw(4) > MAX_SEGMENTS as u64 {
        return Err(Errno::EINVAL);
    }
    let other = fork::find_either(&call.process.container, call.int(0)).ok_or(Errno::ESRCH)?;
    if other.pid != call.process.pid {
        // It may run another program by now, of which it is not known yet whether it may.
        crate::kernel::exec::settle(&other, None)?;
        let theirs = other.threads.lock().first().map(|thread| thread.credentials.read().clone()).ok_or(Errno::ESRCH)?;
        if !call.credentials().may_access(&theirs, other.dumpable.load(std::sync::atomic::Ordering::Relaxed) == 1) {
            return Err(Errno::EPERM);
        }
    }
    let mut local = call.memory().read_segments(call.address(1), call.raw(2))?;
    let mut remote = call.memory().read_segments(call.address(3), call.raw(4))?.in_memory(Memory::of(other.pid));
    let (from, to): (&mut Segments, &mut Segments) = if writes { (&mut local, &mut remote) } else { (&mut remote, &mut local) };
    let mut done = 0;
    crate::platform::buffer::with(|buffer| {
        loop {
            let wanted = Source::remaining(from).min(Sink::remaining(to)).min(buffer.len());
            if wanted == 0 {
                return Ok(done.into());
            }
            match from.take(&mut buffer[..wanted]).and_then(|taken| to.put(&buffer[..taken]).map(|()| taken)) {
                Ok(taken) => done += taken,
                Err(_) if done > 0 => return Ok(done.into()),
                Err(error) => return Err(error),
            }
        }
    })
}
