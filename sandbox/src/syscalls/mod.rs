//! System calls: one table, one file per family.
//!
//! A handler is thin: it decodes registers and workload memory into types, calls a kernel object, encodes the result.
//! Each family file exports a `TABLE` of [`Entry`]s; [`lookup`] joins them. What no family lists is `ENOSYS`, and is counted.

use std::sync::OnceLock;

use crate::errno::Result;
use crate::kernel::park::Parked;

mod attributes;
mod call;
mod copy;
mod descriptor;
mod directory;
mod event;
mod exec;
mod identity;
mod io;
mod io_priority;
mod memory;
mod message;
mod open;
mod pidfd;
mod poll;
mod process;
mod signal;
mod socket;
mod socket_options;
mod system;
mod timer;
mod trace;

pub use bulkhead_protocol::system_calls as names;
pub use call::Call;
pub use open::LARGE_FILE;

/// What the kernel calls itself.
pub mod system_names {
    pub use super::system::{RELEASE, VERSION};
}

pub use trace::{Seen, trace};

/// What a handler made of a call.
pub enum Outcome {
    /// The call is done: this is its value.
    Value(i64),
    /// The host executes it. Only where registers alone decide (design, invariant 2); every handler that answers it says why.
    Continue,
    /// It waits.
    Park(Parked),
    /// This answers it, on a thread of its own since it waits for the host: run when the call does not count as parked any more.
    Elsewhere(Box<dyn FnOnce() + Send>),
    /// Nobody is left to answer: the thread is gone.
    Gone,
}

impl From<usize> for Outcome {
    fn from(value: usize) -> Outcome {
        Outcome::Value(value as i64)
    }
}

impl From<()> for Outcome {
    fn from(_: ()) -> Outcome {
        Outcome::Value(0)
    }
}

/// A handler.
pub type Handler = fn(&Call) -> Result<Outcome>;

/// How `--strace` shows an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Argument {
    /// A signed number.
    Number,
    /// Hexadecimal: flags, addresses.
    Hex,
    /// Octal: modes.
    Octal,
    /// A descriptor.
    Descriptor,
    /// A directory descriptor or `AT_FDCWD`.
    Directory,
    /// A path in workload memory.
    Path,
    /// A pointer.
    Pointer,
    /// A signal's number.
    Signal,
}

/// One system call.
pub struct Entry {
    /// Its number on x86-64.
    pub number: i64,
    /// Its name, as in syscalls(2).
    pub name: &'static str,
    /// What serves it.
    pub handler: Handler,
    /// Its arguments.
    pub arguments: &'static [Argument],
    /// Whether it may block on the *host* (disk, locks of the host): another worker takes over the receiving first.
    pub blocks_host: bool,
}

impl Entry {
    /// A call that does not block on the host.
    pub const fn new(number: i64, name: &'static str, handler: Handler, arguments: &'static [Argument]) -> Entry {
        Entry { number, name, handler, arguments, blocks_host: false }
    }

    /// The same, for a call that may block on the host.
    pub const fn blocking(mut self) -> Entry {
        self.blocks_host = true;
        self
    }
}

/// One above the highest call number that is looked at; x32 numbers and garbage are past it.
pub const NUMBERS: usize = 512;

/// Every family's table.
const FAMILIES: &[&[Entry]] = &[
    attributes::TABLE,
    copy::TABLE,
    descriptor::TABLE,
    directory::TABLE,
    event::TABLE,
    exec::TABLE,
    io::TABLE,
    io_priority::TABLE,
    memory::TABLE,
    open::TABLE,
    pidfd::TABLE,
    poll::TABLE,
    identity::TABLE,
    process::TABLE,
    signal::TABLE,
    message::TABLE,
    socket::TABLE,
    socket_options::TABLE,
    system::TABLE,
    timer::TABLE,
];

/// The entry of a number; `None` is `ENOSYS`.
pub fn lookup(number: i64) -> Option<&'static Entry> {
    static INDEX: OnceLock<Vec<Option<&'static Entry>>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut index = vec![None; NUMBERS];
        for entry in FAMILIES.iter().flat_map(|family| family.iter()) {
            index[entry.number as usize] = Some(entry);
        }
        index
    });
    usize::try_from(number).ok().and_then(|number| index.get(number).copied().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_served_twice() {
        let mut seen = std::collections::HashSet::new();
        for entry in FAMILIES.iter().flat_map(|family| family.iter()) {
            assert!(seen.insert(entry.number), "{} ({}) stands in two tables", entry.name, entry.number);
            assert!((entry.number as usize) < NUMBERS);
        }
    }

    #[test]
    fn served_calls_have_their_names() {
        for (number, name) in names::NAMES {
            if let Some(entry) = lookup(*number) {
                assert_eq!(entry.name, *name, "{number}");
            }
        }
    }
}
