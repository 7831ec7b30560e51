//! A launched process, seen from inside and from the host.
//!
//! It needs the host's root; elsewhere it says so and passes. The process is this very binary, executed again, hence a main function of its own instead
//! of the test harness.

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bulkhead_launch::{LaunchError, Network, Options, Prepared, inherited, prepare};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const ARGUMENT: &str = "launched";

fn main() {
    if std::env::args().nth(1).as_deref() == Some(ARGUMENT) {
        launched();
    }
    if !nix::unistd::geteuid().is_root() {
        println!("launch: skipped: it needs root");
        return;
    }
    match prepare(options("probe", Vec::new())) {
        Err(LaunchError::Host(what, error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("launch: skipped: this root is not the host's: {what}: {error}");
            return;
        }
        prepared => drop(prepared.expect("a process")),
    }
    for (name, check) in CHECKS {
        check();
        println!("launch: {name}: ok");
    }
}

const CHECKS: &[(&str, fn())] = &[
    ("it has what it was given, and nothing else", has_what_it_was_given),
    ("it says why it can not go on", says_why),
    ("it does not outlive a parent that has not released it", not_released),
    ("one that says nothing for too long is ended", too_long),
];

fn options(what: &str, descriptors: Vec<OwnedFd>) -> Options {
    Options {
        arguments: ["bulkhead-launched", ARGUMENT, what].map(|text| CString::new(text).unwrap()).to_vec(),
        network: Network::Empty,
        cgroups: Vec::new(),
        errors: None,
        descriptors,
        limits: vec![(libc::RLIMIT_NOFILE, 333)],
        out_of_memory: 0,
        patience: Duration::from_secs(20),
    }
}

/// The process: what it does depends on its argument.
fn launched() -> ! {
    let own = fs::read_dir("/proc/self/fd").expect("its descriptors").count() - 1;
    let Some(inherited) = inherited(std::env::args().nth(2).map_or(0, |what| if what == "facts" { 2 } else { 0 })) else {
        std::process::exit(3)
    };
    match inherited.arguments[0].as_str() {
        "facts" => {
            let name = std::env::args().next().unwrap_or_default();
            let namespace = fs::read_link("/proc/self/ns/net").expect("a namespace");
            let limits = fs::read_to_string("/proc/self/limits").expect("its limits");
            let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit").to_owned();
            let map = fs::read_to_string("/proc/self/uid_map").expect("its map").split_whitespace().collect::<Vec<_>>().join(" ");
            let facts = format!("{name}\n{own}\n{}\n{}\n{map}\n{files}\n", std::process::id(), namespace.display());
            nix::unistd::write(&inherited.descriptors[0], facts.as_bytes()).expect("a pipe");
            inherited.words.ready().expect("a listener");
            // Until the test lets go.
            let _ = fs::File::from(inherited.descriptors.into_iter().nth(1).expect("the second")).read(&mut [0]);
        }
        "reason" => inherited.words.failed("first line\n  second line"),
        _ => loop {
            std::thread::park();
        },
    }
    std::process::exit(0)
}

fn has_ended(pidfd: impl AsFd) -> bool {
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(60_000u16)).is_ok_and(|ready| ready == 1)
}

fn reap(pid: i32) {
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
}

fn has_what_it_was_given() {
    let (facts, theirs) = nix::unistd::pipe().expect("a pipe");
    let (wait, hold) = nix::unistd::pipe().expect("a pipe");
    let process = prepare(options("facts", vec![theirs, wait])).and_then(Prepared::release).expect("it is ready");
    let mut text = String::new();
    fs::File::from(facts).read_to_string(&mut text).ok();
    drop(hold);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "bulkhead-launched");
    assert_eq!(lines[1], "6", "three standard descriptors, the words, two that were given");
    assert_eq!(lines[2], "1", "init of its PID namespace");
    assert_ne!(lines[3], fs::read_link("/proc/self/ns/net").unwrap().display().to_string());
    assert_eq!(lines[4], "0 0 4294967295");
    assert_eq!(lines[5].split_whitespace().nth(3), Some("333"));
    assert!(has_ended(&process.pidfd));
    reap(process.pid);
}

fn says_why() {
    let error = prepare(options("reason", Vec::new())).and_then(Prepared::release).unwrap_err();
    assert_eq!(error.to_string(), "first line\n  second line");
    let closed = std::os::unix::net::UnixStream::pair().unwrap().0;
    let error = prepare(Options { cgroups: vec![closed.into()], ..options("reason", Vec::new()) }).and_then(Prepared::release).unwrap_err();
    assert_eq!(error.to_string(), "joining a cgroup: errno 032");
}

fn not_released() {
    let prepared = prepare(options("park", Vec::new())).expect("a process");
    let pid = prepared.pid();
    drop(prepared);
    reap(pid);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

fn too_long() {
    let options = Options { patience: Duration::from_millis(300), ..options("park", Vec::new()) };
    let prepared = prepare(options).expect("a process");
    let pid = prepared.pid();
    assert_eq!(prepared.release().unwrap_err().to_string(), "the process ended without a word");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}
