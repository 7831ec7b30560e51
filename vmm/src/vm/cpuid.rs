//! What a virtual processor says about itself (`CPUID`; Intel SDM, volume 2A; AMD APM, volume 3, appendix E).
//!
//! The base is what KVM supports of this host's processor. On it each processor gets its own number, and all of them one shape: one package, a core for each
//! processor, one thread for each core. The host's shape would be a lie, and a leak.
//!
//! Taken away: nested virtualisation (VMX, SVM) and performance counters. A container needs neither, and both are large parts of KVM that a hostile guest
//! could otherwise talk to.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use super::error::MachineError;

/// Leaf 1, `ecx`.
const VMX: u32 = 1 << 5;
const PERFORMANCE_CAPABILITIES: u32 = 1 << 15;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, `edx`: `ebx` 23:16 counts logical processors.
const MANY_PROCESSORS: u32 = 1 << 28;
/// Leaf 0x8000_0001, `ecx`.
const LEGACY_MANY_PROCESSORS: u32 = 1 << 1;
const SVM: u32 = 1 << 2;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
const CORE_COUNTERS: u32 = 1 << 23;
const NORTHBRIDGE_COUNTERS: u32 = 1 << 24;
const CACHE_COUNTERS: u32 = 1 << 28;
/// Kinds of levels in leaves 0xb and 0x1f.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;
/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: the leaf has subleaves.
const SUBLEAVES: u32 = 1;

/// What KVM supports, once for all processors of a machine.
pub struct Features {
    entries: Vec<kvm_cpuid_entry2>,
    deadline: bool,
}

