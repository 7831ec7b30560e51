//! Why there is no machine.

use std::io;

use kvm_bindings::KVM_API_VERSION;
use vmm_sys_util::errno;

use super::boot::BootError;
use super::layout;

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
    Memory(u64, String),
    /// Less than a kernel can live in.
    #[error("{0} bytes of guest memory: at least {least} are needed", least = layout::LEAST_MEMORY)]
    TooLittleMemory(u64),
    /// More than the processor can address.
    #[error("{memory} bytes of guest memory: this host's processor addresses {bits} bits for a guest")]
    TooMuchMemory {
        /// What was asked for.
        memory: u64,
        /// The width of a physical address.
        bits: u32,
    },
    /// Not whole pages.
    #[error("{0} bytes of guest memory: not a multiple of {page}", page = layout::PAGE)]
    OddMemory(u64),
    /// None, or more than there can be.
    #[error("{asked} virtual processors: 1 to {most} are possible here")]
    Processors {
        /// What was asked for.
        asked: u8,
        /// What there can be: the house's limit, or KVM's where that is lower.
        most: usize,
    },
    /// More devices than interrupt inputs.
    #[error("{0} devices: {most} are possible", most = layout::MOST_DEVICES)]
    Devices(usize),
    /// The kernel cannot be started.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The tables do not fit their place. It holds those of the most devices and processors; so this is a mistake here.
    #[error("ACPI tables of {0} bytes do not fit their place")]
    Tables(usize),
    /// The host has no random numbers, or no descriptors.
    #[error("{0}: {1}")]
    Host(&'static str, #[source] io::Error),
    /// A processor's thread could not confine itself.
    #[error("confining the thread of virtual processor {0}: {1}")]
    Confine(u8, #[source] io::Error),
}

impl MachineError {
    /// For `map_err`: a call of KVM's failed.
    pub(crate) fn kvm(call: &'static str) -> impl Fn(errno::Error) -> MachineError {
        move |error| MachineError::Kvm(call, error)
    }
}
