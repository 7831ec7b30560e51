//! Waiting for readiness: poll(2), select(2), epoll(7).

use std::sync::Arc;
use std::time::Duration;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::fs::epoll::{self, Epoll};
use crate::kernel::park::Flag;
use crate::kernel::timer::{Deadline, Moment};
use crate::kernel::wait::{Observation, Ready};
use crate::platform::memory::Address;
use crate::vfs::descriptor::Descriptor as Number_;
use crate::vfs::file::OpenFile;

use Argument::{Descriptor, Hex, Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_poll, "poll", |call| poll(call, milliseconds(call.int(2))), &[Pointer, Number, Number]),
    Entry::new(
        libc::SYS_ppoll,
        "ppoll",
        |call| masked(call, mask(call, 3, 4)?, |call| poll(call, timeout(call, 2)?)),
        &[Pointer, Number, Pointer, Pointer, Number],
    ),
    Entry::new(libc::SYS_select, "select", select, &[Number, Pointer, Pointer, Pointer, Pointer]),
    Entry::new(libc::SYS_pselect6, "pselect6", pselect, &[Number, Pointer, Pointer, Pointer, Pointer, Pointer]),
    Entry::new(libc::SYS_epoll_create, "epoll_create", epoll_create, &[Number]),
    Entry::new(libc::SYS_epoll_create1, "epoll_create1", |call| make_epoll(call, call.int(0)), &[Hex]),
    Entry::new(libc::SYS_epoll_ctl, "epoll_ctl", epoll_ctl, &[Descriptor, Number, Descriptor, Pointer]),
    Entry::new(
        libc::SYS_epoll_wait,
        "epoll_wait",
        |call| epoll_wait(call, milliseconds(call.int(3))),
        &[Descriptor, Pointer, Number, Number],
    ),
    Entry::new(
        libc::SYS_epoll_pwait,
        "epoll_pwait",
        |call| masked(call, mask(call, 4, 5)?, |call| epoll_wait(call, milliseconds(call.int(3)))),
        &[Descriptor, Pointer, Number, Number, Pointer],
    ),
    Entry::new(
        libc::SYS_epoll_pwait2,
        "epoll_pwait2",
        |call| masked(call, mask(call, 4, 5)?, |call| epoll_wait(call, timeout(call, 3)?)),
        &[Descriptor, Pointer, Number, Pointer, Pointer],
    ),
];

/// A time-out as the call gave it; `None` waits for ever.
type Wait = Option<Duration>;

fn milliseconds(value: i32) -> Wait {
    u64::try_from(value).ok().map(Duration::from_millis)
}

/// An optional `struct timespec`.
fn timeout(call: &Call, index: usize) -> Result<Wait> {
    let Some(address) = call.address(index).optional() else { return Ok(None) };
    let [seconds, nanoseconds]: [i64; 2] = call.memory().read_value(address)?;
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|value| *value < 1_000_000_000).ok_or(Errno::EINVAL)?;
    Ok(Some(Duration::new(seconds, nanoseconds)))
}

/// An optional signal mask and its size.
fn mask(call: &Call, pointer: usize, size: usize) -> Result<Option<u64>> {
    read_mask(call, call.address(pointer), call.raw(size))
}

fn read_mask(call: &Call, at: Address, size: u64) -> Result<Option<u64>> {
    /// `SIGKILL` and `SIGSTOP` can not be blocked.
    const NEVER: u64 = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
    let Some(at) = at.optional() else { return Ok(None) };
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    Ok(Some(call.memory().read_value::<u64>(at)? & !NEVER))
}

/// A wait with a signal mask of its own (see [`crate::kernel::sigmask`]).
fn masked(call: &Call, mask: Option<u64>, wait: impl FnOnce(&Call) -> Result<Outcome>) -> Result<Outcome> {
    let outcome = wait(call)?;
    if matches!(outcome, Outcome::Park(_)) {
        *call.thread.wait_mask.lock() = mask;
    }
    Ok(outcome)
}

/// The sixth argument points to a pair: the mask's address and its size.
fn pselect(call: &Call) -> Result<Outcome> {
    let mask = match call.address(5).optional() {
        None => None,
        Some(at) => {
            let [pointer, size]: [u64; 2] = call.memory().read_value(at)?;
            read_mask(call, Address(pointer), size)?
        }
    };
    masked(call, mask, |call| select_sets(call, timeout(call, 4)?))
}

fn deadline(wait: Wait) -> Deadline {
    wait.map_or(Deadline::Never, Deadline::within)
}

/// One descriptor that is polled.
struct Polled {
    file: Option<Arc<OpenFile>>,
    wanted: Ready,
}

impl Polled {
    fn ready(&self) -> Ready {
        match &self.file {
            Some(file) => file.file.poll() & (self.wanted | Ready::ALWAYS),
            None => Ready::NVAL,
        }
    }
}

