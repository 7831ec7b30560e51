//! What is refused, by name, and what is believed.

use super::*;
use crate::Built;
use crate::manifest::Format;
use std::fs;
use std::io::Seek;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

fn installed() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("guest");
    built(b"kernel").install(&directory).unwrap();
    (place, directory)
}

fn built(kernel: &[u8]) -> Built {
    Built::new("6.12.0", Format::Vmlinux, kernel.to_vec(), vec![7; 300_000], b"agent").unwrap()
}

fn kernel(directory: &Path) -> PathBuf {
    directory.join(Image::find(directory).unwrap().manifest().kernel_name())
}

fn refused(directory: &Path) -> String {
    let error = Image::find(directory).and_then(|image| image.open()).unwrap_err();
    let text = error.to_string().replace(directory.to_str().unwrap(), "DIR");
    match std::error::Error::source(&error) {
        Some(source) => format!("{text}: {source}"),
        None => text,
    }
}

#[test]
fn what_was_built_is_found_and_opened() {
    let (_place, directory) = installed();
    let image = Image::find(&directory).unwrap();
    assert_eq!(image.manifest().kernel.release, "6.12.0");
    let (mut kernel, mut initramfs) = image.open().unwrap();
    let mut text = String::new();
    kernel.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), initramfs.stream_position().unwrap()), ("kernel", 0));
    // Nobody else's reading moves it.
    let (mut again, _) = image.open().unwrap();
    assert_eq!(again.stream_position().unwrap(), 0);
    let mut bytes = Vec::new();
    initramfs.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, vec![7; 300_000]);
}

#[test]
fn what_is_not_there_is_named_with_what_makes_it() {
    let (_place, directory) = installed();
    let nowhere = directory.join("nowhere");
    let error = Image::find(&nowhere).unwrap_err().to_string();
    assert_eq!(error, format!("guest image {}: there is none: bulkhead guest build makes one", nowhere.display()));
    fs::remove_file(kernel(&directory)).unwrap();
    let text = refused(&directory);
    assert!(text.starts_with("guest image DIR/kernel-") && text.contains(": missing, though manifest.json names it"), "{text}");
    fs::remove_file(directory.join("manifest.json")).unwrap();
    assert_eq!(refused(&directory), "guest image DIR: there is none: bulkhead guest build makes one");
    fs::write(directory.join("manifest.json"), "{\"version\": 9}").unwrap();
    assert!(refused(&directory).starts_with("guest image DIR/manifest.json: version 9, where"), "{}", refused(&directory));
    fs::write(directory.join("manifest.json"), vec![b' '; manifest::LONGEST as usize + 1]).unwrap();
    assert!(refused(&directory).contains("65537 bytes, where"), "{}", refused(&directory));
    assert!(matches!(Image::find(Path::new("/dev/null")), Err(ImageError::Read { .. })));
}

#[test]
fn a_file_that_is_not_what_was_built_is_refused() {
    let (_place, directory) = installed();
    let path = kernel(&directory);
    fs::write(&path, b"kerne").unwrap();
    assert!(refused(&directory).contains(": 5 bytes, where manifest.json says 6: "), "{}", refused(&directory));
    fs::write(&path, b"Kernel").unwrap();
    let (is, should) = (Checksum::of(b"Kernel"), Checksum::of(b"kernel"));
    assert!(refused(&directory).contains(&format!(": SHA-256 {is}, where manifest.json says {should}: ")), "{}", refused(&directory));
    fs::write(&path, b"kernel").unwrap();
    assert!(Image::find(&directory).unwrap().open().is_ok());
}

