//! The monitor's main thread, from its first instruction to its end.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bulkhead_launch::{Words, log};
use bulkhead_protocol::guest::Boot;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::greeting::Door;
use super::relay::{Connector, Outcome, Relay, Sides, Trees};
use super::settings::{self, Given};
use super::tail::Tail;
use crate::jail;

/// A guest that runs.
pub(super) trait Guest {
    /// Readable once it has ended.
    fn ended(&self) -> BorrowedFd<'_>;

    /// How, in a person's words; none as long as it runs.
    fn end(&self) -> Option<String>;
}

/// A machine that runs, with what the relay needs of its devices.
pub(super) struct Wired {
    pub guest: Box<dyn Guest>,
    /// The vsock device.
    pub connect: Connector,
    /// The file-system device.
    pub trees: Box<dyn Trees>,
    /// Where the agent calls.
    pub door: Door,
}

/// What builds and starts the machine. It has left this thread, and every other, confined when it returns.
pub(super) type Wire = fn(Parts) -> Result<Wired, String>;

/// What a machine is built from.
pub(super) struct Parts {
    pub given: Given,
    /// Where the guest's console and serial port go.
    pub tail: Tail,
}

/// Bytes for the guest's source of random numbers.
const ENTROPY: usize = 64;
/// How long a guest whose agent is gone may take to end by itself: its kernel panics, and says why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Becomes a serving monitor, and serves until the pod is over. `words` are gone once it has served.
pub(super) fn run(given: Given, words: &mut Option<Words>, wire: Wire) -> Result<(), String> {
    let settings = &given.settings;
    if settings.log
        && let Some(log) = settings::log()
    {
        log::open(log, settings.log_format_json);
        log::set_debug(settings.debug);
    }
    let _ = nix::sys::prctl::set_name(c"bulkhead-vmm");
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let mut entropy = vec![0; ENTROPY];
    // From the host's tree: there is no such device in the jail.
    std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut entropy)).map_err(failed("/dev/urandom"))?;
    let (network, deadline, debug) = (settings.network.clone(), settings.deadline, settings.debug);
    jail::enter().map_err(failed("entering the jail"))?;

    let control = given.control.try_clone().map_err(failed("the control socket"))?;
    let tail = Tail::default();
    let wired = wire(Parts { given, tail: tail.clone() })?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
    let boot = Boot { entropy, time, network, debug };
    let agent = wired.door.greet(&boot, deadline, wired.guest.ended()).map_err(|error| {
        let how = wired.guest.end().map_or_else(String::new, |end| format!(" ({end})"));
        tail.explain(&format!("{error}{how}"))
    })?;
    let sides = Sides { control, connect: wired.connect, trees: wired.trees, ended: wired.guest.ended(), agent };
    // Never dropped: its connections close with the process, when the reason for its end has been written. Whoever sees them close may kill what is left of it.
    let relay = Box::leak(Box::new(Relay::new(sides).map_err(failed("the control relay"))?));
    words.take().map_or(Ok(()), Words::ready).map_err(failed("speaking to the parent"))?;
    match relay.run().map_err(failed("the control relay"))? {
        Outcome::Over => Ok(()),
        Outcome::GuestEnded => Err(tail.explain(&last_words(wired.guest.as_ref()))),
        Outcome::AgentEnded => {
            // The agent is the guest's init: its kernel has something to say about that.
            let _ = poll(
                &mut [PollFd::new(wired.guest.ended(), PollFlags::POLLIN)],
                PollTimeout::try_from(LAST_WORDS).unwrap_or(PollTimeout::ZERO),
            );
            Err(tail.explain(&format!("the guest's agent is gone; {}", last_words(wired.guest.as_ref()))))
        }
    }
}

fn last_words(guest: &dyn Guest) -> String {
    guest.end().map_or_else(|| String::from("the guest has not ended"), |end| format!("the guest has ended: {end}"))
}

/// Names what failed.
pub(super) fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}
