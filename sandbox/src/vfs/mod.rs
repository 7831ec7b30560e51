//! The virtual file system: what every file system and every descriptor has in common.
pub mod anonymous;
pub mod descriptor;
pub mod file;
pub mod locks;
pub mod mapped;
pub mod mount;
pub mod node;
pub mod object;
pub mod rights;
pub mod walk;
