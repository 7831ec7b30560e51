//! A bare machine: its handle at KVM, and its memory.

use kvm_bindings::{
    KVM_API_VERSION, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Address, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use super::error::MachineError;
use super::layout;

/// The extensions without which no guest is started (`KVM_CHECK_EXTENSION`), by their names in the KVM API.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Opens KVM and looks whether it offers what a machine needs.
pub fn open() -> Result<Kvm, MachineError> {
    let kvm = Kvm::new().map_err(MachineError::Open)?;
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION as i32 {
        return Err(MachineError::Version(version));
    }
    match NEEDED.iter().find(|(extension, _)| !kvm.check_extension(*extension)) {
        Some((_, name)) => Err(MachineError::Missing(name)),
        None => Ok(kvm),
    }
}

/// A virtual machine without processors.
///
/// The handle is closed before the memory is unmapped (fields drop in order). Devices may keep clones of the memory: the mapping lives as long as the last.
pub struct Bare {
    handle: VmFd,
    memory: GuestMemoryMmap,
}

impl Bare {
    /// Makes one whose guest sees `size` bytes, whole pages, where [`layout::memory`] says.
    ///
    /// The host's memory is taken when the guest first touches it, not here.
    pub fn new(kvm: &Kvm, size: u64) -> Result<Bare, MachineError> {
        let no_memory = |error: &dyn std::fmt::Display| MachineError::Memory(size, error.to_string());
        let ranges: Vec<_> = layout::memory(size).into_iter().map(|(start, size)| (start, size as usize)).collect();
        let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).map_err(|error| no_memory(&error))?;
        let handle = kvm.create_vm().map_err(MachineError::kvm("KVM_CREATE_VM"))?;
        handle.set_identity_map_address(layout::IDENTITY_MAP.raw_value()).map_err(MachineError::kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
        handle.set_tss_address(layout::TASK_STATE.raw_value() as usize).map_err(MachineError::kvm("KVM_SET_TSS_ADDR"))?;
        let machine = Bare { handle, memory };
        for (slot, region) in machine.memory.iter().enumerate() {
            let start = region.start_addr();
            let host = machine.memory.get_host_address(start).map_err(|error| no_memory(&error))?;
            let described = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: start.raw_value(),
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the region is one mapping of `memory`, which this value keeps until the handle is closed; regions do not overlap, and this process
            // holds no Rust reference into them: guest memory is only ever read and written by copies. Needed: KVM takes a bare address.
            unsafe { machine.handle.set_user_memory_region(described) }.map_err(MachineError::kvm("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(machine)
    }

    /// Gives it interrupt controllers: a local APIC for each processor made from now on, and one I/O APIC.
    ///
    /// KVM's set has a pair of 8259 as well. No interrupt is routed to them: the tables do not describe them, so the guest does not mask them either, and
    /// what they would pass on by the first processor's LINT0 would arrive as an exception vector.
    pub fn create_interrupt_controllers(&self) -> Result<(), MachineError> {
        self.handle.create_irq_chip().map_err(MachineError::kvm("KVM_CREATE_IRQCHIP"))?;
        let routes: Vec<_> = (0..layout::INPUTS)
            .map(|input| kvm_irq_routing_entry {
                gsi: input,
                type_: KVM_IRQ_ROUTING_IRQCHIP,
                u: kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip: KVM_IRQCHIP_IOAPIC, pin: input } },
                ..Default::default()
            })
            .collect();
        let routes = KvmIrqRouting::from_entries(&routes).expect("24 routes are fewer than KVM's 4096");
        self.handle.set_gsi_routing(&routes).map_err(MachineError::kvm("KVM_SET_GSI_ROUTING"))
    }

    /// The handle at KVM.
    pub fn handle(&self) -> &VmFd {
        &self.handle
    }

    /// What the guest sees as memory.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }
}
