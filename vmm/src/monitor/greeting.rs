//! Waiting for the agent: it calls first ([`bulkhead_protocol::guest`]).

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use bulkhead_protocol::guest::{Boot, FAILED, READY, read_message, write_message};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Why the agent does not serve.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// It has not called, or not said that it is ready.
    #[error("the guest's agent was not ready within {0:?}")]
    Late(Duration),
    /// The guest has ended first.
    #[error("the guest ended before its agent was ready")]
    Ended,
    /// It says why.
    #[error("the guest's agent: {0}")]
    Failed(String),
    /// It says something that nobody understands.
    #[error("the guest's agent spoke out of turn: {0}")]
    Malformed(String),
    /// The connection, or the host.
    #[error("speaking to the guest's agent: {0}")]
    Connection(#[from] io::Error),
}

/// Where connections of the agent's arrive: made on the thread of the vsock device, taken on the main one.
pub struct Door {
    calls: Receiver<UnixStream>,
    woken: EventFd,
}

/// The other side of a [`Door`].
pub struct Knocker {
    calls: Sender<UnixStream>,
    woken: OwnedFd,
}

impl Door {
    /// A door, and what knocks at it.
    ///
    /// # Errors
    /// The host's.
    pub fn new() -> io::Result<(Self, Knocker)> {
        let (sender, calls) = channel();
        let woken = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let knocker = Knocker { calls: sender, woken: woken.as_fd().try_clone_to_owned()? };
        Ok((Self { calls, woken }, knocker))
    }

    /// Waits for the agent's first connection, tells it what it is to know, and waits for its word. `ended` is readable once the guest has ended.
    ///
    /// # Errors
    /// [`GreetingError`].
    pub fn greet(&self, boot: &Boot, patience: Duration, ended: BorrowedFd<'_>) -> Result<UnixStream, GreetingError> {
        let until = Instant::now() + patience;
        wait(self.woken.as_fd(), ended, until, patience)?;
        let mut agent = self.calls.recv().map_err(io::Error::other)?;
        agent.set_nonblocking(false)?;
        // The rest of the patience, for each of the few reads and writes below: never none, which would be for ever.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        agent.set_read_timeout(Some(left))?;
        agent.set_write_timeout(Some(left))?;
        write_message(&agent, boot).map_err(|error| late(error, patience))?;
        wait(agent.as_fd(), ended, until, patience)?;
        let mut word = [0];
        match agent.read(&mut word).map_err(|error| late(error, patience))? {
            0 => Err(GreetingError::Malformed(String::from("it closed its connection without a word"))),
            _ if word[0] == READY => Ok(agent),
            _ if word[0] == FAILED => {
                let reason: String = read_message(&agent).map_err(|error| late(error, patience))?;
                Err(GreetingError::Failed(reason.chars().filter(|character| !character.is_control()).collect()))
            }
            _ => Err(GreetingError::Malformed(format!("byte {}", word[0]))),
        }
    }
}

impl Knocker {
    /// The agent has called.
    pub fn knock(&self, call: UnixStream) {
        // Where nobody listens any more, the call is dropped.
        if self.calls.send(call).is_ok() {
            let _ = nix::unistd::write(&self.woken, &1u64.to_ne_bytes());
        }
    }
}

fn late(error: io::Error, patience: Duration) -> GreetingError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => GreetingError::Late(patience),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => GreetingError::Malformed(error.to_string()),
        _ => GreetingError::Connection(error),
    }
}

/// Waits until one of them is readable.
fn wait(wanted: BorrowedFd<'_>, ended: BorrowedFd<'_>, until: Instant, patience: Duration) -> Result<(), GreetingError> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut both = [PollFd::new(wanted, PollFlags::POLLIN), PollFd::new(ended, PollFlags::POLLIN)];
        match poll(&mut both, timeout) {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(io::Error::from(error).into()),
            Ok(0) if left.is_zero() => return Err(GreetingError::Late(patience)),
            Ok(0) => {}
            Ok(_) if both[0].any().unwrap_or(false) => return Ok(()),
            Ok(_) => return Err(GreetingError::Ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_protocol::guest::Network;
    use proptest::prelude::*;
    use std::io::Write;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn boot() -> Boot {
        Boot { entropy: vec![1, 2, 3], time: 4, network: Network::default(), debug: false }
    }

    /// What comes of an agent that does this, within `patience`.
    fn greet(patience: Duration, agent: impl FnOnce(UnixStream) + Send + 'static) -> Result<UnixStream, GreetingError> {
        let (door, knocker) = Door::new().unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        let (ended, _end) = nix::unistd::pipe().unwrap();
        knocker.knock(here);
        let agent = std::thread::spawn(move || agent(there));
        let result = door.greet(&boot(), patience, ended.as_fd());
        agent.join().unwrap();
        result
    }

    #[test]
    fn an_agent_is_told_what_it_is_to_know_and_says_that_it_is_ready() {
        let result = greet(PATIENCE, |mut agent| {
            assert_eq!(read_message::<Boot>(&agent).unwrap(), boot());
            agent.write_all(&[READY]).unwrap();
        });
        // Nothing more is said, and the connection stays with who has greeted.
        assert_eq!(result.unwrap().read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn an_agent_that_can_not_serve_says_why() {
        let result = greet(PATIENCE, |mut agent| {
            read_message::<Boot>(&agent).unwrap();
            agent.write_all(&[FAILED]).unwrap();
            write_message(&agent, &"eth0: no\x1b[2J card").unwrap();
        });
        assert_eq!(result.unwrap_err().to_string(), "the guest's agent: eth0: no[2J card");
    }

    #[test]
    fn a_guest_that_ends_or_is_silent_is_told_apart() {
        let (door, _knocker) = Door::new().unwrap();
        let (ended, end) = nix::unistd::pipe().unwrap();
        let short = Duration::from_millis(50);
        assert!(matches!(door.greet(&boot(), short, ended.as_fd()), Err(GreetingError::Late(_))));
        nix::unistd::write(&end, b"x").unwrap();
        assert!(matches!(door.greet(&boot(), PATIENCE, ended.as_fd()), Err(GreetingError::Ended)));
        // Its end of the connection stays open until the other side has given up.
        let (keep, _kept) = std::sync::mpsc::channel();
        let silent = greet(short, move |agent| drop(read_message::<Boot>(&agent).map(|_| keep.send(agent))));
        assert!(matches!(silent, Err(GreetingError::Late(_))), "{silent:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
        #[test]
        fn hostile_words_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assume!(bytes.first() != Some(&READY));
            let result = greet(PATIENCE, move |mut agent| {
                read_message::<Boot>(&agent).unwrap();
                agent.write_all(&bytes).unwrap();
            });
            prop_assert!(result.is_err());
        }
    }
}
