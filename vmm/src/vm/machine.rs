//! A virtual machine: its handle at KVM, and its memory.

use kvm_bindings::{KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno;

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The device cannot be opened.
    #[error("/dev/kvm: {0}")]
    Open(errno::Error),
    /// KVM speaks another language.
    #[error("/dev/kvm: API version {0}, where {KVM_API_VERSION} is needed")]
    Version(i32),
    /// An extension is missing that every guest needs.
    #[error("/dev/kvm: no {0}")]
    Missing(&'static str),
    /// A call failed.
    #[error("{0}: {1}")]
    Kvm(&'static str, errno::Error),
    /// Guest memory cannot be mapped.
    #[error("mapping {0} bytes of guest memory: {1}")]
    Memory(usize, String),
}

/// The extensions without which no guest is started (`KVM_CHECK_EXTENSION`), by their names in the KVM API.
const NEEDED: [(Cap, &str); 6] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Where Intel's processors keep three pages for themselves (`KVM_SET_TSS_ADDR`): below the firmware's place at the end of the first 4 GiB, in no guest's memory.
const TSS: usize = 0xfffb_d000;

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
/// The memory is mapped before the handle is made and unmapped after it is closed (fields drop in order), so KVM never sees a mapping that is gone.
pub struct Machine {
    handle: VmFd,
    memory: GuestMemoryMmap,
}

impl Machine {
    /// Makes one whose guest sees `memory` bytes, a multiple of 4096, from address 0 on.
    pub fn new(kvm: &Kvm, memory: usize) -> Result<Machine, MachineError> {
        let mapped = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), memory)])
            .map_err(|error| MachineError::Memory(memory, error.to_string()))?;
        let handle = kvm.create_vm().map_err(|error| MachineError::Kvm("KVM_CREATE_VM", error))?;
        handle.set_tss_address(TSS).map_err(|error| MachineError::Kvm("KVM_SET_TSS_ADDR", error))?;
        let machine = Machine { handle, memory: mapped };
        for (slot, region) in machine.memory.iter().enumerate() {
            let start = region.start_addr();
            let host = machine.memory.get_host_address(start).map_err(|error| MachineError::Memory(memory, error.to_string()))?;
            let described = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: start.raw_value(),
                memory_size: region.len(),
                userspace_addr: host as u64,
            };
            // SAFETY: the region is one mapping of `memory`, which `Machine` keeps until the handle is closed; regions do not overlap, and this process holds
            // no Rust reference into them: guest memory is only ever read and written by copies. Needed: KVM takes a bare address.
            unsafe { machine.handle.set_user_memory_region(described) }
                .map_err(|error| MachineError::Kvm("KVM_SET_USER_MEMORY_REGION", error))?;
        }
        Ok(machine)
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
