//! Kernel modules for the guest: *which*, in which order.
//!
//! What a module needs is asked of the module ([`info`]), not of `modules.dep`: that file is written by depmod(8) when a package is installed, so a kernel that was
//! only unpacked has none, and it says nothing that the modules do not say themselves. Left out is what is in the kernel already
//! (`modules.builtin`, and the names that `modules.builtin.modinfo` gives to it).
//!
//! The guest loads everything in the order of `/modules/order`, at once and before anything else: a module comes after what it needs ([`closure`]). Nothing is loaded
//! on demand later; what a container may want beyond [`WANTED`] is for `--module` to add.

pub mod closure;
pub mod info;
mod tree;

pub use closure::{Module, collect};
pub use tree::Tree;

/// A module that guests have, and why.
pub struct Wanted {
    /// Its name, with underscores.
    pub name: &'static str,
    /// Whether a guest can not do without it.
    pub required: bool,
    /// What for.
    pub why: &'static str,
}

const fn required(name: &'static str, why: &'static str) -> Wanted {
    Wanted { name, required: true, why }
}

const fn useful(name: &'static str, why: &'static str) -> Wanted {
    Wanted { name, required: false, why }
}

/// What every guest loads, in this order but for what each needs itself. In Debian's cloud kernel 6.12 four of them are built in, and the rest with what it
/// needs are fourteen modules of 1.8 MB together.
///
/// Netfilter is not among them: nf_tables with what iptables needs is 33 modules and 2.4 MB more, which every pod would load for the few that have `CAP_NET_ADMIN`
/// and use it (`--module nf_tables` and so on adds it).
pub const WANTED: [Wanted; 13] = [
    required("virtio_mmio", "the devices themselves: every one is a virtio-mmio page in the DSDT"),
    required("vmw_vsock_virtio_transport", "control and streams"),
    required("virtiofs", "root file systems and volumes of the host"),
    required("overlay", "a container's writable layer"),
    required("virtio_net", "the pod's network"),
    required("virtio_blk", "disks"),
    useful("virtio_console", "a console faster than the serial port"),
    useful("virtio_rng", "entropy from the host"),
    useful("virtio_balloon", "free memory goes back to the host"),
    useful("ext4", "file systems on disks"),
    useful("erofs", "read-only images on disks"),
    useful("tun", "containers that make a VPN"),
    useful("vmgenid", "entropy anew after a snapshot"),
];
