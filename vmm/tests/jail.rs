//! A jailed process with a thread of each kind, looked at from the host while it runs: what it has, and what it has given up.
//!
//! It needs the host's root, and no KVM; elsewhere it says so and passes. The process is this very binary, executed again, hence a main function of its own
//! instead of the test harness.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use bulkhead_launch::{LaunchError, Network, Options, Prepared, Process, prepare};
use bulkhead_vmm::jail::{self, KEPT, Thread};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const ARGUMENT: &str = "jailed";

fn main() {
    if std::env::args().nth(1).as_deref() == Some(ARGUMENT) {
        jailed();
    }
    if !nix::unistd::geteuid().is_root() {
        println!("jail: skipped: it needs root");
        return;
    }
    let process = match launch("stay") {
        Err(LaunchError::Host(what, error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("jail: skipped: this root is not the host's: {what}: {error}");
            return;
        }
        process => Guard(process.expect("a jailed process")),
    };
    for (name, check) in CHECKS {
        check(&process.0);
        println!("jail: {name}: ok");
    }
    drop(process);
    for (thread, _) in VIOLATIONS {
        ends_with_its_thread(thread);
        println!("jail: {thread} that makes another call ends its process: ok");
    }
}

struct Guard(Process);

impl Drop for Guard {
    fn drop(&mut self) {
        // It has not been reaped, so the number is still its own.
        let pid = nix::unistd::Pid::from_raw(self.0.pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(pid, None);
    }
}

fn launch(what: &str) -> Result<Process, LaunchError> {
    let options = Options {
        arguments: ["bulkhead-jailed", ARGUMENT, what].map(|text| CString::new(text).expect("no NUL")).to_vec(),
        network: Network::Empty,
        cgroups: Vec::new(),
        errors: None,
        descriptors: Vec::new(),
        limits: vec![(libc::RLIMIT_CORE, 1)],
        out_of_memory: 0,
        patience: Duration::from_secs(20),
    };
    prepare(options).and_then(Prepared::release)
}

/// A call that the thread of that name does not make.
const VIOLATIONS: [(&str, fn()); 4] = [
    ("vcpu", || drop(fs::File::open("/proc/self/status"))),
    ("devices", || drop(fs::File::open("/proc/self/status"))),
    ("files", || drop(std::net::TcpListener::bind("127.0.0.1:0"))),
    ("main", || nix::unistd::setuid(1.into()).unwrap_or_default()),
];

fn violate(thread: &str) {
    if let Some((_, violation)) = VIOLATIONS.iter().find(|(name, _)| *name == thread) {
        violation();
    }
}

/// The process: it confines itself in the monitor's order.
fn jailed() -> ! {
    let inherited = bulkhead_launch::inherited(0).expect("the launch's socket");
    let what = inherited.arguments[0].clone();
    if let Err(error) = jail::enter() {
        inherited.words.failed(&error.to_string());
        std::process::exit(1);
    }
    let confine = |thread| jail::confine(thread, false).map_err(|error| error.to_string());
    // The threads go on when main is ready.
    let (report, ready) = std::sync::mpsc::channel();
    let mut waiting = Vec::new();
    let mut start = |name: &'static str, thread: Thread| {
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let (report, violates) = (report.clone(), what == name);
        let body = move || {
            report.send(confine(thread)).expect("main waits");
            let _ = gone.recv();
            if violates {
                violate(name);
            }
            loop {
                std::thread::park();
            }
        };
        std::thread::Builder::new().name(name.into()).spawn(body).expect("a thread");
        waiting.push(go);
        ready.recv().expect("the thread's word")
    };
    // Event loops first, then the processors' threads under the main thread's first filter, then its own second one.
    let done = start("devices", Thread::Devices)
        .and_then(|()| start("files", Thread::Files))
        .and_then(|()| confine(Thread::Starting))
        .and_then(|()| start("vcpu", Thread::Vcpu))
        .and_then(|()| confine(Thread::Control));
    match done {
        Ok(()) => inherited.words.ready().expect("a listener"),
        Err(reason) => inherited.words.failed(&reason),
    }
    drop(waiting);
    if what == "main" {
        violate("main");
    }
    loop {
        std::thread::park();
    }
}

type Check = fn(&Process);

const CHECKS: [(&str, Check); 5] = [
    ("it lives in namespaces of its own", own_namespaces),
    ("its threads are confined, and only who serves files has capabilities", confined_threads),
    ("it sees its own tree and nothing of the host's", own_tree),
    ("its tree can not be changed", unchangeable_tree),
    ("it holds no descriptor of its parent's", own_descriptors),
];

fn place(process: &Process, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", process.pid))
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn field<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or_else(|| panic!("{key} in {text}")).trim()
}

fn own_namespaces(process: &Process) {
    for kind in ["user", "mnt", "pid", "uts", "ipc", "cgroup", "net"] {
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).expect("ours");
        assert_ne!(fs::read_link(place(process, &format!("ns/{kind}"))).expect("its"), own, "{kind}");
    }
    let interfaces = read(place(process, "net/dev"));
    assert_eq!(interfaces.lines().skip(2).count(), 1, "loopback alone: {interfaces}");
}

fn confined_threads(process: &Process) {
    let kept = KEPT.iter().fold(0u64, |mask, (capability, _)| mask | 1 << capability.index());
    let mut seen = Vec::new();
    for thread in fs::read_dir(place(process, "task")).expect("its threads").flatten() {
        let status = read(thread.path().join("status"));
        let name = field(&status, "Name").to_owned();
        assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), ("1", "2"), "{name}");
        for set in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
            let mask = u64::from_str_radix(field(&status, set), 16).expect("a mask");
            let expected = if name == "files" && ["CapEff", "CapPrm"].contains(&set) { kept } else { 0 };
            assert_eq!(mask, expected, "{set} of {name}");
        }
        seen.push(name);
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

fn own_tree(process: &Process) {
    let list = |name: &str| {
        let entries = fs::read_dir(place(process, name)).expect("its tree").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(list("root"), ["dev", "proc"]);
    assert_eq!(list("root/dev"), ["pts"]);
    assert_eq!(list("root/dev/pts"), ["ptmx"]);
    let mounts = read(place(process, "mountinfo"));
    let mut kinds: Vec<&str> = mounts.lines().filter_map(|line| line.split(" - ").nth(1)?.split(' ').next()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["devpts", "proc", "tmpfs"], "{mounts}");
    assert!(mounts.contains("subset=pid"), "{mounts}");
}

fn unchangeable_tree(process: &Process) {
    let error = fs::write(place(process, "root/x"), "").expect_err("a read-only tree");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

fn own_descriptors(process: &Process) {
    let entries = fs::read_dir(place(process, "fd")).expect("its descriptors").flatten();
    let open: Vec<String> = entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned())).collect();
    // The socket of its word may not be closed yet.
    let (words, open): (Vec<String>, Vec<String>) = open.into_iter().partition(|name| name.starts_with("socket:"));
    assert_eq!(open, ["/dev/null", "/dev/null", "/dev/null"]);
    assert!(words.len() <= 1, "{words:?}");
}

fn ends_with_its_thread(thread: &str) {
    let process = Guard(launch(thread).expect("a jailed process"));
    let mut pidfd = [PollFd::new(process.0.pidfd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut pidfd, PollTimeout::from(60_000u16)), Ok(1), "it lives on after a call that {thread} does not make");
}
