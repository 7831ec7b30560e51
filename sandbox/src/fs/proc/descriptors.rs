//! /proc/PID/fd and /proc/PID/fdinfo.

use std::sync::Arc;

use super::first_thread;
use crate::errno::Errno;
use crate::fs::synthetic::{Guard, Named, file, link};
use crate::kernel::task::Process;
use crate::vfs::descriptor::{Descriptor, DescriptorTable};
use crate::vfs::file::OpenFile;
use crate::vfs::node::LinkTarget;

/// `fs/pipe.c`, `net/socket.c` and the like have each a mount that nobody sees: its number here.
const INTERNAL_MOUNT: u64 = 15;

fn table(process: &Process) -> Option<Arc<DescriptorTable>> {
    first_thread(process).ok().map(|thread| thread.descriptors.read().clone())
}

/// How many there are: the directory's size, since Linux 6.2.
pub fn count(process: &Process) -> u64 {
    table(process).map_or(0, |table| table.numbers().len() as u64)
}

fn number(name: &str) -> Option<Descriptor> {
    name.parse().ok().filter(|number: &u32| number.to_string() == name).map(Descriptor)
}

/// `fd`: links to what is open.
pub fn list(process: &Arc<Process>, guard: &Guard, owner: (u32, u32)) -> Vec<Named> {
    let Some(table) = table(process) else { return Vec::new() };
    table.numbers().into_iter().filter_map(|number| item(&table, number, guard, owner)).collect()
}

/// One of them.
pub fn find(process: &Arc<Process>, name: &str, guard: &Guard, owner: (u32, u32)) -> Option<Named> {
    item(&table(process)?, number(name)?, guard, owner)
}

fn item(table: &Arc<DescriptorTable>, number: Descriptor, guard: &Guard, owner: (u32, u32)) -> Option<Named> {
    let open = table.get(number).ok()?;
    // Readable and searchable, writable and searchable: what the descriptor may do (`tid_fd_update_inode()`).
    let mode = if open.reads() { 0o500 } else { 0 } | if open.writes() { 0o300 } else { 0 };
    let table = table.clone();
    let target = link(&number.0.to_string(), move || {
        let open = table.get(number).map_err(|_| Errno::ENOENT)?;
        Ok(match &open.location {
            Some(location) => LinkTarget::Place(location.clone()),
            None => LinkTarget::Object(open),
        })
    });
    Some(target.mode(mode).owner(owner).size(64).guarded(guard))
}

/// `fdinfo`: what is known of each (proc_pid_fdinfo(5)).
pub fn infos(process: &Arc<Process>, owner: (u32, u32)) -> Vec<Named> {
    let Some(table) = table(process) else { return Vec::new() };
    table.numbers().into_iter().map(|number| info(&table, number, owner)).collect()
}

/// One of them.
pub fn find_info(process: &Arc<Process>, name: &str, owner: (u32, u32)) -> Option<Named> {
    let (table, number) = (table(process)?, number(name)?);
    table.get(number).ok().map(|_| info(&table, number, owner))
}

fn info(table: &Arc<DescriptorTable>, number: Descriptor, owner: (u32, u32)) -> Named {
    let table = table.clone();
    let made = file(&number.0.to_string(), move || {
        let open = table.get(number).map_err(|_| Errno::ENOENT)?;
        let close = if table.close_on_exec(number).unwrap_or(false) { libc::O_CLOEXEC } else { 0 };
        Ok(text(&open, close).into_bytes())
    });
    made.owner(owner)
}

fn text(open: &OpenFile, close: i32) -> String {
    // Never waits for one who holds it across a long read.
    let position = open.offset.try_lock().map_or(0, |offset| *offset);
    let mount = open.location.as_ref().map_or(INTERNAL_MOUNT, |location| location.mount.id);
    let inode = open.attributes().map_or(0, |attributes| attributes.inode);
    format!("pos:\t{position}\nflags:\t0{:o}\nmnt_id:\t{mount}\nino:\t{inode}\n{}", open.flags() | close, open.file.details())
}
