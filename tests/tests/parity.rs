//! The command line beside runc's: the same commands in the same order, the same exit codes, and the words that clients look for.
//!
//! A difference that is meant is not in these tables; the README and the modules name them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bulkhead_tests::{Lab, Runtime};
use serde_json::{Value, json};

const BOTH: [Runtime; 2] = [Runtime::Runc, Runtime::Sandbox];

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The root file system as a runtime may have it: for runc a copy-on-write view of its own.
struct Tree(Option<PathBuf>, PathBuf);

impl Tree {
    fn of(lab: &Lab, runtime: Runtime) -> Tree {
        if runtime == Runtime::Sandbox {
            return Tree(None, lab.rootfs());
        }
        let place = |name: &str| {
            let path = lab.path().join(format!("parity.{name}"));
            std::fs::create_dir_all(&path).expect("an overlay directory");
            path
        };
        let (upper, work, merged) = (place("upper"), place("work"), place("merged"));
        let options = format!("lowerdir={},upperdir={},workdir={}", lab.rootfs().display(), upper.display(), work.display());
        let status = Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged).status().expect("mount");
        assert!(status.success());
        Tree(Some(merged.clone()), merged)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Some(merged) = &self.0 {
            let _ = Command::new("umount").arg(merged).status();
        }
    }
}

fn bundle(lab: &Lab, runtime: Runtime, tree: &Tree, id: &str, arguments: &[&str], change: &dyn Fn(&mut Value)) -> String {
    let name = format!("{id}-{runtime:?}");
    let mut configuration = lab.configuration(&name, &tree.1, arguments);
    // Of this lab alone: one that failed may have left its own.
    configuration["linux"]["cgroupsPath"] = json!(format!("/bulkhead-test/{}-{name}", lab.path().file_name().unwrap().to_string_lossy()));
    change(&mut configuration);
    lab.bundle(&name, &configuration).to_string_lossy().into_owned()
}

/// Runs a command of a runtime. One that detaches must not hold our pipes.
fn drive(lab: &Lab, runtime: Runtime, arguments: &[&str]) -> (String, Option<i32>) {
    let mut command = lab.command(runtime);
    command.args(arguments);
    if arguments.contains(&"--detach") || arguments[0] == "create" {
        let log = lab.path().join("log");
        let _ = std::fs::remove_file(&log);
        let file = || Stdio::from(std::fs::File::options().create(true).append(true).open(&log).expect("a log"));
        let code = command.stdout(file()).stderr(file()).status().expect("a runtime").code();
        return (std::fs::read_to_string(&log).unwrap_or_default(), code);
    }
    let output = command.output().expect("a runtime");
    (text(&output), output.status.code())
}

