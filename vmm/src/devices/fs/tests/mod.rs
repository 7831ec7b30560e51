//! The device, as a driver sees it: requests go through virtqueues in guest memory, to temporary directories.

mod attacks;
mod kernel;
mod operations;
mod trees;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuse_backend_rs::abi::fuse_abi::{
    AttrOut, CreateIn, EntryOut, GetattrIn, InHeader, InitIn, InitOut, Opcode, OpenIn, OpenOut, OutHeader, ROOT_ID, ReadIn, ReleaseIn,
    WriteIn, WriteOut,
};
use nix::errno::Errno;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::device::Shared;
use super::worker::Worker;
use crate::devices::device::{Activation, ActiveQueue, Interrupt};

const MEMORY: usize = 8 << 20;
const SIZE: u16 = 64;
const REQUEST: u64 = 0x10_0000;
const REPLY: u64 = 0x40_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A driver, and the device behind it.
struct Guest {
    memory: GuestMemoryMmap,
    shared: Arc<Shared>,
    worker: Worker,
    interrupt: Interrupt,
    available: [u16; 2],
    /// Who asks.
    who: (u32, u32),
}

/// Where a queue's rings are: descriptors, available, used.
fn rings(queue: usize) -> [u64; 3] {
    let base = 0x1_0000 * (queue as u64 + 1);
    [base, base + 0x4000, base + 0x8000]
}

fn queue(index: usize) -> Queue {
    let mut queue = Queue::new(SIZE).unwrap();
    let [descriptors, available, used] = rings(index).map(|address| Some(address as u32));
    queue.set_desc_table_address(descriptors, Some(0));
    queue.set_avail_ring_address(available, Some(0));
    queue.set_used_ring_address(used, Some(0));
    queue.set_ready(true);
    queue
}

fn activation(memory: &GuestMemoryMmap) -> (Activation, [EventFd; 2], Interrupt) {
    let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let kicks = [event(), event()];
    let interrupt = Interrupt::new(EventFd::new(0).unwrap());
    let queues = (0..2).map(|index| (index, ActiveQueue { queue: queue(index), kick: kicks[index].try_clone().unwrap() })).collect();
    (Activation { memory: memory.clone(), queues, interrupt: interrupt.clone(), features: 0 }, kicks, interrupt)
}

/// Puts a chain into a queue; `available` counts them.
fn submit(memory: &GuestMemoryMmap, index: usize, available: &mut u16, descriptors: &[Descriptor]) {
    let [table, ring, _] = rings(index);
    for (index, descriptor) in (0..).zip(descriptors) {
        memory.write_obj(*descriptor, GuestAddress(table + 16 * index)).unwrap();
    }
    memory.write_obj(0u16, GuestAddress(ring + 4 + 2 * u64::from(*available % SIZE))).unwrap();
    *available = available.wrapping_add(1);
    memory.write_obj(*available, GuestAddress(ring + 2)).unwrap();
}

/// How many chains of a queue were used, and how long the last answer was.
fn used(memory: &GuestMemoryMmap, index: usize) -> (u16, u32) {
    let [_, _, ring] = rings(index);
    let count: u16 = memory.read_obj(GuestAddress(ring + 2)).unwrap();
    let last = u64::from(count.wrapping_sub(1) % SIZE);
    (count, memory.read_obj(GuestAddress(ring + 4 + 8 * last + 4)).unwrap())
}

fn header(opcode: u32, node: u64, (uid, gid): (u32, u32), length: usize) -> InHeader {
    InHeader { len: (size_of::<InHeader>() + length) as u32, opcode, unique: 7, nodeid: node, uid, gid, ..InHeader::default() }
}

impl Guest {
    /// One that has mounted.
    fn new() -> Self {
        let mut guest = Self::unmounted();
        let init: InitOut =
            guest.call(Opcode::Init, ROOT_ID, &[InitIn { major: 7, minor: 38, max_readahead: 4096, flags: u32::MAX }.as_slice()]).unwrap();
        assert_eq!((init.major, init.max_write), (7, 1 << 20));
        guest
    }

