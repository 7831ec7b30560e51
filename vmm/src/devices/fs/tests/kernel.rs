//! What Linux makes of the answers: the host's own FUSE client, which is the guest's, is the driver. Its requests are taken from
//! `/dev/fuse` and put through the virtqueues.
//!
//! It needs to mount, in a mount namespace of its own; where that is forbidden, there is nothing to test.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs `test` in a thread with a mount namespace in which the file system is mounted; with the trees, and where they are.
fn mounted(test: impl FnOnce(Arc<Shared>, &Path) + Send + 'static) {
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let client = std::thread::spawn(|| {
        let private = || mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
        let skip = |what| eprintln!("not tested: this process may not {what}");
        let Ok(mut device) = File::options().read(true).write(true).open("/dev/fuse") else { return skip("open /dev/fuse") };
        if unshare(CloneFlags::CLONE_NEWNS).and_then(|()| private()).is_err() {
            return skip("have a mount namespace");
        }
        let at = tempfile::tempdir().unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device.as_raw_fd());
        if mount(Some("bulkhead"), at.path(), Some("fuse"), MsFlags::empty(), Some(options.as_str())).is_err() {
            return skip("mount FUSE");
        }
        let mut guest = Guest::unmounted();
        let shared = guest.shared.clone();
        let server = std::thread::spawn(move || {
            let mut request = vec![0; (1 << 20) + 4096];
            // It ends with an error when the file system is unmounted.
            while let Ok(length) = device.read(&mut request) {
                let opcode = u32::from_le_bytes(request[4..8].try_into().unwrap());
                let queue = if crate::devices::fs::request::is_silent(opcode) { 0 } else { 1 };
                let answer = guest.raw(queue, &request[..length], (1 << 20) + 16);
                if !answer.is_empty() {
                    // ENOENT: nobody waits any more.
                    let _ = device.write(&answer);
                }
            }
            guest.held()
        });
        test(shared, at.path());
        nix::mount::umount(at.path()).unwrap();
        let held = server.join().unwrap();
        assert!(held < 10_000);
    });
    client.join().unwrap();
}

/// A directory with two trees: both the same.
fn twice(shared: &Shared) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["1", "2"] {
        shared.add(name, hold(directory.path()), false).unwrap();
    }
    let path = directory.path().to_owned();
    (directory, path)
}

fn shell(at: &Path, script: &str) {
    let output = Command::new("sh").arg("-ec").arg(script).current_dir(at).output().unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn programs_work() {
    mounted(|shared, at| {
        let (_directory, host) = twice(&shared);
        shell(
            &at.join("1"),
            r#"
            mkdir -p a/b/c && echo hello > a/b/c/file && test "$(cat a/b/c/file)" = hello
            echo more >> a/b/c/file && test "$(wc -l < a/b/c/file)" = 2
            ln a/b/c/file hard && ln -s a/b/c/file soft && test hard -ef soft
            test "$(stat -c %h hard)" = 2 && test "$(readlink soft)" = a/b/c/file
            mv a/b/c moved && test ! -e soft && cat moved/file
            chmod 4711 moved/file && test "$(stat -c %a moved/file)" = 4711
            touch -d @1000000000 moved/file && test "$(stat -c %Y moved/file)" = 1000000000
            mkfifo fifo && test -p fifo && (echo through > fifo &) && test "$(cat fifo)" = through
            truncate -s 3 moved/file && test "$(cat moved/file)" = hel
            dd if=/dev/urandom of=big bs=1M count=5 2>/dev/null && cp big copy && cmp big copy && sync big
            cp /bin/true true && ./true
            for i in $(seq 500); do : > "many-$i"; done
            test "$(ls | grep -c many-)" = 500 && test "$(find . -name 'many-*' | wc -l)" = 500
            mkdir tree && tar cf - --exclude ./tree . | tar xf - -C tree && test "$(ls tree | grep -c many-)" = 500 && cmp big tree/big
            rm -r tree many-* && test "$(ls | grep -c many-)" = 0
            test "$(df --output=size . | tail -1)" -gt 0
            ls -la / > listing && ! mkdir ../3 2>/dev/null
            "#,
        );
        assert_eq!(fs::read_to_string(host.join("moved/file")).unwrap(), "hel");
        assert_eq!(fs::metadata(host.join("big")).unwrap().len(), 5 << 20);
        assert!(fs::metadata(host.join("fifo")).unwrap().file_type().is_fifo());
    });
}

#[test]
fn users_own_what_they_make() {
    mounted(|shared, at| {
        let (_directory, host) = twice(&shared);
        std::os::unix::fs::chown(&host, Some(0), Some(4321)).unwrap();
        fs::set_permissions(&host, fs::Permissions::from_mode(0o770)).unwrap();
        let as_user = |groups: &str, script: &str| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=1234", "--regid=567", groups, "sh", "-ec", script]).current_dir(at).output()
        };
        let Ok(output) = as_user("--groups=4321", "umask 027; echo x > 1/file; mkdir 1/dir; ln -s x 1/link") else {
            return eprintln!("not tested: there is no setpriv(1)");
        };
        assert!(output.status.success(), "{output:?}");
        for (name, mode) in [("file", 0o640), ("dir", 0o750), ("link", 0o777)] {
            let metadata = fs::symlink_metadata(host.join(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (1234, 567, mode), "{name}");
        }
        // The guest's kernel refuses who is not in the group.
        assert!(!as_user("--clear-groups", "echo x > 1/other").unwrap().status.success());
        assert!(!host.join("other").exists());
        // Who may not keep set-user-ID loses it by writing.
        fs::set_permissions(host.join("file"), fs::Permissions::from_mode(0o4777)).unwrap();
        std::thread::sleep(Duration::from_millis(150));
        assert!(as_user("--groups=4321", "echo y >> 1/file").unwrap().status.success());
        assert_eq!(fs::metadata(host.join("file")).unwrap().mode() & 0o7777, 0o777);
    });
}

#[test]
fn containers_meet_in_a_shared_volume() {
    mounted(|shared, at| {
        let (_directory, host) = twice(&shared);
        // A socket that is bound in one tree is reached through the other.
        let listener = UnixListener::bind(at.join("1/socket")).unwrap();
        let mut client = UnixStream::connect(at.join("2/socket")).unwrap();
        client.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        listener.accept().unwrap().0.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        // So is what one has written but the other has cached.
        fs::write(at.join("1/file"), "first").unwrap();
        let reader = File::open(at.join("2/file")).unwrap();
        let mut text = [0; 5];
        reader.read_exact_at(&mut text, 0).unwrap();
        fs::write(at.join("1/file"), "other").unwrap();
        reader.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text, b"other");
        // One tree goes; what is open through the other stays.
        shared.remove("1");
        std::thread::sleep(Duration::from_millis(150));
        assert!(fs::metadata(at.join("1")).is_err());
        assert_eq!(fs::read_to_string(at.join("2/file")).unwrap(), "other");
        reader.read_exact_at(&mut text, 0).unwrap();
        // The host changes a file: soon seen, even if it was cached.
        fs::write(host.join("file"), "from the host").unwrap();
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(fs::read_to_string(at.join("2/file")).unwrap(), "from the host");
    });
}
