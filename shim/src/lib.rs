//! The OCI runtime command line: pods, containers, configuration, state.

pub mod cgroup;
pub mod cli;
pub mod config;
pub mod console;
pub mod foreground;
pub mod hooks;
pub mod host;
pub mod lifecycle;
pub mod log;
pub mod network;
pub mod oci;
pub mod stand_in;
pub mod state;
pub mod trees;
pub mod wall;
