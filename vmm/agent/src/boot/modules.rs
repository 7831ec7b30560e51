//! The kernel's modules: those that the guest's image brings, in the order in which it lists them.
//!
//! `/modules/order` has a file name a line, what others need first. A stock kernel has nearly every virtio driver as a module, the transport's (virtio_mmio)
//! among them; a small one has none, and no directory.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use crate::system::{self, text};

/// Why the modules are not there.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The list, or a module in it, can not be read.
    #[error("module {name}")]
    Unreadable {
        /// Its file's name.
        name: String,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The kernel does not take it.
    #[error("module {name}: {}", text(*error))]
    Refused {
        /// Its file's name.
        name: String,
        /// Why.
        error: Errno,
    },
    /// A line that is no file's name.
    #[error("/modules/order: {0:?}: not the name of a file")]
    Name(String),
}

/// Loads them; without a directory there are none.
///
/// # Errors
/// The first that can not be loaded.
pub fn load(directory: &Path) -> Result<(), ModuleError> {
    let list = match fs::read_to_string(directory.join("order")) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ModuleError::Unreadable { name: "order".into(), error }),
    };
    for name in names(&list)? {
        let file = File::open(directory.join(name)).map_err(|error| ModuleError::Unreadable { name: name.to_owned(), error })?;
        match system::load_module(file.as_fd(), !name.ends_with(".ko")) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(ModuleError::Refused { name: name.to_owned(), error }),
        }
    }
    Ok(())
}

/// The names in a list.
fn names(list: &str) -> Result<Vec<&str>, ModuleError> {
    let lines = list.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| if line.contains('/') || line == ".." { Err(ModuleError::Name(line.to_owned())) } else { Ok(line) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_files_of_its_directory() {
        assert_eq!(names("virtio_mmio.ko\n\n vsock.ko.xz \n").unwrap(), ["virtio_mmio.ko", "vsock.ko.xz"]);
        assert!(matches!(names("../x.ko"), Err(ModuleError::Name(name)) if name == "../x.ko"));
    }

    #[test]
    fn a_kernel_without_modules_needs_none_and_a_missing_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        load(directory.path()).unwrap();
        fs::write(directory.path().join("order"), "missing.ko\n").unwrap();
        assert_eq!(load(directory.path()).unwrap_err().to_string(), "module missing.ko");
    }
}
