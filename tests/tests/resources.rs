//! Pausing, limits, and memory that runs out: what the host really does to a workload, and what it leaves alone.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use bulkhead_protocol::client::Client;
use bulkhead_protocol::messages::WaitRequest;
use bulkhead_tests::{Lab, Runtime};
use serde_json::{Value, json};

fn bulkhead(lab: &Lab, arguments: &[&str]) -> Output {
    lab.command(Runtime::Sandbox).args(arguments).output().expect("bulkhead")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn succeed(lab: &Lab, arguments: &[&str]) -> String {
    let output = bulkhead(lab, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// Runs a container in the background.
fn run(lab: &Lab, id: &str, arguments: &[&str], change: impl FnOnce(&mut Value)) {
    let mut configuration = lab.configuration(id, &lab.rootfs(), arguments);
    configuration["linux"]["cgroupsPath"] = json!(format!("/bulkhead-test/{}-{id}", lab.path().file_name().unwrap().to_string_lossy()));
    change(&mut configuration);
    let bundle = lab.bundle(id, &configuration);
    let mut command = lab.command(Runtime::Sandbox);
    command.args(["run", "--detach", "--bundle"]).arg(bundle).arg(id);
    assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("bulkhead").success(), "run {id}");
}

fn status(lab: &Lab, id: &str) -> String {
    let state: Value = serde_json::from_slice(&bulkhead(lab, &["state", id]).stdout).unwrap_or_default();
    state["status"].as_str().unwrap_or("none").to_owned()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes of a container that last, by their numbers on the host: the first, and its children; those of them that run this program.
fn processes(lab: &Lab, id: &str, program: &str) -> Vec<i32> {
    let listed = succeed(lab, &["ps", id, "-o", "pid,ppid,args"]);
    let process = |line: &str| -> (i32, i32, PathBuf) {
        let mut words = line.split_whitespace();
        let mut number = || words.next().expect("a number").parse().expect("a number");
        (number(), number(), words.next().unwrap_or_default().into())
    };
    let all: Vec<_> = listed.lines().skip(1).map(process).collect();
    let is_outside = |number: i32| !all.iter().any(|(pid, ..)| *pid == number);
    let lasts = |parent: i32| is_outside(parent) || all.iter().any(|(pid, its, _)| *pid == parent && is_outside(*its));
    let wanted = all.iter().filter(|(_, parent, path)| lasts(*parent) && path.file_name().is_some_and(|name| name == program));
    wanted.map(|(pid, ..)| *pid).collect()
}

/// The same, once there are so many: a program that has been started may not have been executed yet.
fn so_many(lab: &Lab, id: &str, program: &str, count: usize) -> Vec<i32> {
    let mut found = Vec::new();
    until(&format!("{count} of {program}"), || {
        found = processes(lab, id, program);
        found.len() == count
    });
    found
}

/// The processor time that a process has used, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name")..].split_whitespace().collect();
    // utime and stime, fields 14 and 15 (proc_pid_stat(5)); the name's end is field 2.
    fields[12].parse::<u64>().expect("utime") + fields[13].parse::<u64>().expect("stime")
}

/// The time of all of them.
fn time_of(pids: &[i32]) -> u64 {
    pids.iter().map(|pid| ticks(*pid)).sum()
}

/// Waits until something has grown: on a busy machine everybody's turn comes late.
fn advances(what: &str, mut value: impl FnMut() -> u64) {
    let before = value();
    until(what, || value() > before);
}

fn stands_still(mut value: impl FnMut() -> u64) -> bool {
    let before = value();
    std::thread::sleep(Duration::from_millis(400));
    value() == before
}

#[test]
fn a_paused_container_does_nothing_and_goes_on_where_it_was() {
    let Some(lab) = Lab::open() else { return };
    let shared = lab.path().join("shared");
    std::fs::create_dir_all(&shared).expect("a directory");
    // One that only computes, one that makes calls, one that waits, one that forks.
    let script = "(while :; do :; done) & (while :; do echo >> /shared/count; done) & sleep 1000 & (while :; do /bin/true; done) & wait";
    run(&lab, "still", &["/bin/dash", "-c", script], |configuration| {
        let mount = json!({ "destination": "/shared", "type": "bind", "source": shared, "options": ["bind", "rw"] });
        configuration["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    run(&lab, "other", &["/bin/dash", "-c", "while :; do :; done"], |_| {});
    let count = || std::fs::metadata(shared.join("count")).map_or(0, |metadata| metadata.len());
    until("it counts", || count() > 10);
    so_many(&lab, "still", "sleep", 1);
    let (still, other) = (so_many(&lab, "still", "dash", 4), so_many(&lab, "other", "dash", 1));
    advances("they run", || time_of(&still));
    advances("it counts", count);
    for _ in 0..3 {
        succeed(&lab, &["pause", "still"]);
        assert_eq!(status(&lab, "still"), "paused");
        let before = (time_of(&still), count());
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(before, (time_of(&still), count()), "nothing runs, nothing is written");
        assert_eq!(status(&lab, "other"), "running");
        advances("others go on", || time_of(&other));
        succeed(&lab, &["resume", "still"]);
        assert_eq!(status(&lab, "still"), "running");
        advances("they run again", || time_of(&still));
        advances("it counts again", count);
    }
    for id in ["still", "other"] {
        succeed(&lab, &["delete", "--force", id]);
    }
}

#[test]
fn a_paused_container_is_entered_killed_and_deleted() {
    let Some(lab) = Lab::open() else { return };
    let spin = ["/bin/dash", "-c", "while :; do :; done"];
    run(&lab, "held", &spin, |_| {});
    succeed(&lab, &["pause", "held"]);
    let refused = bulkhead(&lab, &["exec", "held", "/bin/true"]);
    assert!(text(&refused).contains("cannot exec in a paused container (use --ignore-paused to override)"), "{}", text(&refused));
    assert_eq!(refused.status.code(), Some(255));
    // One that may waits for the container to go on.
    let mut exec = lab.command(Runtime::Sandbox);
    let mut exec = exec.args(["exec", "--ignore-paused", "held", "/bin/echo", "later"]).stdout(Stdio::piped()).spawn().expect("exec");
    std::thread::sleep(Duration::from_millis(500));
    assert!(exec.try_wait().expect("wait").is_none(), "it does not run yet");
    succeed(&lab, &["resume", "held"]);
    let output = exec.wait_with_output().expect("exec");
    assert_eq!((String::from_utf8_lossy(&output.stdout).trim(), output.status.code()), ("later", Some(0)));

    succeed(&lab, &["pause", "held"]);
    succeed(&lab, &["kill", "held", "TERM"]);
    assert_eq!(status(&lab, "held"), "paused", "only SIGKILL reaches it");
    succeed(&lab, &["kill", "held", "KILL"]);
    until("it is dead", || status(&lab, "held") == "stopped");
    succeed(&lab, &["delete", "held"]);

    run(&lab, "held", &spin, |_| {});
    succeed(&lab, &["pause", "held"]);
    let refused = bulkhead(&lab, &["delete", "held"]);
    assert!(text(&refused).contains("that is not stopped: paused"), "{}", text(&refused));
    let begun = Instant::now();
    succeed(&lab, &["delete", "--force", "held"]);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(status(&lab, "held"), "none");

    // Not started: neither does it run when it is resumed.
    run(&lab, "held", &spin, |_| {});
    succeed(&lab, &["delete", "--force", "held"]);
    let bundle = lab.path().join("held").to_string_lossy().into_owned();
    let mut create = lab.command(Runtime::Sandbox);
    assert!(
        create
            .args(["create", "--bundle", &bundle, "held"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("create")
            .success()
    );
    succeed(&lab, &["pause", "held"]);
    assert_eq!(status(&lab, "held"), "paused");
    succeed(&lab, &["resume", "held"]);
    assert_eq!(status(&lab, "held"), "created");
    succeed(&lab, &["start", "held"]);
    assert_eq!(status(&lab, "held"), "running");
    succeed(&lab, &["delete", "--force", "held"]);
}

#[test]
fn one_container_of_a_pod_is_paused_alone() {
    let Some(lab) = Lab::open() else { return };
    let annotate = |kind: &'static str| {
        move |configuration: &mut Value| {
            configuration["annotations"] = json!({ "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": "pod" });
        }
    };
    let spin = ["/bin/dash", "-c", "while :; do :; done"];
    run(&lab, "pod", &spin, annotate("sandbox"));
    run(&lab, "web", &spin, annotate("container"));
    let found = [("pod", so_many(&lab, "pod", "dash", 1)), ("web", so_many(&lab, "web", "dash", 1))];
    for [(paused, its), (running, others)] in [[&found[0], &found[1]], [&found[1], &found[0]]] {
        advances(&format!("{paused} runs"), || time_of(its));
        succeed(&lab, &["pause", paused]);
        assert!(stands_still(|| time_of(its)), "{paused} is paused");
        advances(&format!("{running} is not"), || time_of(others));
        succeed(&lab, &["exec", running, "/bin/true"]);
        succeed(&lab, &["resume", paused]);
        advances(&format!("{paused} runs again"), || time_of(its));
    }
    for id in ["web", "pod"] {
        succeed(&lab, &["delete", "--force", id]);
    }
}

/// Allocates and touches memory until it is killed.
const HOG: &str = "x = []\nwhile True: x.append(bytearray(1 << 20))";

/// A limit of 64 MiB, without swap.
fn little_memory(configuration: &mut Value) {
    configuration["linux"]["resources"] = json!({ "memory": { "limit": 64 << 20, "swap": 64 << 20 } });
}

fn wait(lab: &Lab, id: &str, exec: &str) -> (u32, bool) {
    let mut client = Client::connect(&lab.path().join("state/@pods").join(id).join("control.sock")).expect("the wall");
    let mut request = WaitRequest::new();
    request.container_id = id.to_owned();
    request.exec_id = exec.to_owned();
    let answer = client.wait(&request).expect("an answer");
    (answer.exit_status, answer.out_of_memory)
}

/// Prints events of a container; the lines of one type.
fn events(lab: &Lab, id: &str) -> (Child, std::sync::mpsc::Receiver<Value>) {
    let mut command = lab.command(Runtime::Sandbox);
    let mut child = command.args(["events", "--interval", "200ms", id]).stdout(Stdio::piped()).spawn().expect("events");
    let lines = BufReader::new(child.stdout.take().expect("output")).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(serde_json::from_str(&line).expect("json"))));
    (child, receiver)
}

#[test]
fn memory_that_runs_out_is_told_of() {
    let Some(lab) = Lab::open() else { return };
    // It begins when the first event has been seen.
    let shared = lab.path().join("shared");
    std::fs::create_dir_all(&shared).expect("a directory");
    let patient = format!("import os, time\nwhile not os.path.exists('/shared/go'): time.sleep(0.05)\n{HOG}");
    run(&lab, "hog", &["/usr/bin/python3", "-c", &patient], |configuration| {
        little_memory(configuration);
        let mount = json!({ "destination": "/shared", "type": "bind", "source": shared, "options": ["bind", "ro"] });
        configuration["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    let (mut child, lines) = events(&lab, "hog");
    let first = lines.recv_timeout(Duration::from_secs(60)).expect("an event");
    assert!(first["type"] == "stats" && first["data"]["memory"]["usage"]["limit"] == 64 << 20, "{first}");
    std::fs::write(shared.join("go"), "").expect("a file");
    let (code, out_of_memory) = wait(&lab, "hog", "");
    assert_eq!((code, out_of_memory), (137, true));
    // `events` ends with the container.
    assert!(child.wait().expect("events").success());
    let kinds: Vec<Value> = lines.iter().collect();
    assert!(kinds.iter().any(|event| *event == json!({ "type": "oom", "id": "hog" })), "{} events", kinds.len());
    assert_eq!(status(&lab, "hog"), "stopped");
    succeed(&lab, &["delete", "hog"]);
}

#[test]
fn a_death_that_is_not_for_memory_is_not_said_to_be() {
    let Some(lab) = Lab::open() else { return };
    run(&lab, "box", &["/bin/sleep", "1000"], little_memory);
    // An exec that runs out of memory takes nobody else along.
    let hog = bulkhead(&lab, &["exec", "box", "/usr/bin/python3", "-c", HOG]);
    assert_eq!(hog.status.code(), Some(137), "{}", text(&hog));
    assert_eq!(status(&lab, "box"), "running");
    let ended = bulkhead(&lab, &["exec", "box", "/bin/sh", "-c", "exit 5"]);
    assert_eq!(ended.status.code(), Some(5));
    // The container's own end has another reason, although memory had run out during its life.
    succeed(&lab, &["kill", "box", "KILL"]);
    assert_eq!(wait(&lab, "box", ""), (137, false));
    succeed(&lab, &["delete", "box"]);
}

#[test]
fn limits_change_while_a_container_runs() {
    let Some(lab) = Lab::open() else { return };
    run(&lab, "grow", &["/bin/sleep", "1000"], little_memory);
    let limit = || -> Value {
        let shown: Value = serde_json::from_str(&succeed(&lab, &["events", "--stats", "grow"])).expect("json");
        json!([shown["data"]["memory"]["usage"]["limit"], shown["data"]["pids"]["limit"]])
    };
    assert_eq!(limit(), json!([64 << 20, null]));
    succeed(&lab, &["update", "--memory", "128m", "--memory-swap", "128m", "--pids-limit", "40", "grow"]);
    assert_eq!(limit(), json!([128 << 20, 40]));
    // Twice what it had had at first.
    let take = "x = bytearray(90 << 20); print(len(x))";
    assert_eq!(succeed(&lab, &["exec", "grow", "/usr/bin/python3", "-c", take]).trim(), (90 << 20).to_string());
    // Processes are limited, too.
    let many = "for i in $(seq 60); do sleep 100 > /dev/null 2>&1 & done; jobs | wc -l";
    let output = bulkhead(&lab, &["exec", "grow", "/bin/bash", "-c", many]);
    assert!(text(&output).contains("Resource temporarily unavailable") || !text(&output).contains("60"), "{}", text(&output));
    let file = lab.path().join("resources.json");
    std::fs::write(&file, json!({ "memory": { "limit": 100 << 20 }, "pids": { "limit": 500 } }).to_string()).expect("resources.json");
    succeed(&lab, &["update", "--resources", &file.to_string_lossy(), "grow"]);
    assert_eq!(limit(), json!([100 << 20, 500]));
    let record = std::fs::read(lab.path().join("state/grow/state.json")).expect("a record");
    let record: Value = serde_json::from_slice(&record).expect("json");
    let memory = &record["config"]["linux"]["resources"]["memory"];
    assert_eq!(memory, &json!({ "limit": 100 << 20, "swap": 128 << 20 }), "what is not named stays");
    succeed(&lab, &["delete", "--force", "grow"]);
    assert!(
        !Path::new("/sys/fs/cgroup/memory/bulkhead-test")
            .join(format!("{}-grow", lab.path().file_name().unwrap().to_string_lossy()))
            .exists()
    );
}
