//! The image from a distribution's own kernel: nothing is compiled, and the kernel's updates are the distribution's.

use std::path::{Path, PathBuf};

use crate::install::Built;
use crate::kernel::{self, find};
use crate::modules::{Tree, collect};
use crate::{BuildError, initramfs};

/// What to build it from.
#[derive(Debug, Clone)]
pub struct Stock {
    /// The tree with `boot` and `lib/modules`: `/`, or where a package was unpacked.
    pub root: PathBuf,
    /// The kernel's release or, with a slash in it, the path of its bzImage; none: the best one there.
    pub kernel: Option<String>,
    /// The agent.
    pub agent: PathBuf,
    /// Modules beside those that every guest has.
    pub modules: Vec<String>,
}

/// What came of it, beside the image.
#[derive(Debug)]
pub struct Outcome {
    /// The image.
    pub built: Built,
    /// Where its kernel came from.
    pub kernel: PathBuf,
    /// Its modules, in the order in which the guest loads them.
    pub modules: Vec<String>,
    /// Modules that would be useful and that this kernel has not.
    pub absent: Vec<&'static str>,
}

impl Stock {
    /// Builds it.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(&self) -> Result<Outcome, BuildError> {
        // First what is cheap to refuse.
        let agent = initramfs::read_agent(&self.agent)?;
        let (path, modules) = match self.kernel.as_deref() {
            None => find::newest(&self.root).map(|found| (found.kernel, Some(found.modules)))?,
            Some(path) if path.contains('/') => (PathBuf::from(path), None),
            Some(release) => find::release(&self.root, release).map(|found| (found.kernel, Some(found.modules)))?,
        };
        let kernel = kernel::read(&path)?;
        let modules = match modules {
            // Found by its name, which must not promise another kernel than the file is: its modules would not load.
            Some(modules) => match modules.file_name().and_then(|name| name.to_str()) {
                Some(named) if named == kernel.release => modules,
                named => {
                    let named = named.unwrap_or_default().to_owned();
                    return Err(BuildError::OtherRelease { path, is: kernel.release, named });
                }
            },
            None => find::modules(&self.root, &kernel.release)?,
        };
        let tree = Tree::read(&modules, &kernel.release)?;
        let collected = collect(&tree, &self.modules)?;
        let initramfs = initramfs::write(&agent, &collected.modules)?;
        let names = collected.modules.into_iter().map(|module| module.file).collect();
        let built = built(&path, &kernel.release, kernel.format, kernel.bytes, initramfs, &agent)?;
        Ok(Outcome { built, kernel: path, modules: names, absent: collected.absent })
    }
}

/// The image of its parts; what the manifest does not take of a kernel is the kernel's fault.
pub(crate) fn built(
    path: &Path,
    release: &str,
    format: crate::manifest::Format,
    kernel: Vec<u8>,
    initramfs: Vec<u8>,
    agent: &[u8],
) -> Result<Built, BuildError> {
    Built::new(release, format, kernel, initramfs, agent)
        .map_err(|error| BuildError::NotKernel { path: path.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::file;
    use crate::kernel::bzimage::tests::wrap;
    use crate::modules::{WANTED, closure::tests::write};
    use std::fs;

    fn stock(root: &Path) -> Stock {
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::write(root.join("boot/vmlinuz-6.12.1"), wrap("6.12.1 (x)", b"payload")).unwrap();
        let mut builtin = WANTED.map(|wanted| wanted.name).to_vec();
        builtin.retain(|name| !["tun", "erofs"].contains(name));
        write(&root.join("lib/modules/6.12.1"), &builtin, &[("tun", "depends=helper"), ("helper", "depends="), ("extra", "depends=")]);
        fs::write(root.join("agent"), file(2, &[(1, 0, b"x", 1)], b"")).unwrap();
        Stock { root: root.to_owned(), kernel: None, agent: root.join("agent"), modules: vec!["extra".into()] }
    }

    #[test]
    fn the_same_parts_give_the_same_image() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outcome = stock(one.path()).build().unwrap();
        assert_eq!(outcome.modules, ["helper.ko", "tun.ko", "extra.ko"]);
        assert_eq!(outcome.absent, ["erofs"]);
        assert_eq!(outcome.kernel, one.path().join("boot/vmlinuz-6.12.1"));
        assert_eq!(stock(two.path()).build().unwrap().built.manifest().text(), outcome.built.manifest().text());
        let by_release = Stock { kernel: Some("6.12.1".into()), ..stock(one.path()) };
        let by_path = Stock { kernel: Some(outcome.kernel.to_str().unwrap().into()), ..stock(one.path()) };
        for stock in [by_release, by_path] {
            assert_eq!(stock.build().unwrap().built.manifest(), outcome.built.manifest());
        }
    }

    #[test]
    fn a_kernel_under_anothers_name_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let stock = stock(root.path());
        fs::write(root.path().join("boot/vmlinuz-6.12.1"), wrap("6.12.2 (x)", b"payload")).unwrap();
        let error = stock.build().unwrap_err().to_string();
        assert!(error.ends_with("boot/vmlinuz-6.12.1: is of release 6.12.2, not 6.12.1"), "{error}");
        let by_path = Stock { kernel: Some(root.path().join("boot/vmlinuz-6.12.1").to_str().unwrap().into()), ..stock };
        let error = by_path.build().unwrap_err().to_string();
        assert!(error.starts_with("kernel 6.12.2: no modules in "), "{error}");
    }
}
