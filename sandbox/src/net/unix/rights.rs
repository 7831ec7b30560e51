//! Descriptors under way (`SCM_RIGHTS`).
//!
//! A packet that carries open files keeps them open. Sockets that are sent through each other, and whose descriptors are then
//! all closed, keep each other for ever: nobody can receive them. [`collect`] finds those, as unix_gc() does in
//! Linux's net/unix/garbage.c: a socket under way whose every reference lies in the queues of sockets that are
//! unreachable too is garbage, and its queue is emptied, which lets the rest fall.
//!
//! It runs one second after a Unix socket's descriptor is closed while sockets are under way ([`collect_later`]).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use super::super::socket::{Caller, Socket};
use super::endpoint::{Endpoint, Link, UnixSocket};
use super::queue::Packet;
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Capability;
use crate::kernel::timer::{Moment, Timer};
use crate::kernel::wait::{Observer, Ready};
use crate::sync::Mutex;
use crate::vfs::file::OpenFile;

/// By address, each description that is under way, and in how many packets.
type UnderWay = HashMap<usize, (Weak<OpenFile>, usize)>;

/// The Unix sockets under way.
static UNDER_WAY: LazyLock<Mutex<UnderWay>> = LazyLock::new(Mutex::default);

fn endpoint_of(file: &OpenFile) -> Option<&Arc<Endpoint>> {
    let socket = file.file.as_any().downcast_ref::<Socket>()?;
    socket.protocol.as_any().downcast_ref::<UnixSocket>().map(|unix| &unix.0)
}

/// How many files each user has under way.
static SENT: LazyLock<Mutex<HashMap<u32, usize>>> = LazyLock::new(Mutex::default);

/// The open files of one packet.
#[derive(Default)]
pub struct Rights {
    files: Vec<Arc<OpenFile>>,
    /// The user who sent them.
    user: u32,
}