/// Waits until one of them is ready. Gives what each one is; all nothing at the deadline.
async fn wait_for(polled: &[Polled], deadline: Deadline) -> Result<Vec<Ready>> {
    let flag = Flag::new();
    let mut observations: Vec<Observation> = Vec::new();
    for one in polled {
        if let Some(queue) = one.file.as_ref().and_then(|file| file.file.wait_queue()) {
            observations.push(queue.observe(one.wanted, flag.clone()));
        }
    }
    let _timer = deadline.arm(flag.clone());
    loop {
        flag.lower();
        let ready: Vec<Ready> = polled.iter().map(Polled::ready).collect();
        if ready.iter().any(|ready| !ready.is_empty()) || deadline.has_passed() {
            return Ok(ready);
        }
        match flag.raised().await {
            // poll and select are never restarted after a handler (signal(7)).
            Err(Errno::ERESTARTSYS) => return Err(Errno::ERESTARTNOHAND),
            result => result?,
        }
    }
}

fn poll(call: &Call, wait: Wait) -> Result<Outcome> {
    let count = call.uint(1) as usize;
    if count as u64 > call.process.limits.read().descriptors() {
        return Err(Errno::EINVAL);
    }
    // struct pollfd: descriptor, events, revents.
    let raw: Vec<[u32; 2]> = call.memory().read_values(call.address(0), count)?;
    let table = call.descriptors();
    let polled: Vec<Polled> = raw
        .iter()
        .filter(|[number, _]| (*number as i32) >= 0)
        .map(|[number, events]| Polled { file: table.get_open(Number_(*number)).ok(), wanted: Ready::from_bits_truncate(events & 0xffff) })
        .collect();
    let first: Vec<Ready> = polled.iter().map(Polled::ready).collect();
    let encode = move |call: &Call, ready: &[Ready]| -> Result<Outcome> {
        let mut found = ready.iter();
        let mut bytes = Vec::with_capacity(raw.len() * 8);
        let mut count = 0i64;
        for [number, events] in &raw {
            let result = if (*number as i32) >= 0 { found.next().copied().unwrap_or_default() } else { Ready::empty() };
            count += i64::from(!result.is_empty());
            bytes.extend_from_slice(&number.to_ne_bytes());
            bytes.extend_from_slice(&(*events as u16).to_ne_bytes());
            bytes.extend_from_slice(&(result.bits() as u16).to_ne_bytes());
        }
        call.memory().write(call.address(0), &bytes)?;
        Ok(Outcome::Value(count))
    };
    if first.iter().any(|ready| !ready.is_empty()) || wait == Some(Duration::ZERO) {
        return encode(call, &first);
    }
    let call = call.clone();
    let until = deadline(wait);
    Ok(Outcome::Park(Box::pin(async move { encode(&call, &wait_for(&polled, until).await?) })))
}

fn select(call: &Call) -> Result<Outcome> {
    let wait = match call.address(4).optional() {
        None => None,
        Some(address) => {
            let [seconds, microseconds]: [i64; 2] = call.memory().read_value(address)?;
            let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
            let microseconds = u64::try_from(microseconds).map_err(|_| Errno::EINVAL)?;
            Some(Duration::from_secs(seconds) + Duration::from_micros(microseconds))
        }
    };
    select_sets(call, wait)
}

/// What the three sets of select(2) mean in the bits of poll(2).
const SETS: [(Ready, Ready); 3] = [
    (Ready::READABLE.union(Ready::RDBAND), Ready::READABLE.union(Ready::RDBAND).union(Ready::HUP).union(Ready::ERR)),
    (Ready::WRITABLE.union(Ready::WRBAND), Ready::WRITABLE.union(Ready::WRBAND).union(Ready::ERR)),
    (Ready::PRI, Ready::PRI),
];

