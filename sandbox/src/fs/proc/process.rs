//! The directories of processes and threads: what stands in them, who owns it, who may look (proc_pid(5)).

use std::sync::Arc;

use super::access::{self, guard, owner, user};
use super::{caller, descriptors, first_thread, memory, mounts, namespaces, status, zombies};
use crate::errno::{Errno, Result};
use crate::fs::synthetic::{Guard, Named, constant, directory, file, link};
use crate::kernel::container::Container;
use crate::kernel::credentials::Capability;
use crate::kernel::kernel;
use crate::kernel::limits::Limits;
use crate::kernel::oom::Adjustment;
use crate::kernel::task::{self, Process, Thread};
use crate::vfs::node::LinkTarget;
use crate::vfs::object::ObjectNode;

/// An id map that has been written and cannot be again: every id is itself (user_namespaces(7)).
const EVERY_ID: &str = "         0          0 4294967295\n";

/// The directory of one process.
pub fn directory_of(process: &Arc<Process>) -> Named {
    named(process, None, process.inner)
}

/// The directory of the process that a thread belongs to, by the thread's number: it is not listed, and there.
pub fn of_thread(container: &Arc<Container>, inner: i32) -> Option<Named> {
    let threads: Vec<Arc<Thread>> = kernel().threads.read().values().filter(|thread| thread.inner == inner).cloned().collect();
    let here = |thread: Arc<Thread>| Some((thread.process().filter(|process| Arc::ptr_eq(&process.container, container))?, thread));
    threads.into_iter().find_map(here).map(|(process, thread)| named(&process, Some(thread), inner))
}

fn named(process: &Arc<Process>, thread: Option<Arc<Thread>>, number: i32) -> Named {
    let listed = process.clone();
    directory(&number.to_string(), move || list(&listed, thread.clone())).owner(user(process))
}

/// What everything in one directory needs.
struct Room {
    process: Arc<Process>,
    /// `None` for the whole process, as its number names it.
    thread: Option<Arc<Thread>>,
    guard: Guard,
    owner: (u32, u32),
}

type OfProcess = fn(&Arc<Process>) -> Result<Vec<u8>>;

impl Room {
    fn thread(&self) -> Result<Arc<Thread>> {
        self.thread.clone().map_or_else(|| first_thread(&self.process), Ok)
    }

    /// A file made by a function of the process.
    fn file(&self, name: &str, read: OfProcess) -> Named {
        let (process, own) = (self.process.clone(), name.to_owned());
        file(name, move || read(&process).or_else(|error| zombies::text(&process, &own).ok_or(error)?))
    }

    /// A file made by a function of the thread.
    fn thread_file(
        &self,
        name: &str,
        read: impl Fn(&Arc<Process>, &Arc<Thread>, bool) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Named {
        let (process, thread, own) = (self.process.clone(), self.thread.clone(), name.to_owned());
        file(name, move || {
            let shown = thread.clone().map_or_else(|| first_thread(&process), Ok);
            let text = shown.and_then(|shown| read(&process, &shown, thread.is_none()));
            // It may have died since the file was opened, and stays a zombie until it is waited for.
            text.or_else(|error| zombies::text(&process, &own).ok_or(error)?)
        })
    }

    /// A file that the host has for the thread, word for word.
    fn host(&self, name: &'static str) -> Named {
        self.thread_file(name, move |process, thread, whole| of_host(process, thread, whole, name))
    }

    /// The same, written through: the host judges the value as it would any unprivileged process's.
    fn host_writable(&self, name: &'static str) -> Named {
        let process = self.process.clone();
        self.host(name).writable(move |bytes| Ok(std::fs::write(format!("/proc/{}/{name}", process.pid.0), bytes)?))
    }

    /// A link to a place.
    fn place(&self, name: &str, find: fn(&Process, &Thread) -> Result<LinkTarget>) -> Named {
        let (process, thread) = (self.process.clone(), self.thread.clone());
        link(name, move || find(&process, &*thread.clone().map_or_else(|| first_thread(&process), Ok)?)).guarded(&self.guard)
    }
}

fn of_host(process: &Process, thread: &Thread, whole: bool, name: &str) -> Result<Vec<u8>> {
    let pid = process.pid.0;
    let path = if whole { format!("/proc/{pid}/{name}") } else { format!("/proc/{pid}/task/{}/{name}", thread.tid.0) };
    std::fs::read(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => Errno::ESRCH,
        _ => error.into(),
    })
}

fn list(process: &Arc<Process>, thread: Option<Arc<Thread>>) -> Vec<Named> {
    let room = Room { process: process.clone(), thread, guard: guard(process), owner: owner(process) };
    let mut items = common(&room);
    let tasks = process.clone();
    items.push(directory("task", move || {
        let threads = tasks.threads.lock().clone();
        threads.iter().map(|thread| thread_directory(&tasks, thread)).collect()
    }));
    items.push(room.file("mountstats", mounts::statistics).mode(0o400));
    items.push(room.host_writable("coredump_filter"));
    let read_slack = |process: &Arc<Process>, thread: &Arc<Thread>, whole: bool| {
        may_slacken(process)?;
        of_host(process, thread, whole, "timerslack_ns")
    };
    items.push(room.thread_file("timerslack_ns", read_slack).writable(slack(process)).mode(0o666));
    owned(items, room.owner)
}

