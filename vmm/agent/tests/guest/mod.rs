//! An agent to test: the first process of PID, mount, network and cgroup namespaces of its own, on Unix sockets. Needs root and cgroup v2.
//!
//! The root file system is `target/rootfs` (`hack/rootfs`), or what `BULKHEAD_ROOTFS` names; containers write to memory. `BULKHEAD_AGENT` names
//! another program than the one that was built with the tests.
// Each file of tests uses a part of it.
#![allow(dead_code)]

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use bulkhead_protocol::client::{CallError, Client};
use bulkhead_protocol::guest::{CONTROL_PORT, READY, STREAMS_PORT};
use bulkhead_protocol::messages::*;
use serde_json::{Value, json};

/// How the agent comes into its namespaces. The cgroup namespace's root must hold no process when controllers are handed down.
const ENTER: &str = r#"
set -e
cgroups=/sys/fs/cgroup
[ -e $cgroups/cgroup.controllers ] || cgroups=/sys/fs/cgroup/unified
base=$cgroups/$3
mkdir -p "$base/agent"
echo $$ > "$base/cgroup.procs"
exec unshare --cgroup sh -c '
    echo $$ > "$1/agent/cgroup.procs"
    exec unshare --mount --net --uts --ipc --pid --fork --kill-child=KILL sh -c "
        mount -t proc proc /proc && mount -t tmpfs tmpfs /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"\$2\" serve \"\$1\"" sh "$2" "$3"' sh "$base" "$1" "$2"
"#;

pub struct Guest {
    directory: tempfile::TempDir,
    child: Child,
    cgroup: String,
    next: Cell<u32>,
}

/// The root file system of containers.
pub fn rootfs() -> PathBuf {
    let path =
        std::env::var_os("BULKHEAD_ROOTFS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/rootfs"), Into::into);
    path.canonicalize().expect("target/rootfs: see hack/rootfs")
}

