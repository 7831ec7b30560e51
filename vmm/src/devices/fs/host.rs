//! The calls of the host's that have no safe wrapper elsewhere, and the identity in which files are made. All `unsafe` of this device is
//! here.

use std::ffi::CStr;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuse_backend_rs::abi::fuse_abi::Attr;
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, getegid, geteuid, setfsgid, setfsuid};

/// How long after its last change a file is settled: many ticks of any kernel's timer.
const SETTLED: Duration = Duration::from_millis(100);

/// What statx(2) says of a file.
#[derive(Clone, Copy)]
pub(super) struct Attributes(libc::statx);

impl Attributes {
    /// Of an open file, which may be open with `O_PATH`.
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        let mut out = MaybeUninit::<libc::statx>::zeroed();
        let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
        let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
        // SAFETY: the descriptor is borrowed for the call, the path is a static C string, and the kernel writes no more than a statx
        // structure to `out`. Needed because nix has no statx(2), and fstat(2) does not tell the mount.
        let result = unsafe { libc::statx(file.as_fd().as_raw_fd(), c"".as_ptr(), flags, mask, out.as_mut_ptr()) };
        Errno::result(result)?;
        // SAFETY: it was zeroed, and any bytes are a valid statx structure.
        Ok(Self(unsafe { out.assume_init() }))
    }

    /// Type and permissions.
    pub(super) fn mode(&self) -> u32 {
        u32::from(self.0.stx_mode)
    }

    /// The type alone, one of `S_IFREG` and so on.
    pub(super) fn kind(&self) -> u32 {
        self.mode() & libc::S_IFMT
    }

    /// Device and inode: which file it is.
    pub(super) fn identity(&self) -> (u64, u64) {
        (libc::makedev(self.0.stx_dev_major, self.0.stx_dev_minor), self.0.stx_ino)
    }

    /// Which mount it was reached through.
    pub(super) fn mount(&self) -> u64 {
        self.0.stx_mnt_id
    }

    /// Changes whenever the content does: size, and times of the last change of content and of attributes.
    pub(super) fn version(&self) -> (u64, i64, u32, i64, u32) {
        let (mtime, ctime) = (self.0.stx_mtime, self.0.stx_ctime);
        (self.0.stx_size, mtime.tv_sec, mtime.tv_nsec, ctime.tv_sec, ctime.tv_nsec)
    }

    /// Whether a later change of the file is certain to give it another [`Attributes::version`]. The host's kernel counts these times in
    /// its timer's ticks, of up to 10 ms: a second change within one of them does not show.
    pub(super) fn is_settled(&self) -> bool {
        let changed = Duration::new(self.0.stx_ctime.tv_sec.try_into().unwrap_or(0), self.0.stx_ctime.tv_nsec);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.checked_sub(changed).is_some_and(|age| age > SETTLED)
    }

    /// For the guest, with the inode number that it is to see.
    pub(super) fn for_guest(&self, inode: u64) -> Attr {
        let stat = &self.0;
        Attr {
            ino: inode,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: stat.stx_atime.tv_sec as u64,
            mtime: stat.stx_mtime.tv_sec as u64,
            ctime: stat.stx_ctime.tv_sec as u64,
            atimensec: stat.stx_atime.tv_nsec,
            mtimensec: stat.stx_mtime.tv_nsec,
            ctimensec: stat.stx_ctime.tv_nsec,
            mode: self.mode(),
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            // The kernel's 32 bits: 12 of the major number between the minor's lower 8 and upper 12 (`new_encode_dev`).
            rdev: (stat.stx_rdev_minor & 0xff) | ((stat.stx_rdev_major & 0xfff) << 8) | ((stat.stx_rdev_minor & !0xff) << 12),
            blksize: stat.stx_blksize,
            flags: 0,
        }
    }
}

