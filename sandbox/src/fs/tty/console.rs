//! The console of OCI: a terminal of ours whose master side is a wire to the client.
//!
//! The client expects the master of a *host* pseudo-terminal (runtime specification, `--console-socket`). Its slave, in raw mode, is the wire: what arrives
//! on it is what was typed, what is written to it is shown. All that a terminal does happens in our own line discipline.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::{Slave, Terminal};
use crate::errno::{Errno, Result};
use crate::kernel::container::Container;
use crate::kernel::credentials::Credentials;
use crate::kernel::kernel;
use crate::kernel::reactor::Watch;
use crate::kernel::wait::{Observation, Observer, Ready};
use crate::sync::Mutex;
use crate::vfs::file::OpenFile;
use crate::vfs::mount::Location;
use crate::vfs::walk::{self, Walk, WalkFlags};

/// The wire of a terminal.
pub struct Wire {
    slave: OwnedFd,
    terminal: Arc<Terminal>,
    /// What the wire has not taken yet.
    pending: Mutex<Vec<u8>>,
    watch: Mutex<Option<Watch>>,
    observation: Mutex<Option<Observation>>,
}

struct Arrival(Arc<Wire>);

impl Observer for Arrival {
    fn notify(&self, _: Ready) {
        self.0.receive();
        self.0.show();
    }
}

struct Output(std::sync::Weak<Wire>);

impl Observer for Output {
    fn notify(&self, _: Ready) {
        if let Some(wire) = self.0.upgrade() {
            wire.show();
        }
    }
}

impl Wire {
    /// Takes what was typed.
    fn receive(&self) {
        let mut bytes = [0u8; 4096];
        loop {
            match nix::unistd::read(&self.slave, &mut bytes) {
                Ok(0) | Err(nix::errno::Errno::EIO) => return self.cut(),
                Ok(length) => {
                    self.terminal.refresh_size();
                    self.terminal.receive(&bytes[..length]);
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return,
                Err(_) => return self.cut(),
            }
        }
    }

    /// Shows what was written.
    fn show(&self) {
        let mut pending = self.pending.lock();
        loop {
            if pending.is_empty() {
                let mut bytes = [0u8; 4096];
                let length = self.terminal.state.lock().discipline.take_output(&mut bytes);
                if length == 0 {
                    break;
                }
                pending.extend_from_slice(&bytes[..length]);
            }
            match nix::unistd::write(&self.slave, &pending) {
                Ok(written) => drop(pending.drain(..written)),
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        drop(pending);
        self.terminal.slaves.wake(Ready::WRITABLE);
    }

    /// The client has let go of its end.
    fn cut(&self) {
        self.terminal.hang_up();
        let watch = self.watch.lock().take();
        let observation = self.observation.lock().take();
        drop(observation);
        if let Some(watch) = watch {
            kernel().reactor.forget(self.slave.as_fd(), watch);
        }
    }

    fn size(&self) -> Option<[u16; 4]> {
        let mut size = [0u16; 4];
        // SAFETY: the host writes the four shorts of `struct winsize`.
        let done = unsafe { libc::ioctl(self.slave.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
        (done == 0 && size != [0; 4]).then_some(size)
    }
}

impl Terminal {
    /// Asks the wire, where there is one, for the size that the client has set.
    pub(super) fn refresh_size(&self) {
        let wire = self.instance().and_then(|instance| instance.wire(self.number));
        if let Some(size) = wire.and_then(|wire| wire.size()) {
            self.set_size(size);
        }
    }
}

/// Makes the console of a new process: sends the master to the client and gives the slave, opened.
pub fn console(container: &Arc<Container>, socket: Option<OwnedFd>, size: (u16, u16), who: Arc<Credentials>) -> Result<Arc<OpenFile>> {
    let socket = socket.ok_or(Errno::ENOTCONN)?;
    let (master, slave) = host_pair()?;
    let terminal = container.terminals.create(who.uid, false)?;
    let wire = Arc::new(Wire {
        slave,
        terminal: terminal.clone(),
        pending: Mutex::default(),
        watch: Mutex::new(None),
        observation: Mutex::new(None),
    });
    let (rows, columns) = size;
    if rows != 0 && columns != 0 {
        terminal.set_size([rows, columns, 0, 0]);
        let size = [rows, columns, 0, 0];
        // SAFETY: the host reads the four shorts of `struct winsize`.
        unsafe { libc::ioctl(wire.slave.as_raw_fd(), libc::TIOCSWINSZ, size.as_ptr()) };
    }
    send_master(&socket, &master)?;
    drop(master);
    let opened = Slave::open(terminal.clone());
    container.terminals.connect(terminal.number, wire.clone());
    *wire.observation.lock() = Some(terminal.masters.observe(Ready::READABLE, Arc::new(Output(Arc::downgrade(&wire)))));
    let watch = kernel().reactor.watch(wire.slave.as_fd(), Ready::IN | Ready::OUT, Arc::new(Arrival(wire.clone())))?;
    *wire.watch.lock() = Some(watch);
    let location = place(container, terminal.number);
    Ok(OpenFile::new(opened, location, libc::O_RDWR, who))
}

/// Where the terminal stands in the container's tree, if it has a devpts.
pub(super) fn place(container: &Container, number: u32) -> Option<Location> {
    let root = container.mounts.root.root_location();
    let who = Credentials::kernel();
    walk::resolve(&Walk { root: &root, start: &root, who: &who, flags: WalkFlags::empty() }, format!("/dev/pts/{number}").as_bytes()).ok()
}

/// A pseudo-terminal of the host: master, and slave in raw mode without blocking.
fn host_pair() -> Result<(OwnedFd, OwnedFd)> {
    use nix::fcntl::{FcntlArg, OFlag};
    crate::fs::host::identity::assume_kernel();
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::fcntl::open("/dev/pts/ptmx", flags, nix::sys::stat::Mode::empty())?;
    let unlocked = 0i32;
    // SAFETY: TIOCSPTLCK reads one int.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) } < 0 {
        return Err(Errno::last());
    }
    // SAFETY: TIOCGPTPEER takes flags by value and gives a new descriptor.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    if slave < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the host has just made this descriptor for us.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    let mut raw = nix::sys::termios::tcgetattr(&slave)?;
    nix::sys::termios::cfmakeraw(&mut raw);
    nix::sys::termios::tcsetattr(&slave, nix::sys::termios::SetArg::TCSANOW, &raw)?;
    nix::fcntl::fcntl(&slave, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((master, slave))
}

/// Sends the master as runc does: one message with the terminal's name, and the descriptor.
fn send_master(socket: &OwnedFd, master: &OwnedFd) -> Result<()> {
    let fds = [master.as_raw_fd()];
    let name = std::io::IoSlice::new(b"/dev/ptmx");
    sendmsg::<()>(socket.as_raw_fd(), &[name], &[ControlMessage::ScmRights(&fds)], MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Sets the size of a container's console.
pub fn resize(container: &Container, rows: u16, columns: u16) -> Result<()> {
    let terminal = container.terminals.find(0).ok_or(Errno::ENOTTY)?;
    terminal.set_size([rows, columns, 0, 0]);
    Ok(())
}
