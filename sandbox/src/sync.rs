//! Locks. One place decides which ones this crate uses, and the lock order is written down here.
//!
//! Order, outermost first: a lock may be taken only while none below it in this list is held.
//!
//! 1. `Kernel::threads`, `Kernel::processes`, `Kernel::containers` (short, never across a handler)
//! 2. `Process` and `Thread` fields
//! 3. `MountNamespace`, then file system trees (parent directory before child)
//! 4. `DescriptorTable`
//! 5. an open file description's offset
//! 6. the state of one pipe, socket, terminal, epoll set
//! 7. wait queues, timers, the reactor (leaves: nothing is called while they are held)
//!
//! Observers are always notified with no lock held.

pub use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
