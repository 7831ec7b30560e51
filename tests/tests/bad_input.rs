//! Bad input: what is wrong is named, with its value; the exit code is runc's; nothing is left.

use std::path::Path;
use std::process::Output;

use bulkhead_tests::{Lab, Runtime};
use serde_json::{Value, json};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn bulkhead(lab: &Lab, arguments: &[&str]) -> Output {
    lab.command(Runtime::Sandbox).args(arguments).output().expect("bulkhead")
}

/// Everything below a directory, but the empty directory of pods.
fn below(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let each = |entry: std::fs::DirEntry| {
        let deeper = if entry.path().is_dir() { below(&entry.path()) } else { Vec::new() };
        [vec![entry.path().display().to_string()], deeper].concat()
    };
    entries.flat_map(each).filter(|path| !path.ends_with("/@pods")).collect()
}

/// Nothing of this lab's is left: no record, no cgroup, and so no process in one.
fn assert_nothing_left(lab: &Lab, what: &str) {
    let left = below(&lab.path().join("state"));
    assert!(left.is_empty(), "{what}: {left:?}");
    let name = cgroup(lab);
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let directory = hierarchy.path().join(name.trim_start_matches('/'));
        assert!(!directory.exists(), "{what}: {}", directory.display());
    }
}

fn cgroup(lab: &Lab) -> String {
    format!("/bulkhead-test/{}", lab.path().file_name().expect("a name").to_string_lossy())
}

fn configuration(lab: &Lab) -> Value {
    let mut configuration = lab.configuration("bad", &lab.rootfs(), &["/bin/true"]);
    configuration["linux"]["cgroupsPath"] = json!(cgroup(lab));
    configuration
}

/// A member of a configuration, by a JSON pointer; the last part may be new, `-` appends.
fn set(configuration: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    match configuration.pointer_mut(parent).unwrap_or_else(|| panic!("{parent}")) {
        Value::Array(entries) => entries.push(value),
        parent => parent[key] = value,
    }
}

