//! Tap devices: network interfaces whose wire is a file (Linux's Documentation/networking/tuntap.rst).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// What the kernel makes names of: the first number that is free.
const TEMPLATE: &[u8; 6] = b"bulk%d";

/// Makes a tap device in the calling thread's network namespace: the file whose reads and writes are its frames, and its name. It lasts as
/// long as the file is open. Each frame comes with a `virtio_net_hdr` before it, so that checksums and segmentation can be left to the
/// other side. One queue: a second would need the file's holder to have a capability in the namespace to attach it, and a virtual
/// machine's monitor has none.
///
/// # Errors
/// `ENOENT` or `ENODEV` without the kernel's module, `EPERM` without `CAP_NET_ADMIN` in the namespace.
pub(super) fn create() -> io::Result<(File, String)> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let tap = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
    // SAFETY: the structure is plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(TEMPLATE) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the request reads and writes one `ifreq`, which outlives the call, and nothing else has it. Unsafe, because ioctl's argument is
    // whatever the request says.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The kernel leaves the name that it chose, which ends with a NUL (`IFNAMSIZ` counts it in).
    let name: Vec<u8> = request.ifr_name.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    Ok((tap, String::from_utf8_lossy(&name).into_owned()))
}
