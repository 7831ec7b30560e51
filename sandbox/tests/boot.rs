//! The kernel process and its spawner, looked at from the host while they run: what they have, and what they have given up.
//!
//! It boots a real sandbox, so it needs the host's root; elsewhere it says so and passes. The kernel process is this very binary,
//! executed again, hence a main function of its own instead of the test harness.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_sandbox::boot::{self, Sandbox, SpawnOptions};
use bulkhead_sandbox::confine::KEPT;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    if std::env::args().nth(1).as_deref() == Some(boot::ARGUMENT) {
        boot::main();
    }
    if !nix::unistd::geteuid().is_root() {
        println!("boot: skipped: starting a sandbox needs root");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let listener = UnixListener::bind(directory.path().join("control")).expect("a listening socket");
    let log = fs::File::create(directory.path().join("log")).expect("a log file");
    let options = SpawnOptions {
        control: listener.into(),
        log: Some(log.into()),
        log_format_json: true,
        debug: true,
        network: None,
        cgroups: Vec::new(),
    };
    let sandbox = match boot::spawn(options) {
        Err(boot::BootError::Host(what, error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("boot: skipped: this root is not the host's: {what}: {error}");
            return;
        }
        started => started.expect("the sandbox starts"),
    };
    // A check that fails ends this process; its sandbox does not outlive it.
    let _guard = Guard(sandbox.pidfd.try_clone().expect("dup"));
    for (name, check) in CHECKS {
        check(&sandbox);
        println!("boot: {name}: ok");
    }
}

struct Guard(std::os::fd::OwnedFd);

impl Drop for Guard {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd;
        let information: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: no memory is passed. By its handle, so that no other process is meant once it is gone.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), libc::SIGKILL, information, 0) };
    }
}

type Check = fn(&Sandbox);

const CHECKS: &[(&str, Check)] = &[
    ("the kernel process lives in namespaces of its own", own_namespaces),
    ("its threads are confined", confined_threads),
    ("it sees its own tree and nothing of the host's", own_tree),
    ("the host's switches are out of its reach, although its user is 0", out_of_reach),
    ("it holds no descriptor of its parent's", own_descriptors),
    ("the spawner has nothing but its filter", spawner_is_bare),
    ("the workload goes before its kernel when memory runs out", out_of_memory_order),
    ("it does not depend on its parent's session", own_session),
    ("its death takes the spawner along", dies_as_a_whole),
];

fn proc_path(pid: i32, name: &str) -> String {
    format!("/proc/{pid}/{name}")
}

fn read(pid: i32, name: &str) -> String {
    fs::read_to_string(proc_path(pid, name)).unwrap_or_else(|error| panic!("{name} of {pid}: {error}"))
}

fn status(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{key} in {text}")).trim().to_owned()
}

fn namespace(pid: i32, kind: &str) -> std::path::PathBuf {
    fs::read_link(proc_path(pid, &format!("ns/{kind}"))).expect("a namespace")
}

fn spawner(sandbox: &Sandbox) -> i32 {
    let pid = sandbox.pid;
    let children = read(pid, &format!("task/{pid}/children"));
    children.split_whitespace().next().and_then(|first| first.parse().ok()).expect("the spawner")
}

fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(proc_path(pid, "fd")).expect("its descriptors");
    // One that is closed between the listing and the look is not there.
    entries.flatten().filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned())).collect()
}

fn own_namespaces(sandbox: &Sandbox) {
    let own = std::process::id() as i32;
    for kind in ["user", "mnt", "pid", "uts", "ipc", "cgroup"] {
        assert_ne!(namespace(sandbox.pid, kind), namespace(own, kind), "{kind}");
    }
    assert_eq!(namespace(sandbox.pid, "net"), namespace(own, "net"));
    assert_eq!(read(sandbox.pid, "uid_map").split_whitespace().collect::<Vec<_>>(), ["0", "0", "4294967295"]);
    assert!(status(&read(sandbox.pid, "status"), "NSpid").ends_with("\t1"));
}

fn confined_threads(sandbox: &Sandbox) {
    let kept = KEPT.iter().fold(0u64, |mask, (capability, _)| mask | 1 << capability.index());
    let threads = fs::read_dir(proc_path(sandbox.pid, "task")).expect("its threads");
    for thread in threads.flatten() {
        let text = fs::read_to_string(thread.path().join("status")).expect("a thread's status");
        assert_eq!(status(&text, "NoNewPrivs"), "1");
        assert_eq!(status(&text, "Seccomp"), "2");
        for set in ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"] {
            let mask = u64::from_str_radix(&status(&text, set), 16).expect("a capability mask");
            assert_eq!(mask & !kept, 0, "{set}");
        }
    }
}

