//! The kernel process's log: lines to one host descriptor, as text or in runc's JSON shape.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sync::Mutex;

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
    let line = if log.json {
        serde_json::json!({ "level": level, "msg": text, "time": timestamp() }).to_string()
    } else {
        format!("time=\"{}\" level={level} msg={text:?}", timestamp())
    };
    // A log that can not be written to must not stop the pod.
    let _ = writeln!(log.file.lock(), "{line}");
}

/// RFC 3339, in UTC.
fn timestamp() -> String {
    let seconds = crate::vfs::node::Timestamp::now().seconds;
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
