//! The log: runc's lines, as text or JSON, to `--log` or standard error.
//!
//! Clients read the JSON lines of a file back (containerd's runc shim takes the last error from it), so their shape is
//! a contract: `{"level":"error","msg":"...","time":"..."}`.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::state::time;

/// Where log lines go, and which.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    json: bool,
    debug: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Opens the log, once, at the beginning.
///
/// # Errors
/// The file can not be opened.
pub fn open(path: Option<&PathBuf>, json: bool, debug: bool) -> io::Result<()> {
    let path = path.filter(|path| !path.as_os_str().is_empty() && path.as_os_str() != "/dev/stderr");
    let file = path.map(|path| File::options().append(true).create(true).open(path)).transpose()?;
    let _ = LOG.set(Log { file, json, debug });
    Ok(())
}

/// The log as the wall gets it: the file, or standard error when somebody asked to see more.
pub fn for_wall(verbose: bool) -> Option<OwnedFd> {
    match LOG.get()?.file.as_ref() {
        Some(file) => file.as_fd().try_clone_to_owned().ok(),
        None if verbose => io::stderr().as_fd().try_clone_to_owned().ok(),
        None => None,
    }
}

/// Whether lines are JSON, and whether debugging lines are wanted.
pub fn settings() -> (bool, bool) {
    LOG.get().map_or((false, false), |log| (log.json, log.debug))
}

/// Something failed, and the command with it. It is said on standard error too, where a person looks.
pub fn error(message: impl Display) {
    let message = message.to_string();
    write("error", &message);
    if LOG.get().is_some_and(|log| log.file.is_some()) {
        eprintln!("{message}");
    }
}

/// Something is not as it should be, and the command goes on.
pub fn warning(message: impl Display) {
    write("warning", &message.to_string());
}

/// For `--debug`.
pub fn debug(message: impl Display) {
    if settings().1 {
        write("debug", &message.to_string());
    }
}

fn write(level: &str, message: &str) {
    let log = LOG.get();
    let line = line(level, message, log.is_some_and(|log| log.json), &time::now_in_seconds());
    // A log that can not be written must not stop a container.
    let _ = match log.and_then(|log| log.file.as_ref()) {
        Some(mut file) => file.write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

fn line(level: &str, message: &str, json: bool, time: &str) -> String {
    if json {
        format!("{}\n", serde_json::json!({ "level": level, "msg": message, "time": time }))
    } else {
        format!("time={time:?} level={level} msg={message:?}\n")
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_have_the_shape_that_clients_read() {
        assert_eq!(
            super::line("error", "exec: \"x\": not found", true, "2026-01-01T00:00:00Z"),
            "{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\": not found\",\"time\":\"2026-01-01T00:00:00Z\"}\n"
        );
        assert_eq!(super::line("error", "no", false, "T"), "time=\"T\" level=error msg=\"no\"\n");
    }
}
