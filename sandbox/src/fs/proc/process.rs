//! /proc/PID.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::errno::{Errno, Result};
use crate::fs::synthetic::{Named, constant, directory, file, link};
use crate::kernel::fork;
use crate::kernel::task::{Pid, Process, Thread};
use crate::platform::memory::{Address, Memory};
use crate::vfs::mount::{Location, Mount, MountFlags};
use crate::vfs::node::LinkTarget;

/// The owner of a process's files: its user, or root where it must not be looked into.
fn owner(process: &Process) -> (u32, u32) {
    let first = process.threads.lock().first().cloned();
    match first {
        Some(thread) if process.dumpable.load(Ordering::Relaxed) == 1 => {
            let who = thread.credentials.read();
            (who.euid, who.egid)
        }
        _ => (0, 0),
    }
}

/// The directory of one process.
pub fn directory_of(process: &Arc<Process>) -> Named {
    let owned = process.clone();
    directory(&process.inner.to_string(), move || list(&owned)).owner(owner(process))
}

fn first_thread(process: &Process) -> Result<Arc<Thread>> {
    process.threads.lock().first().cloned().ok_or(Errno::ESRCH)
}

/// A file of one process, made by a function of it.
fn of(process: &Arc<Process>, name: &str, read: fn(&Arc<Process>) -> Result<Vec<u8>>) -> Named {
    let process = process.clone();
    file(name, move || read(&process))
}

fn list(process: &Arc<Process>) -> Vec<Named> {
    let owner = owner(process);
    let mut items = task_items(process, process.pid);
    let (tasks, fds, infos, nets) = (process.clone(), process.clone(), process.clone(), process.clone());
    items.push(directory("task", move || {
        let threads = tasks.threads.lock().clone();
        threads
            .iter()
            .map(|thread| {
                let (process, tid) = (tasks.clone(), thread.tid);
                directory(&thread.inner.to_string(), move || task_items(&process, tid))
            })
            .collect()
    }));
    items.push(directory("fd", move || descriptors(&fds)).mode(0o500));
    items.push(directory("fdinfo", move || descriptor_infos(&infos)).mode(0o500));
    items.push(directory("net", move || {
        let _ = &nets;
        crate::fs::proc_net::list()
    }));
    items.push(of(process, "mountstats", mounts));
    items.push(constant("coredump_filter", "00000033\n"));
    for item in &mut items {
        item.owner = owner;
    }
    items
}

/// What a process's and a thread's directory have in common.
fn task_items(process: &Arc<Process>, tid: Pid) -> Vec<Named> {
    let place = |name: &str, find: fn(&Process) -> Result<LinkTarget>| {
        let process = process.clone();
        link(name, move || find(&process))
    };
    let host = |name: &'static str| {
        let process = process.clone();
        file(name, move || std::fs::read(format!("/proc/{}/task/{}/{name}", process.pid.0, tid.0)).map_err(|_| Errno::ESRCH))
    };
    let (status_of, stat_of, named) = (process.clone(), process.clone(), process.clone());
    vec![
        file("status", move || status(&status_of, tid)),
        file("stat", move || stat(&stat_of, tid)),
        host("statm"),
        host("schedstat"),
        host("wchan"),
        host("personality"),
        of(process, "cmdline", |process| region(process, 48)),
        of(process, "environ", |process| region(process, 50)).mode(0o400),
        of(process, "maps", maps),
        of(process, "smaps", maps),
        of(process, "mounts", mounts),
        of(process, "mountinfo", mount_info),
        of(process, "limits", limits),
        of(process, "auxv", |process| std::fs::read(format!("/proc/{}/auxv", process.pid.0)).map_err(|_| Errno::ESRCH)).mode(0o400),
        of(process, "comm", |process| {
            let name = *first_thread(process)?.name.lock();
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            Ok([&name[..end], b"\n"].concat())
        })
        .writable(move |bytes| {
            let mut name = [0u8; 16];
            let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            let length = text.len().min(15);
            name[..length].copy_from_slice(&text[..length]);
            *first_thread(&named)?.name.lock() = name;
            Ok(())
        }),
        constant("oom_score", "0\n"),
        constant("oom_score_adj", "0\n").writable(|_| Ok(())),
        constant("oom_adj", "0\n").writable(|_| Ok(())),
        constant("loginuid", "4294967295\n"),
        constant("sessionid", "4294967295\n"),
        constant("cgroup", "0::/\n"),
        constant("uid_map", "         0          0 4294967295\n"),
        constant("gid_map", "         0          0 4294967295\n"),
        constant("setgroups", "allow\n"),
        constant("io", "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n").mode(0o400),
        place("exe", |process| {
            let executable = process.executable.read().clone().ok_or(Errno::ENOENT)?;
            Ok(LinkTarget::Place(executable.location.clone()))
        }),
        place("cwd", |process| Ok(LinkTarget::Place(first_thread(process)?.context.read().get().cwd))),
        place("root", |process| Ok(LinkTarget::Place(first_thread(process)?.context.read().get().root))),
        directory("ns", || {
            const NAMESPACES: [(&str, u32); 8] = [
                ("cgroup", 4_026_531_835),
                ("ipc", 4_026_531_839),
                ("mnt", 4_026_531_841),
                ("net", 4_026_531_840),
                ("pid", 4_026_531_836),
                ("time", 4_026_531_834),
                ("user", 4_026_531_837),
                ("uts", 4_026_531_838),
            ];
            NAMESPACES
                .iter()
                .map(|(name, number)| link(name, move || Ok(LinkTarget::Path(format!("{name}:[{number}]").into_bytes()))))
                .collect()
        })
        .mode(0o511),
    ]
}

