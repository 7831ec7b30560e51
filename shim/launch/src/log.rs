//! The log of a wall's process: lines to one host descriptor, as text or in runc's JSON shape.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

struct Log {
    file: Mutex<std::fs::File>,
    json: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Sends log lines to this descriptor from now on.
pub fn open(descriptor: OwnedFd, json: bool) {
    let _ = LOG.set(Log { file: Mutex::new(descriptor.into()), json });
}

static DEBUG: AtomicBool = AtomicBool::new(false);

/// Whether [`debug`] writes anything.
pub fn set_debug(on: bool) {
    DEBUG.store(on, Ordering::Relaxed);
}

/// Writes one line at level debug, where that was asked for.
pub fn debug(text: &str) {
    if DEBUG.load(Ordering::Relaxed) {
        write("debug", text);
    }
}

/// Writes one line at level info.
pub fn line(text: &str) {
    write("info", text);
}

/// Writes one line at level error.
pub fn error(text: &str) {
    write("error", text);
}

fn write(level: &str, text: &str) {
    let Some(log) = LOG.get() else { return };
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let line = shape(level, text, log.json, &timestamp(seconds as i64));
    // A log that can not be written to must not stop the pod. One write for a line: others append to the same file.
    let _ = log.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
}

fn shape(level: &str, text: &str, json: bool, time: &str) -> String {
    if json {
        format!("{}\n", serde_json::json!({ "level": level, "msg": text, "time": time }))
    } else {
        format!("time=\"{time}\" level={level} msg={text:?}\n")
    }
}

/// RFC 3339, in UTC.
fn timestamp(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Civil date from days since 1970 (proleptic Gregorian calendar, years beginning in March).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_shape_that_clients_read() {
        assert_eq!(shape("error", "a \"b\"\nc", true, "T"), "{\"level\":\"error\",\"msg\":\"a \\\"b\\\"\\nc\",\"time\":\"T\"}\n");
        assert_eq!(shape("info", "no", false, "T"), "time=\"T\" level=info msg=\"no\"\n");
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(1_767_225_599), "2025-12-31T23:59:59Z");
    }
}
