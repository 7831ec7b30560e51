//! The image at a pod's start: *found*, verified, and handed out as descriptors.
//!
//! 1. [`Image::find`] opens the directory and reads its manifest.
//! 2. [`Image::open`] opens the kernel and the initramfs below that directory, never through a symbolic link, compares them with the manifest through the open
//!    descriptors, and gives those same descriptors away. Between the comparison and the use there is no name that could come to mean another file.
//!
//! What can still change a file that has been compared is writing into it, which takes its owner. So all four must belong to root or to ourselves and be
//! writable for nobody else ([`ImageError::Exposed`]); see the crate's documentation for what the checksums are worth then.
//!
//! Comparing is reading forty-odd megabytes: 36 to 42 ms on an EPYC with SHA instructions, several times that without, on each pod's start. Stamps are how it is done
//! once per boot instead; then finding and opening an image takes 0.05 to 0.1 ms.

mod stamp;
mod verify;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::checksum::Checksum;
use crate::manifest::{self, Manifest, ManifestError, Part};

pub use verify::Verified;

/// Why there is no image that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no image.
    #[error("guest image {}: there is none: bulkhead guest build makes one", .0.display())]
    Missing(PathBuf),
    /// Something of it can not be read.
    #[error("guest image {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is none.
    #[error("guest image {}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A file that the manifest names is not there.
    #[error("guest image {}: missing, though {} names it: bulkhead guest build makes it again", .0.display(), manifest::NAME)]
    MissingFile(PathBuf),
    /// A symbolic link where a file should be.
    #[error("guest image {}: a symbolic link, where only a file is taken", .0.display())]
    Symlink(PathBuf),
    /// Something that is no regular file.
    #[error("guest image {}: not a regular file", .0.display())]
    NotFile(PathBuf),
    /// Others than root and ourselves could change it.
    #[error("guest image {}: owned by user {owner} with mode {mode:04o}: others than root could change what every guest runs", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// It is longer or shorter than it was built.
    #[error("guest image {}: {is} bytes, where {} says {should}: bulkhead guest build makes it again", path.display(), manifest::NAME)]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size.
        is: u64,
        /// The manifest's.
        should: u64,
    },
    /// It is not what was built.
    #[error("guest image {}: SHA-256 {is}, where {} says {should}: bulkhead guest build makes it again", path.display(), manifest::NAME)]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Its checksum.
        is: Checksum,
        /// The manifest's.
        should: Checksum,
    },
    /// Somebody wrote to it while it was compared.
    #[error("guest image {}: changed while it was read", .0.display())]
    Changed(PathBuf),
}

/// An image whose manifest has been read.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    directory: OwnedFd,
    manifest: Manifest,
    /// Of the manifest's text: what stamps are named by.
    digest: Checksum,
    stamps: Option<PathBuf>,
}

impl Image {
    /// Opens the image in `directory`. Nothing is compared yet but the manifest with its own rules.
    ///
    /// # Errors
    /// [`ImageError`], which names the file.
    pub fn find(directory: &Path) -> Result<Image, ImageError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = open(directory, flags, Mode::empty()).map_err(|error| match error {
            nix::Error::ENOENT => ImageError::Missing(directory.to_owned()),
            _ => ImageError::Read { path: directory.to_owned(), source: error.into() },
        })?;
        // O_PATH is enough for fstat(2), and asks for no right to list it.
        let opened = File::from(opened);
        check_owner(directory, &opened)?;
        let directory_descriptor = OwnedFd::from(opened);
        let path = directory.join(manifest::NAME);
        let file = open_within(&directory_descriptor, directory, manifest::NAME).map_err(|error| match error {
            ImageError::MissingFile(_) => ImageError::Missing(directory.to_owned()),
            error => error,
        })?;
        let mut text = Vec::new();
        let read = (&file).take(manifest::LONGEST + 1).read_to_end(&mut text);
        read.map_err(|source| ImageError::Read { path: path.clone(), source })?;
        if text.len() as u64 > manifest::LONGEST {
            return Err(ImageError::Size { path, is: file.metadata().map_or(0, |data| data.len()), should: manifest::LONGEST });
        }
        let manifest = Manifest::parse(&text).map_err(|source| ImageError::Manifest { path, source })?;
        let digest = Checksum::of(&text);
        Ok(Image { path: directory.to_owned(), directory: directory_descriptor, manifest, digest, stamps: None })
    }

    /// Keeps stamps in `directory`: what has been compared is believed until the files change or the machine boots again. The directory is made where there
    /// is none; it should be on a tmpfs, as `/run` is.
    pub fn with_stamps(mut self, directory: &Path) -> Image {
        self.stamps = Some(directory.to_owned());
        self
    }

    /// What it consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.path
    }

    /// The kernel and the initramfs, open for reading, at their beginnings, compared with the manifest. Each call gives descriptors with offsets of their own.
    ///
    /// # Errors
    /// [`ImageError`], which names the file.
    pub fn open(&self) -> Result<(File, File), ImageError> {
        self.verify().map(|(kernel, initramfs, _)| (kernel, initramfs))
    }

    /// The same, and how they were compared.
    ///
    /// # Errors
    /// [`ImageError`], which names the file.
    pub fn verify(&self) -> Result<(File, File, Verified), ImageError> {
        let kernel = self.part(&self.manifest.kernel_name(), &self.manifest.kernel_part())?;
        let initramfs = self.part(&self.manifest.initramfs_name(), &self.manifest.initramfs)?;
        let verified = verify::verify([&kernel, &initramfs], self.digest, self.stamps.as_deref())?;
        Ok((kernel.file, initramfs.file, verified))
    }

    fn part(&self, name: &str, should: &Part) -> Result<Opened, ImageError> {
        let file = open_within(&self.directory, &self.path, name)?;
        Ok(Opened { path: self.path.join(name), file, should: *should })
    }
}

/// A file of the image that has been opened.
struct Opened {
    path: PathBuf,
    file: File,
    should: Part,
}

/// Opens a regular file of the directory that nobody else may change.
fn open_within(directory: &OwnedFd, path: &Path, name: &str) -> Result<File, ImageError> {
    let path = path.join(name);
    // Nonblocking: a fifo in the file's place must not hang us. Nothing else that is opened for reading does anything before it is looked at below.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(nix::Error::ENOENT) => return Err(ImageError::MissingFile(path)),
        Err(nix::Error::ELOOP) => return Err(ImageError::Symlink(path)),
        Err(error) => return Err(ImageError::Read { path, source: error.into() }),
    };
    if !file.metadata().is_ok_and(|data| data.is_file()) {
        return Err(ImageError::NotFile(path));
    }
    check_owner(&path, &file)?;
    Ok(file)
}

/// Whether a file is root's or ours, and writable for nobody else.
fn check_owner(path: &Path, file: &File) -> Result<(), ImageError> {
    let data = file.metadata().map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
    let ours = [0, nix::unistd::geteuid().as_raw()].contains(&data.uid());
    if ours && data.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(ImageError::Exposed { path: path.to_owned(), owner: data.uid(), mode: data.mode() & 0o7777 })
}

#[cfg(test)]
mod tests;
