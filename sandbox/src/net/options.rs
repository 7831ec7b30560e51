//! Values of socket options (getsockopt(2)), decoded from bytes once.

use std::time::Duration;

use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};

/// `SO_RCVTIMEO_NEW` and `SO_SNDTIMEO_NEW` (include/uapi/asm-generic/socket.h); the same layout on x86-64.
pub const RECEIVE_TIMEOUT_NEW: i32 = 66;
/// See [`RECEIVE_TIMEOUT_NEW`].
pub const SEND_TIMEOUT_NEW: i32 = 67;

/// Options of level `SOL_SOCKET` that libc does not name.
pub const BUSY_POLL: i32 = 46;
/// See [`BUSY_POLL`].
pub const COOKIE: i32 = 57;

/// What an option of level `SOL_SOCKET` holds that a socket of this kernel's own keeps and shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Off or on.
    Flag,
    /// Off or on, and once on, on for ever (`EPERM`).
    Latch,
    /// Off or on; turning it on needs `CAP_NET_ADMIN` (`EACCES`).
    Privileged,
    /// Off; internet sockets alone can have it on (`EOPNOTSUPP`).
    Internet,
    /// A number from 0 to this one (below 0: none); others need `CAP_NET_ADMIN` or `CAP_NET_RAW` (`EPERM`).
    UpTo(i32),
    /// A number that is not negative (`EINVAL`).
    Natural,
    /// Bytes to wait for: 1 at least; a negative number is as many as there are.
    LowWater,
}

/// The options that every socket has, whatever its family makes of them (sk_setsockopt() in Linux's net/core/sock.c).
pub const KEPT: &[(i32, Kept)] = &[
    (libc::SO_DEBUG, Kept::Privileged),
    (libc::SO_REUSEADDR, Kept::Flag),
    (libc::SO_REUSEPORT, Kept::Internet),
    (libc::SO_KEEPALIVE, Kept::Flag),
    (libc::SO_BROADCAST, Kept::Flag),
    (libc::SO_OOBINLINE, Kept::Flag),
    (libc::SO_DONTROUTE, Kept::Flag),
    (libc::SO_TIMESTAMP, Kept::Flag),
    (libc::SO_TIMESTAMPNS, Kept::Flag),
    (libc::SO_NO_CHECK, Kept::Flag),
    (libc::SO_PASSSEC, Kept::Flag),
    (libc::SO_RXQ_OVFL, Kept::Flag),
    (libc::SO_LOCK_FILTER, Kept::Latch),
    (libc::SO_PRIORITY, Kept::UpTo(6)),
    (libc::SO_RCVLOWAT, Kept::LowWater),
    (BUSY_POLL, Kept::Natural),
    (libc::SO_MARK, Kept::UpTo(-1)),
];

/// How an option is kept; `None` for one that is not.
pub fn kept(name: i32) -> Option<Kept> {
    KEPT.iter().find(|(kept, _)| *kept == name).map(|(_, kind)| *kind)
}

impl Kept {
    /// What it is at first.
    pub fn initial(self) -> i32 {
        i32::from(self == Kept::LowWater)
    }

    /// What it becomes when it is `before` and `wanted` is set.
    pub fn set(self, before: i32, wanted: i32, who: &Credentials) -> Result<i32> {
        let on = i32::from(wanted != 0);
        match self {
            Kept::Flag => Ok(on),
            Kept::Latch if before != 0 && on == 0 => Err(Errno::EPERM),
            Kept::Latch => Ok(on),
            Kept::Privileged if on != 0 && !who.capable(Capability::NetAdmin) => Err(Errno::EACCES),
            Kept::Privileged => Ok(on),
            Kept::Internet => {
                if on != 0 {
                    Err(Errno::EOPNOTSUPP)
                } else {
                    Ok(0)
                }
            }
            Kept::UpTo(most) if (0..=most).contains(&wanted) || may_rule(who) => Ok(wanted),
            Kept::UpTo(_) => Err(Errno::EPERM),
            Kept::Natural => {
                if wanted < 0 {
                    Err(Errno::EINVAL)
                } else {
                    Ok(wanted)
                }
            }
            Kept::LowWater => Ok(low_water(wanted)),
        }
    }
}

