//! The wall, attacked from inside: what `design` promises, tried by programs that mean harm.

use std::path::PathBuf;
use std::process::Command;

use bulkhead_tests::{Lab, Ran, Runtime};

/// Compiles an attack statically; gives the directory that holds it.
fn compile(lab: &Lab, name: &str) -> PathBuf {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("attacks").join(format!("{name}.c"));
    let directory = lab.path().join("attacks");
    std::fs::create_dir_all(&directory).expect("a directory");
    let status = Command::new("gcc").args(["-static", "-O1", "-w", "-pthread", "-o"]).arg(directory.join(name)).arg(source).status();
    assert!(status.expect("gcc").success(), "{name}.c");
    directory
}

/// Runs a command with the attacks mounted at /attacks; `change` changes the configuration.
fn attack(lab: &Lab, id: &str, arguments: &[&str], change: impl FnOnce(&mut serde_json::Value)) -> Ran {
    let mut configuration = lab.configuration(id, &lab.rootfs(), arguments);
    let attacks = lab.path().join("attacks");
    if attacks.exists() {
        let mount = serde_json::json!({ "destination": "/attacks", "type": "bind", "source": attacks, "options": ["rbind", "ro"] });
        configuration["mounts"].as_array_mut().expect("mounts").push(mount);
    }
    change(&mut configuration);
    let bundle = lab.bundle(id, &configuration);
    let output = lab.command(Runtime::Sandbox).arg("run").arg("--bundle").arg(bundle).arg(id).output().expect("bulkhead");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ran { output: text, code: output.status.code().unwrap_or(-1) }
}

#[test]
fn every_number_by_every_entry() {
    let Some(lab) = Lab::open() else { return };
    compile(&lab, "numbers");
    let ran = attack(&lab, "numbers", &["/attacks/numbers"], |_| {});
    assert_eq!((ran.output.trim(), ran.code), ("survived, 0 executed by another entry", 0));
}

#[test]
fn memory_that_changes_during_a_call() {
    let Some(lab) = Lab::open() else { return };
    compile(&lab, "races");
    let ran = attack(&lab, "races", &["/attacks/races"], |_| {});
    assert_eq!((ran.output.trim(), ran.code), ("leaked 0, odd 0", 0));
}

/// What an attack prints, line by line, when it has achieved nothing.
fn achieves_nothing(name: &str, expected: &[&str]) {
    let Some(lab) = Lab::open() else { return };
    compile(&lab, name);
    let ran = attack(&lab, name, &[&format!("/attacks/{name}")], |_| {});
    assert_eq!((ran.output.lines().collect::<Vec<_>>(), ran.code), (expected.to_vec(), 0));
}

#[test]
fn children_are_nobody_else() {
    achieves_nothing("children", &["stolen 0, shown most, broken 0"]);
}

#[test]
fn programs_that_gain_rights_are_nobody_elses() {
    achieves_nothing(
        "execs",
        &[
            "two at once: insecure 0, killed few, odd 0",
            "not the first thread: 11 11",
            "shared directory: 10, no randomisation: 10",
            "mapped at the mark: odd 0",
            "vfork without exec: 7",
        ],
    );
}

#[test]
fn signals_reach_nobody_they_should_not() {
    achieves_nothing(
        "signalling",
        &["reached 0, ptrace -1 -1 -1", "alive 1 1", "everyone 3, root ended by 9", "threads 300, children 1500", "end 0"],
    );
}

#[test]
fn donated_files_give_nothing_but_their_mapping() {
    let Some(lab) = Lab::open() else { return };
    compile(&lab, "donated");
    let ran = attack(&lab, "donated", &["/attacks/donated"], |_| {});
    assert_eq!((ran.output.trim(), ran.code), ("r0", 0));
}

#[test]
fn a_fork_bomb_ends_at_the_limit() {
    let Some(lab) = Lab::open() else { return };
    let bomb = "import os, signal, sys, time\nchildren = []\ntry:\n  while len(children) < 300:\n    pid = os.fork()\n    if pid == 0:\n      time.sleep(30); os._exit(0)\n    children.append(pid)\nexcept OSError as error:\n  print(error.errno, 0 < len(children) < 60, flush=True)\n[os.kill(pid, signal.SIGKILL) for pid in children]\n[os.waitpid(pid, 0) for pid in children]\nprint(os.system('echo after'))";
    let ran = attack(&lab, "bomb", &["/usr/bin/python3", "-c", bomb], |configuration| {
        configuration["linux"]["resources"] = serde_json::json!({ "pids": { "limit": 60 } });
    });
    assert_eq!(ran.output, format!("{} True\nafter\n0\n", libc::EAGAIN));
}

