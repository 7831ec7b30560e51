//! Pipes and fifos (pipe(7), fifo(7)).
//!
//! A [`Pipe`] is a queue of bytes with a capacity and counts of its ends; a [`PipeEnd`] is one open end. A fifo is a pipe that is found by the
//! file it stands for: the registry keeps it while an end is open.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};

use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::kernel::park;
use crate::kernel::timer::Deadline;
use crate::kernel::wait::{Ready, WaitQueue};
use crate::sync::Mutex;
use crate::syscalls::{Call, Outcome};
use crate::vfs::anonymous;
use crate::vfs::file::{File, OpenFile, Position, Sink, Source};
use crate::vfs::mount::Location;
use crate::vfs::node::{Attributes, FileSystemStatistics, NodeKey, OpenRequest};

/// The default capacity, bytes.
pub const CAPACITY: usize = 65536;
/// Writes up to this size are never torn (`PIPE_BUF`).
const ATOMIC: usize = 4096;
/// The largest capacity that may be asked for (`fs.pipe-max-size`).
pub const MAXIMUM: usize = 1 << 20;

/// The bytes between a pipe's ends.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
    inode: u64,
}

struct State {
    bytes: VecDeque<u8>,
    /// Lengths of packets, with `O_DIRECT`: a read takes one at most.
    packets: VecDeque<usize>,
    capacity: usize,
    readers: usize,
    writers: usize,
    /// How often each end has been opened: openers of the other end wait for a change.
    reader_generation: u64,
    writer_generation: u64,
}

impl Pipe {
    fn new() -> Arc<Pipe> {
        let state = State {
            bytes: VecDeque::new(),
            packets: VecDeque::new(),
            capacity: CAPACITY,
            readers: 0,
            writers: 0,
            reader_generation: 0,
            writer_generation: 0,
        };
        Arc::new(Pipe { state: Mutex::new(state), queue: WaitQueue::new(), inode: anonymous::next_inode() })
    }

    fn end(self: &Arc<Self>, reads: bool, writes: bool, fifo: bool) -> Arc<PipeEnd> {
        let mut state = self.state.lock();
        if reads {
            state.readers += 1;
            state.reader_generation += 1;
        }
        if writes {
            state.writers += 1;
            state.writer_generation += 1;
        }
        drop(state);
        self.queue.wake(Ready::all());
        Arc::new(PipeEnd { pipe: self.clone(), reads, writes, fifo })
    }

    /// A pipe's capacity, bytes.
    pub fn capacity(&self) -> usize {
        self.state.lock().capacity
    }

    /// F_SETPIPE_SZ: rounds up to a power of two of pages. `EBUSY` where more is in it than would fit, `EPERM` past the maximum.
    pub fn resize(&self, wanted: usize, privileged: bool) -> Result<usize> {
        let capacity = wanted.max(4096).checked_next_power_of_two().filter(|size| *size <= 1 << 31).ok_or(Errno::EINVAL)?;
        if capacity > MAXIMUM && !privileged {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        if state.bytes.len() > capacity {
            return Err(Errno::EBUSY);
        }
        state.capacity = capacity;
        drop(state);
        self.queue.wake(Ready::WRITABLE);
        Ok(capacity)
    }
}

/// One open end; a fifo opened for reading and writing is both.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    fifo: bool,
}

impl PipeEnd {
    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.reads);
        state.writers -= usize::from(self.writes);
        if state.readers == 0 && state.writers == 0 {
            state.bytes = VecDeque::new();
            state.packets.clear();
        }
        drop(state);
        self.pipe.queue.wake(Ready::all());
    }
}

/// Makes a pipe: its reading and its writing end.
pub fn pipe() -> (Arc<PipeEnd>, Arc<PipeEnd>) {
    let pipe = Pipe::new();
    (pipe.end(true, false, false), pipe.end(false, true, false))
}

impl File for PipeEnd {
    fn read(&self, _: &OpenFile, into: &mut dyn Sink, _: Position) -> Result<usize> {
        if into.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.bytes.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_full = state.bytes.len() + ATOMIC > state.capacity;
        let packet = state.packets.front().copied();
        let length = into.remaining().min(packet.unwrap_or(usize::MAX)).min(state.bytes.len());
        let (front, back) = state.bytes.as_slices();
        let first = front.len().min(length);
        into.put(&front[..first])?;
        if length > first {
            into.put(&back[..length - first])?;
        }
        // What a packet has left over is thrown away.
        state.bytes.drain(..packet.unwrap_or(length));
        if packet.is_some() {
            state.packets.pop_front();
        }
        if state.bytes.is_empty() && state.bytes.capacity() > ATOMIC {
            state.bytes.shrink_to(ATOMIC);
        }
        drop(state);
        if was_full {
            self.pipe.queue.wake(Ready::WRITABLE);
        }
        Ok(length)
    }

