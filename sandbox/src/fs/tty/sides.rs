//! The two sides of a terminal as open files.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::discipline::Found;
use super::{Terminal, controlling, ioctl};
use crate::errno::{Errno, Result};
use crate::fs::devpts::Instance;
use crate::kernel::credentials::Credentials;
use crate::kernel::task::{Pid, Process};
use crate::kernel::wait::{Ready, WaitQueue};
use crate::platform::{buffer, process};
use crate::syscalls::Call;
use crate::vfs::anonymous;
use crate::vfs::file::{File, OpenFile, Position, Sink, Source};
use crate::vfs::node::{Attributes, OpenRequest};

/// The program's side.
pub struct Slave {
    pub(super) terminal: Arc<Terminal>,
}

/// The side of a program that shows the terminal.
pub struct Master {
    pub(super) terminal: Arc<Terminal>,
}

fn attributes(number: u32) -> Attributes {
    let mut shown = anonymous::attributes(u64::from(number) + 3, libc::S_IFCHR | 0o620, 1024);
    shown.rdev = libc::makedev(136 + number / 256, number % 256);
    shown
}

impl Slave {
    /// Opens a terminal's slave side.
    pub fn open(terminal: Arc<Terminal>) -> Arc<Slave> {
        terminal.open_slaves.fetch_add(1, Ordering::SeqCst);
        terminal.state.lock().used = true;
        Arc::new(Slave { terminal })
    }

    /// Makes the terminal the controlling one of a new session's leader.
    pub fn adopt(&self, leader: &Process) {
        self.terminal.adopt(leader);
    }
}

