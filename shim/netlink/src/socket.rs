//! The socket: requests, acknowledgements, dumps.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket};

use crate::wire::{HEADER, Malformed, Request, aligned, attributes, fixed, messages, number, text};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses it, and often says why (`NLMSGERR_ATTR_MSG`).
    #[error("{}{}", errno.desc(), message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default())]
    Refused {
        /// The error.
        errno: Errno,
        /// The kernel's own words.
        message: Option<String>,
    },
    /// The socket fails.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// An answer is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The configuration changed during every attempt to read it.
    #[error("the network's configuration changes faster than it can be read")]
    Unstable,
}

impl Error {
    /// The error number of a refusal.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// Asks for the kernel's words with its refusals (`NETLINK_EXT_ACK`, Linux 4.12). An older kernel refuses without.
fn ask_for_words(socket: &OwnedFd) {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes at the pointer, which are those of `on`, and keeps nothing. Unsafe, because the type of
    // an option's value is between caller and kernel; nix has no name for this option.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, (&raw const on).cast(), length) };
}

/// The attribute that holds the words (`enum nlmsgerr_attrs`).
const NLMSGERR_ATTR_MSG: u16 = 1;
/// More than a datagram of a dump ever is: the kernel's are at most 32 KiB (`netlink_dump()`).
const BUFFER: usize = 64 << 10;
/// How often a dump that something else's change interrupted is begun again.
const ATTEMPTS: usize = 16;

/// A socket that speaks with the kernel about the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one.
    ///
    /// # Errors
    /// socket(2)'s.
    pub fn open() -> Result<Socket, Error> {
        let open = || -> nix::Result<OwnedFd> {
            let descriptor = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
            bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            ask_for_words(&descriptor);
            Ok(descriptor)
        };
        Ok(Socket { descriptor: open().map_err(io::Error::from)?, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends a request and waits for the kernel's verdict.
    pub(crate) fn request(&mut self, request: &Request) -> Result<(), Error> {
        self.send(request, libc::NLM_F_ACK)?;
        // With NLM_F_ACK the conversation always ends with an NLMSG_ERROR, of zero for success.
        while !self.receive(|_, _| Ok(()))?.ended {}
        Ok(())
    }

    /// Asks for all objects of a kind. `decode` gets the payload of each message of type `answer`.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        answer: u16,
        decode: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Error> {
        'attempts: for _ in 0..ATTEMPTS {
            self.send(request, libc::NLM_F_DUMP)?;
            let mut all = Vec::new();
            let mut interrupted = false;
            loop {
                let received = self.receive(|kind, payload| {
                    if kind == answer {
                        all.push(decode(payload)?);
                    }
                    Ok(())
                })?;
                interrupted |= received.interrupted;
                match (received.ended, interrupted) {
                    (false, _) => {}
                    (true, false) => return Ok(all),
                    (true, true) => continue 'attempts,
                }
            }
        }
        Err(Error::Unstable)
    }

    fn send(&mut self, request: &Request, flags: i32) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.encode(libc::NLM_F_REQUEST | flags, self.sequence);
        send(self.descriptor.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(io::Error::from)?;
        Ok(())
    }

    /// Receives a datagram of the current conversation.
    fn receive(&mut self, mut take: impl FnMut(u16, &[u8]) -> Result<(), Malformed>) -> Result<Received, Error> {
        let length = loop {
            match recv(self.descriptor.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                other => break other.map_err(io::Error::from)?,
            }
        };
        let datagram = self.buffer.get(..length).ok_or(Malformed("longer than any that the kernel sends"))?;
        let mut received = Received { ended: false, interrupted: false };
        for message in messages(datagram) {
            let message = message?;
            // What is left of a conversation that ended with an error.
            if message.sequence != self.sequence {
                continue;
            }
            received.interrupted |= i32::from(message.flags) & libc::NLM_F_DUMP_INTR != 0;
            match i32::from(message.kind) {
                libc::NLMSG_NOOP => {}
                libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                    verdict(&message)?;
                    received.ended = true;
                }
                _ => take(message.kind, message.payload)?,
            }
        }
        Ok(received)
    }
}

/// What a datagram said beside its objects.
struct Received {
    /// The conversation is over.
    ended: bool,
    /// What a dump has said so far may be inconsistent (`NLM_F_DUMP_INTR`).
    interrupted: bool,
}

/// An `NLMSG_ERROR` or `NLMSG_DONE`: success, or a negative error number, perhaps with words.
fn verdict(message: &crate::wire::Received<'_>) -> Result<(), Error> {
    // A dump's end may come without a number.
    if i32::from(message.kind) == libc::NLMSG_DONE && message.payload.len() < 4 {
        return Ok(());
    }
    let (code, rest) = fixed::<4>(message.payload)?;
    let code = i32::from_ne_bytes(*code);
    if code >= 0 {
        return Ok(());
    }
    Err(Error::Refused { errno: Errno::from_raw(code.saturating_neg()), message: words(message, rest).filter(|words| !words.is_empty()) })
}

/// The kernel's words, which follow the request that it sends back (whole, or with `NLM_F_CAPPED` its header).
fn words(message: &crate::wire::Received<'_>, rest: &[u8]) -> Option<String> {
    if i32::from(message.flags) & libc::NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let echoed = match i32::from(message.kind) {
        libc::NLMSG_DONE => 0,
        _ if i32::from(message.flags) & libc::NLM_F_CAPPED != 0 => HEADER,
        _ => aligned(number(rest).ok()? as usize),
    };
    attributes(rest.get(echoed..)?).find_map(|one| one.ok().filter(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)).map(|(_, words)| text(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Received;
    use proptest::prelude::*;

    #[test]
    fn a_refusal_is_told_in_the_kernels_words() {
        // EOPNOTSUPP about a request of 20 bytes, which comes back whole, then NLMSGERR_ATTR_MSG "no".
        let mut payload = (-libc::EOPNOTSUPP).to_ne_bytes().to_vec();
        payload.extend_from_slice(&20u32.to_ne_bytes());
        payload.extend_from_slice(&[0; 16]);
        payload.extend_from_slice(&[7, 0, 1, 0, b'n', b'o', 0]);
        let flags = libc::NLM_F_ACK_TLVS as u16;
        let error = verdict(&Received { kind: libc::NLMSG_ERROR as u16, flags, sequence: 0, payload: &payload }).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EOPNOTSUPP));
        assert!(error.to_string().ends_with("(no)"), "{error}");
        let silent = verdict(&Received { kind: libc::NLMSG_ERROR as u16, flags: 0, sequence: 0, payload: &payload }).unwrap_err();
        assert!(!silent.to_string().contains("(no)"), "{silent}");
        assert!(verdict(&Received { kind: libc::NLMSG_ERROR as u16, flags: 0, sequence: 0, payload: &[0; 20] }).is_ok());
    }

    #[test]
    fn every_namespace_has_a_loopback_interface() {
        let links = Socket::open().unwrap().links().unwrap();
        assert!(links.iter().any(|link| link.is_loopback() && link.name == "lo" && link.mac.is_none()), "{links:?}");
    }

    proptest! {
        #[test]
        fn a_hostile_verdict_is_an_error_or_none(kind in 2u16..4, flags: u16, payload in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = verdict(&Received { kind, flags, sequence: 0, payload: &payload });
        }
    }
}