/// Where, what, and how the error begins to tell of it.
fn values(lab: &Lab) -> Vec<(&'static str, Value, String)> {
    let directory = lab.path();
    std::fs::create_dir_all(directory.join("bad/real")).expect("a directory");
    std::os::unix::fs::symlink("/", directory.join("bad/out")).expect("a link");
    std::os::unix::fs::symlink("/no/such", directory.join("bad/dangling")).expect("a link");
    let named = |text: &str| text.to_owned();
    let rootfs = |name: &str, reason: &str| format!("invalid rootfs {}/bad/{name} (root.path): {reason}", directory.display());
    vec![
        ("/ociVersion", json!("9.9.9"), named("ociVersion: \\\"9.9.9\\\": only version 1")),
        ("/ociVersion", json!("one"), named("ociVersion: \\\"one\\\": not a version")),
        ("/ociVersion", json!(1), named("ociVersion: invalid type: integer `1`, expected a string")),
        ("/root", json!(null), named("root: missing")),
        ("/root/path", json!(""), named("root.path: \\\"\\\": empty")),
        ("/root/path", json!("/no/such"), named("invalid rootfs /no/such (root.path): No such file or directory")),
        ("/root/path", json!("/etc/passwd"), named("invalid rootfs /etc/passwd (root.path): not a directory")),
        ("/root/path", json!("out"), rootfs("out", "not an absolute path, or a symlink")),
        ("/root/path", json!("out/etc"), rootfs("out/etc", "not an absolute path, or a symlink")),
        ("/root/path", json!("dangling"), rootfs("dangling", "not an absolute path, or a symlink")),
        ("/process", json!(null), named("process: missing")),
        ("/process/args", json!([]), named("process.args: []: args must not be empty")),
        ("/process/args", json!("sh"), named("process.args: invalid type")),
        ("/process/args", json!(["a\0b"]), named("holds a zero byte")),
        ("/process/args", json!(["no-such-program"]), named("exec: \\\"no-such-program\\\": executable file not found in $PATH")),
        ("/process/args", json!(["/no/such"]), named("exec: \\\"/no/such\\\": stat /no/such: no such file or directory")),
        ("/process/args", json!(["/etc"]), named("exec: \\\"/etc\\\": permission denied")),
        ("/process/args", json!(["/etc/passwd"]), named("exec: \\\"/etc/passwd\\\": permission denied")),
        ("/process/args", json!(["/bad/elf"]), named("exec: \\\"/bad/elf\\\": exec format error")),
        ("/process/args", json!(["/bad/script"]), named("exec: \\\"/bad/script\\\": stat /bad/script: no such file or directory")),
        ("/process/args", json!(["/bad/loop"]), named("exec: \\\"/bad/loop\\\": too many levels of symbolic links")),
        ("/process/cwd", json!("here"), named("process.cwd: \\\"here\\\": Cwd must be an absolute path")),
        ("/process/cwd", json!(""), named("process.cwd: \\\"\\\": Cwd property must not be empty")),
        ("/process/cwd", json!("/etc/passwd"), named("chdir to cwd (\\\"/etc/passwd\\\")")),
        ("/process/env", json!(["NOEQUALS"]), named("process.env: \\\"NOEQUALS\\\": not NAME=value")),
        ("/process/user/uid", json!(-1), named("process.user.uid: invalid value: integer `-1`")),
        ("/process/user/uid", json!("root"), named("process.user.uid: invalid type: string \\\"root\\\"")),
        ("/process/user/umask", json!(0o1000), named("process.user.umask: 512: not a file mode mask")),
        ("/process/capabilities/bounding", json!("CAP_KILL"), named("process.capabilities.bounding: invalid type")),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_NOPE", "soft": 1, "hard": 1 }]),
            named("process.rlimits[0].type: unknown variant `RLIMIT_NOPE`"),
        ),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_CPU", "soft": 2, "hard": 1 }]),
            named("process.rlimits[0].soft: 2: above the hard limit 1"),
        ),
        (
            "/process/rlimits/-",
            json!({ "type": "RLIMIT_NOFILE", "soft": 1, "hard": 1 }),
            named("process.rlimits[1].type: \\\"RLIMIT_NOFILE\\\": given twice"),
        ),
        ("/process/oomScoreAdj", json!(1001), named("process.oomScoreAdj: 1001: not between -1000 and 1000")),
        (
            "/process/scheduler",
            json!({ "policy": "SCHED_FIFO" }),
            named("process.scheduler: {\\\"policy\\\":\\\"SCHED_FIFO\\\"}: not supported"),
        ),
        ("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_RT", "priority": 1 }), named("process.ioPriority: ")),
        ("/process/selinuxLabel", json!("strict"), named("process.selinuxLabel: \\\"strict\\\": not supported")),
        ("/process/terminal", json!("yes"), named("process.terminal: invalid type: string \\\"yes\\\"")),
        ("/hostname", json!("x".repeat(65)), named("longer than 64 bytes (uname(2))")),
        ("/annotations", json!({ "": "x" }), named("annotations: {\\\"\\\":\\\"x\\\"}: an empty key")),
        (
            "/annotations",
            json!({ "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "a/b" }),
            named("invalid container ID format: \\\"a/b\\\""),
        ),
        (
            "/annotations",
            json!({ "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "gone" }),
            named("pod gone of container bad: its sandbox does not run"),
        ),
        ("/mounts/-", json!({ "destination": "x", "type": "tmpfs" }), named("].destination: \\\"x\\\": mount destination not absolute")),
        ("/mounts/-", json!({ "destination": "/x", "type": "ext4" }), named("].type: \\\"ext4\\\": no such type of file system")),
        (
            "/mounts/-",
            json!({ "destination": "/x", "type": "tmpfs", "options": ["fast"] }),
            named("].options: \\\"fast\\\": no such mount option"),
        ),
        ("/mounts/-", json!({ "destination": "/x", "type": "tmpfs", "options": ["size=lots"] }), named("mounting to \\\"/x\\\"")),
        (
            "/mounts/-",
            json!({ "destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"] }),
            named("].source: \\\"/no/such\\\": No such file or directory"),
        ),
        (
            "/mounts/-",
            json!({ "destination": "/x", "type": "bind", "options": ["bind"] }),
            named("].source: null: a bind mount needs a source"),
        ),
        (
            "/mounts/-",
            json!({ "destination": "/x", "type": "bind", "source": "/etc", "options": ["rbind", "rshared"] }),
            named("\\\"rshared\\\": mounts behind the wall do not propagate"),
        ),
        ("/mounts/-", json!({ "destination": "/etc/passwd/x", "type": "tmpfs" }), named("mounting to \\\"/etc/passwd/x\\\"")),
        ("/mounts/-", json!({ "destination": "/etc/passwd", "type": "tmpfs" }), named("mounting to \\\"/etc/passwd\\\"")),
        ("/linux/namespaces/-", json!({ "type": "dream" }), named("].type: unknown variant `dream`")),
        ("/linux/namespaces/-", json!({ "type": "pid" }), named("].type: \\\"pid\\\": given twice")),
        ("/linux/namespaces/-", json!({ "type": "user" }), named("].type: \\\"user\\\": not supported")),
        ("/linux/namespaces/4/path", json!("/dev/null"), named("linux.namespaces: network: path \\\"/dev/null\\\": Invalid argument")),
        (
            "/linux/namespaces/4/path",
            json!("/proc/self/ns/uts"),
            named("linux.namespaces: network: path \\\"/proc/self/ns/uts\\\": Invalid argument"),
        ),
        (
            "/linux/namespaces/4/path",
            json!("/no/such"),
            named("linux.namespaces: network: path \\\"/no/such\\\": No such file or directory"),
        ),
        ("/linux/namespaces/4/path", json!("here"), named("linux.namespaces[4].path: \\\"here\\\": not an absolute path")),
        (
            "/linux/namespaces/0/path",
            json!("/proc/1/ns/pid"),
            named("linux.namespaces: pid: path \\\"/proc/1/ns/pid\\\": not of a container of the same pod"),
        ),
        ("/linux/namespaces", json!([{ "type": "mount" }]), named("linux.namespaces: ")),
        (
            "/linux/sysctl",
            json!({ "kernel.panic": "1" }),
            named("linux.sysctl[\\\"kernel.panic\\\"]: \\\"1\\\": not in a separate kernel namespace"),
        ),
        ("/linux/sysctl", json!({ "net.no.such": "1" }), named("linux.sysctl[\\\"net.no.such\\\"]: \\\"1\\\": No such file or directory")),
        (
            "/linux/devices",
            json!([{ "path": "x", "type": "c", "major": 1, "minor": 1 }]),
            named("linux.devices[0].path: \\\"x\\\": not an absolute path"),
        ),
        ("/linux/maskedPaths", json!(["x"]), named("linux.maskedPaths[0]: \\\"x\\\": not an absolute path")),
        ("/linux/cgroupsPath", json!("/a/../../b"), named("linux.cgroupsPath: \\\"/a/../../b\\\": leads upwards")),
        ("/linux/cgroupsPath", json!("/"), named("linux.cgroupsPath: /: processes are in it already")),
        ("/linux/rootfsPropagation", json!("shared"), named("linux.rootfsPropagation: \\\"shared\\\": mounts behind the wall")),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_SING" }),
            named("linux.seccomp.defaultAction: unknown variant `SCMP_ACT_SING`"),
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x" }),
            named("linux.seccomp.listenerPath: \\\"/x\\\": not supported"),
        ),
        ("/linux/resources", json!({ "cpu": { "cpus": "999" } }), named("setting linux.resources")),
        (
            "/linux/resources",
            json!({ "memory": { "swappiness": 101 } }),
            named("linux.resources.memory.swappiness: 101: not between 0 and 100"),
        ),
        (
            "/linux/resources",
            json!({ "memory": { "disableOOMKiller": true } }),
            named("linux.resources.memory.disableOOMKiller: true: not supported"),
        ),
        ("/linux/resources", json!({ "hugepageLimits": [{ "pageSize": "3MB", "limit": 1 }] }), named("linux.resources")),
        ("/linux/intelRdt", json!({ "closID": "x" }), named("linux.intelRdt: ")),
        ("/hooks", json!({ "prestart": [{ "path": "x" }] }), named("hooks.prestart[0].path: \\\"x\\\": not an absolute path")),
        (
            "/hooks",
            json!({ "createRuntime": [{ "path": "/x", "timeout": 0 }] }),
            named("hooks.createRuntime[0].timeout: 0: not greater than zero"),
        ),
        (
            "/hooks",
            json!({ "createRuntime": [{ "path": "/no/such/hook" }] }),
            named("hooks.createRuntime[0].path: /no/such/hook: No such file or directory"),
        ),
        (
            "/hooks",
            json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1 }] }),
            named("hook did not end within its timeout of 1 s"),
        ),
        ("/windows", json!({ "layerFolders": ["x"] }), named("windows: ")),
    ]
}