/// Commands in their order; `{bundle}` stands for the bundle. What both must say.
const STORY: &[(&[&str], &str)] = &[
    (&["state", "p"], "does not exist"),
    (&["start", "p"], "does not exist"),
    (&["kill", "p"], "does not exist"),
    (&["delete", "p"], "does not exist"),
    (&["delete", "--force", "p"], ""),
    (&["exec", "p", "true"], "does not exist"),
    (&["ps", "p"], "does not exist"),
    (&["pause", "p"], "does not exist"),
    (&["resume", "p"], "does not exist"),
    (&["events", "p"], "does not exist"),
    (&["update", "--memory", "64m", "p"], "does not exist"),
    (&["list", "--format", "json"], "null"),
    (&["list", "--quiet"], ""),
    (&["create", "--bundle", "/no/such/bundle", "p"], ""),
    (&["create", "--bundle", "/", "p"], "config.json"),
    (&["create", "--bundle", "{bundle}", "a/b"], "invalid container ID format"),
    (&["create", "--bundle", "{bundle}", ".."], "invalid container ID format"),
    (&["create", "--bundle", "{bundle}", "p"], ""),
    (&["create", "--bundle", "{bundle}", "p"], "already exists"),
    (&["state", "p"], "\"status\": \"created\""),
    (&["list"], "created"),
    (&["delete", "p"], ""),
    (&["state", "p"], "does not exist"),
    (&["create", "--bundle", "{bundle}", "p"], ""),
    (&["exec", "p", "echo", "early"], "early"),
    (&["resume", "p"], "container not paused"),
    (&["start", "p"], ""),
    (&["start", "p"], "cannot start an already running container"),
    (&["state", "p"], "\"status\": \"running\""),
    (&["exec", "p", "sh", "-c", "echo out; exit 7"], "out"),
    (&["exec", "p", "sh", "-c", "kill -9 $$"], ""),
    (&["exec", "p", "no-such-program"], "exec: \\\"no-such-program\\\": executable file not found in $PATH"),
    (&["exec", "p", "/no/such"], "exec: \\\"/no/such\\\": stat /no/such: no such file or directory"),
    (&["exec", "p", "./no-such"], "no such file or directory"),
    (&["exec", "p", "/etc"], "exec: \\\"/etc\\\": permission denied"),
    (&["exec", "p", "/etc/passwd"], "exec: \\\"/etc/passwd\\\": permission denied"),
    (&["exec", "p", ""], "executable file not found in $PATH"),
    (&["exec", "p"], "process args cannot be empty"),
    (&["exec", "--cwd", "relative", "p", "true"], "Cwd must be an absolute path"),
    (&["exec", "--cwd", "/no/such", "p", "true"], "failed: no such file or directory"),
    (&["exec", "--user", "nobody", "p", "true"], ""),
    (&["exec", "--env", "NOEQUALS", "p", "true"], "NOEQUALS"),
    (&["exec", "--cap", "CAP_NOPE", "p", "true"], "CAP_NOPE"),
    (&["exec", "--detach", "--tty", "p", "true"], "cannot allocate tty if runc will detach without setting console socket"),
    (&["exec", "--console-socket", "/no/such", "p", "true"], "cannot use console socket if runc will not detach or allocate tty"),
    (&["exec", "--process", "/no/such.json", "p"], "/no/such.json"),
    (&["ps", "p", "-o", "pid,args"], "/bin/sleep 1000"),
    (&["ps", "p", "--no-such-option"], ""),
    (&["kill", "p", "NOPE"], "unknown signal"),
    (&["kill", "p", "0"], ""),
    (&["kill", "p", "CONT"], ""),
    (&["kill", "p", "sigcont"], ""),
    (&["kill", "p", "18"], ""),
    (&["pause", "p"], ""),
    (&["state", "p"], "\"status\": \"paused\""),
    (&["pause", "p"], "container not running"),
    (&["exec", "p", "true"], "cannot exec in a paused container (use --ignore-paused to override)"),
    (&["start", "p"], "cannot start a container in the paused state"),
    (&["delete", "p"], "that is not stopped: paused"),
    (&["resume", "p"], ""),
    (&["exec", "p", "echo", "on"], "on"),
    (&["update", "--memory", "67108864", "p"], ""),
    (&["update", "--pids-limit", "50", "p"], ""),
    (&["update", "--cpu-share", "512", "p"], ""),
    (&["events", "--stats", "p"], "\"limit\":67108864"),
    (&["events", "--interval", "0s", "p"], "duration interval must be greater than 0"),
    (&["pause", "p"], ""),
    (&["kill", "p", "KILL"], ""),
    // It is dead in a moment.
    (&["--debug", "state", "p"], "stopped"),
    (&["state", "p"], "\"pid\": 0"),
    (&["kill", "p"], "container not running"),
    (&["kill", "--all", "p"], ""),
    (&["exec", "p", "true"], "cannot exec in a stopped container"),
    (&["start", "p"], "cannot start a container that has stopped"),
    (&["pause", "p"], "container not running"),
    (&["resume", "p"], "container not paused"),
    (&["events", "--stats", "p"], "is not running"),
    (&["update", "--memory", "64m", "p"], "container not running"),
    (&["delete", "p"], ""),
    (&["delete", "p"], "does not exist"),
    (&["run", "--detach", "--bundle", "{bundle}", "p"], ""),
    (&["pause", "p"], ""),
    (&["delete", "--force", "p"], ""),
    (&["state", "p"], "does not exist"),
    (&["no-such-command"], ""),
    (&["state", "--no-such-flag", "p"], ""),
    (&["state"], ""),
    (&["create"], ""),
];

#[test]
fn a_story_that_both_tell() {
    let Some(lab) = Lab::open() else { return };
    let trees = BOTH.map(|runtime| Tree::of(&lab, runtime));
    let bundles = [0, 1].map(|index| bundle(&lab, BOTH[index], &trees[index], "story", &["/bin/sleep", "1000"], &|_| {}));
    for (number, (command, words)) in STORY.iter().enumerate() {
        let told = [0, 1].map(|index| {
            let arguments: Vec<&str> =
                command.iter().map(|word| if *word == "{bundle}" { bundles[index].as_str() } else { word }).collect();
            let mut told = drive(&lab, BOTH[index], &arguments);
            // What has been killed takes a moment to be dead.
            for _ in 0..1000 {
                if command[0] != "--debug" || told.0.contains(words) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
                told = drive(&lab, BOTH[index], &arguments);
            }
            told
        });
        for (index, (said, _)) in told.iter().enumerate() {
            assert!(said.contains(words), "{number}: {:?} {command:?}: {words:?} is not in {said}", BOTH[index]);
        }
        assert_eq!(told[0].1, told[1].1, "{number}: exit codes of {command:?}: {} and {}", told[0].0, told[1].0);
    }
}

