//! File locks: flock(2), POSIX record locks and open-file-description locks (fcntl(2)).
//!
//! One table per file, found by its [`NodeKey`]; an entry lives while somebody holds or awaits a lock. A record lock belongs to a descriptor
//! table (Linux: `files_struct`), an OFD lock and a flock to an open file description. Whole-file flocks and byte-range locks do not see each
//! other.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::descriptor::DescriptorTable;
use super::file::OpenFile;
use super::node::NodeKey;
use crate::errno::{Errno, Result};
use crate::kernel::park;
use crate::kernel::timer::Deadline;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::platform::memory::Address;
use crate::sync::Mutex;
use crate::syscalls::{Call, Outcome};

/// Who holds a lock: a descriptor table or an open file description, by its address while it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// A record lock's.
    Table(usize),
    /// An OFD lock's.
    Description(usize),
    /// A flock's.
    Whole(usize),
}

impl Owner {
    /// The owner that a descriptor table is.
    pub fn of_table(table: &Arc<DescriptorTable>) -> Owner {
        Owner::Table(Arc::as_ptr(table) as usize)
    }

    fn sees(self, other: Owner) -> bool {
        matches!(self, Owner::Whole(_)) == matches!(other, Owner::Whole(_))
    }
}

/// Past the last byte that a file may have: where ranges "to the end" end.
const END: u64 = 1 << 63;

/// One held range, `start..end`.
#[derive(Clone, Copy, Debug)]
struct Held {
    owner: Owner,
    exclusive: bool,
    start: u64,
    end: u64,
    /// As F_GETLK shows it; -1 for OFD locks.
    pid: i32,
}

#[derive(Default)]
struct Locks {
    held: Vec<Held>,
    queue: WaitQueue,
}

struct Table {
    files: HashMap<NodeKey, Locks>,
    /// Who waits for whom, for the detection of deadlocks among record locks.
    waiting: Vec<(Owner, Owner)>,
}

fn table() -> &'static Mutex<Table> {
    static TABLE: OnceLock<Mutex<Table>> = OnceLock::new();
    TABLE.get_or_init(|| Mutex::new(Table { files: HashMap::new(), waiting: Vec::new() }))
}

/// Where nothing holds a lock, close(2) need not look: the common case.
static ANY: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Releases the record locks that a process has on a file of which it has closed a descriptor, any of them (fcntl(2)). One that only named the file
/// (`O_PATH`) is none of it.
pub fn release_closed(file: &OpenFile, owner: Owner) {
    if ANY.load(std::sync::atomic::Ordering::Relaxed)
        && !file.is_path()
        && let Ok(key) = file.key()
    {
        release(key, owner);
    }
}

/// Releases everything that an owner holds on a file.
pub fn release(key: NodeKey, owner: Owner) {
    if !ANY.load(std::sync::atomic::Ordering::Relaxed) {
        return;
    }
    let queue = {
        let mut table = table().lock();
        let Some(locks) = table.files.get_mut(&key) else { return };
        let before = locks.held.len();
        locks.held.retain(|held| held.owner != owner);
        let queue = (locks.held.len() != before).then(|| locks.queue.clone());
        if locks.held.is_empty() && !locks.queue.has_observers() {
            table.files.remove(&key);
        }
        queue
    };
    if let Some(queue) = queue {
        queue.wake(Ready::all());
    }
}

/// Releases everything that an owner holds anywhere: its table or description is gone.
pub fn release_all(owner: Owner) {
    if !ANY.load(std::sync::atomic::Ordering::Relaxed) {
        return;
    }
    let keys: Vec<NodeKey> = {
        let table = table().lock();
        table.files.iter().filter(|(_, locks)| locks.held.iter().any(|held| held.owner == owner)).map(|(key, _)| *key).collect()
    };
    for key in keys {
        release(key, owner);
    }
}

impl Locks {
    fn conflict(&self, wanted: &Held) -> Option<&Held> {
        self.held.iter().find(|held| {
            held.owner != wanted.owner
                && held.owner.sees(wanted.owner)
                && (held.exclusive || wanted.exclusive)
                && held.start < wanted.end
                && wanted.start < held.end
        })
    }

