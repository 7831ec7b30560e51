//! What containers may use and have used. Which controllers cgroup v2 has depends on the machine: limits are tested where they are there, and all of
//! them in `hack/lab`.
#![allow(missing_docs)]

mod guest;

use bulkhead_protocol::call::{Code, Method};
use bulkhead_protocol::messages::*;
use guest::{Guest, exec, named, process, refusal, start, wait};
use serde_json::json;

/// Whether the agent's containers have a controller. In the lab they must.
fn has(guest: &Guest, controller: &str) -> bool {
    let there =
        std::fs::read_to_string(guest.cgroups().join("cgroup.subtree_control")).unwrap().split_whitespace().any(|one| one == controller);
    assert!(there || std::env::var_os("BULKHEAD_IN_LAB").is_none(), "no controller {controller}");
    there
}

fn limits(
    client: &mut bulkhead_protocol::client::Client,
    id: &str,
    resources: serde_json::Value,
) -> Result<Empty, bulkhead_protocol::client::CallError> {
    let resources_json = resources.to_string().into_bytes();
    client.update(&UpdateRequest { container_id: id.into(), resources_json, ..UpdateRequest::new() })
}

#[test]
fn memory_that_runs_out_is_told_before_the_end() {
    let guest = Guest::start();
    if !has(&guest, "memory") {
        return;
    }
    let mut client = guest.client();
    let request = guest.request("web", &["sleep", "1000"], |config| {
        config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}});
    });
    client.create(&request).unwrap();
    client.start(&start("web", "")).unwrap();
    let mut told = guest.client();
    told.send(Method::OutOfMemory, &OutOfMemoryRequest { container_id: "web".into(), ..OutOfMemoryRequest::new() }).unwrap();
    client.exec(&exec("web", "hog", process(&["tail", "/dev/zero"]))).unwrap();
    let ended = client.wait(&wait("web", "hog")).unwrap();
    assert_eq!((ended.exit_status, ended.out_of_memory), (137, true));
    let count = told.receive::<OutOfMemoryResponse>().unwrap().count;
    assert!(count >= 1);
    // Whoever knows of it waits for the next one; a kill by a client is none.
    told.send(Method::OutOfMemory, &OutOfMemoryRequest { container_id: "web".into(), known: count, ..OutOfMemoryRequest::new() }).unwrap();
    client.exec(&exec("web", "other", process(&["sleep", "1000"]))).unwrap();
    client.signal(&guest::signal("web", "other", 9)).unwrap();
    assert!(!client.wait(&wait("web", "other")).unwrap().out_of_memory);
    let statistics = client.stats(&named("web")).unwrap();
    assert_eq!(statistics.memory.limit, 64 << 20);
    assert!(statistics.memory.usage > 0 && statistics.memory.details.contains_key("anon"));
    client.delete(&named("web")).unwrap();
    assert_eq!(refusal(told.receive::<OutOfMemoryResponse>()).code, Code::NotFound);
}

#[test]
fn processes_are_limited_and_counted() {
    let guest = Guest::start();
    if !has(&guest, "pids") {
        return;
    }
    let mut client = guest.client();
    let request = guest.request("web", &["sleep", "1000"], |config| config["linux"]["resources"] = json!({"pids": {"limit": 3}}));
    client.create(&request).unwrap();
    client.start(&start("web", "")).unwrap();
    client.exec(&exec("web", "one", process(&["sh", "-c", "sleep 7 & sleep 7 & sleep 7 & wait"]))).unwrap();
    assert_ne!(client.wait(&wait("web", "one")).unwrap().exit_status, 0);
    let statistics = client.stats(&named("web")).unwrap();
    assert_eq!(statistics.pids.limit, 3);
    limits(&mut client, "web", json!({"pids": {"limit": 20}})).unwrap();
    assert_eq!(client.stats(&named("web")).unwrap().pids.limit, 20);
}

#[test]
fn processor_time_is_counted_and_limits_are_changed() {
    let guest = Guest::start();
    let mut client = guest.client();
    client.create(&guest.request("web", &["sh", "-c", "i=0; while test $i -lt 20000; do i=$((i+1)); done"], |_| {})).unwrap();
    client.start(&start("web", "")).unwrap();
    assert_eq!(client.wait(&wait("web", "")).unwrap().exit_status, 0);
    let cpu = client.stats(&named("web")).unwrap().cpu;
    assert!(cpu.total > 0 && cpu.total >= cpu.user, "{cpu:?}");
    let refused = refusal(limits(&mut client, "web", json!({"unified": {"no.such": "1"}})));
    assert!(refused.message.starts_with("linux.resources.unified[\"no.such\"]: "), "{}", refused.message);
    if has(&guest, "cpu") {
        limits(&mut client, "web", json!({"cpu": {"quota": 20000, "period": 100000, "shares": 512}})).unwrap();
        let read = |name: &str| std::fs::read_to_string(guest.cgroups().join("web").join(name)).unwrap();
        assert_eq!((read("cpu.max").as_str(), read("cpu.weight").as_str()), ("20000 100000\n", "20\n"));
        // The host's processors are not the guest's: what binds there is left to the host.
        limits(&mut client, "web", json!({"cpu": {"cpus": "1000-1001"}})).unwrap();
    }
    let counts = refusal(client.syscall_counts(&named("web")));
    assert_eq!(counts.code, Code::Unimplemented);
}