fn thread_directory(process: &Arc<Process>, thread: &Arc<Thread>) -> Named {
    let (owned_by, process, shown) = (user(process), process.clone(), thread.clone());
    let list = move || {
        let room = Room { process: process.clone(), thread: Some(shown.clone()), guard: guard(&process), owner: owner(&process) };
        let mut items = common(&room);
        items.push(room.thread_file("children", children));
        owned(items, room.owner)
    };
    directory(&thread.inner.to_string(), list).owner(owned_by)
}

fn owned(mut items: Vec<Named>, owner: (u32, u32)) -> Vec<Named> {
    for item in &mut items {
        item.owner = owner;
    }
    items
}

/// What a process's and a thread's directory have in common.
fn common(room: &Room) -> Vec<Named> {
    let process = &room.process;
    vec![
        room.thread_file("status", |process, thread, _| status::status(process, thread)),
        room.thread_file("stat", status::stat),
        room.file("statm", status::pages),
        room.host("schedstat"),
        room.thread_file("personality", |process, thread, whole| {
            asked(process).map_err(|_| Errno::EPERM)?;
            of_host(process, thread, whole, "personality")
        })
        .mode(0o400),
        // Which function of the host's kernel a thread sleeps in says nothing about this one: as without CONFIG_KALLSYMS.
        constant("wchan", "0"),
        room.file("cmdline", status::arguments),
        room.file("environ", memory::environment).mode(0o400).guarded(&room.guard),
        room.file("auxv", memory::auxiliary_vector).mode(0o400).guarded(&room.guard),
        room.file("maps", |process| memory::of_host(process, "maps")).guarded(&room.guard),
        room.file("smaps", |process| memory::of_host(process, "smaps")).guarded(&room.guard),
        room.file("smaps_rollup", |process| memory::of_host(process, "smaps_rollup")).guarded(&room.guard),
        room.file("numa_maps", |process| memory::of_host(process, "numa_maps")).guarded(&room.guard),
        room.file("mounts", mounts::table),
        room.file("mountinfo", mounts::info),
        room.file("limits", limits),
        comm(room),
        room.host("oom_score"),
        adjustment(process, "oom_score_adj", |adjustment| adjustment.value, Ok),
        adjustment(process, "oom_adj", Adjustment::old_value, Adjustment::from_old),
        login(process),
        room.file("sessionid", |process| Ok(process.login.lock().session.to_string().into_bytes())),
        constant("cgroup", "0::/\n"),
        constant("cpuset", "/\n"),
        constant("uid_map", EVERY_ID).writable(|_| Err(Errno::EPERM)),
        constant("gid_map", EVERY_ID).writable(|_| Err(Errno::EPERM)),
        constant("setgroups", "allow\n").mode(0o644).sealed(),
        room.file("io", input_output).mode(0o400),
        room.place("exe", |process, _| {
            let executable = process.executable.read().clone().ok_or(Errno::ENOENT)?;
            match executable.location.node.as_any().downcast_ref::<ObjectNode>() {
                Some(object) => Ok(LinkTarget::Object(object.0.clone())),
                None => Ok(LinkTarget::Place(executable.location.clone())),
            }
        }),
        room.place("cwd", |_, thread| Ok(LinkTarget::Place(thread.context.read().get().cwd))),
        room.place("root", |_, thread| Ok(LinkTarget::Place(thread.context.read().get().root))),
        open_files(room),
        open_file_infos(room),
        directory("net", crate::fs::proc_net::list),
        namespace_directory(process, &room.guard, room.owner),
    ]
}

fn open_files(room: &Room) -> Named {
    let (process, guard, owner) = (room.process.clone(), room.guard.clone(), room.owner);
    let (searched, searched_guard) = (process.clone(), guard.clone());
    let count = descriptors::count(&process);
    let own = access::own(&process);
    let listed = directory("fd", move || descriptors::list(&process, &guard, owner));
    listed.finding(move |name| descriptors::find(&searched, name, &searched_guard, owner)).mode(0o500).size(count).open_to(&own)
}

fn open_file_infos(room: &Room) -> Named {
    let (process, owner) = (room.process.clone(), room.owner);
    let searched = process.clone();
    let listed = directory("fdinfo", move || descriptors::infos(&process, owner));
    listed.finding(move |name| descriptors::find_info(&searched, name, owner)).guarded(&room.guard)
}

fn namespace_directory(process: &Arc<Process>, guard: &Guard, owner: (u32, u32)) -> Named {
    let (process, inner) = (process.clone(), guard.clone());
    directory("ns", move || namespaces::list(&process, &inner, owner)).mode(0o511)
}