fn descriptors(process: &Arc<Process>) -> Vec<Named> {
    let Ok(thread) = first_thread(process) else { return Vec::new() };
    let table = thread.descriptors.read().clone();
    let owner = owner(process);
    let mut items = Vec::new();
    for number in table.numbers() {
        let table = table.clone();
        let mode = table.get(number).map_or(0, |open| 0o100 | if open.reads() { 0o400 } else { 0 } | if open.writes() { 0o200 } else { 0 });
        let target = link(&number.0.to_string(), move || {
            let open = table.get(number).map_err(|_| Errno::ENOENT)?;
            match &open.location {
                Some(location) => Ok(LinkTarget::Place(location.clone())),
                None => Ok(LinkTarget::Object(open)),
            }
        });
        items.push(target.mode(mode).owner(owner));
    }
    items
}

fn descriptor_infos(process: &Arc<Process>) -> Vec<Named> {
    let Ok(thread) = first_thread(process) else { return Vec::new() };
    let table = thread.descriptors.read().clone();
    let numbers = table.numbers();
    let info = |number: crate::vfs::descriptor::Descriptor| {
        let table = table.clone();
        file(&number.0.to_string(), move || {
            let open = table.get(number).map_err(|_| Errno::ENOENT)?;
            let close = if table.close_on_exec(number).unwrap_or(false) { libc::O_CLOEXEC } else { 0 };
            let position = *open.offset.lock();
            Ok(format!("pos:\t{position}\nflags:\t0{:o}\nmnt_id:\t0\nino:\t0\n", open.flags() | close).into_bytes())
        })
    };
    numbers.into_iter().map(info).collect()
}

/// A string area of the process, between two addresses that /proc/PID/stat names (fields counted from 1).
fn region(process: &Arc<Process>, field: usize) -> Result<Vec<u8>> {
    const MOST: u64 = 2 << 20;
    let text = std::fs::read_to_string(format!("/proc/{}/stat", process.pid.0)).map_err(|_| Errno::ESRCH)?;
    let after = text.rfind(')').map_or("", |end| &text[end + 1..]);
    let fields: Vec<u64> = after.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let (start, end) = (fields.get(field - 3).copied().unwrap_or(0), fields.get(field - 2).copied().unwrap_or(0));
    let mut bytes = vec![0u8; end.saturating_sub(start).min(MOST) as usize];
    Memory::of(process.pid).read(Address(start), &mut bytes)?;
    Ok(bytes)
}