impl Rights {
    /// Puts files on their way. `ETOOMANYREFS` where the user has more under way already than a process may have open (unix(7)).
    pub fn send(caller: &Caller, files: &[Arc<OpenFile>]) -> Result<Rights> {
        if files.is_empty() {
            return Ok(Rights::default());
        }
        let user = caller.credentials.uid;
        let most = caller.process.as_ref().map_or(u64::MAX, |process| process.limits.read().descriptors());
        let free = caller.credentials.capable(Capability::SysResource) || caller.credentials.capable(Capability::SysAdmin);
        {
            let mut sent = SENT.lock();
            let count = sent.entry(user).or_default();
            if *count as u64 > most && !free {
                return Err(Errno::ETOOMANYREFS);
            }
            *count += files.len();
        }
        for file in files.iter().filter(|file| endpoint_of(file).is_some()) {
            let mut under_way = UNDER_WAY.lock();
            under_way.entry(Arc::as_ptr(file) as usize).or_insert_with(|| (Arc::downgrade(file), 0)).1 += 1;
        }
        Ok(Rights { files: files.to_vec(), user })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files, which stay here as well (`MSG_PEEK`).
    pub fn copies(&self) -> Vec<Arc<OpenFile>> {
        self.files.clone()
    }

    /// The files: they have arrived.
    pub fn receive(&mut self) -> Vec<Arc<OpenFile>> {
        if self.files.is_empty() {
            return Vec::new();
        }
        self.arrived();
        std::mem::take(&mut self.files)
    }

    fn arrived(&self) {
        arrived(&self.files);
        let mut sent = SENT.lock();
        if let Some(count) = sent.get_mut(&self.user) {
            *count -= self.files.len();
            if *count == 0 {
                sent.remove(&self.user);
            }
        }
    }
}

fn arrived(files: &[Arc<OpenFile>]) {
    for file in files.iter().filter(|file| endpoint_of(file).is_some()) {
        let mut under_way = UNDER_WAY.lock();
        let key = Arc::as_ptr(file) as usize;
        if let Some(entry) = under_way.get_mut(&key) {
            entry.1 -= 1;
            if entry.1 == 0 {
                under_way.remove(&key);
            }
        }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if !self.files.is_empty() {
            self.arrived();
            discard_files(std::mem::take(&mut self.files));
        }
    }
}

/// Drops packets that nobody will read. With no lock held.
pub fn discard(packets: Vec<Packet>) {
    drop(packets);
}

/// Drops files one after the other, never one inside the other: sockets sent through sockets sent through sockets would
/// otherwise need a stack as deep.
fn discard_files(files: Vec<Arc<OpenFile>>) {
    thread_local! {
        static DISCARDED: RefCell<Option<Vec<Arc<OpenFile>>>> = const { RefCell::new(None) };
    }
    let nested = DISCARDED.with(|discarded| match &mut *discarded.borrow_mut() {
        Some(waiting) => {
            waiting.extend(files);
            true
        }
        slot => {
            *slot = Some(files);
            false
        }
    });
    if nested {
        return;
    }
    while let Some(file) = DISCARDED.with(|discarded| discarded.borrow_mut().as_mut().and_then(Vec::pop)) {
        drop(file);
    }
    DISCARDED.with(|discarded| *discarded.borrow_mut() = None);
}

/// Has [`collect`] run soon, where sockets are under way.
pub fn collect_later() {
    static SCHEDULED: AtomicBool = AtomicBool::new(false);
    static TIMER: Mutex<Option<Timer>> = Mutex::new(None);
    struct Collector;
    impl Observer for Collector {
        fn notify(&self, _: Ready) {
            let timer = TIMER.lock().take();
            drop(timer);
            SCHEDULED.store(false, Ordering::SeqCst);
            collect();
        }
    }
    if UNDER_WAY.lock().is_empty() || SCHEDULED.swap(true, Ordering::SeqCst) {
        return;
    }
    let mut timer = TIMER.lock();
    *timer = Some(crate::kernel::kernel().timers.arm(Moment::now().after(Duration::from_secs(1)), Arc::new(Collector)));
}

/// The sockets that lie in an endpoint's queues, and in those of connections that wait for it.
fn held(endpoint: &Arc<Endpoint>) -> Vec<usize> {
    let state = endpoint.state.lock();
    let files = |packet: &Packet| packet.rights.files.iter().map(|file| Arc::as_ptr(file) as usize).collect::<Vec<_>>();
    let mut held: Vec<usize> = state.incoming.iter().flat_map(files).collect();
    let waiting: Vec<Arc<Endpoint>> = match &state.link {
        Link::Listening(listening) => listening.waiting.iter().cloned().collect(),
        _ => Vec::new(),
    };
    drop(state);
    for endpoint in waiting {
        held.extend(endpoint.state.lock().incoming.iter().flat_map(files));
    }
    held
}

/// Empties the queues of sockets that nobody can receive any more.
pub fn collect() {
    // A socket is a candidate while all references to it, but the one taken here, may lie in packets.
    let mut candidates: HashMap<usize, Arc<OpenFile>> = {
        let under_way = UNDER_WAY.lock();
        under_way.iter().filter_map(|(key, (file, _))| Some((*key, file.upgrade()?))).collect()
    };
    let holds: HashMap<usize, Vec<usize>> = candidates.iter().filter_map(|(key, file)| Some((*key, held(endpoint_of(file)?)))).collect();
    loop {
        let mut found: HashMap<usize, usize> = HashMap::new();
        for target in candidates.keys().filter_map(|key| holds.get(key)).flatten() {
            *found.entry(*target).or_default() += 1;
        }
        let reachable: HashSet<usize> = candidates
            .iter()
            .filter(|(key, file)| Arc::strong_count(file) > found.get(*key).copied().unwrap_or(0) + 1)
            .map(|(key, _)| *key)
            .collect();
        if reachable.is_empty() {
            break;
        }
        candidates.retain(|key, _| !reachable.contains(key));
    }
    let garbage: Vec<Packet> = candidates
        .values()
        .filter_map(|file| endpoint_of(file))
        .flat_map(|endpoint| std::mem::take(&mut endpoint.state.lock().incoming))
        .collect();
    let listeners: Vec<Arc<Endpoint>> = candidates.values().filter_map(|file| endpoint_of(file)).cloned().collect();
    drop(candidates);
    discard(garbage);
    for listener in listeners {
        let waiting = match &mut listener.state.lock().link {
            Link::Listening(listening) => std::mem::take(&mut listening.waiting),
            _ => continue,
        };
        waiting.iter().for_each(|endpoint| endpoint.close(true));
    }
}
