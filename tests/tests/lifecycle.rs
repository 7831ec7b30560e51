//! A container's life through the command line, as runc's clients live it; and what is left when it is over.

use std::process::Output;

use bulkhead_tests::{Lab, Runtime};

fn bulkhead(lab: &Lab, arguments: &[&str]) -> Output {
    lab.command(Runtime::Sandbox).args(arguments).output().expect("bulkhead")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Starts a container in the background; gives nothing back on our streams.
fn start(lab: &Lab, id: &str, arguments: &[&str]) {
    let bundle = lab.bundle(id, &lab.configuration(id, &lab.rootfs(), arguments));
    let mut command = lab.command(Runtime::Sandbox);
    command.args(["run", "--detach", "--bundle"]).arg(bundle).arg(id);
    let status = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status().expect("bulkhead");
    assert!(status.success(), "run --detach {id}: {status}");
}

fn status(lab: &Lab, id: &str) -> String {
    let output = bulkhead(lab, &["state", id]);
    let state: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    state["status"].as_str().unwrap_or("none").to_owned()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what}: not within a minute");
}

/// Kernel processes of this lab that still run.
fn kernels(lab: &Lab) -> usize {
    let state = lab.path().join("state/@pods");
    std::fs::read_dir(state).map_or(0, |entries| entries.count())
}

#[test]
fn create_start_exec_kill_delete() {
    let Some(lab) = Lab::open() else { return };
    start(&lab, "life", &["/bin/sleep", "1000"]);
    assert_eq!(status(&lab, "life"), "running");
    let listed = text(&bulkhead(&lab, &["list", "--quiet"]));
    assert_eq!(listed.trim(), "life");
    let exec = bulkhead(
        &lab,
        &["exec", "--env", "A=b", "--cwd", "/tmp", "--user", "1000:1000", "life", "sh", "-c", "echo $A $(pwd) $(id -u); exit 3"],
    );
    assert_eq!((text(&exec).as_str(), exec.status.code()), ("b /tmp 1000\n", Some(3)));
    let missing = bulkhead(&lab, &["exec", "life", "no-such-program"]);
    assert!(text(&missing).contains("executable file not found in $PATH"), "{}", text(&missing));
    // `run` has let the program go; the host may not have executed it yet.
    until("it is listed", || text(&bulkhead(&lab, &["ps", "life"])).contains("sleep"));
    assert!(text(&bulkhead(&lab, &["debug", "syscalls", "life"])).contains("mmap"));
    let refused = bulkhead(&lab, &["delete", "life"]);
    assert!(!refused.status.success() && text(&refused).contains("that is not stopped: running"), "{}", text(&refused));
    assert!(bulkhead(&lab, &["kill", "life", "KILL"]).status.success());
    until("the container stops", || status(&lab, "life") == "stopped");
    let late = bulkhead(&lab, &["kill", "life", "TERM"]);
    assert!(text(&late).contains("container not running"), "{}", text(&late));
    assert!(bulkhead(&lab, &["delete", "life"]).status.success());
    let gone = bulkhead(&lab, &["state", "life"]);
    assert!(text(&gone).contains("does not exist"), "{}", text(&gone));
    assert_eq!(kernels(&lab), 0);
}

#[test]
fn a_killed_kernel_takes_its_pod_along_and_delete_cleans_up() {
    let Some(lab) = Lab::open() else { return };
    start(&lab, "orphan", &["/bin/sh", "-c", "sleep 1000 & sleep 1000"]);
    let record = std::fs::read(lab.path().join("state/@pods/orphan/pod.json")).expect("pod.json");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("json");
    let wall = record["wall"]["pid"].as_i64().expect("a process") as i32;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(wall), nix::sys::signal::Signal::SIGKILL).expect("kill");
    until("the container stops", || status(&lab, "orphan") == "stopped");
    assert!(bulkhead(&lab, &["delete", "orphan"]).status.success());
    assert_eq!(kernels(&lab), 0);
    assert!(!lab.path().join("state/orphan").exists());
}

