//! Real clients drive Bulkhead as they drive runc: containerd's runc shim by ctr, and Podman. Each in state directories of its own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use bulkhead_tests::Lab;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether the programs that a test drives are installed.
fn installed(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success());
        if !found {
            assert!(std::env::var_os("BULKHEAD_TESTS_COMPLETE").is_none(), "this test needs {program}");
            println!("not run: it needs {program}");
        }
        found
    })
}

/// The root file system under an overlay of the host's, which its clients may write to.
struct Merged(PathBuf);

impl Merged {
    fn of(lab: &Lab) -> Merged {
        let place = |name: &str| {
            let path = lab.path().join(name);
            std::fs::create_dir_all(&path).expect("an overlay directory");
            path
        };
        let (upper, work, merged) = (place("upper"), place("work"), place("merged"));
        let options = format!("lowerdir={},upperdir={},workdir={}", lab.rootfs().display(), upper.display(), work.display());
        let status = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged).status().expect("mount");
        assert!(status.success());
        Merged(merged)
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A containerd of this test's own.
struct Containerd {
    daemon: Child,
    socket: PathBuf,
}

impl Containerd {
    fn start(lab: &Lab) -> Containerd {
        let directory = lab.path().join("containerd");
        std::fs::create_dir_all(&directory).expect("a directory");
        let socket = directory.join("c.sock");
        let shown = |name: &str| directory.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            shown("root"),
            shown("state"),
            shown("c.sock"),
            shown("t.sock")
        );
        std::fs::write(directory.join("config.toml"), config).expect("config.toml");
        let mut command = Command::new("containerd");
        command.arg("-c").arg(directory.join("config.toml")).stdout(Stdio::null()).stderr(Stdio::null());
        let containerd = Containerd { daemon: command.spawn().expect("containerd"), socket };
        let listens = (0..1200).any(|_| {
            let listens = std::os::unix::net::UnixStream::connect(&containerd.socket).is_ok();
            if !listens {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            listens
        });
        assert!(listens, "containerd does not listen at {}", containerd.socket.display());
        containerd
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["120", "ctr", "-a"]).arg(&self.socket).args(arguments).stdin(Stdio::null());
        command
    }

    fn ctr(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("ctr")
    }

    /// The same in a pseudo-terminal, as a person calls it.
    fn in_terminal(&self, arguments: &[&str]) -> Command {
        let quoted: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
        // In the foreground of the terminal whichever shell script(1) finds: a group of its own would be stopped by SIGTTOU.
        let line = format!("exec timeout --foreground 120 ctr -a {} {}", self.socket.display(), quoted.join(" "));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("SHELL", "/bin/sh");
        script.stdin(Stdio::null());
        script
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // What a failed test left running outlives its containerd otherwise.
        for task in text(&self.ctr(&["task", "ls", "--quiet"])).lines() {
            self.ctr(&["task", "delete", "--force", task]);
        }
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.daemon.id() as i32), nix::sys::signal::Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}

/// What a process does at its end, that it may not end before what it says has been seen.
const WAIT: &str = "until test -e /go; do sleep 0.05; done";

/// Runs a command whose process says something, and then [`WAIT`]s for `go`. ctr drops a fifo that it has not seen open when the process has ended, under any runtime
/// that is quick.
fn hear(command: &mut Command, said: &str, go: &Path) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a client");
    let (mut stdout, mut heard, mut bytes) = (child.stdout.take().expect("its output"), Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&heard).contains(said) {
        match stdout.read(&mut bytes).expect("its output") {
            0 => break,
            length => heard.extend_from_slice(&bytes[..length]),
        }
    }
    std::fs::write(go, "").expect("a file");
    stdout.read_to_end(&mut heard).expect("its output");
    let output = child.wait_with_output().expect("a client");
    std::fs::remove_file(go).expect("the file");
    Output { stdout: heard, ..output }
}

