//! Descriptor tables (Linux's `files_struct`): numbers to open file descriptions.
//!
//! A table belongs to one process, or to those that share it (`CLONE_FILES`). Natively the workload has no such table worth
//! the name: only what was donated for mmap. At which numbers that is, is noted here, so that it can be taken back when the workload closes them: a
//! file that nobody has open must not stay open natively.

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
    /// Something was donated at this number.
    donated: bool,
}

/// What was taken out of a table.
pub struct Taken {
    /// From which number.
    pub number: Descriptor,
    /// What it referred to.
    pub file: Arc<OpenFile>,
    /// Whether the workload has a native descriptor at that number.
    pub donated: bool,
}

#[derive(Clone, Default)]
struct Entries {
    list: Vec<Option<Entry>>,
    /// No number below is free.
    lowest: usize,
}

impl Entries {
    /// The lowest free number from `from` on.
    fn free(&self, from: usize) -> usize {
        let mut number = from.max(self.lowest);
        while matches!(self.list.get(number), Some(Some(_))) {
            number += 1;
        }
        number
    }

    fn put(&mut self, number: usize, entry: Entry) -> Option<Entry> {
        if number >= self.list.len() {
            self.list.resize(number + 1, None);
        }
        self.list[number].replace(entry)
    }

    fn take(&mut self, number: usize) -> Option<Taken> {
        let entry = self.list.get_mut(number).and_then(Option::take)?;
        self.lowest = self.lowest.min(number);
        Some(Taken { number: Descriptor(number as u32), file: entry.file, donated: entry.donated })
    }
}

