//! ttrpc's frames: ten bytes of header, then the payload.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | length of the payload, big endian |
//! | 4..8 | stream identifier, big endian; a client's are odd |
//! | 8 | type: 1 request, 2 response, 3 data |
//! | 9 | flags |
//!
//! Source: containerd/ttrpc, PROTOCOL.md.

/// Bytes of a frame's header.
pub const HEADER_LENGTH: usize = 10;

/// The largest payload that a frame may carry, in bytes. Source: ttrpc's `messageLengthMax`.
pub const MAXIMUM_PAYLOAD: usize = 4 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A call, from client to server.
    Request = 1,
    /// Its answer.
    Response = 2,
}

/// One whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Pairs a response with its request.
    pub stream: u32,
    /// Request or response.
    pub kind: Kind,
    /// Protobuf bytes of the envelope, at most [`MAXIMUM_PAYLOAD`].
    pub payload: Vec<u8>,
}

impl Frame {
    /// The frame as bytes for the wire.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when the payload is longer than the peer would accept.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        if self.payload.len() > MAXIMUM_PAYLOAD {
            return Err(FrameError::TooLong(self.payload.len()));
        }
        let mut bytes = Vec::with_capacity(HEADER_LENGTH + self.payload.len());
        bytes.extend_from_slice(&(self.payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.push(self.kind as u8);
        bytes.push(0);
        bytes.extend_from_slice(&self.payload);
        Ok(bytes)
    }
}

/// Why a connection's bytes are no frames. The connection can only be closed then: where the next frame would begin is
/// unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// a frame of {0} bytes is longer than the 4 MiB that ttrpc allows
    #[error("a frame of {0} bytes is longer than the 4 MiB that ttrpc allows")]
    TooLong(usize),
    /// a frame of unknown type {0}
    #[error("a frame of unknown type {0}")]
    UnknownKind(u8),
}

/// Turns a byte stream, in whatever pieces it arrives, into frames.
///
/// Memory is bounded by what has been fed and not yet taken out: a header that announces a long payload reserves
/// nothing. Feed what one `read` returned, then take frames until there is none.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that have been handed out already.
    consumed: usize,
}

impl FrameDecoder {
    /// A decoder at the beginning of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes as they came from the socket.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or none until more bytes are fed.
    ///
    /// # Errors
    /// The bytes are no frame; see [`FrameError`]. Asking again gives the same error.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let pending = &self.buffer[self.consumed..];
        let Some((header, rest)) = pending.split_first_chunk::<HEADER_LENGTH>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if length > MAXIMUM_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Response,
            other => return Err(FrameError::UnknownKind(other)),
        };
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame { stream: u32::from_be_bytes([s0, s1, s2, s3]), kind, payload: payload.to_vec() };
        self.consumed += HEADER_LENGTH + length;
        if self.consumed == self.buffer.len() {
            self.buffer.clear();
            self.consumed = 0;
        }
        Ok(Some(frame))
    }

    /// Whether a frame has begun and not ended: a connection that closes now was cut off.
    pub fn is_inside_frame(&self) -> bool {
        self.buffer.len() > self.consumed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let one = (any::<u32>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(stream, request, payload)| Frame { stream, kind: if request { Kind::Request } else { Kind::Response }, payload });
        proptest::collection::vec(one, 0..6)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(frames in frames(), cuts in proptest::collection::vec(1usize..40, 1..50)) {
            let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().unwrap()).collect();
            let mut decoder = FrameDecoder::new();
            let mut seen = Vec::new();
            let mut rest = wire.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                rest = tail;
                decoder.feed(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(!decoder.is_inside_frame());
        }

        #[test]
        fn hostile_bytes_end_in_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut decoder = FrameDecoder::new();
            decoder.feed(&bytes);
            let mut taken = 0;
            while let Ok(Some(frame)) = decoder.next_frame() {
                taken += HEADER_LENGTH + frame.payload.len();
            }
            prop_assert!(taken <= bytes.len());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_payload_arrives() {
        let mut decoder = FrameDecoder::new();
        decoder.feed(&[0x00, 0x40, 0x00, 0x01, 0, 0, 0, 1, 1, 0]);
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLong(MAXIMUM_PAYLOAD + 1)));
        let long = Frame { stream: 1, kind: Kind::Request, payload: vec![0; MAXIMUM_PAYLOAD + 1] };
        assert_eq!(long.encode(), Err(FrameError::TooLong(MAXIMUM_PAYLOAD + 1)));
    }

    #[test]
    fn a_data_frame_is_refused() {
        let mut decoder = FrameDecoder::new();
        decoder.feed(&[0, 0, 0, 0, 0, 0, 0, 1, 3, 0]);
        assert_eq!(decoder.next_frame(), Err(FrameError::UnknownKind(3)));
    }
}
