//! The console of OCI: a terminal of the host's whose master goes to the client.
//!
//! The client expects the master of a *host* pseudo-terminal (runtime specification, `--console-socket`). Its slave, in raw mode, is a wire: what arrives
//! on it is what was typed, what is written to it is shown. The terminal that the workload has is in the guest.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// Rows and columns.
pub(super) type Size = (u16, u16);

/// A pseudo-terminal: its master, and its slave in raw mode, which does not block.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open("/dev/pts/ptmx", flags, Mode::empty())?;
    let unlocked = 0i32;
    // SAFETY: TIOCSPTLCK reads one int, which lives through the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    // SAFETY: TIOCGPTPEER takes flags by value and gives a new descriptor.
    let slave = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) })?;
    // SAFETY: the host has just made this descriptor for us. Unsafe, because ioctl returns numbers.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    let mut raw = tcgetattr(&slave)?;
    cfmakeraw(&mut raw);
    tcsetattr(&slave, SetArg::TCSANOW, &raw)?;
    fcntl(&slave, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((master, slave))
}

/// Sends the master as runc does: one message with the terminal's name, and the descriptor.
pub(super) fn send_master(socket: BorrowedFd<'_>, master: &OwnedFd) -> io::Result<()> {
    let descriptors = [master.as_raw_fd()];
    let name = io::IoSlice::new(b"/dev/ptmx");
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &[name], &[ControlMessage::ScmRights(&descriptors)], flags, None)?;
    Ok(())
}

/// The size that the client has set; none where it has set none.
pub(super) fn size(terminal: impl AsFd) -> Option<Size> {
    // SAFETY: the structure is plain data, for which zeros are a value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the request writes one `winsize`, which lives through the call.
    let done = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (done == 0 && (size.ws_row, size.ws_col) != (0, 0)).then_some((size.ws_row, size.ws_col))
}

/// Sets its size.
pub(super) fn set_size(terminal: impl AsFd, (rows, columns): Size) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads one `winsize`, which lives through the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wire_carries_bytes_as_they_are_and_the_clients_size() {
        let (master, slave) = pair().unwrap();
        assert_eq!(size(&slave), None);
        set_size(&master, (24, 80)).unwrap();
        assert_eq!(size(&slave), Some((24, 80)));
        nix::unistd::write(&master, b"\x03a\r").unwrap();
        let mut typed = [0; 8];
        assert_eq!(nix::unistd::read(&slave, &mut typed).unwrap(), 3);
        assert_eq!(&typed[..3], b"\x03a\r");
        assert_eq!(nix::unistd::read(&slave, &mut typed).unwrap_err(), Errno::EAGAIN);
    }
}