    /// Adds a range of which nothing is held: it becomes one with the owner's like ranges beside it. Kept in the order of their starts.
    fn add(&mut self, mut wanted: Held) {
        self.held.retain(|held| {
            let joins =
                held.owner == wanted.owner && held.exclusive == wanted.exclusive && held.start <= wanted.end && wanted.start <= held.end;
            if joins {
                wanted.start = wanted.start.min(held.start);
                wanted.end = wanted.end.max(held.end);
            }
            !joins
        });
        let at = self.held.partition_point(|held| held.start <= wanted.start);
        self.held.insert(at, wanted);
    }

    /// Cuts the owner's ranges out of `start..end`.
    fn cut(&mut self, owner: Owner, start: u64, end: u64) {
        let mut kept = Vec::with_capacity(self.held.len() + 1);
        for held in self.held.drain(..) {
            if held.owner != owner || held.end <= start || end <= held.start {
                kept.push(held);
                continue;
            }
            if held.start < start {
                kept.push(Held { end: start, ..held });
            }
            if end < held.end {
                kept.push(Held { start: end, ..held });
            }
        }
        self.held = kept;
    }
}

/// Takes a lock, or says who is in the way (`EAGAIN`, with the queue to wait on).
fn take(key: NodeKey, wanted: Held) -> Result<(), (WaitQueue, Owner)> {
    ANY.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut table = table().lock();
    let locks = table.files.entry(key).or_default();
    if let Some(held) = locks.conflict(&wanted) {
        let in_the_way = (locks.queue.clone(), held.owner);
        // Converting a flock is not atomic: what was held is given up first, whatever comes then (flock(2)).
        if matches!(wanted.owner, Owner::Whole(_)) && locks.held.iter().any(|held| held.owner == wanted.owner) {
            locks.cut(wanted.owner, 0, END);
            drop(table);
            in_the_way.0.wake(Ready::all());
        }
        return Err(in_the_way);
    }
    let converted = locks.held.iter().any(|held| held.owner == wanted.owner);
    locks.cut(wanted.owner, wanted.start, wanted.end);
    locks.add(wanted);
    let queue = converted.then(|| locks.queue.clone());
    drop(table);
    if let Some(queue) = queue {
        // An exclusive lock may have become a shared one.
        queue.wake(Ready::all());
    }
    Ok(())
}

fn unlock(key: NodeKey, owner: Owner, start: u64, end: u64) {
    let mut table = table().lock();
    let Some(locks) = table.files.get_mut(&key) else { return };
    locks.cut(owner, start, end);
    let queue = locks.queue.clone();
    if locks.held.is_empty() && !locks.queue.has_observers() {
        table.files.remove(&key);
    }
    drop(table);
    queue.wake(Ready::all());
}

/// Whether `waiter` waiting for `holder` would close a circle.
fn deadlock(waiter: Owner, holder: Owner) -> bool {
    let table = table().lock();
    let mut next = holder;
    for _ in 0..table.waiting.len() + 1 {
        if next == waiter {
            return true;
        }
        match table.waiting.iter().find(|(who, _)| *who == next) {
            Some((_, whom)) => next = *whom,
            None => return false,
        }
    }
    false
}

/// Takes a lock; waits for it where `wait`.
fn acquire(key: NodeKey, wanted: Held, wait: bool, keep: Arc<OpenFile>) -> Result<Outcome> {
    let (queue, holder) = match take(key, wanted) {
        Ok(()) => return Ok(().into()),
        Err(in_the_way) => in_the_way,
    };
    if !wait {
        return Err(Errno::EAGAIN);
    }
    let records = matches!(wanted.owner, Owner::Table(_));
    if records && deadlock(wanted.owner, holder) {
        return Err(Errno::EDEADLK);
    }
    Ok(Outcome::Park(Box::pin(async move {
        let _keep = keep;
        if records {
            table().lock().waiting.push((wanted.owner, holder));
        }
        let taken = park::retry(&queue, Ready::all(), Deadline::Never, || take(key, wanted).map_err(|_| Errno::EAGAIN)).await;
        if records {
            table().lock().waiting.retain(|(who, _)| *who != wanted.owner);
        }
        taken.map(Outcome::from)
    })))
}

