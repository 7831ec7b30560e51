//! Putting an image in its place.
//!
//! New files are written under temporary names, made durable, and renamed; the manifest comes last. A crash at any moment leaves the old image or the new one.
//! At the end what neither the new manifest names nor the one before it is removed, if its name is one that this module gives: a pod
//! that found the image a moment ago can still open it.

use std::fs::{self, DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use crate::manifest::{self, Format, Manifest, ManifestError};
use crate::{BuildError, Image};

/// An image that has been built, in memory.
#[derive(Debug)]
pub struct Built {
    manifest: Manifest,
    kernel: Vec<u8>,
    initramfs: Vec<u8>,
}

impl Built {
    /// Of its parts; the agent is in the initramfs, and only described.
    ///
    /// # Errors
    /// [`ManifestError::Value`] for parts that no image has.
    pub fn new(release: &str, format: Format, kernel: Vec<u8>, initramfs: Vec<u8>, agent: &[u8]) -> Result<Built, ManifestError> {
        Ok(Built { manifest: Manifest::new(release, format, &kernel, &initramfs, agent)?, kernel, initramfs })
    }

    /// What it consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes it to a directory, which is made where there is none.
    ///
    /// # Errors
    /// [`BuildError::File`]; [`BuildError::Busy`] while another build writes there. What was there before is still there then.
    pub fn install(&self, directory: &Path) -> Result<(), BuildError> {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(BuildError::file(directory))?;
        let opened = File::open(directory).map_err(BuildError::file(directory))?;
        let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
            nix::Error::EWOULDBLOCK => BuildError::Busy(directory.to_owned()),
            error => BuildError::File { path: directory.to_owned(), source: error.into() },
        })?;
        let old = Image::find(directory).map(|image| image.manifest().clone());
        let kept = old.map(|old| [old.kernel_name(), old.initramfs_name()]).unwrap_or_default();
        let text = self.manifest.text();
        let files = [
            (self.manifest.kernel_name(), &self.kernel[..]),
            (self.manifest.initramfs_name(), &self.initramfs[..]),
            (manifest::NAME.to_owned(), text.as_bytes()),
        ];
        for (name, content) in &files {
            let (path, temporary) = (directory.join(name), directory.join(format!("{name}{TEMPORARY}")));
            write(&temporary, content).map_err(BuildError::file(&temporary))?;
            fs::rename(&temporary, &path).map_err(BuildError::file(&path))?;
            // The renames must not reach the disk in another order: the manifest comes last there too.
            lock.sync_all().map_err(BuildError::file(directory))?;
        }
        for entry in fs::read_dir(directory).map_err(BuildError::file(directory))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_ours(&name) && !kept.contains(&name) && !files.iter().any(|(new, _)| *new == name) {
                fs::remove_file(entry.path()).map_err(BuildError::file(entry.path()))?;
            }
        }
        Ok(())
    }
}

/// What the name of a file that is still being written ends in.
const TEMPORARY: &str = ".new";

fn write(path: &Path, content: &[u8]) -> std::io::Result<()> {
    // Left behind by a build that was cut off; a link in its place is removed, not followed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(content)?;
    // Whatever the umask is: the file is nobody's secret, and nobody else's to write.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.sync_all()
}

/// Whether a name is one that images give to files.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(TEMPORARY).unwrap_or(name);
    let digits = name.strip_prefix("kernel-").or_else(|| name.strip_prefix("initramfs-"));
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())) || name == manifest::NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(kernel: &[u8]) -> Built {
        Built::new("6.12.0", Format::BzImage, kernel.to_vec(), b"initramfs".to_vec(), b"agent").unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_image_replaces_the_old_one_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("a/b");
        built(b"one").install(&directory).unwrap();
        let first = Image::find(&directory).unwrap();
        let (kernel, _) = first.open().unwrap();
        for name in ["kernel-mine", "README", "initramfs-0123456789abcdef.new"] {
            fs::write(directory.join(name), "x").unwrap();
        }
        built(b"two").install(&directory).unwrap();
        let second = Image::find(&directory).unwrap();
        let expected = |kernels: &[&Image]| {
            let manifest = second.manifest();
            let mut names = vec!["README".to_owned(), "kernel-mine".into(), "manifest.json".into(), manifest.initramfs_name()];
            names.extend(kernels.iter().map(|image| image.manifest().kernel_name()));
            names.sort();
            names
        };
        assert_eq!(names(&directory), expected(&[&first, &second]));
        // Who found the first one before it was replaced can still open it, once.
        assert_eq!(std::io::read_to_string(first.open().unwrap().0).unwrap(), "one");
        assert_eq!(std::io::read_to_string(second.open().unwrap().0).unwrap(), "two");
        built(b"three").install(&directory).unwrap();
        let third = Image::find(&directory).unwrap();
        assert_eq!(names(&directory), expected(&[&second, &third]));
        assert!(first.open().unwrap_err().to_string().contains("missing, though manifest.json names it"));
        assert_eq!(std::io::read_to_string(kernel).unwrap(), "one", "and who has it open keeps it");
        // The same again leaves nothing of what was before.
        built(b"three").install(&directory).unwrap();
        assert_eq!(names(&directory), expected(&[&third]));
    }

    #[test]
    fn two_builds_do_not_write_to_one_place() {
        let place = tempfile::tempdir().unwrap();
        let lock = Flock::lock(File::open(place.path()).unwrap(), FlockArg::LockExclusive).unwrap();
        assert!(matches!(built(b"one").install(place.path()), Err(BuildError::Busy(_))));
        drop(lock);
        built(b"one").install(place.path()).unwrap();
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (victim, directory) = (place.path().join("victim"), place.path().join("guest"));
        fs::write(&victim, "untouched").unwrap();
        fs::create_dir(&directory).unwrap();
        std::os::unix::fs::symlink(&victim, directory.join("manifest.json.new")).unwrap();
        std::os::unix::fs::symlink(&victim, directory.join("manifest.json")).unwrap();
        built(b"one").install(&directory).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert!(Image::find(&directory).unwrap().open().is_ok());
    }
}
