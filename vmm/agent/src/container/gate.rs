//! The gate: the socket between the agent and a process that stands before its program.
//!
//! The child says once that it is [`Word::Ready`] (with the master of its terminal, where it has one) or why it can not be; the agent lets it go with
//! one byte; then the socket closes by itself when the program is executed, or carries why it was not. When the agent closes its end
//! instead, the child ends.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use bulkhead_protocol::call::{Code, Refusal};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

/// The longest text that is sent; the rest is cut off.
const LONGEST: usize = 8192;

/// What the child says.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// It waits.
    Ready,
    /// It ends, and why.
    Failed(Refusal),
}

/// A pair of ends; the first is the agent's and does not block.
///
/// # Errors
/// socketpair(2)'s.
pub fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    Ok((ours, theirs))
}

/// Says something to the agent.
///
/// # Errors
/// `EPIPE` where the agent has closed its end.
pub fn say(gate: BorrowedFd<'_>, word: &Word, terminal: Option<BorrowedFd<'_>>) -> nix::Result<()> {
    let bytes = encode(word);
    let descriptors: Vec<RawFd> = terminal.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights };
    sendmsg::<()>(gate.as_raw_fd(), &[IoSlice::new(&bytes)], rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// What the child has said; none where it has closed its end.
///
/// # Errors
/// `EAGAIN` where it has said nothing yet.
pub fn hear(gate: BorrowedFd<'_>) -> nix::Result<Option<(Word, Option<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST + 8];
    let (length, terminal) = crate::system::receive(gate, &mut bytes)?;
    Ok((length > 0).then(|| (decode(&bytes[..length]), terminal)))
}

fn encode(word: &Word) -> Vec<u8> {
    match word {
        Word::Ready => vec![0],
        Word::Failed(refusal) => {
            let mut text = refusal.message.as_bytes();
            text = &text[..text.len().min(LONGEST)];
            [&[1][..], &(refusal.code as i32).to_le_bytes(), text].concat()
        }
    }
}

/// Until its program runs the child is this program; but then it may be any, for a moment.
fn decode(bytes: &[u8]) -> Word {
    match bytes {
        [0] => Word::Ready,
        [1, a, b, c, d, text @ ..] => {
            let code = Code::from_number(i32::from_le_bytes([*a, *b, *c, *d]));
            Word::Failed(Refusal::new(code, String::from_utf8_lossy(text)))
        }
        _ => Word::Failed(Refusal::new(Code::Internal, "the process said something that is no word of the gate's")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::errno::Errno;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_and_terminals_travel() {
        let (ours, theirs) = pair().unwrap();
        assert_eq!(hear(ours.as_fd()).unwrap_err(), Errno::EAGAIN);
        say(theirs.as_fd(), &Word::Ready, Some(theirs.as_fd())).unwrap();
        let (word, terminal) = hear(ours.as_fd()).unwrap().unwrap();
        assert_eq!(word, Word::Ready);
        drop((theirs, terminal.unwrap()));
        assert!(hear(ours.as_fd()).unwrap().is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_word(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn refusals_arrive_as_they_were_sent(message in "\\PC{0,200}") {
            let word = Word::Failed(Refusal::new(Code::NotFound, message));
            prop_assert_eq!(decode(&encode(&word)), word);
        }
    }
}
