//! The tables by which the guest's kernel knows its machine (ACPI 6.5).
//!
//! ```text
//! RSDP -> XSDT -> FADT -> DSDT     hardware-reduced: no fixed events, no PM timer; sleep and reset registers; the devices
//!              -> MADT             processors and interrupt controllers
//! ```
//!
//! *Hardware-reduced* (4.1) is the profile for machines without a PC's power hardware. On it a Linux kernel does not look for an 8259, an 8254 or a real-time
//! clock, which is as well, for there is none: it has the time from KVM's clock and its ticks from the local APICs.
//!
//! The devices are in [`dsdt`].

pub mod dsdt;

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, sdt::Sdt};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::error::MachineError;
use super::layout;
use crate::devices::bus::{RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS};

/// Who made the tables.
const MAKER: [u8; 6] = *b"BLKHD ";
const MACHINE: [u8; 8] = *b"BULKHEAD";
const REVISION: u32 = 1;

/// FADT, `IAPC_BOOT_ARCH` (5.2.9.3): no VGA, no real-time clock; and, by absence of bit 1, no keyboard controller.
const NO_VGA: u16 = 1 << 2;
const NO_CLOCK: u16 = 1 << 5;

/// Tables follow each other at multiples of this.
const ALIGNMENT: usize = 16;

/// Writes the tables of a machine with that many processors and virtio devices; gives the address of the root pointer.
///
/// # Errors
/// [`MachineError::Tables`].
pub fn write(memory: &GuestMemoryMmap, processors: u8, devices: usize) -> Result<GuestAddress, MachineError> {
    let tables = tables(processors, devices);
    if tables.len() as u64 > layout::ACPI_END.unchecked_offset_from(layout::ACPI) {
        return Err(MachineError::Tables(tables.len()));
    }
    memory.write_slice(&tables, layout::ACPI).map_err(|error| MachineError::Memory(tables.len() as u64, error.to_string()))?;
    Ok(layout::ACPI)
}

/// All tables, as they are from [`layout::ACPI`] on.
fn tables(processors: u8, devices: usize) -> Vec<u8> {
    // The root pointer is first, and is written last: it holds the address of what follows.
    let mut bytes = vec![0; Rsdp::len()];
    let mut put = |table: &dyn Aml| {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        let address = layout::ACPI.raw_value() + bytes.len() as u64;
        table.to_aml_bytes(&mut bytes);
        address
    };
    let mut description = Sdt::new(*b"DSDT", 36, 2, MAKER, MACHINE, REVISION);
    description.append_slice(&dsdt::devices(devices));
    let description = put(&description);
    let fixed = put(&fixed(description));
    let interrupts = put(&interrupts(processors));
    let mut extended = XSDT::new(MAKER, MACHINE, REVISION);
    extended.add_entry(fixed);
    extended.add_entry(interrupts);
    let extended = put(&extended);
    let mut root = Vec::new();
    Rsdp::new(MAKER, extended).to_aml_bytes(&mut root);
    bytes[..root.len()].copy_from_slice(&root);
    bytes
}

/// A register of a byte at a port.
fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

/// The fixed description.
fn fixed(description: u64) -> impl Aml {
    let mut table = FADTBuilder::new(MAKER, MACHINE, REVISION)
        .dsdt_64(description)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::Wbinvd)
        // Buttons, if any, are devices; there are none.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless)
        .flag(Flags::ResetRegSup);
    table.iapc_boot_arch = (NO_VGA | NO_CLOCK).into();
    table.reset_reg = port(RESET);
    table.reset_value = RESET_VALUE;
    table.sleep_control_reg = port(SLEEP_CONTROL);
    table.sleep_status_reg = port(SLEEP_STATUS);
    table.hypervisor_vendor_identity = u64::from_le_bytes(MACHINE).into();
    table.finalize()
}

/// Processors, whose numbers are those of their local APICs, and the I/O APIC, whose number is the next.
fn interrupts(processors: u8) -> impl Aml {
    let local = LocalInterruptController::Address(layout::LOCAL_APIC.raw_value() as u32);
    let mut table = MADT::new(MAKER, MACHINE, REVISION, local);
    for index in 0..processors {
        table.add_structure(ProcessorLocalApic::new(index, index, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(processors, layout::IO_APIC.raw_value() as u32, 0));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn long(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// The table at an address, as a kernel would take it: signature, length, checksum.
    fn table<'a>(all: &'a [u8], address: u64, signature: &[u8; 4]) -> &'a [u8] {
        let at = (address - layout::ACPI.raw_value()) as usize;
        assert_eq!(&all[at..at + 4], signature);
        let table = &all[at..at + word(all, at + 4) as usize];
        assert_eq!(sum(table), 0, "{}", String::from_utf8_lossy(signature));
        table
    }

    #[test]
    fn a_kernel_finds_its_way() {
        let all = tables(4, 3);
        assert_eq!(&all[..8], b"RSD PTR ");
        assert_eq!((sum(&all[..20]), sum(&all[..36]), all[15]), (0, 0, 2));
        let extended = table(&all, long(&all, 24), b"XSDT");
        assert_eq!(extended.len(), 36 + 2 * 8);
        let fixed = table(&all, long(extended, 36), b"FACP");
        assert_eq!(word(fixed, 112) & (1 << 20 | 1 << 10), 1 << 20 | 1 << 10, "hardware-reduced, with a reset register");
        assert_eq!((fixed[116], long(fixed, 120), fixed[128]), (1, 0x602, 1));
        assert_eq!((long(fixed, 248), long(fixed, 260)), (0x600, 0x601));
        table(&all, long(fixed, 140), b"DSDT");
        let interrupts = table(&all, long(extended, 44), b"APIC");
        assert_eq!(word(interrupts, 36), 0xfee0_0000);
        // Four processors, enabled, and the I/O APIC from input 0 on.
        assert_eq!(interrupts[44..52], [0, 8, 0, 0, 1, 0, 0, 0]);
        assert_eq!(interrupts[68..76], [0, 8, 3, 3, 1, 0, 0, 0]);
        assert_eq!(interrupts[76..], [1, 12, 4, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    }

    #[test]
    fn the_largest_machine_fits() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        assert_eq!(write(&memory, super::super::machine::MOST_PROCESSORS as u8, layout::MOST_DEVICES).unwrap(), layout::ACPI);
        let mut last = [0];
        memory.read_slice(&mut last, layout::GENERATION).unwrap();
        assert_eq!(last, [0]);
    }
}
