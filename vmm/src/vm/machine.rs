//! A whole machine, from its configuration to its start.

use std::fs::File;
use std::io::{self, Write};

use kvm_ioctls::{IoEventAddress, Kvm};
use vm_memory::{Address, Bytes, GuestMemoryMmap};

use super::acpi;
use super::bare::Bare;
use super::boot::{self, Payload, Start};
use super::cpuid::Features;
use super::error::MachineError;
use super::firmware;
use super::layout;
use super::running::{Confine, Running};
use super::vcpu::Vcpu;
use crate::devices::bus::Bus;
use crate::devices::device::Device;
use crate::devices::mmio::{Transport, registers::QUEUE_NOTIFY};
use crate::devices::serial::Serial;

/// Most processors of a machine. A pod that needs more wants another wall; the bound keeps the tables and the guest's local APIC numbers small.
pub const MOST_PROCESSORS: usize = 32;

/// What a machine is to be.
pub struct Configuration {
    /// Virtual processors, 1 to [`MOST_PROCESSORS`].
    pub vcpus: u8,
    /// Guest memory, bytes: whole pages, [`layout::LEAST_MEMORY`] at least.
    pub memory: u64,
    /// An uncompressed kernel with a PVH note, or a bzImage.
    pub kernel: File,
    /// Its first root file system.
    pub initramfs: Option<File>,
    /// Its command line, complete: nothing is added.
    pub command_line: String,
    /// The virtio devices, in the order in which the guest finds them; [`layout::MOST_DEVICES`] at most.
    pub devices: Vec<Box<dyn Device>>,
    /// Where the serial port's output goes. Written to by processors' threads: it should not block.
    pub serial: Box<dyn Write + Send>,
}

/// A machine that has not started yet.
pub struct Machine {
    bare: Bare,
    processors: Vec<Vcpu>,
    bus: Bus,
}

impl Machine {
    /// Builds it: nothing of the guest has run when this returns, but its memory is ready.
    ///
    /// # Errors
    /// A configuration that cannot be, by name; files that are no kernel; the host's.
    pub fn build(kvm: Kvm, configuration: Configuration) -> Result<Machine, MachineError> {
        let Configuration { vcpus, memory: size, kernel, initramfs, command_line, devices, serial } = configuration;
        let features = Features::of(&kvm)?;
        check(vcpus, size, devices.len(), kvm.get_max_vcpus(), features.address_bits())?;

        let bare = Bare::new(&kvm, size)?;
        let count = devices.len();
        let root = acpi::write(bare.memory(), vcpus, count)?;
        firmware::write(bare.memory())?;
        write_generation(bare.memory())?;
        let start = boot::load(bare.memory(), size, Payload { kernel, initramfs, command_line: &command_line }, root)?;

        // Local APICs come with the processors, if the controllers are there first.
        bare.create_interrupt_controllers()?;
        let bus = connect(&bare, devices, serial)?;
        let processors = (0..vcpus).map(|index| Vcpu::new(&bare, index)).collect::<Result<Vec<_>, _>>()?;
        for vcpu in &processors {
            vcpu.set_features(&features, vcpus)?;
            vcpu.set_up()?;
        }
        match start {
            Start::Flat { entry } => processors[0].start_flat(entry, layout::START_INFORMATION)?,
            Start::Long { entry } => processors[0].start_long(entry, layout::ZERO_PAGE, layout::PAGE_TABLES, layout::DESCRIPTORS)?,
        }
        Ok(Machine { bare, processors, bus })
    }

    /// Starts it. `confine` runs first on each processor's thread, before the first instruction of the guest on any of them.
    ///
    /// # Errors
    /// The host's; what `confine` says.
    pub fn start(self, confine: Confine) -> Result<Running, MachineError> {
        Running::start(self.bare, self.processors, self.bus, confine)
    }
}

/// Whether there can be such a machine.
fn check(processors: u8, memory: u64, devices: usize, most_processors: usize, address_bits: u32) -> Result<(), MachineError> {
    let most = MOST_PROCESSORS.min(most_processors);
    if processors == 0 || usize::from(processors) > most {
        return Err(MachineError::Processors { asked: processors, most });
    }
    if memory < layout::LEAST_MEMORY {
        return Err(MachineError::TooLittleMemory(memory));
    }
    if !memory.is_multiple_of(layout::PAGE) {
        return Err(MachineError::OddMemory(memory));
    }
    // The hole counts: memory behind it ends that much later.
    let end = memory.checked_add(layout::HOLE_END.unchecked_offset_from(layout::HOLE));
    if end.is_none_or(|end| end.checked_shr(address_bits).is_some_and(|rest| rest != 0)) {
        return Err(MachineError::TooMuchMemory { memory, bits: address_bits });
    }
    if devices > layout::MOST_DEVICES {
        return Err(MachineError::Devices(devices));
    }
    Ok(())
}