/// flock(2).
pub fn flock(call: &Call, file: Arc<OpenFile>, operation: i32) -> Result<Outcome> {
    let key = file.key()?;
    let owner = Owner::Whole(Arc::as_ptr(&file) as usize);
    let held = |exclusive| Held { owner, exclusive, start: 0, end: END, pid: call.process.inner };
    let wait = operation & libc::LOCK_NB == 0;
    match operation & !libc::LOCK_NB {
        libc::LOCK_SH => acquire(key, held(false), wait, file.clone()),
        libc::LOCK_EX => acquire(key, held(true), wait, file.clone()),
        libc::LOCK_UN => {
            unlock(key, owner, 0, END);
            Ok(().into())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `struct flock` of x86-64, taken apart.
struct Request {
    kind: i16,
    start: u64,
    end: u64,
    pid: i32,
}

fn read_request(call: &Call, file: &OpenFile, at: Address) -> Result<Request> {
    let bytes: [u8; 32] = call.memory().read_value(at)?;
    let half = |at: usize| i16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| i64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let base = match i32::from(half(2)) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => *file.offset.lock() as i64,
        libc::SEEK_END => file.attributes()?.size as i64,
        _ => return Err(Errno::EINVAL),
    };
    let (offset, length) = (long(8), long(16));
    // Ends are the last byte, as in flock64_to_posix_lock() of fs/locks.c, then one more.
    let start = base.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
    if start < 0 {
        return Err(Errno::EINVAL);
    }
    let (start, last) = match length {
        0 => (start, i64::MAX),
        1.. => (start, start.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?),
        _ => {
            let before = start.checked_add(length).filter(|before| *before >= 0).ok_or(Errno::EINVAL)?;
            (before, start - 1)
        }
    };
    let pid = i32::from_ne_bytes(bytes[24..28].try_into().unwrap_or_default());
    Ok(Request { kind: half(0), start: start as u64, end: last as u64 + 1, pid })
}

/// The locking commands of fcntl(2).
pub fn fcntl(call: &Call, file: &Arc<OpenFile>, command: i32, at: Address) -> Result<Outcome> {
    let request = read_request(call, file, at)?;
    let of_description = matches!(command, libc::F_OFD_GETLK | libc::F_OFD_SETLK | libc::F_OFD_SETLKW);
    if of_description && request.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let key = file.key()?;
    let owner = if of_description { Owner::Description(Arc::as_ptr(file) as usize) } else { Owner::of_table(&call.descriptors()) };
    let pid = if of_description { -1 } else { call.process.inner };
    let wanted = |exclusive| Held { owner, exclusive, start: request.start, end: request.end, pid };
    let kind = i32::from(request.kind);
    if command == libc::F_GETLK || command == libc::F_OFD_GETLK {
        if kind != libc::F_RDLCK && kind != libc::F_WRLCK {
            return Err(Errno::EINVAL);
        }
        let found = {
            let table = table().lock();
            table.files.get(&key).and_then(|locks| locks.conflict(&wanted(kind == libc::F_WRLCK)).copied())
        };
        return answer(call, at, found);
    }
    match kind {
        libc::F_RDLCK if !file.reads() => Err(Errno::EBADF),
        libc::F_WRLCK if !file.writes() => Err(Errno::EBADF),
        libc::F_RDLCK | libc::F_WRLCK => {
            let wait = command == libc::F_SETLKW || command == libc::F_OFD_SETLKW;
            acquire(key, wanted(kind == libc::F_WRLCK), wait, file.clone())
        }
        libc::F_UNLCK => {
            unlock(key, owner, request.start, request.end);
            Ok(().into())
        }
        _ => Err(Errno::EINVAL),
    }
}

fn answer(call: &Call, at: Address, found: Option<Held>) -> Result<Outcome> {
    match found {
        None => call.memory().write_value(at, &(libc::F_UNLCK as i16))?,
        Some(held) => {
            let mut bytes = [0u8; 32];
            let kind = if held.exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as i16;
            let length = if held.end == END { 0 } else { held.end - held.start };
            bytes[..2].copy_from_slice(&kind.to_ne_bytes());
            bytes[8..16].copy_from_slice(&held.start.to_ne_bytes());
            bytes[16..24].copy_from_slice(&length.to_ne_bytes());
            bytes[24..28].copy_from_slice(&held.pid.to_ne_bytes());
            call.memory().write_value(at, &bytes)?;
        }
    }
    Ok(().into())
}
