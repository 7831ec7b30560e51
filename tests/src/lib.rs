//! The harness of the tests that cross crates: bundles, runtimes, and what a run leaves behind.
//!
//! Tests run real programs in a Debian root file system (`hack/rootfs`, or `BULKHEAD_ROOTFS`) under runc and under a wall of Bulkhead, and compare. They need
//! root; without it, or without the root file system, [`Lab::open`] says why and gives none, and the test ends.
#![warn(missing_docs, clippy::undocumented_unsafe_blocks)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A runtime under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runtime {
    /// The reference.
    Runc,
    /// Bulkhead's user-space kernel.
    Sandbox,
    /// Bulkhead's virtual machine.
    Microvm,
}

impl Runtime {
    /// The wall, as `--isolation` names it.
    fn name(self) -> &'static str {
        match self {
            Runtime::Runc => "runc",
            Runtime::Sandbox => "sandbox",
            Runtime::Microvm => "microvm",
        }
    }

    /// Where its state is, below the test's directory.
    fn state(self) -> &'static str {
        match self {
            Runtime::Runc => "runc-state",
            Runtime::Sandbox => "state",
            Runtime::Microvm => "microvm-state",
        }
    }
}

/// What a program printed, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// Standard output and standard error, in the order they were written.
    pub output: String,
    /// The exit code.
    pub code: i32,
}

/// A place for one test's containers: a temporary directory, a network namespace, a state directory for each runtime.
pub struct Lab {
    directory: tempfile::TempDir,
    rootfs: PathBuf,
    bulkhead: PathBuf,
    network: String,
}

/// The programs of `tests/programs`, and what runs each: what every wall is compared with runc by.
pub const PROGRAMS: [(&str, &str); 14] = [
    ("bash.sh", "/bin/bash"),
    ("coreutils.sh", "/bin/bash"),
    ("python.py", "/usr/bin/python3"),
    ("build.sh", "/bin/bash"),
    ("git.sh", "/bin/bash"),
    ("perl.pl", "/usr/bin/perl"),
    ("archive.sh", "/bin/bash"),
    ("redis.sh", "/bin/bash"),
    ("nginx.sh", "/bin/bash"),
    ("dpkg.sh", "/bin/bash"),
    ("su.sh", "/bin/bash"),
    ("static.sh", "/bin/bash"),
    ("procps.sh", "/bin/bash"),
    ("threads.py", "/usr/bin/python3"),
];

/// Capabilities as container engines give them by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).status()?;
    anyhow::ensure!(status.success(), "{program} {arguments:?}: {status}");
    Ok(())
}

impl Lab {
    /// Prepares a lab, or says why there can be none.
    pub fn open() -> Option<Lab> {
        let rootfs = std::env::var_os("BULKHEAD_ROOTFS").map_or_else(|| repository().join("target/rootfs"), PathBuf::from);
        let executable = std::env::current_exe().ok()?;
        let bulkhead =
            std::env::var_os("BULKHEAD").map_or_else(|| executable.parent().unwrap().parent().unwrap().join("bulkhead"), PathBuf::from);
        let missing = [
            (!nix::unistd::geteuid().is_root(), "root"),
            (!rootfs.join("bin/bash").exists(), "the root file system (hack/rootfs)"),
            (!bulkhead.exists(), "the bulkhead binary (cargo build)"),
        ];
        if let Some((_, what)) = missing.iter().find(|(absent, _)| *absent) {
            // A run that is to be complete says so: then what is missing is an error.
            assert!(std::env::var_os("BULKHEAD_TESTS_COMPLETE").is_none(), "this test needs {what}");
            println!("not run: it needs {what}");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("bulkhead-test-").tempdir().expect("a temporary directory");
        let network = directory.path().file_name()?.to_string_lossy().into_owned();
        run("ip", &["netns", "add", &network]).expect("a network namespace");
        run("ip", &["-n", &network, "link", "set", "lo", "up"]).expect("a loopback interface");
        Some(Lab { directory, rootfs, bulkhead, network })
    }

    /// The temporary directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The `bulkhead` binary.
    pub fn bulkhead(&self) -> &Path {
        &self.bulkhead
    }

    /// A configuration that runs `arguments` as root, as container engines write it.
    pub fn configuration(&self, id: &str, rootfs: &Path, arguments: &[&str]) -> Value {
        let programs = repository().join("tests/programs").canonicalize().expect("tests/programs");
        json!({
            "ociVersion": "1.0.2",
            "hostname": "box",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": arguments,
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=xterm"],
                "cwd": "/",
                "noNewPrivileges": false,
                "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024 }]
            },
            "root": { "path": rootfs, "readonly": false },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
                { "destination": "/programs", "type": "bind", "source": programs, "options": ["rbind", "ro"] }
            ],
            "linux": {
                "cgroupsPath": format!("/bulkhead-test/{}-{id}", self.network),
                // As in a fresh namespace: a wall lifts both in the namespace, which runs under runc share.
                "sysctl": { "net.ipv4.ip_unprivileged_port_start": "1024", "net.ipv4.ping_group_range": "1 0" },
                "namespaces": [
                    { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                    { "type": "network", "path": format!("/run/netns/{}", self.network) }
                ],
                "maskedPaths": ["/proc/kcore", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys"]
            }
        })
    }

    /// Makes a bundle of a configuration; gives its directory.
    pub fn bundle(&self, id: &str, configuration: &Value) -> PathBuf {
        let bundle = self.path().join(id);
        std::fs::create_dir_all(&bundle).expect("a bundle");
        std::fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(configuration).expect("json")).expect("config.json");
        bundle
    }

