//! File systems and file-like objects.
pub mod dev;
pub mod devpts;
pub mod host;
pub mod memfd;
pub mod pipe;
