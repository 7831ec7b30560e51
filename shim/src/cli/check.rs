//! `check`: what this machine can do, for either wall.
//!
//! It tries rather than looks: a sandbox is started, KVM is given a guest ([`bulkhead_vmm::vm::probe`]), the image that guests boot is read, and a pod's network is
//! made in a namespace of its own ([`network`]). What is only worth knowing is a note and decides nothing. The exit code says whether every wall that was asked for
//! is usable here: 0, or 1; `--isolation` asks for one.

use std::os::unix::net::UnixListener;
use std::time::Instant;

use bulkhead_sandbox::boot;
use bulkhead_vmm::vm::probe;
use clap::Args;
use serde_json::{Value, json};

use super::{guest, say};
use crate::config::Settings;

mod network;

/// The oldest kernel for the sandbox: seccomp notifications whose callers only SIGKILL disturbs are of 5.19, and 6.1 is the oldest long-term kernel with them.
const OLDEST: (u32, u32) = (6, 1);
/// The first kernel that wakes the receiver of a notification on the caller's own processor (`SECCOMP_IOCTL_NOTIF_SET_FLAGS`).
const SYNCHRONOUS: (u32, u32) = (6, 6);

#[derive(Args)]
pub struct Check {
    /// For programs
    #[arg(long)]
    json: bool,
}

/// One thing that was tried or looked at.
struct Finding {
    what: &'static str,
    /// `None`: only worth knowing.
    good: Option<bool>,
    detail: String,
}

impl Finding {
    fn tried<E: std::fmt::Display>(what: &'static str, result: Result<String, E>) -> Finding {
        match result {
            Ok(detail) => Finding { what, good: Some(true), detail },
            Err(error) => Finding { what, good: Some(false), detail: error.to_string() },
        }
    }

    fn note(what: &'static str, detail: impl Into<String>) -> Finding {
        Finding { what, good: None, detail: detail.into() }
    }

    fn mark(&self) -> &'static str {
        match self.good {
            Some(true) => "ok",
            Some(false) => "NO",
            None => "-",
        }
    }
}

/// Looks at one wall.
type Look = fn(&Settings) -> Vec<Finding>;

/// What was found for one wall.
struct Report {
    wall: &'static str,
    findings: Vec<Finding>,
}

impl Report {
    fn is_usable(&self) -> bool {
        self.findings.iter().all(|finding| finding.good != Some(false))
    }

    fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.wall, if self.is_usable() { "usable" } else { "not usable here" });
        for finding in &self.findings {
            text += &format!("  {:2}  {:24} {}\n", finding.mark(), finding.what, finding.detail);
        }
        text
    }

    fn json(&self) -> Value {
        let findings: Vec<Value> =
            self.findings.iter().map(|finding| json!({ "check": finding.what, "ok": finding.good, "detail": finding.detail })).collect();
        json!({ "isolation": self.wall, "usable": self.is_usable(), "checks": findings })
    }
}

impl Check {
    /// Looks at one wall, or at both.
    pub fn run(self, isolation: Option<&str>, settings: &Settings) -> anyhow::Result<i32> {
        let walls: [(&str, Look); 2] = [("sandbox", sandbox), ("microvm", microvm)];
        if let Some(unknown) = isolation.filter(|asked| !walls.iter().any(|(wall, _)| wall == asked)) {
            anyhow::bail!("isolation {unknown:?}: sandbox or microvm");
        }
        let asked = walls.into_iter().filter(|(wall, _)| isolation.is_none_or(|asked| asked == *wall));
        let reports: Vec<Report> = asked.map(|(wall, look)| Report { wall, findings: look(settings) }).collect();
        let text = if self.json {
            serde_json::to_string_pretty(&reports.iter().map(Report::json).collect::<Vec<_>>())? + "\n"
        } else {
            reports.iter().map(Report::text).collect()
        };
        say(&text)?;
        Ok(i32::from(!reports.iter().all(Report::is_usable)))
    }
}

fn sandbox(_: &Settings) -> Vec<Finding> {
    let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default();
    let version = version(&release);
    let kernel = match version {
        Some(version) if version >= OLDEST => Ok(release.clone()),
        _ => Err(format!("{release}: Linux {}.{} or later is needed", OLDEST.0, OLDEST.1)),
    };
    let wake = if version.is_some_and(|version| version >= SYNCHRONOUS) {
        "on the caller's own processor"
    } else {
        "across processors, which is slower: Linux 6.6 has the better way"
    };
    vec![
        Finding::tried("kernel", kernel),
        Finding::tried("starts", start_sandbox()),
        Finding::tried("cgroups", cgroups()),
        Finding::note("wake-ups", wake),
    ]
}

/// Starts a kernel process as a pod would have it, and ends it.
fn start_sandbox() -> Result<String, String> {
    let place = std::env::temp_dir().join(format!("bulkhead-check-{}", std::process::id()));
    std::fs::create_dir(&place).map_err(|error| format!("{}: {error}", place.display()))?;
    let started = Instant::now();
    let result = UnixListener::bind(place.join("control.sock")).map_err(|error| error.to_string()).and_then(|control| {
        let options = boot::SpawnOptions {
            control: control.into(),
            log: None,
            log_format_json: false,
            debug: false,
            network: None,
            cgroups: Vec::new(),
        };
        boot::spawn(options).map_err(|error| error.to_string())
    });
    let took = started.elapsed();
    let _ = std::fs::remove_dir_all(&place);
    let sandbox = result?;
    let pid = nix::unistd::Pid::from_raw(sandbox.pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(pid, None);
    Ok(format!("a user-space kernel served after {} ms", took.as_millis()))
}

fn cgroups() -> Result<String, String> {
    libcgroups::common::get_cgroup_setup().map(|setup| setup.to_string()).map_err(|error| error.to_string())
}

fn microvm(settings: &Settings) -> Vec<Finding> {
    let runs = probe::run().map(|took| format!("a guest was done after {} ms", took.as_millis()));
    // Every byte of it is read, whatever was found at the last pod's start.
    let image = guest::verify(settings.guest_image()).map_err(|error| format!("{error:#}"));
    vec![
        Finding::tried("KVM runs guests", runs),
        Finding::tried("guest image", image),
        Finding::tried("cgroups", cgroups()),
        Finding::tried("tap devices", network::tap()),
        Finding::tried("traffic control", network::redirect()),
        Finding::note("vhost-net", opens("/dev/vhost-net").unwrap_or_else(|error| error)),
        Finding::note("vhost-vsock", opens("/dev/vhost-vsock").unwrap_or_else(|error| error)),
    ]
}

fn opens(path: &str) -> Result<String, String> {
    match std::fs::File::options().read(true).write(true).open(path) {
        Ok(_) => Ok(format!("{path} opens")),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_numbers() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("6.1.0-53-amd64"), Some((6, 1)));
        assert!(version("5.19.0") < Some(OLDEST) && version("10.0") > Some(SYNCHRONOUS));
        assert_eq!(version("linux"), None);
    }

    #[test]
    fn one_failed_try_makes_a_wall_unusable() {
        let report = |good| Report { wall: "sandbox", findings: vec![Finding { what: "x", good, detail: String::new() }] };
        assert!(report(Some(true)).is_usable() && report(None).is_usable() && !report(Some(false)).is_usable());
        assert_eq!(report(Some(false)).json()["usable"], false);
    }
}
