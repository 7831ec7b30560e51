//! eventfd(2): a counter that can be waited for.

use std::any::Any;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::wait::{Ready, WaitQueue};
use crate::sync::Mutex;
use crate::vfs::anonymous;
use crate::vfs::file::{File, OpenFile, Position, Sink, Source};
use crate::vfs::node::Attributes;

/// The largest value it holds: a write that would pass it waits.
const MOST: u64 = u64::MAX - 1;

/// An eventfd.
pub struct EventFile {
    value: Mutex<u64>,
    semaphore: bool,
    queue: WaitQueue,
    inode: u64,
}

impl EventFile {
    /// With this value at first.
    pub fn create(value: u64, semaphore: bool) -> Arc<EventFile> {
        Arc::new(EventFile { value: Mutex::new(value), semaphore, queue: WaitQueue::new(), inode: anonymous::next_inode() })
    }

    /// Adds to the counter. `EAGAIN` where the sum would be too large, `EINVAL` for the one value that never fits. A call that waits for
    /// room reads its eight bytes once and comes back here, since a source gives them only once.
    pub fn add(&self, added: u64) -> Result<()> {
        if added == u64::MAX {
            return Err(Errno::EINVAL);
        }
        {
            let mut value = self.value.lock();
            *value = value.checked_add(added).filter(|sum| *sum <= MOST).ok_or(Errno::EAGAIN)?;
        }
        self.queue.wake(Ready::READABLE);
        Ok(())
    }
}

impl File for EventFile {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, _: Position) -> Result<usize> {
        if into.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let taken = {
            let mut value = self.value.lock();
            if *value == 0 {
                return Err(Errno::EAGAIN);
            }
            let taken = if self.semaphore { 1 } else { *value };
            *value -= taken;
            taken
        };
        self.queue.wake(Ready::WRITABLE);
        into.put(&taken.to_ne_bytes())?;
        Ok(8)
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, _: Position) -> Result<usize> {
        if from.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0u8; 8];
        from.take(&mut bytes)?;
        self.add(u64::from_ne_bytes(bytes))?;
        Ok(8)
    }

    fn poll(&self) -> Ready {
        match *self.value.lock() {
            0 => Ready::WRITABLE,
            MOST => Ready::READABLE,
            _ => Ready::READABLE | Ready::WRITABLE,
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(anonymous::attributes(self.inode, 0o600, 4096))
    }

    fn details(&self) -> String {
        format!("eventfd-count: {:16x}\neventfd-id: {}\neventfd-semaphore: {}\n", *self.value.lock(), self.inode, u8::from(self.semaphore))
    }

    fn description(&self) -> String {
        String::from("anon_inode:[eventfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_that_is_too_large_changes_nothing() {
        let file = EventFile::create(MOST - 1, false);
        assert_eq!(file.add(2), Err(Errno::EAGAIN));
        assert_eq!(file.add(u64::MAX), Err(Errno::EINVAL));
        assert_eq!(file.add(1), Ok(()));
        assert_eq!(file.poll(), Ready::READABLE);
    }
}
