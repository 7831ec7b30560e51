//! The comparison of open files with the manifest.

use std::path::Path;

use super::stamp::{Identity, Stamp};
use super::{ImageError, Opened};
use crate::checksum::Checksum;

/// How files were compared with the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Every byte was read.
    Hashed,
    /// It was done before, and the files are the same ones, unchanged.
    Stamped,
}

/// Compares files with what they should be. `manifest` is the checksum of the manifest that says so.
pub(super) fn verify(parts: [&Opened; 2], manifest: Checksum, stamps: Option<&Path>) -> Result<Verified, ImageError> {
    let mut identities = Vec::new();
    for part in parts {
        let identity = identify(part)?;
        if identity.size != part.should.size {
            return Err(ImageError::Size { path: part.path.clone(), is: identity.size, should: part.should.size });
        }
        identities.push(identity);
    }
    let stamp = stamps.and_then(|directory| Stamp::open(directory, manifest));
    if stamp.as_ref().is_some_and(|stamp| stamp.is_of(&identities)) {
        return Ok(Verified::Stamped);
    }
    for (part, identity) in parts.into_iter().zip(&identities) {
        let failed = |source| ImageError::Read { path: part.path.clone(), source };
        let (is, size) = Checksum::of_file(&part.file, part.should.size).map_err(failed)?;
        // Before the checksum: a file that changes meanwhile has a wrong one, and that is not what is wrong with it.
        if size != part.should.size || identify(part)? != *identity {
            return Err(ImageError::Changed(part.path.clone()));
        }
        if is != part.should.sha256 {
            return Err(ImageError::Checksum { path: part.path.clone(), is, should: part.should.sha256 });
        }
    }
    if let Some(stamp) = stamp {
        stamp.write(&identities);
    }
    Ok(Verified::Hashed)
}

fn identify(part: &Opened) -> Result<Identity, ImageError> {
    let data = part.file.metadata().map_err(|source| ImageError::Read { path: part.path.clone(), source })?;
    Ok(Identity::of(&data))
}