#[test]
fn values_are_named_with_their_fields() {
    let Some(lab) = Lab::open() else { return };
    // Programs that can not be executed, each in its own way, bound over an empty directory.
    let programs = lab.path().join("programs");
    std::fs::create_dir_all(&programs).expect("a directory");
    let write = |name: &str, bytes: &[u8]| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(programs.join(name), bytes).expect("a program");
        std::fs::set_permissions(programs.join(name), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    };
    write("elf", b"\x7fELF\x02\x01\x01\0and no more");
    write("script", b"#!/no/such/interpreter\n");
    std::os::unix::fs::symlink("loop", programs.join("loop")).expect("a link");
    for (pointer, value, expected) in values(&lab) {
        let what = format!("{pointer} = {value}");
        let mut configuration = configuration(&lab);
        set(
            &mut configuration,
            "/mounts/-",
            json!({ "destination": "/bad", "type": "bind", "source": programs, "options": ["bind", "ro"] }),
        );
        set(&mut configuration, pointer, value);
        let bundle = lab.bundle("bad", &configuration);
        let output = bulkhead(&lab, &["run", "--bundle", &bundle.to_string_lossy(), "bad"]);
        assert!(text(&output).contains(&expected), "{what}: {expected:?} is not in {}", text(&output));
        assert_eq!(output.status.code(), Some(1), "{what}: {}", text(&output));
        assert_nothing_left(&lab, &what);
    }
}