/// What a process can see of how it was made.
const LOOK: &str = "id; pwd; env | sort; umask; grep -E '^(Cap|NoNewPrivs|Umask)' /proc/self/status; \
    for limit in -c -d -f -n -s -t; do echo $limit $(ulimit -S $limit) $(ulimit -H $limit); done; hostname; ls /proc/self/fd | wc -w; \
    test -t 0 && echo a terminal; cat <&3 2>/dev/null; cat <&4 2>/dev/null; true";

#[test]
fn processes_are_made_alike() {
    let Some(lab) = Lab::open() else { return };
    let trees = BOTH.map(|runtime| Tree::of(&lab, runtime));
    type Change = fn(&mut Value);
    let configurations: [(&str, Change); 5] = [
        ("as it is", |_| {}),
        ("a user with groups, a mask, a directory that is not there", |config| {
            config["process"]["user"] = json!({ "uid": 1000, "gid": 1000, "additionalGids": [5, 7], "umask": 0o77 });
            config["process"]["cwd"] = json!("/new/directory");
        }),
        ("variables given twice, no HOME", |config| {
            config["process"]["env"] = json!(["PATH=/usr/bin:/bin", "X=1", "PATH=/bin:/usr/bin", "X=2"]);
        }),
        ("limits, no new privileges, ambient capabilities", |config| {
            config["process"]["rlimits"] = json!([
                { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
                { "type": "RLIMIT_STACK", "soft": 4 << 20, "hard": 8 << 20 }
            ]);
            config["process"]["noNewPrivileges"] = json!(true);
            config["process"]["user"] = json!({ "uid": 33, "gid": 33 });
            for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
                config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_CHOWN"]);
            }
        }),
        ("no user, no capabilities, no limits", |config| {
            let process = config["process"].as_object_mut().expect("a process");
            for member in ["user", "capabilities", "rlimits"] {
                process.remove(member);
            }
        }),
    ];
    for (what, change) in configurations {
        let seen = [0, 1].map(|index| {
            let bundle = bundle(&lab, BOTH[index], &trees[index], "look", &["/bin/bash", "-c", LOOK], &change);
            drive(&lab, BOTH[index], &["run", "--bundle", &bundle, "look"])
        });
        assert_eq!(seen[0], seen[1], "{what}");
    }
    let bundles = [0, 1].map(|index| bundle(&lab, BOTH[index], &trees[index], "exec", &["/bin/sleep", "1000"], &|_| {}));
    for index in [0, 1] {
        assert_eq!(drive(&lab, BOTH[index], &["run", "--detach", "--bundle", &bundles[index], "exec"]).1, Some(0));
    }
    let process = lab.path().join("process.json");
    let described =
        json!({ "args": ["/bin/bash", "-c", LOOK], "cwd": "/tmp", "env": ["PATH=/bin:/usr/bin", "A=b"], "user": { "uid": 5, "gid": 7 } });
    std::fs::write(&process, described.to_string()).expect("process.json");
    let shell = ["exec", "/bin/bash", "-c", LOOK];
    let execs: [&[&str]; 7] = [
        &[],
        &["--user", "1000:7", "-g", "5", "-g", "8", "--cwd", "/tmp"],
        &["-e", "A=b", "-e", "PATH=/bin", "-e", "X=1", "-e", "X=2"],
        &["-c", "CAP_NET_ADMIN", "-c", "CAP_SYS_TIME"],
        &["--cap", "CAP_NET_ADMIN", "--user", "33"],
        &["--no-new-privs", "--user", "33"],
        &["--process", &process.to_string_lossy()],
    ];
    for flags in execs {
        let command = if flags.first() == Some(&"--process") {
            [&["exec"][..], flags, &["exec"]].concat()
        } else {
            [&["exec"][..], flags, &shell].concat()
        };
        let seen = BOTH.map(|runtime| drive(&lab, runtime, &command));
        assert_eq!(seen[0], seen[1], "{flags:?}");
    }
    for runtime in BOTH {
        drive(&lab, runtime, &["delete", "--force", "exec"]);
    }
}

