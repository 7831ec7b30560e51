//! /proc/net: the network of the pod, as [`crate::net::proc`] tells it.

use super::synthetic::{Named, file};
use crate::net::proc;

/// The directory's items.
pub fn list() -> Vec<Named> {
    proc::proc_names().into_iter().map(|name| file(name, move || proc::proc_text(name))).collect()
}