#[test]
fn the_workload_dies_before_its_kernel_when_memory_runs_out() {
    let Some(lab) = Lab::open() else { return };
    let hungry = "python3 -c 'b = bytearray(1 << 30)' ; echo \"hungry: $?\"; echo still here";
    let ran = attack(&lab, "hungry", &["/bin/bash", "-c", hungry], |configuration| {
        configuration["linux"]["resources"] = serde_json::json!({ "memory": { "limit": 100_000_000 } });
    });
    assert!(ran.output.contains("hungry: 137") && ran.output.contains("still here"), "{}", ran.output);
    assert_eq!(ran.code, 0);
}

#[test]
fn what_is_cheap_to_ask_is_cheap_to_answer() {
    let Some(lab) = Lab::open() else { return };
    compile(&lab, "floods");
    let ran = attack(&lab, "floods", &["/attacks/floods"], |configuration| {
        configuration["process"]["rlimits"] = serde_json::json!([{ "type": "RLIMIT_NOFILE", "soft": 8000, "hard": 8000 }]);
    });
    assert_eq!((ran.output.trim(), ran.code), ("chain refused: 1\nfan refused: 1\nsurvived", 0));
}

#[test]
fn memory_that_the_kernel_holds_for_a_workload_is_the_workloads_end() {
    let Some(lab) = Lab::open() else { return };
    // Bytes in sockets are in the kernel process, and would get it killed; and a process asks the host to rather kill others.
    let filler = "import os, socket, time
adjustment = os.open('/proc/self/oom_score_adj', os.O_WRONLY)
try: os.write(adjustment, b'-1000')
except OSError as error: print('not lowered', error.errno, flush=True)
os.write(adjustment, b'0')
pairs = []
while True:
  try:
    a, b = socket.socketpair(); a.setblocking(False); pairs.append((a, b))
    while True: a.send(b'x' * 60000)
  except BlockingIOError: pass
  except OSError: time.sleep(1)";
    let script =
        "for i in 1 2 3 4; do python3 -c \"$FILLER\" & done; wait -n; echo \"one ended: $?\"; kill -KILL $(jobs -p); wait; echo still here";
    let ran = attack(&lab, "filler", &["/bin/bash", "-c", script], |configuration| {
        configuration["linux"]["resources"] = serde_json::json!({ "memory": { "limit": 128_000_000 } });
        configuration["process"]["env"].as_array_mut().expect("env").push(format!("FILLER={filler}").into());
    });
    assert!(ran.output.contains("one ended: 137") && ran.output.contains("still here"), "{}", ran.output);
    assert!(ran.output.contains("not lowered 13"), "{}", ran.output);
    assert_eq!(ran.code, 0);
}

