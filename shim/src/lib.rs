//! The OCI runtime command line: pods, containers, configuration, state.

pub mod cgroup;
pub mod hooks;
pub mod host;
pub mod network;
pub mod oci;
pub mod state;
pub mod trees;
