//! The bytes of a regular file in memory.
//!
//! Small ones are a vector in this process's heap, which costs no descriptor. A file that is mapped, executed, or grows past [`SMALL`] moves to a
//! host file of its own on the exec roots' tmpfs: then mapping it is native, and executing it is a link.
//!
//! Either way a file has *pages*, as on Linux's tmpfs: those that were never written are holes, cost nothing, and lseek(2) finds them.

use std::os::fd::OwnedFd;

use super::backing::Backing;
use crate::errno::{Errno, Result};

/// Up to here contents stay in the heap, bytes.
const SMALL: u64 = SMALL_PAGES as u64 * PAGE;
const SMALL_PAGES: u32 = 4;
/// What memory is counted in, bytes.
pub const PAGE: u64 = 4096;

/// A file's bytes.
pub enum Content {
    /// In the heap.
    Heap(Small),
    /// In a host file.
    Host(Backing),
}

/// A small file's bytes.
#[derive(Default)]
pub struct Small {
    bytes: Vec<u8>,
    /// Bit *n*: page *n* is there. Pages past the end may be (fallocate(2), `FALLOC_FL_KEEP_SIZE`).
    pages: u8,
}

impl Default for Content {
    fn default() -> Content {
        Content::Heap(Small::default())
    }
}

/// The pages that hold the bytes `start..end`.
fn pages_of(start: u64, end: u64) -> std::ops::Range<u64> {
    if start >= end { 0..0 } else { start / PAGE..end.div_ceil(PAGE) }
}

impl Small {
    fn has(&self, page: u64) -> bool {
        page < u64::from(SMALL_PAGES) && self.pages >> page & 1 == 1
    }

    fn mark(&mut self, start: u64, end: u64) {
        for page in pages_of(start, end) {
            self.pages |= 1 << page;
        }
    }

    /// Makes a hole: whole pages go, the rest is zero.
    fn punch(&mut self, start: u64, end: u64) {
        let length = self.bytes.len() as u64;
        let (from, to) = (start.min(length) as usize, end.min(length) as usize);
        self.bytes[from..to].fill(0);
        for page in start.div_ceil(PAGE)..(end / PAGE).min(u64::from(SMALL_PAGES)) {
            self.pages &= !(1 << page);
        }
    }

    /// The first byte from `at` on that is data, or that is none. `ENXIO` past the end, and where no data follows.
    fn seek(&self, at: u64, data: bool) -> Result<u64> {
        let length = self.bytes.len() as u64;
        if at >= length {
            return Err(Errno::ENXIO);
        }
        match (at / PAGE..length.div_ceil(PAGE)).find(|page| self.has(*page) == data) {
            Some(page) => Ok(at.max(page * PAGE)),
            None if data => Err(Errno::ENXIO),
            None => Ok(length),
        }
    }
}

impl Content {
    /// Bytes, and pages that are there.
    pub fn shape(&self) -> (u64, u64) {
        match self {
            Content::Heap(small) => (small.bytes.len() as u64, u64::from(small.pages.count_ones())),
            Content::Host(backing) => backing.shape(),
        }
    }

    /// Bytes.
    pub fn length(&self) -> u64 {
        self.shape().0
    }

    /// Moves it to a host file, if it is not there; gives a descriptor of it.
    pub fn host(&mut self) -> Result<OwnedFd> {
        self.backing()?.writable()?.try_clone().map_err(Errno::from)
    }

    /// The same for reading only, with nothing of this kernel's in the way of executing it.
    pub fn host_read_only(&mut self) -> Result<OwnedFd> {
        self.backing()?.read_only()?.try_clone().map_err(Errno::from)
    }

    /// The host file, made now if there is none.
    pub fn backing(&mut self) -> Result<&mut Backing> {
        if let Content::Heap(small) = self {
            let mut backing = Backing::create()?;
            let file = backing.writable()?;
            let length = small.bytes.len() as u64;
            nix::unistd::ftruncate(file, length as i64)?;
            for page in (0..u64::from(SMALL_PAGES)).filter(|page| small.has(*page)) {
                let (mut at, end) = ((page * PAGE).min(length) as usize, ((page + 1) * PAGE).min(length) as usize);
                while at < end {
                    at += nix::sys::uio::pwrite(file, &small.bytes[at..end], at as i64)?;
                }
            }
            *self = Content::Host(backing);
        }
        match self {
            Content::Host(backing) => Ok(backing),
            Content::Heap(_) => Err(Errno::EIO),
        }
    }

    /// How many pages the bytes `start..end` would need that are not there. Of a host file those count as missing that were allocated and never written: the
    /// host shows them as holes.
    pub fn missing(&self, start: u64, end: u64) -> Result<u64> {
        let pages = pages_of(start, end);
        match self {
            // However many are asked for, few can be there.
            Content::Heap(small) => {
                let there = (pages.start..pages.end.min(u64::from(SMALL_PAGES))).filter(|page| small.has(*page)).count() as u64;
                Ok((pages.end - pages.start) - there)
            }
            Content::Host(backing) => {
                let (length, there) = backing.shape();
                let last = length.div_ceil(PAGE);
                let beyond = pages.end.saturating_sub(pages.start.max(last));
                // The common case has no holes, and nothing past the end.
                if there == last { Ok(beyond) } else { Ok(beyond + backing.holes(pages.start..pages.end.min(last))?) }
            }
        }
    }

    /// Reads at an offset.
    pub fn read(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        match self {
            Content::Heap(small) => {
                let rest = usize::try_from(at).ok().and_then(|at| small.bytes.get(at..)).unwrap_or(&[]);
                let length = rest.len().min(buffer.len());
                buffer[..length].copy_from_slice(&rest[..length]);
                Ok(length)
            }
            Content::Host(backing) => backing.read(buffer, at),
        }
    }

