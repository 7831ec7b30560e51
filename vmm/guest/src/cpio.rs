//! Archives in cpio's *newc* format, the one that the kernel unpacks (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Written here rather than by cpio(1), because an archive that always has the same bytes for the same content needs owner, time, inode numbers and order
//! under control, and a device node ([`Archive::node`]) without the right to make one on the host. Everything is root's, and of 1970.

/// What every member begins with.
const MAGIC: &[u8; 6] = b"070701";
/// The name of the member that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// Members and their content begin at multiples of this.
const ALIGNMENT: usize = 4;
/// An archive is a multiple of this long, as cpio(1) writes it; the kernel skips the zeros.
const BLOCK: usize = 512;
/// The longest name, with its terminating zero: the kernel's `PATH_MAX`, and what `init/initramfs.c` takes.
const LONGEST_NAME: usize = 4096;

/// Why an archive can not be written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CpioError {
    /// A name that is empty, absolute, or leads elsewhere.
    #[error("name {0:?}: a relative path without empty, . and .. components, at most 4095 bytes")]
    Name(String),
    /// A name whose directory has not been written, which the kernel would leave out without a word.
    #[error("name {0:?}: its directory is not in the archive before it")]
    NoDirectory(String),
    /// A name that is there already.
    #[error("name {0:?}: twice")]
    Twice(String),
    /// A file that does not fit into a 32-bit size.
    #[error("{name:?}: {size} bytes, where the format has room for 4294967295")]
    Size {
        /// The member.
        name: String,
        /// Its size.
        size: usize,
    },
}

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    /// Names so far, and whether each is a directory; the number of a member is its inode number less one.
    names: std::collections::BTreeMap<String, bool>,
}

/// What differs from member to member beside name and content.
struct Header {
    mode: u32,
    links: u32,
    device: (u32, u32),
}

impl Archive {
    /// An empty one.
    pub fn new() -> Archive {
        Archive::default()
    }

    /// A directory. Its parent comes first.
    ///
    /// # Errors
    /// [`CpioError`]; the archive is as it was.
    pub fn directory(&mut self, name: &str, mode: u32) -> Result<(), CpioError> {
        self.member(name, Header { mode: libc::S_IFDIR | mode & 0o7777, links: 2, device: (0, 0) }, &[])
    }

    /// A regular file.
    ///
    /// # Errors
    /// [`CpioError`]; the archive is as it was.
    pub fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<(), CpioError> {
        self.member(name, Header { mode: libc::S_IFREG | mode & 0o7777, links: 1, device: (0, 0) }, content)
    }

    /// A character device.
    ///
    /// # Errors
    /// [`CpioError`]; the archive is as it was.
    pub fn node(&mut self, name: &str, mode: u32, major: u32, minor: u32) -> Result<(), CpioError> {
        self.member(name, Header { mode: libc::S_IFCHR | mode & 0o7777, links: 1, device: (major, minor) }, &[])
    }

