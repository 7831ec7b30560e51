//! The virtual machine monitor: the `microvm` wall.
//!
//! One process is one virtual machine: [`monitor`] is that process, from its start to its end; [`jail`] takes from it what it does not need; [`vm`] is the machine
//! itself, memory, processors, boot and tables; [`devices`] are what the guest finds in it. The agent that runs in the guest is a crate of its own, and so is what builds
//! the image: they share nothing with this one but the control protocol.
//!
//! [`vm::probe`] says whether this host's KVM runs guests at all.
#![warn(missing_docs, clippy::undocumented_unsafe_blocks)]

pub mod devices;
pub mod jail;
pub mod monitor;
pub mod vm;
