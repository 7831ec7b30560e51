//! The names of Unix sockets: paths and abstract names, and /proc/net/unix.
//!
//! A path is a socket file that the walk finds; which endpoint it stands for is found by the file's number. Abstract
//! names belong to the network namespace, and there is one per pod; each kind of socket has names of its own.
//!
//! A socket file that a bind mount shows, and that a process of the *host* is bound to, is a file to which nobody is bound here: `ECONNREFUSED`.
//! A socket file made here in a host directory is to the host one whose owner is gone: nothing on the host is bound to it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use super::super::address::{Passed, UnixName};
use super::super::socket::{Caller, Kind};
use super::endpoint::{Endpoint, Link};
use crate::errno::{Errno, Result};
use crate::sync::Mutex;
use crate::vfs::mount::MountFlags;
use crate::vfs::node::{FileType, NodeKey, NodeRef, Permission};
use crate::vfs::walk::{self, Walk, WalkFlags};

#[derive(Default)]
struct Names {
    files: HashMap<NodeKey, Weak<Endpoint>>,
    abstracts: HashMap<(Arc<[u8]>, i32), Weak<Endpoint>>,
    all: BTreeMap<u64, Weak<Endpoint>>,
}

static NAMES: std::sync::LazyLock<Mutex<Names>> = std::sync::LazyLock::new(Mutex::default);

/// Lists an endpoint in /proc/net/unix.
pub fn remember(endpoint: &Arc<Endpoint>) {
    NAMES.lock().all.insert(endpoint.number, Arc::downgrade(endpoint));
}

/// Strikes a closed endpoint out.
pub fn forget(endpoint: &Arc<Endpoint>, name: Option<&UnixName>, node: Option<&NodeRef>) {
    let mut names = NAMES.lock();
    names.all.remove(&endpoint.number);
    let own = |other: &Weak<Endpoint>| other.as_ptr() == Arc::as_ptr(endpoint);
    if let Some(UnixName::Abstract(name)) = name {
        let key = (name.clone(), endpoint.kind.number());
        if names.abstracts.get(&key).is_some_and(own) {
            names.abstracts.remove(&key);
        }
    }
    if let Some(key) = node.map(|node| node.key())
        && names.files.get(&key).is_some_and(own)
    {
        names.files.remove(&key);
    }
}

fn walk_of<'a>(caller: &'a Caller) -> Result<Walk<'a>> {
    let place = caller.place.as_ref().ok_or(Errno::ENOENT)?;
    Ok(Walk { root: &place.root, start: &place.cwd, who: &caller.credentials, flags: WalkFlags::empty() })
}

/// bind(2).
pub fn bind(endpoint: &Arc<Endpoint>, caller: &Caller, address: &Passed, mode: u32) -> Result<()> {
    match address.unix()? {
        None => autobind(endpoint),
        Some(UnixName::Abstract(name)) => bind_abstract(endpoint, &name),
        Some(UnixName::Path(path)) => bind_path(endpoint, caller, &path, mode),
    }
}

fn bind_abstract(endpoint: &Arc<Endpoint>, name: &Arc<[u8]>) -> Result<()> {
    // Both looks under one lock, so that of two binds at once one is refused.
    let mut names = NAMES.lock();
    let mut state = endpoint.state.lock();
    if state.name.is_some() {
        return Err(Errno::EINVAL);
    }
    let key = (name.clone(), endpoint.kind.number());
    if names.abstracts.get(&key).is_some_and(|other| other.strong_count() > 0) {
        return Err(Errno::EADDRINUSE);
    }
    names.abstracts.insert(key, Arc::downgrade(endpoint));
    state.name = Some(UnixName::Abstract(name.clone()));
    Ok(())
}

/// Gives it an abstract name of five hexadecimal digits (unix(7), "Autobind feature"). Nothing for one that has a name.
pub fn autobind(endpoint: &Arc<Endpoint>) -> Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if endpoint.state.lock().name.is_some() {
        return Ok(());
    }
    for _ in 0..1 << 20 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) & 0xf_ffff;
        match bind_abstract(endpoint, &Arc::from(format!("{number:05x}").into_bytes())) {
            Err(Errno::EADDRINUSE) => {}
            // Somebody else has just bound it.
            Err(Errno::EINVAL) => return Ok(()),
            result => return result,
        }
    }
    Err(Errno::ENOSPC)
}

