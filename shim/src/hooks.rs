//! Hooks: programs of the host (and one kind behind the wall) that run at fixed points of a container's life.
//!
//! | kind | when | where | when it fails |
//! |---|---|---|---|
//! | prestart, createRuntime | create: cgroup, network and stand-in exist | host | the container is not created |
//! | createContainer | after those | host, in the pod's network namespace | the container is not created |
//! | startContainer | start, before the program | behind the wall, as a process of the container | the start fails, the container is stopped |
//! | poststart | start, after the program began | host | the start fails, the container is stopped (as runc has it) |
//! | poststop | delete, when nothing is left | host | logged |
//!
//! Source: runtime-spec, config.md, "POSIX-platform Hooks", and runtime.md, "Lifecycle". There is no mount namespace of
//! the container on the host in which createContainer could run; its working directory is the root file system, as under runc. The others'
//! is the bundle. A hook without `env` inherits this process's environment, as runc's hooks do.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::Hook;

use crate::host;
use crate::network::within_thread;

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("error running hook #{index}: hooks.{kind}[{index}].path: {path}: {reason}")]
pub struct HookError {
    kind: &'static str,
    index: usize,
    path: String,
    reason: String,
}

impl HookError {
    /// A failure of the hook that stands at `index`.
    pub fn new(kind: &'static str, index: usize, hook: &Hook, reason: impl Into<String>) -> Self {
        Self { kind, index, path: hook.path().display().to_string(), reason: reason.into() }
    }
}

/// Runs hooks in their order, each with the container's state on its standard input, and stops at the first that fails.
/// They start in `directory`, if it is there. With `network` they run in that network namespace.
///
/// # Errors
/// The hook that did not start, did not end in time, or ended with another status than 0.
pub fn run(
    kind: &'static str,
    hooks: Option<&Vec<Hook>>,
    state: &str,
    directory: &Path,
    network: Option<&OwnedFd>,
) -> Result<(), HookError> {
    for (index, hook) in hooks.into_iter().flatten().enumerate() {
        run_one(hook, state, directory, network).map_err(|reason| HookError::new(kind, index, hook, reason))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str, directory: &Path, network: Option<&OwnedFd>) -> Result<(), String> {
    let mut command = Command::new(hook.path());
    if hook.env().is_some() {
        command.env_clear();
    }
    // A deleted container's bundle may be gone.
    if directory.is_dir() {
        command.current_dir(directory);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some((name, arguments)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(arguments);
    }
    for variable in hook.env().iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    let network = network.map(OwnedFd::try_clone).transpose().map_err(|error| error.to_string())?;
    let start = move || {
        if let Some(network) = network {
            setns(network, CloneFlags::CLONE_NEWNET)?;
        }
        command.spawn()
    };
    let mut child = within_thread(start).map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read it.
        let state = state.to_owned();
        std::thread::spawn(move || stdin.write_all(state.as_bytes()));
    }
    let patience = match hook.timeout() {
        Some(seconds) => Duration::from_secs(seconds.unsigned_abs()),
        None => Duration::MAX,
    };
    let pidfd = host::pidfd_open(child.id() as i32).map_err(|error| error.to_string())?;
    let words = child.stderr.take().map_or_else(|| Ok(None), |stderr| listen(&pidfd, stderr, patience));
    let Some(words) = words.map_err(|error| error.to_string())? else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("hook did not end within its timeout of {} s", patience.as_secs()));
    };
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{status}, stderr: {}", words.trim())) }
}

