//! A running guest: one thread for each processor.
//!
//! ```text
//! confine -> wait for the start -> ( KVM_RUN -> answer the exit )* -> end
//! ```
//!
//! A thread is in the guest nearly always, and only a signal takes it out. Two races come with that. A signal between the look at its orders and `KVM_RUN` would
//! be slept through; so its handler sets `immediate_exit` in the page that the thread shares with KVM, and `KVM_RUN` then returns at once. And the flag could be
//! left from an order that has been carried out; so it is cleared *before* the look, and an order is given *before* its signal is sent. At worst a thread looks
//! once too often.
//!
//! The first processor that ends the guest decides how it ended. The order to stop reaches the others, and the eventfd of [`Running::ended`] the owner.
//!
//! Locks: the list of threads before the state that they share; no thread holds either in `KVM_RUN` or while it answers an exit.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run};
use kvm_ioctls::VcpuExit;
use nix::sys::eventfd::{EfdFlags, EventFd};
use vm_memory::GuestAddress;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::bare::Bare;
use super::error::MachineError;
use super::vcpu::Vcpu;
use crate::devices::bus::{Bus, Request};

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    Shutdown,
    /// It asked for a reset. There is none: whoever wants the guest again starts another machine.
    Reset,
    /// It cannot go on; why, for a person.
    Crash(String),
}

/// What the threads are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Orders {
    Run,
    Pause,
    Stop,
}

/// What confines a thread ([`crate`]'s jail): system calls, above all.
pub type Confine = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

struct State {
    orders: Orders,
    /// Threads that are in neither `KVM_RUN` nor a device, and will not be until they are ordered to run.
    resting: usize,
    end: Option<End>,
}

struct Shared {
    state: Mutex<State>,
    /// `state` has changed.
    changed: Condvar,
    /// `state.orders` again, for a look without the lock. Written under it.
    orders: AtomicU8,
    ended: EventFd,
    threads: Mutex<Vec<JoinHandle<()>>>,
    processors: usize,
    bus: Bus,
}

/// A running guest. Dropped, it is stopped.
pub struct Running {
    shared: Arc<Shared>,
    /// The machine is closed when its processors are.
    _machine: Bare,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signal that takes a thread out of the guest.
fn kick_signal() -> i32 {
    SIGRTMIN() + 1
}

thread_local! {
    /// The page that this thread shares with KVM, while it has one.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn kicked(_: i32, _: *mut libc::siginfo_t, _: *mut std::ffi::c_void) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: the pointer is this very thread's (thread-local, of constant initialisation and without a destructor: reading it is safe in a handler), and
        // it is null again before the page is unmapped ([`Page`]). The one byte written is what KVM documents for being written by a handler; it is
        // volatile, for KVM reads it. Needed: no lock may be taken here, and this is the race's only cure.
        unsafe { ptr::write_volatile(&raw mut (*run).immediate_exit, 1) };
    }
}

/// Publishes a processor's page to this thread's handler for as long as it lives; it must not outlive the processor, which it borrows nothing of because the
/// thread needs it meanwhile.
struct Page;

impl Page {
    fn of(vcpu: &mut Vcpu) -> Self {
        RUN.set(vcpu.handle_mut().get_kvm_run());
        Page
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        RUN.set(ptr::null_mut());
    }
}

