//! What is the microVM's alone: its own kernel, its sizes, one machine for a pod, the host's network behind its card, and nothing left when it is killed.
//!
//! Needs a KVM that runs guests and the image that hack/guest builds. Where `bulkhead check` says that there is none the tests say so and end, unless
//! `BULKHEAD_WALLS` names the microVM: then it is an error.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::{Lab, Runtime};
use serde_json::{Value, json};

/// A lab whose machine runs microVMs.
fn lab() -> Option<Lab> {
    let lab = Lab::open()?;
    if lab.walls().contains(&Runtime::Microvm) {
        return Some(lab);
    }
    println!("not run: there is no microVM here (bulkhead check)");
    None
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn bulkhead(lab: &Lab, arguments: &[&str]) -> Output {
    lab.command(Runtime::Microvm).args(arguments).output().expect("bulkhead")
}

fn succeed(lab: &Lab, arguments: &[&str]) -> String {
    let output = bulkhead(lab, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn state(lab: &Lab, id: &str) -> Value {
    serde_json::from_slice(&bulkhead(lab, &["state", id]).stdout).unwrap_or_default()
}

/// Runs a container in the background; what it says goes to the log.
fn start(lab: &Lab, id: &str, arguments: &[&str], change: impl FnOnce(&mut Value)) {
    let mut configuration = lab.configuration(id, &lab.rootfs(), arguments);
    change(&mut configuration);
    let bundle = lab.bundle(id, &configuration);
    let log = lab.path().join(format!("{id}.log"));
    let mut command = lab.command(Runtime::Microvm);
    command.arg("--log").arg(&log).args(["run", "--detach", "--bundle"]).arg(bundle).arg(id);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("bulkhead");
    assert!(status.success(), "run {id}: {}", std::fs::read_to_string(log).unwrap_or_default());
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within thirty seconds");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The monitors of this lab's pods, by their records.
fn monitors(lab: &Lab) -> Vec<i32> {
    let pods = lab.path().join("microvm-state/@pods");
    let entries = std::fs::read_dir(pods).into_iter().flatten().flatten();
    let number = |path: &Path| {
        let record: Value = serde_json::from_slice(&std::fs::read(path.join("pod.json")).ok()?).ok()?;
        i32::try_from(record["wall"]["pid"].as_i64()?).ok()
    };
    entries.filter_map(|entry| number(&entry.path())).collect()
}

/// What is left of this lab's pods on the host.
fn leftovers(lab: &Lab) -> Vec<String> {
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let root = lab.path().join("microvm-state");
    let mut found: Vec<String> = names(&root).into_iter().filter(|name| name != "@pods").collect();
    found.extend(names(&root.join("@pods")));
    let links = Command::new("ip").args(["-n", &network(lab), "-o", "link"]).output().expect("ip");
    found.extend(text(&links).lines().filter(|line| line.contains("bulk")).map(str::to_owned));
    found
}

fn network(lab: &Lab) -> String {
    lab.path().file_name().expect("a name").to_string_lossy().into_owned()
}

fn annotate(pairs: &[(&str, &str)]) -> impl FnOnce(&mut Value) + use<> {
    let annotations: serde_json::Map<String, Value> = pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    move |configuration| configuration["annotations"] = Value::Object(annotations)
}

#[test]
fn a_machine_has_a_kernel_of_its_own_and_the_sizes_that_were_asked_for() {
    let Some(lab) = lab() else { return };
    let script = "uname -r; grep -c ^processor /proc/cpuinfo; sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; exit 7";
    let sizes = annotate(&[("bulkhead.dev/vcpus", "2"), ("bulkhead.dev/memory", "300Mi")]);
    let ran = lab.run_with(Runtime::Microvm, "sizes", &["/bin/sh", "-c", script], sizes);
    let manifest: Value = {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest/manifest.json");
        serde_json::from_slice(&std::fs::read(path).expect("manifest.json")).expect("json")
    };
    let lines: Vec<&str> = ran.output.lines().collect();
    assert_eq!((lines.len(), ran.code), (3, 7), "{}", ran.output);
    assert!(manifest.to_string().contains(lines[0]), "{} is the image's kernel: {manifest}", lines[0]);
    assert_eq!(lines[1], "2");
    let memory: u64 = lines[2].parse().expect("a number");
    assert!((200 << 10..300 << 10).contains(&memory), "{memory} KiB of 300 MiB");
    assert!(leftovers(&lab).is_empty(), "{:?}", leftovers(&lab));
}

#[test]
fn a_container_is_driven_as_any_other() {
    let Some(lab) = lab() else { return };
    start(&lab, "life", &["/bin/sleep", "1000"], |configuration| {
        let mounts = configuration["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] }));
    });
    assert_eq!(state(&lab, "life")["status"], "running");
    assert_eq!(state(&lab, "life")["isolation"], "microvm");
    let exec = bulkhead(&lab, &["exec", "life", "/bin/sh", "-c", "echo out; echo err >&2; exit 5"]);
    assert_eq!((exec.stdout.as_slice(), exec.stderr.as_slice(), exec.status.code()), (&b"out\n"[..], &b"err\n"[..], Some(5)));
    let missing = bulkhead(&lab, &["exec", "life", "no-such-program"]);
    assert!(text(&missing).contains("executable file not found in $PATH"), "{}", text(&missing));

    let mut cat = lab.command(Runtime::Microvm);
    let mut cat = cat.args(["exec", "life", "/usr/bin/sha256sum"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("exec");
    std::io::Write::write_all(&mut cat.stdin.take().expect("stdin"), &vec![b'x'; 1 << 20]).expect("a megabyte");
    let output = cat.wait_with_output().expect("exec");
    let expected = Command::new("sh").args(["-c", "head -c 1048576 /dev/zero | tr '\\0' x | sha256sum"]).output().expect("sh");
    assert_eq!(output.stdout, expected.stdout);

    let line = format!("exec {:?} exec -t life /bin/sh -c 'tty; test -t 1 && echo a terminal; exit 3'", lab.command(Runtime::Microvm))
        .replace("\" \"", " ");
    let line = line.replace('"', "");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("SHELL", "/bin/sh").stdin(Stdio::null());
    let terminal = script.output().expect("script");
    assert!(text(&terminal).contains("/dev/pts/") && text(&terminal).contains("a terminal"), "{line}: {}", text(&terminal));
    assert_eq!(terminal.status.code(), Some(3));

    assert!(succeed(&lab, &["ps", "life"]).contains("sleep 1000"));
    succeed(&lab, &["pause", "life"]);
    assert_eq!(state(&lab, "life")["status"], "paused");
    succeed(&lab, &["resume", "life"]);
    assert_eq!(state(&lab, "life")["status"], "running");
    let events: Value = serde_json::from_str(&succeed(&lab, &["events", "--stats", "life"])).expect("json");
    assert!(events["data"]["cpu"]["usage"]["total"].as_u64().is_some_and(|total| total > 0), "{events}");
    succeed(&lab, &["update", "--pids-limit", "77", "life"]);
    assert!(succeed(&lab, &["exec", "life", "/bin/cat", "/sys/fs/cgroup/pids.max"]).contains("77"));
    succeed(&lab, &["kill", "life", "KILL"]);
    until("it is dead", || state(&lab, "life")["status"] == "stopped");
    succeed(&lab, &["delete", "life"]);
    assert!(leftovers(&lab).is_empty(), "{:?}", leftovers(&lab));
}

#[test]
fn containers_of_a_pod_share_one_machine_and_its_network() {
    let Some(lab) = lab() else { return };
    let member = |kind: &'static str| annotate(&[("io.kubernetes.cri.container-type", kind), ("io.kubernetes.cri.sandbox-id", "pod")]);
    start(&lab, "pod", &["/bin/sleep", "1000"], member("sandbox"));
    start(&lab, "web", &["/bin/sleep", "1000"], member("container"));
    assert_eq!(monitors(&lab).len(), 1);
    let boot = |id: &str| succeed(&lab, &["exec", id, "/bin/cat", "/proc/sys/kernel/random/boot_id"]);
    assert_eq!(boot("pod"), boot("web"), "one kernel");
    let interfaces = |id: &str| succeed(&lab, &["exec", id, "/bin/readlink", "/proc/self/ns/net"]);
    assert_eq!(interfaces("pod"), interfaces("web"), "one network");
    let tree = |id: &str| succeed(&lab, &["exec", id, "/bin/readlink", "/proc/self/ns/mnt"]);
    assert_ne!(tree("pod"), tree("web"), "two trees");
    for id in ["web", "pod"] {
        succeed(&lab, &["delete", "--force", id]);
    }
    assert!(leftovers(&lab).is_empty(), "{:?}", leftovers(&lab));
}

#[test]
fn the_pods_interface_is_the_guests_card() {
    let Some(lab) = lab() else { return };
    let ip = |arguments: &[&str]| assert!(Command::new("ip").args(arguments).status().expect("ip").success(), "{arguments:?}");
    let peer = format!("{}-p", network(&lab));
    ip(&["netns", "add", &peer]);
    ip(&["-n", &network(&lab), "link", "add", "eth0", "mtu", "1450", "type", "veth", "peer", "name", "peer0", "netns", &peer]);
    ip(&["-n", &network(&lab), "addr", "add", "10.7.0.2/24", "dev", "eth0"]);
    ip(&["-n", &network(&lab), "link", "set", "eth0", "up"]);
    ip(&["-n", &network(&lab), "route", "add", "default", "via", "10.7.0.1"]);
    ip(&["-n", &peer, "addr", "add", "10.7.0.1/24", "dev", "peer0"]);
    ip(&["-n", &peer, "link", "set", "peer0", "up"]);
    let server = "import socket; s=socket.create_server(('10.7.0.2',80)); c,_=s.accept(); n=0\nwhile True:\n b=c.recv(65536)\n if not b: break\n n+=len(b)\nc.sendall(b'%d' % n)";
    start(&lab, "net", &["/usr/bin/python3", "-c", server], |_| {});
    let shown = succeed(&lab, &["exec", "net", "/bin/sh", "-c", "ip -o -4 addr show eth0; ip route; cat /sys/class/net/eth0/mtu"]);
    assert!(shown.contains("10.7.0.2/24") && shown.contains("default via 10.7.0.1 dev eth0") && shown.contains("1450"), "{shown}");
    let client = "import socket,time\nfor _ in range(100):\n try: c=socket.create_connection(('10.7.0.2',80)); break\n except OSError: time.sleep(0.1)\nc.sendall(b'x'*3000000); c.shutdown(socket.SHUT_WR); print(c.recv(100))";
    let mut python = Command::new("ip");
    let output = python.args(["netns", "exec", &peer, "timeout", "60", "python3", "-c", client]).output().expect("python3");
    let sent = text(&output);
    succeed(&lab, &["delete", "--force", "net"]);
    ip(&["netns", "del", &peer]);
    assert!(sent.contains("b'3000000'"), "{sent}");
    assert!(leftovers(&lab).is_empty(), "{:?}", leftovers(&lab));
}

#[test]
fn a_volume_is_the_hosts_directory_as_it_is_now() {
    let Some(lab) = lab() else { return };
    let volume = lab.path().join("volume");
    std::fs::create_dir(&volume).expect("a directory");
    std::fs::write(volume.join("key"), "old\n").expect("a file");
    start(&lab, "vol", &["/bin/sleep", "1000"], |configuration| {
        let mounts = configuration["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({ "destination": "/volume", "type": "bind", "source": volume, "options": ["rbind", "rw"] }));
        mounts.push(json!({ "destination": "/single", "type": "bind", "source": volume.join("key"), "options": ["bind", "ro"] }));
    });
    let read = |path: &str| succeed(&lab, &["exec", "vol", "/bin/cat", path]);
    assert_eq!((read("/volume/key"), read("/single")), ("old\n".into(), "old\n".into()));
    std::fs::write(volume.join("new"), "new\n").expect("a file");
    std::fs::rename(volume.join("new"), volume.join("key")).expect("renamed");
    until("the change shows", || read("/volume/key") == "new\n");
    succeed(&lab, &["exec", "vol", "/bin/sh", "-c", "echo from the guest > /volume/answer; chown 1234:77 /volume/answer"]);
    assert_eq!(std::fs::read_to_string(volume.join("answer")).expect("a file"), "from the guest\n");
    let metadata = std::fs::metadata(volume.join("answer")).expect("a file");
    assert_eq!((std::os::unix::fs::MetadataExt::uid(&metadata), std::os::unix::fs::MetadataExt::gid(&metadata)), (1234, 77));
    let refused = bulkhead(&lab, &["exec", "vol", "/bin/sh", "-c", "echo x > /single"]);
    assert!(!refused.status.success() && text(&refused).contains("Read-only"), "{}", text(&refused));
    succeed(&lab, &["delete", "--force", "vol"]);
    assert!(leftovers(&lab).is_empty(), "{:?}", leftovers(&lab));
}

#[test]
fn a_machine_that_is_killed_or_panics_leaves_nothing() {
    let Some(lab) = lab() else { return };
    start(&lab, "gone", &["/bin/sleep", "1000"], |_| {});
    let stand_in = state(&lab, "gone")["pid"].as_i64().expect("a number") as i32;
    let monitor = monitors(&lab)[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL).expect("kill");
    until("its stand-in ends", || !Path::new(&format!("/proc/{stand_in}/ns/net")).exists());
    assert_eq!(state(&lab, "gone")["status"], "stopped");
    succeed(&lab, &["delete", "gone"]);
    assert!(leftovers(&lab).is_empty(), "{:?}", leftovers(&lab));

    // A container with the right to do so crashes its own kernel, and nothing else.
    let capable = |configuration: &mut Value| {
        for set in ["bounding", "effective", "permitted"] {
            configuration["process"]["capabilities"][set].as_array_mut().expect("a set").push(json!("CAP_SYS_ADMIN"));
        }
        configuration["linux"]["readonlyPaths"] = json!([]);
    };
    let ran = lab.run_with(
        Runtime::Microvm,
        "panic",
        &["/bin/sh", "-c", "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 100"],
        capable,
    );
    assert_eq!(ran.code, 137, "{}", ran.output);
    let log = std::fs::read_to_string(lab.path().join("panic-microvm.log")).unwrap_or_default();
    assert!(log.contains("the guest has ended") && log.contains("the end of the guest's console"), "{log}");
    assert!(leftovers(&lab).is_empty(), "{:?}", leftovers(&lab));
}
