//! Stream connections: how descriptors travel beside the messages that name them.
//!
//! A wall's socket accepts two kinds of connections. One whose first bytes are [`MAGIC`] carries descriptors; no ttrpc
//! frame can begin so, for its length would be beyond the limit. On it the client *attaches*: a frame of four bytes,
//! the stream identifier in little endian, with exactly one descriptor as `SCM_RIGHTS`; the wall answers each with one
//! [`ACKNOWLEDGED`] byte. Identifiers are the client's choice: random, 31 bits, not zero. A request on a control
//! connection then names them, which claims them; what is unclaimed when the stream connection closes is dropped.
//!
//! The same frame travels the other way to give a descriptor back: the identifier that the request named, and the
//! descriptor (a pidfd). It is sent before the request is answered.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The first bytes of a stream connection.
pub const MAGIC: [u8; 8] = *b"BLKHDSTR";

/// The byte that answers an attached stream.
pub const ACKNOWLEDGED: u8 = 0;

/// Bytes of a frame on a stream connection.
pub const FRAME_LENGTH: usize = 4;

/// Names a descriptor within one wall. Never zero: zero in a message means that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u32);

impl StreamId {
    /// The identifier of a message's field; none when it is zero or has its highest bit set.
    pub fn new(number: u32) -> Option<Self> {
        (number != 0 && number >> 31 == 0).then_some(Self(number))
    }

    /// A fresh one.
    ///
    /// # Errors
    /// `getrandom(2)`'s.
    pub fn random() -> io::Result<Self> {
        let mut random = std::fs::File::open("/dev/urandom")?;
        loop {
            let mut bytes = [0; 4];
            random.read_exact(&mut bytes)?;
            if let Some(id) = Self::new(u32::from_le_bytes(bytes) & 0x7fff_ffff) {
                return Ok(id);
            }
        }
    }

    /// The number for a message's field.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Sends one frame: an identifier and its descriptor.
///
/// # Errors
/// `sendmsg(2)`'s; `WouldBlock` on a nonblocking connection that is full.
pub fn send_frame(connection: BorrowedFd<'_>, id: StreamId, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let bytes = id.0.to_le_bytes();
    let descriptors = [descriptor.as_raw_fd()];
    let sent = sendmsg::<()>(
        connection.as_raw_fd(),
        &[IoSlice::new(&bytes)],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    // A Unix stream socket takes a message this small whole.
    if sent == FRAME_LENGTH { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one frame; none when the peer has closed the connection. The descriptor is close-on-exec.
///
/// # Errors
/// `recvmsg(2)`'s, `WouldBlock` on a nonblocking connection without one; `InvalidData` for a frame that is cut short,
/// carries no or more than one descriptor, or a bad identifier.
pub fn receive_frame(connection: BorrowedFd<'_>) -> io::Result<Option<(StreamId, OwnedFd)>> {
    let mut bytes = [0; FRAME_LENGTH];
    let mut slices = [IoSliceMut::new(&mut bytes)];
    // Room for a second descriptor, so that a peer that sends two is seen rather than cut off.
    let mut space = cmsg_space!([std::os::fd::RawFd; 2]);
    let message = recvmsg::<()>(connection.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            for descriptor in received {
                // SAFETY: the host has just installed this descriptor for us, and nobody else knows its number.
                // Unsafe, because nix hands descriptors over as numbers.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
    }
    let length = message.bytes;
    if length == 0 && descriptors.is_empty() {
        return Ok(None);
    }
    let one = if descriptors.len() == 1 { descriptors.pop() } else { None };
    match (StreamId::new(u32::from_le_bytes(bytes)), one) {
        (Some(id), Some(descriptor)) if length == FRAME_LENGTH => Ok(Some((id, descriptor))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a stream frame without identifier and one descriptor")),
    }
}

/// The client's side of a stream connection.
#[derive(Debug)]
pub struct StreamConnection {
    connection: UnixStream,
}

impl StreamConnection {
    /// Opens one to the control socket at `path`.
    ///
    /// # Errors
    /// `connect(2)`'s.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::on(crate::client::connect(path)?)
    }

    /// Opens one on a connection that has not been used.
    ///
    /// # Errors
    /// `write(2)`'s.
    pub fn on(mut connection: UnixStream) -> io::Result<Self> {
        connection.write_all(&MAGIC)?;
        Ok(Self { connection })
    }

    /// Hands a descriptor over under an identifier of its own, which the caller puts into a request.
    ///
    /// # Errors
    /// The connection's; `InvalidData` when the wall does not acknowledge it.
    pub fn attach(&mut self, descriptor: impl AsFd) -> io::Result<StreamId> {
        let id = StreamId::random()?;
        send_frame(self.connection.as_fd(), id, descriptor.as_fd())?;
        let mut answer = [0];
        self.connection.read_exact(&mut answer)?;
        match answer[0] {
            ACKNOWLEDGED => Ok(id),
            other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("stream refused by the wall ({other})"))),
        }
    }

    /// Blocks until the wall gives a descriptor back, and returns it with its identifier.
    ///
    /// # Errors
    /// The connection's; `UnexpectedEof` when the wall is gone.
    pub fn receive(&mut self) -> io::Result<(StreamId, OwnedFd)> {
        receive_frame(self.connection.as_fd())?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn descriptors_travel_both_ways() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let wall = std::thread::spawn(move || {
            let mut magic = [0; 8];
            there.read_exact(&mut magic).unwrap();
            assert_eq!(magic, MAGIC);
            let (id, descriptor) = receive_frame(there.as_fd()).unwrap().unwrap();
            there.write_all(&[ACKNOWLEDGED]).unwrap();
            send_frame(there.as_fd(), id, descriptor.as_fd()).unwrap();
        });
        let mut streams = StreamConnection::on(here).unwrap();
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let id = streams.attach(&reader).unwrap();
        drop(reader);
        let (back, descriptor) = streams.receive().unwrap();
        wall.join().unwrap();
        assert_eq!(back, id);
        writer.write_all(b"x").unwrap();
        let mut reader = UnixStream::from(descriptor);
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert_eq!(streams.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_frame_needs_exactly_one_descriptor() {
        let (here, there) = UnixStream::pair().unwrap();
        (&there).write_all(&1u32.to_le_bytes()).unwrap();
        assert_eq!(receive_frame(here.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let two = [there.as_raw_fd(), there.as_raw_fd()];
        let slice = [IoSlice::new(&[1, 0, 0, 0])];
        sendmsg::<()>(there.as_raw_fd(), &slice, &[ControlMessage::ScmRights(&two)], MsgFlags::empty(), None).unwrap();
        assert_eq!(receive_frame(here.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(there);
        assert!(receive_frame(here.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_magic_is_no_frame() {
        let mut decoder = crate::frame::FrameDecoder::new();
        decoder.feed(&MAGIC);
        decoder.feed(&[0; 2]);
        assert!(decoder.next_frame().is_err());
    }

    proptest! {
        #[test]
        fn identifiers_are_31_bits_and_not_zero(number in any::<u32>()) {
            prop_assert_eq!(StreamId::new(number).is_some(), number != 0 && number <= 0x7fff_ffff);
        }

        #[test]
        fn hostile_bytes_are_no_frames(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            let (here, there) = UnixStream::pair().unwrap();
            (&there).write_all(&bytes).unwrap();
            prop_assert!(receive_frame(here.as_fd()).is_err());
        }
    }
}
