//! The OCI runtime command line: pods, containers, configuration, state.

pub mod host;
pub mod oci;
pub mod state;