fn select_sets(call: &Call, wait: Wait) -> Result<Outcome> {
    let count = usize::try_from(call.int(0)).map_err(|_| Errno::EINVAL)?;
    let limit = call.process.limits.read().descriptors().min(65536) as usize;
    let count = count.min(limit);
    let words = count.div_ceil(64);
    let mut sets: Vec<Option<Vec<u64>>> = Vec::new();
    for index in 1..4 {
        sets.push(match call.address(index).optional() {
            Some(address) => Some(call.memory().read_values(address, words)?),
            None => None,
        });
    }
    let asked = |set: usize, number: usize| sets[set].as_ref().is_some_and(|words: &Vec<u64>| words[number / 64] >> (number % 64) & 1 == 1);
    let table = call.descriptors();
    let mut numbers = Vec::new();
    let mut polled = Vec::new();
    for number in 0..count {
        let wanted = (0..3).filter(|set| asked(*set, number)).fold(Ready::empty(), |wanted, set| wanted | SETS[set].0);
        if wanted.is_empty() {
            continue;
        }
        numbers.push((number, [asked(0, number), asked(1, number), asked(2, number)]));
        polled.push(Polled { file: Some(table.get_open(Number_(number as u32))?), wanted });
    }
    let present: Vec<bool> = sets.iter().map(Option::is_some).collect();
    let started = Moment::now();
    let encode = move |call: &Call, ready: &[Ready]| -> Result<Outcome> {
        let mut found = [vec![0u64; words], vec![0u64; words], vec![0u64; words]];
        let mut total = 0;
        for ((number, asked), ready) in numbers.iter().zip(ready) {
            for set in 0..3 {
                if asked[set] && ready.intersects(SETS[set].1) {
                    found[set][number / 64] |= 1 << (number % 64);
                    total += 1;
                }
            }
        }
        for set in 0..3 {
            if present[set] {
                let bytes: Vec<u8> = found[set].iter().flat_map(|word| word.to_ne_bytes()).collect();
                call.memory().write(call.address(set + 1), &bytes)?;
            }
        }
        // Linux leaves in the time-out what was not slept.
        if let (Some(wait), Some(address)) = (wait, call.address(4).optional()) {
            let slept = Duration::from_nanos(Moment::now().0.saturating_sub(started.0));
            let left = wait.saturating_sub(slept);
            let fraction = if call.number == libc::SYS_select { left.subsec_micros() } else { left.subsec_nanos() };
            let _ = call.memory().write_value(address, &[left.as_secs(), u64::from(fraction)]);
        }
        Ok(Outcome::Value(total))
    };
    // Readiness that no set asked for (a hang-up in the write set) must not end the wait.
    let first: Vec<Ready> = polled.iter().map(Polled::ready).collect();
    if first.iter().any(|ready| !ready.is_empty()) || wait == Some(Duration::ZERO) {
        return encode(call, &first);
    }
    let call = call.clone();
    let until = deadline(wait);
    Ok(Outcome::Park(Box::pin(async move { encode(&call, &wait_for(&polled, until).await?) })))
}

fn epoll_create(call: &Call) -> Result<Outcome> {
    if call.int(0) <= 0 { Err(Errno::EINVAL) } else { make_epoll(call, 0) }
}

fn make_epoll(call: &Call, flags: i32) -> Result<Outcome> {
    if flags & !libc::EPOLL_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let file = OpenFile::new(Epoll::create(), None, libc::O_RDWR, call.credentials());
    Ok(Outcome::Value(i64::from(call.install(file, flags != 0)?.0)))
}

/// The epoll set behind a descriptor; `EINVAL` where it is something else.
fn set_of(file: &OpenFile) -> Result<&Epoll> {
    file.file.as_any().downcast_ref::<Epoll>().ok_or(Errno::EINVAL)
}

/// `struct epoll_event` is packed on x86-64: 12 bytes.
const EVENT: usize = 12;

fn epoll_ctl(call: &Call) -> Result<Outcome> {
    let operation = call.int(1);
    let event = if operation == libc::EPOLL_CTL_DEL {
        (0, 0)
    } else {
        let bytes: [u8; EVENT] = call.memory().read_value(call.address(3))?;
        let events = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        (events, u64::from_ne_bytes(bytes[4..].try_into().unwrap_or_default()))
    };
    let (set, target) = (call.file(0)?, call.file(2)?);
    let number = call.descriptor(2)?;
    if Arc::ptr_eq(&set, &target) {
        return Err(Errno::EINVAL);
    }
    let set = set_of(&set)?;
    match operation {
        libc::EPOLL_CTL_ADD => set.add(number, &target, event.0, event.1)?,
        libc::EPOLL_CTL_MOD => set.modify(number, &target, event.0, event.1)?,
        libc::EPOLL_CTL_DEL => set.remove(number, &target)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(().into())
}

fn epoll_wait(call: &Call, wait: Wait) -> Result<Outcome> {
    let open = call.file(0)?;
    let most = call.int(2);
    if most <= 0 || most as usize > i32::MAX as usize / EVENT {
        return Err(Errno::EINVAL);
    }
    let into: Address = call.address(1);
    let memory = call.memory();
    let collect = move |open: &OpenFile| -> Result<Outcome> {
        let events = set_of(open)?.collect(most as usize);
        if events.is_empty() {
            return Err(Errno::EAGAIN);
        }
        let mut bytes = Vec::with_capacity(events.len() * EVENT);
        for epoll::Event { events, data } in &events {
            bytes.extend_from_slice(&events.to_ne_bytes());
            bytes.extend_from_slice(&data.to_ne_bytes());
        }
        memory.write(into, &bytes)?;
        Ok(events.len().into())
    };
    match collect(&open) {
        Err(Errno::EAGAIN) if wait == Some(Duration::ZERO) => return Ok(().into()),
        Err(Errno::EAGAIN) => {}
        result => return result,
    }
    let queue = set_of(&open)?.queue().clone();
    let until = deadline(wait);
    Ok(Outcome::Park(Box::pin(async move {
        match crate::kernel::park::retry(&queue, Ready::READABLE, until, || collect(&open)).await {
            Err(Errno::ETIMEDOUT) => Ok(().into()),
            // epoll_wait is never restarted after a handler (signal(7)).
            Err(Errno::ERESTARTSYS) => Err(Errno::EINTR),
            result => result,
        }
    })))
}
