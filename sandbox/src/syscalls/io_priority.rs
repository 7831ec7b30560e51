//! ioprio_get(2), ioprio_set(2): priorities on the way to a disk.
//!
//! The host keeps them with its threads and sets them itself, once it is decided here who may change whose. It knows all workloads by one user, so a change
//! of all threads of a *user* is never let go: it is `EPERM`.

use std::sync::Arc;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};
use crate::kernel::task::Thread;
use crate::kernel::{kernel, signal};
use crate::platform::process;

use Argument::{Hex, Number};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_ioprio_get, "ioprio_get", get, &[Number, Number]),
    Entry::new(libc::SYS_ioprio_set, "ioprio_set", set, &[Number, Number, Hex]),
];

/// `IOPRIO_WHO_*`.
const PROCESS: i32 = 1;
const GROUP: i32 = 2;
const USER: i32 = 3;
/// The class stands above these bits (`IOPRIO_CLASS_SHIFT`); 0 to 3 are classes.
const CLASS: u32 = 13;
/// As many bits count (`IOPRIO_CLASS_MASK`).
const CLASSES: u32 = 7;
const REAL_TIME: u32 = 1;
/// Levels within a class.
const LEVELS: u32 = 8;

/// The threads that a call is about. `ESRCH` for none.
fn targets(call: &Call) -> Result<Vec<Arc<Thread>>> {
    let (which, who) = (call.int(0), call.int(1));
    let container = &call.process.container;
    let found: Vec<Arc<Thread>> = match which {
        PROCESS if who == 0 => vec![call.thread.clone()],
        PROCESS => {
            let threads: Vec<Arc<Thread>> = kernel().threads.read().values().filter(|thread| thread.inner == who).cloned().collect();
            let here = |thread: &Arc<Thread>| thread.process().is_some_and(|process| Arc::ptr_eq(&process.container, container));
            threads.into_iter().filter(here).collect()
        }
        GROUP => {
            let group = if who == 0 { process::inner_group(call.process.pid)? } else { who };
            let members = signal::of_container(container).into_iter().filter(|member| process::inner_group(member.pid) == Ok(group));
            members.flat_map(|member| member.threads.lock().clone()).collect()
        }
        USER => {
            let user = if who == 0 { call.credentials().uid } else { who as u32 };
            let all = signal::of_container(container).into_iter().flat_map(|process| process.threads.lock().clone());
            all.filter(|thread| thread.credentials.read().uid == user).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if found.is_empty() { Err(Errno::ESRCH) } else { Ok(found) }
}

fn get(call: &Call) -> Result<Outcome> {
    let mut best: Option<i32> = None;
    for thread in targets(call)? {
        let own = process::io_priority(thread.tid)?;
        // Of several the highest, which is the lowest number; without a class none is set, and the default counts least.
        best = Some(best.map_or(own, |best| if (own >> CLASS) == 0 { best } else { best.min(own) }));
    }
    Ok(Outcome::Value(i64::from(best.ok_or(Errno::ESRCH)?)))
}

fn set(call: &Call) -> Result<Outcome> {
    let priority = call.uint(2);
    let (class, level) = (priority >> CLASS & CLASSES, priority & 7);
    let who = call.credentials();
    match class {
        REAL_TIME if !who.capable(Capability::SysNice) && !who.capable(Capability::SysAdmin) => return Err(Errno::EPERM),
        REAL_TIME | 2 if level >= LEVELS => return Err(Errno::EINVAL),
        0 if level != 0 => return Err(Errno::EINVAL),
        0..=3 => {}
        _ => return Err(Errno::EINVAL),
    }
    if call.int(0) == USER || !targets(call)?.iter().all(|thread| may_set(&who, &thread.credentials.read())) {
        return Err(Errno::EPERM);
    }
    Ok(Outcome::Continue)
}

/// `set_task_ioprio()` in block/ioprio.c.
fn may_set(who: &Credentials, theirs: &Credentials) -> bool {
    theirs.uid == who.euid || theirs.uid == who.uid || who.capable(Capability::SysNice)
}
