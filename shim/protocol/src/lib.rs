//! The control protocol: the one language in which `bulkhead` speaks to a wall, whichever wall answers.
//!
//! `proto/control.proto` defines the service; it travels as [ttrpc](https://github.com/containerd/ttrpc), which is
//! gRPC's calls without HTTP: a ten-byte header, then a protobuf envelope. The pieces, from the wire upwards:
//!
//! - [`frame`]: ttrpc's framing, as a decoder that is fed bytes and keeps no thread, so that a wall serves it from its
//!   own event loop;
//! - [`call`]: which methods there are (one table), requests decoded into one enum, responses and refusals encoded;
//! - [`client`]: the calling side, synchronous, one call at a time;
//! - [`guest`]: what a virtual machine's monitor and the agent in it say besides;
//! - [`seccomp`]: the one compiler of seccomp profiles that both walls use, over the names in [`system_calls`];
//! - [`streams`]: the second kind of connection on the same socket, which carries descriptors, not messages.
//!
//! The `ttrpc` crate is absent on purpose: its server owns threads, which a process confined by seccomp and sized in
//! megabytes would rather not, and its client offers no call without a deadline and a receiver thread.

pub mod call;
pub mod client;
pub mod frame;
pub mod guest;
pub mod seccomp;
pub mod streams;
pub mod system_calls;

/// The generated messages.
pub mod messages {
    #[allow(missing_docs)]
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/messages/mod.rs"));
    }
    pub use generated::control::*;
    /// ttrpc's envelope.
    pub mod envelope {
        pub use super::generated::ttrpc::{KeyValue, Request, Response, Status};
    }
}

pub use protobuf;
