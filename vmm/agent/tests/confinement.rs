//! What a container's processes are, see, and may do.
#![allow(missing_docs)]

mod guest;

use std::os::unix::fs::PermissionsExt;

use bulkhead_protocol::messages::*;
use guest::{Guest, refusal, rootfs, wait};
use serde_json::{Value, json};

fn mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().unwrap().push(mount);
}

#[test]
fn identity_limits_and_capabilities_are_the_configurations() {
    let guest = Guest::start();
    let script = "id -u; id -g; id -G; umask; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; pwd; echo $HOME; \
                  grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
    let (status, output) = guest.run("web", &["sh", "-c", script], |config| {
        config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 10], "umask": 63});
        config["process"]["cwd"] = json!("/made/here");
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 300}]);
        config["process"]["oomScoreAdj"] = json!(300);
        config["process"]["noNewPrivileges"] = json!(true);
        let sets = json!(["CAP_NET_BIND_SERVICE", "CAP_KILL"]);
        config["process"]["capabilities"] =
            json!({"bounding": sets, "permitted": sets, "effective": sets, "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]});
    });
    assert_eq!(status, 0, "{output}");
    // A user that is not root keeps across execve what is ambient (capabilities(7)): CAP_KILL is bit 5, CAP_NET_BIND_SERVICE bit 10.
    let expected = "1000\n1001\n1001 5 10\n0077\n200\n300\n300\n/made/here\n/\n\
                    CapInh:\t0000000000000020\nCapPrm:\t0000000000000020\nCapEff:\t0000000000000020\nCapBnd:\t0000000000000420\n\
                    CapAmb:\t0000000000000020\nNoNewPrivs:\t1\n";
    assert_eq!(output, expected);
}

#[test]
fn root_has_the_capabilities_that_it_is_given() {
    let guest = Guest::start();
    let script = "grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status; mount -t tmpfs x /mnt 2>/dev/null; echo $?";
    let none = guest.run("none", &["sh", "-c", script], |_| {});
    assert_eq!(none.1, "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n32\n");
    let (_, some) = guest.run("some", &["sh", "-c", script], |config| {
        let sets = json!(["CAP_SYS_ADMIN"]);
        config["process"]["capabilities"] = json!({"bounding": sets, "permitted": sets, "effective": sets});
    });
    assert_eq!(some, "CapPrm:\t0000000000200000\nCapEff:\t0000000000200000\nCapBnd:\t0000000000200000\n0\n");
}

#[test]
fn a_profile_is_installed_with_and_without_new_privileges() {
    let guest = Guest::start();
    for no_new_privileges in [false, true] {
        let (status, output) = guest.run("web", &["sh", "-c", "mkdir /tmp/x; echo $?; touch /tmp/y; echo $?"], |config| {
            config["process"]["noNewPrivileges"] = json!(no_new_privileges);
            config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
        });
        assert_eq!(status, 0);
        assert!(output.ends_with("1\n0\n") || output.starts_with("1\n0\n"), "{output}");
        assert!(output.contains("Function not implemented"), "{output}");
    }
    // What execs run is filtered as well.
    let mut client = guest.client();
    let request = guest.request("other", &["sleep", "1000"], |config| {
        config["linux"]["seccomp"] =
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS"}]});
    });
    client.create(&request).unwrap();
    client.start(&guest::start("other", "")).unwrap();
    client.exec(&guest::exec("other", "e", guest::process(&["mkdir", "/tmp/x"]))).unwrap();
    assert_eq!(client.wait(&wait("other", "e")).unwrap().exit_status, 128 + libc::SIGSYS as u32);
}