/// `comm`: a thread's name, which its own process may change.
fn comm(room: &Room) -> Named {
    let (process, thread) = (room.process.clone(), room.thread().ok());
    room.thread_file("comm", |_, thread, _| Ok([&status::name_of(thread)[..], b"\n"].concat())).writable(move |bytes| {
        if caller()?.pid != process.pid {
            return Err(Errno::EINVAL);
        }
        let thread = thread.clone().ok_or(Errno::ESRCH)?;
        let mut name = [0u8; 16];
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()).min(15);
        name[..end].copy_from_slice(&bytes[..end]);
        *thread.name.lock() = name;
        Ok(())
    })
}

/// `oom_score_adj`, and `oom_adj` in its old scale: as the workload has set it ([`crate::kernel::oom`]).
fn adjustment(process: &Arc<Process>, name: &'static str, show: fn(Adjustment) -> i32, read: fn(i32) -> Result<i32>) -> Named {
    let (shown, process) = (process.clone(), process.clone());
    file(name, move || Ok(format!("{}\n", show(*shown.oom.lock())).into_bytes())).writable(move |bytes| {
        let value = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)?;
        let capable = task::current().is_some_and(|thread| thread.credentials.read().capable(Capability::SysResource));
        let mut adjustment = process.oom.lock();
        adjustment.set(read(value)?, capable)?;
        adjustment.apply(process.pid);
        Ok(())
    })
}

/// `loginuid`: whom a session is accounted to. Set once by what logs people in, inherited by what they run (pam_loginuid(8)).
fn login(process: &Arc<Process>) -> Named {
    let (read, process) = (process.clone(), process.clone());
    file("loginuid", move || Ok(read.login.lock().uid.to_string().into_bytes())).writable(move |bytes| {
        let uid = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok()).ok_or(Errno::EINVAL)?;
        if caller()?.pid != process.pid {
            return Err(Errno::EPERM);
        }
        let allowed = task::current().is_some_and(|thread| thread.credentials.read().capable(Capability::AuditControl));
        process.login.lock().set(uid, allowed)
    })
}

/// Whether the caller, reading what is open already, may look into the process.
fn asked(process: &Process) -> Result<()> {
    let who = task::current().ok_or(Errno::ESRCH)?.credentials.read().clone();
    access::may_read(process, &who)
}

/// `timerslack_ns`: one's own always, another's with `CAP_SYS_NICE` (proc_pid_timerslack_ns(5)).
fn may_slacken(process: &Process) -> Result<()> {
    let nice = task::current().is_some_and(|thread| thread.credentials.read().capable(Capability::SysNice));
    if nice || caller()?.pid == process.pid { Ok(()) } else { Err(Errno::EPERM) }
}

fn slack(process: &Arc<Process>) -> impl Fn(&[u8]) -> Result<()> + Send + Sync + 'static {
    let process = process.clone();
    move |bytes| {
        may_slacken(&process)?;
        Ok(std::fs::write(format!("/proc/{}/timerslack_ns", process.pid.0), bytes)?)
    }
}

fn children(process: &Arc<Process>, thread: &Arc<Thread>, _: bool) -> Result<Vec<u8>> {
    let found = crate::platform::process::children(process.pid, thread.tid)?;
    let known = kernel().processes.read();
    let numbers = found.iter().filter_map(|pid| known.get(pid)).map(|child| format!("{} ", child.inner));
    Ok(numbers.collect::<String>().into_bytes())
}

/// `io`: what was read and written by calls is counted here; what reached a disk for it, by the host.
fn input_output(process: &Arc<Process>) -> Result<Vec<u8>> {
    asked(process)?;
    let text = std::fs::read_to_string(format!("/proc/{}/io", process.pid.0)).map_err(|_| Errno::ESRCH)?;
    // The lines after the first four: read_bytes, write_bytes, cancelled_write_bytes.
    let storage = text.lines().skip(4).map(|line| format!("{line}\n")).collect::<String>();
    let [read, written, reads, writes] = process.transfers.get();
    Ok(format!("rchar: {read}\nwchar: {written}\nsyscr: {reads}\nsyscw: {writes}\n{storage}").into_bytes())
}

/// What `limits` calls each limit, and its unit; in the order of their numbers.
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

fn limits(process: &Arc<Process>) -> Result<Vec<u8>> {
    let limits = process.limits.read().clone();
    Ok(limits_text(&limits).into_bytes())
}

fn limits_text(limits: &Limits) -> String {
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let shown = |value: u64| if value == u64::MAX { String::from("unlimited") } else { value.to_string() };
    for ((name, unit), limit) in LIMITS.iter().zip(&limits.0) {
        text.push_str(&format!("{name:<25} {:<20} {:<20} ", shown(limit.soft), shown(limit.hard)));
        text.push_str(&if unit.is_empty() { String::from("\n") } else { format!("{unit:<10}\n") });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_columns() {
        let text = limits_text(&Limits::default());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 17);
        assert_eq!(lines[8], "Max open files            1024                 1048576              files     ");
        assert_eq!(lines[14], "Max nice priority         0                    0                    ");
    }
}
