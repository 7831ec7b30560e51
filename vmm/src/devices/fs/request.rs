//! FUSE requests: bytes of the guest's, parsed once into types.
//!
//! A request is a header (`struct fuse_in_header`), then a structure that the opcode decides, then perhaps names or data (fuse(4),
//! `include/uapi/linux/fuse.h`). The bytes are copied out of guest memory before anything is looked at, so that what was checked is what is
//! used. Only the data of a write stays where it is.
//!
//! What is not in [`Request`] is `ENOSYS`, which Linux takes as "never ask again" and then does without: locks (which are the guest
//! kernel's own business: nobody else has the guest's files open), access(2) (the guest mounts with `default_permissions` and checks modes
//! itself), ioctl, bmap, poll, and DAX mappings.

use std::ffi::{CStr, CString};
use std::mem::size_of;

use fuse_backend_rs::abi::fuse_abi::{
    BatchForgetIn, CreateIn, FallocateIn, FlushIn, ForgetIn, ForgetOne, FsyncIn, GETATTR_FH, GetattrIn, GetxattrIn, InHeader, InitIn,
    LinkIn, LseekIn, MkdirIn, MknodIn, Opcode, OpenIn, ReadIn, ReleaseIn, Rename2In, RenameIn, SetattrIn, SetxattrIn, WriteIn,
};
use nix::errno::Errno;
use vm_memory::ByteValued;

/// The longest request without the data of a write: an extended attribute of 64 KiB, its name, and some room.
pub(super) const LONGEST: usize = 128 << 10;
/// The longest name (`NAME_MAX`).
const NAME_MAX: usize = 255;

/// A name in a directory: not empty, not `.` or `..`, without slashes and NULs, and no longer than a name may be. Nothing else ever reaches
/// a call of the host's that takes a path, and every such call gets one name and a directory's descriptor: there is nothing to traverse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name(CString);

impl Name {
    /// # Errors
    /// `EINVAL`, `ENAMETOOLONG`: it is no name.
    pub(super) fn new(bytes: &[u8]) -> Result<Self, Errno> {
        if bytes.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        CString::new(bytes).map(Self).map_err(|_| Errno::EINVAL)
    }

    /// For a call.
    pub(super) fn as_c_str(&self) -> &CStr {
        &self.0
    }

    /// Without the NUL.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// What the guest wants. Numbers in it (nodes, handles, offsets, flags) have not been checked.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub(super) enum Request {
    Init(InitIn),
    Destroy,
    Lookup(Name),
    /// Node, lookups. Without an answer.
    Forget(Vec<(u64, u64)>),
    GetAttributes {
        handle: Option<u64>,
    },
    SetAttributes(Box<SetattrIn>),
    ReadLink,
    SymbolicLink {
        name: Name,
        target: CString,
    },
    MakeNode(Name, MknodIn),
    MakeDirectory(Name, MkdirIn),
    Unlink(Name),
    RemoveDirectory(Name),
    Rename {
        from: Name,
        to_directory: u64,
        to: Name,
        flags: u32,
    },
    Link {
        node: u64,
        name: Name,
    },
    Open(OpenIn),
    Create(Name, CreateIn),
    Read(ReadIn),
    Write(WriteIn),
    Statistics,
    Release {
        handle: u64,
    },
    Synchronise {
        handle: u64,
        data_only: bool,
    },
    Flush {
        handle: u64,
    },
    SetAttribute {
        name: CString,
        value: Vec<u8>,
        flags: u32,
    },
    GetAttribute {
        name: CString,
        size: u32,
    },
    ListAttributes {
        size: u32,
    },
    RemoveAttribute(CString),
    OpenDirectory,
    ReadDirectory {
        handle: u64,
        offset: u64,
        size: u32,
        with_nodes: bool,
    },
    Allocate(FallocateIn),
    Seek(LseekIn),
    /// A request was given up. Requests are answered in their order, so that it has been answered already or never came.
    Interrupt,
}

/// Whether a request of that opcode gets no answer.
pub(super) fn is_silent(opcode: u32) -> bool {
    [Opcode::Forget, Opcode::BatchForget, Opcode::Interrupt].iter().any(|silent| *silent as u32 == opcode)
}

