//! The header in front of each packet (virtio 1.3, section 5.1.6: `struct virtio_net_hdr`), 12 bytes in every modern device.

use thiserror::Error;

use super::configuration::{CSUM, HOST_TSO4, HOST_TSO6, MAX_FRAME};

/// Its length.
pub const LENGTH: usize = 12;
/// The shortest frame: two addresses and a type.
const MIN_FRAME: usize = 14;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_NONE`
const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`
const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`
const GSO_TCPV6: u8 = 4;

/// Why a packet of the guest's isn't sent.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// frame of {0} bytes is shorter or longer than a frame can be
    #[error("frame of {0} bytes is shorter or longer than a frame can be")]
    Length(usize),
    /// header asks for a checksum, which was not negotiated
    #[error("header asks for a checksum, which was not negotiated")]
    Checksum,
    /// header puts the checksum beyond the end of the frame
    #[error("header puts the checksum beyond the end of the frame")]
    ChecksumPlace,
    /// header asks for segmentation of type {0:#x}, which was not negotiated or does not exist
    #[error("header asks for segmentation of type {0:#x}, which was not negotiated or does not exist")]
    Segmentation(u8),
    /// header asks for segmentation into segments of no bytes, or without a checksum
    #[error("header asks for segmentation into segments of no bytes, or without a checksum")]
    Segments,
    /// header claims more bytes of headers than the frame has
    #[error("header claims more bytes of headers than the frame has")]
    Headers,
}

/// The header of a packet from the guest, made of what was checked and of nothing else. Fields without a meaning in this packet are zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header([u8; LENGTH]);

impl Header {
    /// Checks a copy of the guest's header of a frame of that many bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(bytes: [u8; LENGTH], frame: usize, features: u64) -> Result<Self, HeaderError> {
        if !(MIN_FRAME..=MAX_FRAME).contains(&frame) {
            return Err(HeaderError::Length(frame));
        }
        let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1, _, _] = bytes;
        let [headers, size, start, offset] = [[h0, h1], [s0, s1], [c0, c1], [o0, o1]].map(u16::from_le_bytes);
        let mut checked = [0; LENGTH];
        // "The device MUST ignore flag bits that it does not recognize" (5.1.6.2.2).
        let checksum = flags & NEEDS_CSUM != 0;
        if checksum {
            if features & CSUM == 0 {
                return Err(HeaderError::Checksum);
            }
            // Two bytes are written at start + offset, and what is summed up begins at start.
            if usize::from(start) + usize::from(offset) + 2 > frame {
                return Err(HeaderError::ChecksumPlace);
            }
            checked[0] = NEEDS_CSUM;
            checked[6..10].copy_from_slice(&bytes[6..10]);
        }
        let negotiated = match gso {
            GSO_NONE => return Ok(Self(checked)),
            GSO_TCPV4 => features & HOST_TSO4 != 0,
            GSO_TCPV6 => features & HOST_TSO6 != 0,
            _ => false,
        };
        if !negotiated {
            return Err(HeaderError::Segmentation(gso));
        }
        // A driver must ask for a checksum with it (5.1.6.2.1), and each segment takes some of the data.
        if !checksum || size == 0 {
            return Err(HeaderError::Segments);
        }
        if usize::from(headers) > frame {
            return Err(HeaderError::Headers);
        }
        checked[1..6].copy_from_slice(&bytes[1..6]);
        Ok(Self(checked))
    }

    /// As the host's kernel takes it.
    pub fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_is_checked_against_frame_and_features() {
        let all = CSUM | HOST_TSO4 | HOST_TSO6;
        let plain = [0; LENGTH];
        assert_eq!(Header::check(plain, 60, 0).unwrap().bytes(), &plain);
        assert_eq!(Header::check(plain, 13, all), Err(HeaderError::Length(13)));
        assert_eq!(Header::check(plain, MAX_FRAME + 1, all), Err(HeaderError::Length(MAX_FRAME + 1)));
        let sum = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
        assert_eq!(Header::check(sum, 52, CSUM).unwrap().bytes(), &sum);
        assert_eq!(Header::check(sum, 51, CSUM), Err(HeaderError::ChecksumPlace));
        assert_eq!(Header::check(sum, 52, 0), Err(HeaderError::Checksum));
        let large = [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0];
        assert_eq!(Header::check(large, 60_000, all).unwrap().bytes(), &large);
        assert_eq!(Header::check(large, 60_000, CSUM | HOST_TSO6), Err(HeaderError::Segmentation(1)));
        assert_eq!(Header::check(large, 53, all), Err(HeaderError::Headers));
        for (index, value) in [(0, 0), (4, 0)] {
            let mut bad = large;
            (bad[index], bad[5]) = (value, 0);
            assert_eq!(Header::check(bad, 60_000, all), Err(HeaderError::Segments));
        }
        for gso in [2, 3, 5, 0x81, 0xff] {
            let mut bad = large;
            bad[1] = gso;
            assert_eq!(Header::check(bad, 60_000, all), Err(HeaderError::Segmentation(gso)));
        }
        // What has no meaning is not passed on.
        let noise = [0xfe, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        assert_eq!(Header::check(noise, 60, all).unwrap().bytes(), &plain);
    }

    proptest! {
        #[test]
        fn what_passes_is_sound(bytes in any::<[u8; LENGTH]>(), flags in 0..2u8, gso in 0..6u8, small in any::<bool>(), frame in 0..70_000usize, features in any::<u64>()) {
            let mut bytes = bytes;
            (bytes[0], bytes[1]) = (flags, gso);
            if small {
                (bytes[3], bytes[7], bytes[9]) = (0, 0, 0);
            }
            if let Ok(header) = Header::check(bytes, frame, features) {
                let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1, n0, n1] = *header.bytes();
                prop_assert!((14..=MAX_FRAME).contains(&frame) && flags <= 1 && [n0, n1] == [0, 0]);
                prop_assert!(flags == 0 || usize::from(u16::from_le_bytes([c0, c1])) + usize::from(u16::from_le_bytes([o0, o1])) + 2 <= frame);
                prop_assert!(gso == 0 || flags == 1 && [s0, s1] != [0, 0] && usize::from(u16::from_le_bytes([h0, h1])) <= frame);
                prop_assert_eq!(Header::check(*header.bytes(), frame, features).unwrap(), header);
            }
        }
    }
}
