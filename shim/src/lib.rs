//! The command line and library.
