//! Moving bytes one way, without blocking.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Everything that was there is delivered; more may come.
    Empty,
    /// The other side takes no more for now.
    Full,
    /// There would be more to do: others come first.
    Again,
    /// Everything is delivered and no more will come.
    Ended,
    /// The other side is gone.
    Broken,
}

/// Reads in a turn before others come first: with the scratch buffer, a mebibyte.
const READS: usize = 16;

/// One direction. Its memory is what could not be delivered at once: nothing while idle.
#[derive(Debug, Default)]
pub struct Pump {
    pending: Vec<u8>,
    delivered: usize,
    ended: bool,
}

impl Pump {
    /// Moves what there is, by way of `scratch`.
    pub fn run(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, scratch: &mut [u8]) -> Flow {
        if let Some(flow) = self.deliver(to) {
            return flow;
        }
        for _ in 0..READS {
            if self.ended {
                return Flow::Ended;
            }
            let length = match nix::unistd::read(from, scratch) {
                Ok(0) => 0,
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Flow::Empty,
                Err(Errno::EINTR) => continue,
                // A terminal's master says so when nobody has the terminal open; a connection when its other end broke it off.
                Err(_) => 0,
            };
            self.ended = length == 0;
            let mut rest = &scratch[..length];
            while !rest.is_empty() {
                match nix::unistd::write(to, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => {
                        self.pending = rest.to_vec();
                        return Flow::Full;
                    }
                    Err(_) => return Flow::Broken,
                }
            }
        }
        if self.ended { Flow::Ended } else { Flow::Again }
    }

    /// Delivers what is pending; a flow where that is the end of this turn.
    fn deliver(&mut self, to: BorrowedFd<'_>) -> Option<Flow> {
        while self.delivered < self.pending.len() {
            match nix::unistd::write(to, &self.pending[self.delivered..]) {
                Ok(written) => self.delivered += written,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Some(Flow::Full),
                Err(_) => return Some(Flow::Broken),
            }
        }
        (self.pending, self.delivered) = (Vec::new(), 0);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    fn pairs() -> [UnixStream; 4] {
        let ((writer, from), (to, reader)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        for end in [&from, &to, &reader] {
            end.set_nonblocking(true).unwrap();
        }
        [writer, from, to, reader]
    }

    #[test]
    fn ends_and_broken_ends_are_told_apart() {
        let [mut writer, from, to, mut reader] = pairs();
        let (mut pump, mut scratch) = (Pump::default(), [0; 8]);
        assert_eq!(pump.run(from.as_fd(), to.as_fd(), &mut scratch), Flow::Empty);
        writer.write_all(b"text, longer").unwrap();
        assert_eq!(pump.run(from.as_fd(), to.as_fd(), &mut scratch), Flow::Empty);
        let mut text = [0; 12];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"text, longer");
        writer.write_all(b"x").unwrap();
        drop(reader);
        assert_eq!(pump.run(from.as_fd(), to.as_fd(), &mut scratch), Flow::Broken);
        let [writer, from, to, _reader] = pairs();
        drop(writer);
        assert_eq!(Pump::default().run(from.as_fd(), to.as_fd(), &mut scratch), Flow::Ended);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn bytes_arrive_once_and_in_order(length in 0usize..3_000_000, scratch in 1usize..70_000) {
            let [mut writer, from, to, mut reader] = pairs();
            let sent: Vec<u8> = (0..length).map(|index| (index * 7 / 3) as u8).collect();
            let copy = sent.clone();
            let sender = std::thread::spawn(move || writer.write_all(&copy).unwrap());
            let (mut pump, mut scratch, mut received, mut buffer) = (Pump::default(), vec![0; scratch], Vec::new(), [0; 50_000]);
            loop {
                let flow = pump.run(from.as_fd(), to.as_fd(), &mut scratch);
                while let Ok(length) = reader.read(&mut buffer) {
                    received.extend_from_slice(&buffer[..length]);
                }
                match flow {
                    Flow::Ended => break,
                    Flow::Broken => panic!("broken"),
                    _ => std::thread::yield_now(),
                }
            }
            sender.join().unwrap();
            prop_assert!(received == sent);
        }
    }
}