fn bind_path(endpoint: &Arc<Endpoint>, caller: &Caller, path: &Arc<[u8]>, mode: u32) -> Result<()> {
    let umask = caller.place.as_ref().map_or(0, |place| place.umask);
    let last = walk::resolve_parent(&walk_of(caller)?, path)?;
    if matches!(last.name.as_slice(), b"" | b"." | b"..") {
        return Err(Errno::EADDRINUSE);
    }
    let directory = last.directory.node.clone();
    match directory.clone().lookup(&last.name, &caller.credentials) {
        Ok(_) => return Err(Errno::EADDRINUSE),
        Err(Errno::ENOENT) if last.slash => return Err(Errno::ENOENT),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    if last.directory.mount.has(MountFlags::READ_ONLY) {
        return Err(Errno::EROFS);
    }
    let made = directory.clone().make_node(&last.name, libc::S_IFSOCK | (mode & !umask), 0, &caller.credentials);
    let node = made.map_err(|error| if error == Errno::EEXIST { Errno::EADDRINUSE } else { error })?;
    let mut names = NAMES.lock();
    let mut state = endpoint.state.lock();
    if state.name.is_some() {
        drop(state);
        drop(names);
        // Linux finds that out as late: the file is made, and taken away again.
        let _ = directory.unlink(&last.name, false, &caller.credentials);
        return Err(Errno::EINVAL);
    }
    names.files.insert(node.key(), Arc::downgrade(endpoint));
    state.name = Some(UnixName::Path(path.clone()));
    state.node = Some(node);
    Ok(())
}

/// The endpoint that a name stands for, of this kind. `ECONNREFUSED` where nobody is bound to it; of a path, `EPROTOTYPE` where it is of another
/// kind, `EACCES` without write permission on the socket file.
pub fn find(caller: &Caller, name: &UnixName, kind: Kind) -> Result<Arc<Endpoint>> {
    match name {
        UnixName::Abstract(name) => {
            let found = NAMES.lock().abstracts.get(&(name.clone(), kind.number())).and_then(Weak::upgrade);
            found.ok_or(Errno::ECONNREFUSED)
        }
        UnixName::Path(path) => {
            let location = walk::resolve(&walk_of(caller)?, path)?;
            location.node.access(Permission::WRITE, &caller.credentials)?;
            if location.node.file_type() != FileType::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            let found = NAMES.lock().files.get(&location.node.key()).and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED)?;
            if found.kind == kind { Ok(found) } else { Err(Errno::EPROTOTYPE) }
        }
    }
}

/// /proc/net/unix.
pub fn proc_text() -> String {
    let all: Vec<Arc<Endpoint>> = NAMES.lock().all.values().filter_map(Weak::upgrade).collect();
    let mut text = String::from("Num       RefCount Protocol Flags    Type St Inode Path\n");
    for endpoint in all {
        let state = endpoint.state.lock();
        // SS_UNCONNECTED and SS_CONNECTED (include/uapi/linux/net.h); __SO_ACCEPTCON in the flags of a listener.
        let (phase, flags) = match &state.link {
            Link::None => (1, 0),
            Link::Listening(_) => (1, 0x1_0000),
            Link::Peer(_) => (3, 0),
        };
        let name = match &state.name {
            None => String::new(),
            Some(UnixName::Path(path)) => format!(" {}", String::from_utf8_lossy(path)),
            Some(UnixName::Abstract(name)) => format!(" @{}", String::from_utf8_lossy(name).replace('\0', "@")),
        };
        let kind = endpoint.kind.number();
        let _ = writeln!(text, "0000000000000000: 00000002 00000000 {flags:08X} {kind:04X} {phase:02X} {:5}{name}", endpoint.number);
    }
    text
}