#[test]
fn paths_are_masked_and_read_only() {
    let guest = Guest::start();
    let script = "wc -c < /proc/version; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/domainname; \
                  touch /sys/firmware/x; touch /file; grep -c ' / ' /proc/self/mountinfo";
    let all = |config: &mut Value| {
        let sets = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
        config["process"]["capabilities"] = json!({"bounding": sets, "permitted": sets, "effective": sets});
        config["root"]["readonly"] = json!(true);
        config["linux"]["maskedPaths"] = json!(["/proc/version", "/sys/firmware", "/proc/not-there"]);
    };
    let (_, output) = guest.run("web", &["sh", "-c", script], all);
    let lines: Vec<_> = output.lines().collect();
    assert!(output.starts_with("0\n0\n"), "{output}");
    assert_eq!(lines.iter().filter(|line| line.contains("Read-only file system")).count(), 3, "{output}");
}

#[test]
fn devices_and_links_are_there() {
    let guest = Guest::start();
    let script = "cd /dev; stat -c '%n %F %t:%T %a' null zero full random urandom tty fuse; readlink fd stdin stdout stderr ptmx; \
                  echo x > /dev/null; head -c 3 /dev/zero | wc -c; echo out > /dev/stdout; test -p /dev/stdout && echo pipe; ls -d mqueue shm pts";
    let (status, output) = guest.run("web", &["sh", "-c", script], |config| {
        config["linux"]["devices"] =
            json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 384, "uid": 7, "gid": 8}]);
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    assert_eq!(status, 0, "{output}");
    let device = |name: &str, number: &str, mode: &str| format!("{name} character special file {number} {mode}\n");
    let expected = [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")]
        .map(|(name, number)| device(name, number, "666"))
        .concat()
        + &device("fuse", "a:e5", "600")
        + "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n3\nout\npipe\nmqueue\npts\nshm\n";
    assert_eq!(output, expected);
}

