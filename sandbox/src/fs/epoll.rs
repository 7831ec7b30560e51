//! epoll(7): interest lists whose members announce themselves.
//!
//! Each member observes its file's wait queue. When it is told, it puts itself on the set's ready list, once, and wakes who waits for the set;
//! collecting looks only at that list, so its cost is that of what is ready. A level-triggered member that is still ready after it was reported stays on the list.
//!
//! A member belongs to a pair of descriptor number and open file description, and goes when the description goes; the set holds it weakly.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use crate::errno::{Errno, Result};
use crate::kernel::wait::{Observation, Observer, Ready, WaitQueue};
use crate::sync::Mutex;
use crate::vfs::anonymous;
use crate::vfs::descriptor::Descriptor;
use crate::vfs::file::{File, OpenFile};
use crate::vfs::node::Attributes;

/// How deep sets may nest (`EP_MAX_NESTS`), counted over all that are joined.
const NESTING: usize = 4;
/// By how many ways one set may be reached from those that have it: each is a wake-up (`path_limits` of fs/eventpoll.c allows so many at the second step).
const WAYS: usize = 500;
const EDGE: u32 = libc::EPOLLET as u32;
const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

/// What a wait reports.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Event {
    pub events: u32,
    pub data: u64,
}

/// An epoll set.
pub struct Epoll {
    shared: Arc<Shared>,
    inode: u64,
}

/// What members reach from their files' wait queues.
struct Shared {
    state: Mutex<State>,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    /// Where this set is a member itself; some may be gone.
    places: Vec<Weak<Member>>,
    members: HashMap<Key, Arc<Member>>,
    ready: VecDeque<Arc<Member>>,
}

/// Number and description.
type Key = (Descriptor, usize);

struct Member {
    key: Key,
    file: Weak<OpenFile>,
    set: Weak<Shared>,
    settings: Mutex<Settings>,
    observation: Mutex<Option<Observation>>,
}

struct Settings {
    events: u32,
    data: u64,
    /// A one-shot that has fired.
    disabled: bool,
    /// On the ready list.
    listed: bool,
}

impl Shared {
    /// How many sets are above this one at most, and by how many ways it is reached from them. `ELOOP` where there are more than `depth`, `EINVAL` where
    /// there are too many ways.
    fn above(&self, depth: usize) -> Result<(usize, usize)> {
        let places: Vec<Arc<Member>> = self.state.lock().places.iter().filter_map(Weak::upgrade).collect();
        let (mut highest, mut ways) = (0, 0);
        for place in places {
            let Some(set) = place.set.upgrade() else { continue };
            if depth == 0 {
                return Err(Errno::ELOOP);
            }
            let (above, more) = set.above(depth - 1)?;
            highest = highest.max(above + 1);
            ways += more.max(1);
            if ways > WAYS {
                return Err(Errno::EINVAL);
            }
        }
        Ok((highest, ways))
    }
}

impl Member {
    /// What its file is, of what it asked for.
    fn ready(&self, file: &OpenFile) -> Ready {
        let wanted = Ready::from_bits_truncate(self.settings.lock().events) | Ready::ALWAYS;
        file.file.poll() & wanted
    }

    /// Puts it on the ready list, if it may be there.
    fn list(self: &Arc<Self>, shared: &Shared) {
        {
            let mut settings = self.settings.lock();
            if settings.disabled || settings.listed {
                return;
            }
            settings.listed = true;
        }
        shared.state.lock().ready.push_back(self.clone());
    }
}

/// The observer of a member's file.
struct Announcer(Weak<Member>);

impl Observer for Announcer {
    fn notify(&self, _: Ready) {
        let Some(member) = self.0.upgrade() else { return };
        let Some(shared) = member.set.upgrade() else { return };
        member.list(&shared);
        shared.queue.wake(Ready::READABLE);
    }
}

impl Epoll {
    /// An empty set.
    pub fn create() -> Arc<Epoll> {
        Arc::new(Epoll { shared: Arc::new(Shared { state: Mutex::default(), queue: WaitQueue::new() }), inode: anonymous::next_inode() })
    }

    /// Who waits for the set.
    pub fn queue(&self) -> &WaitQueue {
        &self.shared.queue
    }

    fn key(number: Descriptor, file: &Arc<OpenFile>) -> Key {
        (number, Arc::as_ptr(file) as usize)
    }

