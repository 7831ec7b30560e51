//! Ancillary data (cmsg(3)): `struct cmsghdr` records around sendmsg(2) and recvmsg(2).
//!
//! [`decode`] splits the bytes of a control buffer into [`Record`]s; what a record means is the socket family's to say.
//! [`Encoder`] fills a control buffer of limited size and remembers what did not fit (`MSG_CTRUNC`).

use crate::errno::{Errno, Result};

/// The most bytes of control data that a call may send (`net.core.optmem_max`'s classic default).
pub const LONGEST: usize = 20_480;
/// `sizeof(struct cmsghdr)` on x86-64: length, level, type.
pub const HEADER: usize = 16;
/// The most descriptors in one message (`SCM_MAX_FD`).
pub const MOST_DESCRIPTORS: usize = 253;

/// One record, undecoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// `cmsg_level`.
    pub level: i32,
    /// `cmsg_type`.
    pub kind: i32,
    /// What follows the header.
    pub data: Vec<u8>,
}

impl Record {
    /// A record.
    pub fn new(level: i32, kind: i32, data: Vec<u8>) -> Record {
        Record { level, kind, data }
    }

    /// The data as native integers; a remainder is dropped.
    pub fn integers(&self) -> Vec<i32> {
        self.data.chunks_exact(4).map(|four| i32::from_ne_bytes([four[0], four[1], four[2], four[3]])).collect()
    }
}

/// `CMSG_ALIGN`.
pub fn align(length: usize) -> usize {
    length.saturating_add(7) & !7
}

/// Splits a control buffer. `EINVAL` for a record that is shorter than its header or reaches past the buffer; a tail
/// too short for a header is ignored, as Linux ignores it.
pub fn decode(bytes: &[u8]) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER) {
        let number = |from: usize| i32::from_ne_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]]);
        let mut length = [0; 8];
        length.copy_from_slice(&header[..8]);
        let length = usize::try_from(u64::from_ne_bytes(length)).map_err(|_| Errno::EINVAL)?;
        if length < HEADER || length > bytes.len() - at {
            return Err(Errno::EINVAL);
        }
        records.push(Record::new(number(8), number(12), bytes[at + HEADER..at + length].to_vec()));
        at += align(length);
    }
    Ok(records)
}

/// Fills a control buffer.
pub struct Encoder {
    bytes: Vec<u8>,
    room: usize,
    /// Something did not fit.
    pub truncated: bool,
}

impl Encoder {
    /// For a buffer of `room` bytes.
    pub fn new(room: usize) -> Encoder {
        Encoder { bytes: Vec::new(), room, truncated: false }
    }

    /// How many bytes of data a record added now could hold.
    pub fn data_room(&self) -> usize {
        self.room.saturating_sub(self.bytes.len()).saturating_sub(HEADER)
    }

    /// Adds a record, cut where the buffer ends (put_cmsg() in net/core/scm.c).
    pub fn add(&mut self, record: &Record) {
        let left = self.room.saturating_sub(self.bytes.len());
        if left < HEADER {
            self.truncated = true;
            return;
        }
        let whole = HEADER + record.data.len();
        self.truncated |= whole > left;
        let length = whole.min(left);
        self.bytes.extend_from_slice(&(length as u64).to_ne_bytes());
        self.bytes.extend_from_slice(&record.level.to_ne_bytes());
        self.bytes.extend_from_slice(&record.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&record.data[..length - HEADER]);
        let padded = align(self.bytes.len()).min(self.room);
        self.bytes.resize(padded, 0);
    }

    /// The filled part.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_that_lies_about_its_length_is_invalid() {
        let mut encoder = Encoder::new(64);
        encoder.add(&Record::new(1, 1, vec![1, 2, 3, 4]));
        let mut bytes = encoder.finish();
        assert_eq!(decode(&bytes).unwrap()[0].integers(), [0x0403_0201]);
        bytes[0] = 200;
        assert_eq!(decode(&bytes), Err(Errno::EINVAL));
        bytes[0] = 15;
        assert_eq!(decode(&bytes), Err(Errno::EINVAL));
    }

    proptest! {
        #[test]
        fn records_survive_the_way_there_and_back(
            records in prop::collection::vec((any::<i32>(), any::<i32>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6)
        ) {
            let records: Vec<Record> = records.into_iter().map(|(level, kind, data)| Record::new(level, kind, data)).collect();
            let mut encoder = Encoder::new(4096);
            records.iter().for_each(|record| encoder.add(record));
            prop_assert!(!encoder.truncated);
            prop_assert_eq!(decode(&encoder.finish()), Ok(records));
        }

        #[test]
        fn no_buffer_is_overrun_and_no_bytes_break_the_decoder(
            room in 0usize..80, bytes in prop::collection::vec(any::<u8>(), 0..80)
        ) {
            let mut encoder = Encoder::new(room);
            for record in decode(&bytes).unwrap_or_default() {
                encoder.add(&record);
            }
            encoder.add(&Record::new(0, 0, bytes));
            prop_assert!(encoder.finish().len() <= room);
        }
    }
}
