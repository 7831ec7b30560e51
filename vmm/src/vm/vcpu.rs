//! A virtual processor.

use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::{Address, GuestAddress};

use super::machine::{Machine, MachineError};

/// `CR0.PE` and `CR0.ET` (Intel SDM, volume 3, 2.5): protected mode, without paging.
const PROTECTED: u64 = 1 << 0 | 1 << 4;
/// Bit 1 of the flags register, which is always one.
const FLAGS: u64 = 1 << 1;

/// A flat 32-bit segment: base 0, limit 4 GiB. `kind` as the SDM's volume 3, 3.4.5.1 numbers them.
fn flat(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment { base: 0, limit: u32::MAX, selector, type_: kind, present: 1, s: 1, db: 1, g: 1, ..Default::default() }
}

/// One processor of a machine.
pub struct Vcpu {
    handle: VcpuFd,
}

impl Vcpu {
    /// Makes processor number `index`, with what KVM supports of this host's processor.
    pub fn new(kvm: &Kvm, machine: &Machine, index: u64) -> Result<Vcpu, MachineError> {
        let handle = machine.handle().create_vcpu(index).map_err(|error| MachineError::Kvm("KVM_CREATE_VCPU", error))?;
        let features = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| MachineError::Kvm("KVM_GET_SUPPORTED_CPUID", error))?;
        handle.set_cpuid2(&features).map_err(|error| MachineError::Kvm("KVM_SET_CPUID2", error))?;
        Ok(Vcpu { handle })
    }

    /// Has it begin as a PVH guest's first processor does: 32-bit protected mode, flat segments, no paging, interrupts off, and in `ebx` the address of
    /// the start information (Xen, docs/misc/pvh.pandoc, "Domain Builder").
    pub fn start_flat(&self, entry: GuestAddress, information: GuestAddress) -> Result<(), MachineError> {
        let mut special = self.handle.get_sregs().map_err(|error| MachineError::Kvm("KVM_GET_SREGS", error))?;
        // Execute, read, accessed; read, write, accessed; a busy 32-bit task.
        special.cs = flat(0x08, 0xb);
        let data = flat(0x10, 0x3);
        (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
        special.tr = kvm_segment { limit: 0x67, selector: 0x18, type_: 0xb, present: 1, ..Default::default() };
        special.cr0 = PROTECTED;
        (special.cr3, special.cr4, special.efer) = (0, 0, 0);
        self.handle.set_sregs(&special).map_err(|error| MachineError::Kvm("KVM_SET_SREGS", error))?;
        let registers = kvm_regs { rip: entry.raw_value(), rbx: information.raw_value(), rflags: FLAGS, ..Default::default() };
        self.handle.set_regs(&registers).map_err(|error| MachineError::Kvm("KVM_SET_REGS", error))
    }

    /// The handle at KVM, for running it.
    pub fn handle_mut(&mut self) -> &mut VcpuFd {
        &mut self.handle
    }
}
