//! `status` and `stat` of /proc/PID: the host's text, with the identity, numbers and names that the container has for them (proc_pid_status(5),
//! proc_pid_stat(5)).

use std::sync::Arc;

use super::access::may_read;
use super::memory;
use crate::errno::{Errno, Result};
use crate::kernel::container::Container;
use crate::kernel::credentials::Credentials;
use crate::kernel::fork;
use crate::kernel::limits::Limits;
use crate::kernel::task::{self, Pid, Process, Thread};

/// How many filters of every workload process are ours: the rest are the container's profile and its own.
const OWN_FILTERS: u32 = 1;
/// Fields of `stat` that tell addresses, or what is at them, counted from 1: zero for those who may not look into the process.
const ADDRESSES: [usize; 13] = [26, 27, 28, 29, 30, 35, 45, 46, 47, 48, 49, 50, 51];

/// The name of a thread, as far as it goes.
pub fn name_of(thread: &Thread) -> Vec<u8> {
    trimmed(&thread.name.lock())
}

/// A name without what fills it up.
pub fn trimmed(name: &[u8; 16]) -> Vec<u8> {
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    name[..end].to_vec()
}

/// Whether a thread is the one that asks: it waits for the answer, as the host sees it, and runs, as everybody else does.
fn asks(tid: Pid) -> bool {
    task::current().is_some_and(|thread| thread.tid == tid)
}

/// A name with what would break a line shown as an escape (`proc_task_name()` in fs/proc/array.c).
pub fn escaped(name: &[u8], wanted: &[u8]) -> Vec<u8> {
    let mut shown = Vec::new();
    for &byte in name {
        if wanted.contains(&byte) {
            shown.push(b'\\');
            shown.push(if byte == b'\n' { b'n' } else { byte });
        } else {
            shown.push(byte);
        }
    }
    shown
}

/// `stat` of a thread.
pub fn stat(process: &Arc<Process>, thread: &Arc<Thread>, whole: bool) -> Result<Vec<u8>> {
    let place = if whole { format!("/proc/{}/stat", process.pid.0) } else { format!("/proc/{}/task/{}/stat", process.pid.0, thread.tid.0) };
    let text = std::fs::read_to_string(place).map_err(|_| Errno::ESRCH)?;
    let terminal = crate::fs::tty::controlling(process);
    let terminal = terminal.map(|terminal| (libc::makedev(136 + terminal.number / 256, terminal.number % 256), terminal.foreground()));
    let visible = task::current().is_some_and(|asker| may_read(process, &asker.credentials.read()).is_ok());
    let mut fields = translated(&text, &process.container, asks(thread.tid));
    if let (Some((device, foreground)), true) = (terminal, fields.len() > 5) {
        fields[4] = device.to_string();
        fields[5] = fork::inner_number(&process.container, foreground).to_string();
    }
    for number in ADDRESSES.into_iter().filter(|_| !visible) {
        if let Some(field) = fields.get_mut(number - 3) {
            *field = String::from("0");
        }
    }
    Ok([format!("{} (", thread.inner).as_bytes(), &name_of(thread), format!(") {}\n", fields.join(" ")).as_bytes()].concat())
}

/// The fields of a host's stat line behind the name, with the container's numbers.
pub fn translated(text: &str, container: &Arc<Container>, asks: bool) -> Vec<String> {
    let after = text.rfind(')').map_or("", |end| text[end + 1..].trim());
    let mut fields: Vec<String> = after.split_whitespace().map(str::to_owned).collect();
    if asks && let Some(state) = fields.first_mut() {
        *state = String::from("R");
    }
    // Parent, group, session, foreground group.
    for index in [1usize, 2, 3, 5] {
        if let Some(field) = fields.get_mut(index) {
            let outer: i32 = field.parse().unwrap_or(0);
            *field = if outer <= 0 { outer.to_string() } else { fork::inner_number(container, Pid(outer)).to_string() };
        }
    }
    fields
}

