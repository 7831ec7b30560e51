//! Whose rights a thread of this process uses on host files.
//!
//! The host's own checks decide on host files, under the caller's emulated identity: before a host call the thread takes that
//! identity's file-system ids, groups and file capabilities (credentials(7); all of them belong to the *thread*, so the raw calls are
//! used, not the C library's, which would change every thread). Changing costs about 2 us, so each thread remembers what it
//! carries.

use std::cell::RefCell;
use std::sync::Arc;

use crate::kernel::credentials::{Capabilities, Capability, Credentials};

/// What a thread carries.
#[derive(Clone, PartialEq)]
struct Carried {
    uid: u32,
    gid: u32,
    groups: Arc<[u32]>,
    capabilities: Capabilities,
}

thread_local! {
    static CARRIED: RefCell<Option<Carried>> = const { RefCell::new(None) };
}

/// The capabilities that concern files.
fn file_capabilities() -> Capabilities {
    [Capability::Chown, Capability::DacOverride, Capability::DacReadSearch, Capability::Fowner, Capability::Fsetid]
        .into_iter()
        .fold(Capabilities::NONE, Capabilities::with)
}

/// Takes an identity for host files, until the next one.
pub fn assume(who: &Credentials) {
    let capabilities = who.effective.intersection(file_capabilities());
    CARRIED.with(|carried| {
        let mut carried = carried.borrow_mut();
        let same = carried.as_ref().is_some_and(|now| {
            now.uid == who.fsuid
                && now.gid == who.fsgid
                && now.capabilities == capabilities
                && (Arc::ptr_eq(&now.groups, &who.groups) || now.groups == who.groups)
        });
        if !same {
            change(carried.as_ref(), who, capabilities);
            *carried = Some(Carried { uid: who.fsuid, gid: who.fsgid, groups: who.groups.clone(), capabilities });
        }
    });
}

/// Takes the kernel's own identity: root with every right.
pub fn assume_kernel() {
    thread_local! {
        static KERNEL: Arc<Credentials> = Credentials::kernel();
    }
    KERNEL.with(|kernel| assume(kernel));
}

fn change(now: Option<&Carried>, who: &Credentials, capabilities: Capabilities) {
    if now.is_none_or(|now| now.groups != who.groups) {
        // SAFETY: the pointer and length describe `groups`; raw, so that only this thread changes.
        unsafe { libc::syscall(libc::SYS_setgroups, who.groups.len(), who.groups.as_ptr()) };
    }
    // SAFETY: no memory is passed. Both calls cannot fail for a thread that has CAP_SETUID and CAP_SETGID.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, who.fsgid);
        libc::syscall(libc::SYS_setfsuid, who.fsuid);
    }
    // setfsuid has moved file capabilities by itself: set exactly those of the caller, and keep all others.
    let header: [u32; 2] = [0x2008_0522, 0];
    let mut data = [0u32; 6];
    // SAFETY: header and data have the sizes that version 3 of the call reads and writes.
    unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    let permitted = Capabilities(u64::from(data[1]) | u64::from(data[4]) << 32);
    let effective = permitted.difference(file_capabilities()).union(capabilities.intersection(permitted));
    data[0] = effective.0 as u32;
    data[3] = (effective.0 >> 32) as u32;
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
}