    /// EPOLL_CTL_ADD.
    pub fn add(&self, number: Descriptor, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<()> {
        let Some(queue) = file.file.wait_queue() else { return Err(Errno::EPERM) };
        let nested = file.file.as_any().downcast_ref::<Epoll>();
        if events & EXCLUSIVE != 0 && nested.is_some() {
            return Err(Errno::EINVAL);
        }
        if let Some(nested) = nested {
            // Wake-ups go up by recursion, and once for each way: both are bounded when sets are joined.
            let (above, ways) = self.shared.above(NESTING)?;
            if nested.reaches(&self.shared, NESTING - above)? {
                return Err(Errno::ELOOP);
            }
            if ways >= WAYS {
                return Err(Errno::EINVAL);
            }
        }
        let key = Epoll::key(number, file);
        let settings = Settings { events, data, disabled: false, listed: false };
        let member = Arc::new(Member {
            key,
            file: Arc::downgrade(file),
            set: Arc::downgrade(&self.shared),
            settings: Mutex::new(settings),
            observation: Mutex::new(None),
        });
        {
            let mut state = self.shared.state.lock();
            if state.members.get(&key).is_some_and(|member| member.file.strong_count() > 0) {
                return Err(Errno::EEXIST);
            }
            state.members.insert(key, member.clone());
        }
        if let Some(nested) = nested {
            let mut state = nested.shared.state.lock();
            state.places.retain(|place| place.strong_count() > 0);
            state.places.push(Arc::downgrade(&member));
        }
        let interest = Ready::from_bits_truncate(events);
        *member.observation.lock() = Some(queue.observe(interest, Arc::new(Announcer(Arc::downgrade(&member)))));
        self.look(&member, file);
        Ok(())
    }

    /// EPOLL_CTL_MOD.
    pub fn modify(&self, number: Descriptor, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<()> {
        let key = Epoll::key(number, file);
        let member = self.shared.state.lock().members.get(&key).cloned().ok_or(Errno::ENOENT)?;
        {
            let mut settings = member.settings.lock();
            if events & EXCLUSIVE != 0 || settings.events & EXCLUSIVE != 0 {
                return Err(Errno::EINVAL);
            }
            settings.events = events;
            settings.data = data;
            settings.disabled = false;
        }
        if let Some(queue) = file.file.wait_queue() {
            let fresh = queue.observe(Ready::from_bits_truncate(events), Arc::new(Announcer(Arc::downgrade(&member))));
            let before = member.observation.lock().replace(fresh);
            drop(before);
        }
        self.look(&member, file);
        Ok(())
    }

    /// EPOLL_CTL_DEL.
    pub fn remove(&self, number: Descriptor, file: &Arc<OpenFile>) -> Result<()> {
        let key = Epoll::key(number, file);
        let removed = {
            let mut state = self.shared.state.lock();
            state.ready.retain(|member| member.key != key);
            state.members.remove(&key).ok_or(Errno::ENOENT)?
        };
        let observation = removed.observation.lock().take();
        drop(observation);
        Ok(())
    }

    /// Lists a member that is ready already.
    fn look(&self, member: &Arc<Member>, file: &OpenFile) {
        if !member.ready(file).is_empty() {
            member.list(&self.shared);
            self.shared.queue.wake(Ready::READABLE);
        }
    }

    /// Whether this set has, at some depth, that one as a member. `ELOOP` where sets nest too deep.
    fn reaches(&self, other: &Arc<Shared>, depth: usize) -> Result<bool> {
        if Arc::ptr_eq(&self.shared, other) {
            return Ok(true);
        }
        if depth == 0 {
            return Err(Errno::ELOOP);
        }
        let files: Vec<Arc<OpenFile>> = self.shared.state.lock().members.values().filter_map(|member| member.file.upgrade()).collect();
        for file in files {
            if let Some(nested) = file.file.as_any().downcast_ref::<Epoll>()
                && nested.reaches(other, depth - 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is ready, `most` events at most.
    pub fn collect(&self, most: usize) -> Vec<Event> {
        let listed = std::mem::take(&mut self.shared.state.lock().ready);
        let mut events = Vec::new();
        let mut again = VecDeque::new();
        let mut listed = listed.into_iter();
        for member in listed.by_ref() {
            member.settings.lock().listed = false;
            let Some(file) = member.file.upgrade() else {
                self.shared.state.lock().members.remove(&member.key);
                continue;
            };
            let ready = member.ready(&file);
            if ready.is_empty() {
                continue;
            }
            let mut settings = member.settings.lock();
            if settings.disabled {
                continue;
            }
            events.push(Event { events: ready.bits(), data: settings.data });
            if settings.events & ONE_SHOT != 0 {
                settings.disabled = true;
            } else if settings.events & EDGE == 0 {
                // Level-triggered: to be looked at again.
                settings.listed = true;
                drop(settings);
                again.push_back(member);
            }
            if events.len() == most {
                break;
            }
        }
        let mut state = self.shared.state.lock();
        // What was not looked at comes first, then what was announced meanwhile, then what is still ready.
        let announced = std::mem::take(&mut state.ready);
        state.ready = listed.chain(announced).chain(again).collect();
        events
    }
}

impl File for Epoll {
    fn poll(&self) -> Ready {
        let listed: Vec<Arc<Member>> = self.shared.state.lock().ready.iter().cloned().collect();
        let ready = listed.iter().any(|member| member.file.upgrade().is_some_and(|file| !member.ready(&file).is_empty()));
        if ready { Ready::READABLE } else { Ready::empty() }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.shared.queue)
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(anonymous::attributes(self.inode, 0o600, 4096))
    }

    fn details(&self) -> String {
        let members: Vec<Arc<Member>> = self.shared.state.lock().members.values().cloned().collect();
        let line = |member: &Arc<Member>| {
            let file = member.file.upgrade()?;
            let attributes = file.attributes().ok()?;
            let (events, data) = {
                let settings = member.settings.lock();
                (settings.events, settings.data)
            };
            let position = file.offset.try_lock().map_or(0, |offset| *offset);
            Some(format!(
                "tfd: {:8} events: {events:8x} data: {data:16x}  pos:{position} ino:{:x} sdev:{:x}\n",
                member.key.0.0, attributes.inode, attributes.device
            ))
        };
        members.iter().filter_map(line).collect()
    }

    fn description(&self) -> String {
        String::from("anon_inode:[eventpoll]")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
