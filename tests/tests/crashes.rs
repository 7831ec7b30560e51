//! Every command is killed at every moment, and so are the processes that it leaves running: nothing must be left that `delete --force`, or the
//! next `create` of the same name, does not clear away.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::Lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lab whose containers have cgroups of its own, and a state directory whose path no other test has.
struct Place {
    lab: Lab,
    cgroup: String,
}

impl Place {
    fn open() -> Option<Place> {
        let lab = Lab::open()?;
        let cgroup = format!("/bulkhead-test/{}", lab.path().file_name()?.to_string_lossy());
        Some(Place { lab, cgroup })
    }

    fn root(&self) -> PathBuf {
        self.lab.path().join("state")
    }

    /// The binary itself, without anything between it and us that would be killed in its place.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.lab.bulkhead());
        command.arg("--root").arg(self.root()).args(["--overlay", "memory"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> bool {
        self.command(arguments).status().expect("bulkhead").success()
    }

    fn bundle(&self, id: &str, arguments: &[&str], change: impl FnOnce(&mut Value)) -> String {
        let mut configuration = self.lab.configuration(id, &self.lab.rootfs(), arguments);
        configuration["linux"]["cgroupsPath"] = json!(format!("{}/{id}", self.cgroup));
        // A network namespace of its own: its end is the last holder's.
        configuration["linux"]["namespaces"] =
            json!([{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" }]);
        change(&mut configuration);
        self.lab.bundle(id, &configuration).to_string_lossy().into_owned()
    }

    /// Starts a command, and kills it after a while. True if it was still running.
    fn kill_after(&self, delay: Duration, arguments: &[&str]) -> bool {
        let mut child = self.command(arguments).spawn().expect("bulkhead");
        std::thread::sleep(delay);
        let running = child.try_wait().expect("wait").is_none();
        let _ = child.kill();
        child.wait().expect("wait");
        running
    }

    /// What is left of this lab on the host.
    fn left(&self) -> Vec<String> {
        let root = self.root();
        let mut left = processes(|pid| {
            let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let has = |text: &[u8], part: &str| String::from_utf8_lossy(text).contains(part);
            has(&read("cmdline"), &root.to_string_lossy()) || has(&read("cgroup"), &self.cgroup)
        });
        left.extend(below(&root).into_iter().filter(|path| *path != root.join("@pods")).map(|path| path.display().to_string()));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        left.extend(mounts.lines().filter(|line| line.contains(&*self.lab.path().to_string_lossy())).map(str::to_owned));
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let directory = hierarchy.path().join(self.cgroup.trim_start_matches('/'));
            left.extend(below(&directory).into_iter().filter(|path| path.is_dir()).map(|path| path.display().to_string()));
        }
        left
    }

    /// Waits until nothing is left: what has been killed takes a moment to be gone.
    fn assert_nothing_left(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {left:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn wall(&self, id: &str) -> Option<i32> {
        let record: Value = serde_json::from_slice(&std::fs::read(self.root().join("@pods").join(id).join("pod.json")).ok()?).ok()?;
        record["wall"]["pid"].as_i64().map(|pid| pid as i32)
    }

    fn stand_in(&self, id: &str) -> Option<i32> {
        let record: Value = serde_json::from_slice(&std::fs::read(self.root().join(id).join("state.json")).ok()?).ok()?;
        record["stand_in"]["pid"].as_i64().map(|pid| pid as i32)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Empty unless a test has failed, whose containers the lab deletes next.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(self.cgroup.trim_start_matches('/')));
        }
    }
}

/// The processes for which something holds, with their command lines.
fn processes(holds: impl Fn(i32) -> bool) -> Vec<String> {
    let numbers = std::fs::read_dir("/proc").expect("/proc").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let shown = |pid: i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("process {pid}: {}", line.replace('\0', " "))
    };
    numbers.filter(|pid| holds(*pid)).map(shown).collect()
}

/// Everything below a directory.
fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.flat_map(|entry| [vec![entry.path()], if entry.path().is_dir() { below(&entry.path()) } else { Vec::new() }].concat()).collect()
}

/// How long something takes at its quickest, of three times: the first may find nothing in the host's caches. After each comes what undoes it.
fn duration(mut work: impl FnMut(), mut undo: impl FnMut()) -> Duration {
    let mut once = || {
        let begun = Instant::now();
        work();
        let taken = begun.elapsed();
        undo();
        taken
    };
    once().min(once()).min(once())
}

/// Moments from the beginning of a command to a little after its usual end.
fn moments(whole: Duration, count: u32) -> impl Iterator<Item = Duration> {
    (0..count).map(move |index| whole * 6 * index / (5 * count))
}

/// How many kills each command gets; more for those who look for rare moments.
fn kills() -> u32 {
    std::env::var("BULKHEAD_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(16)
}

#[test]
fn create_is_killed_at_every_moment() {
    let Some(place) = Place::open() else { return };
    let bundle = place.bundle("c", &["/bin/sleep", "1000"], |_| {});
    let create = ["create", "--bundle", &bundle, "c"];
    let whole = duration(|| assert!(place.run(&create)), || assert!(place.run(&["delete", "--force", "c"])));
    let mut cut_off = 0;
    for (index, delay) in moments(whole, kills()).enumerate() {
        let running = place.kill_after(delay, &create);
        cut_off += u32::from(running);
        if index % 2 == 1 && running && !place.root().join("c/state.json").exists() {
            // The next creation of the same name needs no deletion in between.
            assert!(place.run(&create), "after {delay:?}");
        }
        assert!(place.run(&["delete", "--force", "c"]), "after {delay:?}");
        place.assert_nothing_left(&format!("create killed after {delay:?}"));
    }
    assert!(cut_off > kills() / 4, "only {cut_off} of {} kills hit", kills());
}

#[test]
fn create_takes_the_place_of_one_that_was_killed() {
    let Some(place) = Place::open() else { return };
    let bundle = place.bundle("again", &["/bin/sleep", "1000"], |_| {});
    let create = ["create", "--bundle", &bundle, "again"];
    let whole = duration(|| assert!(place.run(&create)), || assert!(place.run(&["delete", "--force", "again"])));
    for delay in moments(whole, kills()) {
        place.kill_after(delay, &create);
        // Unless it was too late: then the container is there.
        if !place.run(&create) {
            assert!(place.run(&["start", "again"]), "neither cut off nor complete after {delay:?}");
        }
        assert!(place.run(&["delete", "--force", "again"]));
        place.assert_nothing_left(&format!("create killed after {delay:?}, then created"));
    }
}

#[test]
fn run_start_exec_and_delete_are_killed_at_every_moment() {
    let Some(place) = Place::open() else { return };
    let bundle = place.bundle("v", &["/bin/sleep", "1000"], |_| {});
    let run = ["run", "--detach", "--bundle", &bundle, "v"];
    let create = ["create", "--bundle", &bundle, "v"];
    let delete = ["delete", "--force", "v"];
    // What comes before, what is killed.
    let cases: [(&[&[&str]], &[&str]); 4] =
        [(&[], &run), (&[&create], &["start", "v"]), (&[&run], &["exec", "--detach", "v", "/bin/sleep", "1000"]), (&[&run], &delete)];
    for (before, killed) in cases {
        let prepare = || before.iter().for_each(|command| assert!(place.run(command), "{command:?}"));
        prepare();
        let begin_again = || {
            assert!(place.run(&delete));
            prepare();
        };
        let whole = duration(|| assert!(place.run(killed), "{killed:?}"), begin_again);
        assert!(place.run(&delete));
        for delay in moments(whole, kills()) {
            prepare();
            place.kill_after(delay, killed);
            if killed[0] == "exec" {
                assert!(place.run(&["exec", "v", "/bin/true"]), "exec after one killed after {delay:?}");
            }
            assert!(place.run(&delete), "after {killed:?} killed after {delay:?}");
            place.assert_nothing_left(&format!("{killed:?} killed after {delay:?}"));
        }
    }
}

#[test]
fn an_exec_that_is_killed_before_its_process_began_leaves_no_process() {
    let Some(place) = Place::open() else { return };
    let bundle = place.bundle("x", &["/bin/sleep", "1000"], |_| {});
    assert!(place.run(&["run", "--detach", "--bundle", &bundle, "x"]));
    let exec = ["exec", "--detach", "--pid-file", &format!("{bundle}/pid"), "x", "/bin/sleep", "1000"];
    let mut numbers = vec![place.stand_in("x").expect("a stand-in")];
    let number = || std::fs::read_to_string(format!("{bundle}/pid")).ok().and_then(|text| text.parse::<i32>().ok());
    let whole = duration(|| assert!(place.run(&exec)), || numbers.extend(number()));
    let sleepers = || {
        let output = Command::new(place.lab.bulkhead()).arg("--root").arg(place.root()).args(["ps", "x"]).output().expect("ps");
        String::from_utf8_lossy(&output.stdout).matches("sleep").count()
    };
    // Whether a stand-in lives: of the container's process or of an exec's, whose number was written down.
    let lives = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().next()).is_some_and(|state| state != "Z")
    };
    for delay in moments(whole, kills()) {
        let _ = std::fs::remove_file(format!("{bundle}/pid"));
        place.kill_after(delay, &exec);
        numbers.extend(number());
        // Either it runs and its number is written down, or there is no such process.
        let deadline = Instant::now() + PATIENCE;
        while sleepers() != numbers.iter().filter(|pid| lives(pid)).count() {
            assert!(Instant::now() < deadline, "after {delay:?}: {} processes, of {numbers:?}", sleepers());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(place.run(&["delete", "--force", "x"]));
    place.assert_nothing_left("exec killed");
}

#[test]
fn the_wall_is_killed_under_every_command() {
    let Some(place) = Place::open() else { return };
    let bundle = place.bundle("w", &["/bin/sleep", "1000"], |_| {});
    let run = ["run", "--detach", "--bundle", &bundle, "w"];
    let whole = duration(|| assert!(place.run(&run)), || assert!(place.run(&["delete", "--force", "w"])));
    let kill_wall = |delay: Duration| {
        std::thread::sleep(delay);
        // During creation it may not be there yet.
        let deadline = Instant::now() + whole;
        while Instant::now() < deadline {
            if let Some(wall) = place.wall("w") {
                let _ = kill(Pid::from_raw(wall), Signal::SIGKILL);
                return;
            }
        }
    };
    for delay in moments(whole, kills()) {
        let mut child = place.command(&run).spawn().expect("run");
        kill_wall(delay);
        child.wait().expect("wait");
        assert!(place.run(&["delete", "--force", "w"]));
        place.assert_nothing_left(&format!("wall killed {delay:?} into run"));
    }
    for command in [&["exec", "w", "/bin/sh", "-c", "sleep 0.05"][..], &["delete", "--force", "w"], &["pause", "w"]] {
        for delay in moments(Duration::from_millis(30), kills() / 2) {
            assert!(place.run(&run));
            let mut child = place.command(command).spawn().expect("bulkhead");
            kill_wall(delay);
            let status = child.wait().expect("wait");
            if command[0] == "delete" {
                assert!(status.success(), "{status}: a dead wall is no reason not to delete");
            }
            assert!(place.run(&["delete", "--force", "w"]));
            place.assert_nothing_left(&format!("wall killed {delay:?} into {command:?}"));
        }
    }
}

#[test]
fn stand_ins_the_spawner_and_a_foreground_run_are_killed() {
    let Some(place) = Place::open() else { return };
    let bundle = place.bundle("s", &["/bin/sleep", "1000"], |_| {});
    let run = ["run", "--detach", "--bundle", &bundle, "s"];
    let status = || {
        let output = Command::new(place.lab.bulkhead()).arg("--root").arg(place.root()).args(["state", "s"]).output().expect("state");
        let state: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        state["status"].as_str().unwrap_or("none").to_owned()
    };
    let until_stopped = || {
        let deadline = Instant::now() + PATIENCE;
        while status() != "stopped" {
            assert!(Instant::now() < deadline, "still {}", status());
            std::thread::sleep(Duration::from_millis(10));
        }
    };

    // Whoever kills the stand-in means the container.
    assert!(place.run(&run));
    kill(Pid::from_raw(place.stand_in("s").expect("a stand-in")), Signal::SIGKILL).expect("kill");
    until_stopped();
    assert!(place.run(&["delete", "s"]));
    place.assert_nothing_left("stand-in killed");

    // Without the spawner nothing new can be started; what runs goes on, and is deleted.
    assert!(place.run(&run));
    let wall = place.wall("s").expect("a wall");
    let children = std::fs::read_to_string(format!("/proc/{wall}/task/{wall}/children")).expect("children");
    let spawner: i32 = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the spawner");
    kill(Pid::from_raw(spawner), Signal::SIGKILL).expect("kill");
    assert!(!place.run(&["exec", "s", "/bin/true"]), "there is nobody to start it");
    assert_eq!(status(), "running");
    assert!(place.run(&["delete", "--force", "s"]));
    place.assert_nothing_left("spawner killed");

    // A foreground run that is killed leaves its container running, as runc does.
    let mut child = place.command(&["run", "--bundle", &bundle, "s"]).spawn().expect("run");
    let deadline = Instant::now() + PATIENCE;
    while status() != "running" {
        assert!(Instant::now() < deadline, "still {}", status());
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert_eq!(status(), "running");
    assert!(place.run(&["delete", "--force", "s"]));
    place.assert_nothing_left("foreground run killed");

    // One of `do` has no name that anybody knows: the next one clears it away.
    let mut child = place.command(&["do", "--", "/bin/sleep", "1000"]).spawn().expect("do");
    let name = format!("do-{}", child.id());
    let deadline = Instant::now() + PATIENCE;
    while place.stand_in(&name).is_none() {
        assert!(Instant::now() < deadline, "{name} does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(place.run(&["do", "--", "/bin/true"]));
    place.assert_nothing_left("do killed");
}

#[test]
fn containers_of_one_pod_are_created_and_deleted_at_once() {
    let Some(place) = Place::open() else { return };
    let annotated = |id: &str, kind: &str, pod: &str| {
        place.bundle(id, &["/bin/sleep", "1000"], |configuration| {
            configuration["annotations"] = json!({ "io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": pod });
        })
    };
    let all = |commands: Vec<Vec<String>>| {
        let start =
            |command: &Vec<String>| place.command(&command.iter().map(String::as_str).collect::<Vec<_>>()).spawn().expect("bulkhead");
        let children: Vec<_> = commands.iter().map(start).collect();
        for (mut child, command) in children.into_iter().zip(&commands) {
            assert!(child.wait().expect("wait").success(), "{command:?}");
        }
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let run = |bundle: &str, id: &str| words(&["run", "--detach", "--bundle", bundle, id]);

    // Twenty containers of one pod.
    assert!(place.run(&["run", "--detach", "--bundle", &annotated("pod", "sandbox", "pod"), "pod"]));
    let ids: Vec<String> = (0..20).map(|index| format!("c{index}")).collect();
    all(ids.iter().map(|id| run(&annotated(id, "container", "pod"), id)).collect());
    let walls: BTreeSet<_> =
        std::fs::read_dir(place.root().join("@pods")).expect("pods").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(walls.len(), 1);
    // Each has its own processes in its own cgroup.
    for id in &ids {
        let tasks = Path::new("/sys/fs/cgroup").join("memory").join(format!("{}/{id}/cgroup.procs", place.cgroup).trim_start_matches('/'));
        let tasks = if tasks.exists() {
            tasks
        } else {
            Path::new("/sys/fs/cgroup").join(format!("{}/{id}/cgroup.procs", place.cgroup).trim_start_matches('/'))
        };
        let named = |pid: &str, name: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
        // `run` has let the program go; the host may not have executed it yet.
        let mut text = String::new();
        let runs = (0..6000).any(|_| {
            text = std::fs::read_to_string(&tasks).expect("cgroup.procs");
            let runs = text.lines().any(|pid| named(pid, "sleep"));
            if !runs {
                std::thread::sleep(Duration::from_millis(10));
            }
            runs
        });
        assert!(runs, "{id}: no sleep among {text:?}");
        assert!(!text.lines().any(|pid| named(pid, "bulkhead-kernel")), "{id}: the pod's wall is in its cgroup");
    }
    // The sandbox's container goes first; the others do not notice.
    assert!(place.run(&["delete", "--force", "pod"]));
    assert!(place.run(&["exec", "c7", "/bin/true"]));
    all(ids.iter().map(|id| words(&["delete", "--force", id])).collect());
    place.assert_nothing_left("a pod of twenty-one");

    // Ten pods.
    let ids: Vec<String> = (0..10).map(|index| format!("p{index}")).collect();
    all(ids.iter().map(|id| run(&annotated(id, "sandbox", id), id)).collect());
    all(ids.iter().map(|id| words(&["delete", "--force", id])).collect());
    place.assert_nothing_left("ten pods");
}
