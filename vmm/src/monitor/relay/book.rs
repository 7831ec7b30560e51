//! Which containers there are, and which trees the guest sees for each: what the monitor has to know to take trees away and to end itself.
//!
//! It follows from answers of the guest. A guest that lies about them keeps trees of its own pod longer, or ends its own pod.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use super::Trees;

/// The containers and their trees.
pub(super) struct Book {
    device: Box<dyn Trees>,
    /// Created, and not deleted.
    containers: HashSet<String>,
    /// Requests to create that have not been answered.
    creating: HashMap<String, usize>,
    /// The names of a container's trees.
    trees: HashMap<String, Vec<String>>,
    deleted: bool,
}

impl Book {
    pub fn new(device: Box<dyn Trees>) -> Self {
        Self { device, containers: HashSet::new(), creating: HashMap::new(), trees: HashMap::new(), deleted: false }
    }

    /// A container is about to be created with these trees, under these names. Where one can not be shown, none is: the error names it.
    pub fn begin(&mut self, container: &str, trees: Vec<(String, OwnedFd)>) -> Result<Vec<String>, (String, std::io::Error)> {
        let mut names = Vec::new();
        for (name, tree) in trees {
            if let Err(error) = self.device.add(&name, tree) {
                self.forget(&names);
                return Err((name, error));
            }
            names.push(name);
        }
        *self.creating.entry(container.to_owned()).or_default() += 1;
        self.trees.entry(container.to_owned()).or_default().extend(names.iter().cloned());
        Ok(names)
    }

    /// The container has been created.
    pub fn created(&mut self, container: &str) {
        self.settle(container);
        self.containers.insert(container.to_owned());
    }

    /// It has not: the trees of this attempt go.
    pub fn refused(&mut self, container: &str, names: &[String]) {
        self.settle(container);
        self.forget(names);
        if let Some(trees) = self.trees.get_mut(container) {
            trees.retain(|name| !names.contains(name));
            if trees.is_empty() {
                self.trees.remove(container);
            }
        }
    }

    /// Nobody will hear whether it has been: its trees stay until somebody deletes it.
    pub fn abandoned(&mut self, container: &str) {
        self.settle(container);
    }

    /// The container is gone, or there is none of that name.
    pub fn deleted(&mut self, container: &str, existed: bool) {
        if self.creating.contains_key(container) {
            return;
        }
        self.deleted |= self.containers.remove(container) || existed;
        let names = self.trees.remove(container).unwrap_or_default();
        self.forget(&names);
    }

    /// Whether the last container has been deleted: until one has, an empty pod is one that begins.
    pub fn is_over(&self) -> bool {
        self.deleted && self.containers.is_empty() && self.creating.is_empty()
    }

    fn settle(&mut self, container: &str) {
        if let Some(count) = self.creating.get_mut(container) {
            *count -= 1;
            if *count == 0 {
                self.creating.remove(container);
            }
        }
    }

    fn forget(&self, names: &[String]) {
        names.iter().for_each(|name| self.device.remove(name));
    }
}
