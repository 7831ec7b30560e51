//! The device from one end to the other: a fake driver on rings in memory, real sockets on the host.
mod driver;
mod ends;
mod hostile;
mod traffic;
