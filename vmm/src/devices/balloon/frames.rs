//! Frame numbers, as a driver lists them: `le32`, of frames of 4 KiB whatever the guest's page size (virtio 1.3, section 5.5.6).

use std::ops::Range;

/// log2 of a frame's size.
const SHIFT: u32 = 12;
/// A frame's size in bytes.
pub const FRAME: u64 = 1 << SHIFT;

/// Decodes a list of frame numbers into runs of guest addresses: sorted, without a frame twice, and no two that touch. Bytes that are no whole number at the
/// end are ignored.
pub fn runs(bytes: &[u8]) -> Vec<Range<u64>> {
    let mut frames: Vec<u64> = bytes.as_chunks().0.iter().map(|bytes| u64::from(u32::from_le_bytes(*bytes))).collect();
    // A guest that allocates page by page lists neighbours in any order.
    frames.sort_unstable();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for frame in frames {
        // Below 2^44: no shift of 32 bits by 12 overflows.
        let (start, end) = (frame << SHIFT, (frame + 1) << SHIFT);
        match runs.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn runs_are_the_frames(frames in prop::collection::vec(prop_oneof![3 => 0..40u32, 1 => any::<u32>()], 0..100), odd in 0..4usize) {
            let mut bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
            bytes.extend(std::iter::repeat_n(1, odd));
            let runs = runs(&bytes);
            let expected: BTreeSet<u64> = frames.iter().map(|frame| u64::from(*frame) * FRAME).collect();
            let found: Vec<u64> = runs.iter().flat_map(|run| (run.start..run.end).step_by(FRAME as usize)).collect();
            prop_assert!(found.iter().eq(expected.iter()));
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