/// Waits until something is so.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Guest {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cgroup = format!("agent-test-{}", directory.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.'));
        std::fs::create_dir(directory.path().join("shared")).unwrap();
        let agent = std::env::var_os("BULKHEAD_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_bulkhead-agent").into());
        let child = Command::new("sh").args(["-c", ENTER, "sh"]).arg(directory.path()).arg(agent).arg(&cgroup).spawn().unwrap();
        let guest = Self { directory, child, cgroup, next: Cell::new(1) };
        let port = guest.directory.path().join(STREAMS_PORT.to_string());
        eventually("the agent listens", || UnixStream::connect(&port).ok());
        guest
    }

    pub fn client(&self) -> Client {
        let client = Client::new(self.connect(CONTROL_PORT));
        client.set_timeout(Some(Duration::from_secs(60))).unwrap();
        client
    }

    pub fn connect(&self, port: u32) -> UnixStream {
        UnixStream::connect(self.directory.path().join(port.to_string())).unwrap()
    }

    /// Attaches a stream.
    pub fn stream(&self) -> (u32, UnixStream) {
        let number = self.number();
        let mut stream = self.connect(STREAMS_PORT);
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(&number.to_le_bytes()).unwrap();
        let mut answer = [0];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[0], READY);
        (number, stream)
    }

    /// Shares a directory or a file.
    pub fn tree(&self, path: &Path) -> Tree {
        let number = self.number();
        std::os::unix::fs::symlink(path, self.directory.path().join("shared").join(number.to_string())).unwrap();
        Tree { stream: number, ..Tree::default() }
    }

    fn number(&self) -> u32 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    /// The agent's cgroup hierarchy, as this process sees it.
    pub fn cgroups(&self) -> PathBuf {
        let unified = Path::new("/sys/fs/cgroup");
        let unified = if unified.join("cgroup.controllers").exists() { unified.to_owned() } else { unified.join("unified") };
        unified.join(&self.cgroup)
    }

    /// A request for a container that runs this command, changed by `change`.
    pub fn request(&self, id: &str, command: &[&str], change: impl FnOnce(&mut Value)) -> CreateRequest {
        let mut config = config(command);
        change(&mut config);
        let mut request = CreateRequest::new();
        request.container_id = id.into();
        request.root = Some(self.tree(&rootfs())).into();
        request.overlay = "memory".into();
        for mount in config["mounts"].as_array().unwrap() {
            let text = |key: &str| mount[key].as_str().unwrap_or_default().to_owned();
            let source = text("source");
            request.mounts.push(Mount {
                destination: text("destination"),
                type_: text("type"),
                source: source.starts_with('/').then(|| self.tree(Path::new(&source))).into(),
                options: serde_json::from_value(mount["options"].clone()).unwrap_or_default(),
                ..Mount::default()
            });
        }
        request.config_json = config.to_string().into_bytes();
        request
    }

    /// Runs a container to its end; gives its status and its output (both streams).
    pub fn run(&self, id: &str, command: &[&str], change: impl FnOnce(&mut Value)) -> (u32, String) {
        let request = self.request(id, command, change);
        let (status, output) = self.run_request(request).unwrap();
        (status, String::from_utf8_lossy(&output).into_owned())
    }

    pub fn run_request(&self, mut request: CreateRequest) -> Result<(u32, Vec<u8>), CallError> {
        let mut client = self.client();
        let mut streams = Vec::new();
        let stdio = request.stdio.mut_or_insert_default();
        for field in [&mut stdio.stdout, &mut stdio.stderr] {
            let (number, stream) = self.stream();
            *field = number;
            streams.push(stream);
        }
        let id = request.container_id.clone();
        client.create(&request)?;
        client.start(&StartRequest { container_id: id.clone(), ..StartRequest::new() })?;
        let mut output = Vec::new();
        for mut stream in streams {
            stream.read_to_end(&mut output).unwrap();
        }
        let status = client.wait(&wait(&id, ""))?.exit_status;
        client.delete(&named(&id))?;
        Ok((status, output))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The first process of a PID namespace takes all others with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let base = self.cgroups();
        eventually("the agent's cgroups are empty", || {
            for entry in
                std::fs::read_dir(&base).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            {
                let _ = std::fs::remove_dir(entry.path());
            }
            (std::fs::remove_dir(&base).is_ok() || !base.exists()).then_some(())
        });
    }
}

pub fn named(id: &str) -> ContainerRequest {
    ContainerRequest { container_id: id.into(), ..ContainerRequest::new() }
}

pub fn wait(id: &str, exec: &str) -> WaitRequest {
    WaitRequest { container_id: id.into(), exec_id: exec.into(), ..WaitRequest::new() }
}

pub fn signal(id: &str, exec: &str, signal: i32) -> SignalRequest {
    SignalRequest { container_id: id.into(), exec_id: exec.into(), signal: signal as u32, ..SignalRequest::new() }
}

pub fn start(id: &str, exec: &str) -> StartRequest {
    StartRequest { container_id: id.into(), exec_id: exec.into(), ..StartRequest::new() }
}

pub fn state(client: &mut Client, id: &str) -> state_response::Status {
    client.state(&StateRequest { container_id: id.into(), ..StateRequest::new() }).unwrap().status.enum_value().unwrap()
}

pub fn exec(id: &str, name: &str, process: Value) -> ExecRequest {
    let process_json = process.to_string().into_bytes();
    ExecRequest { container_id: id.into(), exec_id: name.into(), process_json, ..ExecRequest::new() }
}

pub fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>) -> bulkhead_protocol::call::Refusal {
    match result {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// A process that runs this command as root without capabilities.
pub fn process(command: &[&str]) -> Value {
    json!({"args": command, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]})
}

/// What `runc spec` writes, mostly.
fn config(command: &[&str]) -> Value {
    let options = json!(["nosuid", "noexec", "nodev"]);
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs", "readonly": false},
        "process": process(command),
        "hostname": "guest",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": options},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/not-there"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger", "/proc/not-there"]
        }
    })
}