/// A runtime's command, by a shell that opens descriptors 3 and 4 for it first.
fn with_descriptors(lab: &Lab, runtime: Runtime, environment: &str, arguments: &[&str]) -> (String, Option<i32>) {
    let whole = lab.command(runtime);
    let script = format!("exec 3<<< three 4<<< four; {environment} exec \"$@\"");
    let mut command = Command::new("bash");
    // Without timeout(1) and its three arguments: LISTEN_PID names the runtime's own process.
    command.args(["-c", &script, "bash"]).args(whole.get_args().skip(3)).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("bash");
    (text(&output), output.status.code())
}

#[test]
fn descriptors_are_passed_alike() {
    let Some(lab) = Lab::open() else { return };
    let trees = BOTH.map(|runtime| Tree::of(&lab, runtime));
    let look = "env | grep LISTEN | sort; cat <&3; cat <&4 2>/dev/null; true";
    for (environment, flags) in [
        ("", &["--preserve-fds", "2"][..]),
        ("", &["--preserve-fds", "1"]),
        ("LISTEN_PID=$$ LISTEN_FDS=1", &[]),
        ("LISTEN_PID=$$ LISTEN_FDS=1", &["--preserve-fds", "1"]),
    ] {
        let seen = [0, 1].map(|index| {
            let bundle = bundle(&lab, BOTH[index], &trees[index], "fds", &["/bin/bash", "-c", look], &|_| {});
            with_descriptors(&lab, BOTH[index], environment, &[&["run", "--bundle", &bundle][..], flags, &["fds"]].concat())
        });
        assert_eq!(seen[0], seen[1], "{environment} {flags:?}");
        assert!(seen[1].0.contains("three"), "{environment} {flags:?}: {}", seen[1].0);
    }
}

#[test]
fn programs_that_end_by_a_signal_give_their_number() {
    let Some(lab) = Lab::open() else { return };
    let trees = BOTH.map(|runtime| Tree::of(&lab, runtime));
    // The first process of a PID namespace dies by the signals that it has not blocked when they come from outside.
    for signal in ["TERM", "KILL", "HUP", "SIGUSR1", "SIGRTMIN+1", "RTMAX-2", "44"] {
        let codes = [0, 1].map(|index| {
            let script = "import signal,sys\nfor s in [1,10,15,35,62,44]: signal.signal(s, lambda n, f: sys.exit(n))\nprint('ready', flush=True)\nwhile True: signal.pause()";
            let bundle = bundle(&lab, BOTH[index], &trees[index], "signal", &["/usr/bin/python3", "-c", script], &|_| {});
            let mut command = lab.command(BOTH[index]);
            let mut child = command.args(["run", "--bundle", &bundle, "signal"]).stdout(Stdio::piped()).spawn().expect("a runtime");
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().expect("output")), &mut line).expect("a line");
            // runc knows real-time signals by number alone.
            let named = match (BOTH[index], signal) {
                (Runtime::Runc, "SIGRTMIN+1") => "35",
                (Runtime::Runc, "RTMAX-2") => "62",
                (_, name) => name,
            };
            assert_eq!(drive(&lab, BOTH[index], &["kill", "signal", named]).1, Some(0), "{signal}");
            child.wait().expect("wait").code()
        });
        assert_eq!(codes[0], codes[1], "{signal}");
    }
}