#[test]
fn two_containers_of_a_pod_share_a_kernel_and_its_network() {
    let Some(lab) = Lab::open() else { return };
    let annotated = |id: &str, kind: &str, arguments: &[&str]| {
        let mut configuration = lab.configuration(id, &lab.rootfs(), arguments);
        configuration["annotations"] =
            serde_json::json!({ "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "pod1" });
        lab.bundle(id, &configuration)
    };
    let run = |id: &str, bundle: &std::path::Path| {
        let mut command = lab.command(Runtime::Sandbox);
        command.args(["run", "--detach", "--bundle"]).arg(bundle).arg(id);
        assert!(command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status().expect("run").success());
    };
    run("pod1", &annotated("pod1", "sandbox", &["/bin/sleep", "1000"]));
    let server = "import socket;s=socket.socket();s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1);s.bind(('127.0.0.1',7007));s.listen();c,_=s.accept();c.send(b'from the other container');c.close();import time;time.sleep(1000)";
    run("web", &annotated("web", "container", &["/usr/bin/python3", "-c", server]));
    assert_eq!(kernels(&lab), 1, "one kernel process for both");
    let client = "import socket,time\nfor i in range(1000):\n  try:\n    s=socket.create_connection(('127.0.0.1',7007)); break\n  except OSError: time.sleep(0.05)\nprint(s.recv(100).decode())";
    let said = bulkhead(&lab, &["exec", "pod1", "/usr/bin/python3", "-c", client]);
    assert_eq!(text(&said).trim(), "from the other container");
    assert!(bulkhead(&lab, &["delete", "--force", "web"]).status.success());
    assert_eq!(status(&lab, "pod1"), "running");
    assert!(bulkhead(&lab, &["delete", "--force", "pod1"]).status.success());
    assert_eq!(kernels(&lab), 0);
}

#[test]
fn whoever_enters_a_container_by_its_number_does_not_find_the_host() {
    let Some(lab) = Lab::open() else { return };
    start(&lab, "enter", &["/bin/sleep", "1000"]);
    let state: serde_json::Value = serde_json::from_slice(&bulkhead(&lab, &["state", "enter"]).stdout).expect("json");
    let pid = state["pid"].as_i64().expect("a number");
    let own = std::fs::read_link("/proc/self/ns/mnt").expect("a namespace");
    assert_ne!(std::fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("a namespace"), own);
    assert_eq!(std::fs::read_dir(format!("/proc/{pid}/root")).expect("its root").count(), 0);
    let written = std::fs::write(format!("/proc/{pid}/root/file"), "x").expect_err("nobody writes there");
    assert_eq!(written.raw_os_error(), Some(libc::EROFS));
    assert!(bulkhead(&lab, &["delete", "--force", "enter"]).status.success());
}

#[test]
fn the_readme_has_the_table_that_the_command_prints() {
    let Some(lab) = Lab::open() else { return };
    let printed = text(&bulkhead(&lab, &["debug", "config-fields"]));
    assert!(printed.lines().count() > 100);
    assert!(include_str!("../../README.md").contains(&printed));
}

#[test]
fn a_job_is_signalled_as_soon_as_it_is_forked() {
    let Some(lab) = Lab::open() else { return };
    start(&lab, "jobs", &["/bin/sleep", "1000"]);
    // The child may have made no call when its shell names its group.
    let script = "set -m; for i in $(seq 60); do sleep 100 & kill -TERM %% || echo failed; wait %% 2>/dev/null; done; echo over";
    let jobs = bulkhead(&lab, &["exec", "jobs", "/bin/bash", "-c", script]);
    let said: Vec<String> = text(&jobs).lines().filter(|line| !line.contains("Terminated")).map(str::to_owned).collect();
    assert_eq!(said, ["over"]);
    assert!(bulkhead(&lab, &["delete", "--force", "jobs"]).status.success());
}

#[test]
fn a_newcomer_begins_with_spec() {
    let Some(lab) = Lab::open() else { return };
    let bundle = lab.path().join("first");
    std::fs::create_dir_all(&bundle).expect("a directory");
    let place = bundle.display().to_string();
    let made = bulkhead(&lab, &["spec", "--bundle", &place]);
    assert!(made.status.success(), "{}", text(&made));
    let mut configuration: serde_json::Value =
        serde_json::from_slice(&std::fs::read(bundle.join("config.json")).expect("config.json")).expect("json");
    configuration["root"]["path"] = lab.rootfs().display().to_string().into();
    configuration["process"]["args"] = serde_json::json!(["/bin/echo", "hello"]);
    std::fs::write(bundle.join("config.json"), configuration.to_string()).expect("config.json");
    // Its template asks for a terminal, which there is none of here: said at once.
    let nowhere = std::process::Command::new("setsid")
        .args(["--wait", "timeout", "60"])
        .arg(lab.bulkhead())
        .args(["--root", &lab.path().join("state").display().to_string(), "run", "--bundle", &place, "first"])
        .stdin(std::process::Stdio::null())
        .output()
        .expect("bulkhead");
    assert!(!nowhere.status.success() && text(&nowhere).contains("/dev/tty"), "{}", text(&nowhere));
    configuration["process"]["terminal"] = false.into();
    std::fs::write(bundle.join("config.json"), configuration.to_string()).expect("config.json");
    let ran = bulkhead(&lab, &["run", "--bundle", &place, "first"]);
    assert_eq!((text(&ran).as_str(), ran.status.code()), ("hello\n", Some(0)));
    // Whoever reads the first line only gets no panic for it.
    let line = format!("{} features | head -n 1; echo \"${{PIPESTATUS[0]}}\"", lab.bulkhead().display());
    let cut = std::process::Command::new("bash").args(["-c", &line]).output().expect("bash");
    assert!(!text(&cut).contains("panic") && text(&cut).starts_with("{\n"), "{}", text(&cut));
}
