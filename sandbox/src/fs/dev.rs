//! Device files: the memory devices of mem(4) and random(4).
//!
//! A device node says a number; [`open`] turns it into a file of ours. No device of the host is ever opened for a workload: a number that is not
//! here is `EPERM`, what the devices cgroup of a container answers for everything that is not on its list. `/dev/tty` and the terminals' multiplexer are in `fs::tty`.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::platform::buffer;
use crate::platform::memory::Address;
use crate::syscalls::Call;
use crate::vfs::file::{File, Mapping, OpenFile, Position, Sink, Source};
use crate::vfs::node::FileType;

/// The memory devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Device {
    Null,
    Zero,
    Full,
    Random,
}

/// Major 1: minor, name and behaviour of what containers get (null, zero, full, random, urandom).
const MEMORY: [(u32, Device); 5] = [(3, Device::Null), (5, Device::Zero), (7, Device::Full), (8, Device::Random), (9, Device::Random)];

/// The devices of a container's /dev as runc populates it: name, major, minor.
pub const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Opens the device with this number. `EPERM` for one that containers do not get.
pub fn open(rdev: u64, kind: FileType) -> Result<Arc<dyn File>> {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    if kind != FileType::CharacterDevice {
        return Err(Errno::EPERM);
    }
    match major {
        1 => {
            let found = MEMORY.iter().find(|(number, _)| *number == minor);
            found.map(|(_, device)| Arc::new(*device) as Arc<dyn File>).ok_or(Errno::EPERM)
        }
        5 | 136..=143 => super::tty::open(major, minor),
        _ => Err(Errno::EPERM),
    }
}

/// What a mapping of /dev/zero maps.
fn zero_pages() -> Result<OwnedFd> {
    // A file of its own for each mapping: shared mappings of /dev/zero are not shared with anybody else's.
    let fresh = nix::sys::memfd::memfd_create(c"zero", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::ftruncate(&fresh, 1 << 40)?;
    Ok(fresh)
}

impl File for Device {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, _: Position) -> Result<usize> {
        if *self == Device::Null {
            return Ok(0);
        }
        let mut total = 0;
        buffer::with(|buffer| {
            if *self != Device::Random {
                let length = into.remaining().min(buffer.len());
                buffer[..length].fill(0);
            }
            while into.remaining() > 0 {
                let piece = into.remaining().min(buffer.len());
                if *self == Device::Random {
                    fill_random(&mut buffer[..piece])?;
                }
                match into.put(&buffer[..piece]) {
                    Ok(()) => total += piece,
                    Err(_) if total > 0 => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(total)
        })
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, _: Position) -> Result<usize> {
        match self {
            Device::Full => Err(Errno::ENOSPC),
            // Read and forgotten: the host's generator needs no bytes of a workload's.
            Device::Random => buffer::with(|buffer| {
                let mut total = 0;
                while from.remaining() > 0 {
                    match from.take(buffer) {
                        Ok(taken) => total += taken,
                        Err(_) if total > 0 => break,
                        Err(error) => return Err(error),
                    }
                }
                Ok(total)
            }),
            // Not even looked at.
            Device::Null | Device::Zero => Ok(from.remaining()),
        }
    }

    fn end(&self) -> Result<u64> {
        Ok(0)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _: &OpenFile, _: u64, _: i64, _: i32) -> Result<u64> {
        Ok(0)
    }

    fn ioctl(&self, _: &OpenFile, call: &Call, command: u32, argument: u64) -> Result<i64> {
        /// `RNDGETENTCNT` (random(4)): a generator that is ready has 256 bits since Linux 5.18.
        const ENTROPY: u32 = 0x8004_5200;
        if *self != Device::Random || command != ENTROPY {
            return Err(Errno::ENOTTY);
        }
        call.memory().write_value(Address(argument), &256i32)?;
        Ok(0)
    }

    fn splices(&self) -> (bool, bool) {
        (matches!(self, Device::Zero | Device::Random), *self != Device::Full)
    }

    fn map(&self, _: &OpenFile, _: i32, _: i32) -> Result<Mapping<'_>> {
        match self {
            Device::Zero => Ok(Mapping::Owned(zero_pages()?)),
            _ => Err(Errno::ENODEV),
        }
    }

    fn sync(&self, _: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Bytes from the host's random number generator.
pub fn fill_random(buffer: &mut [u8]) -> Result<()> {
    let mut at = 0;
    while at < buffer.len() {
        let rest = &mut buffer[at..];
        // SAFETY: the host fills at most `rest.len()` bytes of `rest`.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match got {
            got if got > 0 => at += got as usize,
            _ if Errno::last() == Errno::EINTR => {}
            _ => return Err(Errno::last()),
        }
    }
    Ok(())
}
