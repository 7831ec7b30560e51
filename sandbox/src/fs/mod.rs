//! File systems and file-like objects.
pub mod dev;
pub mod devpts;
pub mod epoll;
pub mod eventfd;
pub mod host;
pub mod host_stream;
pub mod memfd;
pub mod overlay;
pub mod pidfd;
pub mod pipe;
pub mod proc;
pub mod proc_net;
pub mod synthetic;
pub mod sys;
pub mod timerfd;
pub mod tmpfs;
pub mod tty;