    /// Ends it; gives its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.append(0, TRAILER, &Header { mode: 0, links: 1, device: (0, 0) }, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self.bytes
    }

    fn member(&mut self, name: &str, header: Header, content: &[u8]) -> Result<(), CpioError> {
        let plain = name.split('/').all(|component| !["", ".", ".."].contains(&component)) && !name.contains('\0');
        if !plain || name.len() >= LONGEST_NAME || name == TRAILER {
            return Err(CpioError::Name(name.chars().take(100).collect()));
        }
        if name.rsplit_once('/').is_some_and(|(parent, _)| self.names.get(parent) != Some(&true)) {
            return Err(CpioError::NoDirectory(name.to_owned()));
        }
        if self.names.contains_key(name) {
            return Err(CpioError::Twice(name.to_owned()));
        }
        if u32::try_from(content.len()).is_err() {
            return Err(CpioError::Size { name: name.to_owned(), size: content.len() });
        }
        self.names.insert(name.to_owned(), header.mode & libc::S_IFMT == libc::S_IFDIR);
        // Numbers of their own: equal ones would make two files of one link count greater than one a hard link.
        self.append(self.names.len() as u32, name, &header, content);
        Ok(())
    }

    fn append(&mut self, inode: u32, name: &str, header: &Header, content: &[u8]) {
        let fields = [
            inode,
            header.mode,
            0, // owner
            0, // group
            header.links,
            0,                    // time
            content.len() as u32, // `member` has looked
            0,                    // the archived file's own device: major
            0,                    // and minor
            header.device.0,
            header.device.1,
            name.len() as u32 + 1,
            0, // a checksum, which this format does not have
        ];
        self.bytes.extend_from_slice(MAGIC);
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// A member as a reader sees it: name, mode, device, content.
    pub(crate) type Member = (String, u32, (u32, u32), Vec<u8>);

    /// Reads an archive as `init/initramfs.c` does.
    pub(crate) fn read(bytes: &[u8]) -> Vec<Member> {
        let mut members = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&bytes[at..at + 6], MAGIC, "at {at}");
            let field = |index: usize| {
                let start = at + 6 + 8 * index;
                u32::from_str_radix(std::str::from_utf8(&bytes[start..start + 8]).unwrap(), 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            assert_eq!((field(2), field(3), field(5)), (0, 0, 0), "root's, of 1970");
            let name = std::str::from_utf8(&bytes[at + 110..at + 110 + name_size - 1]).unwrap().to_owned();
            assert_eq!(bytes[at + 110 + name_size - 1], 0);
            let content = (at + 110 + name_size).next_multiple_of(4);
            if name == TRAILER {
                assert!(bytes[content..].iter().all(|byte| *byte == 0));
                return members;
            }
            members.push((name, mode, (field(9), field(10)), bytes[content..content + size].to_vec()));
            at = (content + size).next_multiple_of(4);
        }
    }

    fn example() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.directory("dev", 0o755).unwrap();
        archive.node("dev/console", 0o600, 5, 1).unwrap();
        archive.file("init", 0o755, b"\x7fELF").unwrap();
        archive.directory("modules", 0o755).unwrap();
        archive.file("modules/order", 0o644, b"a.ko\n").unwrap();
        archive.finish()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let members = read(&example());
        let names: Vec<&str> = members.iter().map(|member| member.0.as_str()).collect();
        assert_eq!(names, ["dev", "dev/console", "init", "modules", "modules/order"]);
        assert_eq!(members[1].1, libc::S_IFCHR | 0o600);
        assert_eq!(members[1].2, (5, 1));
        assert_eq!(members[2].3, b"\x7fELF");
        assert_eq!(example(), example());
        assert_eq!(example().len() % BLOCK, 0);
    }

    /// cpio(1) is what everybody else writes and reads them with.
    #[test]
    fn cpio_reads_it_too() {
        let Ok(mut cpio) = Command::new("cpio").args(["-tv", "--numeric-uid-gid"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            println!("not run: it needs cpio");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&example()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        let listing = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        let lines: Vec<&str> = listing.lines().collect();
        assert_eq!(lines.len(), 5, "{listing}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" dev"), "{listing}");
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,") && lines[1].ends_with(" dev/console"), "{listing}");
        assert!(lines[4].starts_with("-rw-r--r--") && lines[4].ends_with(" modules/order"), "{listing}");
    }

    #[test]
    fn names_that_the_kernel_would_lose_are_refused() {
        let mut archive = Archive::new();
        for name in ["", "/init", "a//b", "./a", "a/..", "..", "a\0b", TRAILER, &"x".repeat(LONGEST_NAME)] {
            assert!(matches!(archive.file(name, 0o644, b""), Err(CpioError::Name(_))), "{name:?}");
        }
        assert_eq!(archive.file("modules/a.ko", 0o644, b""), Err(CpioError::NoDirectory("modules/a.ko".into())));
        archive.file("modules", 0o644, b"").unwrap();
        assert_eq!(archive.file("modules/a.ko", 0o644, b""), Err(CpioError::NoDirectory("modules/a.ko".into())));
        assert_eq!(archive.directory("modules", 0o755), Err(CpioError::Twice("modules".into())));
        assert_eq!(read(&archive.finish()).len(), 1);
    }

    proptest! {
        #[test]
        fn any_files_come_back(files in proptest::collection::btree_map("[a-zA-Z0-9_.+-]{1,20}", proptest::collection::vec(any::<u8>(), 0..50), 0..8)) {
            let mut archive = Archive::new();
            let mut written = Vec::new();
            for (name, content) in files {
                match archive.file(&name, 0o644, &content) {
                    Ok(()) => written.push((name, libc::S_IFREG | 0o644, (0, 0), content)),
                    Err(error) => prop_assert_eq!(error, CpioError::Name(name)),
                }
            }
            prop_assert_eq!(read(&archive.finish()), written);
        }
    }
}
