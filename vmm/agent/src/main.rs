//! The first process inside the guest: serves the control protocol and runs containers.
fn main() {}