impl File for Slave {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, _: Position) -> Result<usize> {
        self.terminal.check_foreground(libc::SIGTTIN)?;
        let wanted = into.remaining();
        if wanted == 0 {
            return Ok(0);
        }
        let mut arm = false;
        let result = buffer::with(|buffer| {
            let most = wanted.min(4096);
            let mut state = self.terminal.state.lock();
            let least = state.discipline.termios.characters[libc::VMIN];
            let time = state.discipline.termios.characters[libc::VTIME];
            let raw = !state.discipline.termios.local(libc::ICANON);
            match state.discipline.read(&mut buffer[..most]) {
                Found::Bytes(length) => {
                    state.expired = false;
                    let timer = state.timer.take();
                    drop(state);
                    drop(timer);
                    into.put(&buffer[..length])?;
                    Ok(length)
                }
                Found::Nothing if state.hung_up => Ok(0),
                Found::Nothing if raw && least == 0 && (time == 0 || state.expired) => {
                    state.expired = false;
                    let timer = state.timer.take();
                    drop(state);
                    drop(timer);
                    Ok(0)
                }
                Found::Nothing => {
                    arm = raw && least == 0;
                    Err(Errno::EAGAIN)
                }
            }
        });
        if arm {
            self.terminal.arm();
        }
        if result.is_ok() {
            self.terminal.masters.wake(Ready::WRITABLE);
        }
        result
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, _: Position) -> Result<usize> {
        if self.terminal.state.lock().discipline.termios.local(libc::TOSTOP) {
            self.terminal.check_foreground(libc::SIGTTOU)?;
        }
        let written = buffer::with(|buffer| {
            if self.terminal.state.lock().hung_up {
                return Err(Errno::EIO);
            }
            if !self.terminal.state.lock().discipline.has_room() {
                return Err(Errno::EAGAIN);
            }
            let mut total = 0;
            while from.remaining() > 0 && self.terminal.state.lock().discipline.has_room() {
                // A small piece: what is taken from the caller must find room.
                let taken = from.take(&mut buffer[..1024])?;
                let mut at = 0;
                let mut state = self.terminal.state.lock();
                while at < taken {
                    let more = state.discipline.write(&buffer[at..taken]);
                    if more == 0 {
                        break;
                    }
                    at += more;
                }
                total += at;
                if at < taken {
                    break;
                }
            }
            Ok(total)
        })?;
        self.terminal.masters.wake(Ready::READABLE);
        Ok(written)
    }

    fn poll(&self) -> Ready {
        let state = self.terminal.state.lock();
        let mut ready = Ready::empty();
        if state.discipline.readable() || state.hung_up {
            ready |= Ready::READABLE;
        }
        if state.discipline.has_room() {
            ready |= Ready::WRITABLE;
        }
        if state.hung_up {
            ready |= Ready::HUP | Ready::ERR;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.slaves)
    }

    fn ioctl(&self, _: &OpenFile, call: &Call, command: u32, argument: u64) -> Result<i64> {
        ioctl::common(&self.terminal, call, command, argument)
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(attributes(self.terminal.number))
    }

    fn description(&self) -> String {
        format!("/dev/pts/{}", self.terminal.number)
    }

    fn reopen(&self, _: OpenRequest, _: &Credentials) -> Result<Arc<dyn File>> {
        Ok(Slave::open(self.terminal.clone()))
    }

    /// A session leader without a terminal that opens one gets it as its controlling terminal (setsid(2)).
    fn opened(&self, _: &OpenFile, call: &Call, flags: i32) {
        let process = &call.process;
        let leads = process::session(process.pid) == Ok(process.pid);
        if flags & libc::O_NOCTTY == 0 && leads && controlling(process).is_none() {
            self.terminal.adopt(process);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Master {
    /// Makes a terminal: `/dev/ptmx` is opened by this user.
    pub fn create(instance: &Arc<Instance>, uid: u32) -> Result<Arc<Master>> {
        Ok(Arc::new(Master { terminal: instance.create(uid, true)? }))
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.terminal.hang_up();
        if let Some(instance) = self.terminal.instance() {
            instance.remove(self.terminal.number);
        }
    }
}

impl File for Master {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, _: Position) -> Result<usize> {
        buffer::with(|buffer| {
            let most = into.remaining().min(buffer.len());
            if most == 0 {
                return Ok(0);
            }
            let mut state = self.terminal.state.lock();
            // TIOCPKT: a zero byte before data.
            let lead = usize::from(state.packets);
            let length = state.discipline.take_output(&mut buffer[lead..most.max(lead)]);
            if length == 0 {
                let gone = state.used && self.terminal.open_slaves.load(Ordering::SeqCst) == 0;
                return Err(if gone { Errno::EIO } else { Errno::EAGAIN });
            }
            drop(state);
            if lead == 1 {
                buffer[0] = 0;
            }
            into.put(&buffer[..length + lead])?;
            self.terminal.slaves.wake(Ready::WRITABLE);
            Ok(length + lead)
        })
    }

    fn write(&self, _: &OpenFile, from: &mut dyn Source, _: Position) -> Result<usize> {
        buffer::with(|buffer| {
            let taken = from.take(&mut buffer[..4096])?;
            self.terminal.receive(&buffer[..taken]);
            Ok(taken)
        })
    }

    fn poll(&self) -> Ready {
        let state = self.terminal.state.lock();
        let mut ready = Ready::WRITABLE;
        if state.discipline.pending_output() > 0 {
            ready |= Ready::READABLE;
        }
        if state.used && self.terminal.open_slaves.load(Ordering::SeqCst) == 0 {
            ready |= Ready::HUP;
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.masters)
    }

    fn ioctl(&self, _: &OpenFile, call: &Call, command: u32, argument: u64) -> Result<i64> {
        ioctl::master(&self.terminal, call, command, argument)
    }

    fn attributes(&self) -> Result<Attributes> {
        let mut shown = attributes(0);
        shown.rdev = libc::makedev(5, 2);
        Ok(shown)
    }

    fn description(&self) -> String {
        String::from("/dev/ptmx")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A group as the terminal keeps it, from a number of the caller's container.
pub(super) fn outer_group(call: &Call, inner: i32) -> Result<Pid> {
    if inner <= 0 {
        return Err(Errno::EINVAL);
    }
    let members = crate::kernel::signal::of_container(&call.process.container);
    for member in members {
        // A member that dies meanwhile has no group any more.
        let Ok(group) = process::group(member.pid) else { continue };
        let shown = if group == member.pid { member.inner } else { crate::kernel::fork::inner_number(&call.process.container, group) };
        if shown == inner || (shown == 0 && process::inner_group(member.pid) == Ok(inner)) {
            return Ok(group);
        }
    }
    Err(Errno::ESRCH)
}
