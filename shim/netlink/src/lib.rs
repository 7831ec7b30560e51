//! rtnetlink(7), typed: interfaces, addresses, routes, neighbours and the little of traffic control that connects two interfaces.
//!
//! Two programs read and write a network namespace's configuration: the host's side of a microVM's pod, which reads what the network
//! plugin made, and the agent in the guest, which makes the same again. Both need the same two dozen messages, synchronously, and no
//! more; this crate is those messages. Each kernel object is a file: its type, how the kernel's message becomes that type, and the
//! requests that [`Socket`] sends about it. A socket speaks about the network namespace of the thread that opened it.
//!
//! Messages are byte vectors that are written and read field by field (`wire`): safe code, but for one socket option.
//! The kernel's answers are trusted, yet a message that ends too early is an error and no panic.

mod address;
mod link;
mod neighbour;
mod prefix;
mod route;
mod socket;
mod traffic;
mod wire;

pub use address::Address;
pub use link::{Change, Link};
pub use neighbour::Neighbour;
pub use prefix::{InterfaceAddress, NotAnAddress, Prefix};
pub use route::{ONLINK, Route};
pub use socket::{Error, Socket};
pub use traffic::{Filter, Hook};
pub use wire::Malformed;
