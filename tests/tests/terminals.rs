//! `run -t` and `exec -t` as a person uses them: job control, an editor, the window's size.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bulkhead_tests::{Lab, Runtime};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};

/// A program in a pseudo-terminal that a test types into.
struct Session {
    master: std::fs::File,
    child: Child,
    seen: String,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Session {
    fn open(mut command: std::process::Command) -> Session {
        let pair = openpty(Some(&size(24, 80)), None).expect("a pseudo-terminal");
        let stream = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("dup"));
        // setsid makes the slave the controlling terminal of what runs behind it.
        let program: Vec<_> = std::iter::once(command.get_program().to_owned()).chain(command.get_args().map(ToOwned::to_owned)).collect();
        command = std::process::Command::new("setsid");
        command.args(["--ctty", "--wait"]).args(program);
        let child = command.stdin(stream(&pair.slave)).stdout(stream(&pair.slave)).stderr(stream(&pair.slave)).spawn().expect("a child");
        Session { master: pair.master.into(), child, seen: String::new() }
    }

    fn type_(&mut self, text: &str) {
        self.seen.clear();
        self.master.write_all(text.as_bytes()).expect("typing");
    }

    /// Reads until the terminal has shown `text`.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.seen.contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not in {:?}", self.seen);
            let mut ready = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(200u16)).unwrap_or(0) == 0 {
                continue;
            }
            let mut bytes = [0u8; 4096];
            match self.master.read(&mut bytes) {
                Ok(length) if length > 0 => self.seen.push_str(&String::from_utf8_lossy(&bytes[..length])),
                _ => assert!(self.seen.contains(text), "{text:?} is not in {:?}, and the terminal is gone", self.seen),
            }
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = size(rows, columns);
        // SAFETY: TIOCSWINSZ reads one `struct winsize`.
        assert_eq!(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) }, 0);
    }

    fn exit_code(mut self) -> i32 {
        self.child.wait().expect("wait").code().unwrap_or(-1)
    }
}

/// What a person does in a shell.
fn use_shell(mut session: Session) {
    session.expect("# ");
    session.type_("tty; stty size\r");
    session.expect("/dev/pts/0\r\n24 80\r\n");
    session.type_("sleep 1000\r");
    session.expect("sleep 1000\r\n");
    std::thread::sleep(Duration::from_millis(300));
    session.type_("\x1a");
    session.expect("Stopped");
    session.type_("jobs\r");
    session.expect("[1]+  Stopped");
    session.type_("fg\r");
    session.expect("fg\r\n");
    std::thread::sleep(Duration::from_millis(300));
    session.type_("\x03");
    session.expect("^C");
    session.expect("# ");
    session.type_("vi /tmp/file\r");
    session.expect("[New");
    session.type_("ihello from vi\x1b:wq\r");
    session.expect("written");
    session.type_("cat /tmp/file; echo $((40 + 2))\r");
    session.expect("42\r\n");
    session.resize(50, 132);
    session.type_("stty size\r");
    session.expect("50 132\r\n");
    session.type_("seq 500 | less\r");
    session.expect(":");
    session.type_("q");
    session.expect("# ");
    session.type_("exit 7\r");
    assert_eq!(session.exit_code(), 7);
}

#[test]
fn a_shell_in_run_and_in_exec() {
    let Some(lab) = Lab::open() else { return };
    let mut configuration = lab.configuration("term", &lab.rootfs(), &["/bin/bash", "--norc"]);
    configuration["process"]["terminal"] = true.into();
    let bundle = lab.bundle("term", &configuration);
    let mut command = lab.command(Runtime::Sandbox);
    command.arg("run").arg("--bundle").arg(&bundle).arg("term");
    use_shell(Session::open(command));

    let bundle = lab.bundle("host", &lab.configuration("host", &lab.rootfs(), &["/bin/sleep", "1000"]));
    let mut command = lab.command(Runtime::Sandbox);
    command.args(["run", "--detach", "--bundle"]).arg(&bundle).arg("host").stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("run").success());
    let mut command = lab.command(Runtime::Sandbox);
    command.args(["exec", "--tty", "host", "/bin/bash", "--norc"]);
    use_shell(Session::open(command));
    assert!(lab.command(Runtime::Sandbox).args(["delete", "--force", "host"]).status().expect("delete").success());
}