/// Whether `opcode` is a write, whose data follows the structure and is not part of what [`Request::parse`] wants.
pub(super) fn is_write(opcode: u32) -> bool {
    opcode == Opcode::Write as u32
}

impl Request {
    /// Parses what follows a header.
    ///
    /// # Errors
    /// `ENOSYS` for an opcode that is not served; `EINVAL` where bytes are missing; `ENAMETOOLONG`.
    #[rustfmt::skip] // A table: a request a line.
    pub(super) fn parse(opcode: u32, body: &[u8]) -> Result<Self, Errno> {
        let mut fields = Fields(body);
        let is = |candidate: Opcode| opcode == candidate as u32;
        Ok(match opcode {
            _ if is(Opcode::Init) => Self::Init(fields.object()?),
            _ if is(Opcode::Destroy) => Self::Destroy,
            _ if is(Opcode::Lookup) => Self::Lookup(fields.name()?),
            _ if is(Opcode::Forget) => Self::Forget(vec![(0, fields.object::<ForgetIn>()?.nlookup)]),
            _ if is(Opcode::BatchForget) => Self::Forget(fields.forgets()?),
            _ if is(Opcode::Getattr) => {
                let GetattrIn { flags, fh, .. } = fields.object()?;
                Self::GetAttributes { handle: (flags & GETATTR_FH != 0).then_some(fh) }
            }
            _ if is(Opcode::Setattr) => Self::SetAttributes(Box::new(fields.object()?)),
            _ if is(Opcode::Readlink) => Self::ReadLink,
            _ if is(Opcode::Symlink) => Self::SymbolicLink { name: fields.name()?, target: fields.text()? },
            _ if is(Opcode::Mknod) => { let made = fields.object()?; Self::MakeNode(fields.name()?, made) }
            _ if is(Opcode::Mkdir) => { let made = fields.object()?; Self::MakeDirectory(fields.name()?, made) }
            _ if is(Opcode::Unlink) => Self::Unlink(fields.name()?),
            _ if is(Opcode::Rmdir) => Self::RemoveDirectory(fields.name()?),
            _ if is(Opcode::Rename) => {
                let RenameIn { newdir } = fields.object()?;
                Self::Rename { from: fields.name()?, to_directory: newdir, to: fields.name()?, flags: 0 }
            }
            _ if is(Opcode::Rename2) => {
                let Rename2In { newdir, flags, .. } = fields.object()?;
                Self::Rename { from: fields.name()?, to_directory: newdir, to: fields.name()?, flags }
            }
            _ if is(Opcode::Link) => { let LinkIn { oldnodeid } = fields.object()?; Self::Link { node: oldnodeid, name: fields.name()? } }
            _ if is(Opcode::Open) => Self::Open(fields.object()?),
            _ if is(Opcode::Create) => { let created = fields.object()?; Self::Create(fields.name()?, created) }
            _ if is(Opcode::Read) => Self::Read(fields.object()?),
            _ if is(Opcode::Write) => Self::Write(fields.object()?),
            _ if is(Opcode::Statfs) => Self::Statistics,
            _ if is(Opcode::Release) || is(Opcode::Releasedir) => Self::Release { handle: fields.object::<ReleaseIn>()?.fh },
            _ if is(Opcode::Fsync) || is(Opcode::Fsyncdir) => {
                let FsyncIn { fh, fsync_flags, .. } = fields.object()?;
                Self::Synchronise { handle: fh, data_only: fsync_flags & 1 != 0 }
            }
            _ if is(Opcode::Flush) => Self::Flush { handle: fields.object::<FlushIn>()?.fh },
            _ if is(Opcode::Setxattr) => {
                let SetxattrIn { size, flags } = fields.object()?;
                Self::SetAttribute { name: fields.text()?, value: fields.bytes(size as usize)?.to_vec(), flags }
            }
            _ if is(Opcode::Getxattr) => {
                let GetxattrIn { size, .. } = fields.object()?;
                Self::GetAttribute { name: fields.text()?, size }
            }
            _ if is(Opcode::Listxattr) => Self::ListAttributes { size: fields.object::<GetxattrIn>()?.size },
            _ if is(Opcode::Removexattr) => Self::RemoveAttribute(fields.text()?),
            _ if is(Opcode::Opendir) => Self::OpenDirectory,
            _ if is(Opcode::Readdir) || is(Opcode::Readdirplus) => {
                let ReadIn { fh, offset, size, .. } = fields.object()?;
                Self::ReadDirectory { handle: fh, offset, size, with_nodes: is(Opcode::Readdirplus) }
            }
            _ if is(Opcode::Fallocate) => Self::Allocate(fields.object()?),
            _ if is(Opcode::Lseek) => Self::Seek(fields.object()?),
            _ if is(Opcode::Interrupt) => Self::Interrupt,
            _ => return Err(Errno::ENOSYS),
        })
    }
}

