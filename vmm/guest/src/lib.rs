//! The guest image: the kernel and the first file system that every microVM boots, *built* here and *found* again at a pod's start.
//!
//! An image is a directory (by default [`DIRECTORY`]) of three files: `manifest.json` ([`manifest`]), and beside it the kernel and the
//! initramfs, whose names end in the beginning of their own checksums. So an image is replaced by writing new files and then renaming one
//! manifest over another: a reader sees the old image or the new one, never half of each.
//!
//! | | kernel | initramfs |
//! |---|---|---|
//! | [`stock`] | a distribution's, unpacked from its `vmlinuz` | the agent, and the modules a guest needs |
//! | [`small`] | compiled from the distribution's source with `kernel.config` | the agent |
//!
//! **The initramfs is not compressed.** The agent and fourteen modules are three to four megabytes. The guest's kernel copies them once either way, and gives the
//! archive's own memory back when it has; compressed it would be a third of that, and be decompressed on every start, by the one processor that has come up, to save
//! two megabytes of page cache that all pods of a host share. For the same reason the kernel is unpacked here, once, and not by its own decompressor in each
//! guest ([`kernel`]).
//!
//! **Everything is reproducible:** the same kernel, agent and version of Bulkhead give the same bytes. No file here holds a date, a host name
//! or an order that a directory happened to have.
//!
//! What the checksums are for: a copy that was cut short, a disk that went bad, a kernel of one build beside an initramfs of another. They are no
//! defence against somebody who may write to the directory, because that somebody may write the manifest too; [`image`] therefore refuses
//! files that others than their owner can write, and owners other than root and ourselves.
#![warn(missing_docs, clippy::undocumented_unsafe_blocks)]
#![forbid(unsafe_code)]

pub mod checksum;
pub mod cpio;
pub mod decompress;
pub mod elf;
mod error;
pub mod image;
pub mod initramfs;
pub mod install;
pub mod kernel;
pub mod manifest;
pub mod modules;
pub mod small;
pub mod stock;

pub use error::BuildError;
pub use image::{Image, ImageError};
pub use install::Built;

/// Where the image is unless the configuration says otherwise.
pub const DIRECTORY: &str = "/var/lib/bulkhead/guest";