#[test]
fn files_that_are_no_configuration_are_named() {
    let Some(lab) = Lab::open() else { return };
    let bundle = lab.bundle("file", &json!({}));
    let path = bundle.join("config.json");
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
    let contents: [(&str, Vec<u8>, &str); 8] = [
        ("nothing", b"".to_vec(), "EOF while parsing"),
        ("no JSON", b"{ not json".to_vec(), "key must be a string"),
        ("half of it", b"{ \"ociVersion\": ".to_vec(), "EOF while parsing"),
        ("not text", vec![0xff; 64], "expected value"),
        ("a list", b"[]".to_vec(), "config.json: "),
        ("deep lists", deep("[", "]").into_bytes(), "recursion limit exceeded"),
        ("deep objects", deep("{\"a\":", "}").into_bytes(), "recursion limit exceeded"),
        ("64 MiB", vec![b' '; 64 << 20], "longer than"),
    ];
    let run = || bulkhead(&lab, &["run", "--bundle", &bundle.to_string_lossy(), "file"]);
    let refused = |what: &str, words: &str| {
        let output = run();
        assert!(text(&output).contains(words) && text(&output).contains("config.json"), "{what}: {}", text(&output));
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert_nothing_left(&lab, what);
    };
    for (what, bytes, words) in contents {
        std::fs::write(&path, bytes).expect("config.json");
        refused(what, words);
    }
    std::fs::remove_file(&path).expect("rm");
    refused("none", "No such file or directory");
    std::fs::create_dir(&path).expect("a directory");
    refused("a directory", "Is a directory");
    std::fs::remove_dir(&path).expect("rmdir");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).expect("a fifo");
    refused("a fifo", "EOF while parsing");
    std::fs::remove_file(&path).expect("rm");
    std::os::unix::fs::symlink("config.json", &path).expect("a link");
    refused("a link to itself", "symbolic links");
}

