//! What is counted of a process, and to whom its session is accounted.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::errno::{Errno, Result};

/// What calls have read and written (proc_pid_io(5)).
#[derive(Default)]
pub struct Transfers {
    read: AtomicU64,
    written: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Transfers {
    /// Counts a call that has returned this value. What does not transfer bytes is not counted.
    pub fn count(&self, number: i64, value: i64) {
        let (bytes, calls) = match number {
            libc::SYS_read | libc::SYS_pread64 | libc::SYS_readv | libc::SYS_preadv | libc::SYS_preadv2 => (&self.read, &self.reads),
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 => {
                (&self.written, &self.writes)
            }
            _ => return,
        };
        bytes.fetch_add(value.max(0) as u64, Ordering::Relaxed);
        calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes read, bytes written, reads, writes.
    pub fn get(&self) -> [u64; 4] {
        [&self.read, &self.written, &self.reads, &self.writes].map(|count| count.load(Ordering::Relaxed))
    }
}

/// Who logged in (`loginuid`, `sessionid`): inherited by everything a session runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Login {
    /// `u32::MAX` for nobody.
    pub uid: u32,
    /// `u32::MAX` for none.
    pub session: u32,
}

impl Default for Login {
    fn default() -> Login {
        Login { uid: u32::MAX, session: u32::MAX }
    }
}

impl Login {
    /// Sets it. `EPERM` where it is set already and the caller has not the capability for it (`audit_set_loginuid()` in kernel/auditsc.c).
    pub fn set(&mut self, uid: u32, allowed: bool) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        if self.uid != u32::MAX && !allowed {
            return Err(Errno::EPERM);
        }
        let session = if uid == u32::MAX { u32::MAX } else { NEXT.fetch_add(1, Ordering::Relaxed) };
        *self = Login { uid, session };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_counted_by_call() {
        let transfers = Transfers::default();
        transfers.count(libc::SYS_read, 10);
        transfers.count(libc::SYS_pwrite64, 3);
        transfers.count(libc::SYS_openat, 3);
        assert_eq!(transfers.get(), [10, 3, 1, 1]);
    }

    #[test]
    fn a_login_is_set_once() {
        let mut login = Login::default();
        assert_eq!(login.set(1000, false), Ok(()));
        assert_eq!(login.set(0, false), Err(Errno::EPERM));
        assert_eq!((login.set(7, true), login.uid), (Ok(()), 7));
    }
}
