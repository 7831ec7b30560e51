//! signalfd(2): signals as a file.
//!
//! A signalfd is a set of signals and nothing else: what a read finds is what is pending *for the reader*, thread and process, and so is whether it is
//! readable ([`crate::kernel::signal_queue`]). A child that inherits one reads its own signals by it.
//!
//! Whoever looks at it is remembered with its process, and is told when a signal for that process may have come ([`Listeners`]).

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::errno::{Errno, Result};
use crate::kernel::signal_queue;
use crate::kernel::task;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::sync::Mutex;
use crate::vfs::anonymous;
use crate::vfs::file::{File, OpenFile};
use crate::vfs::node::Attributes;

/// `SIGKILL` and `SIGSTOP` are silently left out of every set.
const NEVER: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);

/// A signalfd.
pub struct SignalFile {
    mask: AtomicU64,
    queue: WaitQueue,
    inode: u64,
    own: Weak<SignalFile>,
}

/// The signalfds that threads of one process look at.
#[derive(Default)]
pub struct Listeners(Mutex<Vec<Weak<SignalFile>>>);

impl Listeners {
    fn add(&self, file: &Weak<SignalFile>) {
        let mut files = self.0.lock();
        if !files.iter().any(|known| known.ptr_eq(file)) {
            files.retain(|known| known.strong_count() > 0);
            files.push(file.clone());
        }
    }

    /// A signal for the process may have come. Call it with no lock held.
    pub fn wake(&self) {
        let files: Vec<Arc<SignalFile>> = {
            let files = self.0.lock();
            if files.is_empty() {
                return;
            }
            files.iter().filter_map(Weak::upgrade).collect()
        };
        for file in files {
            file.queue.wake(Ready::READABLE);
        }
    }
}

impl SignalFile {
    /// Of this set.
    pub fn create(mask: u64) -> Arc<SignalFile> {
        Arc::new_cyclic(|own| SignalFile {
            mask: AtomicU64::new(mask & !NEVER),
            queue: WaitQueue::new(),
            inode: anonymous::next_inode(),
            own: own.clone(),
        })
    }

    /// The signalfd behind an open file. `EINVAL` where it is something else.
    pub fn of(open: &OpenFile) -> Result<&SignalFile> {
        open.file.as_any().downcast_ref::<SignalFile>().ok_or(Errno::EINVAL)
    }

    /// Its set.
    pub fn mask(&self) -> u64 {
        self.mask.load(Ordering::SeqCst)
    }

    /// Gives it another set.
    pub fn set_mask(&self, mask: u64) {
        self.mask.store(mask & !NEVER, Ordering::SeqCst);
        self.queue.wake(Ready::READABLE);
    }
}

impl File for SignalFile {
    /// Whether the thread whose call is being served has a signal of the set pending.
    fn poll(&self) -> Ready {
        let Some(thread) = task::current() else { return Ready::empty() };
        if let Some(process) = thread.process() {
            process.signal_files.add(&self.own);
        }
        if signal_queue::pending(thread.tid, self.mask()) != 0 { Ready::READABLE } else { Ready::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(anonymous::attributes(self.inode, 0o600, 4096))
    }

    fn description(&self) -> String {
        String::from("anon_inode:[signalfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_caught_is_not_in_the_set() {
        let file = SignalFile::create(u64::MAX);
        assert_eq!(file.mask() & NEVER, 0);
        file.set_mask(NEVER | 1);
        assert_eq!(file.mask(), 1);
    }
}
