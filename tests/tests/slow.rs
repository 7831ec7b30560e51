//! A kernel process that is slow at everything: a tracer stops it at each call that it makes. What rests on two things happening one after the other, and not on
//! an order that the kernel guarantees, breaks here.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::{Lab, Runtime};

#[test]
fn a_slow_kernel_loses_no_wake_up_and_no_end_of_file() {
    let Some(lab) = Lab::open() else { return };
    // Command substitutions, pipelines, signals and timers: each waits for what another process does.
    let script = "for i in $(seq 60); do a=$(/bin/echo one); b=$(echo two | cat | tr t T); test \"$a $b\" = 'one Two' || echo \"wrong: $a $b\"; done
        trap 'echo usr1' USR1; (sleep 0.2; kill -USR1 $$) & read -t 20 x < <(sleep 1); wait; timeout 0.3 sleep 5; echo $?; python3 -c 'import subprocess; print(len(subprocess.run([\"seq\", \"5000\"], capture_output=True).stdout))'; echo over";
    let bundle = lab.bundle("slow", &lab.configuration("slow", &lab.rootfs(), &["/bin/sleep", "1000"]));
    let mut command = lab.command(Runtime::Sandbox);
    command.args(["run", "--detach", "--bundle"]).arg(bundle).arg("slow").stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("run").success());
    let record = std::fs::read(lab.path().join("state/@pods/slow/pod.json")).expect("pod.json");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("json");
    let kernel = record["wall"]["pid"].as_i64().expect("a process").to_string();
    let mut tracer =
        Command::new("strace").args(["-f", "-q", "-o", "/dev/null", "-p", &kernel]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let tracer = tracer.as_mut().expect("strace");
    std::thread::sleep(Duration::from_millis(500));

    let started = Instant::now();
    let mut command = lab.command(Runtime::Sandbox);
    let output = command.args(["exec", "slow", "/bin/bash", "-c", script]).output().expect("exec");
    println!("took {:?}", started.elapsed());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(tracer.id() as i32), nix::sys::signal::Signal::SIGTERM).expect("kill");
    let _ = tracer.wait();
    assert!(lab.command(Runtime::Sandbox).args(["delete", "--force", "slow"]).status().expect("delete").success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "usr1\n124\n23893\nover\n", "{}", String::from_utf8_lossy(&output.stderr));
}
