//! Processes that are dead and not waited for: nothing but an entry in the host's table, which `ps` shows as defunct.
//!
//! This kernel forgets a process when it dies; who it was is kept here until the host has forgotten it, too.

use std::sync::{Arc, Weak};

use super::status::{self, Shown};
use crate::errno::{Errno, Result};
use crate::fs::synthetic::{Item, Named, constant, directory, file};
use crate::kernel::container::Container;
use crate::kernel::credentials::Credentials;
use crate::kernel::limits::Limits;
use crate::kernel::task::{Pid, Process};
use crate::platform::process::Status;
use crate::sync::Mutex;

/// What is left of a process.
#[derive(Clone)]
struct Remains {
    pid: Pid,
    inner: i32,
    container: Weak<Container>,
    credentials: Arc<Credentials>,
    name: [u8; 16],
    limits: Limits,
}

static REMAINS: Mutex<Vec<Remains>> = Mutex::new(Vec::new());
/// From how many on those that have been waited for are looked for.
const KEPT: usize = 64;

/// A process has died, and another process than this kernel is its parent.
pub fn keep(process: &Process) {
    let Ok(thread) = super::first_thread(process) else { return };
    let remains = Remains {
        pid: process.pid,
        inner: process.inner,
        container: Arc::downgrade(&process.container),
        credentials: thread.credentials.read().clone(),
        name: *thread.name.lock(),
        limits: process.limits.read().clone(),
    };
    let mut all = REMAINS.lock();
    if all.len() >= KEPT {
        all.retain(|old| is_zombie(old.pid));
    }
    all.retain(|old| old.pid != remains.pid);
    all.push(remains);
}

fn is_zombie(pid: Pid) -> bool {
    Status::read(pid).is_ok_and(|status| status.is_dead() && status.tgid == pid.0)
}

/// The directories of a container's zombies.
pub fn list(container: &Arc<Container>) -> Vec<Named> {
    let mut all = REMAINS.lock();
    all.retain(|old| is_zombie(old.pid));
    let here = all.iter().filter(|old| is_of(old, container)).cloned().collect::<Vec<_>>();
    drop(all);
    here.into_iter().map(directory_of).collect()
}

/// One of them.
pub fn find(container: &Arc<Container>, inner: i32) -> Option<Named> {
    let found = REMAINS.lock().iter().find(|old| old.inner == inner && is_of(old, container) && is_zombie(old.pid)).cloned();
    found.map(directory_of)
}

/// The text of a file of a process that died meanwhile. `None` where it has been waited for, or has no such file.
pub fn text(process: &Process, name: &str) -> Option<Result<Vec<u8>>> {
    if process.exit.get().is_none() && first_is_there(process) {
        return None;
    }
    let remains = REMAINS.lock().iter().find(|old| old.pid == process.pid && is_zombie(old.pid)).cloned()?;
    items(&remains).into_iter().find(|item| item.name == name).and_then(|item| match item.item {
        Item::File(read, _) => Some(read()),
        _ => None,
    })
}

fn first_is_there(process: &Process) -> bool {
    super::first_thread(process).is_ok()
}

fn is_of(remains: &Remains, container: &Arc<Container>) -> bool {
    std::ptr::eq(remains.container.as_ptr(), Arc::as_ptr(container))
}

/// What can still be told: no memory, no files, no place.
fn directory_of(remains: Remains) -> Named {
    let owner = (remains.credentials.euid, remains.credentials.egid);
    directory(&remains.inner.to_string(), move || items(&remains)).owner(owner)
}

fn items(remains: &Remains) -> Vec<Named> {
    let (status_of, stat_of) = (remains.clone(), remains.clone());
    let comm = [&status::trimmed(&remains.name)[..], b"\n"].concat();
    vec![
        file("status", move || status_text(&status_of)),
        file("stat", move || stat_text(&stat_of)),
        file("comm", move || Ok(comm.clone())),
        constant("statm", "0 0 0 0 0 0 0\n"),
        constant("cmdline", ""),
        constant("cgroup", "0::/\n"),
        constant("wchan", "0"),
    ]
}

fn host(remains: &Remains, name: &str) -> Result<(String, Arc<Container>)> {
    let text = std::fs::read_to_string(format!("/proc/{}/{name}", remains.pid.0)).map_err(|_| Errno::ESRCH)?;
    Ok((text, remains.container.upgrade().ok_or(Errno::ESRCH)?))
}

fn status_text(remains: &Remains) -> Result<Vec<u8>> {
    let (text, container) = host(remains, "status")?;
    let shown = Shown {
        name: status::trimmed(&remains.name),
        umask: 0,
        tgid: remains.inner,
        pid: remains.inner,
        descriptors: 0,
        limits: remains.limits.clone(),
    };
    Ok(status::rewritten(&text, &container, &remains.credentials, &shown, false))
}

fn stat_text(remains: &Remains) -> Result<Vec<u8>> {
    let (text, container) = host(remains, "stat")?;
    let fields = status::translated(&text, &container, false);
    let name = status::trimmed(&remains.name);
    Ok([format!("{} (", remains.inner).as_bytes(), &name, format!(") {}\n", fields.join(" ")).as_bytes()].concat())
}