#[test]
fn containerd_by_ctr() {
    let Some(lab) = Lab::open() else { return };
    if !installed(&["containerd", "ctr"]) {
        return;
    }
    let merged = Merged::of(&lab);
    let containerd = Containerd::start(&lab);
    let state = lab.path().join("ctr-state").display().to_string();
    let binary = lab.bulkhead().display().to_string();
    let rootfs = merged.0.display().to_string();
    let runtime = ["--runc-binary", &binary, "--runc-root", &state, "--rootfs", &rootfs];
    let run = |front: &[&str], back: &[&str]| containerd.command(&[&["run"], front, &runtime, back].concat());
    let go = merged.0.join("go");

    let hello = format!("echo hello; {WAIT}; exit 3");
    let hello = hear(&mut run(&["--rm"], &["one", "/bin/sh", "-c", &hello]), "hello", &go);
    assert_eq!((text(&hello).contains("hello"), hello.status.code()), (true, Some(3)), "{}", text(&hello));
    let detached = run(&["--detach"], &["two", "/bin/sleep", "1000"]).output().expect("ctr");
    assert!(detached.status.success(), "{}", text(&detached));
    let exec = format!("echo in exec; {WAIT}; exit 4");
    let exec = hear(&mut containerd.command(&["task", "exec", "--exec-id", "e1", "two", "/bin/sh", "-c", &exec]), "in exec", &go);
    assert_eq!((text(&exec).contains("in exec"), exec.status.code()), (true, Some(4)), "{}", text(&exec));
    assert!(text(&containerd.ctr(&["task", "ls"])).contains("RUNNING"));
    let inside = format!("tty; test -t 0 && echo a terminal; {WAIT}");
    let exec = ["task", "exec", "--tty", "--exec-id", "e2", "two", "/bin/sh", "-c", &inside];
    let inside = hear(&mut containerd.in_terminal(&exec), "a terminal", &go);
    assert!(text(&inside).contains("/dev/pts/") && text(&inside).contains("a terminal"), "{}", text(&inside));
    assert!(containerd.ctr(&["task", "pause", "two"]).status.success());
    assert!(text(&containerd.ctr(&["task", "ls"])).contains("PAUSED"));
    assert!(containerd.ctr(&["task", "resume", "two"]).status.success());
    assert!(text(&containerd.ctr(&["task", "ps", "two"])).lines().count() >= 2);
    let front = ["run", "--rm", "--tty"];
    let back = format!("tty; stty -echo; echo in a terminal; {WAIT}; exit 5");
    let back = ["three", "/bin/sh", "-c", &back];
    let terminal = hear(&mut containerd.in_terminal(&[&front[..], &runtime, &back].concat()), "in a terminal", &go);
    assert!(text(&terminal).contains("/dev/pts/") && text(&terminal).contains("in a terminal"), "{}", text(&terminal));
    assert_eq!(terminal.status.code(), Some(5), "{}", text(&terminal));
    assert!(containerd.ctr(&["task", "kill", "-s", "KILL", "two"]).status.success());
    let stopped = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        text(&containerd.ctr(&["task", "ls"])).contains("STOPPED")
    });
    assert!(stopped, "{}", text(&containerd.ctr(&["task", "ls"])));
    containerd.ctr(&["task", "delete", "two"]);
    assert!(containerd.ctr(&["container", "rm", "two"]).status.success());
    assert!(leftovers(Path::new(&state)).is_empty(), "{:?}", leftovers(Path::new(&state)));
}

/// What a runtime's state directory still holds.
fn leftovers(state: &Path) -> Vec<String> {
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let namespace = state.join("default");
    let mut found: Vec<String> = names(&namespace).into_iter().filter(|name| name != "@pods").collect();
    found.extend(names(&namespace.join("@pods")));
    found
}

#[test]
fn podman_run_and_exec() {
    let Some(lab) = Lab::open() else { return };
    if !installed(&["podman"]) {
        return;
    }
    let merged = Merged::of(&lab);
    // Podman takes no longer path than 50 bytes for what it keeps while it runs.
    let directory = tempfile::Builder::new().prefix("bulkhead-podman-").tempdir_in("/tmp").expect("a temporary directory");
    let directory = directory.path();
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["120", "podman", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        command.arg("--root").arg(directory.join("root")).arg("--runroot").arg(directory.join("run")).arg("--runtime").arg(lab.bulkhead());
        command.args(arguments).stdin(Stdio::null()).output().expect("podman")
    };
    // --rootfs needs no image.
    let rootfs = merged.0.display().to_string();
    let hello = podman(&["run", "--rm", "--network", "none", "--rootfs", &rootfs, "sh", "-c", "echo hello from podman; exit 3"]);
    assert_eq!((text(&hello).contains("hello from podman"), hello.status.code()), (true, Some(3)), "{}", text(&hello));
    let detached = podman(&["run", "--detach", "--name", "box", "--network", "none", "--rootfs", &rootfs, "sleep", "1000"]);
    assert!(detached.status.success(), "{}", text(&detached));
    let exec = podman(&["exec", "box", "sh", "-c", "echo in exec; exit 4"]);
    assert_eq!((text(&exec).contains("in exec"), exec.status.code()), (true, Some(4)), "{}", text(&exec));
    assert!(podman(&["pause", "box"]).status.success());
    assert!(text(&podman(&["ps", "--all", "--format", "{{.Status}}"])).contains("aused"));
    assert!(podman(&["unpause", "box"]).status.success());
    let removed = podman(&["rm", "--force", "--time", "0", "box"]);
    assert!(removed.status.success(), "{}", text(&removed));
}
