//! The monitor's process.
pub mod relay;
