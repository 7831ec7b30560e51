//! A virtual processor, and the state in which a guest's first instruction finds it.
//!
//! Only the first processor is given a state. The others wait, as real ones do, until the kernel starts them by the local APIC (INIT, SIPI), and KVM keeps
//! them in `KVM_RUN` meanwhile.

use kvm_bindings::{Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Address, GuestAddress};

use super::bare::Bare;
use super::cpuid::Features;
use super::error::MachineError;

/// `CR0.PE` and `CR0.ET` (Intel SDM, volume 3, 2.5): protected mode, without paging.
const PROTECTED: u64 = 1 << 0 | 1 << 4;
/// `CR0.PG`: paging.
const PAGING: u64 = 1 << 31;
/// `CR4.PAE`, without which there is no 64-bit mode.
const WIDE_TABLES: u64 = 1 << 5;
/// `EFER.LME` and `EFER.LMA`: 64-bit mode, enabled and active.
const LONG: u64 = 1 << 8 | 1 << 10;
/// Bit 1 of the flags register, which is always one.
const FLAGS: u64 = 1 << 1;

/// What the x87 control word and MXCSR are after a reset and `FNINIT` (SDM, volume 1, 8.1.5, 10.2.3): every exception masked.
const X87_CONTROL: u16 = 0x37f;
const SSE_CONTROL: u32 = 0x1f80;

/// `IA32_MISC_ENABLE`, and its bit for fast string operations, which firmware leaves on.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// `IA32_MTRR_DEF_TYPE`: memory type ranges on, and write-back where none says otherwise, which is what firmware leaves for memory.
const MSR_MEMORY_TYPE: u32 = 0x2ff;
const WRITE_BACK: u64 = 1 << 11 | 6;

/// The local vector table's entries for the pins LINT0 and LINT1 (SDM, volume 3, 10.5.1), their modes, and the bit that masks one.
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
const MODE_NMI: u32 = 4 << 8;
const MODE_EXTERNAL: u32 = 7 << 8;
const MASKED: u32 = 1 << 16;

/// Selectors of [`DESCRIPTORS`], as Linux's boot protocol names them.
const BOOT_CODE: u16 = 0x10;
const BOOT_DATA: u16 = 0x18;
const BOOT_TASK: u16 = 0x20;
/// The descriptor table that goes with [`Vcpu::start_long`] (SDM, volume 3, 3.4.5): two empty ones, 64-bit code, data, a busy task; all flat.
pub const DESCRIPTORS: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];

/// A flat 32-bit segment: base 0, limit 4 GiB. `kind` as the SDM's volume 3, 3.4.5.1 numbers them.
fn flat(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment { base: 0, limit: u32::MAX, selector, type_: kind, present: 1, s: 1, db: 1, g: 1, ..Default::default() }
}

/// Code: execute, read, accessed. Data: read, write, accessed.
const CODE: u8 = 0xb;
const DATA: u8 = 0x3;

/// One processor of a machine.
pub struct Vcpu {
    handle: VcpuFd,
    index: u8,
}

impl Vcpu {
    /// Makes processor number `index`, which is its APIC's number too.
    pub fn new(machine: &Bare, index: u8) -> Result<Vcpu, MachineError> {
        let handle = machine.handle().create_vcpu(index.into()).map_err(MachineError::kvm("KVM_CREATE_VCPU"))?;
        Ok(Vcpu { handle, index })
    }

    /// Its number.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Has it say that it is one of `count`.
    pub fn set_features(&self, features: &Features, count: u8) -> Result<(), MachineError> {
        self.handle.set_cpuid2(&features.processor(self.index, count)).map_err(MachineError::kvm("KVM_SET_CPUID2"))
    }

