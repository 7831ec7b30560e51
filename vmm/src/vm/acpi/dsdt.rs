//! The devices, in ACPI's machine language (chapter 20).
//!
//! - `V000` and on: a virtio-mmio device each. `LNRO0005` is the name by which Linux's virtio_mmio driver knows them: a page of registers and an interrupt.
//! - `COM1`: the serial port.
//! - `VGEN`: the machine's generation identifier, a 16-byte number in memory that no two machines share (Microsoft, "Virtual Machine Generation ID"). Linux seeds
//!   its random numbers with it. A machine that begins has a new one, and keeps it: the notification that tells a guest of a change (`Notify (VGEN, 0x80)`,
//!   which needs a Generic Event Device in this profile) belongs to restoring a snapshot, and is not here.
//! - `\_S5`: what to write to the sleep control register for "off".

use acpi_tables::Aml;
use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope};
use vm_memory::Address;

use crate::devices::bus::{COM1, SLEEP_TYPE_OFF};
use crate::vm::layout;

/// The body of the table for that many virtio devices.
pub fn devices(count: usize) -> Vec<u8> {
    let mut devices = Vec::new();
    serial(&mut devices);
    generation(&mut devices);
    for index in 0..count {
        virtio(index, &mut devices);
    }
    let mut body = Scope::raw(Path::new("\\_SB_"), devices);
    // Types for PM1a and PM1b, of which this profile has neither: the first goes to the sleep control register. Two more are reserved.
    let off = Package::new(vec![&SLEEP_TYPE_OFF, &0u8, &0u8, &0u8]);
    Name::new(Path::new("\\_S5_"), &off).to_aml_bytes(&mut body);
    body
}

/// An edge-triggered, active-high interrupt of one consumer.
fn interrupt(input: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, input)
}

fn virtio(index: usize, sink: &mut Vec<u8>) {
    let registers = Memory32Fixed::new(true, layout::device(index).raw_value() as u32, layout::PAGE as u32);
    let interrupt = interrupt(layout::input(index));
    let resources = ResourceTemplate::new(vec![&registers, &interrupt]);
    let name = Name::new(Path::new("_HID"), &"LNRO0005");
    let number = Name::new(Path::new("_UID"), &(index as u32));
    // Cache-coherent: this is memory of the same host.
    let coherent = Name::new(Path::new("_CCA"), &1u8);
    let resources = Name::new(Path::new("_CRS"), &resources);
    Device::new(Path::new(&format!("V{index:03}")), vec![&name, &number, &coherent, &resources]).to_aml_bytes(sink);
}

fn serial(sink: &mut Vec<u8>) {
    let ports = IO::new(COM1, COM1, 1, 8);
    let interrupt = interrupt(layout::SERIAL_INPUT);
    let resources = ResourceTemplate::new(vec![&ports, &interrupt]);
    let name = Name::new(Path::new("_HID"), &EISAName::new("PNP0501"));
    let number = Name::new(Path::new("_UID"), &0u8);
    let resources = Name::new(Path::new("_CRS"), &resources);
    Device::new(Path::new("COM1"), vec![&name, &number, &resources]).to_aml_bytes(sink);
}

fn generation(sink: &mut Vec<u8>) {
    let address = layout::GENERATION.raw_value();
    let (low, high) = (address as u32, (address >> 32) as u32);
    let address = Package::new(vec![&low, &high]);
    let name = Name::new(Path::new("_HID"), &"VMGENCTR");
    // This one is what the specification has a driver look for.
    let compatible = Name::new(Path::new("_CID"), &"VM_Gen_Counter");
    let description = Name::new(Path::new("_DDN"), &"VM_Gen_Counter");
    let address = Name::new(Path::new("ADDR"), &address);
    Device::new(Path::new("VGEN"), vec![&name, &compatible, &description, &address]).to_aml_bytes(sink);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(bytes: &[u8], part: &[u8]) -> bool {
        bytes.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn each_device_has_its_page_and_its_interrupt() {
        let body = devices(2);
        for (name, page, input) in [(b"V000", 0xd000_0000u32, 5u8), (b"V001", 0xd000_1000, 6)] {
            assert!(contains(&body, name));
            // Memory32Fixed, writable (6.4.3.4); Extended Interrupt: consumer, edge, active high, exclusive, one (6.4.3.6).
            let memory = [&[0x86, 9, 0, 1][..], &page.to_le_bytes(), &0x1000u32.to_le_bytes()].concat();
            assert!(contains(&body, &[&memory[..], &[0x89, 6, 0, 0b11, 1, input, 0, 0, 0]].concat()));
        }
        assert!(!contains(&body, b"V002"));
    }

    #[test]
    fn the_rest_of_the_machine_is_there() {
        let body = devices(0);
        assert!(contains(&body, b"COM1") && contains(&body, &[0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]));
        assert!(contains(&body, b"VM_Gen_Counter\0") && contains(&body, &0xf_0000u32.to_le_bytes()));
        // Name (\_S5, Package (4) { 5, 0, 0, 0 })
        assert!(contains(&body, b"\x08\\_S5_\x12\x07\x04\x0a\x05\x00\x00\x00"));
    }
}
