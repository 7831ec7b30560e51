//! Containers and execs from their creation to their end, and the words of refusals.
#![allow(missing_docs)]

mod guest;

use std::io::{Read, Write};

use bulkhead_protocol::call::{Code, Method};
use bulkhead_protocol::messages::state_response::Status;
use bulkhead_protocol::messages::*;
use guest::{Guest, eventually, exec, named, process, refusal, signal, start, state, wait};
use serde_json::json;

#[test]
fn a_container_lives_and_is_forgotten() {
    let guest = Guest::start();
    let mut client = guest.client();
    let mut request = guest.request("web", &["sh", "-c", "echo $$ $HOME; hostname; cat; exit 3"], |_| {});
    let [(stdin, mut input), (stdout, mut output)] = [guest.stream(), guest.stream()];
    request.stdio = Some(Stdio { stdin, stdout, ..Stdio::default() }).into();
    let pid = client.create(&request).unwrap().pid;
    assert!(pid > 1);
    assert_eq!(state(&mut client, "web"), Status::CREATED);
    assert_eq!(refusal(client.create(&request)).code, Code::AlreadyExists);
    client.start(&start("web", "")).unwrap();
    assert_eq!(state(&mut client, "web"), Status::RUNNING);
    assert_eq!(refusal(client.start(&start("web", ""))).message, "cannot start a container that has been started");
    input.write_all(b"typed\n").unwrap();
    input.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1 /root\nguest\ntyped\n");
    for _ in 0..2 {
        let ended = client.wait(&wait("web", "")).unwrap();
        assert_eq!((ended.exit_status, ended.out_of_memory), (3, false));
        assert!(ended.exited_at > 1_500_000_000_000_000_000);
    }
    assert_eq!(state(&mut client, "web"), Status::STOPPED);
    assert_eq!(refusal(client.signal(&signal("web", "", 15))).message, "process already finished");
    let stopped = refusal(client.exec(&exec("web", "e", process(&["true"]))));
    assert_eq!((stopped.code, stopped.message.as_str()), (Code::FailedPrecondition, "cannot exec in a stopped container"));
    client.delete(&named("web")).unwrap();
    let gone = refusal(client.delete(&named("web")));
    assert_eq!((gone.code, gone.message.as_str()), (Code::NotFound, "container \"web\" does not exist"));
    assert!(!guest.cgroups().join("web").exists());
}

