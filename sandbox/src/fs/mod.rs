//! File systems and file-like objects.
pub mod dev;
pub mod devpts;
pub mod epoll;
pub mod eventfd;
pub mod host;
pub mod memfd;
pub mod pipe;
pub mod timerfd;
pub mod tmpfs;