/// The host's stat line with the container's numbers.
fn stat(process: &Arc<Process>, tid: Pid) -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(format!("/proc/{}/task/{}/stat", process.pid.0, tid.0)).map_err(|_| Errno::ESRCH)?;
    let after = text.rfind(')').map_or("", |end| text[end + 1..].trim());
    let mut fields: Vec<String> = after.split_whitespace().map(str::to_owned).collect();
    let thread = thread_of(process, tid)?;
    let name = *thread.name.lock();
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    // State, parent, group, session, terminal, foreground group.
    for index in [1usize, 2, 3, 5] {
        if let Some(field) = fields.get_mut(index) {
            let outer: i32 = field.parse().unwrap_or(0);
            *field = if outer <= 0 { outer.to_string() } else { fork::inner_number(&process.container, Pid(outer)).to_string() };
        }
    }
    if let (Some(terminal), true) = (crate::fs::tty::controlling(process), fields.len() > 5) {
        fields[4] = libc::makedev(136 + terminal.number / 256, terminal.number % 256).to_string();
        fields[5] = fork::inner_number(&process.container, terminal.foreground()).to_string();
    }
    Ok(format!("{} ({}) {}\n", thread.inner, String::from_utf8_lossy(&name[..end]), fields.join(" ")).into_bytes())
}

fn thread_of(process: &Process, tid: Pid) -> Result<Arc<Thread>> {
    process.threads.lock().iter().find(|thread| thread.tid == tid).cloned().ok_or(Errno::ESRCH)
}

/// The host's status with the container's numbers and the emulated identity.
fn status(process: &Arc<Process>, tid: Pid) -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(format!("/proc/{}/task/{}/status", process.pid.0, tid.0)).map_err(|_| Errno::ESRCH)?;
    let thread = thread_of(process, tid)?;
    let who = thread.credentials.read().clone();
    let name = *thread.name.lock();
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    let inner = |value: &str| fork::inner_number(&process.container, Pid(value.trim().parse().unwrap_or(0)));
    let mut shown = String::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let new = match key {
            "Name" => String::from_utf8_lossy(&name[..end]).into_owned(),
            "Umask" => format!("{:04o}", thread.context.read().get().umask),
            "Tgid" => process.inner.to_string(),
            "Pid" => thread.inner.to_string(),
            "PPid" => inner(value).to_string(),
            "TracerPid" | "Ngid" => String::from("0"),
            "Uid" => format!("{}\t{}\t{}\t{}", who.uid, who.euid, who.suid, who.fsuid),
            "Gid" => format!("{}\t{}\t{}\t{}", who.gid, who.egid, who.sgid, who.fsgid),
            "FDSize" => thread.descriptors.read().numbers().len().next_power_of_two().max(64).to_string(),
            "Groups" => who.groups.iter().map(|group| format!("{group} ")).collect(),
            "NStgid" | "NSpid" => thread.inner.to_string(),
            "NSpgid" | "NSsid" => value.split_whitespace().next_back().unwrap_or("0").to_owned(),
            "CapInh" => format!("{:016x}", who.inheritable.0),
            "CapPrm" => format!("{:016x}", who.permitted.0),
            "CapEff" => format!("{:016x}", who.effective.0),
            "CapBnd" => format!("{:016x}", who.bounding.0),
            "CapAmb" => format!("{:016x}", who.ambient.0),
            "NoNewPrivs" => u8::from(who.no_new_privs).to_string(),
            "Seccomp" => String::from("2"),
            _ => {
                shown.push_str(line);
                shown.push('\n');
                continue;
            }
        };
        shown.push_str(&format!("{key}:\t{new}\n"));
    }
    Ok(shown.into_bytes())
}

/// The host's memory map; what it names are paths of this process's own tree, which are cut back to the container's.
fn maps(process: &Arc<Process>) -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(format!("/proc/{}/maps", process.pid.0)).map_err(|_| Errno::ESRCH)?;
    let mut shown = String::new();
    for line in text.lines() {
        let Some(at) = line.find('/') else {
            shown.push_str(line);
            shown.push('\n');
            continue;
        };
        let (head, path) = line.split_at(at);
        shown.push_str(head);
        shown.push_str(&container_path(path));
        shown.push('\n');
    }
    Ok(shown.into_bytes())
}

/// `/containers/ID/root/usr/bin/x` and `/exec/ID/usr/bin/x` are `/usr/bin/x` to the container.
fn container_path(path: &str) -> String {
    let mut rest = path;
    for (prefix, names) in [("/containers/", 2), ("/exec/", 1)] {
        if let Some(inside) = path.strip_prefix(prefix) {
            rest = inside;
            for _ in 0..names {
                rest = rest.find('/').map_or("", |at| &rest[at + 1..]);
            }
            return format!("/{rest}");
        }
    }
    rest.to_owned()
}

