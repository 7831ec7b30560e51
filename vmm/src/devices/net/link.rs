//! What the card is plugged into.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use thiserror::Error;

use super::configuration::{GUEST_CSUM, GUEST_TSO4, GUEST_TSO6};
use super::header;

mod raw {
    // linux/if_tun.h.
    nix::ioctl_write_int_bad!(tunsetoffload, nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>()));
    nix::ioctl_read_bad!(tungetiff, nix::request_code_read!(b'T', 210, size_of::<libc::c_uint>()), libc::ifreq);
    nix::ioctl_write_ptr_bad!(tunsetvnethdrsz, nix::request_code_write!(b'T', 216, size_of::<libc::c_int>()), libc::c_int);
}

/// `TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6`: what may come out of the tap.
const OFFLOADS: [(u64, u64); 3] = [(GUEST_CSUM, 1), (GUEST_CSUM | GUEST_TSO4, 2), (GUEST_CSUM | GUEST_TSO6, 4)];

/// Something that packets are read from and written to, one a call, each behind a [`header`]. It doesn't block.
pub trait Link: Send + Sync {
    /// Says what the driver takes: large packets, packets without a checksum.
    ///
    /// # Errors
    /// The host's.
    fn offload(&self, features: u64) -> io::Result<()>;

    /// Its descriptor.
    fn descriptor(&self) -> BorrowedFd<'_>;
}

/// Why a file can't be the link.
#[derive(Debug, Error)]
pub enum TapError {
    /// file is not a tap
    #[error("file is not a tap device")]
    Kind(#[source] io::Error),
    /// tap has other flags than `IFF_TAP`, `IFF_NO_PI` and `IFF_VNET_HDR`
    #[error("tap device has flags {0:#x}: IFF_TAP, IFF_NO_PI and IFF_VNET_HDR must be set")]
    Flags(i32),
    /// the host's
    #[error("tap device can't be prepared")]
    Host(#[source] io::Error),
}

/// A tap device.
#[derive(Debug)]
pub struct Tap(File);

impl Tap {
    /// Checks and prepares an attached tap.
    ///
    /// # Errors
    /// It isn't one, or not as it should be.
    pub fn new(file: File) -> Result<Self, TapError> {
        // SAFETY: an interface request is integers and byte arrays, of which zeros are values.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: the request writes an `ifreq` (`TUNGETIFF`, in spite of the size in its number), to one that is ours. Needed: there is no safe wrapper.
        unsafe { raw::tungetiff(file.as_raw_fd(), &raw mut request) }.map_err(|error| TapError::Kind(error.into()))?;
        // SAFETY: that request fills the member of the union which holds flags; as an integer any bytes are a value.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        let wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if flags & wanted != wanted {
            return Err(TapError::Flags(flags));
        }
        let length = header::LENGTH as libc::c_int;
        // SAFETY: the request reads one int, which lives through the call. Needed: there is no safe wrapper.
        unsafe { raw::tunsetvnethdrsz(file.as_raw_fd(), &raw const length) }.map_err(|error| TapError::Host(error.into()))?;
        // A tap that blocks would stop the loop, and every device on it.
        let host = |error: nix::Error| TapError::Host(error.into());
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL).map_err(host)?);
        fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(host)?;
        Ok(Self(file))
    }
}

impl Link for Tap {
    fn offload(&self, features: u64) -> io::Result<()> {
        let offloads = OFFLOADS.iter().filter(|(needed, _)| features & needed == *needed).map(|(_, offload)| offload).sum::<u64>();
        // SAFETY: the request takes an integer, not a pointer. Needed: there is no safe wrapper.
        unsafe { raw::tunsetoffload(self.0.as_raw_fd(), offloads as libc::c_int) }?;
        Ok(())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
