//! Evidence from the host's side: while real programs run, the host is asked (by its tracepoint, behind seccomp) which system calls it executed, and for whom.
//! Those of workload threads are in the direct set or the table of calls that are let go; those of the kernel process are in its own table.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use bulkhead_tests::{Lab, Runtime};

/// The numbers that a table of `bulkhead debug` lists.
fn table(lab: &Lab, name: &str) -> BTreeSet<i64> {
    let output = Command::new(lab.bulkhead()).args(["debug", name]).output().expect("bulkhead debug");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// What a thread is, by its process's parents.
fn status(pid: i32, key: &str) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.trim_start_matches(':').split_whitespace().next()?.parse().ok())
}

/// The children of a process, and theirs.
fn descendants(of: i32, found: &mut BTreeSet<i32>) {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{of}/task")) else { return };
    for task in tasks.flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in text.split_whitespace().filter_map(|word| word.parse().ok()) {
            found.insert(child);
            descendants(child, found);
        }
    }
}

#[test]
fn the_host_executes_only_what_the_tables_list() {
    let Some(lab) = Lab::open() else { return };
    let traced =
        Command::new("perf").args(["stat", "-e", "raw_syscalls:sys_enter", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !traced.is_ok_and(|status| status.success()) {
        println!("not run: this host does not let perf(1) trace system calls");
        return;
    }
    let bundle = lab.bundle("evidence", &lab.configuration("evidence", &lab.rootfs(), &["/bin/sleep", "1000"]));
    let mut command = lab.command(Runtime::Sandbox);
    command.args(["run", "--detach", "--bundle"]).arg(&bundle).arg("evidence").stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("run").success());
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(lab.path().join("state/@pods/evidence/pod.json")).expect("pod.json")).expect("json");
    let kernel = record["wall"]["pid"].as_i64().expect("a process") as i32;

    let data = lab.path().join("perf.data");
    let mut perf = Command::new("perf")
        .args(["record", "-q", "-a", "-e", "raw_syscalls:sys_enter", "-m", "8M", "-o"])
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("perf");
    std::thread::sleep(std::time::Duration::from_millis(700));
    let mut exec = lab.command(Runtime::Sandbox);
    exec.args(["exec", "evidence", "/bin/bash", "-c", "for program in coreutils.sh perl.pl archive.sh; do case $program in *.pl) perl /programs/$program;; *) bash /programs/$program;; esac; done; python3 /programs/python.py"]);
    let mut exec = exec.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("exec");
    let (mut workload, mut own) = (BTreeSet::new(), BTreeSet::new());
    while exec.try_wait().expect("wait").is_none() {
        let mut children = BTreeSet::new();
        descendants(kernel, &mut children);
        workload.extend(children.into_iter().filter(|pid| status(*pid, "Uid") == Some(65534)));
        let threads = std::fs::read_dir(format!("/proc/{kernel}/task")).into_iter().flatten().flatten();
        own.extend(threads.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()));
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(perf.id() as i32), nix::sys::signal::Signal::SIGINT).expect("kill");
    let _ = perf.wait();
    assert!(lab.command(Runtime::Sandbox).args(["delete", "--force", "evidence"]).status().expect("delete").success());

    let script = Command::new("perf").args(["script", "-F", "tid,trace", "-i"]).arg(&data).output().expect("perf script");
    let mut calls: BTreeMap<(bool, i64), u64> = BTreeMap::new();
    let mut programs: BTreeSet<i32> = BTreeSet::new();
    for line in String::from_utf8_lossy(&script.stdout).lines() {
        let mut words = line.split_whitespace();
        let Some(tid) = words.next().and_then(|word| word.parse::<i32>().ok()) else { continue };
        let Some(number) = words.skip_while(|word| *word != "NR").nth(1).and_then(|word| word.parse::<i64>().ok()) else { continue };
        if own.contains(&tid) {
            *calls.entry((true, number)).or_default() += 1;
        } else if workload.contains(&tid) {
            // A process that the spawner makes is ours until it executes its program.
            if number == libc::SYS_execve {
                programs.insert(tid);
            }
            if programs.contains(&tid) {
                *calls.entry((false, number)).or_default() += 1;
            }
        }
    }
    let seen = |kernel: bool| {
        calls.iter().filter(|((of, _), _)| *of == kernel).map(|((_, number), count)| (*number, *count)).collect::<BTreeMap<_, _>>()
    };
    let (of_workload, of_kernel) = (seen(false), seen(true));
    println!("executed for the workload: {of_workload:?}\nexecuted for the kernel process: {of_kernel:?}");
    assert!(of_workload.values().sum::<u64>() > 500 && of_kernel.values().sum::<u64>() > 500, "too little was seen to prove anything");
    let outside = |seen: &BTreeMap<i64, u64>, table: &BTreeSet<i64>| {
        seen.keys().filter(|number| !table.contains(number)).copied().collect::<Vec<_>>()
    };
    assert_eq!(outside(&of_workload, &table(&lab, "direct-set")), Vec::<i64>::new(), "calls of the workload outside the tables");
    assert_eq!(outside(&of_kernel, &table(&lab, "kernel-calls")), Vec::<i64>::new(), "calls of the kernel process outside its table");
}
