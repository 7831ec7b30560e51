//! The host's side: the four ways to the other end of a connection.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use vmm_sys_util::eventfd::EventFd;

use super::CONNECTIONS;

/// Takes the other end of a connection that the guest asked for. It runs on the device's event loop: it must not wait.
pub type Accept = Box<dyn FnMut(UnixStream) + Send>;

/// What a [`Handle`] wants of the device.
pub enum Command {
    /// Ask the guest for a connection to that port.
    Connect(u32, UnixStream),
    /// Give connections to that port to that function.
    Listen(u32, Accept),
    /// Accept clients there.
    Serve(UnixListener),
    /// Look for listeners there.
    Forward(OwnedFd, String),
}

#[derive(Default)]
struct Commands {
    queue: VecDeque<Command>,
    /// Those among them that are connections.
    connects: usize,
    /// The device is gone.
    closed: bool,
}

/// What handles and device share. The lock is held for moments, and no other is taken under it.
pub struct Shared {
    commands: Mutex<Commands>,
    wake: EventFd,
}

impl Shared {
    /// Nothing to do yet.
    ///
    /// # Errors
    /// The host's.
    pub fn new() -> io::Result<Self> {
        Ok(Self { commands: Mutex::default(), wake: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)? })
    }

    fn lock(&self) -> MutexGuard<'_, Commands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signalled when there are commands.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Takes all commands.
    pub fn take(&self) -> VecDeque<Command> {
        let _ = self.wake.read();
        let mut commands = self.lock();
        commands.connects = 0;
        std::mem::take(&mut commands.queue)
    }

    /// The device is gone: whoever waits for it, and whoever comes, is turned away.
    pub fn close(&self) {
        self.lock().closed = true;
        drop(self.take());
    }

    fn give(&self, command: Command) -> io::Result<()> {
        let mut commands = self.lock();
        if commands.closed {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the vsock device is gone"));
        }
        if matches!(command, Command::Connect(..)) {
            if commands.connects >= CONNECTIONS {
                let why = format!("{CONNECTIONS} connections wait for the guest's vsock driver already");
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
            commands.connects += 1;
        }
        commands.queue.push_back(command);
        drop(commands);
        // It fails only where the counter would overflow: then it is signalled.
        let _ = self.wake.write(1);
        Ok(())
    }
}

/// The host's handle on the device, for any thread.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// A handle.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Asks the guest for a connection to its port and returns our end at once. What is written to it waits until the guest has granted the connection; it
    /// is closed if the guest refuses, or is reset. While the guest's driver is not there the request waits for it.
    ///
    /// # Errors
    /// The host's; `NotConnected` if the device is gone; `WouldBlock` if too many wait.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.shared.give(Command::Connect(port, theirs))?;
        Ok(ours)
    }

    /// Gives connections that the guest asks for, to that port, to a function, which must not wait. A port's last listener counts.
    pub fn listen(&self, port: u32, accept: Accept) {
        // Without a device there are no connections to give.
        let _ = self.shared.give(Command::Listen(port, accept));
    }

    /// Connects clients of a Unix socket with the guest's ports: a client writes `CONNECT port\n`, and what it reads first is `OK hostport\n`, or
    /// an end of file if the guest refuses. Clients wait while the guest's driver is not there.
    ///
    /// # Errors
    /// The socket can not be made non-blocking; `NotConnected` if the device is gone.
    pub fn serve(&self, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        self.shared.give(Command::Serve(listener))
    }

    /// Connects the guest, where it asks for a port that nobody listens on in this process, with the Unix socket `NAME_PORT` in a directory. The last
    /// directory counts. It is found through /proc/self/fd: unix(7) has no `connectat`.
    ///
    /// # Errors
    /// The name is no file's, or too long for a socket's address (`InvalidInput`); `NotConnected` if the device is gone.
    pub fn forward(&self, directory: OwnedFd, name: String) -> io::Result<()> {
        if name.contains(['/', '\0']) || UnixAddr::new(path(i32::MAX, &name, u32::MAX).as_str()).is_err() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?}: not the beginning of a Unix socket's name")));
        }
        self.shared.give(Command::Forward(directory, name))
    }
}

fn path(directory: i32, name: &str, port: u32) -> String {
    format!("/proc/self/fd/{directory}/{name}_{port}")
}

/// Who gets connections that the guest asks for. It outlives activations.
#[derive(Default)]
pub struct Host {
    accept: HashMap<u32, Accept>,
    forward: Option<(OwnedFd, String)>,
    /// Sockets with clients, by their tokens' numbers.
    pub listeners: Vec<UnixListener>,
}

impl Host {
    /// Changes who listens on a port.
    pub fn listen(&mut self, port: u32, accept: Accept) {
        self.accept.insert(port, accept);
    }

    /// Changes where other ports lead.
    pub fn forward(&mut self, directory: OwnedFd, name: String) {
        self.forward = Some((directory, name));
    }

    /// Our end of a connection to that port; none: nobody is there.
    pub fn open(&mut self, port: u32) -> Option<UnixStream> {
        if let Some(accept) = self.accept.get_mut(&port) {
            let (ours, theirs) = UnixStream::pair().ok()?;
            accept(theirs);
            return Some(ours);
        }
        let (directory, name) = self.forward.as_ref()?;
        let address = UnixAddr::new(path(directory.as_raw_fd(), name, port).as_str()).ok()?;
        let ours = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).ok()?;
        // A Unix socket connects at once, or not: EAGAIN is a listener's full backlog.
        connect(ours.as_raw_fd(), &address).ok()?;
        Some(ours.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_port_leads_to_its_listener_or_to_its_socket_or_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let mut host = Host::default();
        assert!(host.open(7).is_none());
        host.forward(std::fs::File::open(directory.path()).unwrap().into(), "v.sock".into());
        assert!(host.open(7).is_none());
        let listener = UnixListener::bind(directory.path().join("v.sock_7")).unwrap();
        host.open(7).unwrap().write_all(b"socket").unwrap();
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "socket");
        let (sender, receiver) = std::sync::mpsc::channel();
        host.listen(7, Box::new(move |stream| sender.send(stream).unwrap()));
        host.open(7).unwrap().write_all(b"function").unwrap();
        text.clear();
        receiver.recv().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "function");
    }

    #[test]
    fn what_waits_is_bounded_and_ends_with_the_device() {
        let shared = Arc::new(Shared::new().unwrap());
        let handle = Handle::new(shared.clone());
        // As many as descriptors allow are enough to see that they are counted.
        let mut first = handle.connect(1).unwrap();
        shared.lock().connects = CONNECTIONS;
        assert_eq!(handle.connect(1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        shared.close();
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        assert_eq!(handle.connect(1).unwrap_err().kind(), io::ErrorKind::NotConnected);
        let directory = || OwnedFd::from(std::fs::File::open("/").unwrap());
        for name in ["a/b".to_owned(), "x".repeat(100), "a\0".to_owned()] {
            assert_eq!(handle.forward(directory(), name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
