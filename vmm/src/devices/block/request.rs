//! What a driver asks of a disk (virtio 1.3, section 5.2.6): a header, data, and a byte for the status.
//!
//! How a request is cut into descriptors is the driver's choice (2.7.4): the header is the first 16 bytes that the device may read, the status the last
//! byte that it may write, wherever they lie.

use super::configuration::MAX_RANGES;
use crate::devices::buffers::{Buffers, Chain};

/// The header's length: `le32 type; le32 reserved; le64 sector`.
const HEADER: usize = 16;
/// A range's length: `le64 sector; le32 num_sectors; le32 flags`.
const RANGE: usize = 16;
/// Its flag `unmap`; all others are reserved.
const UNMAP: u32 = 1;

/// What the driver is told (5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// `VIRTIO_BLK_S_OK`
    Ok = 0,
    /// `VIRTIO_BLK_S_IOERR`
    Failed = 1,
    /// `VIRTIO_BLK_S_UNSUPP`
    Unsupported = 2,
}

/// A range of sectors, which needn't exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub sector: u64,
    /// How many.
    pub sectors: u32,
    /// Whether their space may be given back.
    pub unmap: bool,
}

/// A request.
#[derive(Debug)]
pub enum Command<'m> {
    /// `VIRTIO_BLK_T_IN`: read the disk into the buffers.
    Read(u64, Buffers<'m>),
    /// `VIRTIO_BLK_T_OUT`: write the buffers to the disk.
    Write(u64, Buffers<'m>),
    /// `VIRTIO_BLK_T_FLUSH`
    Flush,
    /// `VIRTIO_BLK_T_GET_ID`: the disk's name into the buffers.
    Identify(Buffers<'m>),
    /// `VIRTIO_BLK_T_DISCARD`
    Discard(Vec<Range>),
    /// `VIRTIO_BLK_T_WRITE_ZEROES`
    WriteZeroes(Vec<Range>),
}

/// A request, or what is wrong with it, and where to say so.
#[derive(Debug)]
pub struct Request<'m> {
    /// What to do. An error is the answer.
    pub command: Result<Command<'m>, Status>,
    /// One byte.
    pub status: Buffers<'m>,
    /// How many bytes the driver gives the device to write before that byte.
    pub room: usize,
}

impl<'m> Request<'m> {
    /// Decodes a chain. Nothing if it has no room for an answer.
    pub fn decode(chain: Chain<'m>) -> Option<Self> {
        let room = chain.writable.length().checked_sub(1)?;
        let (writable, status) = chain.writable.split_at(room)?;
        Some(Self { command: Self::command(chain.readable, writable), status, room })
    }

    fn command(readable: Buffers<'m>, writable: Buffers<'m>) -> Result<Command<'m>, Status> {
        let (front, data) = readable.split_at(HEADER).ok_or(Status::Failed)?;
        // One copy, which the guest can't change any more.
        let mut header = [0; HEADER];
        front.copy_to(&mut header);
        let [kind, _reserved] = [0, 4].map(|at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
        let [.., s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        // Data in the direction that a command doesn't have is ignored, as it always has been.
        match kind {
            0 => Ok(Command::Read(sector, writable)),
            1 => Ok(Command::Write(sector, data)),
            4 => Ok(Command::Flush),
            8 => Ok(Command::Identify(writable)),
            11 => {
                let ranges = ranges(&data)?;
                // "The unmap flag MUST be zero for discard" (5.2.6.1); else "UNSUPP" (5.2.6.2).
                if ranges.iter().any(|range| range.unmap) { Err(Status::Unsupported) } else { Ok(Command::Discard(ranges)) }
            }
            13 => Ok(Command::WriteZeroes(ranges(&data)?)),
            _ => Err(Status::Unsupported),
        }
    }
}

/// Decodes ranges: at least one, at most [`MAX_RANGES`].
fn ranges(data: &Buffers<'_>) -> Result<Vec<Range>, Status> {
    let mut bytes = [0; RANGE * MAX_RANGES];
    if data.length() == 0 || data.length() > bytes.len() || !data.length().is_multiple_of(RANGE) {
        return Err(Status::Failed);
    }
    let length = data.copy_to(&mut bytes);
    let range = |bytes: &[u8; RANGE]| {
        let [a, b, c, d, e, f, g, h, s0, s1, s2, s3, f0, f1, f2, f3] = *bytes;
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if flags & !UNMAP != 0 {
            return Err(Status::Unsupported);
        }
        let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        Ok(Range { sector, sectors: u32::from_le_bytes([s0, s1, s2, s3]), unmap: flags != 0 })
    };
    bytes[..length].as_chunks::<RANGE>().0.iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

    /// Buffers over a copy of `bytes`, cut into pieces of `cut` bytes.
    fn buffers<'m>(memory: &'m GuestMemoryMmap, at: u64, bytes: &[u8], cut: usize) -> Buffers<'m> {
        memory.write_slice(bytes, GuestAddress(at)).unwrap();
        let mut buffers = Buffers::default();
        for start in (0..bytes.len()).step_by(cut) {
            buffers.push(memory.get_slice(GuestAddress(at + start as u64), cut.min(bytes.len() - start)).unwrap());
        }
        buffers
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_a_request_is_understood_or_refused(
            kind in prop_oneof![4 => 0..16u32, 1 => any::<u32>()],
            rest in prop::collection::vec(any::<u8>(), 0..600),
            room in 0..64usize,
            cut in 1..40usize,
        ) {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
            let readable = [kind.to_le_bytes().as_slice(), &rest].concat();
            let chain = Chain { readable: buffers(&memory, 0, &readable, cut), writable: buffers(&memory, 0x1000, &vec![0; room], cut) };
            let Some(request) = Request::decode(chain) else {
                prop_assert_eq!(room, 0);
                return Ok(());
            };
            prop_assert_eq!(request.status.length(), 1);
            prop_assert_eq!(request.room, room - 1);
            match request.command {
                Ok(Command::Read(_, data) | Command::Identify(data)) => prop_assert_eq!(data.length(), room - 1),
                Ok(Command::Write(sector, data)) => {
                    prop_assert_eq!(data.length(), readable.len() - HEADER);
                    prop_assert_eq!(&sector.to_le_bytes(), &readable[8..16]);
                }
                Ok(Command::Flush) => prop_assert_eq!(kind, 4),
                Ok(Command::Discard(ranges)) => prop_assert!(ranges.iter().all(|range| !range.unmap)),
                Ok(Command::WriteZeroes(ranges)) => prop_assert_eq!(ranges.len() * RANGE, readable.len() - HEADER),
                Err(status) => prop_assert!(status != Status::Ok),
            }
        }
    }

    #[test]
    fn ranges_are_counted_and_their_flags_known() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
        let mut bytes = [5u64.to_le_bytes().as_slice(), &7u32.to_le_bytes(), &1u32.to_le_bytes()].concat();
        assert_eq!(ranges(&buffers(&memory, 0, &bytes, 3)).unwrap(), [Range { sector: 5, sectors: 7, unmap: true }]);
        assert_eq!(ranges(&buffers(&memory, 0, &bytes.repeat(16), 100)).unwrap().len(), 16);
        assert_eq!(ranges(&buffers(&memory, 0, &bytes.repeat(17), 100)), Err(Status::Failed));
        assert_eq!(ranges(&buffers(&memory, 0, &bytes[..15], 100)), Err(Status::Failed));
        assert_eq!(ranges(&Buffers::default()), Err(Status::Failed));
        bytes[12] = 2;
        assert_eq!(ranges(&buffers(&memory, 0, &bytes, 100)), Err(Status::Unsupported));
    }
}
