//! Points in time as `state` and the log write them: RFC 3339, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, with nanoseconds.
pub fn now() -> String {
    format(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), true)
}

/// Now, to the second.
pub fn now_in_seconds() -> String {
    format(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), false)
}

/// A point in time, given since 1970.
fn format(since_epoch: Duration, nanoseconds: bool) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = if nanoseconds { format!(".{:09}", since_epoch.subsec_nanos()) } else { String::new() };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The date of a day counted from 1970-01-01, in the Gregorian calendar.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
        ] {
            assert_eq!(format(Duration::from_secs(seconds), false), text);
        }
        assert_eq!(format(Duration::new(1, 5), true), "1970-01-01T00:00:01.000000005Z");
    }
}
