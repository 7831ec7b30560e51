//! The host calls behind internet and netlink sockets: these and no others, each non-blocking.
//!
//! | call | for |
//! |---|---|
//! | socket, accept4 | making them, always `SOCK_NONBLOCK` and `SOCK_CLOEXEC` |
//! | bind, listen, connect, shutdown | the calls of the same name |
//! | getsockname, getpeername | names |
//! | sendto, sendmsg, recvfrom, recvmsg | data, always `MSG_DONTWAIT` and `MSG_NOSIGNAL`; the shorter forms where no address nor control data goes along |
//! | getsockopt, setsockopt | the options of [`super::options`] |
//! | ioctl | `FIONREAD`, `SIOCATMARK`, `SIOCOUTQ`, and what [`super::interface`] lists; none changes anything |
//! | poll | what is ready |
//! | fstat | a socket's number |
//!
//! Buffers passed here are this process's own: workload memory never reaches a host call on a socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::errno::{Errno, Result};
use crate::kernel::wait::Ready;
use crate::net::address::{LONGEST, Passed, SocketAddress};

fn check(value: libc::c_int) -> Result<libc::c_int> {
    if value < 0 { Err(Errno::last()) } else { Ok(value) }
}

fn counted(value: isize) -> Result<usize> {
    usize::try_from(value).map_err(|_| Errno::last())
}

/// socket(2). Needed unsafe: nix knows neither all families nor all protocols.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: integers only.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the host has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// accept4(2): a connection, and with whom.
pub fn accept(fd: BorrowedFd<'_>) -> Result<(OwnedFd, SocketAddress)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let mut bytes = [0u8; LONGEST];
    let mut length = LONGEST as u32;
    // SAFETY: `bytes` has room for the `length` that the host is told.
    let fd = check(unsafe { libc::accept4(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &mut length, flags) })?;
    // SAFETY: the host has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok((fd, SocketAddress::decode(&bytes[..LONGEST.min(length as usize)])?))
}

/// bind(2).
pub fn bind(fd: BorrowedFd<'_>, address: &Passed) -> Result<()> {
    let bytes = address.bytes();
    // SAFETY: the pointer and length are those of `bytes`, which outlive the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len() as u32) }).map(drop)
}

/// connect(2).
pub fn connect(fd: BorrowedFd<'_>, address: &Passed) -> Result<()> {
    let bytes = address.bytes();
    // SAFETY: the pointer and length are those of `bytes`, which outlive the call.
    check(unsafe { libc::connect(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len() as u32) }).map(drop)
}

/// listen(2).
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

/// shutdown(2).
pub fn shutdown(fd: BorrowedFd<'_>, how: i32) -> Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::shutdown(fd.as_raw_fd(), how) }).map(drop)
}

/// getsockname(2), or getpeername(2).
pub fn name(fd: BorrowedFd<'_>, peer: bool) -> Result<SocketAddress> {
    let mut bytes = [0u8; LONGEST];
    let mut length = LONGEST as u32;
    // SAFETY: `bytes` has room for the `length` that the host is told.
    let result = unsafe {
        if peer {
            libc::getpeername(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &mut length)
        } else {
            libc::getsockname(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &mut length)
        }
    };
    check(result)?;
    SocketAddress::decode(&bytes[..LONGEST.min(length as usize)])
}

/// Sends bytes, with an address and control data where there are any.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], flags: i32, to: Option<&Passed>, control: &[u8]) -> Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // An address of no length is not the same as none: some protocols refuse it.
    let (address, address_length) = to.map_or((std::ptr::null(), 0), |to| (to.bytes().as_ptr(), to.bytes().len() as u32));
    if control.is_empty() {
        // SAFETY: both pointers go with their lengths (null with 0), and their buffers outlive the call, which only reads them.
        return counted(unsafe { libc::sendto(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags, address.cast(), address_length) });
    }
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a structure of integers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = address.cast_mut().cast();
    header.msg_namelen = address_length;
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_ptr().cast_mut().cast();
    header.msg_controllen = control.len();
    // SAFETY: every pointer in the header goes with its length, and the buffers outlive the call, which only reads them.
    counted(unsafe { libc::sendmsg(fd.as_raw_fd(), &header, flags) })
}

/// Receives from a connection: bytes alone.
pub fn receive(fd: BorrowedFd<'_>, into: &mut [u8], flags: i32) -> Result<usize> {
    // SAFETY: pointer and length are those of `into`, which this call alone holds.
    counted(unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            into.as_mut_ptr().cast(),
            into.len(),
            flags | libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    })
}

