//! The user-space kernel: the `sandbox` wall.
//!
//! Every system call of a workload is intercepted and served here, in a confined process, in Rust. Rooms:
//! [`platform`] is what the host gives (filter, notifications, workload memory); [`kernel`] is tasks, identity, waiting and time;
//! [`vfs`] and [`fs`] are files; [`syscalls`] is the table of calls.
#![warn(missing_docs, clippy::undocumented_unsafe_blocks)]

pub mod boot;
pub mod confine;
pub mod control;
pub mod errno;
pub mod fs;
pub mod kernel;
pub mod log;
pub mod net;
pub mod platform;
pub mod sync;
pub mod syscalls;
pub mod vfs;