#[test]
fn hooks_fail_and_see_alike() {
    let Some(lab) = Lab::open() else { return };
    let trees = BOTH.map(|runtime| Tree::of(&lab, runtime));
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        for (fails, expected) in [(false, Some(0)), (true, if kind == "poststop" { Some(0) } else { Some(1) })] {
            let seen = [0, 1].map(|index| {
                let out = trees[index].1.join("tmp");
                // A hook behind the wall writes where nobody sees it: what it has seen decides its end.
                let script = format!(
                    "state=$(cat); test -n \"$state\" || exit 9; echo \"$state\" > {0}/hook.$$ 2>/dev/null; mv {0}/hook.$$ {0}/hook 2>/dev/null; pwd > {0}/pwd 2>/dev/null; exit {1}",
                    lab.path().display(),
                    if fails { 3 } else { 0 }
                );
                let _ = out;
                for name in ["hook", "pwd"] {
                    let _ = std::fs::remove_file(lab.path().join(name));
                }
                let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"] });
                let change = |config: &mut Value| config["hooks"] = json!({ kind: [hook] });
                let bundle = bundle(&lab, BOTH[index], &trees[index], "hook", &["/bin/echo", "ran"], &change);
                let (said, code) = drive(&lab, BOTH[index], &["run", "--bundle", &bundle, "hook"]);
                let left = drive(&lab, BOTH[index], &["list", "--quiet"]).0;
                drive(&lab, BOTH[index], &["delete", "--force", "hook"]);
                let state: Value = serde_json::from_slice(&std::fs::read(lab.path().join("hook")).unwrap_or_default()).unwrap_or_default();
                let directory = std::fs::read_to_string(lab.path().join("pwd")).unwrap_or_default();
                let place = match directory.trim() {
                    "" => "unseen",
                    path if path == bundle => "bundle",
                    path if Path::new(path) == trees[index].1 => "rootfs",
                    _ => "elsewhere",
                };
                let status = state["status"].as_str().unwrap_or("unseen").to_owned();
                (said.contains("ran"), code, left, status, place, said)
            });
            let what = format!("{kind}, fails: {fails}: {seen:?}");
            assert_eq!(seen[1].1, expected, "{what}");
            assert_eq!((seen[0].1, &seen[0].2), (seen[1].1, &seen[1].2), "{what}");
            // A poststart hook runs after the program has begun; runc runs it before, in `create`.
            if kind != "poststart" {
                assert_eq!(seen[0].0, seen[1].0, "{what}");
                assert_eq!(seen[0].3, seen[1].3, "{what}");
            }
            // runc's poststop hooks run where `delete` is called.
            if kind != "poststop" {
                assert_eq!(seen[0].4, seen[1].4, "{what}");
            }
            if fails && expected == Some(1) {
                assert!(seen[1].5.contains("error running hook #0") && seen[1].5.contains(&format!("hooks.{kind}[0].path")), "{what}");
            }
        }
    }
}

#[test]
fn json_has_the_members_that_clients_read() {
    let Some(lab) = Lab::open() else { return };
    let trees = BOTH.map(|runtime| Tree::of(&lab, runtime));
    let shown = [0, 1].map(|index| {
        let bundle = bundle(&lab, BOTH[index], &trees[index], "json", &["/bin/sleep", "1000"], &|config| {
            config["annotations"] = json!({ "a": "b" });
        });
        assert_eq!(drive(&lab, BOTH[index], &["run", "--detach", "--bundle", &bundle, "json"]).1, Some(0));
        let json = |arguments: &[&str]| -> Value {
            let (text, code) = drive(&lab, BOTH[index], arguments);
            assert_eq!(code, Some(0), "{text}");
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
        };
        let [state, list, ps, events, features] = [
            json(&["state", "json"]),
            json(&["list", "--format", "json"]),
            json(&["ps", "--format", "json", "json"]),
            json(&["events", "--stats", "json"]),
            json(&["features"]),
        ];
        assert_eq!(ps[0], state["pid"], "the first process is the one that state names");
        assert_eq!(list[0]["pid"], state["pid"]);
        drive(&lab, BOTH[index], &["delete", "--force", "json"]);
        // A log line, from a command that fails.
        let log = lab.path().join("log.json");
        let _ = std::fs::remove_file(&log);
        let mut command = lab.command(BOTH[index]);
        let output = command.arg("--log").arg(&log).args(["--log-format", "json", "state", "json"]).output().expect("a runtime");
        assert!(text(&output).contains("does not exist"), "it is said to a person, too");
        let line = std::fs::read_to_string(&log).expect("a log");
        let line: Value = serde_json::from_str(line.lines().last().expect("a line")).expect("json");
        [state, list[0].clone(), events, features, line]
    });
    for (runcs, ours) in shown[0].iter().zip(&shown[1]) {
        covers("", runcs, ours);
    }
}

/// Members that only runc has, and why.
const RUNCS_OWN: &[&str] = &[
    // What its own build was made from.
    ".annotations.io.github.seccomp.libseccomp.version",
    ".annotations.org.opencontainers.runc.checkpoint.enabled",
    ".annotations.org.opencontainers.runc.commit",
    ".annotations.org.opencontainers.runc.version",
];

/// Every member of `runcs` is one of `ours`, of the same type.
fn covers(path: &str, runcs: &Value, ours: &Value) {
    match (runcs, ours) {
        (Value::Object(theirs), Value::Object(own)) => {
            for (key, value) in theirs {
                let path = format!("{path}.{key}");
                if RUNCS_OWN.contains(&path.as_str()) {
                    continue;
                }
                covers(&path, value, own.get(key).unwrap_or_else(|| panic!("{path} is missing in {ours}")));
            }
        }
        _ => assert_eq!(std::mem::discriminant(runcs), std::mem::discriminant(ours), "{path}: {runcs} and {ours}"),
    }
}
