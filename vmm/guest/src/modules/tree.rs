//! A kernel's directory of modules: which there are as files, and which are in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::info::{Info, name};
use crate::BuildError;
use crate::decompress::decompress;
use crate::elf::Elf;
use crate::kernel::read_file;

/// The largest module that is read, bytes.
const LARGEST: u64 = 64 << 20;
/// The largest index that is read, bytes: Debian's are below 100 KB.
const LARGEST_INDEX: u64 = 16 << 20;
/// What module files end in: as built, and as each packing program names them.
const SUFFIXES: [&str; 4] = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"];
/// How deep directories are followed: `kernel/drivers/net/ethernet/VENDOR/CARD` is six.
const DEEPEST: usize = 16;

/// The directory of one kernel's modules.
pub struct Tree {
    /// The directory.
    pub directory: PathBuf,
    /// The kernel's release.
    pub release: String,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Tree {
    /// Reads the names in it; no module itself.
    ///
    /// # Errors
    /// [`BuildError::File`].
    pub fn read(directory: &Path, release: &str) -> Result<Tree, BuildError> {
        let read = |file: &str| read_file(&directory.join(file), LARGEST_INDEX);
        let mut builtin = builtin_files(&read("modules.builtin")?);
        // Since Linux 5.2. Without it a built-in module is known by its file's name alone.
        if let Ok(strings) = read("modules.builtin.modinfo") {
            builtin.extend(builtin_aliases(&strings));
        }
        let mut files = BTreeMap::new();
        // Only what came with the kernel: not `updates` and `extra`, where the host's own drivers are.
        walk(&directory.join("kernel"), DEEPEST, &mut files)?;
        Ok(Tree { directory: directory.to_owned(), release: release.to_owned(), files, builtin })
    }

    /// Whether it is in the kernel; an alias may be asked for too.
    pub fn is_builtin(&self, module: &str) -> bool {
        self.builtin.contains(&name(module))
    }

    /// Where its file is.
    pub fn file(&self, module: &str) -> Option<&Path> {
        self.files.get(&name(module)).map(PathBuf::as_path)
    }

    /// A module's bytes, unpacked, and what it says of itself.
    ///
    /// # Errors
    /// [`BuildError::Module`] for a file that is no module of this kernel.
    pub fn load(&self, path: &Path) -> Result<(Vec<u8>, Info), BuildError> {
        let bytes = decompress(&path.display().to_string(), read_file(path, LARGEST)?, LARGEST)?;
        let wrong = |reason: String| BuildError::Module { path: path.to_owned(), reason };
        let section = Elf::parse(&bytes).and_then(|elf| elf.section(".modinfo")).map_err(|error| wrong(error.to_string()))?;
        let info = Info::parse(section.ok_or_else(|| wrong(String::from("not a module: no .modinfo")))?)
            .map_err(|error| wrong(error.to_string()))?;
        match &info.release {
            Some(release) if *release != self.release => Err(wrong(format!("a module for {release}, not for {}", self.release))),
            _ => Ok((bytes, info)),
        }
    }
}

/// The names in `modules.builtin`: one path on each line.
fn builtin_files(text: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(text).lines().filter_map(|line| module_name(line.rsplit('/').next()?)).collect()
}

/// The names that `modules.builtin.modinfo` gives: strings `MODULE.KEY=VALUE`, of which those count whose key is `alias`.
fn builtin_aliases(strings: &[u8]) -> impl Iterator<Item = String> {
    let string = |string: &[u8]| {
        let (key, alias) = std::str::from_utf8(string).ok()?.split_once('=')?;
        key.ends_with(".alias").then(|| name(alias))
    };
    strings.split(|byte| *byte == 0).filter_map(string)
}

/// The module that a file's name stands for.
fn module_name(file: &str) -> Option<String> {
    SUFFIXES.iter().find_map(|suffix| file.strip_suffix(suffix)).filter(|stem| !stem.is_empty()).map(name)
}

fn walk(directory: &Path, deeper: usize, files: &mut BTreeMap<String, PathBuf>) -> Result<(), BuildError> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(BuildError::file(directory))?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    // In one order always, so that of two files with one name it is always the same that counts.
    paths.sort();
    for path in paths {
        // Links are not followed: distributions have none below `kernel`.
        let kind = path.symlink_metadata().map_err(BuildError::file(&path))?.file_type();
        if kind.is_dir() && deeper > 0 {
            walk(&path, deeper - 1, files)?;
        } else if let Some(module) = path.file_name().and_then(|file| module_name(file.to_str()?)).filter(|_| kind.is_file()) {
            files.entry(module).or_insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn indexes_are_read() {
        assert_eq!(
            builtin_files(b"kernel/fs/fuse/virtiofs.ko\nkernel/lib/crc-t10dif.ko\n\nkernel/x\n").into_iter().collect::<Vec<_>>(),
            ["crc_t10dif", "virtiofs"]
        );
        let strings = b"crc32c_generic.alias=crypto-crc32c\0crc32c_generic.license=GPL\0x\0\xff=\0";
        assert_eq!(builtin_aliases(strings).collect::<Vec<_>>(), ["crypto_crc32c"]);
        assert_eq!(module_name("virtio-rng.ko.zst").as_deref(), Some("virtio_rng"));
        assert_eq!(module_name("virtio-rng.ko.zst.old"), None);
        assert_eq!(module_name(".ko"), None);
    }

    proptest! {
        #[test]
        fn any_index_is_read(bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(b'\n'), Just(b'='), Just(b'/'), any::<u8>()], 0..100)) {
            let _ = builtin_files(&bytes);
            let _ = builtin_aliases(&bytes).count();
        }

        #[test]
        fn every_listed_module_is_builtin(modules in proptest::collection::btree_set("[a-z0-9_]{1,12}", 0..10)) {
            let text: String = modules.iter().map(|module| format!("kernel/a/{module}.ko\n")).collect();
            prop_assert_eq!(builtin_files(text.as_bytes()), modules);
        }
    }
}
