//! Network interfaces by ioctl (netdevice(7)): reading, never changing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use super::host;
use crate::errno::{Errno, Result};
use crate::platform::memory::Address;
use crate::syscalls::Call;

/// `SIOCGIFCONF`.
const LIST: u32 = 0x8912;
/// `SIOCETHTOOL`.
const ETHTOOL: u32 = 0x8946;
/// Commands that fill a `struct ifreq`, whatever socket they are made on: SIOCGIFNAME, FLAGS, METRIC, MTU, HWADDR, INDEX, TXQLEN, MAP.
const READ: &[u32] = &[0x8910, 0x8913, 0x891d, 0x8921, 0x8927, 0x8933, 0x8942, 0x8970];
/// Those about addresses of version 4: SIOCGIFADDR, DSTADDR, BRDADDR, NETMASK. Other families do not have them.
const READ_INET: &[u32] = &[0x8915, 0x8917, 0x8919, 0x891b];
/// Commands that change routes, interfaces, the neighbour table, bridges, or ask a device itself.
const CHANGE: &[u32] = &[
    0x890b, 0x890c, 0x8911, 0x8914, 0x8916, 0x8918, 0x891a, 0x891c, 0x891e, 0x8922, 0x8923, 0x8924, 0x8931, 0x8932, 0x8936, 0x8937, 0x8943,
    0x8947, 0x8948, 0x8949, 0x8953, 0x8955, 0x8971, 0x8990, 0x8991, 0x89a0, 0x89a1, 0x89a2, 0x89a3,
];
/// What nothing has been behind for long: SIOCGIFMEM, SIOCSIFMEM, SIOCGIFENCAP, SIOCSIFENCAP, SIOCGIFSLAVE, SIOCSIFSLAVE, SIOCSIFPFLAGS, SIOCGIFPFLAGS.
const OBSOLETE: &[u32] = &[0x891f, 0x8920, 0x8925, 0x8926, 0x8929, 0x8930, 0x8934, 0x8935];
/// `SIOCGARP`, on a `struct arpreq` (arp(7)).
const NEIGHBOUR: u32 = 0x8954;

/// A host socket for these calls, whatever socket the workload makes them on.
fn socket() -> Result<BorrowedFd<'static>> {
    static SOCKET: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(socket) = SOCKET.get() {
        return Ok(socket.as_fd());
    }
    let fresh = host::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    Ok(SOCKET.get_or_init(|| fresh).as_fd())
}

/// An ioctl on a socket of this family (sock_do_ioctl() in Linux's net/socket.c). `ENOTTY` for what is no interface's.
pub fn ioctl(call: &Call, family: i32, command: u32, argument: u64) -> Result<i64> {
    let memory = call.memory();
    let at = Address(argument);
    if READ.contains(&command) || family == libc::AF_INET && READ_INET.contains(&command) {
        let mut request: [u8; 40] = memory.read_value(at)?;
        host::interface(socket()?, command, &mut request)?;
        memory.write_value(at, &request)?;
        return Ok(0);
    }
    match command {
        LIST => list(call, at),
        ETHTOOL => Err(Errno::EOPNOTSUPP),
        _ if CHANGE.contains(&command) => Err(Errno::EPERM),
        _ if OBSOLETE.contains(&command) => Err(Errno::EINVAL),
        NEIGHBOUR if family == libc::AF_INET => {
            let mut request: [u8; 68] = memory.read_value(at)?;
            host::neighbour(socket()?, &mut request)?;
            memory.write_value(at, &request)?;
            Ok(0)
        }
        // Bridges, and commands of a device's own.
        0x8940 | 0x8941 | 0x89f0..=0x89ff => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOTTY),
    }
}

/// `SIOCGIFCONF` with a `struct ifconf` in workload memory: a length, and where to.
fn list(call: &Call, at: Address) -> Result<i64> {
    let memory = call.memory();
    let [length, buffer]: [u64; 2] = memory.read_value(at)?;
    let all = host::interfaces(socket()?)?;
    let length = match Address(buffer).optional() {
        None => all.len(),
        Some(buffer) => {
            // Not even a negative room is an error.
            let room = usize::try_from(length as u32 as i32).unwrap_or(0);
            // Whole entries only.
            let length = all.len().min(room / 40 * 40);
            memory.write(buffer, &all[..length])?;
            length
        }
    };
    memory.write_value(at, &(length as i32))?;
    Ok(0)
}