/// `status` of a thread.
pub fn status(process: &Arc<Process>, thread: &Arc<Thread>) -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(format!("/proc/{}/task/{}/status", process.pid.0, thread.tid.0)).map_err(|_| Errno::ESRCH)?;
    let who = thread.credentials.read().clone();
    let shown = Shown {
        name: name_of(thread),
        umask: thread.context.read().get().umask,
        tgid: process.inner,
        pid: thread.inner,
        descriptors: thread.descriptors.read().numbers().last().map_or(0, |last| last.0 as usize + 1),
        limits: process.limits.read().clone(),
    };
    Ok(rewritten(&text, &process.container, &who, &shown, asks(thread.tid)))
}

/// What `status` shows besides the identity.
pub struct Shown {
    pub name: Vec<u8>,
    pub umask: u32,
    pub tgid: i32,
    pub pid: i32,
    pub descriptors: usize,
    pub limits: Limits,
}

/// The host's text of `status` made the container's.
pub fn rewritten(text: &str, container: &Arc<Container>, who: &Credentials, shown: &Shown, asks: bool) -> Vec<u8> {
    let inner = |value: &str| fork::inner_number(container, Pid(value.trim().parse().unwrap_or(0)));
    let filters = text.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")).and_then(|count| count.trim().parse::<u32>().ok());
    let filters = filters.unwrap_or(0).saturating_sub(OWN_FILTERS);
    let mut lines = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let new = match key {
            "Name" => {
                lines.extend_from_slice(b"Name:\t");
                lines.extend_from_slice(&escaped(&shown.name, b"\n\\"));
                lines.push(b'\n');
                continue;
            }
            "Umask" => format!("{:04o}", shown.umask),
            "State" if asks => String::from("R (running)"),
            "Tgid" => shown.tgid.to_string(),
            "Pid" => shown.pid.to_string(),
            "PPid" => inner(value).to_string(),
            "TracerPid" | "Ngid" => String::from("0"),
            "Uid" => format!("{}\t{}\t{}\t{}", who.uid, who.euid, who.suid, who.fsuid),
            "Gid" => format!("{}\t{}\t{}\t{}", who.gid, who.egid, who.sgid, who.fsgid),
            // The host's tables grow by powers of two, from 64 on.
            "FDSize" => shown.descriptors.next_power_of_two().max(64).to_string(),
            "Groups" => who.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + " ",
            "NStgid" => shown.tgid.to_string(),
            "NSpid" => shown.pid.to_string(),
            "NSpgid" | "NSsid" => value.split_whitespace().next_back().unwrap_or("0").to_owned(),
            "SigQ" => {
                let queued = value.trim().split('/').next().unwrap_or("0");
                format!("{queued}/{}", shown.limits.get(libc::RLIMIT_SIGPENDING).map_or(0, |limit| limit.soft))
            }
            "CapInh" => format!("{:016x}", who.inheritable.0),
            "CapPrm" => format!("{:016x}", who.permitted.0),
            "CapEff" => format!("{:016x}", who.effective.0),
            "CapBnd" => format!("{:016x}", who.bounding.0),
            "CapAmb" => format!("{:016x}", who.ambient.0),
            "NoNewPrivs" => u8::from(who.no_new_privs).to_string(),
            "Seccomp" => String::from(if filters > 0 { "2" } else { "0" }),
            "Seccomp_filters" => filters.to_string(),
            _ => {
                lines.extend_from_slice(line.as_bytes());
                lines.push(b'\n');
                continue;
            }
        };
        lines.extend_from_slice(format!("{key}:\t{new}\n").as_bytes());
    }
    lines
}

/// `statm` of the host: pages, which are what they are.
pub fn pages(process: &Arc<Process>) -> Result<Vec<u8>> {
    std::fs::read(format!("/proc/{}/statm", process.pid.0)).map_err(|_| Errno::ESRCH)
}

/// `cmdline`: empty for a process that has no memory any more.
pub fn arguments(process: &Arc<Process>) -> Result<Vec<u8>> {
    memory::arguments(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_their_first_zero() {
        let mut name = [0u8; 16];
        name[..4].copy_from_slice(b"a b\n");
        assert_eq!(trimmed(&name), b"a b\n");
        assert_eq!(escaped(&trimmed(&name), b"\n\\"), b"a b\\n");
        assert_eq!(escaped(b"back\\slash", b"\n\\"), b"back\\\\slash");
    }
}