impl Running {
    /// Starts a thread for each processor, and the guest when all have confined themselves.
    ///
    /// # Errors
    /// The host's; what `confine` says. No instruction of the guest has run then.
    pub(super) fn start(machine: Bare, processors: Vec<Vcpu>, bus: Bus, confine: Confine) -> Result<Self, MachineError> {
        register_signal_handler(kick_signal(), kicked).map_err(MachineError::kvm("sigaction"))?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let ended = EventFd::from_flags(flags).map_err(|error| MachineError::Host("eventfd", error.into()))?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State { orders: Orders::Pause, resting: 0, end: None }),
            changed: Condvar::new(),
            orders: AtomicU8::new(Orders::Pause as u8),
            ended,
            threads: Mutex::default(),
            processors: processors.len(),
            bus,
        });
        let running = Self { shared, _machine: machine };
        let (report, confined) = mpsc::channel();
        for vcpu in processors {
            let (shared, confine, report) = (running.shared.clone(), confine.clone(), report.clone());
            let thread = std::thread::Builder::new().name(format!("vcpu-{}", vcpu.index())).spawn(move || {
                let result = confine();
                let good = result.is_ok();
                let _ = report.send((vcpu.index(), result));
                drop(report);
                if good {
                    shared.serve(vcpu);
                }
            });
            // What fails here drops `running`, which stops the threads there are.
            let thread = thread.map_err(|error| MachineError::Host("starting a thread", error))?;
            lock(&running.shared.threads).push(thread);
        }
        drop(report);
        for (index, result) in confined {
            result.map_err(|error| MachineError::Confine(index, error))?;
        }
        running.resume();
        Ok(running)
    }

    /// Readable once the guest has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.shared.ended.as_fd()
    }

    /// How it ended, if it has. A guest that was stopped has not.
    pub fn end(&self) -> Option<End> {
        lock(&self.shared.state).end.clone()
    }

    /// Takes every processor out of the guest; when it returns none runs, nor serves a device, until [`Running::resume`]. Devices' workers go on.
    pub fn pause(&self) {
        if self.shared.order(Orders::Pause) {
            let state = lock(&self.shared.state);
            let paused = |state: &mut State| state.orders == Orders::Pause && state.resting < self.shared.processors;
            drop(self.shared.changed.wait_while(state, paused).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.shared.order(Orders::Run);
    }

    /// Takes every processor out of the guest for good, and ends their threads.
    pub fn stop(&mut self) {
        self.shared.order(Orders::Stop);
        let threads = std::mem::take(&mut *lock(&self.shared.threads));
        for thread in threads {
            // A thread that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Gives an order, unless the last one was to stop: that one stands. Says whether it was given.
    fn order(&self, orders: Orders) -> bool {
        let threads = lock(&self.threads);
        let mut state = lock(&self.state);
        if state.orders == Orders::Stop {
            return false;
        }
        state.orders = orders;
        self.orders.store(orders as u8, Ordering::SeqCst);
        self.changed.notify_all();
        drop(state);
        if orders != Orders::Run {
            for thread in threads.iter() {
                // A thread that is over needs none.
                let _ = thread.kill(kick_signal());
            }
        }
        true
    }

    /// The guest has ended.
    fn finish(&self, end: End) {
        lock(&self.state).end.get_or_insert(end);
        // It fails only where the counter would overflow: it is readable then.
        let _ = self.ended.write(1);
        self.order(Orders::Stop);
    }

    /// Waits until there is an order to run; says whether it was that, and not to stop.
    fn rest(&self) -> bool {
        let mut state = lock(&self.state);
        state.resting += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| state.orders == Orders::Pause).unwrap_or_else(PoisonError::into_inner);
        state.resting -= 1;
        state.orders == Orders::Run
    }

    /// The life of a processor's thread.
    fn serve(&self, mut vcpu: Vcpu) {
        let page = Page::of(&mut vcpu);
        loop {
            vcpu.handle_mut().set_kvm_immediate_exit(0);
            if self.orders.load(Ordering::SeqCst) != Orders::Run as u8 {
                if !self.rest() {
                    break;
                }
                // Tells the guest that it was away, so that its watchdogs do not bark. Without KVM's clock in use there is nobody to tell.
                let _ = vcpu.handle_mut().kvmclock_ctrl();
                continue;
            }
            if let Some(end) = self.step(&mut vcpu) {
                self.finish(end);
                break;
            }
        }
        drop(page);
    }

    /// Runs the guest to its next exit, and answers that. Gives the end, if it is one.
    fn step(&self, vcpu: &mut Vcpu) -> Option<End> {
        let index = vcpu.index();
        let crash = |what: String| Some(End::Crash(format!("virtual processor {index}: {what}")));
        let request = match vcpu.handle_mut().run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                self.bus.port_read(port, data);
                None
            }
            Ok(VcpuExit::IoOut(port, data)) => self.bus.port_write(port, data),
            Ok(VcpuExit::MmioRead(address, data)) => {
                self.bus.read(GuestAddress(address), data);
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                self.bus.write(GuestAddress(address), data);
                None
            }
            // A signal; on some kernels an exit of its own.
            Ok(VcpuExit::Intr) => None,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => None,
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => Some(Request::PowerOff),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => Some(Request::Reset),
            Ok(VcpuExit::Shutdown) => return crash("triple fault".into()),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                return crash(format!("the host's processor refused to enter the guest (reason {reason:#x})"));
            }
            Ok(VcpuExit::InternalError) => {
                let what = internal_error(vcpu);
                return crash(what);
            }
            Ok(VcpuExit::MemoryFault { gpa, .. }) => return crash(format!("guest memory at {gpa:#x} cannot be had from the host")),
            Ok(other) => return crash(format!("an exit that no guest here should cause: {other:?}")),
            Err(error) => return crash(format!("KVM_RUN: {error}")),
        };
        request.map(|request| match request {
            Request::PowerOff => End::Shutdown,
            Request::Reset => End::Reset,
        })
    }
}

/// What `KVM_EXIT_INTERNAL_ERROR` says, and where the guest was.
fn internal_error(vcpu: &mut Vcpu) -> String {
    // SAFETY: the exit reason says that this is the union's field in use; all its fields are plain numbers in any case. Needed: it is a union of C's.
    let code = unsafe { vcpu.handle_mut().get_kvm_run().__bindgen_anon_1.internal.suberror };
    let what = match code {
        1 => "an instruction that KVM cannot emulate",
        2 => "an exception while another was delivered",
        3 => "an exit while an exception was delivered",
        4 => "an exit that KVM does not expect",
        _ => "an error of KVM's",
    };
    match vcpu.handle_mut().get_regs() {
        Ok(registers) => format!("{what} ({code}), at {:#x}", registers.rip),
        Err(_) => format!("{what} ({code})"),
    }
}
