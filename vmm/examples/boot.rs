//! Boots a kernel in a machine: for trying the machine by itself, on a host whose KVM works (`hack/lab`).
//!
//! ```text
//! boot KERNEL INITRAMFS PROCESSORS MEBIBYTES COMMAND-LINE [PAUSE-SECONDS]
//! ```
//!
//! The guest's serial port is the standard output. Beside it the machine has one device, a source of random numbers. With PAUSE-SECONDS the guest is paused for
//! that long after its first second. Exits 0 when the guest switches itself off, 3 when it asks for a reset, 1 when it crashes, 2 when there is no machine.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_vmm::devices::device::{Activation, ActiveQueue, Device, Interrupt, Kind};
use bulkhead_vmm::devices::events::{EventLoop, Running as OnLoop};
use bulkhead_vmm::vm::{self, Configuration, End, Machine};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestMemoryMmap};

fn main() -> ExitCode {
    match run() {
        Ok(End::Shutdown) => ExitCode::SUCCESS,
        Ok(End::Reset) => ExitCode::from(3),
        Ok(End::Crash(why)) => {
            eprintln!("boot: the guest crashed: {why}");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("boot: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<End, Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, initramfs, vcpus, memory, command_line, rest @ ..] = &arguments[..] else {
        return Err("boot KERNEL INITRAMFS PROCESSORS MEBIBYTES COMMAND-LINE [PAUSE-SECONDS]".into());
    };
    let events = EventLoop::start("devices", || Ok(()))?;
    let started = Instant::now();
    let configuration = Configuration {
        vcpus: vcpus.parse()?,
        memory: memory.parse::<u64>()? << 20,
        kernel: File::open(kernel)?,
        initramfs: Some(File::open(initramfs)?),
        command_line: command_line.clone(),
        devices: vec![Box::new(Random { events, running: None })],
        serial: Box::new(io::stdout()),
    };
    let mut running = Machine::build(vm::open()?, configuration)?.start(Arc::new(|| Ok(())))?;
    eprintln!("boot: started after {:?}", started.elapsed());
    let wait = |timeout: PollTimeout| poll(&mut [PollFd::new(running.ended(), PollFlags::POLLIN)], timeout);
    if let [seconds] = rest
        && wait(PollTimeout::from(1000u16))? == 0
    {
        let asked = Instant::now();
        running.pause();
        eprintln!("boot: paused within {:?}", asked.elapsed());
        std::thread::sleep(Duration::from_secs(seconds.parse()?));
        eprintln!("boot: resuming");
        running.resume();
    }
    wait(PollTimeout::NONE)?;
    running.stop();
    eprintln!("boot: ended after {:?}", started.elapsed());
    running.end().ok_or("the guest ended without a reason".into())
}

/// A source of random numbers: the host's /dev/urandom.
struct Random {
    events: EventLoop,
    running: Option<OnLoop>,
}

impl Device for Random {
    fn kind(&self) -> Kind {
        Kind::Random
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn read_configuration(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, interrupt, .. } = activation;
        let (_, queue) = queues.into_iter().next().ok_or(io::ErrorKind::InvalidInput)?;
        let worker = Worker { memory, queue, interrupt, source: File::open("/dev/urandom")? };
        self.running = Some(self.events.add(Box::new(worker))?);
        eprintln!("boot: the driver is ready");
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = self.events.remove(running);
        }
    }
}

struct Worker {
    memory: GuestMemoryMmap,
    queue: ActiveQueue,
    interrupt: Interrupt,
    source: File,
}

impl MutEventSubscriber for Worker {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        let _ = self.queue.kick.read();
        while let Some(mut chain) = self.queue.queue.pop_descriptor_chain(&self.memory) {
            let head = chain.head_index();
            let mut written = 0;
            for descriptor in chain.by_ref().filter(|descriptor| descriptor.is_write_only()) {
                let mut bytes = vec![0; descriptor.len().min(4096) as usize];
                if self.source.read_exact(&mut bytes).is_err() || self.memory.write_slice(&bytes, descriptor.addr()).is_err() {
                    return self.interrupt.needs_reset();
                }
                written += bytes.len() as u32;
            }
            if self.queue.queue.add_used(&self.memory, head, written).is_err() {
                return self.interrupt.needs_reset();
            }
        }
        self.interrupt.queue();
        let _ = io::stderr().flush();
    }

    fn init(&mut self, operations: &mut EventOps) {
        let _ = operations.add(Events::new(&self.queue.kick, EventSet::IN));
    }
}
