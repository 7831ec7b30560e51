//! The virtual machine monitor: the `microvm` wall.
//!
//! This crate is empty on purpose: the sandbox wall comes first. Asking for `--isolation microvm` is refused by name
//! until the monitor lives here (guest memory, vCPUs, boot, virtio devices, the jail and the guest agent).