/// One entry of a directory, as getdents64(2) has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DirectoryEntry<'a> {
    pub(super) inode: u64,
    /// Where the next one is.
    pub(super) offset: u64,
    /// `DT_REG` and so on.
    pub(super) kind: u8,
    pub(super) name: &'a [u8],
}

/// Reads entries of an open directory from its position on; none at its end.
pub(super) fn read_directory<'a>(
    directory: BorrowedFd,
    buffer: &'a mut [u8],
) -> Result<impl Iterator<Item = DirectoryEntry<'a>> + use<'a>, Errno> {
    // SAFETY: the kernel writes at most the buffer's length into the buffer, which is ours alone. Needed because nix and the standard
    // library read directories through readdir(3), which hides the offsets that the guest continues from.
    let count = unsafe { libc::syscall(libc::SYS_getdents64, directory.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    let count = Errno::result(count)? as usize;
    Ok(entries(&buffer[..count]))
}

/// The entries in what getdents64(2) has written: `ino64_t d_ino; off64_t d_off; unsigned short d_reclen; unsigned char d_type; char
/// d_name[];`.
fn entries(mut bytes: &[u8]) -> impl Iterator<Item = DirectoryEntry<'_>> {
    const NAME: usize = 19;
    std::iter::from_fn(move || {
        let (inode, rest) = bytes.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let kind = *rest.first()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let name = CStr::from_bytes_until_nul(bytes.get(NAME..length)?).ok()?.to_bytes();
        bytes = bytes.get(length..)?;
        Some(DirectoryEntry { inode: u64::from_ne_bytes(*inode), offset: u64::from_ne_bytes(*offset), kind, name })
    })
}

/// fsetxattr(2).
pub(super) fn set_attribute(file: impl AsFd, name: &CStr, value: &[u8], flags: u32) -> Result<(), Errno> {
    // SAFETY: name and value live through the call, which only reads them; the length is the value's. Needed because nix has no extended
    // attributes; nor for the three calls below.
    Errno::result(unsafe { libc::fsetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags as i32) })
        .map(drop)
}

