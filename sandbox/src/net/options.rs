//! Values of socket options (getsockopt(2)), decoded from bytes once.

use std::time::Duration;

use crate::errno::{Errno, Result};

/// `SO_RCVTIMEO_NEW` and `SO_SNDTIMEO_NEW` (include/uapi/asm-generic/socket.h); the same layout on x86-64.
pub const RECEIVE_TIMEOUT_NEW: i32 = 66;
/// See [`RECEIVE_TIMEOUT_NEW`].
pub const SEND_TIMEOUT_NEW: i32 = 67;

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
        fn odd_lengths_are_refused(value in prop::collection::vec(any::<u8>(), 0..24)) {
            prop_assert_eq!(integer(&value).is_ok(), value.len() >= 4);
            if value.len() < 16 {
                prop_assert_eq!(patience(&value), Err(Errno::EINVAL));
            }
        }
    }
}