#[test]
fn mounts_have_their_options() {
    let guest = Guest::start();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "text").unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let script = "cat /etc/one /mnt/bound/file; touch /mnt/bound/x; touch /mnt/writable/made; stat -c %a /small; head -c 200000 /dev/zero > /small/x; \
                  ls /etc/apt | wc -l; stat -c %F /etc/apt/sources.list; findmnt -no OPTIONS,PROPAGATION /mnt/bound; findmnt -no FSTYPE /";
    let (_, output) = guest.run("web", &["sh", "-c", script], |config| {
        mount(config, json!({"destination": "/etc/one", "type": "bind", "source": directory.path().join("file"), "options": ["bind"]}));
        let options = json!(["rbind", "ro", "nosuid", "nodev", "noexec", "noatime", "rslave"]);
        mount(config, json!({"destination": "/mnt/bound", "type": "bind", "source": directory.path(), "options": options}));
        mount(config, json!({"destination": "/mnt/writable", "type": "bind", "source": directory.path(), "options": ["bind", "rw"]}));
        mount(config, json!({"destination": "/small", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=1700"]}));
        mount(config, json!({"destination": "/etc/apt", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    });
    assert!(output.starts_with("texttext1700\n"), "{output}");
    assert!(output.contains("'/mnt/bound/x': Read-only file system") && output.contains("No space left on device"), "{output}");
    let there = std::fs::read_dir(rootfs().join("etc/apt")).unwrap().count();
    assert!(output.contains(&format!("\n{there}\nregular file\n")), "{output}");
    assert!(output.contains("ro,nosuid,nodev,noexec,noatime") && output.contains("\noverlay\n"), "{output}");
    assert!(directory.path().join("made").exists());
}

#[test]
fn writes_go_where_the_overlay_says() {
    let guest = Guest::start();
    let lower = tempfile::tempdir().unwrap();
    std::fs::set_permissions(lower.path(), PermissionsExt::from_mode(0o711)).unwrap();
    std::fs::create_dir(lower.path().join("bin")).unwrap();
    std::fs::copy(rootfs().join("bin/busybox"), lower.path().join("bin/busybox")).unwrap();
    let upper = tempfile::tempdir_in(if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let request = |overlay: &str| {
        let mut request = guest.request("web", &["/bin/busybox", "sh", "-c", "busybox stat -c %a /; echo text > /file; echo $?"], |_| {});
        request.root = Some(guest.tree(lower.path())).into();
        request.overlay = overlay.into();
        request.overlay_dir = Some(guest.tree(upper.path())).into();
        String::from_utf8(guest.run_request(request).unwrap().1).unwrap()
    };
    assert_eq!(request("memory"), "711\n0\n");
    assert!(!lower.path().join("file").exists());
    assert_eq!(request("dir"), "711\n0\n");
    assert!(!lower.path().join("file").exists() && upper.path().join("upper/file").exists());
    assert_eq!(request("none"), "711\n0\n");
    assert_eq!(std::fs::read_to_string(lower.path().join("file")).unwrap(), "text\n");
    let mut wrong = guest.request("web", &["true"], |_| {});
    wrong.overlay = "other".into();
    assert_eq!(refusal(guest.run_request(wrong)).message, "overlay \"other\": memory, none or dir");
}

#[test]
fn links_of_an_image_lead_mounts_nowhere_else() {
    let guest = Guest::start();
    let outside = tempfile::tempdir().unwrap();
    let lower = tempfile::tempdir().unwrap();
    std::fs::create_dir(lower.path().join("bin")).unwrap();
    std::fs::copy(rootfs().join("bin/busybox"), lower.path().join("bin/busybox")).unwrap();
    // Absolute and upwards: in the container both are below its root.
    std::os::unix::fs::symlink(outside.path(), lower.path().join("proc")).unwrap();
    std::os::unix::fs::symlink("../../../../..", lower.path().join("up")).unwrap();
    std::fs::create_dir_all(lower.path().join(outside.path().strip_prefix("/").unwrap())).unwrap();
    let mut request = guest.request("web", &["/bin/busybox", "sh", "-c", "busybox ls /up/made"], |config| {
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
        mount(config, json!({"destination": "/up/made", "type": "bind", "source": rootfs().join("etc/apt"), "options": ["bind"]}));
    });
    request.root = Some(guest.tree(lower.path())).into();
    let (status, output) = guest.run_request(request).unwrap();
    assert_eq!(status, 0, "{}", String::from_utf8_lossy(&output));
    assert!(String::from_utf8_lossy(&output).contains("sources.list"));
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(!std::path::Path::new("/made").exists());
}

#[test]
fn nothing_of_the_agents_is_left_in_a_process() {
    let guest = Guest::start();
    let mut client = guest.client();
    // A container that waits must not keep another one's streams open, nor pass on what the agent has.
    client.create(&guest.request("other", &["sleep", "1000"], |_| {})).unwrap();
    let (preserved, mut stream) = guest.stream();
    let mut request =
        guest.request("web", &["sh", "-c", "ls /proc/self/fd; echo there >&3; cat <&3; readlink /proc/self/fd/3 | cut -c1-6"], |_| {});
    request.preserved_streams = vec![preserved];
    let reader = std::thread::spawn(move || {
        let mut line = [0; 6];
        std::io::Read::read_exact(&mut stream, &mut line).unwrap();
        std::io::Write::write_all(&mut stream, b"back\n").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        line
    });
    let (status, output) = guest.run_request(request).unwrap();
    assert_eq!(status, 0);
    assert_eq!(&reader.join().unwrap(), b"there\n");
    // 4 is the directory that ls reads.
    assert_eq!(String::from_utf8_lossy(&output), "0\n1\n2\n3\n4\nback\nsocket\n");
    let environment = guest.run("env", &["env"], |config| config["process"]["env"] = json!(["PATH=/usr/bin:/bin", "A=1", "A=2"]));
    assert_eq!(environment.1, "PATH=/usr/bin:/bin\nA=2\nHOME=/root\n");
    let _ = client.delete(&ContainerRequest { container_id: "other".into(), ..ContainerRequest::new() });
}
