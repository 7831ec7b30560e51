//! The machine: KVM, guest memory, virtual processors (Documentation/virt/kvm/api.rst).
//!
//! - [`machine`]: one virtual machine and the memory that its guest sees.
//! - [`vcpu`]: one virtual processor, and the state in which a guest's first instruction finds it.
//! - [`probe`]: whether KVM here is worth its name: it runs a guest that does nothing, against a deadline.

pub mod machine;
pub mod probe;
pub mod vcpu;
