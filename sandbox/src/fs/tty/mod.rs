//! Terminals (tty(4), pty(7)): pseudo-terminals wholly of this kernel.
//!
//! A [`Terminal`] is the pair: the line discipline ([`discipline`]) with a slave side for programs and a master side for whoever shows it. The master
//! is a program of the container (`/dev/ptmx`), or, for the console of OCI, a *wire*: a host pseudo-terminal in raw mode whose other end the
//! client holds ([`console`]).
//!
//! Sessions and process groups are the host's; which terminal controls which session is known here alone. Numbers of sessions and groups are those of the
//! kernel's own PID namespace; they are translated for programs at the ioctl.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crate::errno::{Errno, Result};
use crate::kernel::container::Container;
use crate::kernel::signal;
use crate::kernel::task::{self, Pid, Process};
use crate::kernel::timer::{Moment, Timer};
use crate::kernel::wait::{Observer, Ready, WaitQueue};
use crate::platform::process;
use crate::sync::Mutex;

mod console;
pub mod discipline;
mod ioctl;
mod sides;
pub mod termios;

pub use console::{Wire, console, resize};
pub use sides::{Master, Slave};

use discipline::Discipline;

/// A pseudo-terminal.
pub struct Terminal {
    /// N of `/dev/pts/N`.
    pub number: u32,
    state: Mutex<State>,
    /// Who waits on the program's side.
    slaves: WaitQueue,
    /// Who waits on the other side.
    masters: WaitQueue,
    open_slaves: AtomicUsize,
    instance: Weak<super::devpts::Instance>,
}

#[derive(Default)]
struct State {
    discipline: Discipline,
    /// Rows, columns, and two sizes in pixels.
    size: [u16; 4],
    /// The session that it controls; 0 for none.
    session: i32,
    /// The foreground process group; 0 for none.
    foreground: i32,
    /// The master is closed, or its wire is cut.
    hung_up: bool,
    /// A slave has been open at some time: only then is the master hung up without one.
    used: bool,
    locked: bool,
    packets: bool,
    exclusive: bool,
    /// `VTIME` of a read with `VMIN` 0 has passed.
    expired: bool,
    timer: Option<Timer>,
}

/// The end of a `VTIME`.
struct Expiry(Weak<Terminal>);

impl Observer for Expiry {
    fn notify(&self, _: Ready) {
        if let Some(terminal) = self.0.upgrade() {
            terminal.state.lock().expired = true;
            terminal.slaves.wake(Ready::READABLE);
        }
    }
}

impl Terminal {
    /// A fresh terminal with this number.
    pub fn new(number: u32, instance: Weak<super::devpts::Instance>, locked: bool) -> Arc<Terminal> {
        let state = State { locked, ..State::default() };
        Arc::new(Terminal {
            number,
            state: Mutex::new(state),
            slaves: WaitQueue::new(),
            masters: WaitQueue::new(),
            open_slaves: AtomicUsize::new(0),
            instance,
        })
    }

    /// The session that it controls.
    pub fn session(&self) -> i32 {
        self.state.lock().session
    }

    /// The foreground process group.
    pub fn foreground(&self) -> Pid {
        Pid(self.state.lock().foreground)
    }

    /// Input from the master's side.
    fn receive(&self, bytes: &[u8]) {
        let (signals, foreground) = {
            let mut state = self.state.lock();
            (state.discipline.receive(bytes), state.foreground)
        };
        for number in signals {
            let _ = signal::send_to_group(Pid(foreground), number);
        }
        self.slaves.wake(Ready::READABLE | Ready::WRITABLE);
        self.masters.wake(Ready::READABLE);
    }

    /// The master is gone: programs read end-of-file, and the session is told (`SIGHUP`, `SIGCONT`).
    fn hang_up(&self) {
        let (session, foreground) = {
            let mut state = self.state.lock();
            if state.hung_up {
                return;
            }
            state.hung_up = true;
            (std::mem::take(&mut state.session), std::mem::take(&mut state.foreground))
        };
        self.slaves.wake(Ready::all());
        for group in [session, foreground] {
            let _ = signal::send_to_group(Pid(group), libc::SIGHUP);
            let _ = signal::send_to_group(Pid(group), libc::SIGCONT);
        }
    }

    /// Sets the size; tells the foreground group where it is new.
    fn set_size(&self, size: [u16; 4]) {
        let foreground = {
            let mut state = self.state.lock();
            if state.size == size {
                return;
            }
            state.size = size;
            state.foreground
        };
        let _ = signal::send_to_group(Pid(foreground), libc::SIGWINCH);
    }

