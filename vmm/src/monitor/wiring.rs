//! The machine of a pod: which devices it has, on which threads they run, and what they are wired to. *The* place where they meet.
//!
//! | thread | serves |
//! |---|---|
//! | `devices` | vsock, network cards, console, random numbers, balloon: what never waits for the host |
//! | `files` | the file system: a slow disk of the host's delays nobody else |
//! | `vcpu-N` | the guest's instructions, and the fronts of all devices |
//! | main | the control relay |
//!
//! Every thread is confined before the first instruction of the guest: those of the event loops when they start, those of the virtual processors before they enter
//! the guest, and the main one twice: before it starts the processors ([`Thread::Starting`]), and again, closer, when they run.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use bulkhead_protocol::guest::{BOOT_PORT, GUEST_CID, SHARED_TAG};
use kvm_ioctls::Kvm;

use super::greeting::Door;
use super::relay::Trees;
use super::run::{Guest, Parts, Wired, failed};
use crate::devices::balloon::Balloon;
use crate::devices::console::Console;
use crate::devices::device::Device;
use crate::devices::events::EventLoop;
use crate::devices::fs::{self, FileSystem};
use crate::devices::limiter::Limits;
use crate::devices::net::Net;
use crate::devices::random::Random;
use crate::devices::vsock::Vsock;
use crate::jail::{self, Thread};
use crate::vm::{Configuration, End, Machine, MachineError, Running};

/// The guest kernel's command line, and why.
const COMMAND_LINE: [&str; 6] = [
    // The serial port works from the kernel's first line on, when there is no other device yet: what it says is what a start that fails is explained with.
    "console=ttyS0",
    // A kernel that panics ends: its pod is told at once, and nothing waits for a person.
    "panic=-1",
    // Ends by the processor's own reset, without a search for a keyboard controller that is not there.
    "reboot=t",
    // One serial port; each port that is looked for costs exits.
    "8250.nr_uarts=1",
    // The host gives random numbers before anybody asks; see also the agent's first message.
    "random.trust_cpu=on",
    // No device's name depends on which driver came first.
    "net.ifnames=0",
];
/// How much the kernel says on the serial port, where each byte is an exit: warnings; with `--debug`, everything.
const LEVELS: (&str, &str) = ("quiet loglevel=4", "loglevel=7");

/// Opens KVM for a monitor, which has no device to open in its jail.
///
/// # Errors
/// Why it can not be used: it can not be opened, or does not offer what a machine needs.
pub fn open_kvm() -> Result<File, MachineError> {
    let kvm = crate::vm::open()?;
    // SAFETY: `kvm` is open, and outlives the copy's making. Needed: it lends its descriptor as a number only.
    let copy = unsafe { BorrowedFd::borrow_raw(kvm.as_raw_fd()) }.try_clone_to_owned();
    copy.map(File::from).map_err(|error| MachineError::Host("copying /dev/kvm's descriptor", error))
}

/// Builds and starts a machine. It has left this thread, and every other, confined when it returns.
pub(super) fn wire(parts: Parts) -> Result<Wired, String> {
    let Parts { given, tail } = parts;
    let debug = given.settings.debug;
    let devices = start("devices", Thread::Devices, debug)?;
    let files = start("files", Thread::Files, debug)?;

    let (vsock, ports) = Vsock::new(GUEST_CID, devices.clone()).map_err(failed("the vsock device"))?;
    let (shared, trees) = FileSystem::new(SHARED_TAG, files).map_err(failed("the file-system device"))?;
    let (balloon, _) = Balloon::new(devices.clone());
    let mut all: Vec<Box<dyn Device>> = vec![
        Box::new(vsock),
        Box::new(shared),
        Box::new(Random::new(devices.clone())),
        Box::new(Console::new(Box::new(tail.clone()), devices.clone())),
        Box::new(balloon),
    ];
    for (interface, tap) in given.settings.network.interfaces.iter().zip(given.taps) {
        let mtu = u16::try_from(interface.mtu).unwrap_or(u16::MAX);
        let card = Net::new(tap, interface.mac, mtu, Limits::default(), devices.clone());
        all.push(Box::new(card.map_err(failed(&format!("the network card of {}", interface.name)))?));
    }

    let (door, knocker) = Door::new().map_err(failed("the agent's door"))?;
    ports.listen(BOOT_PORT, Box::new(move |call| knocker.knock(call)));
    if let Some(vsock) = given.vsock {
        ports.serve(vsock.listener).map_err(failed("the vsock socket"))?;
        ports.forward(vsock.directory, vsock.name).map_err(failed("the vsock directory"))?;
    }

    let configuration = Configuration {
        vcpus: given.settings.vcpus,
        memory: given.settings.memory,
        kernel: given.kernel,
        initramfs: Some(given.initramfs),
        command_line: command_line(debug),
        devices: all,
        serial: Box::new(tail),
    };
    let machine = Machine::build(kvm(given.kvm), configuration).map_err(|error| error.to_string())?;
    jail::confine(Thread::Starting, debug).map_err(failed("confining the main thread"))?;
    let running = machine.start(Arc::new(move || jail::confine(Thread::Vcpu, debug))).map_err(|error| error.to_string())?;
    jail::confine(Thread::Control, debug).map_err(failed("confining the control thread"))?;
    let connect = Box::new(move |port| ports.connect(port));
    Ok(Wired { guest: Box::new(running), connect, trees: Box::new(trees), door })
}

fn start(name: &str, thread: Thread, debug: bool) -> Result<EventLoop, String> {
    EventLoop::start(name, move || jail::confine(thread, debug)).map_err(failed(name))
}

fn command_line(debug: bool) -> String {
    let level = if debug { LEVELS.1 } else { LEVELS.0 };
    format!("{} {level}", COMMAND_LINE.join(" "))
}

fn kvm(file: File) -> Kvm {
    // SAFETY: the descriptor is open, ours, and given away here; that it is KVM's, every call on it finds out. Needed: there is no other way to make one from a
    // descriptor, and the jail has no /dev/kvm to open.
    unsafe { Kvm::from_raw_fd(OwnedFd::from(file).into_raw_fd()) }
}

impl Guest for Running {
    fn ended(&self) -> BorrowedFd<'_> {
        Running::ended(self)
    }

    fn end(&self) -> Option<String> {
        Running::end(self).map(|end| match end {
            End::Shutdown => String::from("it switched itself off"),
            End::Reset => String::from("it asked for a reset"),
            End::Crash(why) => why,
        })
    }
}

impl Trees for fs::Handle {
    fn add(&self, name: &str, tree: OwnedFd) -> io::Result<()> {
        // Whether it may be written to is the mount's own attribute, set by who has made it.
        fs::Handle::add(self, name, tree, false)
    }

    fn remove(&self, name: &str) {
        fs::Handle::remove(self, name);
    }
}