/// Waits for a hook's end, and gives the last of what it said; none where it has not ended in time. What it says is read meanwhile, so that it can not stall on a
/// full pipe. A process that it left behind may hold the pipe: what the hook wrote is in it when the hook ends, and more is not waited for.
fn listen(pidfd: &OwnedFd, mut stderr: ChildStderr, patience: Duration) -> io::Result<Option<String>> {
    fcntl(&stderr, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let until = Instant::now().checked_add(patience);
    let (mut kept, mut open) = (Vec::new(), true);
    loop {
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        // Rounded up: poll(2) counts milliseconds.
        let timeout = PollTimeout::try_from(left.saturating_add(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
        let mut ready = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN), PollFd::new(stderr.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready[..1 + usize::from(open)], timeout) {
            Err(Errno::EINTR) => continue,
            Ok(0) if left.is_zero() => return Ok(None),
            result => result?,
        };
        let ended = ready[0].any().unwrap_or(false);
        // As much as a pipe can hold (pipe-max-size, pipe(7)): one that goes on writing is not followed for ever.
        open = open && take_last_words(&mut stderr, &mut kept, 1 << 20)?;
        if ended {
            return Ok(Some(String::from_utf8_lossy(&kept).into_owned()));
        }
    }
}

/// Reads what is there, up to `most` bytes, and keeps the end of it. False at the end of the file.
fn take_last_words(from: &mut impl Read, kept: &mut Vec<u8>, most: usize) -> io::Result<bool> {
    let (mut buffer, mut taken) = ([0; 4096], 0);
    while taken < most {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => {
                taken += length;
                kept.extend_from_slice(&buffer[..length]);
                kept.drain(..kept.len().saturating_sub(4096));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hooks(value: serde_json::Value) -> Vec<Hook> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn hooks_run_in_order_with_the_state_on_their_input() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("out");
        let script = |text: &str| json!({ "path": "/bin/sh", "args": ["sh", "-c", text], "env": [format!("OUT={}", out.display())] });
        let list = hooks(json!([script("cat >> $OUT"), script("echo second $# $(pwd) >> $OUT")]));
        run("prestart", Some(&list), "{\"id\":\"x\"}\n", directory.path(), None).unwrap();
        let expected = format!("{{\"id\":\"x\"}}\nsecond 0 {}\n", directory.path().canonicalize().unwrap().display());
        assert_eq!(std::fs::read_to_string(out).unwrap(), expected);
    }

    #[test]
    fn a_hook_that_fails_stops_the_rest_and_is_named() {
        let list = hooks(json!([{ "path": "/bin/true" }, { "path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 3"] }]));
        let error = run("createRuntime", Some(&list), "", Path::new("/"), None).unwrap_err().to_string();
        assert_eq!(error, "error running hook #1: hooks.createRuntime[1].path: /bin/sh: exit status: 3, stderr: no");
        let list = hooks(json!([{ "path": "/no/such/hook" }]));
        assert!(run("prestart", Some(&list), "", Path::new("/"), None).unwrap_err().to_string().contains("/no/such/hook: No such file"));
    }

    #[test]
    fn the_end_of_what_a_hook_says_is_told_whoever_else_holds_its_pipe() {
        let said = |script: &str| {
            let list = hooks(json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]));
            let error = run("prestart", Some(&list), "", Path::new("/"), None).unwrap_err().to_string();
            error.split_once("stderr: ").unwrap().1.to_owned()
        };
        // Who is left behind is not waited for.
        let why = said("sleep 1000 & echo $! why >&2; exit 1");
        let left: i32 = why.strip_suffix(" why").unwrap_or_else(|| panic!("{why}")).parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::Signal::SIGKILL).unwrap();
        // More than a pipe holds.
        let long = said("head -c 300000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1");
        assert!(long.len() > 4000 && long.starts_with("xxx") && long.ends_with("xend"), "{long}");
    }

    #[test]
    fn a_hook_inherits_the_environment_unless_it_has_its_own() {
        for (hook, inherited) in [(json!({}), true), (json!({ "env": [] }), false), (json!({ "env": ["A=b"] }), false)] {
            let mut hook = hook;
            hook["path"] = json!("/bin/sh");
            hook["args"] = json!(["sh", "-c", "test -n \"$CARGO_MANIFEST_DIR\""]);
            assert_eq!(run("prestart", Some(&hooks(json!([hook]))), "", Path::new("/"), None).is_ok(), inherited);
        }
    }

    #[test]
    fn a_hook_is_killed_at_its_timeout() {
        let list = hooks(json!([{ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }]));
        let error = run("poststop", Some(&list), "", Path::new("/"), None).unwrap_err().to_string();
        assert!(error.ends_with("hook did not end within its timeout of 1 s"), "{error}");
    }
}
