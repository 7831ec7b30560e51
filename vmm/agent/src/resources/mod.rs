//! What containers may use and have used: the guest kernel's own cgroups (v2, Documentation/admin-guide/cgroup-v2.rst).
//!
//! The files are the kernel's, but which there are depends on its version, its options and which controllers it has: a file that is not there counts for
//! nothing, and a limit that it would carry is refused.

pub mod cgroup;
pub mod limits;
pub mod statistics;