impl Features {
    /// Asks KVM.
    pub fn of(kvm: &Kvm) -> Result<Self, MachineError> {
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(MachineError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
        // The supported leaves never tell of this timer: the local APIC must be KVM's, which KVM cannot know here.
        Ok(Self { entries: supported.as_slice().to_vec(), deadline: kvm.check_extension(Cap::TscDeadlineTimer) })
    }

    /// The width of a guest-physical address, bits (leaf 0x8000_0008; without it 36, as every 64-bit processor has).
    pub fn address_bits(&self) -> u32 {
        self.entries.iter().find(|entry| entry.function == 0x8000_0008).map_or(36, |entry| entry.eax & 0xff)
    }

    /// The leaves of processor `index` of `count` (1 to 255).
    pub fn processor(&self, index: u8, count: u8) -> CpuId {
        let mut entries: Vec<_> = self.entries.iter().filter(|entry| !matches!(entry.function, 0xb | 0x1f)).copied().collect();
        for entry in &mut entries {
            adapt(entry, index, count, self.deadline);
        }
        for function in [0xb, 0x1f] {
            // Only where the processor has the leaf: a leaf beyond the highest is another one's answer.
            if self.entries.iter().any(|entry| entry.function == function) {
                entries.extend(topology(function, index, count));
            }
        }
        CpuId::from_entries(&entries).expect("as many leaves as KVM has, and six at most beside them, are fewer than 256")
    }
}

/// Bits that tell `count` processors apart.
fn width(count: u8) -> u32 {
    u8::BITS - (count - 1).leading_zeros()
}

/// Three subleaves: threads of a core, cores of the package, the end.
fn topology(function: u32, index: u8, count: u8) -> [kvm_cpuid_entry2; 3] {
    let level = |number: u32, kind: u32, shift: u32, processors: u32| kvm_cpuid_entry2 {
        function,
        index: number,
        flags: SUBLEAVES,
        eax: shift,
        ebx: processors,
        ecx: number | kind << 8,
        edx: index.into(),
        ..Default::default()
    };
    [level(0, LEVEL_THREAD, 0, 1), level(1, LEVEL_CORE, width(count), count.into()), level(2, 0, 0, 0)]
}

fn adapt(entry: &mut kvm_cpuid_entry2, index: u8, count: u8, deadline: bool) {
    let (index, others) = (u32::from(index), u32::from(count - 1));
    match entry.function {
        1 => {
            // Initial APIC number, logical processors, and the line of CLFLUSH as it is.
            entry.ebx = index << 24 | (others + 1) << 16 | entry.ebx & 0xffff;
            entry.ecx = entry.ecx & !(VMX | PERFORMANCE_CAPABILITIES) | HYPERVISOR;
            if deadline {
                entry.ecx |= TSC_DEADLINE;
            }
            entry.edx = if count > 1 { entry.edx | MANY_PROCESSORS } else { entry.edx & !MANY_PROCESSORS };
        }
        // Intel's caches and AMD's: a type of 0 ends the list. The third level is the package's, the others are each core's own.
        4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 { (1 << width(count)) - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
            if entry.function == 4 {
                entry.eax |= ((1 << width(count)) - 1) << 26;
            }
        }
        // Performance monitoring: Intel's, AMD's second version.
        0xa | 0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0x8000_0001 => {
            entry.ecx &= !(SVM | CORE_COUNTERS | NORTHBRIDGE_COUNTERS | CACHE_COUNTERS);
            // "More than one core" where AMD has it; leaf 0x8000_001e is there if its bit is.
            entry.ecx = if count > 1 && entry.ecx & TOPOLOGY_EXTENSIONS != 0 {
                entry.ecx | LEGACY_MANY_PROCESSORS
            } else {
                entry.ecx & !LEGACY_MANY_PROCESSORS
            };
        }
        // AMD: the number of processors, and of bits that tell them apart. Intel keeps these reserved, as zeros.
        0x8000_0008 if entry.ecx != 0 => entry.ecx = width(count) << 12 | others,
        // SVM's own leaf.
        0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // AMD: APIC number; one thread in core number `index`; node 0 of 1.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index, 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, flags: u32::from(index > 0), ..Default::default() }
    }

    fn features() -> Features {
        let entries = vec![
            kvm_cpuid_entry2 { ebx: 0xff10_0800, ecx: VMX | PERFORMANCE_CAPABILITIES, ..entry(1, 0) },
            kvm_cpuid_entry2 { eax: 0xfc00_4121, ..entry(4, 0) },
            kvm_cpuid_entry2 { eax: 0xffff_c163, ..entry(4, 3) },
            entry(4, 4),
            kvm_cpuid_entry2 { eax: 0x0830_0802, ..entry(0xa, 0) },
            kvm_cpuid_entry2 { eax: 7, edx: 99, ..entry(0xb, 0) },
            kvm_cpuid_entry2 { ecx: SVM | TOPOLOGY_EXTENSIONS, ..entry(0x8000_0001, 0) },
            kvm_cpuid_entry2 { eax: 0x3028, ecx: 0x701f, ..entry(0x8000_0008, 0) },
        ];
        Features { entries, deadline: true }
    }

    fn find(leaves: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *leaves.as_slice().iter().find(|entry| (entry.function, entry.index) == (function, index)).unwrap()
    }

    #[test]
    fn bits_tell_processors_apart() {
        assert_eq!([1, 2, 3, 4, 5, 32, 255].map(width), [0, 1, 2, 2, 3, 5, 8]);
    }

    #[test]
    fn each_processor_is_a_core_of_one_package() {
        let leaves = features().processor(2, 6);
        let first = find(&leaves, 1, 0);
        assert_eq!((first.ebx, first.ecx, first.edx), (0x0206_0800, HYPERVISOR | TSC_DEADLINE, MANY_PROCESSORS));
        let core = find(&leaves, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 2));
        assert_eq!(find(&leaves, 0xb, 0).edx, 2);
        // No leaf that the host lacks.
        assert!(!leaves.as_slice().iter().any(|entry| entry.function == 0x1f));
        // The first-level cache is the core's, the third the package's.
        assert_eq!(find(&leaves, 4, 0).eax, 7 << 26 | 0x121);
        assert_eq!(find(&leaves, 4, 3).eax, 7 << 26 | 7 << 14 | 0x163);
        assert_eq!(find(&leaves, 4, 4).eax, 0);
        assert_eq!(find(&leaves, 0x8000_0008, 0).ecx, 3 << 12 | 5);
        assert_eq!(features().address_bits(), 40);
    }

    #[test]
    fn no_nesting_and_no_counters() {
        let leaves = features().processor(0, 1);
        assert_eq!(find(&leaves, 1, 0).ecx & (VMX | PERFORMANCE_CAPABILITIES), 0);
        assert_eq!(find(&leaves, 1, 0).edx & MANY_PROCESSORS, 0);
        assert_eq!(find(&leaves, 0x8000_0001, 0).ecx, TOPOLOGY_EXTENSIONS);
        assert_eq!(find(&leaves, 0xa, 0).eax, 0);
    }
}