#[test]
fn links_and_other_things_than_files_are_refused() {
    let (place, directory) = installed();
    let path = kernel(&directory);
    let elsewhere = place.path().join("kernel");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(refused(&directory).ends_with(": a symbolic link, where only a file is taken"), "{}", refused(&directory));
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, Mode::S_IRUSR).unwrap();
    assert!(refused(&directory).ends_with(": not a regular file"), "{}", refused(&directory));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(refused(&directory).ends_with(": not a regular file"), "{}", refused(&directory));
    // A hard link is the file itself.
    fs::remove_dir(&path).unwrap();
    fs::hard_link(&elsewhere, &path).unwrap();
    assert!(Image::find(&directory).unwrap().open().is_ok());
    // The manifest too.
    fs::rename(directory.join("manifest.json"), place.path().join("manifest.json")).unwrap();
    symlink(place.path().join("manifest.json"), directory.join("manifest.json")).unwrap();
    assert_eq!(refused(&directory), "guest image DIR/manifest.json: a symbolic link, where only a file is taken");
}

#[test]
fn what_others_may_change_is_refused() {
    let (_place, directory) = installed();
    let path = kernel(&directory);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    assert!(refused(&directory).contains("with mode 0664: others than root could change"), "{}", refused(&directory));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused(&directory).starts_with("guest image DIR: owned by user"), "{}", refused(&directory));
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    if nix::unistd::geteuid().is_root() {
        nix::unistd::chown(&path, Some(1000.into()), None).unwrap();
        assert!(refused(&directory).contains("owned by user 1000 with mode 0644"), "{}", refused(&directory));
    }
}

/// A change time can not be set into the past, only waited for.
fn wait_until_settled() {
    std::thread::sleep(Duration::from_millis(3100));
}

#[test]
fn a_stamp_saves_the_reading_until_a_file_changes() {
    let (place, directory) = installed();
    let stamps = place.path().join("run/stamps");
    let verified = || Image::find(&directory).unwrap().with_stamps(&stamps).verify().map(|(_, _, verified)| verified);
    // The files are of this moment: nothing is stamped yet.
    assert_eq!(verified().unwrap(), Verified::Hashed);
    assert_eq!(fs::read_dir(&stamps).unwrap().count(), 0);
    wait_until_settled();
    assert_eq!(verified().unwrap(), Verified::Hashed);
    assert_eq!(verified().unwrap(), Verified::Stamped);
    assert_eq!(fs::read_dir(&stamps).unwrap().count(), 1, "and nothing half-written");
    // A byte is changed, and whoever did it covers it up as well as utimensat(2) can.
    let path = kernel(&directory);
    let before = fs::metadata(&path).unwrap();
    fs::File::options().write(true).open(&path).unwrap().write_all_at(b"K", 0).unwrap();
    let times = fs::FileTimes::new().set_modified(before.modified().unwrap()).set_accessed(SystemTime::now());
    fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before.modified().unwrap());
    assert!(matches!(verified(), Err(ImageError::Checksum { .. })));
    // Without stamps every byte is read, whatever stamps say.
    assert!(Image::find(&directory).unwrap().open().is_err());
    // Another image in its place is another manifest, and has no stamp.
    built(b"another").install(&directory).unwrap();
    assert_eq!(verified().unwrap(), Verified::Hashed);
}

#[test]
fn a_forged_or_broken_stamp_is_none() {
    let (place, directory) = installed();
    let stamps = place.path().join("stamps");
    let verified = || Image::find(&directory).unwrap().with_stamps(&stamps).verify().unwrap().2;
    wait_until_settled();
    assert_eq!((verified(), verified()), (Verified::Hashed, Verified::Stamped));
    let stamp = fs::read_dir(&stamps).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&stamp).unwrap();
    for broken in [String::new(), text.trim_end().to_owned(), text.repeat(2), text.replacen(|digit: char| digit.is_ascii_digit(), "x", 1)] {
        fs::write(&stamp, broken).unwrap();
        assert_eq!(verified(), Verified::Hashed);
        assert_eq!(fs::read_to_string(&stamp).unwrap(), text, "it is written again");
    }
    fs::remove_file(&stamp).unwrap();
    nix::unistd::mkfifo(&stamp, Mode::S_IRUSR).unwrap();
    assert_eq!(verified(), Verified::Hashed);
    assert_eq!(verified(), Verified::Stamped, "a fifo in its place is replaced, and hangs nobody");
}
