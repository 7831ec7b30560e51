//! Whether KVM here runs guests.
//!
//! That `/dev/kvm` exists and opens says little. On a host whose KVM is *PVM* (guests without hardware virtualisation) only kernels made for it run at speed:
//! a stock kernel's instructions are emulated one by one, by an emulator that does not know all of them. So a guest is run: a few instructions in the state
//! that a kernel begins in, twenty million times round a loop, and a word at the end. Hardware needs some milliseconds for it, and even KVM nested in a software
//! emulation a fraction of a second; an emulator of single instructions misses the deadline.
//!
//! The guest holds no data and no device, so there is nothing in it to attack or to leak.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuExit;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::bare::{self, Bare};
use super::cpuid::Features;
use super::error::MachineError;
use super::vcpu::Vcpu;

/// How long the guest may take.
pub const DEADLINE: Duration = Duration::from_secs(3);

/// Why KVM here runs no guests.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The guest is not done in time.
    #[error("a guest of one loop was not done within {} s{}", DEADLINE.as_secs(), pvm_suffix(*.pvm))]
    Late {
        /// The host's KVM is PVM.
        pvm: bool,
    },
    /// The guest ended in another way than it was written to.
    #[error("a guest of one loop ended in {how}{}", pvm_suffix(*.pvm))]
    Odd {
        /// The exit, as KVM names it.
        how: String,
        /// The host's KVM is PVM.
        pvm: bool,
    },
}

fn pvm_suffix(pvm: bool) -> &'static str {
    if pvm { ": this host's KVM is PVM, which runs no stock kernel" } else { "" }
}

/// Memory of the guest, bytes.
const MEMORY: u64 = 64 << 10;
/// Where its code is.
const CODE: GuestAddress = GuestAddress(0x1000);
/// The port that it writes to at its end, and what.
const PORT: u16 = 0xf4;
const WORD: u8 = 0x42;

/// Its code, in 32-bit instructions.
const GUEST: [u8; 13] = [
    0xb9, 0x00, 0x2d, 0x31, 0x01, // mov ecx, 20,000,000
    0x49, // again: dec ecx
    0x75, 0xfd, // jnz again
    0xb0, WORD, // mov al, WORD
    0xe6, PORT as u8, // out PORT, al
    0xf4,       // hlt
];

/// Runs the guest; gives how long it took. Blocks for [`DEADLINE`] at most, and a little.
pub fn run() -> Result<Duration, ProbeError> {
    let kvm = bare::open()?;
    let machine = Bare::new(&kvm, MEMORY)?;
    machine.memory().write_slice(&GUEST, CODE).map_err(|error| MachineError::Memory(MEMORY, error.to_string()))?;
    let mut vcpu = Vcpu::new(&machine, 0)?;
    vcpu.set_features(&Features::of(&kvm)?, 1)?;
    vcpu.start_flat(CODE, GuestAddress(0))?;

    // A signal takes a processor out of the guest. Its handler does nothing: the call that it interrupts says so.
    register_signal_handler(SIGRTMIN(), nothing).map_err(|error| MachineError::Kvm("sigaction", error))?;
    let (sender, done) = mpsc::channel();
    let started = Instant::now();
    let runner = std::thread::Builder::new().name("vcpu-probe".into()).spawn(move || {
        let how = match vcpu.handle_mut().run() {
            Ok(VcpuExit::IoOut(PORT, [WORD])) => None,
            Ok(other) => Some(format!("{other:?}")),
            Err(error) => Some(error.to_string()),
        };
        // Whoever asked may have stopped waiting.
        let _ = sender.send((how, started.elapsed()));
    });
    let runner = runner.map_err(|error| MachineError::Kvm("starting a thread", error.into()))?;
    let answer = done.recv_timeout(DEADLINE);
    // A signal that comes just before the guest is entered is lost: again until the thread is done.
    while !runner.is_finished() && answer.is_err() {
        let _ = runner.kill(SIGRTMIN());
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = runner.join();
    match answer {
        Ok((None, took)) => Ok(took),
        Ok((Some(how), _)) => Err(ProbeError::Odd { how, pvm: is_pvm() }),
        Err(_) => Err(ProbeError::Late { pvm: is_pvm() }),
    }
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut std::ffi::c_void) {}

/// Whether the host's KVM is PVM: its module, built in or loaded, says so.
pub fn is_pvm() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_what_its_comments_say() {
        assert_eq!(u32::from_le_bytes([GUEST[1], GUEST[2], GUEST[3], GUEST[4]]), 20_000_000);
        // The jump leads back to the decrement.
        assert_eq!(8i8.wrapping_add(GUEST[7] as i8), 5);
    }

    /// Whatever this machine has, the answer comes in time and names a reason.
    #[test]
    fn an_answer_comes_in_time() {
        let started = Instant::now();
        match run() {
            Ok(took) => assert!(took < DEADLINE),
            Err(error) => {
                println!("KVM here: {error}");
                assert!(!error.to_string().is_empty());
            }
        }
        assert!(started.elapsed() < DEADLINE + Duration::from_secs(5));
    }
}