    /// Writes at an offset; what lies between the end and the offset is zero.
    pub fn write(&mut self, bytes: &[u8], at: u64) -> Result<usize> {
        let end = at.checked_add(bytes.len() as u64).filter(|end| *end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        match self {
            Content::Heap(small) if end <= SMALL => {
                let (from, to) = (at as usize, end as usize);
                if small.bytes.len() < to {
                    small.bytes.resize(to, 0);
                }
                small.bytes[from..to].copy_from_slice(bytes);
                small.mark(at, end);
                Ok(bytes.len())
            }
            _ => Ok(nix::sys::uio::pwrite(self.backing()?.writable()?, bytes, at as i64)?),
        }
    }

    /// Cuts or grows it. What is added is a hole.
    pub fn resize(&mut self, length: u64) -> Result<()> {
        if length > i64::MAX as u64 {
            return Err(Errno::EFBIG);
        }
        match self {
            Content::Heap(small) if length <= SMALL => {
                if length < small.bytes.len() as u64 {
                    small.punch(length, SMALL);
                }
                small.bytes.resize(length as usize, 0);
                small.bytes.shrink_to_fit();
                Ok(())
            }
            _ => Ok(nix::unistd::ftruncate(self.backing()?.writable()?, length as i64)?),
        }
    }

    /// fallocate(2) in the modes that Linux's tmpfs has: pages that are there before they are written, and holes.
    pub fn allocate(&mut self, mode: i32, start: u64, end: u64) -> Result<()> {
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        match self {
            Content::Heap(small) if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 => small.punch(start, end.min(SMALL)),
            Content::Heap(small) if end <= SMALL => {
                small.mark(start, end);
                if !keep && small.bytes.len() < end as usize {
                    small.bytes.resize(end as usize, 0);
                }
            }
            _ => {
                let flags = nix::fcntl::FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
                nix::fcntl::fallocate(self.backing()?.writable()?, flags, start as i64, (end - start) as i64)?;
            }
        }
        Ok(())
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
    pub fn seek(&self, at: u64, data: bool) -> Result<u64> {
        match self {
            Content::Heap(small) => small.seek(at, data),
            Content::Host(backing) => backing.seek(at, data),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What was done to a file.
    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Resize(u64),
        Allocate(u64, u64, bool),
        Punch(u64, u64),
        ToHost,
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = 0..40_000u64;
        prop_oneof![
            (at.clone(), proptest::collection::vec(any::<u8>(), 1..6000)).prop_map(|(at, bytes)| Step::Write(at, bytes)),
            at.clone().prop_map(Step::Resize),
            (at.clone(), 1..9000u64, any::<bool>()).prop_map(|(at, length, keep)| Step::Allocate(at, length, keep)),
            (at, 1..9000u64).prop_map(|(at, length)| Step::Punch(at, length)),
            Just(Step::ToHost),
        ]
    }

    proptest! {
        #[test]
        fn a_file_in_the_heap_is_like_one_of_the_host(steps in proptest::collection::vec(step(), 1..20)) {
            let (mut content, mut model) = (Content::default(), Content::default());
            model.backing().unwrap();
            let mut allocated = false;
            for step in steps {
                match step {
                    Step::Write(at, bytes) => {
                        let missing = content.missing(at, at + bytes.len() as u64).unwrap();
                        let before = content.shape().1;
                        prop_assert_eq!(content.write(&bytes, at).unwrap(), bytes.len());
                        prop_assert!(allocated || content.shape().1 == before + missing);
                        model.write(&bytes, at).unwrap();
                    }
                    Step::Resize(length) => {
                        content.resize(length).unwrap();
                        model.resize(length).unwrap();
                    }
                    Step::Allocate(at, length, keep) => {
                        allocated = true;
                        let mode = if keep { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                        content.allocate(mode, at, at + length).unwrap();
                        model.allocate(mode, at, at + length).unwrap();
                    }
                    Step::Punch(at, length) => {
                        let mode = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
                        content.allocate(mode, at, at + length).unwrap();
                        model.allocate(mode, at, at + length).unwrap();
                    }
                    Step::ToHost => drop(content.backing().unwrap()),
                }
                prop_assert_eq!(content.length(), model.length());
                let (mut one, mut two) = (vec![1; 50_000], vec![2; 50_000]);
                let (read, expected) = (content.read(&mut one, 0).unwrap(), model.read(&mut two, 0).unwrap());
                prop_assert_eq!(&one[..read], &two[..expected]);
            }
        }
    }

    #[test]
    fn as_much_as_can_be_named_is_counted_at_once() {
        let mut small = Content::default();
        small.write(b"x", 0).unwrap();
        assert_eq!(small.missing(0, 1 << 62), Ok((1 << 50) - 1));
        assert_eq!(small.missing(1 << 61, 1 << 62), Ok(1 << 49));
    }

    #[test]
    fn holes_are_found() {
        let mut small = Content::default();
        small.write(b"x", 9000).unwrap();
        assert_eq!((small.seek(0, true), small.seek(0, false), small.seek(8192, false)), (Ok(8192), Ok(0), Ok(9001)));
        assert_eq!(small.shape(), (9001, 1));
        small.resize(100).unwrap();
        assert_eq!(small.shape(), (100, 0));
        assert_eq!((small.seek(0, true), small.seek(100, false)), (Err(Errno::ENXIO), Err(Errno::ENXIO)));
        small.backing().unwrap();
        assert_eq!((small.seek(0, true), small.missing(0, 8192)), (Err(Errno::ENXIO), Ok(2)));
    }
}
