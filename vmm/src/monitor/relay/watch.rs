//! Descriptors on the relay's epoll instance (epoll(7)), level-triggered.
//!
//! An error and a hang-up are reported whether anybody asked or not: a descriptor from which nothing is wanted is taken off, or the loop would spin on it.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing: not even its end is seen.
    Nothing,
    /// These; errors and hang-ups as well.
    Events(EpollFlags),
}

/// A descriptor that is watched while it lives. It is taken off the instance by name, not by closing it: its open file description may be others' too.
#[derive(Debug)]
pub(super) struct Watched<T: AsFd> {
    inner: T,
    epoll: Arc<Epoll>,
    token: u64,
    wanted: Wanted,
    /// Not so for regular files and for devices like /dev/null, which are always ready.
    pollable: bool,
}

impl<T: AsFd> Watched<T> {
    /// Watched for nothing yet.
    pub fn new(epoll: &Arc<Epoll>, token: u64, inner: T) -> Self {
        Self { inner, epoll: epoll.clone(), token, wanted: Wanted::Nothing, pollable: true }
    }

    /// Changes what is waited for.
    pub fn want(&mut self, wanted: Wanted) -> io::Result<()> {
        if wanted == self.wanted || !self.pollable {
            return Ok(());
        }
        let event = |flags| EpollEvent::new(flags, self.token);
        let done = match (self.wanted, wanted) {
            (_, Wanted::Nothing) => self.epoll.delete(&self.inner),
            (Wanted::Nothing, Wanted::Events(flags)) => self.epoll.add(&self.inner, event(flags)),
            (Wanted::Events(_), Wanted::Events(flags)) => self.epoll.modify(&self.inner, &mut event(flags)),
        };
        match done {
            Ok(()) => self.wanted = wanted,
            // "The target file does not support epoll" (epoll_ctl(2)).
            Err(Errno::EPERM) => self.pollable = false,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Whether it can be waited for, as far as that has shown.
    pub fn is_pollable(&self) -> bool {
        self.pollable
    }

    /// The descriptor.
    pub fn get(&self) -> &T {
        &self.inner
    }
}

impl<T: AsFd> Drop for Watched<T> {
    fn drop(&mut self) {
        let _ = self.want(Wanted::Nothing);
    }
}

/// Bytes on their way to a descriptor.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.sent);
        self.sent = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes as many as are taken. Those that are not wait: `Ok`, too.
    pub fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        while !self.is_empty() {
            match write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::epoll::EpollCreateFlags;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_dropped_is_watched_no_more_though_others_have_it_open() {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::empty()).unwrap());
        let (here, mut there) = UnixStream::pair().unwrap();
        let _other = here.try_clone().unwrap();
        let mut watched = Watched::new(&epoll, 7, here);
        watched.want(Wanted::Events(EpollFlags::EPOLLIN)).unwrap();
        there.write_all(b"x").unwrap();
        let mut events = [EpollEvent::empty(); 2];
        assert_eq!(epoll.wait(&mut events, 0u8).unwrap(), 1);
        assert_eq!(events[0].data(), 7);
        drop(watched);
        assert_eq!(epoll.wait(&mut events, 0u8).unwrap(), 0);
    }

    #[test]
    fn a_file_is_always_ready() {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::empty()).unwrap());
        let mut watched = Watched::new(&epoll, 1, std::fs::File::open("/dev/null").unwrap());
        watched.want(Wanted::Events(EpollFlags::EPOLLIN)).unwrap();
        assert!(!watched.pollable);
    }

    #[test]
    fn bytes_that_are_not_taken_wait() {
        let mut outgoing = Outgoing::default();
        outgoing.push(b"abc");
        let mut room = 2;
        let mut seen = Vec::new();
        let mut write = |bytes: &[u8]| {
            let length = bytes.len().min(room);
            room -= length;
            seen.extend_from_slice(&bytes[..length]);
            if length == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(length) }
        };
        outgoing.flush(&mut write).unwrap();
        assert_eq!(outgoing.len(), 1);
        outgoing.push(b"d");
        let write = |bytes: &[u8]| {
            seen.extend_from_slice(bytes);
            Ok(bytes.len())
        };
        outgoing.flush(write).unwrap();
        assert_eq!(seen, b"abcd");
        assert!(outgoing.is_empty());
    }
}
