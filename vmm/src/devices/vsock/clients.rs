//! Clients of [`super::Handle::serve`]'s sockets that have not said yet where they want to go.

use std::collections::BTreeMap;
use std::os::unix::net::{UnixListener, UnixStream};

use super::sockets::{self, Token, Watch};
use super::{CLIENTS, LONGEST_LINE};

/// What has come of a client.
#[derive(Debug)]
pub enum Asked {
    /// Its line is not complete.
    NotYet,
    /// A guest's port.
    Port(u32, UnixStream),
}

struct Client {
    socket: UnixStream,
    line: Vec<u8>,
}

/// The clients.
#[derive(Default)]
pub struct Clients {
    /// The oldest have the smallest numbers.
    clients: BTreeMap<u64, Client>,
    next_id: u64,
}

impl Clients {
    /// Accepts whoever waits at a listener.
    pub fn accept(&mut self, listener: &UnixListener, watch: &Watch) {
        // Where descriptors are short the next client brings those who wait along.
        while let Ok((socket, _)) = listener.accept() {
            while self.clients.len() >= CLIENTS {
                self.clients.pop_first();
            }
            if watch.add(&socket, Token::Client(self.next_id)).is_ok() {
                self.clients.insert(self.next_id, Client { socket, line: Vec::new() });
                self.next_id += 1;
            }
        }
    }

    /// Reads what a client has written, up to the end of its line and not a byte further: those after it are the guest's.
    pub fn read(&mut self, id: u64) -> Asked {
        let Some(client) = self.clients.get_mut(&id) else { return Asked::NotYet };
        while client.line.len() < LONGEST_LINE {
            let mut bytes = [0; LONGEST_LINE];
            let room = LONGEST_LINE - client.line.len();
            let count = match sockets::peek(&client.socket, &mut bytes[..room]) {
                Ok(None) => return Asked::NotYet,
                Ok(Some(0)) | Err(_) => break,
                Ok(Some(count)) => count,
            };
            let end = bytes[..count].iter().position(|byte| *byte == b'\n');
            let count = end.map_or(count, |end| end + 1);
            let Ok(Some(count)) = sockets::read(&client.socket, &mut bytes[..count]) else { break };
            client.line.extend(&bytes[..count]);
            if end.is_some() {
                let Some(port) = port(&client.line) else { break };
                return self.clients.remove(&id).map_or(Asked::NotYet, |client| Asked::Port(port, client.socket));
            }
        }
        self.clients.remove(&id);
        Asked::NotYet
    }
}

/// The port in `CONNECT port\n`.
fn port(line: &[u8]) -> Option<u32> {
    let number = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?.strip_suffix('\n')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};

    #[test]
    fn a_line_names_a_port() {
        assert_eq!(port(b"CONNECT 52\n"), Some(52));
        assert_eq!(port(b"CONNECT 4294967295\n"), Some(u32::MAX));
        for line in ["CONNECT 4294967296\n", "CONNECT \n", "CONNECT +5\n", "connect 5\n", "CONNECT 5", "CONNECT 5\r\n", "CONNECT  5\n"] {
            assert_eq!(port(line.as_bytes()), None, "{line:?}");
        }
    }

    fn listener() -> (tempfile::TempDir, UnixListener, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        (directory, listener, path)
    }

    #[test]
    fn a_client_may_write_its_line_in_pieces_and_go_on_after_it() {
        let (_directory, listener, path) = listener();
        let (mut clients, watch) = (Clients::default(), Watch::new().unwrap());
        let mut client = UnixStream::connect(&path).unwrap();
        clients.accept(&listener, &watch);
        client.write_all(b"CONN").unwrap();
        assert!(matches!(clients.read(0), Asked::NotYet));
        client.write_all(b"ECT 7\nhello").unwrap();
        let Asked::Port(7, mut socket) = clients.read(0) else { panic!("no port") };
        let mut bytes = [0; 5];
        socket.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        assert!(clients.clients.is_empty());
    }

    #[test]
    fn clients_that_do_not_get_on_are_turned_away() {
        let (_directory, listener, path) = listener();
        let (mut clients, watch) = (Clients::default(), Watch::new().unwrap());
        let mut wordy = UnixStream::connect(&path).unwrap();
        clients.accept(&listener, &watch);
        wordy.write_all(&[b'x'; LONGEST_LINE]).unwrap();
        assert!(matches!(clients.read(0), Asked::NotYet));
        assert_eq!(wordy.read(&mut [0]).unwrap(), 0);
        let mut oldest = UnixStream::connect(&path).unwrap();
        let silent: Vec<_> = (0..CLIENTS)
            .map(|_| {
                clients.accept(&listener, &watch);
                UnixStream::connect(&path).unwrap()
            })
            .collect();
        clients.accept(&listener, &watch);
        assert_eq!((clients.clients.len(), silent.len()), (CLIENTS, CLIENTS));
        assert_eq!(oldest.read(&mut [0]).unwrap(), 0);
        drop(silent);
        (0..=clients.next_id).for_each(|id| assert!(matches!(clients.read(id), Asked::NotYet)));
        assert!(clients.clients.is_empty());
    }

    proptest! {
        #[test]
        fn any_line_is_a_port_or_none(line in proptest::collection::vec(any::<u8>(), 0..LONGEST_LINE)) {
            if let Some(port) = port(&line) {
                let text = String::from_utf8(line).unwrap();
                prop_assert_eq!(text.trim_start_matches("CONNECT ").trim_start_matches('0').trim_end().parse().unwrap_or(0), port);
            }
        }
    }
}
