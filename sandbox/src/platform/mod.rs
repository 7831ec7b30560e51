//! The platform: everything about the host that makes this kernel possible.
//!
//! - [`direct`]: the calls that the host may execute for a workload; [`filter`] compiles them to seccomp's language.
//! - [`notify`]: receiving all other calls, and answering; [`dispatch`]: the threads that do it.
//! - [`memory`]: reading and writing the workload's memory.
//! - [`process`]: what the host knows of the workload's processes.
//! - [`spawner`]: how workload processes come to be; [`exec_root`]: what they find natively: executables, nothing else.

pub mod buffer;
pub mod capabilities;
pub mod direct;
pub mod dispatch;
pub mod exec_root;
pub mod exec_stop;
pub mod filter;
pub mod let_go;
pub mod memory;
pub mod notify;
pub mod process;
pub mod profile;
pub mod spawner;
mod workers;

pub use workers::heed;
