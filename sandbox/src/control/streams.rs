//! Attached streams: descriptors that clients have passed and that no request has claimed yet.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

use bulkhead_protocol::call::{Code, Refusal};

use super::connection::Connection;
use crate::sync::Mutex;

struct Attached {
    descriptor: OwnedFd,
    from: Weak<Connection>,
}

fn attached() -> &'static Mutex<HashMap<u32, Attached>> {
    static ATTACHED: OnceLock<Mutex<HashMap<u32, Attached>>> = OnceLock::new();
    ATTACHED.get_or_init(Mutex::default)
}

/// Keeps a descriptor until it is claimed, or its connection ends.
pub fn attach(number: u32, descriptor: OwnedFd, from: &Arc<Connection>) {
    let before = attached().lock().insert(number, Attached { descriptor, from: Arc::downgrade(from) });
    drop(before);
}

/// Drops a descriptor that nobody claimed.
pub fn forget(number: u32) {
    let dropped = attached().lock().remove(&number);
    drop(dropped);
}

/// Claims a stream; gives the connection it came by, too.
pub fn claim(number: u32) -> Result<(OwnedFd, Option<Arc<Connection>>), Refusal> {
    let found = attached().lock().remove(&number);
    let found = found.ok_or_else(|| Refusal::new(Code::InvalidArgument, format!("stream {number} has not been attached")))?;
    Ok((found.descriptor, found.from.upgrade()))
}
