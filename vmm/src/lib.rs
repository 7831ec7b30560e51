//! The virtual machine monitor: the `microvm` wall.
//!
//! What is here so far is the machine itself ([`vm`]): KVM, guest memory and a virtual processor, as far as [`vm::probe`] needs them to say whether
//! this host's KVM runs guests at all. Boot, devices, the jail and the guest's agent come next; until then `--isolation microvm` is refused by name.
#![warn(missing_docs, clippy::undocumented_unsafe_blocks)]

pub mod devices;
pub mod jail;
pub mod monitor;
pub mod vm;
