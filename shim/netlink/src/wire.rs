//! Netlink's framing (netlink(7)): messages of a header, a fixed structure and attributes, all aligned to four bytes, in the
//! machine's byte order except where a field says otherwise.

use std::net::IpAddr;

/// A message that is not what its type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(pub(crate) &'static str);

/// `nlmsghdr`: length, type, flags, sequence number, port.
pub(crate) const HEADER: usize = 16;
/// `nlattr`: length, type.
const ATTRIBUTE_HEADER: usize = 4;

/// The next multiple of four (`NLMSG_ALIGN`, `NLA_ALIGN`).
pub(crate) fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The attributes of a message under construction.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// Appends an attribute. Its value is short: the longest here is a nest of a few dozen bytes.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(ATTRIBUTE_HEADER + value.len()).expect("an attribute that this crate writes is short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    /// Appends a number.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a string, with the final NUL that most of the kernel's attributes want.
    pub(crate) fn put_text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.put(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// Appends an Internet address, in network byte order.
    pub(crate) fn put_address(&mut self, kind: u16, value: IpAddr) -> &mut Self {
        self.put(kind, &octets(value))
    }

    /// Appends an attribute that holds attributes. Without `NLA_F_NESTED`: traffic control's strict parsers take both, its older ones
    /// only this.
    pub(crate) fn nest(&mut self, kind: u16, build: impl FnOnce(&mut Writer)) -> &mut Self {
        let mut inner = Writer::default();
        build(&mut inner);
        self.put(kind, &inner.0)
    }
}

/// A request without its sequence number.
#[derive(Debug)]
pub(crate) struct Request {
    /// `RTM_NEWLINK` and the like.
    pub(crate) kind: u16,
    /// `NLM_F_CREATE` and the like; the socket adds `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub(crate) flags: i32,
    /// The family's fixed structure.
    pub(crate) fixed: Vec<u8>,
    /// What follows it.
    pub(crate) attributes: Writer,
}

impl Request {
    /// A request whose fixed structure is the concatenation of `fields`.
    pub(crate) fn new(kind: u16, flags: i32, fields: &[&[u8]]) -> Request {
        Request { kind, flags, fixed: fields.concat(), attributes: Writer::default() }
    }

    /// The bytes to send.
    pub(crate) fn encode(&self, flags: i32, sequence: u32) -> Vec<u8> {
        let length = HEADER + aligned(self.fixed.len()) + self.attributes.0.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&u32::try_from(length).expect("a request of this crate is short").to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&((self.flags | flags) as u16).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        // The port: zero, the kernel's own.
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.fixed);
        bytes.resize(HEADER + aligned(self.fixed.len()), 0);
        bytes.extend_from_slice(&self.attributes.0);
        bytes
    }
}

/// A message that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Received<'_>, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let one = split(&mut rest, HEADER, |header| Some(u32::from_ne_bytes(*header.first_chunk()?) as usize));
        // What follows a broken message has no beginning.
        let message = one.map(|message| Received {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: u16::from_ne_bytes([message[6], message[7]]),
            sequence: u32::from_ne_bytes([message[8], message[9], message[10], message[11]]),
            payload: &message[HEADER..],
        });
        if message.is_none() {
            rest = &[];
        }
        Some(message.ok_or(Malformed("a message's length")))
    })
}

/// The attributes in a payload: their types, without the flags of `NLA_TYPE_MASK`, and values.
pub(crate) fn attributes(payload: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let one = split(&mut rest, ATTRIBUTE_HEADER, |header| Some(u16::from_ne_bytes(*header.first_chunk()?).into()));
        let attribute =
            one.map(|whole| (u16::from_ne_bytes([whole[2], whole[3]]) & libc::NLA_TYPE_MASK as u16, &whole[ATTRIBUTE_HEADER..]));
        if attribute.is_none() {
            rest = &[];
        }
        Some(attribute.ok_or(Malformed("an attribute's length")))
    })
}

/// Takes what begins with a header that holds its own length off the front of `rest`. None when the length is less than the header's
/// or more than there is.
fn split<'a>(rest: &mut &'a [u8], header: usize, length: impl FnOnce(&[u8]) -> Option<usize>) -> Option<&'a [u8]> {
    let length = length(rest)?;
    if length < header {
        return None;
    }
    let one = rest.get(..length)?;
    // The padding after the last one may be left out.
    *rest = rest.get(aligned(length)..).unwrap_or(&[]);
    Some(one)
}

/// Splits a payload into its fixed structure and the attributes after it.
pub(crate) fn fixed<const N: usize>(payload: &[u8]) -> Result<(&[u8; N], &[u8]), Malformed> {
    let (structure, _) = payload.split_first_chunk::<N>().ok_or(Malformed("it ends before its attributes"))?;
    Ok((structure, payload.get(aligned(N)..).unwrap_or(&[])))
}

/// A field of a structure or a whole attribute, in the machine's byte order.
pub(crate) fn number(value: &[u8]) -> Result<u32, Malformed> {
    Ok(u32::from_ne_bytes(*value.first_chunk().ok_or(Malformed("a number of 32 bits"))?))
}

/// A string attribute, without its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An Internet address: four or sixteen bytes.
pub(crate) fn address(value: &[u8]) -> Result<IpAddr, Malformed> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .map_err(|_| Malformed("an Internet address's length"))
}

/// An Internet address's bytes, in network byte order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The family of an Internet address (`AF_INET`, `AF_INET6`).
pub(crate) fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            values in proptest::collection::vec((0u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..20)), 0..8),
            sequence: u32,
        ) {
            let mut request = Request::new(16, libc::NLM_F_CREATE, &[&[1, 2, 3], &[4, 5]]);
            for (kind, value) in &values {
                request.attributes.put(*kind, value);
            }
            let bytes = request.encode(libc::NLM_F_REQUEST, sequence);
            let received: Vec<_> = messages(&bytes).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(received.len(), 1);
            prop_assert_eq!((received[0].kind, received[0].flags, received[0].sequence), (16, 0x401, sequence));
            let (structure, rest) = fixed::<5>(received[0].payload).unwrap();
            prop_assert_eq!(structure, &[1, 2, 3, 4, 5]);
            let read: Vec<_> = attributes(rest).map(|one| one.map(|(kind, value)| (kind, value.to_vec()))).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(read, values);
            // Cut anywhere, it is an error or less; it is never something else.
            for cut in 0..bytes.len() {
                prop_assert!(messages(&bytes[..cut]).all(|one| one.is_err()));
            }
        }

        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&bytes).count() <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
            let _ = fixed::<20>(&bytes).map(|(_, rest)| attributes(rest).count());
        }
    }
}
