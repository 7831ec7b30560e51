//! The kernel process's log.

pub use bulkhead_launch::log::*;
