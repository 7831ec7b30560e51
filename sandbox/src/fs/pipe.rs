//! Pipes and fifos.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::vfs::file::File;
use crate::vfs::node::{NodeKey, OpenRequest};

/// Opens one end of the fifo that this node is. `ENXIO` for a writer that does not wait and finds no reader.
pub fn open_fifo(key: NodeKey, request: OpenRequest) -> Result<Arc<dyn File>> {
    let _ = (key, request);
    Err(Errno::ENXIO)
}