    fn unmounted() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let shared = Arc::new(Shared::new().unwrap());
        let (activation, _, interrupt) = activation(&memory);
        let worker = Worker::new(activation, shared.clone()).unwrap();
        Self { memory, shared, worker, interrupt, available: [0; 2], who: (0, 0) }
    }

    /// Shares a directory or a file.
    fn share(&self, name: &str, path: impl AsRef<Path>, read_only: bool) {
        self.shared.add(name, hold(path), read_only).unwrap();
    }

    /// Any bytes as a request, with that much room for an answer: the answer's bytes.
    fn raw(&mut self, queue: usize, request: &[u8], room: usize) -> Vec<u8> {
        self.memory.write_slice(request, GuestAddress(REQUEST)).unwrap();
        // In two parts, neither of which ends where a structure does.
        let first = request.len().min(13) as u32;
        let mut chain =
            vec![Descriptor::new(REQUEST, first, NEXT, 1), Descriptor::new(REQUEST + u64::from(first), request.len() as u32 - first, 0, 0)];
        if room > 0 {
            let part = room.min(21) as u32;
            chain[1] = Descriptor::new(REQUEST + u64::from(first), request.len() as u32 - first, NEXT, 2);
            chain.push(Descriptor::new(REPLY, part, WRITE | NEXT, 3));
            chain.push(Descriptor::new(REPLY + u64::from(part), room as u32 - part, WRITE, 0));
        }
        let (before, _) = used(&self.memory, queue);
        submit(&self.memory, queue, &mut self.available[queue], &chain);
        self.worker.serve();
        let (after, length) = used(&self.memory, queue);
        assert_eq!(after, before.wrapping_add(1));
        assert!(length as usize <= room);
        let mut answer = vec![0; length as usize];
        self.memory.read_slice(&mut answer, GuestAddress(REPLY)).unwrap();
        answer
    }

    /// What follows the answer's header.
    fn bytes(&mut self, opcode: Opcode, node: u64, parts: &[&[u8]], room: usize) -> Result<Vec<u8>, Errno> {
        let body = parts.concat();
        let request = [header(opcode as u32, node, self.who, body.len()).as_slice(), &body].concat();
        let answer = self.raw(1, &request, room + size_of::<OutHeader>());
        let (head, rest) = answer.split_at(size_of::<OutHeader>());
        let mut out = OutHeader::default();
        out.as_mut_slice().copy_from_slice(head);
        assert_eq!((out.unique, out.len as usize), (7, answer.len()));
        if out.error == 0 { Ok(rest.to_vec()) } else { Err(Errno::from_raw(-out.error)) }
    }

    fn call<T: ByteValued>(&mut self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> Result<T, Errno> {
        let bytes = self.bytes(opcode, node, parts, size_of::<T>())?;
        let mut object = T::zeroed();
        object.as_mut_slice().copy_from_slice(&bytes);
        Ok(object)
    }

    /// A request whose answer is a header alone.
    fn plain(&mut self, opcode: Opcode, node: u64, parts: &[&[u8]]) -> Result<(), Errno> {
        self.bytes(opcode, node, parts, 0).map(|rest| assert!(rest.is_empty()))
    }

    fn lookup(&mut self, parent: u64, name: &str) -> Result<EntryOut, Errno> {
        self.call(Opcode::Lookup, parent, &[name.as_bytes(), b"\0"])
    }

    /// The node at a path from the root.
    fn walk(&mut self, path: &str) -> u64 {
        path.split('/').fold(ROOT_ID, |node, name| self.lookup(node, name).unwrap_or_else(|error| panic!("{name}: {error}")).nodeid)
    }

    fn attributes(&mut self, node: u64) -> Result<AttrOut, Errno> {
        self.call(Opcode::Getattr, node, &[GetattrIn::default().as_slice()])
    }

    fn open(&mut self, node: u64, flags: i32) -> Result<OpenOut, Errno> {
        self.call(Opcode::Open, node, &[OpenIn { flags: flags as u32, fuse_flags: 0 }.as_slice()])
    }

    fn create(&mut self, parent: u64, name: &str, flags: i32, mode: u32) -> Result<(EntryOut, OpenOut), Errno> {
        let create = CreateIn { flags: flags as u32, mode, umask: 0, fuse_flags: 0 };
        let bytes = self.bytes(Opcode::Create, parent, &[create.as_slice(), name.as_bytes(), b"\0"], 144)?;
        let (mut entry, mut open) = (EntryOut::default(), OpenOut::default());
        entry.as_mut_slice().copy_from_slice(&bytes[..128]);
        open.as_mut_slice().copy_from_slice(&bytes[128..]);
        Ok((entry, open))
    }

    fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        self.bytes(Opcode::Read, node, &[ReadIn { fh, offset, size, ..ReadIn::default() }.as_slice()], size as usize)
    }

    fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8], flags: i32) -> Result<u32, Errno> {
        let write = WriteIn { fh, offset, size: data.len() as u32, flags: flags as u32, ..WriteIn::default() };
        self.call::<WriteOut>(Opcode::Write, node, &[write.as_slice(), data]).map(|out| out.size)
    }

    fn release(&mut self, node: u64, fh: u64) -> Result<(), Errno> {
        self.plain(Opcode::Release, node, &[ReleaseIn { fh, ..ReleaseIn::default() }.as_slice()])
    }

    fn forget(&mut self, node: u64, count: u64) {
        let request = [header(Opcode::Forget as u32, node, self.who, 8).as_slice(), &count.to_le_bytes()].concat();
        assert_eq!(self.raw(0, &request, 0), [0_u8; 0]);
    }

    /// Names in a directory, with the node of each where `plus`.
    fn list(&mut self, directory: u64, plus: bool, room: u32) -> Vec<(String, u64)> {
        let fh = self.call::<OpenOut>(Opcode::Opendir, directory, &[OpenIn::default().as_slice()]).unwrap().fh;
        let (opcode, skip) = if plus { (Opcode::Readdirplus, 128) } else { (Opcode::Readdir, 0) };
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let read = ReadIn { fh, offset, size: room, ..ReadIn::default() };
            let bytes = self.bytes(opcode, directory, &[read.as_slice()], room as usize).unwrap();
            if bytes.is_empty() {
                break;
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let number = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap());
                let node = if plus { number(0) } else { 0 };
                offset = number(skip + 8);
                let length = number(skip + 16) as u32 as usize;
                names.push((String::from_utf8(rest[skip + 24..skip + 24 + length].to_vec()).unwrap(), node));
                rest = &rest[(skip + 24 + length).next_multiple_of(8)..];
            }
        }
        self.plain(Opcode::Releasedir, directory, &[ReleaseIn { fh, ..ReleaseIn::default() }.as_slice()]).unwrap();
        names.sort();
        names
    }

    fn is_broken(&self) -> bool {
        self.interrupt.status().load(Ordering::SeqCst) != 0
    }

    /// How many descriptors the guest costs.
    fn held(&self) -> usize {
        let server = self.shared.server();
        server.nodes.held() + server.handles.count()
    }
}

/// A path as a tree's top.
fn hold(path: impl AsRef<Path>) -> OwnedFd {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path).unwrap().into()
}