/// What [`receive_message`] got.
pub struct Message {
    /// As recvmsg(2) returns it: with `MSG_TRUNC`, more than the buffer takes.
    pub length: usize,
    /// From whom; `None` where the host does not say.
    pub from: Option<SocketAddress>,
    /// `msg_flags`.
    pub flags: i32,
    /// Control data.
    pub control: Vec<u8>,
}

/// Receives with address, flags, and up to `control` bytes of control data.
pub fn receive_message(fd: BorrowedFd<'_>, into: &mut [u8], flags: i32, control: usize) -> Result<Message> {
    let mut name = [0u8; LONGEST];
    let mut control = vec![0u8; control];
    let mut vector = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: a structure of integers and pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = LONGEST as u32;
    header.msg_iov = &mut vector;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len();
    }
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: every pointer in the header goes with its length, and this call alone holds the buffers.
    let length = counted(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, flags) })?;
    control.truncate(header.msg_controllen);
    let from = SocketAddress::decode(&name[..LONGEST.min(header.msg_namelen as usize)]).ok();
    Ok(Message { length, from, flags: header.msg_flags & !libc::MSG_CMSG_CLOEXEC, control })
}

/// getsockopt(2), into at most `room` bytes.
pub fn option(fd: BorrowedFd<'_>, level: i32, name: i32, room: usize) -> Result<Vec<u8>> {
    let mut value = vec![0u8; room];
    let mut length = room as u32;
    // SAFETY: `value` has room for the `length` that the host is told.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &mut length) })?;
    value.truncate(length as usize);
    Ok(value)
}

/// setsockopt(2).
pub fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<()> {
    // SAFETY: pointer and length are those of `value`, which outlives the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as u32) }).map(drop)
}

/// An ioctl(2) that gives an `int`. The caller has checked that the command is one of those.
pub fn number(fd: BorrowedFd<'_>, command: u32) -> Result<i32> {
    let mut value: libc::c_int = 0;
    // SAFETY: these commands write one int where the pointer says.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(command), &mut value) })?;
    Ok(value)
}

/// An ioctl(2) on a `struct ifreq`. The caller has checked that the command is one of those that fill such a structure in place.
pub fn interface(fd: BorrowedFd<'_>, command: u32, request: &mut [u8; 40]) -> Result<()> {
    // SAFETY: these commands read and write a `struct ifreq`, 40 bytes on x86-64, where the pointer says, and hold no pointer in it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(command), request.as_mut_ptr()) }).map(drop)
}

/// `SIOCGSTAMP` or `SIOCGSTAMPNS`: when the last message came, as a `struct timeval` or `struct timespec`. The caller has checked that it is one of those.
pub fn time_stamp(fd: BorrowedFd<'_>, command: u32) -> Result<[i64; 2]> {
    let mut stamp = [0i64; 2];
    // SAFETY: both commands write two longs where the pointer says.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(command), stamp.as_mut_ptr()) })?;
    Ok(stamp)
}

/// `SIOCGARP`: an entry of the neighbour table.
pub fn neighbour(fd: BorrowedFd<'_>, request: &mut [u8; 68]) -> Result<()> {
    // SAFETY: the command reads and writes a `struct arpreq`, 68 bytes with no pointer in it, where the pointer says.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), 0x8954, request.as_mut_ptr()) }).map(drop)
}

/// `SIOCGIFCONF`: the `struct ifreq`s of every interface with an address.
pub fn interfaces(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut list = vec![0u8; 40 * 256];
    let mut request =
        libc::ifconf { ifc_len: list.len() as i32, ifc_ifcu: libc::__c_anonymous_ifc_ifcu { ifcu_buf: list.as_mut_ptr().cast() } };
    // SAFETY: `request` names `list` with its length, and both outlive the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), 0x8912, &mut request) })?;
    list.truncate(usize::try_from(request.ifc_len).unwrap_or(0));
    Ok(list)
}

/// poll(2) without waiting: everything that is ready.
pub fn ready(fd: BorrowedFd<'_>) -> Ready {
    let all = Ready::READABLE | Ready::WRITABLE | Ready::PRI | Ready::RDBAND | Ready::WRBAND | Ready::RDHUP;
    let mut asked = libc::pollfd { fd: fd.as_raw_fd(), events: all.bits() as i16, revents: 0 };
    // SAFETY: one structure, and the count says so.
    let polled = unsafe { libc::poll(&mut asked, 1, 0) };
    if polled < 0 { Ready::empty() } else { Ready::from_bits_truncate(asked.revents as u16 as u32) }
}

/// The number of a socket on the host.
pub fn inode(fd: &OwnedFd) -> u64 {
    nix::sys::stat::fstat(fd.as_fd()).map_or(0, |status| status.st_ino)
}