#[test]
fn flags_and_settings_are_named() {
    let Some(lab) = Lab::open() else { return };
    let bundle = lab.bundle("flag", &configuration(&lab)).to_string_lossy().into_owned();
    let settings = |text: &str| {
        let path = lab.path().join("config.toml");
        std::fs::write(&path, text).expect("config.toml");
        path.to_string_lossy().into_owned()
    };
    let cases: Vec<(Vec<String>, &str)> = [
        (vec!["--overlay", "ram"], "--overlay \\\"ram\\\": none, memory or dir=PATH"),
        (vec!["--overlay", "dir=x"], "--overlay dir=x: not an absolute path"),
        (vec!["--overlay", "dir=/no/such/directory"], "--overlay dir=/no/such/directory: No such file or directory"),
        (vec!["--overlay", "dir=/etc/passwd"], "--overlay dir=/etc/passwd: Not a directory"),
        (vec!["--isolation", "vm"], "isolation \\\"vm\\\": sandbox or microvm"),
        (vec!["--config", "/no/such.toml"], "/no/such.toml: No such file or directory"),
        (vec!["--log-format", "xml"], "invalid value 'xml'"),
        (vec!["--log", "/no/such/log"], "--log /no/such/log: No such file or directory"),
    ]
    .into_iter()
    .map(|(flags, words)| (flags.into_iter().map(str::to_owned).collect(), words))
    .chain([(vec!["--config".to_owned(), settings("colour = 1\n")], "unknown field `colour`")])
    .collect();
    for (flags, words) in cases {
        let mut command = std::process::Command::new(lab.bulkhead());
        command.arg("--root").arg(lab.path().join("state")).args(&flags).args(["run", "--bundle", &bundle, "flag"]);
        let output = command.stdin(std::process::Stdio::null()).output().expect("bulkhead");
        assert!(text(&output).contains(words), "{flags:?}: {words:?} is not in {}", text(&output));
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
        assert_nothing_left(&lab, &format!("{flags:?}"));
    }
    for (contents, words) in
        [("overlay = \"memory\"\noverlay = \"none\"\n", "line 2"), ("overlay = [1]\n", "line 1"), ("[wall]\n", "unknown field `wall`")]
    {
        let output = bulkhead(&lab, &["--config", &settings(contents), "run", "--bundle", &bundle, "flag"]);
        assert!(text(&output).contains(words), "{contents:?}: {}", text(&output));
    }
    for id in ["", ".", "..", "a/b", "a b", "@pods", &"x".repeat(241)] {
        let output = bulkhead(&lab, &["run", "--bundle", &bundle, id]);
        assert!(text(&output).contains("invalid container ID format"), "{id:?}: {}", text(&output));
        assert_eq!(output.status.code(), Some(1), "{id:?}");
    }
    let more: [(&[&str], &str); 6] = [
        (&["run", "--pid-file", "/no/such/pid", "--bundle", &bundle, "flag"], "--pid-file /no/such/pid: No such file or directory"),
        (&["run", "--preserve-fds", "60", "--bundle", &bundle, "flag"], "--preserve-fds 60: descriptor "),
        (&["create", "--console-socket", "/no/such/socket", "--bundle", &bundle, "flag"], "--console-socket /no/such/socket"),
        (&["update", "--memory", "much", "flag"], "--memory \\\"much\\\": not a number of bytes"),
        (&["events", "--interval", "soon", "flag"], "--interval \\\"soon\\\": not a duration"),
        (&["kill", "flag", "WAVE"], "unknown signal \\\"WAVE\\\""),
    ];
    for (command, words) in more {
        let output = bulkhead(&lab, command);
        assert!(text(&output).contains(words), "{command:?}: {words:?} is not in {}", text(&output));
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert_nothing_left(&lab, &format!("{command:?}"));
    }
    let mut terminal = configuration(&lab);
    terminal["process"]["terminal"] = json!(true);
    let bundle = lab.bundle("terminal", &terminal).to_string_lossy().into_owned();
    for (command, words) in [
        (&["create", "--bundle", &bundle, "flag"][..], "cannot allocate tty if runc will detach without setting console socket"),
        (
            &["create", "--console-socket", "/no/such/socket", "--bundle", &bundle, "flag"],
            "--console-socket /no/such/socket: No such file or directory",
        ),
    ] {
        let output = bulkhead(&lab, command);
        assert!(text(&output).contains(words), "{command:?}: {}", text(&output));
        assert_nothing_left(&lab, &format!("{command:?}"));
    }
}

#[test]
fn limits_are_refused_in_update_too_and_change_nothing() {
    let Some(lab) = Lab::open() else { return };
    let mut configuration = configuration(&lab);
    configuration["process"]["args"] = json!(["/bin/sleep", "1000"]);
    let bundle = lab.bundle("limits", &configuration).to_string_lossy().into_owned();
    let mut run = lab.command(Runtime::Sandbox);
    run.args(["run", "--detach", "--bundle", &bundle, "limits"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    assert!(run.status().expect("run").success());
    let file = lab.path().join("resources.json");
    for (resources, words) in [
        ("{ \"memory\": { \"limit\": \"much\" } }", "linux.resources.memory.limit: invalid type"),
        ("{ \"memory\": { \"limt\": 5 } }", "linux.resources.memory.limt: not a field of the runtime specification"),
        ("{ \"memory\": { \"limit\": 4096, \"checkBeforeUpdate\": true } }", "linux.resources.memory.limit: 4096: below what is used"),
        ("{ \"rdma\": { \"mlx\": { \"hcaHandles\": 1 } } }", "linux.resources.rdma"),
        ("[", "EOF while parsing"),
    ] {
        std::fs::write(&file, resources).expect("resources.json");
        let output = bulkhead(&lab, &["update", "--resources", &file.to_string_lossy(), "limits"]);
        assert!(text(&output).contains(words), "{resources}: {}", text(&output));
        assert_eq!(output.status.code(), Some(1), "{resources}");
    }
    assert!(bulkhead(&lab, &["exec", "limits", "/bin/true"]).status.success());
    assert!(bulkhead(&lab, &["delete", "--force", "limits"]).status.success());
    assert_nothing_left(&lab, "limits");
}
