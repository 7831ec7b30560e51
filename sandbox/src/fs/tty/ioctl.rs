//! The calls of ioctl_tty(2).

use std::sync::Arc;

use super::sides::{Slave, outer_group};
use super::termios::{SIZE, Termios};
use super::{Terminal, controlling};
use crate::errno::{Errno, Result};
use crate::kernel::fork;
use crate::kernel::task::Pid;
use crate::kernel::wait::Ready;
use crate::platform::memory::Address;
use crate::platform::process;
use crate::syscalls::Call;
use crate::vfs::file::OpenFile;

/// `TCGETS2`, `TCSETS2`, `TCSETSW2`, `TCSETSF2`: the same with two speeds behind.
const GET_2: u64 = 0x802c_542a;
const SET_2: u64 = 0x402c_542b;
const SET_WAIT_2: u64 = 0x402c_542c;
const SET_FLUSH_2: u64 = 0x402c_542d;
const PACKET: u64 = 0x5420;
const NUMBER: u64 = 0x8004_5430;
const LOCK: u64 = 0x4004_5431;
const PEER: u64 = 0x5441;

/// Both sides' calls.
pub fn common(terminal: &Arc<Terminal>, call: &Call, command: u32, argument: u64) -> Result<i64> {
    let memory = call.memory();
    let at = Address(argument);
    match u64::from(command) {
        libc::TCGETS | GET_2 => {
            let bytes = terminal.state.lock().discipline.termios.encode();
            memory.write(at, &bytes)?;
            if u64::from(command) == GET_2 {
                memory.write_value(at.offset(SIZE as u64)?, &[38400u32, 38400])?;
            }
        }
        libc::TCSETS | libc::TCSETSW | libc::TCSETSF | SET_2 | SET_WAIT_2 | SET_FLUSH_2 => {
            terminal.check_foreground(libc::SIGTTOU)?;
            let bytes: [u8; SIZE] = memory.read_value(at)?;
            {
                let mut state = terminal.state.lock();
                if matches!(u64::from(command), libc::TCSETSF | SET_FLUSH_2) {
                    state.discipline.flush_input();
                }
                state.discipline.set(Termios::parse(&bytes));
            }
            terminal.slaves.wake(Ready::READABLE | Ready::WRITABLE);
        }
        libc::TIOCGWINSZ => {
            terminal.refresh_size();
            let size = terminal.state.lock().size;
            memory.write_value(at, &size)?;
        }
        libc::TIOCSWINSZ => terminal.set_size(memory.read_value(at)?),
        libc::TIOCGPGRP => {
            let (session, foreground) = owned(terminal, call)?;
            let _ = session;
            let inner = match foreground {
                0 => 0,
                group => match fork::inner_number(&call.process.container, Pid(group)) {
                    0 => process::inner_group(Pid(group)).unwrap_or(0),
                    number => number,
                },
            };
            memory.write_value(at, &inner)?;
        }
        libc::TIOCSPGRP => {
            // In the order of tiocspgrp() in drivers/tty/tty_jobctrl.c.
            terminal.check_foreground(libc::SIGTTOU)?;
            let inner: i32 = memory.read_value(at)?;
            if inner < 0 {
                return Err(Errno::EINVAL);
            }
            owned(terminal, call)?;
            let group = outer_group(call, inner)?;
            // A group of another session is nobody to give the terminal to.
            let theirs = crate::kernel::signal::members(group).first().map(|member| process::session(member.pid));
            if theirs != Some(Ok(Pid(terminal.session()))) {
                return Err(Errno::EPERM);
            }
            if process::session(call.process.pid)? != Pid(terminal.session()) {
                return Err(Errno::ENOTTY);
            }
            terminal.state.lock().foreground = group.0;
        }
        libc::TIOCGSID => {
            let (session, _) = owned(terminal, call)?;
            memory.write_value(at, &fork::inner_number(&call.process.container, Pid(session)))?;
        }
        libc::TIOCSCTTY => {
            let leads = process::session(call.process.pid)? == call.process.pid;
            let session = terminal.session();
            if session == call.process.pid.0 {
                return Ok(0);
            }
            if !leads || controlling(&call.process).is_some() || session != 0 {
                return Err(Errno::EPERM);
            }
            terminal.adopt(&call.process);
        }
        libc::TIOCNOTTY => {
            owned(terminal, call)?;
            if process::session(call.process.pid)? == call.process.pid {
                let mut state = terminal.state.lock();
                state.session = 0;
                state.foreground = 0;
            }
        }
        libc::TIOCEXCL => terminal.state.lock().exclusive = true,
        libc::TIOCNXCL => terminal.state.lock().exclusive = false,
        libc::FIONREAD => {
            let available = terminal.state.lock().discipline.available() as i32;
            memory.write_value(at, &available)?;
        }
        libc::TIOCOUTQ => {
            let pending = terminal.state.lock().discipline.pending_output() as i32;
            memory.write_value(at, &pending)?;
        }
        libc::TCFLSH => {
            let mut state = terminal.state.lock();
            match argument as i32 {
                libc::TCIFLUSH => state.discipline.flush_input(),
                libc::TCOFLUSH => state.discipline.flush_output(),
                libc::TCIOFLUSH => {
                    state.discipline.flush_input();
                    state.discipline.flush_output();
                }
                _ => return Err(Errno::EINVAL),
            }
        }
        libc::TCXONC => match argument as i32 {
            libc::TCOOFF => terminal.state.lock().discipline.stopped = true,
            libc::TCOON => {
                terminal.state.lock().discipline.stopped = false;
                terminal.slaves.wake(Ready::WRITABLE);
            }
            libc::TCIOFF | libc::TCION => {}
            _ => return Err(Errno::EINVAL),
        },
        libc::TCSBRK | libc::TCSBRKP | libc::TIOCSBRK | libc::TIOCCBRK => {}
        libc::TIOCSTI => return Err(Errno::EPERM),
        // TIOCGETD: N_TTY.
        0x5424 => memory.write_value(at, &0i32)?,
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

/// Session and foreground group, for those whose controlling terminal it is.
fn owned(terminal: &Terminal, call: &Call) -> Result<(i32, i32)> {
    let (session, foreground) = {
        let state = terminal.state.lock();
        (state.session, state.foreground)
    };
    if session == 0 || process::session(call.process.pid)? != Pid(session) { Err(Errno::ENOTTY) } else { Ok((session, foreground)) }
}

/// The master's own, and then the common ones.
pub fn master(terminal: &Arc<Terminal>, call: &Call, command: u32, argument: u64) -> Result<i64> {
    let memory = call.memory();
    let at = Address(argument);
    match u64::from(command) {
        NUMBER => memory.write_value(at, &terminal.number)?,
        LOCK => terminal.state.lock().locked = memory.read_value::<i32>(at)? != 0,
        PACKET => terminal.state.lock().packets = memory.read_value::<i32>(at)? != 0,
        PEER => {
            let location = super::console::place(&call.process.container, terminal.number);
            let file = OpenFile::new(Slave::open(terminal.clone()), location, argument as i32 & !libc::O_CLOEXEC, call.credentials());
            let close = argument as i32 & libc::O_CLOEXEC != 0;
            return Ok(i64::from(call.install(file, close)?.0));
        }
        libc::TIOCGPGRP => {
            let foreground = terminal.state.lock().foreground;
            memory.write_value(at, &fork::inner_number(&call.process.container, Pid(foreground)))?;
        }
        libc::TCSETS | libc::TCSETSW | libc::TCSETSF => {
            let bytes: [u8; SIZE] = memory.read_value(at)?;
            terminal.state.lock().discipline.set(Termios::parse(&bytes));
        }
        libc::FIONREAD => {
            let pending = terminal.state.lock().discipline.pending_output() as i32;
            memory.write_value(at, &pending)?;
        }
        _ => return common(terminal, call, command, argument),
    }
    Ok(0)
}
