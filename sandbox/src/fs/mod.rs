//! File systems and file-like objects.
pub mod devpts;
