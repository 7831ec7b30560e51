//! Which of the installed kernels.
//!
//! Distributions put a kernel at `/boot/vmlinuz-RELEASE` or, the newer ones, at `/usr/lib/modules/RELEASE/vmlinuz`, and its modules below
//! `/lib/modules/RELEASE`, which may be the same directory as `/usr/lib/modules` or not exist where that does (a package unpacked with `dpkg -x`).

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use crate::BuildError;

/// The oldest kernel that is taken unasked: what came before 6 has virtio-fs but lacks fixes that a guest of many containers meets.
const OLDEST: u64 = 6;

/// A kernel and its modules, where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The bzImage.
    pub kernel: PathBuf,
    /// The directory with `modules.builtin` and `kernel/`.
    pub modules: PathBuf,
}

/// Where modules of a release may be, below a root.
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];

/// The kernel of this release below `root`.
///
/// # Errors
/// [`BuildError::NoSuchKernel`], [`BuildError::NoModules`].
pub fn release(root: &Path, release: &str) -> Result<Found, BuildError> {
    let mut looked = vec![root.join("boot").join(format!("vmlinuz-{release}"))];
    looked.extend(MODULES.map(|directory| root.join(directory).join(release).join("vmlinuz")));
    match looked.iter().find(|path| path.is_file()) {
        Some(kernel) => Ok(Found { kernel: kernel.clone(), modules: modules(root, release)? }),
        None => Err(BuildError::NoSuchKernel { release: release.to_owned(), looked }),
    }
}

/// The modules of this release below `root`.
///
/// # Errors
/// [`BuildError::NoModules`].
pub fn modules(root: &Path, release: &str) -> Result<PathBuf, BuildError> {
    let places = MODULES.map(|directory| root.join(directory).join(release));
    let found = places.iter().find(|place| place.join("modules.builtin").is_file()).cloned();
    found.ok_or_else(|| BuildError::NoModules { release: release.to_owned(), looked: places[0].clone() })
}

/// The best kernel below `root`: of Linux 6 or later, one for clouds (Debian's flavour without drivers for hardware) rather than another, then the newest.
///
/// # Errors
/// [`BuildError::NoKernel`].
pub fn newest(root: &Path) -> Result<Found, BuildError> {
    let listed = |directory: PathBuf, prefix: &'static str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter_map(move |entry| Some(entry.file_name().to_str()?.strip_prefix(prefix)?.to_owned()))
    };
    let mut releases: Vec<String> = listed(root.join("boot"), "vmlinuz-").collect();
    releases.extend(MODULES.into_iter().flat_map(|directory| listed(root.join(directory), "")));
    releases.retain(|release| release.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u64| major >= OLDEST));
    let is_cloud = |release: &str| release.contains("cloud");
    releases.sort_by(|a, b| is_cloud(b).cmp(&is_cloud(a)).then_with(|| compare(b, a)));
    let found = releases.iter().find_map(|name| release(root, name).ok());
    found.ok_or_else(|| BuildError::NoKernel { boot: root.join("boot") })
}

/// The order of releases, as Debian orders versions (deb-version(7)): digits by their value, `~` before everything and even before the end, letters before
/// other characters.
fn compare(a: &str, b: &str) -> Ordering {
    fn weight(letter: Option<&u8>) -> i32 {
        match letter {
            Some(b'~') => -1,
            None => 0,
            Some(digit) if digit.is_ascii_digit() => 0,
            Some(letter) if letter.is_ascii_alphabetic() => (*letter).into(),
            Some(other) => i32::from(*other) + 256,
        }
    }
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let text = |part: &[u8]| part.first().is_some_and(|letter| !letter.is_ascii_digit());
        while text(a) || text(b) {
            match weight(a.first()).cmp(&weight(b.first())) {
                Ordering::Equal => (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default()),
                order => return order,
            }
        }
        if a.is_empty() && b.is_empty() {
            return Ordering::Equal;
        }
        let number = |part: &mut &[u8]| {
            let (digits, rest) = part.split_at(part.iter().take_while(|digit| digit.is_ascii_digit()).count());
            *part = rest;
            let significant = digits.iter().skip_while(|digit| **digit == b'0').copied().collect::<Vec<u8>>();
            (significant.len(), significant)
        };
        match number(&mut a).cmp(&number(&mut b)) {
            Ordering::Equal => {}
            order => return order,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree(kernels: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (release, modules) in kernels {
            fs::create_dir_all(root.path().join("boot")).unwrap();
            fs::write(root.path().join("boot").join(format!("vmlinuz-{release}")), "x").unwrap();
            let directory = root.path().join(modules).join(release);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("modules.builtin"), "").unwrap();
        }
        root
    }

    #[test]
    fn the_newest_of_the_cloud_is_taken() {
        let kernels =
            ["6.12.9+deb12-cloud-amd64", "6.12.117+deb12-cloud-amd64", "6.18.0-amd64", "5.10.0-99-cloud-amd64", "6.13~rc1-cloud-amd64"];
        let root = tree(&kernels.map(|release| (release, "lib/modules")));
        let name = |found: Found| found.modules.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(name(newest(root.path()).unwrap()), "6.13~rc1-cloud-amd64");
        // Without its modules it is no kernel for a guest.
        fs::remove_file(root.path().join("lib/modules/6.13~rc1-cloud-amd64/modules.builtin")).unwrap();
        assert_eq!(name(newest(root.path()).unwrap()), "6.12.117+deb12-cloud-amd64");
        assert_eq!(name(release(root.path(), "5.10.0-99-cloud-amd64").unwrap()), "5.10.0-99-cloud-amd64");
        let error = release(root.path(), "6.13~rc1-cloud-amd64").unwrap_err().to_string();
        assert!(error.starts_with("kernel 6.13~rc1-cloud-amd64: no modules in /"), "{error}");
        let error = release(root.path(), "7.0").unwrap_err().to_string();
        assert!(error.starts_with("kernel 7.0: no /") && error.ends_with("usr/lib/modules/7.0/vmlinuz"), "{error}");
    }

    #[test]
    fn other_distributions_places_are_known() {
        let root = tempfile::tempdir().unwrap();
        let error = newest(root.path()).unwrap_err().to_string();
        assert!(error.contains("boot: no kernel of Linux 6") && error.contains("apt install"), "{error}");
        let directory = root.path().join("usr/lib/modules/6.9.1-300.fc40.x86_64");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("vmlinuz"), "x").unwrap();
        fs::write(directory.join("modules.builtin"), "").unwrap();
        assert_eq!(newest(root.path()).unwrap(), Found { kernel: directory.join("vmlinuz"), modules: directory });
    }

    #[test]
    fn releases_are_ordered_as_versions() {
        for (older, newer) in
            [("6.1", "6.12"), ("6.12.9", "6.12.117"), ("6.12~rc1", "6.12"), ("6.12", "6.12+deb12"), ("6.9-amd64", "6.10-amd64")]
        {
            assert_eq!(
                (compare(older, newer), compare(newer, older), compare(older, older)),
                (Ordering::Less, Ordering::Greater, Ordering::Equal)
            );
        }
        assert_eq!(compare("6.01", "6.1"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn the_order_is_one(a in "[0-9a-z.+~-]{0,8}", b in "[0-9a-z.+~-]{0,8}", c in "[0-9a-z.+~-]{0,8}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                prop_assert!(compare(&a, &c) != Ordering::Greater);
            }
        }
    }
}