    fn write(&self, open: &OpenFile, from: &mut dyn Source, _: Position) -> Result<usize> {
        if from.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let wanted = from.remaining();
        let free = state.capacity - state.bytes.len().min(state.capacity);
        // Nothing of an atomic write goes in unless all of it does.
        if free == 0 || (wanted <= ATOMIC && free < wanted) {
            return Err(Errno::EAGAIN);
        }
        let was_empty = state.bytes.is_empty();
        let length = crate::platform::buffer::with(|buffer| {
            let length = from.take(&mut buffer[..wanted.min(free).min(crate::platform::buffer::SIZE)])?;
            state.bytes.extend(&buffer[..length]);
            Ok::<usize, Errno>(length)
        })?;
        if open.flags() & libc::O_DIRECT != 0 {
            let mut left = length;
            while left > 0 {
                state.packets.push_back(left.min(ATOMIC));
                left -= left.min(ATOMIC);
            }
        } else if !state.packets.is_empty() {
            state.packets.push_back(length);
        }
        drop(state);
        let _ = was_empty;
        self.pipe.queue.wake(Ready::READABLE);
        Ok(length)
    }

    fn poll(&self) -> Ready {
        let state = self.pipe.state.lock();
        let mut ready = Ready::empty();
        if self.reads {
            if !state.bytes.is_empty() {
                ready |= Ready::READABLE;
            }
            // A fifo's reader that has never had a writer is not hung up.
            if state.writers == 0 && (!self.fifo || state.writer_generation > 0) {
                ready |= Ready::HUP;
            }
        }
        if self.writes {
            if state.bytes.len() + ATOMIC <= state.capacity {
                ready |= Ready::WRITABLE;
            }
            if state.readers == 0 {
                ready |= Ready::ERR;
            }
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }

    fn ioctl(&self, _: &OpenFile, call: &Call, command: u32, argument: u64) -> Result<i64> {
        match u64::from(command) {
            libc::FIONREAD => {
                let length = self.pipe.state.lock().bytes.len() as i32;
                call.memory().write_value(crate::platform::memory::Address(argument), &length)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(anonymous::attributes(self.pipe.inode, libc::S_IFIFO | 0o600, 4096))
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        // PIPEFS_MAGIC
        Ok(FileSystemStatistics { kind: 0x5049_5045, block_size: 4096, name_length: 255, ..Default::default() })
    }

    fn description(&self) -> String {
        format!("pipe:[{}]", self.pipe.inode)
    }

    fn reopen(&self, request: OpenRequest, _: &Credentials) -> Result<Arc<dyn File>> {
        Ok(self.pipe.end(request.reads(), request.writes(), self.fifo))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The fifos that are open somewhere.
fn fifos() -> &'static Mutex<HashMap<NodeKey, Weak<Pipe>>> {
    static FIFOS: OnceLock<Mutex<HashMap<NodeKey, Weak<Pipe>>>> = OnceLock::new();
    FIFOS.get_or_init(Mutex::default)
}

fn fifo(key: NodeKey) -> Arc<Pipe> {
    let mut fifos = fifos().lock();
    if let Some(pipe) = fifos.get(&key).and_then(Weak::upgrade) {
        return pipe;
    }
    fifos.retain(|_, pipe| pipe.strong_count() > 0);
    let pipe = Pipe::new();
    fifos.insert(key, Arc::downgrade(&pipe));
    pipe
}

/// Opens a fifo for a call: waits for the other end, as fifo(7) says. The call's permission has been checked.
pub fn open_for(call: &Call, location: Location, key: NodeKey, request: OpenRequest) -> Result<Outcome> {
    let pipe = fifo(key);
    let (reads, writes) = (request.reads(), request.writes());
    let nonblocking = request.flags & libc::O_NONBLOCK != 0;
    if writes && !reads && nonblocking && pipe.state.lock().readers == 0 {
        return Err(Errno::ENXIO);
    }
    let before = {
        let state = pipe.state.lock();
        (state.reader_generation, state.writer_generation)
    };
    let end = pipe.end(reads, writes, true);
    let file = OpenFile::new(end, Some(location), request.flags, call.credentials());
    let close_on_exec = request.flags & libc::O_CLOEXEC != 0;
    let met = move |pipe: &Pipe| {
        let state = pipe.state.lock();
        match (reads, writes) {
            (true, false) => state.writers > 0 || state.writer_generation != before.1,
            (false, true) => state.readers > 0 || state.reader_generation != before.0,
            _ => true,
        }
    };
    if nonblocking || met(&pipe) {
        return Ok(Outcome::Value(i64::from(call.install(file, close_on_exec)?.0)));
    }
    let call = call.clone();
    Ok(Outcome::Park(Box::pin(async move {
        park::retry(&pipe.queue, Ready::all(), Deadline::Never, || if met(&pipe) { Ok(()) } else { Err(Errno::EAGAIN) }).await?;
        Ok(Outcome::Value(i64::from(call.install(file, close_on_exec)?.0)))
    })))
}

/// A fifo's end without waiting: for opens that go through a node.
pub fn open_fifo(key: NodeKey, request: OpenRequest) -> Result<Arc<dyn File>> {
    Ok(fifo(key).end(request.reads(), request.writes(), true))
}
