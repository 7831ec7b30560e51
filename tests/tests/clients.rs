//! Real clients drive Bulkhead as they drive runc: containerd's runc shim by ctr, and Podman. Each in state directories of its own.

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
        let daemon = command.spawn().expect("containerd");
        for _ in 0..200 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Containerd { daemon, socket }
    }

    fn ctr(&self, arguments: &[&str]) -> Output {
        Command::new("timeout").args(["60", "ctr", "-a"]).arg(&self.socket).args(arguments).stdin(Stdio::null()).output().expect("ctr")
    }
}

impl Containerd {
    /// The same in a pseudo-terminal, as a person calls it.
    fn in_terminal(&self, arguments: &[&str]) -> Output {
        let quoted: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
        // In the foreground of the terminal whichever shell script(1) finds: a group of its own would be stopped by SIGTTOU.
        let line = format!("exec timeout --foreground 60 ctr -a {} {}", self.socket.display(), quoted.join(" "));
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("SHELL", "/bin/sh");
        script.stdin(Stdio::null()).output().expect("script")
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
    let run = |front: &[&str], back: &[&str]| containerd.ctr(&[&["run"], front, &runtime, back].concat());

    let hello = run(&["--rm"], &["one", "/bin/sh", "-c", "echo hello; sleep 0.3; exit 3"]);
    assert_eq!((text(&hello).contains("hello"), hello.status.code()), (true, Some(3)), "{}", text(&hello));
    let detached = run(&["--detach"], &["two", "/bin/sleep", "1000"]);
    assert!(detached.status.success(), "{}", text(&detached));
    // ctr drops a fifo that it has not seen open when the process has ended, under any runtime that is quick: give it the time.
    let exec = containerd.ctr(&["task", "exec", "--exec-id", "e1", "two", "/bin/sh", "-c", "echo in exec; sleep 0.3; exit 4"]);
    assert_eq!((text(&exec).contains("in exec"), exec.status.code()), (true, Some(4)), "{}", text(&exec));
    assert!(text(&containerd.ctr(&["task", "ls"])).contains("RUNNING"));
    let inside = containerd.in_terminal(&[
        "task",
        "exec",
        "--tty",
        "--exec-id",
        "e2",
        "two",
        "/bin/sh",
        "-c",
        "tty; test -t 0 && echo a terminal; sleep 0.3",
    ]);
    assert!(text(&inside).contains("/dev/pts/") && text(&inside).contains("a terminal"), "{}", text(&inside));
    assert!(containerd.ctr(&["task", "pause", "two"]).status.success());
    assert!(text(&containerd.ctr(&["task", "ls"])).contains("PAUSED"));
    assert!(containerd.ctr(&["task", "resume", "two"]).status.success());
    assert!(text(&containerd.ctr(&["task", "ps", "two"])).lines().count() >= 2);
    let front = ["run", "--rm", "--tty"];
    let back = ["three", "/bin/sh", "-c", "tty; stty -echo; echo in a terminal; sleep 0.3; exit 5"];
    let terminal = containerd.in_terminal(&[&front[..], &runtime, &back].concat());
    assert!(text(&terminal).contains("/dev/pts/") && text(&terminal).contains("in a terminal"), "{}", text(&terminal));
    assert_eq!(terminal.status.code(), Some(5), "{}", text(&terminal));
    assert!(containerd.ctr(&["task", "kill", "-s", "KILL", "two"]).status.success());
    let stopped = (0..100).any(|_| {
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
    let directory = lab.path().join("podman");
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