fn own_tree(sandbox: &Sandbox) {
    let mounts = read(sandbox.pid, "mountinfo");
    let mut places: Vec<(&str, &str)> = mounts
        .lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            Some((front.split(' ').nth(4)?, back.split(' ').next()?))
        })
        .collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [("/", "tmpfs"), ("/data", "tmpfs"), ("/dev/pts", "devpts"), ("/exec", "tmpfs"), ("/facts", "proc"), ("/proc", "proc")]
    );
    // What may be executed natively stands in one place.
    let executable = mounts.lines().filter(|line| !line.split(' ').nth(5).is_some_and(|flags| flags.contains("noexec")));
    assert_eq!(executable.filter_map(|line| line.split(' ').nth(4)).collect::<Vec<_>>(), ["/exec"]);
}

/// Ids map to themselves, so what asks for the user 0 and for no capability would let it: whoever owns the process finds none of it writable.
fn out_of_reach(sandbox: &Sandbox) {
    use nix::sched::{CloneFlags, setns};
    let attempts = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/facts/sys/kernel/core_pattern",
        "/facts/sysrq-trigger",
        "/facts/sys/kernel/hostname",
    ];
    // SAFETY: this process has one thread; the child only makes system calls and exits.
    match unsafe { nix::unistd::fork() }.expect("fork") {
        nix::unistd::ForkResult::Child => {
            // Where the process stands, with all the rights that its user namespace gives: more than it keeps.
            let entered = setns(&sandbox.pidfd, CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).is_ok();
            let opened = attempts.iter().position(|path| fs::File::options().write(true).open(path).is_ok());
            let status = match opened {
                _ if !entered => 100,
                None => 0,
                Some(index) => 1 + index as i32,
            };
            // SAFETY: ends the child; nothing of this test's may run in it.
            unsafe { libc::_exit(status) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).expect("waitpid");
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0), "100: not entered; else the number of the path that opened");
        }
    }
    let facts = read(sandbox.pid, "mountinfo");
    assert!(
        facts
            .lines()
            .any(|line| line.split(' ').nth(4) == Some("/facts") && line.split(' ').nth(5).is_some_and(|flags| flags.starts_with("ro,")))
    );
}

fn own_descriptors(sandbox: &Sandbox) {
    for target in descriptors(sandbox.pid) {
        let known = target.starts_with("socket:") || target.starts_with("anon_inode:") || target.starts_with("/memfd:");
        assert!(known || target == "/dev/null" || target.ends_with("/log"), "{target}");
    }
}

fn spawner_is_bare(sandbox: &Sandbox) {
    let spawner = spawner(sandbox);
    let text = read(spawner, "status");
    assert_eq!(status(&text, "Seccomp"), "2");
    assert_eq!(status(&text, "Seccomp_filters"), "1");
    assert_eq!(status(&text, "NoNewPrivs"), "1");
    assert_eq!(status(&text, "CapBnd"), "0000000000000000");
    assert_ne!(namespace(spawner, "net"), namespace(sandbox.pid, "net"));
    let root = fs::read_dir(proc_path(spawner, "root")).expect("its root");
    assert_eq!(root.count(), 0);
    // It lets go of its copy of the listener, and takes its pidfd, by its first calls that the kernel serves: before any request of
    // the kernel's, and so before any workload process, but perhaps after the kernel's word that it is ready.
    let is_bare =
        |targets: &[String]| targets.iter().all(|target| target.starts_with("socket:") || target.starts_with("anon_inode:[pidfd]"));
    let deadline = Instant::now() + PATIENCE;
    let mut targets = descriptors(spawner);
    while !is_bare(&targets) {
        assert!(Instant::now() < deadline, "{targets:?}");
        std::thread::sleep(Duration::from_millis(1));
        targets = descriptors(spawner);
    }
    let limits = read(spawner, "limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a core limit");
    assert_eq!(core.split_whitespace().nth(4), Some("1"));
}

fn out_of_memory_order(sandbox: &Sandbox) {
    let adjustment = |pid: i32| read(pid, "oom_score_adj").trim().parse::<i32>().expect("oom_score_adj");
    assert!(adjustment(sandbox.pid) <= adjustment(std::process::id() as i32));
}

fn own_session(sandbox: &Sandbox) {
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(sandbox.pid))).expect("its session");
    assert_eq!(session.as_raw(), sandbox.pid);
}

fn dies_as_a_whole(sandbox: &Sandbox) {
    let spawner = spawner(sandbox);
    let pid = nix::unistd::Pid::from_raw(sandbox.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killing it");
    nix::sys::wait::waitpid(pid, None).expect("reaping it");
    let deadline = Instant::now() + PATIENCE;
    while Path::new(&proc_path(spawner, "status")).exists() {
        assert!(Instant::now() < deadline, "the spawner lives on");
        std::thread::sleep(Duration::from_millis(1));
    }
}
