//! What a packet is: a header (virtio 1.3, section 5.10.6, `struct virtio_vsock_hdr`), then bytes.
//!
//! The header is read once into a value, and that value is what the rest of the device believes. It is not virtio-vsock's `VsockPacket`, because
//! that one wants header and payload in at most two descriptors, each in one region of memory. A device must not assume how a packet is spread over
//! descriptors (2.7.4.1), and Linux spreads it over many where a program asks for `MSG_ZEROCOPY`.

/// `VIRTIO_VSOCK_TYPE_STREAM`.
pub const STREAM: u16 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: who says it takes no more.
pub const SHUT_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: who says it sends no more.
pub const SHUT_SEND: u32 = 2;
/// Both.
pub const SHUT_BOTH: u32 = SHUT_RECEIVE | SHUT_SEND;

/// What a packet is for (`op`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Asks for a connection.
    Request = 1,
    /// Grants it.
    Response = 2,
    /// There is no such connection, or not any more.
    Reset = 3,
    /// One or both directions are over.
    Shutdown = 4,
    /// Bytes.
    Data = 5,
    /// Nothing but the credit that every packet carries.
    CreditUpdate = 6,
    /// Asks for one of those.
    CreditRequest = 7,
}

impl Operation {
    /// The operation of that number.
    pub fn from_number(number: u16) -> Option<Self> {
        use Operation::{CreditRequest, CreditUpdate, Data, Request, Reset, Response, Shutdown};
        [Request, Response, Reset, Shutdown, Data, CreditUpdate, CreditRequest].into_iter().find(|operation| *operation as u16 == number)
    }
}

/// A packet's header. Nothing in one from the guest has been checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Who sends.
    pub source_cid: u64,
    /// Who is to receive.
    pub destination_cid: u64,
    /// The sender's port.
    pub source_port: u32,
    /// The receiver's port.
    pub destination_port: u32,
    /// Bytes after the header.
    pub length: u32,
    /// The socket's type: [`STREAM`].
    pub kind: u16,
    /// An [`Operation`].
    pub operation: u16,
    /// The operation's flags.
    pub flags: u32,
    /// Bytes that the sender is ready to hold for this connection (`buf_alloc`).
    pub buffer: u32,
    /// Bytes of this connection that the sender's program has taken so far, modulo 2^32 (`fwd_cnt`).
    pub forwarded: u32,
}

impl Header {
    /// Its size in guest memory.
    pub const SIZE: usize = 44;

    /// Reads one. Every pattern of bits is a header.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        let mut rest = &bytes[..];
        // All fields lie in the array, one after the other: `take` never meets its end.
        Self {
            source_cid: u64::from_le_bytes(take(&mut rest)),
            destination_cid: u64::from_le_bytes(take(&mut rest)),
            source_port: u32::from_le_bytes(take(&mut rest)),
            destination_port: u32::from_le_bytes(take(&mut rest)),
            length: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            operation: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buffer: u32::from_le_bytes(take(&mut rest)),
            forwarded: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// Its bytes in guest memory.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.source_cid.to_le_bytes());
        put(&self.destination_cid.to_le_bytes());
        put(&self.source_port.to_le_bytes());
        put(&self.destination_port.to_le_bytes());
        put(&self.length.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&self.operation.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buffer.to_le_bytes());
        put(&self.forwarded.to_le_bytes());
        bytes
    }
}

/// The next `N` bytes; zeros where there are fewer.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let Some((field, after)) = rest.split_first_chunk::<N>() else { return [0; N] };
    *rest = after;
    *field
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use virtio_vsock::packet::{PKT_HEADER_SIZE, VsockPacket};
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    proptest! {
        /// virtio-vsock reads the same from the same bytes.
        #[test]
        fn a_header_is_what_others_read(bytes in proptest::collection::vec(any::<u8>(), Header::SIZE)) {
            prop_assert_eq!(Header::SIZE, PKT_HEADER_SIZE);
            let wire: [u8; Header::SIZE] = bytes.try_into().unwrap();
            let header = Header::decode(&wire);
            prop_assert_eq!(header.encode(), wire);
            let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
            let queue = MockSplitQueue::new(&memory, 4);
            let writable = Descriptor::new(0x8000, 100, 2, 0);
            let mut chain = queue.build_desc_chain(&[RawDescriptor::from(writable)]).unwrap();
            let mut other = VsockPacket::from_rx_virtq_chain(&memory, &mut chain, 100).unwrap();
            other.set_header_from_raw(&wire).unwrap();
            prop_assert_eq!((header.source_cid, header.destination_cid), (other.src_cid(), other.dst_cid()));
            prop_assert_eq!((header.source_port, header.destination_port), (other.src_port(), other.dst_port()));
            prop_assert_eq!((header.length, header.kind, header.operation), (other.len(), other.type_(), other.op()));
            prop_assert_eq!((header.flags, header.buffer, header.forwarded), (other.flags(), other.buf_alloc(), other.fwd_cnt()));
        }

        #[test]
        fn operations_are_seven(number: u16) {
            prop_assert_eq!(Operation::from_number(number).map(|operation| operation as u16), (1..=7).contains(&number).then_some(number));
        }
    }
}