#[test]
fn links_on_a_volume_do_not_lead_out() {
    let Some(lab) = Lab::open() else { return };
    let volume = lab.path().join("volume");
    std::fs::create_dir_all(volume.join("inside")).expect("a volume");
    std::fs::write(lab.path().join("secret"), "of the host").expect("a secret");
    let secret = lab.path().join("secret").display().to_string();
    std::os::unix::fs::symlink(&secret, volume.join("absolute")).expect("a link");
    std::os::unix::fs::symlink("../secret", volume.join("relative")).expect("a link");
    // The host moves a directory out of the volume while the container stands in it.
    let away = volume.join("inside");
    let target = lab.path().join("moved");
    let (there, gone) = (volume.join("there"), volume.join("gone"));
    let mover = std::thread::spawn(move || {
        await_file(&there);
        std::fs::rename(away, target).expect("rename");
        std::fs::write(gone, "").expect("a file");
    });
    let script = "cd /volume/inside || exit; cat /volume/absolute; cat /volume/relative; touch /volume/there; \
        while ! test -e /volume/gone; do sleep 0.05; done; cat ../secret; ls .. | grep -c secret; echo done";
    let ran = attack(&lab, "links", &["/bin/bash", "-c", script], |configuration| {
        let mount = serde_json::json!({ "destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"] });
        configuration["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    mover.join().expect("the mover");
    assert!(!ran.output.contains("of the host"), "{}", ran.output);
    assert!(ran.output.contains("done"), "{}", ran.output);
}

/// Whether any process of this machine has a file open.
fn is_open_somewhere(device: u64, inode: u64) -> bool {
    use std::os::unix::fs::MetadataExt;
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let descriptors = processes.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok()).flatten().flatten();
    descriptors.filter_map(|descriptor| std::fs::metadata(descriptor.path()).ok()).any(|file| (file.dev(), file.ino()) == (device, inode))
}

fn await_file(path: &std::path::Path) {
    for _ in 0..3000 {
        if path.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} does not come", path.display());
}

#[test]
fn what_was_mapped_is_let_go_when_it_is_closed() {
    use std::os::unix::fs::MetadataExt;
    let Some(lab) = Lab::open() else { return };
    compile(&lab, "donated");
    let volume = lab.path().join("held");
    std::fs::create_dir_all(&volume).expect("a volume");
    let place = volume.clone();
    let host = std::thread::spawn(move || {
        await_file(&place.join("mapped"));
        let big = std::fs::metadata(place.join("big")).expect("the mapped file");
        let before = is_open_somewhere(big.dev(), big.ino());
        std::fs::write(place.join("go"), "").expect("a file");
        await_file(&place.join("closed"));
        let after = is_open_somewhere(big.dev(), big.ino());
        std::fs::write(place.join("end"), "").expect("a file");
        (before, after)
    });
    let ran = attack(&lab, "held", &["/attacks/donated", "hold"], |configuration| {
        let mount = serde_json::json!({ "destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"] });
        configuration["mounts"].as_array_mut().expect("mounts").push(mount);
    });
    assert_eq!(ran.code, 0, "{}", ran.output);
    assert_eq!(host.join().expect("the host's side"), (true, false));
}

#[test]
fn races_on_a_volume_from_both_sides_do_not_lead_out() {
    let Some(lab) = Lab::open() else { return };
    compile(&lab, "volume");
    let (outside, volume) = (lab.path().join("outside"), lab.path().join("outside/volume"));
    let away = lab.path().join("outside/away");
    for directory in ["inner", "inner/swap", "inner/x", "swap", "moves", "moves/deep"] {
        std::fs::create_dir_all(volume.join(directory)).expect("a directory");
        std::fs::write(volume.join(directory).join("file"), "inside").expect("a file");
    }
    let canary = outside.join("canary");
    std::fs::write(&canary, "canary").expect("a canary");
    let link = |target: &std::path::Path, name: &str| std::os::unix::fs::symlink(target, volume.join(name)).expect("a link");
    link(&outside, "absolute");
    link(&canary, "relative");
    link("..".as_ref(), "out");
    link("../..".as_ref(), "inner/out");
    link("../..".as_ref(), "moves/link");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, place) = (stop.clone(), volume.clone());
    let host = std::thread::spawn(move || {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            // A directory and a link that leads out change places; a directory leaves the volume and comes back.
            let _ = renameat2(AT_FDCWD, &place.join("swap"), AT_FDCWD, &place.join("out"), RenameFlags::RENAME_EXCHANGE);
            let _ = std::fs::rename(place.join("moves"), &away);
            std::thread::yield_now();
            let _ = std::fs::rename(&away, place.join("moves"));
            let _ = std::fs::rename(place.join("inner"), place.join("moves/inner"));
            let _ = std::fs::rename(place.join("moves/inner"), place.join("inner"));
        }
    });
    for (id, user) in [("volume-root", 0), ("volume-user", 1000)] {
        let ran = attack(&lab, id, &["/attacks/volume", "6"], |configuration| {
            configuration["process"]["user"] = serde_json::json!({ "uid": user, "gid": user });
            let mount = serde_json::json!({ "destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"] });
            configuration["mounts"].as_array_mut().expect("mounts").push(mount);
        });
        assert_eq!((ran.output.trim(), ran.code), ("escaped 0, read what is inside, tried", 0));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    host.join().expect("the host's side");
    assert_eq!(std::fs::read(&canary).expect("the canary"), b"canary");
    let mut names: Vec<_> = std::fs::read_dir(&outside).expect("outside").map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    let expected: &[&str] = if outside.join("away").exists() { &["away", "canary", "volume"] } else { &["canary", "volume"] };
    assert_eq!(names, expected);
}