/// Every mount that a process sees, with the path it has for it.
fn visible_mounts(process: &Arc<Process>) -> Result<Vec<(Arc<Mount>, String)>> {
    let root: Location = first_thread(process)?.context.read().get().root;
    let mut found = Vec::new();
    collect(&process.container.mounts.root, &root, &mut found);
    Ok(found)
}

fn collect(mount: &Arc<Mount>, root: &Location, found: &mut Vec<(Arc<Mount>, String)>) {
    if let Some(path) = mount.root_location().shown_path(root) {
        found.push((mount.clone(), String::from_utf8_lossy(&path).into_owned()));
    }
    let children = mount.children.read().clone();
    for child in &children {
        collect(child, root, found);
    }
}

/// Flags as mount lines show them.
fn options(flags: MountFlags) -> String {
    const NAMES: [(MountFlags, &str); 6] = [
        (MountFlags::NO_SUID, "nosuid"),
        (MountFlags::NO_DEVICES, "nodev"),
        (MountFlags::NO_EXECUTE, "noexec"),
        (MountFlags::NO_ACCESS_TIME, "noatime"),
        (MountFlags::NO_DIRECTORY_ACCESS_TIME, "nodiratime"),
        (MountFlags::RELATIVE_ACCESS_TIME, "relatime"),
    ];
    let mut shown = vec![if flags.contains(MountFlags::READ_ONLY) { "ro" } else { "rw" }];
    shown.extend(NAMES.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name));
    shown.join(",")
}

fn mounts(process: &Arc<Process>) -> Result<Vec<u8>> {
    let mut text = String::new();
    for (mount, path) in visible_mounts(process)? {
        let mut shown = options(*mount.flags.read());
        if !mount.options.is_empty() {
            shown = format!("{shown},{}", mount.options);
        }
        text.push_str(&format!("{} {path} {} {shown} 0 0\n", mount.source, mount.kind));
    }
    Ok(text.into_bytes())
}

fn mount_info(process: &Arc<Process>) -> Result<Vec<u8>> {
    let mut text = String::new();
    for (mount, path) in visible_mounts(process)? {
        let parent = mount.place.read().as_ref().map_or(1, |(parent, _)| parent.id);
        let device = mount.root.key().device;
        let flags = options(*mount.flags.read());
        let own = if mount.options.is_empty() { "rw" } else { &mount.options };
        let (major, minor) = (libc::major(device), libc::minor(device));
        text.push_str(&format!("{} {parent} {major}:{minor} / {path} {flags} - {} {} {own}\n", mount.id, mount.kind, mount.source));
    }
    Ok(text.into_bytes())
}

fn limits(process: &Arc<Process>) -> Result<Vec<u8>> {
    const NAMES: [(&str, &str, u32); 16] = [
        ("Max cpu time", "seconds", libc::RLIMIT_CPU),
        ("Max file size", "bytes", libc::RLIMIT_FSIZE),
        ("Max data size", "bytes", libc::RLIMIT_DATA),
        ("Max stack size", "bytes", libc::RLIMIT_STACK),
        ("Max core file size", "bytes", libc::RLIMIT_CORE),
        ("Max resident set", "bytes", libc::RLIMIT_RSS),
        ("Max processes", "processes", libc::RLIMIT_NPROC),
        ("Max open files", "files", libc::RLIMIT_NOFILE),
        ("Max locked memory", "bytes", libc::RLIMIT_MEMLOCK),
        ("Max address space", "bytes", libc::RLIMIT_AS),
        ("Max file locks", "locks", libc::RLIMIT_LOCKS),
        ("Max pending signals", "signals", libc::RLIMIT_SIGPENDING),
        ("Max msgqueue size", "bytes", libc::RLIMIT_MSGQUEUE),
        ("Max nice priority", "", libc::RLIMIT_NICE),
        ("Max realtime priority", "", libc::RLIMIT_RTPRIO),
        ("Max realtime timeout", "us", libc::RLIMIT_RTTIME),
    ];
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let limits = process.limits.read().clone();
    let shown = |value: u64| if value == u64::MAX { String::from("unlimited") } else { value.to_string() };
    for (name, unit, number) in NAMES {
        if let Some(limit) = limits.get(number) {
            text.push_str(&format!("{name:<25} {:<20} {:<20} {unit:<10}\n", shown(limit.soft), shown(limit.hard)));
        }
    }
    Ok(text.into_bytes())
}