    /// Leaves it as a PC's firmware would: floating point, model-specific registers, local interrupts. Needs a local APIC.
    pub fn set_up(&self) -> Result<(), MachineError> {
        let floating_point = kvm_fpu { fcw: X87_CONTROL, mxcsr: SSE_CONTROL, ..Default::default() };
        self.handle.set_fpu(&floating_point).map_err(MachineError::kvm("KVM_SET_FPU"))?;
        let registers = [(MSR_MISC_ENABLE, FAST_STRINGS), (MSR_MEMORY_TYPE, WRITE_BACK)];
        let entries = registers.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        let wanted = Msrs::from_entries(&entries).expect("two are fewer than KVM's 256");
        let set = self.handle.set_msrs(&wanted).map_err(MachineError::kvm("KVM_SET_MSRS"))?;
        if set != registers.len() {
            // The call stops at the first register that it does not take, and counts those before it.
            return Err(MachineError::Kvm("KVM_SET_MSRS", vmm_sys_util::errno::Error::new(libc::EINVAL)));
        }
        let mut local = self.handle.get_lapic().map_err(MachineError::kvm("KVM_GET_LAPIC"))?;
        // LINT0 leads to an 8259, of which the guest knows nothing: masked, where KVM leaves the first processor's open. LINT1 is for NMIs.
        set_local(&mut local, LINT0, MODE_EXTERNAL | MASKED);
        set_local(&mut local, LINT1, MODE_NMI);
        self.handle.set_lapic(&local).map_err(MachineError::kvm("KVM_SET_LAPIC"))
    }

    /// Has it begin as a PVH guest's first processor does: 32-bit protected mode, flat segments, no paging, interrupts off, and in `ebx` the address of
    /// the start information (Xen, docs/misc/pvh.pandoc, "Domain Builder").
    pub fn start_flat(&self, entry: GuestAddress, information: GuestAddress) -> Result<(), MachineError> {
        self.set_special(|special| {
            special.cs = flat(0x08, CODE);
            let data = flat(0x10, DATA);
            (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
            special.tr = kvm_segment { limit: 0x67, selector: 0x18, type_: 0xb, present: 1, ..Default::default() };
            special.cr0 = PROTECTED;
            (special.cr3, special.cr4, special.efer) = (0, 0, 0);
        })?;
        self.set_registers(kvm_regs { rip: entry.raw_value(), rbx: information.raw_value(), ..Default::default() })
    }

    /// Has it begin as Linux's 64-bit boot protocol wants (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): 64-bit mode, `tables` mapping memory to
    /// itself, [`DESCRIPTORS`] at `descriptors`, interrupts off, and in `rsi` the address of the zero page.
    pub fn start_long(
        &self,
        entry: GuestAddress,
        zero_page: GuestAddress,
        tables: GuestAddress,
        descriptors: GuestAddress,
    ) -> Result<(), MachineError> {
        self.set_special(|special| {
            special.cs = kvm_segment { db: 0, l: 1, ..flat(BOOT_CODE, CODE) };
            let data = flat(BOOT_DATA, DATA);
            (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
            special.tr = kvm_segment { s: 0, db: 0, ..flat(BOOT_TASK, 0xb) };
            special.gdt.base = descriptors.raw_value();
            special.gdt.limit = size_of_val(&DESCRIPTORS) as u16 - 1;
            special.cr0 = PROTECTED | PAGING;
            (special.cr3, special.cr4, special.efer) = (tables.raw_value(), WIDE_TABLES, LONG);
        })?;
        self.set_registers(kvm_regs { rip: entry.raw_value(), rsi: zero_page.raw_value(), ..Default::default() })
    }

    fn set_special(&self, change: impl FnOnce(&mut kvm_sregs)) -> Result<(), MachineError> {
        let mut special = self.handle.get_sregs().map_err(MachineError::kvm("KVM_GET_SREGS"))?;
        change(&mut special);
        self.handle.set_sregs(&special).map_err(MachineError::kvm("KVM_SET_SREGS"))
    }

    fn set_registers(&self, registers: kvm_regs) -> Result<(), MachineError> {
        self.handle.set_regs(&kvm_regs { rflags: FLAGS, ..registers }).map_err(MachineError::kvm("KVM_SET_REGS"))
    }

    /// The handle at KVM, for running it.
    pub fn handle_mut(&mut self) -> &mut VcpuFd {
        &mut self.handle
    }
}

fn set_local(local: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (byte, value) in local.regs[offset..].iter_mut().zip(value.to_le_bytes()) {
        *byte = value as std::ffi::c_char;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_registers_are_little_endian_words() {
        let mut local = kvm_lapic_state::default();
        set_local(&mut local, LINT0, MODE_EXTERNAL | MASKED);
        let bytes = local.regs.map(|byte| byte as u8);
        assert_eq!(bytes[LINT0..LINT0 + 4], [0, 7, 1, 0]);
        assert!(bytes[..LINT0].iter().chain(&bytes[LINT0 + 4..]).all(|byte| *byte == 0));
    }
}