    /// Makes it the controlling terminal of a process's session, if the process leads one and neither has another.
    pub fn adopt(&self, leader: &Process) {
        let mut state = self.state.lock();
        if state.session == 0 {
            state.session = leader.pid.0;
            state.foreground = leader.pid.0;
        }
    }

    /// Job control (credentials(7)): a process of the session that is not in the foreground is stopped by `signal`, and its call is made again later.
    fn check_foreground(&self, number: i32) -> Result<()> {
        let Some(caller) = task::current().and_then(|thread| thread.process()) else { return Ok(()) };
        let (session, foreground) = {
            let state = self.state.lock();
            (state.session, state.foreground)
        };
        if session == 0 || foreground == 0 || process::session(caller.pid)? != Pid(session) {
            return Ok(());
        }
        let group = process::group(caller.pid)?;
        if group == Pid(foreground) {
            return Ok(());
        }
        let status = process::Status::read(caller.pid)?;
        let bit = 1u64 << (number - 1);
        if (status.ignored | status.blocked) & bit != 0 {
            return if number == libc::SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if is_orphaned(&caller, group) {
            return Err(Errno::EIO);
        }
        signal::send_to_group(group, number)?;
        Err(Errno::ERESTARTSYS)
    }

    /// Arms the `VTIME` of a read that may wait so long for its first byte.
    fn arm(self: &Arc<Self>) {
        let tenths = {
            let state = self.state.lock();
            if state.timer.is_some() {
                return;
            }
            state.discipline.termios.characters[libc::VTIME]
        };
        let moment = Moment::now().after(std::time::Duration::from_millis(u64::from(tenths) * 100));
        let timer = crate::kernel::kernel().timers.arm(moment, Arc::new(Expiry(Arc::downgrade(self))));
        self.state.lock().timer = Some(timer);
    }

    fn instance(&self) -> Option<Arc<super::devpts::Instance>> {
        self.instance.upgrade()
    }
}

/// Whether no member of a group has a parent in another group of its session: nobody could bring it back to the foreground.
fn is_orphaned(caller: &Process, group: Pid) -> bool {
    let session = process::session(caller.pid);
    !signal::members(group).iter().any(|member| {
        let parent = process::Status::read(member.pid).map_or(0, |status| status.parent);
        parent > 1 && process::group(Pid(parent)).is_ok_and(|theirs| theirs != group) && process::session(Pid(parent)) == session
    })
}

/// The caller's container.
fn container() -> Result<Arc<Container>> {
    task::current().and_then(|thread| thread.process()).map(|process| process.container.clone()).ok_or(Errno::ENXIO)
}

/// The terminal that controls a process's session.
pub fn controlling(process: &Process) -> Option<Arc<Terminal>> {
    let session = process::session(process.pid).ok()?.0;
    process.container.terminals.all().into_iter().find(|terminal| session != 0 && terminal.session() == session)
}

/// Opens a terminal device: `/dev/tty`, `/dev/console`, `/dev/ptmx`, `/dev/pts/N`.
pub fn open(major: u32, minor: u32) -> Result<Arc<dyn crate::vfs::file::File>> {
    let container = container()?;
    match (major, minor) {
        (5, 0) => {
            let process = task::current().and_then(|thread| thread.process()).ok_or(Errno::ENXIO)?;
            Ok(Slave::open(controlling(&process).ok_or(Errno::ENXIO)?))
        }
        (5, 1) => Ok(Slave::open(container.terminals.find(0).ok_or(Errno::ENXIO)?)),
        (5, 2) => {
            let who = task::current().map(|thread| thread.credentials.read().clone()).ok_or(Errno::ENXIO)?;
            Ok(Master::create(&container.terminals, who.fsuid)?)
        }
        (136..=143, minor) => {
            let terminal = container.terminals.find((major - 136) * 256 + minor).ok_or(Errno::EIO)?;
            let state = terminal.state.lock();
            if state.locked || state.hung_up {
                return Err(Errno::EIO);
            }
            if state.exclusive {
                return Err(Errno::EBUSY);
            }
            drop(state);
            Ok(Slave::open(terminal))
        }
        _ => Err(Errno::ENXIO),
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        if self.terminal.open_slaves.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.terminal.masters.wake(Ready::all());
        }
    }
}
