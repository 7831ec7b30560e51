//! Descriptor tables (Linux's `files_struct`): numbers to open file descriptions.
//!
//! A table belongs to one process, or to those that share it (`CLONE_FILES`). Natively the workload has no such table worth
//! the name: only what was donated for mmap.

use std::sync::Arc;

use super::file::OpenFile;
use crate::errno::{Errno, Result};
use crate::sync::RwLock;

/// A workload's descriptor number. Never a host descriptor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Descriptor(pub u32);

impl Descriptor {
    /// From a system call's register; negative numbers are `EBADF`.
    pub fn from_register(value: u64) -> Result<Descriptor> {
        let number = value as u32;
        if (number as i32) < 0 { Err(Errno::EBADF) } else { Ok(Descriptor(number)) }
    }
}

#[derive(Clone)]
struct Entry {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

/// A table of descriptors. At most [`DescriptorTable::MAXIMUM`] entries, whatever `RLIMIT_NOFILE` says.
#[derive(Default)]
pub struct DescriptorTable {
    entries: RwLock<Vec<Option<Entry>>>,
}

impl DescriptorTable {
    /// `fs.nr_open`'s default.
    pub const MAXIMUM: u64 = 1 << 20;

    /// An empty table.
    pub fn new() -> Arc<DescriptorTable> {
        Arc::new(DescriptorTable::default())
    }

    /// A copy, as fork(2) makes one.
    pub fn fork(&self) -> Arc<DescriptorTable> {
        Arc::new(DescriptorTable { entries: RwLock::new(self.entries.read().clone()) })
    }

    /// The description behind a number. `EBADF` where there is none.
    pub fn get(&self, descriptor: Descriptor) -> Result<Arc<OpenFile>> {
        match self.entries.read().get(descriptor.0 as usize) {
            Some(Some(entry)) => Ok(entry.file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// As [`DescriptorTable::get`], but `EBADF` for an `O_PATH` descriptor too: for calls that do I/O.
    pub fn get_open(&self, descriptor: Descriptor) -> Result<Arc<OpenFile>> {
        let file = self.get(descriptor)?;
        if file.is_path() { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// Puts a description at the lowest free number from `lowest` on. `EMFILE` at `limit` (RLIMIT_NOFILE's soft value).
    pub fn insert(&self, file: Arc<OpenFile>, close_on_exec: bool, lowest: u32, limit: u64) -> Result<Descriptor> {
        let mut entries = self.entries.write();
        let limit = limit.min(Self::MAXIMUM) as usize;
        let mut number = lowest as usize;
        while matches!(entries.get(number), Some(Some(_))) {
            number += 1;
        }
        if number >= limit {
            return Err(Errno::EMFILE);
        }
        if number >= entries.len() {
            entries.resize(number + 1, None);
        }
        entries[number] = Some(Entry { file, close_on_exec });
        Ok(Descriptor(number as u32))
    }

    /// Puts a description at this number; gives back what was there. `EBADF` at or past `limit` (dup2(2)).
    pub fn replace(&self, descriptor: Descriptor, file: Arc<OpenFile>, close_on_exec: bool, limit: u64) -> Result<Option<Arc<OpenFile>>> {
        let number = descriptor.0 as usize;
        if number as u64 >= limit.min(Self::MAXIMUM) {
            return Err(Errno::EBADF);
        }
        let mut entries = self.entries.write();
        if number >= entries.len() {
            entries.resize(number + 1, None);
        }
        Ok(entries[number].replace(Entry { file, close_on_exec }).map(|entry| entry.file))
    }

    /// Takes a description out. `EBADF` where there is none.
    pub fn remove(&self, descriptor: Descriptor) -> Result<Arc<OpenFile>> {
        match self.entries.write().get_mut(descriptor.0 as usize).and_then(Option::take) {
            Some(entry) => Ok(entry.file),
            None => Err(Errno::EBADF),
        }
    }

    /// The close-on-exec flag.
    pub fn close_on_exec(&self, descriptor: Descriptor) -> Result<bool> {
        match self.entries.read().get(descriptor.0 as usize) {
            Some(Some(entry)) => Ok(entry.close_on_exec),
            _ => Err(Errno::EBADF),
        }
    }

    /// Sets the close-on-exec flag.
    pub fn set_close_on_exec(&self, descriptor: Descriptor, value: bool) -> Result<()> {
        match self.entries.write().get_mut(descriptor.0 as usize) {
            Some(Some(entry)) => {
                entry.close_on_exec = value;
                Ok(())
            }
            _ => Err(Errno::EBADF),
        }
    }

    /// Takes out what close_range(2) names, `first` to `last` inclusive.
    pub fn remove_range(&self, first: u32, last: u32) -> Vec<Arc<OpenFile>> {
        self.take_if(|number, _| number >= first && number <= last)
    }

    /// Takes out what a successful exec closes.
    pub fn remove_close_on_exec(&self) -> Vec<Arc<OpenFile>> {
        self.take_if(|_, close_on_exec| close_on_exec)
    }

    /// Empties the table.
    pub fn clear(&self) -> Vec<Arc<OpenFile>> {
        self.take_if(|_, _| true)
    }

    /// The open numbers, ascending: /proc/PID/fd.
    pub fn numbers(&self) -> Vec<Descriptor> {
        let entries = self.entries.read();
        entries.iter().enumerate().filter(|(_, entry)| entry.is_some()).map(|(number, _)| Descriptor(number as u32)).collect()
    }

    fn take_if(&self, wanted: impl Fn(u32, bool) -> bool) -> Vec<Arc<OpenFile>> {
        let mut entries = self.entries.write();
        let mut taken = Vec::new();
        for (number, slot) in entries.iter_mut().enumerate() {
            if slot.as_ref().is_some_and(|entry| wanted(number as u32, entry.close_on_exec)) {
                taken.extend(slot.take().map(|entry| entry.file));
            }
        }
        taken
    }
}

impl Drop for DescriptorTable {
    /// Record locks belong to the table (fcntl(2)): they go with it.
    fn drop(&mut self) {
        super::locks::release_all(super::locks::Owner::Table(std::ptr::from_ref(self) as usize));
    }
}