/// A table of descriptors. At most [`DescriptorTable::MAXIMUM`] entries, whatever `RLIMIT_NOFILE` says.
#[derive(Default)]
pub struct DescriptorTable {
    entries: RwLock<Entries>,
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
        match self.entries.read().list.get(descriptor.0 as usize) {
            Some(Some(entry)) => Ok(entry.file.clone()),
            _ => Err(Errno::EBADF),
        }
    }

    /// As [`DescriptorTable::get`], but `EBADF` for an `O_PATH` descriptor too: for calls that do I/O.
    pub fn get_open(&self, descriptor: Descriptor) -> Result<Arc<OpenFile>> {
        let file = self.get(descriptor)?;
        if file.is_path() { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// Whether one more description has a number below `limit`. `EMFILE` where not.
    pub fn has_room(&self, limit: u64) -> Result<()> {
        let free = self.entries.read().free(0) as u64;
        if free < limit.min(Self::MAXIMUM) { Ok(()) } else { Err(Errno::EMFILE) }
    }

    /// Puts a description at the lowest free number from `lowest` on. `EMFILE` at `limit` (RLIMIT_NOFILE's soft value).
    pub fn insert(&self, file: Arc<OpenFile>, close_on_exec: bool, lowest: u32, limit: u64) -> Result<Descriptor> {
        let mut entries = self.entries.write();
        let number = entries.free(lowest as usize);
        if number as u64 >= limit.min(Self::MAXIMUM) {
            return Err(Errno::EMFILE);
        }
        if lowest as usize <= entries.lowest {
            entries.lowest = number + 1;
        }
        entries.put(number, Entry { file, close_on_exec, donated: false });
        Ok(Descriptor(number as u32))
    }

    /// Puts a description at this number; gives back what was there. `EBADF` at or past `limit` (dup2(2)).
    pub fn replace(&self, descriptor: Descriptor, file: Arc<OpenFile>, close_on_exec: bool, limit: u64) -> Result<Option<Taken>> {
        if u64::from(descriptor.0) >= limit.min(Self::MAXIMUM) {
            return Err(Errno::EBADF);
        }
        let before = self.entries.write().put(descriptor.0 as usize, Entry { file, close_on_exec, donated: false });
        Ok(before.map(|entry| Taken { number: descriptor, file: entry.file, donated: entry.donated }))
    }

    /// Takes a description out. `EBADF` where there is none.
    pub fn remove(&self, descriptor: Descriptor) -> Result<Taken> {
        self.entries.write().take(descriptor.0 as usize).ok_or(Errno::EBADF)
    }

    /// Notes that something is donated at this number.
    pub fn set_donated(&self, descriptor: Descriptor) {
        if let Some(Some(entry)) = self.entries.write().list.get_mut(descriptor.0 as usize) {
            entry.donated = true;
        }
    }

    /// The close-on-exec flag.
    pub fn close_on_exec(&self, descriptor: Descriptor) -> Result<bool> {
        match self.entries.read().list.get(descriptor.0 as usize) {
            Some(Some(entry)) => Ok(entry.close_on_exec),
            _ => Err(Errno::EBADF),
        }
    }

    /// Sets the close-on-exec flag.
    pub fn set_close_on_exec(&self, descriptor: Descriptor, value: bool) -> Result<()> {
        match self.entries.write().list.get_mut(descriptor.0 as usize) {
            Some(Some(entry)) => {
                entry.close_on_exec = value;
                Ok(())
            }
            _ => Err(Errno::EBADF),
        }
    }

    /// Takes out what close_range(2) names, `first` to `last` inclusive.
    pub fn remove_range(&self, first: u32, last: u32) -> Vec<Taken> {
        self.take_if(first, last, |_| true)
    }

    /// Takes out what a successful exec closes, and forgets what was donated: the host has closed all of it.
    pub fn remove_close_on_exec(&self) -> Vec<Taken> {
        let taken = self.take_if(0, u32::MAX, |entry| entry.close_on_exec);
        self.entries.write().list.iter_mut().flatten().for_each(|entry| entry.donated = false);
        taken
    }

    /// The open numbers, ascending: /proc/PID/fd.
    pub fn numbers(&self) -> Vec<Descriptor> {
        let entries = self.entries.read();
        entries.list.iter().enumerate().filter(|(_, entry)| entry.is_some()).map(|(number, _)| Descriptor(number as u32)).collect()
    }

    fn take_if(&self, first: u32, last: u32, wanted: impl Fn(&Entry) -> bool) -> Vec<Taken> {
        let mut entries = self.entries.write();
        let end = entries.list.len().min(last as usize + 1);
        let mut taken = Vec::new();
        for number in first as usize..end {
            if entries.list[number].as_ref().is_some_and(&wanted) {
                taken.extend(entries.take(number));
            }
        }
        taken
    }
}

impl Drop for DescriptorTable {
    /// Record locks belong to the table (fcntl(2)): they go with it. What is still open in it is closed.
    fn drop(&mut self) {
        for entry in self.entries.get_mut().list.iter().flatten() {
            let _ = entry.file.file.flush();
        }
        super::locks::release_all(super::locks::Owner::Table(std::ptr::from_ref(self) as usize));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::kernel::credentials::Credentials;
    use crate::vfs::file::PathOnly;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Replace(u32),
        Remove(u32),
        RemoveRange(u32, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = || 0..24u32;
        prop_oneof![
            number().prop_map(|lowest| Step::Insert(if lowest < 16 { 0 } else { lowest })),
            number().prop_map(Step::Replace),
            number().prop_map(Step::Remove),
            (number(), number()).prop_map(|(first, last)| Step::RemoveRange(first, last)),
        ]
    }

    proptest! {
        #[test]
        fn the_lowest_free_number_is_given(steps in proptest::collection::vec(step(), 0..60)) {
            const LIMIT: u64 = 20;
            let file = OpenFile::new(Arc::new(PathOnly), None, libc::O_PATH, Credentials::kernel());
            let table = DescriptorTable::new();
            let mut model: BTreeMap<u32, ()> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(lowest) => {
                        let free = (lowest..).find(|number| !model.contains_key(number)).unwrap();
                        let expected = if u64::from(free) < LIMIT { Ok(Descriptor(free)) } else { Err(Errno::EMFILE) };
                        prop_assert_eq!(table.insert(file.clone(), false, lowest, LIMIT), expected);
                        if expected.is_ok() {
                            model.insert(free, ());
                        }
                    }
                    Step::Replace(number) => {
                        let there = table.replace(Descriptor(number), file.clone(), false, LIMIT);
                        prop_assert_eq!(there.is_ok(), u64::from(number) < LIMIT);
                        if let Ok(there) = there {
                            prop_assert_eq!(there.is_some(), model.insert(number, ()).is_some());
                        }
                    }
                    Step::Remove(number) => prop_assert_eq!(table.remove(Descriptor(number)).is_ok(), model.remove(&number).is_some()),
                    Step::RemoveRange(first, last) => {
                        let gone = model.keys().filter(|number| (first..=last).contains(number)).count();
                        prop_assert_eq!(table.remove_range(first, last).len(), gone);
                        model.retain(|number, ()| !(first..=last).contains(number));
                    }
                }
                let numbers: Vec<u32> = table.numbers().into_iter().map(|number| number.0).collect();
                prop_assert_eq!(numbers, model.keys().copied().collect::<Vec<u32>>());
            }
        }
    }
}
