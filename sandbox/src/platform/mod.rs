//! The platform: everything about the host that makes this kernel possible.
pub mod memory;
pub mod notify;
pub mod process;