/// How many bytes after the header [`Request::parse`] wants of a request.
///
/// # Errors
/// `EINVAL`, `E2BIG`: the header's length can not be.
pub(super) fn body_length(header: &InHeader) -> Result<usize, Errno> {
    let length = (header.len as usize).checked_sub(size_of::<InHeader>()).ok_or(Errno::EINVAL)?;
    if is_write(header.opcode) {
        return Ok(length.min(size_of::<WriteIn>()));
    }
    if length > LONGEST { Err(Errno::E2BIG) } else { Ok(length) }
}

/// What is left to parse.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Errno> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn object<T: ByteValued>(&mut self) -> Result<T, Errno> {
        let mut object = T::zeroed();
        object.as_mut_slice().copy_from_slice(self.bytes(size_of::<T>())?);
        Ok(object)
    }

    /// Up to and with a NUL.
    fn text(&mut self) -> Result<CString, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::EINVAL)?;
        self.0 = &self.0[text.to_bytes_with_nul().len()..];
        Ok(text.into())
    }

    fn name(&mut self) -> Result<Name, Errno> {
        Name::new(self.text()?.as_bytes())
    }

    fn forgets(&mut self) -> Result<Vec<(u64, u64)>, Errno> {
        let BatchForgetIn { count, .. } = self.object()?;
        if self.0.len() / size_of::<ForgetOne>() < count as usize {
            return Err(Errno::EINVAL);
        }
        (0..count).map(|_| self.object::<ForgetOne>().map(|one| (one.nodeid, one.nlookup))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_one_component() {
        for bad in [&b""[..], b".", b"..", b"/", b"a/b", b"/etc", b"../x", b"a\0b"] {
            assert_eq!(Name::new(bad).unwrap_err(), Errno::EINVAL, "{bad:?}");
        }
        assert_eq!(Name::new(&[b'a'; 256]).unwrap_err(), Errno::ENAMETOOLONG);
        for good in [&b"a"[..], b"...", b"..data", b"\xff\xfe", &[b'a'; 255]] {
            assert_eq!(Name::new(good).unwrap().as_bytes(), good);
        }
    }

    #[test]
    fn a_batch_may_not_claim_more_than_it_has() {
        let one = [[1u8, 0, 0, 0, 0, 0, 0, 0], [7, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert!(matches!(Request::parse(42, &one), Ok(Request::Forget(list)) if list == [(7, 2)]));
        let many = [[0xff; 8], [0; 8], [0; 8]].concat();
        assert_eq!(Request::parse(42, &many).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn a_length_is_bounded() {
        let header = |opcode: Opcode, len| InHeader { opcode: opcode as u32, len, ..InHeader::default() };
        assert_eq!(body_length(&header(Opcode::Lookup, 39)), Err(Errno::EINVAL));
        assert_eq!(body_length(&header(Opcode::Lookup, u32::MAX)), Err(Errno::E2BIG));
        assert_eq!(body_length(&header(Opcode::Write, u32::MAX)), Ok(40));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(opcode in 0u32..60, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            match Request::parse(opcode, &body) {
                Ok(Request::Lookup(name) | Request::Unlink(name) | Request::MakeNode(name, _) | Request::Create(name, _)) => {
                    prop_assert!(Name::new(name.as_bytes()).is_ok());
                }
                Ok(Request::Rename { from, to, .. }) => {
                    prop_assert!(Name::new(from.as_bytes()).is_ok() && Name::new(to.as_bytes()).is_ok());
                }
                Ok(Request::Forget(list)) => prop_assert!(list.len() * 16 <= body.len() + 8),
                Ok(_) => {}
                Err(error) => prop_assert!([Errno::ENOSYS, Errno::EINVAL, Errno::ENAMETOOLONG].contains(&error)),
            }
        }
    }
}
