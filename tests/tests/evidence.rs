//! Evidence from the host's side: while the programs of the comparison run, the host is asked (by its tracepoint, behind seccomp) which system calls it executed, and
//! for whom. Those of workload threads are in the direct set or the table of calls that are let go; those of the kernel process are in its own table.
//!
//! perf(1) follows two processes and all that they ever fork: the kernel process, and the spawner, from which every workload process descends. So nothing escapes
//! it, however short it lives.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Stdio};

use bulkhead_tests::{Lab, PROGRAMS, Runtime};

/// The numbers that a table of `bulkhead debug` lists.
fn table(lab: &Lab, name: &str) -> BTreeSet<i64> {
    let output = Command::new(lab.bulkhead()).args(["debug", name]).output().expect("bulkhead debug");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// The processes that a process forked and that live, in the order it did.
fn children(of: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// What the host executed: how often each call, by number.
#[derive(Default)]
struct Seen {
    workload: BTreeMap<i64, u64>,
    kernel: BTreeMap<i64, u64>,
}

impl Seen {
    /// Adds what one recording holds.
    fn add(&mut self, data: &Path, kernel: i32, spawner: i32) {
        let mut script = Command::new("perf");
        script.args(["script", "-F", "pid,tid,trace", "-i"]).arg(data).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut script = script.spawn().expect("perf script");
        let mut programs: BTreeSet<i32> = BTreeSet::new();
        let mut lines = std::io::BufReader::new(script.stdout.take().expect("its output"));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).expect("a line") > 0 {
            // `  PID/TID   NR NUMBER (ARGUMENTS)`
            let text = String::from_utf8_lossy(&line);
            let mut words = text.split_whitespace();
            let process = words.next().and_then(|word| word.split('/').next()?.parse::<i32>().ok());
            let number = words.skip_while(|word| *word != "NR").nth(1).and_then(|word| word.parse::<i64>().ok());
            if let (Some(process), Some(number)) = (process, number) {
                if process == kernel {
                    *self.kernel.entry(number).or_default() += 1;
                } else if process != spawner {
                    // A process that the spawner makes runs our code until it executes its program.
                    if number == libc::SYS_execve {
                        programs.insert(process);
                    }
                    if programs.contains(&process) {
                        *self.workload.entry(number).or_default() += 1;
                    }
                    // What a program forks is the program from its first call on; it is no child of the spawner's.
                    if !programs.contains(&process) && OWN_STEPS.iter().all(|step| *step != number) {
                        programs.insert(process);
                        *self.workload.entry(number).or_default() += 1;
                    }
                }
            }
            line.clear();
        }
        assert!(script.wait().expect("perf script").success());
    }
}

/// What a new process does between the spawner's clone and its execve (`platform/spawner`): calls of ours, before any byte of the workload's runs in it.
const OWN_STEPS: [i64; 13] = [
    libc::SYS_setsid,
    libc::SYS_setrlimit,
    libc::SYS_prlimit64,
    libc::SYS_chroot,
    libc::SYS_chdir,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_prctl,
    libc::SYS_close_range,
    libc::SYS_seccomp,
];

#[test]
fn the_host_executes_only_what_the_tables_list() {
    let Some(lab) = Lab::open() else { return };
    let traced =
        Command::new("perf").args(["stat", "-e", "raw_syscalls:sys_enter", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !traced.is_ok_and(|status| status.success()) {
        assert!(
            std::env::var_os("BULKHEAD_TESTS_COMPLETE").is_none(),
            "this test needs a perf(1) that may trace system calls (linux-perf)"
        );
        println!("not run: it needs a perf(1) that may trace system calls");
        return;
    }
    let bundle = lab.bundle("evidence", &lab.configuration("evidence", &lab.rootfs(), &["/bin/sleep", "1000"]));
    let mut command = lab.command(Runtime::Sandbox);
    command.args(["run", "--detach", "--bundle"]).arg(&bundle).arg("evidence").stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("run").success());
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(lab.path().join("state/@pods/evidence/pod.json")).expect("pod.json")).expect("json");
    let kernel = record["wall"]["pid"].as_i64().expect("a process") as i32;
    let spawner = children(kernel)[0];
    assert_eq!(std::fs::read_to_string(format!("/proc/{spawner}/comm")).expect("comm").trim(), "bulkhead-spawn");

    let data = lab.path().join("perf.data");
    let mut seen = Seen::default();
    for (program, interpreter) in PROGRAMS {
        let mut perf = Command::new("perf")
            .args(["record", "-q", "-e", "raw_syscalls:sys_enter", "-m", "8M", "-p", &format!("{kernel},{spawner}"), "-o"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("perf");
        // perf(1) has attached once it has written its header.
        let attached = (0..6000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            std::fs::metadata(&data).is_ok_and(|metadata| metadata.len() > 0)
        });
        assert!(attached, "perf record does not begin");
        let mut exec = lab.command(Runtime::Sandbox);
        exec.args(["exec", "evidence", interpreter, &format!("/programs/{program}")]).stdout(Stdio::null()).stderr(Stdio::null());
        exec.status().expect("exec");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(perf.id() as i32), nix::sys::signal::Signal::SIGINT).expect("kill");
        let _ = perf.wait();
        let before: u64 = seen.workload.values().sum();
        seen.add(&data, kernel, spawner);
        println!("{program}: {} calls executed for the workload", seen.workload.values().sum::<u64>() - before);
        std::fs::remove_file(&data).expect("perf.data");
    }
    assert!(lab.command(Runtime::Sandbox).args(["delete", "--force", "evidence"]).status().expect("delete").success());

    println!("executed for the workload: {:?}\nexecuted for the kernel process: {:?}", seen.workload, seen.kernel);
    assert!(
        seen.workload.values().sum::<u64>() > 5000 && seen.kernel.values().sum::<u64>() > 5000,
        "too little was seen to prove anything"
    );
    let outside = |seen: &BTreeMap<i64, u64>, table: &BTreeSet<i64>| {
        seen.keys().filter(|number| !table.contains(number)).copied().collect::<Vec<_>>()
    };
    assert_eq!(outside(&seen.workload, &table(&lab, "direct-set")), Vec::<i64>::new(), "calls of the workload outside the tables");
    assert_eq!(outside(&seen.kernel, &table(&lab, "kernel-calls")), Vec::<i64>::new(), "calls of the kernel process outside its table");
}
