//! The machine: KVM, guest memory, virtual processors (Documentation/virt/kvm/api.rst).
//!
//! A machine is what a current Linux kernel needs and nothing that only an old one would miss: memory, processors with their local APICs, one I/O APIC, one
//! serial port, and virtio devices on virtio-mmio. There is no firmware worth the name ([`firmware`]), no PCI bus, no 8259, no 8254, no real-time clock; ACPI (hardware-reduced) says so,
//! and describes what there is. What the guest can reach of this process is hence short enough to be listed: [`crate::devices::bus`].
//!
//! From a configuration to a running guest:
//!
//! 1. [`bare`]: a handle at KVM and the memory that its guest sees, where [`layout`] says;
//! 2. [`boot`]: kernel, initramfs and command line into that memory, by the PVH or by Linux's 64-bit protocol;
//! 3. [`acpi`]: the tables that describe the machine;
//! 4. [`vcpu`] with [`cpuid`]: the processors, in the state in which the kernel's first instruction finds them;
//! 5. [`machine`]: all of it together;
//! 6. [`running`]: one thread for each processor, until the guest ends.
//!
//! [`probe`] tells whether KVM here is worth its name: it runs a guest that does nothing, against a deadline.

pub mod acpi;
pub mod bare;
pub mod boot;
pub mod cpuid;
pub mod error;
pub mod firmware;
pub mod layout;
pub mod machine;
pub mod probe;
pub mod running;
pub mod vcpu;

pub use bare::open;
pub use error::MachineError;
pub use machine::{Configuration, Machine};
pub use running::{End, Running};
