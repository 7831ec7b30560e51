//! Objects without a name that are reached through a magic link: `/proc/self/fd/3` of a pipe, a socket, a memfd.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use super::file::{File, OpenFile};
use super::mount::{Location, Mount, MountFlags};
use super::node::{Attributes, FileSystemStatistics, FileType, Node, NodeKey, NodeRef, OpenRequest, SetAttributes};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::Credentials;

/// A node that stands for an open file description.
pub struct ObjectNode(pub Arc<OpenFile>);

/// The location of an open file description: its own, or one on the internal mount.
pub fn location(file: Arc<OpenFile>) -> Location {
    if let Some(location) = &file.location {
        return location.clone();
    }
    static MOUNT: OnceLock<Arc<Mount>> = OnceLock::new();
    let node: NodeRef = Arc::new(ObjectNode(file));
    let mount = MOUNT.get_or_init(|| Mount::new(node.clone(), MountFlags::empty(), "none", "none", "")).clone();
    Location { mount, node, path: Arc::from(&b""[..]) }
}

impl Node for ObjectNode {
    fn key(&self) -> NodeKey {
        self.attributes()
            .map_or(NodeKey { device: 0, inode: 0 }, |attributes| NodeKey { device: attributes.device, inode: attributes.inode })
    }

    fn file_type(&self) -> FileType {
        self.attributes().ok().and_then(|attributes| FileType::from_mode(attributes.mode).ok()).unwrap_or(FileType::Regular)
    }

    fn attributes(&self) -> Result<Attributes> {
        self.0.file.attributes()
    }

    fn parent(&self) -> Result<Option<NodeRef>> {
        Ok(None)
    }

    fn path(&self) -> Result<Vec<u8>> {
        Err(Errno::ENOENT)
    }

    fn open(self: Arc<Self>, _: &Location, request: OpenRequest, who: &Credentials) -> Result<Arc<dyn File>> {
        self.0.file.reopen(request, who)
    }

    fn set_attributes(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        self.0.file.set_attributes(change, who)
    }

    fn truncate(&self, length: u64, who: &Credentials) -> Result<()> {
        // As open(2) for writing and ftruncate(2).
        self.0.file.reopen(OpenRequest { flags: libc::O_WRONLY }, who)?.truncate(length)
    }

    fn host_file(&self) -> Result<std::os::fd::OwnedFd> {
        crate::fs::memfd::MemoryFile::executable(&*self.0.file).unwrap_or(Err(Errno::EACCES))
    }

    fn statistics(&self) -> Result<FileSystemStatistics> {
        self.0.file.statistics()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
