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

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::Hook;

use crate::host;
use crate::network::within_thread;
use crate::state::process::has_ended;

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
    let deadline = match hook.timeout() {
        Some(seconds) => Duration::from_secs(seconds.unsigned_abs()),
        None => Duration::MAX,
    };
    let pidfd = host::pidfd_open(child.id() as i32).map_err(|error| error.to_string())?;
    // What the hook says is read beside it, so that it can not stall on a full pipe; only its end is shown.
    let errors = child.stderr.take().map(|stderr| std::thread::spawn(move || last_words(stderr)));
    if !has_ended(&pidfd, deadline) {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("hook did not end within its timeout of {} s", deadline.as_secs()));
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    // A process that the hook left behind may hold the pipe: its words are not waited for.
    let words = errors.filter(|reader| {
        reader.is_finished() || {
            std::thread::sleep(Duration::from_millis(50));
            reader.is_finished()
        }
    });
    let words = words.and_then(|reader| reader.join().ok()).unwrap_or_default();
    Err(format!("{status}, stderr: {}", words.trim()))
}

fn last_words(mut stderr: impl std::io::Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length) = stderr.read(&mut buffer) {
        if length == 0 {
            break;
        }
        kept.extend_from_slice(&buffer[..length]);
        let excess = kept.len().saturating_sub(4096);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).into_owned()
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