fn may_rule(who: &Credentials) -> bool {
    who.capable(Capability::NetAdmin) || who.capable(Capability::NetRaw)
}

/// What `SO_RCVLOWAT` becomes.
pub fn low_water(wanted: i32) -> i32 {
    match wanted {
        0 => 1,
        ..0 => i32::MAX,
        _ => wanted,
    }
}

/// An `int`; longer values are cut, shorter ones are `EINVAL`.
pub fn integer(value: &[u8]) -> Result<i32> {
    match value {
        &[a, b, c, d, ..] => Ok(i32::from_ne_bytes([a, b, c, d])),
        _ => Err(Errno::EINVAL),
    }
}

/// A `struct timeval`: `None` (for ever) for zero; `EDOM` for microseconds out of range; a negative time is no patience at all.
pub fn patience(value: &[u8]) -> Result<Option<Duration>> {
    let Some(Ok(value)) = value.get(..16).map(<[u8; 16]>::try_from) else { return Err(Errno::EINVAL) };
    let (seconds, microseconds) = value.split_at(8);
    let long = |bytes: &[u8]| bytes.iter().rev().fold(0i64, |sum, &byte| sum << 8 | i64::from(byte));
    let (seconds, microseconds) = (long(seconds), long(microseconds));
    if !(0..1_000_000).contains(&microseconds) {
        return Err(Errno::EDOM);
    }
    if seconds < 0 {
        return Ok(Some(Duration::ZERO));
    }
    // Linux counts ticks; where those do not fit, it waits for ever (sock_set_timeout() in net/core/sock.c, with 1000 ticks a second).
    if seconds >= i64::MAX / 1000 - 1 {
        return Ok(None);
    }
    let whole = Duration::from_secs(seconds as u64) + Duration::from_micros(microseconds as u64);
    Ok(if whole.is_zero() { None } else { Some(whole) })
}

/// The `struct timeval` of a patience.
pub fn timeval(patience: Option<Duration>) -> Vec<u8> {
    let patience = patience.unwrap_or_default();
    [(patience.as_secs() as i64).to_ne_bytes(), i64::from(patience.subsec_micros()).to_ne_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn time_outs_survive(seconds in 0i64..1 << 40, microseconds in 0i64..2_000_000) {
            let bytes = [seconds.to_ne_bytes(), microseconds.to_ne_bytes()].concat();
            match patience(&bytes) {
                Ok(value) => prop_assert_eq!(timeval(value), bytes),
                Err(error) => prop_assert!(error == Errno::EDOM && microseconds >= 1_000_000),
            }
        }

        #[test]
        fn kept_options_stay_what_linux_lets_them_be(before in any::<i32>(), wanted in any::<i32>()) {
            let nobody = Credentials::of(1000, 1000, &[], crate::kernel::credentials::Capabilities::NONE);
            for (name, kind) in KEPT {
                let now = kind.set(before, wanted, &nobody);
                match kind {
                    Kept::Flag | Kept::Latch | Kept::Privileged => prop_assert!(matches!(now, Ok(0 | 1) | Err(_)), "{name}"),
                    Kept::Internet => prop_assert_eq!(now.is_ok(), wanted == 0),
                    Kept::UpTo(most) => prop_assert_eq!(now.is_ok(), wanted >= 0 && wanted <= *most),
                    Kept::Natural => prop_assert_eq!(now.is_ok(), wanted >= 0),
                    Kept::LowWater => prop_assert!(now.unwrap() > 0),
                }
            }
        }

        #[test]
        fn odd_lengths_are_refused(value in prop::collection::vec(any::<u8>(), 0..24)) {
            prop_assert_eq!(integer(&value).is_ok(), value.len() >= 4);
            if value.len() < 16 {
                prop_assert_eq!(patience(&value), Err(Errno::EINVAL));
            }
        }
    }
}
