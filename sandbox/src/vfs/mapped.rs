//! Names of mapped memory files, for /proc/PID/maps.
//!
//! The host knows the backing of a memory file by a number only. When one is mapped, the path it was opened by is kept here under that number. A mapping
//! outlives its file's last name, so the names of files that are gone are kept for a while: bounded, and all dropped at once when there are too many.

use std::collections::HashMap;

use crate::sync::Mutex;

/// How many names of files that are gone are kept.
const GONE: usize = 1024;

#[derive(Default)]
struct Names {
    /// By device and inode of the backing; whether that is gone.
    known: HashMap<(u64, u64), (Vec<u8>, bool)>,
    gone: usize,
}

static NAMES: Mutex<Option<Names>> = Mutex::new(None);

/// A backing is mapped as this path.
pub fn remember(backing: (u64, u64), path: Vec<u8>) {
    let mut names = NAMES.lock();
    let names = names.get_or_insert_default();
    if let Some((_, true)) = names.known.insert(backing, (path, false)) {
        names.gone -= 1;
    }
}

/// What it was last mapped as, with ` (deleted)` behind it where it is gone.
pub fn name_of(backing: (u64, u64)) -> Option<Vec<u8>> {
    let names = NAMES.lock();
    let (path, gone) = names.as_ref()?.known.get(&backing)?;
    Some(if *gone { [path, &b" (deleted)"[..]].concat() } else { path.clone() })
}

/// The backing is gone.
pub fn forget(backing: (u64, u64)) {
    let mut names = NAMES.lock();
    let Some(names) = names.as_mut() else { return };
    if let Some((_, gone)) = names.known.get_mut(&backing)
        && !std::mem::replace(gone, true)
    {
        names.gone += 1;
    }
    if names.gone > GONE {
        names.known.retain(|_, (_, gone)| !*gone);
        names.gone = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outlive_files_and_are_bounded() {
        // Numbers that no file of another test has.
        let backing = |number: u64| (u64::MAX, number);
        remember(backing(0), b"/tmp/x".to_vec());
        assert_eq!(name_of(backing(0)).as_deref(), Some(&b"/tmp/x"[..]));
        forget(backing(0));
        forget(backing(0));
        assert_eq!(name_of(backing(0)).as_deref(), Some(&b"/tmp/x (deleted)"[..]));
        for number in 1..=GONE as u64 {
            remember(backing(number), b"/tmp/y".to_vec());
            forget(backing(number));
        }
        assert_eq!(name_of(backing(0)), None);
    }
}