#[test]
fn programs_that_can_not_be_executed_are_refused_in_runcs_words() {
    let guest = Guest::start();
    let mut client = guest.client();
    let mut message = |command: &[&str], change: &dyn Fn(&mut serde_json::Value)| {
        let refusal = refusal(client.create(&guest.request("web", command, change)));
        assert!(!guest.cgroups().join("web").exists(), "something is left");
        (refusal.code, refusal.message)
    };
    let same = &|_: &mut serde_json::Value| {};
    let expected = |code, text: &str| (code, text.to_owned());
    assert_eq!(message(&["no-such"], same), expected(Code::NotFound, r#"exec: "no-such": executable file not found in $PATH"#));
    assert_eq!(message(&["/no"], same), expected(Code::NotFound, r#"exec: "/no": stat /no: no such file or directory"#));
    assert_eq!(message(&["/etc/passwd"], same), expected(Code::PermissionDenied, r#"exec: "/etc/passwd": permission denied"#));
    let (code, text) = message(&["true"], &|config| config["process"]["cwd"] = json!("/etc/passwd"));
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(text, "chdir to cwd (\"/etc/passwd\") set in config.json failed: not a directory (process.cwd)");
    let (_, text) = message(&["true"], &|config| config["linux"]["namespaces"][0]["type"] = json!("user"));
    assert!(text.contains("user"), "{text}");
    let (_, text) = message(&["true"], &|config| config["mounts"][0]["options"] = json!(["nonsense"]));
    assert_eq!(text, "mounts[0]: \"nonsense\": no such mount option");
    let (_, text) = message(&["true"], &|config| config["linux"]["sysctl"] = json!({"kernel.no_such": "1"}));
    assert!(text.starts_with("linux.sysctl: \"kernel.no_such\": "), "{text}");
}

#[test]
fn what_is_no_program_fails_at_its_start() {
    let guest = Guest::start();
    let mut client = guest.client();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("script"), "echo no interpreter\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path().join("script"), mode).unwrap();
    let request = guest.request("web", &["/mnt/script"], |config| {
        let mount = json!({"destination": "/mnt", "type": "bind", "source": directory.path(), "options": ["bind", "ro"]});
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    client.create(&request).unwrap();
    let failed = refusal(client.start(&start("web", "")));
    assert_eq!((failed.code, failed.message.as_str()), (Code::InvalidArgument, r#"exec: "/mnt/script": exec format error"#));
    assert_eq!(client.wait(&wait("web", "")).unwrap().exit_status, 127);
    assert_eq!(state(&mut client, "web"), Status::STOPPED);
    client.delete(&named("web")).unwrap();
}

#[test]
fn execs_enter_and_end_with_their_own_status() {
    let guest = Guest::start();
    let mut client = guest.client();
    client.create(&guest.request("web", &["sleep", "1000"], |_| {})).unwrap();
    // In a created container too.
    let (stdout, mut output) = guest.stream();
    let mut request = exec("web", "one", process(&["sh", "-c", "hostname; ls -d /proc/[0-9]* | wc -l; cat /proc/self/cgroup; exit 7"]));
    request.stdio = Some(Stdio { stdout, ..Stdio::default() }).into();
    assert!(client.exec(&request).unwrap().pid > 1);
    assert_eq!(client.wait(&wait("web", "one")).unwrap().exit_status, 7);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    // Itself, its shell's pipeline, and the first process, which waits.
    assert!(text.starts_with("guest\n") && text.ends_with("0::/\n"), "{text}");
    client.start(&start("web", "")).unwrap();
    let refused = refusal(client.exec(&exec("web", "two", process(&["no-such"]))));
    assert_eq!(refused.message, r#"exec: "no-such": executable file not found in $PATH"#);
    assert_eq!(refusal(client.wait(&wait("web", "two"))).code, Code::NotFound);
    // The name can be used again when its process has ended, not before.
    client.exec(&exec("web", "one", process(&["sleep", "1000"]))).unwrap();
    assert_eq!(refusal(client.exec(&exec("web", "one", process(&["true"])))).code, Code::AlreadyExists);
    let listed = client.processes(&ProcessesRequest { container_id: "web".into(), ..ProcessesRequest::new() }).unwrap().processes;
    let mut seen: Vec<_> = listed.iter().map(|one| (one.command.as_str(), one.exec_id.as_str())).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("sleep 1000", ""), ("sleep 1000", "one")]);
    assert_eq!(listed.iter().filter(|one| one.container_pid == 1).count(), 1);
    // The container's end is theirs.
    client.signal(&signal("web", "", 9)).unwrap();
    assert_eq!(client.wait(&wait("web", "")).unwrap().exit_status, 137);
    assert_eq!(client.wait(&wait("web", "one")).unwrap().exit_status, 137);
    client.delete(&named("web")).unwrap();
}

#[test]
fn held_execs_wait_and_die_with_their_client() {
    let guest = Guest::start();
    let mut client = guest.client();
    client.create(&guest.request("web", &["sleep", "1000"], |_| {})).unwrap();
    client.start(&start("web", "")).unwrap();
    let held = |name| ExecRequest { held: true, ..exec("web", name, process(&["sh", "-c", "exit 5"])) };
    client.exec(&held("one")).unwrap();
    client.start(&start("web", "one")).unwrap();
    assert_eq!(client.wait(&wait("web", "one")).unwrap().exit_status, 5);
    let again = refusal(client.start(&start("web", "one")));
    assert_eq!((again.code, again.message.as_str()), (Code::FailedPrecondition, "exec \"one\" is not held"));
    let mut other = guest.client();
    other.exec(&held("two")).unwrap();
    drop(other);
    assert_eq!(client.wait(&wait("web", "two")).unwrap().exit_status, 137);
}

#[test]
fn who_waits_may_take_the_process_along() {
    let guest = Guest::start();
    let mut client = guest.client();
    client.create(&guest.request("web", &["sleep", "1000"], |_| {})).unwrap();
    client.start(&start("web", "")).unwrap();
    let mut waits = guest.client();
    waits.send(Method::Wait, &WaitRequest { kill_when_abandoned: true, ..wait("web", "") }).unwrap();
    // Another that waits without taking it along goes first.
    let mut other = guest.client();
    other.send(Method::Wait, &wait("web", "")).unwrap();
    drop(other);
    assert_eq!(state(&mut client, "web"), Status::RUNNING);
    drop(waits);
    let ended = client.wait(&wait("web", "")).unwrap();
    assert_eq!((ended.exit_status, ended.out_of_memory), (137, false));
}

#[test]
fn signals_reach_one_or_all() {
    let guest = Guest::start();
    let mut client = guest.client();
    let (stdout, mut output) = guest.stream();
    let mut request = guest.request("web", &["sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done"], |_| {});
    request.stdio = Some(Stdio { stdout, ..Stdio::default() }).into();
    client.create(&request).unwrap();
    client.start(&start("web", "")).unwrap();
    let mut ready = [0; 6];
    output.read_exact(&mut ready).unwrap();
    client.exec(&exec("web", "one", process(&["sleep", "1000"]))).unwrap();
    assert_eq!(refusal(client.signal(&signal("web", "", 99))).code, Code::InvalidArgument);
    client.signal(&signal("web", "one", libc::SIGTERM)).unwrap();
    assert_eq!(client.wait(&wait("web", "one")).unwrap().exit_status, 128 + 15);
    client.signal(&SignalRequest { all: true, ..signal("web", "", libc::SIGUSR1) }).unwrap();
    assert_eq!(client.wait(&wait("web", "")).unwrap().exit_status, 9);
    client.signal(&SignalRequest { all: true, ..signal("web", "", libc::SIGKILL) }).unwrap();
}

#[test]
fn a_pods_containers_share_what_they_ask_for() {
    let guest = Guest::start();
    let mut client = guest.client();
    client.create(&guest.request("pause", &["sleep", "1000"], |config| config["hostname"] = json!("pod"))).unwrap();
    client.start(&start("pause", "")).unwrap();
    let shared = |config: &mut serde_json::Value| {
        config["hostname"] = json!("host");
        config["linux"]["namespaces"][0]["path"] = json!("/proc/1/ns/pid");
        config["linux"]["namespaces"][2]["path"] = json!("/proc/1/ns/ipc");
        config["linux"]["namespaces"][3]["path"] = json!("/proc/1/ns/uts");
    };
    let mut request = guest.request(
        "app",
        &["sh", "-c", "hostname; cat /proc/1/cmdline | tr '\\0' ' '; test $$ = 1 || echo; grep ^0 /proc/self/cgroup"],
        shared,
    );
    request.pid_namespace_of = "pause".into();
    let (status, output) = guest.run_request(request).unwrap();
    assert_eq!((status, String::from_utf8_lossy(&output).as_ref()), (0, "pod\nsleep 1000 \n0::/\n"));
    let own = guest.run("other", &["sh", "-c", "hostname; echo $$"], |config| config["hostname"] = json!("other"));
    assert_eq!(own, (0, "other\n1\n".into()));
    assert_eq!(state(&mut client, "pause"), Status::RUNNING);
    // Deleting kills.
    client.delete(&named("pause")).unwrap();
}

#[test]
fn a_paused_container_stands_still_and_execs_wait() {
    let guest = Guest::start();
    let mut client = guest.client();
    let (stdout, output) = guest.stream();
    let mut request = guest.request("web", &["sh", "-c", "while :; do echo x; sleep 0.05; done"], |_| {});
    request.stdio = Some(Stdio { stdout, ..Stdio::default() }).into();
    client.create(&request).unwrap();
    client.start(&start("web", "")).unwrap();
    client.pause(&named("web")).unwrap();
    assert_eq!(state(&mut client, "web"), Status::PAUSED);
    output.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let mut bytes = [0; 4096];
    while (&output).read(&mut bytes).is_ok() {}
    // Nothing for 300 ms: it stands still. An exec is made, and waits.
    client.exec(&exec("web", "one", process(&["true"]))).unwrap();
    let mut waits = guest.client();
    waits.set_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    waits.send(Method::Wait, &wait("web", "one")).unwrap();
    assert!(waits.receive::<WaitResponse>().is_err());
    client.resume(&named("web")).unwrap();
    assert_eq!(client.wait(&wait("web", "one")).unwrap().exit_status, 0);
    eventually("it goes on", || (&output).read(&mut bytes).ok());
    client.pause(&named("web")).unwrap();
    client.delete(&named("web")).unwrap();
}

#[test]
fn hostile_clients_get_refusals_or_nothing() {
    let guest = Guest::start();
    let mut garbage = guest.connect(bulkhead_protocol::guest::CONTROL_PORT);
    garbage.write_all(&[0xff; 64]).unwrap();
    assert_eq!(garbage.read(&mut [0; 16]).unwrap_or(0), 0);
    let mut zero = guest.connect(bulkhead_protocol::guest::STREAMS_PORT);
    zero.write_all(&[0; 4]).unwrap();
    assert_eq!(zero.read(&mut [0; 16]).unwrap_or(0), 0);
    let mut client = guest.client();
    let (number, _stream) = guest.stream();
    let mut twice = guest.connect(bulkhead_protocol::guest::STREAMS_PORT);
    twice.write_all(&number.to_le_bytes()).unwrap();
    let mut answers = Vec::new();
    let _ = twice.read_to_end(&mut answers);
    for id in ["", "..", "a/b", "cgroup.procs"] {
        assert!(client.create(&guest.request(id, &["true"], |_| {})).is_err(), "{id:?}");
    }
    let mut request = guest.request("web", &["true"], |_| {});
    request.stdio = Some(Stdio { stdout: 77, ..Stdio::default() }).into();
    assert_eq!(refusal(client.create(&request)).message, "stream 77 has not been attached");
    assert!(!guest.cgroups().join("web").exists());
    assert_eq!(refusal(client.syscall_counts(&named("web"))).code, Code::NotFound);
    // It serves on.
    assert_eq!(guest.run("web", &["true"], |_| {}).0, 0);
}
