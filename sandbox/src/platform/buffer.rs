//! One buffer per thread for bytes on their way between workload memory and the host.

use std::cell::RefCell;

/// Its size: large enough that a long copy is not dominated by its calls, small enough to stay in the cache.
pub const SIZE: usize = 128 << 10;

/// Lends the calling thread's buffer. A nested loan gets a fresh one.
pub fn with<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => {
            if buffer.is_empty() {
                buffer.resize(SIZE, 0);
            }
            work(&mut buffer)
        }
        Err(_) => work(&mut vec![0; SIZE]),
    })
}
