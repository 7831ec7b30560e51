//! pidfd_open(2): a process as a file, readable once it is dead.

use std::any::Any;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::task::Process;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::vfs::anonymous;
use crate::vfs::file::{File, OpenFile};
use crate::vfs::node::Attributes;

/// A pidfd.
pub struct PidFile {
    /// `None` for one that was opened on a process already dead, which only its parent's wait(2) still knows.
    process: Option<Arc<Process>>,
    inode: u64,
}

impl PidFile {
    /// Of this process; `None` for a dead one.
    pub fn create(process: Option<Arc<Process>>) -> Arc<PidFile> {
        Arc::new(PidFile { process, inode: anonymous::next_inode() })
    }

    /// The process behind an open file. `EBADF` where it is no pidfd, `ESRCH` where the process is dead.
    pub fn process_of(open: &OpenFile) -> Result<Arc<Process>> {
        let file = open.file.as_any().downcast_ref::<PidFile>().ok_or(Errno::EBADF)?;
        file.process.clone().filter(|process| process.exit.get().is_none()).ok_or(Errno::ESRCH)
    }
}

impl File for PidFile {
    fn poll(&self) -> Ready {
        match &self.process {
            Some(process) if process.exit.get().is_none() => Ready::empty(),
            _ => Ready::READABLE,
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        static NEVER: std::sync::OnceLock<WaitQueue> = std::sync::OnceLock::new();
        Some(self.process.as_ref().map_or_else(|| NEVER.get_or_init(WaitQueue::new), |process| &process.exit.queue))
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(anonymous::attributes(self.inode, 0o600, 4096))
    }

    fn details(&self) -> String {
        // The process's number where it can be seen, -1 once it is gone.
        let living = self.process.as_ref().filter(|process| process.exit.get().is_none());
        let number = living.map_or(-1, |process| process.inner);
        format!("Pid:\t{number}\nNSpid:\t{number}\n")
    }

    fn description(&self) -> String {
        String::from("anon_inode:[pidfd]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::credentials::Credentials;

    #[test]
    fn a_dead_process_is_readable_and_takes_no_signal() {
        let file = PidFile::create(None);
        assert_eq!(file.poll(), Ready::READABLE);
        let open = OpenFile::new(file, None, libc::O_RDWR, Credentials::kernel());
        assert_eq!(PidFile::process_of(&open).err(), Some(Errno::ESRCH));
    }

    #[test]
    fn another_file_is_no_pidfd() {
        let event = crate::fs::eventfd::EventFile::create(0, false);
        let open = OpenFile::new(event, None, libc::O_RDWR, Credentials::kernel());
        assert_eq!(PidFile::process_of(&open).err(), Some(Errno::EBADF));
    }
}
