//! Standard streams: each is a connection to the monitor on one side and a pipe, or a terminal, on the process's.
//!
//! A process does not get the connection itself: programs reopen `/dev/stdout` by its path, splice, ask whether they write to a pipe, and none of
//! that works with a socket. So the loop relays: it reads what is there, writes what is taken, keeps at most one read's worth of what is not, and
//! reads no more until that is gone. Ends travel both ways: the monitor's half-close ends the process's input; a process that closes
//! its output ends the stream; a reader that goes away is a broken pipe for the process.
//!
//! Descriptors beyond standard error (`--preserve-fds`) are the connections themselves: which way bytes go on them the programs alone know.

pub mod arrival;
pub mod pump;
pub mod relay;
