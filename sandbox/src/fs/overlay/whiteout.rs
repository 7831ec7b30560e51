//! How the upper layer says that something of the lower one is not there.
//!
//! A *whiteout* is a character device 0:0, as overlayfs has it. Where the upper layer can not make one (a host's file system that has no devices) it is an
//! empty regular file named `.wh.NAME`, as OCI's image layers have it. An *opaque* directory is one that hides the lower directory of its
//! name: in an upper layer of memory that is noted beside it, in a directory of the host by a file `.wh..wh..opq` in it.
//!
//! Files of these names are therefore nobody's to make where the upper layer is a host directory; in memory they are names like others.

use super::Layers;
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;
use crate::vfs::node::{FileType, NodeRef};

/// The name that makes a directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What a whiteout's name begins with, where it is a regular file.
const PREFIX: &[u8] = b".wh.";

fn name_of(name: &[u8]) -> Vec<u8> {
    [PREFIX, name].concat()
}

/// Whether an upper node hides a lower name.
pub fn is_whiteout(node: &NodeRef) -> bool {
    node.file_type() == FileType::CharacterDevice && node.attributes().is_ok_and(|attributes| attributes.rdev == 0)
}

/// What an entry of an upper directory means.
pub enum Entry<'a> {
    /// A file of this name.
    File,
    /// It hides the lower file of this name.
    Hides(&'a [u8]),
    /// Nothing that is shown.
    Mark,
}

impl Layers {
    /// Whether a name is one that the layers keep for themselves.
    pub fn is_reserved(&self, name: &[u8]) -> bool {
        !self.in_memory && name.starts_with(PREFIX)
    }

    /// What an entry of an upper directory means, as far as its name and type say. A character device may be a whiteout: [`is_whiteout`].
    pub fn meaning<'a>(&self, name: &'a [u8]) -> Entry<'a> {
        if !self.is_reserved(name) {
            return Entry::File;
        }
        if name == OPAQUE { Entry::Mark } else { Entry::Hides(&name[PREFIX.len()..]) }
    }

    /// Whether an upper directory hides a lower name that has no upper file.
    pub fn hides_by_name(&self, upper: &NodeRef, name: &[u8]) -> bool {
        !self.in_memory && upper.clone().lookup(&name_of(name), &Credentials::kernel()).is_ok()
    }

    /// Whether an upper directory hides the lower one.
    pub fn is_opaque(&self, upper: &NodeRef) -> bool {
        if self.in_memory {
            return self.opaque.lock().contains(&upper.key());
        }
        upper.clone().lookup(OPAQUE, &Credentials::kernel()).is_ok()
    }

    /// Makes an upper directory opaque.
    pub fn make_opaque(&self, upper: &NodeRef) -> Result<()> {
        if self.in_memory {
            self.opaque.lock().insert(upper.key());
            return Ok(());
        }
        match upper.clone().make_node(OPAQUE, libc::S_IFREG | 0o600, 0, &Credentials::kernel()) {
            Err(Errno::EEXIST) => Ok(()),
            made => made.map(drop),
        }
    }

    /// Hides a lower name. Nothing stands there in the upper directory.
    pub fn cover(&self, upper: &NodeRef, name: &[u8]) -> Result<()> {
        let who = Credentials::kernel();
        match upper.clone().make_node(name, libc::S_IFCHR, 0, &who) {
            Err(Errno::EPERM | Errno::EOPNOTSUPP) => upper.clone().make_node(&name_of(name), libc::S_IFREG | 0o600, 0, &who).map(drop),
            made => made.map(drop),
        }
    }

    /// Uncovers a name that is about to be made; says whether it was covered.
    pub fn uncover(&self, upper: &NodeRef, name: &[u8]) -> Result<bool> {
        let who = Credentials::kernel();
        if let Ok(node) = upper.clone().lookup(name, &who)
            && is_whiteout(&node)
        {
            upper.clone().unlink(name, false, &who)?;
            return Ok(true);
        }
        if self.in_memory {
            return Ok(false);
        }
        match upper.clone().unlink(&name_of(name), false, &who) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
