//! The user-space kernel.
