//! A buffer of our own between guest memory and a file that is particular about alignment (open(2), `O_DIRECT`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::disk::Extent;
use crate::devices::buffers::Buffers;

/// How much is copied at a time, however large the request is. A multiple of every alignment.
const WINDOW: u64 = 1 << 20;

/// Reads an extent, of which `alignment` divides the file's usable size, into the guest's buffers, which are as long.
pub fn read(file: &File, alignment: u64, extent: Extent, buffers: Buffers<'_>) -> io::Result<()> {
    let mut rest = buffers;
    let mut memory = Aligned::new(alignment, extent);
    for window in windows(alignment, extent) {
        let bytes = memory.get(window.outer);
        file.read_exact_at(bytes, window.outer.start)?;
        let (part, others) = rest.split_at((window.inner.end - window.inner.start) as usize).ok_or(io::ErrorKind::InvalidInput)?;
        part.copy_from(&bytes[window.within()]);
        rest = others;
    }
    Ok(())
}

/// Writes an extent with what `fill` puts into it, piece by piece. Blocks that it covers in part are read before.
pub fn write(file: &File, alignment: u64, extent: Extent, mut fill: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<()> {
    let mut memory = Aligned::new(alignment, extent);
    for window in windows(alignment, extent) {
        let bytes = memory.get(window.outer);
        if window.inner != window.outer {
            file.read_exact_at(bytes, window.outer.start)?;
        }
        fill(&mut bytes[window.within()])?;
        file.write_all_at(bytes, window.outer.start)?;
    }
    Ok(())
}

/// A range of offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
}

/// Part of an extent, and the whole blocks around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    inner: Range,
    outer: Range,
}

impl Window {
    /// Where the part is in a buffer that holds the blocks.
    fn within(&self) -> std::ops::Range<usize> {
        (self.inner.start - self.outer.start) as usize..(self.inner.end - self.outer.start) as usize
    }
}

fn windows(alignment: u64, extent: Extent) -> impl Iterator<Item = Window> {
    let end = extent.offset() + extent.length();
    let mut start = extent.offset();
    std::iter::from_fn(move || {
        let outer_start = start - start % alignment;
        let inner = Range { start, end: end.min(outer_start + WINDOW) };
        start = inner.end;
        let outer = Range { start: outer_start, end: inner.end.next_multiple_of(alignment) };
        (inner.start < inner.end).then_some(Window { inner, outer })
    })
}

/// Memory that begins at a multiple of an alignment.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// Enough for every window of that extent.
    fn new(alignment: u64, extent: Extent) -> Self {
        let length = (extent.length() + 2 * alignment).min(WINDOW) as usize;
        let bytes = vec![0; length + alignment as usize];
        let start = bytes.as_ptr().addr().next_multiple_of(alignment as usize) - bytes.as_ptr().addr();
        Self { bytes, start }
    }

    fn get(&mut self, range: Range) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + (range.end - range.start) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_cover_an_extent_once_and_are_aligned(offset in 0..(1u64 << 40), length in 0..(5u64 << 20), exponent in 0..13u32) {
            let alignment = 1 << exponent;
            let extent = Extent::new(offset, length);
            let mut at = offset;
            let mut memory = Aligned::new(alignment, extent);
            for window in windows(alignment, extent) {
                prop_assert_eq!(window.inner.start, at);
                prop_assert!(window.outer.start <= window.inner.start && window.inner.end <= window.outer.end);
                prop_assert!(window.outer.start % alignment == 0 && window.outer.end % alignment == 0);
                prop_assert!(window.inner.start - window.outer.start < alignment && window.outer.end - window.inner.end < alignment);
                prop_assert_eq!(memory.get(window.outer).as_ptr().addr() % alignment as usize, 0);
                at = window.inner.end;
            }
            prop_assert_eq!(at, offset + length);
        }
    }

    #[test]
    fn what_is_around_a_write_stays() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        write(&file, 4096, Extent::new(3584, 1024), |bytes| {
            bytes.fill(2);
            Ok(())
        })
        .unwrap();
        let mut bytes = [0; 8192];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().enumerate().all(|(index, byte)| *byte == if (3584..4608).contains(&index) { 2 } else { 1 }));
    }
}