/// Gives each device its registers, and has KVM signal its kicks and listen to its line.
fn connect(bare: &Bare, devices: Vec<Box<dyn Device>>, output: Box<dyn Write + Send>) -> Result<Bus, MachineError> {
    let descriptors = |error| MachineError::Host("eventfd", error);
    let serial = Serial::new(output).map_err(descriptors)?;
    bare.handle().register_irqfd(serial.line(), layout::SERIAL_INPUT).map_err(MachineError::kvm("KVM_IRQFD"))?;
    let mut transports = Vec::with_capacity(devices.len());
    for (index, device) in devices.into_iter().enumerate() {
        let transport = Transport::new(device, bare.memory().clone()).map_err(descriptors)?;
        bare.handle().register_irqfd(transport.line(), layout::input(index)).map_err(MachineError::kvm("KVM_IRQFD"))?;
        let notify = IoEventAddress::Mmio(layout::device(index).raw_value() + QUEUE_NOTIFY);
        for (queue, kick) in transport.kicks().iter().enumerate() {
            // The value written is the queue's index: one eventfd for each.
            bare.handle().register_ioevent(kick, &notify, queue as u32).map_err(MachineError::kvm("KVM_IOEVENTFD"))?;
        }
        transports.push(transport);
    }
    Ok(Bus::new(serial, transports))
}

/// A generation identifier that no other machine has: 128 random bits.
fn write_generation(memory: &GuestMemoryMmap) -> Result<(), MachineError> {
    let mut identifier = [0u8; 16];
    // SAFETY: writes at most 16 bytes into an array of 16 that nothing else refers to. Needed: the standard library has no random numbers, and this process may
    // have no /dev.
    let got = unsafe { libc::getrandom(identifier.as_mut_ptr().cast(), identifier.len(), 0) };
    if got != identifier.len() as isize {
        // Up to 256 bytes come whole or not at all (getrandom(2)).
        return Err(MachineError::Host("getrandom", io::Error::last_os_error()));
    }
    memory.write_obj(identifier, layout::GENERATION).map_err(|error| MachineError::Memory(16, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named() {
        let refusal = |processors, memory, devices| check(processors, memory, devices, 1024, 40).unwrap_err().to_string();
        assert!(check(1, layout::LEAST_MEMORY, 0, 1024, 40).is_ok());
        assert!(check(32, 512 << 30, layout::MOST_DEVICES, 1024, 40).is_ok());
        assert_eq!(refusal(0, 1 << 30, 0), "0 virtual processors: 1 to 32 are possible here");
        assert_eq!(refusal(33, 1 << 30, 0), "33 virtual processors: 1 to 32 are possible here");
        assert_eq!(check(5, 1 << 30, 0, 4, 40).unwrap_err().to_string(), "5 virtual processors: 1 to 4 are possible here");
        assert_eq!(refusal(1, 63 << 20, 0), "66060288 bytes of guest memory: at least 67108864 are needed");
        assert_eq!(refusal(1, (1 << 30) + 1, 0), "1073741825 bytes of guest memory: not a multiple of 4096");
        assert_eq!(refusal(1, 1 << 40, 0), "1099511627776 bytes of guest memory: this host's processor addresses 40 bits for a guest");
        assert!(refusal(1, u64::MAX - 4095, 0).contains("40 bits"));
        assert_eq!(refusal(1, 1 << 30, 20), "20 devices: 19 are possible");
    }

    #[test]
    fn no_two_machines_share_a_generation() {
        let identifier = || {
            let memory = GuestMemoryMmap::from_ranges(&[(vm_memory::GuestAddress(0), 1 << 20)]).unwrap();
            write_generation(&memory).unwrap();
            memory.read_obj::<u128>(layout::GENERATION).unwrap()
        };
        let (one, other) = (identifier(), identifier());
        assert!(one != 0 && one != other);
    }
}