/// fgetxattr(2): how long the value is. No more than `buffer.len()` bytes are written; an empty buffer asks for the length alone.
pub(super) fn get_attribute(file: impl AsFd, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most the buffer's length into the buffer, which is ours alone.
    let length = unsafe { libc::fgetxattr(file.as_fd().as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    Errno::result(length).map(|length| length as usize)
}

/// flistxattr(2), likewise.
pub(super) fn list_attributes(file: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most the buffer's length into the buffer, which is ours alone.
    let length = unsafe { libc::flistxattr(file.as_fd().as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    Errno::result(length).map(|length| length as usize)
}

/// fremovexattr(2).
pub(super) fn remove_attribute(file: impl AsFd, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name lives through the call, which only reads it.
    Errno::result(unsafe { libc::fremovexattr(file.as_fd().as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// The thread makes files as somebody else, until this is dropped.
///
/// It takes the other's file-system ids (setfsuid(2)) and keeps the capabilities that it has: whether the other may do what it does has
/// been decided by the guest's kernel, which knows the supplementary groups that the request does not tell.
pub(super) struct Identity {
    before: Capabilities,
}

impl Identity {
    /// None where the thread already is who it should be.
    ///
    /// # Errors
    /// `EINVAL`: nobody has these ids. `EPERM`: the thread may not be somebody else.
    pub(super) fn assume(uid: u32, gid: u32) -> Result<Option<Self>, Errno> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        if uid == geteuid() && gid == getegid() {
            return Ok(None);
        }
        if uid.as_raw() == u32::MAX || gid.as_raw() == u32::MAX {
            return Err(Errno::EINVAL);
        }
        let identity = Self { before: Capabilities::get()? };
        setfsgid(gid);
        setfsuid(uid);
        // An id that is none changes nothing, and says what is: the two calls know no errors.
        if setfsuid(Uid::from_raw(u32::MAX)) != uid || setfsgid(Gid::from_raw(u32::MAX)) != gid {
            return Err(Errno::EPERM);
        }
        // With the user id 0 go the capabilities on files (capabilities(7), "Effect of user ID changes"), from the effective set alone.
        identity.before.set()?;
        Ok(Some(identity))
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        setfsuid(geteuid());
        setfsgid(getegid());
        // Whatever came back with the user id beyond what was there.
        let _ = self.before.set();
    }
}

/// A thread's capabilities (capget(2)): effective, permitted and inheritable, the lower 32 and the upper.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Capabilities([[u32; 3]; 2]);

/// `struct __user_cap_header_struct`, with `_LINUX_CAPABILITY_VERSION_3` and the calling thread.
const CAPABILITY_HEADER: [u32; 2] = [0x2008_0522, 0];

impl Capabilities {
    fn get() -> Result<Self, Errno> {
        let (mut header, mut capabilities) = (CAPABILITY_HEADER, Self::default());
        // SAFETY: version 3 has the kernel read and write 8 bytes at the header and write 24 bytes of integers at the data, which are
        // there. Needed because neither libc nor nix wraps it.
        Errno::result(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), &raw mut capabilities) })?;
        const { assert!(size_of::<Capabilities>() == 24) };
        Ok(capabilities)
    }

    fn set(&self) -> Result<(), Errno> {
        let mut header = CAPABILITY_HEADER;
        // SAFETY: the kernel reads and writes 8 bytes at the header, and reads 24 bytes at the data, which are there.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), &raw const *self) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn attributes_are_those_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "12345").unwrap();
        let file = File::open(directory.path().join("file")).unwrap();
        let (attributes, metadata) = (Attributes::of(&file).unwrap(), file.metadata().unwrap());
        assert_eq!(attributes.identity(), (metadata.dev(), metadata.ino()));
        assert_eq!((attributes.kind(), attributes.for_guest(7).ino), (libc::S_IFREG, 7));
        assert_eq!(attributes.for_guest(7).size, 5);
        let device = Attributes::of(File::open("/dev/null").unwrap()).unwrap();
        assert_eq!(device.for_guest(1).rdev, 0x103);
    }

    #[test]
    fn a_directory_can_be_read_on_from_an_offset() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["one", "two", "three"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let open = File::open(directory.path()).unwrap();
        let mut buffer = [0; 4096];
        let all: Vec<_> = read_directory(open.as_fd(), &mut buffer).unwrap().map(|entry| (entry.name.to_vec(), entry.offset)).collect();
        assert_eq!(all.len(), 5);
        nix::unistd::lseek(&open, all[2].1 as i64, nix::unistd::Whence::SeekSet).unwrap();
        let rest: Vec<_> = read_directory(open.as_fd(), &mut buffer).unwrap().map(|entry| entry.name.to_vec()).collect();
        assert_eq!(rest, [all[3].0.clone(), all[4].0.clone()]);
    }

    #[test]
    fn an_identity_is_given_back() {
        let capabilities = Capabilities::get().unwrap();
        if !geteuid().is_root() {
            assert_eq!(Identity::assume(geteuid().as_raw() + 1, getegid().as_raw()).err(), Some(Errno::EPERM));
            return;
        }
        assert!(Identity::assume(0, 0).unwrap().is_none());
        assert_eq!(Identity::assume(u32::MAX, 0).err(), Some(Errno::EINVAL));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        {
            let _somebody = Identity::assume(1234, 567).unwrap().unwrap();
            assert_eq!(Capabilities::get().unwrap().0, capabilities.0);
            // In a directory that is not theirs.
            std::fs::write(&path, "").unwrap();
        }
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 567));
        assert_eq!(setfsuid(Uid::from_raw(u32::MAX)), geteuid());
        assert_eq!(Capabilities::get().unwrap().0, capabilities.0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_entries_or_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(entries(&bytes).count() <= bytes.len() / 20 + 1);
        }
    }
}