    /// The root file system as it is; only for runs that put an overlay over it.
    pub fn rootfs(&self) -> PathBuf {
        self.rootfs.canonicalize().expect("the root file system")
    }

    /// A command of a runtime, with its own state directory.
    pub fn command(&self, runtime: Runtime) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "300"]);
        match runtime {
            Runtime::Runc => command.arg("runc"),
            Runtime::Sandbox => command.arg(&self.bulkhead).args(["--overlay", "memory"]),
            Runtime::Microvm => {
                command.arg(&self.bulkhead).args(["--overlay", "memory", "--isolation", "microvm", "--config"]).arg(self.settings())
            }
        };
        command.arg("--root").arg(self.path().join(runtime.state()));
        command.stdin(Stdio::null());
        command
    }

    /// A configuration file that names the guest image which hack/guest has built.
    pub fn settings(&self) -> PathBuf {
        let path = self.path().join("config.toml");
        let image = std::path::absolute(repository().join("target/guest")).expect("a path");
        std::fs::write(&path, format!("guest_image = {image:?}\n")).expect("config.toml");
        path
    }

    /// The walls that can be tested here: the sandbox, and the microVM where `bulkhead check` says that it is usable. `BULKHEAD_WALLS` names those that are to be.
    ///
    /// # Panics
    /// Where a wall is to be tested that is not usable.
    pub fn walls(&self) -> Vec<Runtime> {
        let mut check = Command::new(&self.bulkhead);
        check.arg("--config").arg(self.settings()).args(["--isolation", "microvm", "check"]);
        let check = check.output().expect("bulkhead check");
        let usable = check.status.success();
        let Ok(asked) = std::env::var("BULKHEAD_WALLS") else {
            return if usable { vec![Runtime::Sandbox, Runtime::Microvm] } else { vec![Runtime::Sandbox] };
        };
        let wall = |name: &str| [Runtime::Sandbox, Runtime::Microvm].into_iter().find(|wall| wall.name() == name).expect("a wall's name");
        let walls: Vec<Runtime> = asked.split_whitespace().map(wall).collect();
        assert!(usable || !walls.contains(&Runtime::Microvm), "{}", String::from_utf8_lossy(&check.stdout));
        walls
    }

    /// Runs a program in a fresh view of the root file system.
    pub fn run(&self, runtime: Runtime, id: &str, arguments: &[&str]) -> Ran {
        self.run_with(runtime, id, arguments, |_| {})
    }

    /// The same; `change` changes the configuration.
    pub fn run_with(&self, runtime: Runtime, id: &str, arguments: &[&str], change: impl FnOnce(&mut Value)) -> Ran {
        let id = format!("{id}-{}", runtime.name());
        let rootfs = match runtime {
            Runtime::Runc => self.overlay(&id),
            Runtime::Sandbox | Runtime::Microvm => self.rootfs(),
        };
        // Joined inside the container, the two streams keep their order: runc copies each from a pipe of its own.
        let joined = [&["/bin/sh", "-c", "exec \"$@\" 2>&1", "sh"], arguments].concat();
        let mut configuration = self.configuration(&id, &rootfs, &joined);
        change(&mut configuration);
        let bundle = self.bundle(&id, &configuration);
        let mut command = self.command(runtime);
        // A runtime's own warnings (runc has some when a cgroup is slow to empty) are not the program's.
        command.arg("--log").arg(self.path().join(format!("{id}.log")));
        let output = command.arg("run").arg("--bundle").arg(&bundle).arg(&id).output().expect("a runtime");
        if runtime == Runtime::Runc {
            let _ = run("umount", &[&rootfs.to_string_lossy()]);
        }
        ran(&output)
    }

    /// The root file system under an overlay of the host's, for runc.
    fn overlay(&self, id: &str) -> PathBuf {
        let place = |name: &str| {
            let path = self.path().join(format!("{id}.{name}"));
            std::fs::create_dir_all(&path).expect("an overlay directory");
            path
        };
        let (upper, work, merged) = (place("upper"), place("work"), place("merged"));
        let options = format!("lowerdir={},upperdir={},workdir={}", self.rootfs().display(), upper.display(), work.display());
        run("mount", &["-t", "overlay", "overlay", "-o", &options, &merged.to_string_lossy()]).expect("an overlay mount");
        merged
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What a test that failed has left running.
        for runtime in [Runtime::Runc, Runtime::Sandbox, Runtime::Microvm] {
            let entries = std::fs::read_dir(self.path().join(runtime.state())).into_iter().flatten().flatten();
            for name in entries.map(|entry| entry.file_name()).filter(|name| name != "@pods") {
                let _ = self.command(runtime).args(["delete", "--force"]).arg(&name).stderr(Stdio::null()).status();
            }
        }
        let _ = run("ip", &["netns", "del", &self.network]);
    }
}

fn ran(output: &Output) -> Ran {
    use std::os::unix::process::ExitStatusExt;
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    // What the runtime itself has to say belongs to the comparison, too.
    Ran { output: text(&output.stdout) + &text(&output.stderr), code }
}
