//! User, group and capability calls (credentials(7), capabilities(7)).
//!
//! All of it is emulated: natively a workload is nobody, for ever. A change makes a new [`Credentials`] value for the calling
//! thread alone, as in Linux; the C library carries it to the other threads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Argument, Call, Entry, Outcome};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capabilities, Capability, Credentials};
use crate::kernel::fork;
use crate::platform::memory::Address;

use Argument::{Number, Pointer};

/// This family.
pub const TABLE: &[Entry] = &[
    Entry::new(libc::SYS_getuid, "getuid", |call| Ok(id(call.credentials().uid)), &[]),
    Entry::new(libc::SYS_geteuid, "geteuid", |call| Ok(id(call.credentials().euid)), &[]),
    Entry::new(libc::SYS_getgid, "getgid", |call| Ok(id(call.credentials().gid)), &[]),
    Entry::new(libc::SYS_getegid, "getegid", |call| Ok(id(call.credentials().egid)), &[]),
    Entry::new(libc::SYS_getresuid, "getresuid", getresuid, &[Pointer, Pointer, Pointer]),
    Entry::new(libc::SYS_getresgid, "getresgid", getresgid, &[Pointer, Pointer, Pointer]),
    Entry::new(libc::SYS_setuid, "setuid", setuid, &[Number]),
    Entry::new(libc::SYS_setgid, "setgid", setgid, &[Number]),
    Entry::new(libc::SYS_setreuid, "setreuid", setreuid, &[Number, Number]),
    Entry::new(libc::SYS_setregid, "setregid", setregid, &[Number, Number]),
    Entry::new(libc::SYS_setresuid, "setresuid", setresuid, &[Number, Number, Number]),
    Entry::new(libc::SYS_setresgid, "setresgid", setresgid, &[Number, Number, Number]),
    Entry::new(libc::SYS_setfsuid, "setfsuid", setfsuid, &[Number]),
    Entry::new(libc::SYS_setfsgid, "setfsgid", setfsgid, &[Number]),
    Entry::new(libc::SYS_getgroups, "getgroups", getgroups, &[Number, Pointer]),
    Entry::new(libc::SYS_setgroups, "setgroups", setgroups, &[Number, Pointer]),
    Entry::new(libc::SYS_capget, "capget", capget, &[Pointer, Pointer]),
    Entry::new(libc::SYS_capset, "capset", capset, &[Pointer, Pointer]),
];

/// `SECBIT_NO_SETUID_FIXUP` (prctl(2)).
const NO_SETUID_FIXUP: u32 = 1 << 2;
/// `SECBIT_KEEP_CAPS`.
pub const KEEP_CAPS: u32 = 1 << 4;
/// "Leave it" in the setres calls.
const UNCHANGED: u32 = u32::MAX;
/// Supplementary groups at most (`NGROUPS_MAX`).
const GROUPS: usize = 65536;

fn id(value: u32) -> Outcome {
    Outcome::Value(i64::from(value))
}

/// Replaces the caller's identity.
pub fn commit(call: &Call, credentials: Credentials) {
    let before = call.credentials();
    if *before == credentials {
        return;
    }
    if (before.euid, before.egid, before.fsuid, before.fsgid) != (credentials.euid, credentials.egid, credentials.fsuid, credentials.fsgid)
    {
        // commit_creds() in kernel/cred.c: no core dumps of what had other rights before (fs.suid_dumpable is 0).
        call.process.dumpable.store(0, Ordering::Relaxed);
    }
    *call.thread.credentials.write() = Arc::new(credentials);
}

fn getresuid(call: &Call) -> Result<Outcome> {
    let who = call.credentials();
    put_three(call, [who.uid, who.euid, who.suid])
}

fn getresgid(call: &Call) -> Result<Outcome> {
    let who = call.credentials();
    put_three(call, [who.gid, who.egid, who.sgid])
}

fn put_three(call: &Call, values: [u32; 3]) -> Result<Outcome> {
    for (index, value) in values.iter().enumerate() {
        call.memory().write_value(call.address(index), value)?;
    }
    Ok(().into())
}

/// What a change of user ids does to the capabilities (capabilities(7), "Effect of user ID changes on capabilities").
fn fix_capabilities(before: &Credentials, after: &mut Credentials) {
    if after.securebits & NO_SETUID_FIXUP != 0 {
        return;
    }
    let had_root = before.uid == 0 || before.euid == 0 || before.suid == 0;
    let has_root = after.uid == 0 || after.euid == 0 || after.suid == 0;
    if had_root && !has_root {
        if after.securebits & KEEP_CAPS == 0 {
            after.permitted = Capabilities::NONE;
            after.effective = Capabilities::NONE;
        }
        after.ambient = Capabilities::NONE;
    }
    if before.euid == 0 && after.euid != 0 {
        after.effective = Capabilities::NONE;
    }
    if before.euid != 0 && after.euid == 0 {
        after.effective = after.permitted;
    }
}

/// The capabilities that follow the file-system user id (`CAP_FS_SET`).
fn file_system_capabilities() -> Capabilities {
    [
        Capability::Chown,
        Capability::DacOverride,
        Capability::DacReadSearch,
        Capability::Fowner,
        Capability::Fsetid,
        Capability::LinuxImmutable,
        Capability::Mknod,
        Capability::MacOverride,
    ]
    .into_iter()
    .fold(Capabilities::NONE, Capabilities::with)
}

fn setuid(call: &Call) -> Result<Outcome> {
    let uid = call.uint(0);
    let before = call.credentials();
    if uid == UNCHANGED {
        return Err(Errno::EINVAL);
    }
    let mut after = (*before).clone();
    if before.capable(Capability::Setuid) {
        after.uid = uid;
        after.suid = uid;
    } else if uid != before.uid && uid != before.suid {
        return Err(Errno::EPERM);
    }
    after.euid = uid;
    after.fsuid = uid;
    fix_capabilities(&before, &mut after);
    commit(call, after);
    Ok(().into())
}

fn setgid(call: &Call) -> Result<Outcome> {
    let gid = call.uint(0);
    let before = call.credentials();
    if gid == UNCHANGED {
        return Err(Errno::EINVAL);
    }
    let mut after = (*before).clone();
    if before.capable(Capability::Setgid) {
        after.gid = gid;
        after.sgid = gid;
    } else if gid != before.gid && gid != before.sgid {
        return Err(Errno::EPERM);
    }
    after.egid = gid;
    after.fsgid = gid;
    commit(call, after);
    Ok(().into())
}

fn setreuid(call: &Call) -> Result<Outcome> {
    let (real, effective) = (call.uint(0), call.uint(1));
    let before = call.credentials();
    let privileged = before.capable(Capability::Setuid);
    if !privileged && real != UNCHANGED && real != before.uid && real != before.euid {
        return Err(Errno::EPERM);
    }
    if !privileged && effective != UNCHANGED && ![before.uid, before.euid, before.suid].contains(&effective) {
        return Err(Errno::EPERM);
    }
    let mut after = (*before).clone();
    if real != UNCHANGED {
        after.uid = real;
    }
    if effective != UNCHANGED {
        after.euid = effective;
    }
    if real != UNCHANGED || (effective != UNCHANGED && effective != before.uid) {
        after.suid = after.euid;
    }
    after.fsuid = after.euid;
    fix_capabilities(&before, &mut after);
    commit(call, after);
    Ok(().into())
}

fn setregid(call: &Call) -> Result<Outcome> {
    let (real, effective) = (call.uint(0), call.uint(1));
    let before = call.credentials();
    let privileged = before.capable(Capability::Setgid);
    if !privileged && real != UNCHANGED && real != before.gid && real != before.egid {
        return Err(Errno::EPERM);
    }
    if !privileged && effective != UNCHANGED && ![before.gid, before.egid, before.sgid].contains(&effective) {
        return Err(Errno::EPERM);
    }
    let mut after = (*before).clone();
    if real != UNCHANGED {
        after.gid = real;
    }
    if effective != UNCHANGED {
        after.egid = effective;
    }
    if real != UNCHANGED || (effective != UNCHANGED && effective != before.gid) {
        after.sgid = after.egid;
    }
    after.fsgid = after.egid;
    commit(call, after);
    Ok(().into())
}

fn setresuid(call: &Call) -> Result<Outcome> {
    let wanted = [call.uint(0), call.uint(1), call.uint(2)];
    let before = call.credentials();
    let current = [before.uid, before.euid, before.suid];
    if !before.capable(Capability::Setuid) && wanted.iter().any(|id| *id != UNCHANGED && !current.contains(id)) {
        return Err(Errno::EPERM);
    }
    let mut after = (*before).clone();
    for (value, to) in wanted.into_iter().zip([&mut after.uid, &mut after.euid, &mut after.suid]) {
        if value != UNCHANGED {
            *to = value;
        }
    }
    after.fsuid = after.euid;
    fix_capabilities(&before, &mut after);
    commit(call, after);
    Ok(().into())
}

fn setresgid(call: &Call) -> Result<Outcome> {
    let wanted = [call.uint(0), call.uint(1), call.uint(2)];
    let before = call.credentials();
    let current = [before.gid, before.egid, before.sgid];
    if !before.capable(Capability::Setgid) && wanted.iter().any(|id| *id != UNCHANGED && !current.contains(id)) {
        return Err(Errno::EPERM);
    }
    let mut after = (*before).clone();
    for (value, to) in wanted.into_iter().zip([&mut after.gid, &mut after.egid, &mut after.sgid]) {
        if value != UNCHANGED {
            *to = value;
        }
    }
    after.fsgid = after.egid;
    commit(call, after);
    Ok(().into())
}

/// setfsuid(2) gives the old id, whether it changed anything or not.
fn setfsuid(call: &Call) -> Result<Outcome> {
    let wanted = call.uint(0);
    let before = call.credentials();
    let known = [before.uid, before.euid, before.suid, before.fsuid].contains(&wanted);
    if wanted != UNCHANGED && wanted != before.fsuid && (known || before.capable(Capability::Setuid)) {
        let mut after = (*before).clone();
        after.fsuid = wanted;
        if after.securebits & NO_SETUID_FIXUP == 0 {
            let theirs = file_system_capabilities();
            if before.fsuid == 0 && wanted != 0 {
                after.effective = after.effective.difference(theirs);
            } else if before.fsuid != 0 && wanted == 0 {
                after.effective = after.effective.union(after.permitted.intersection(theirs));
            }
        }
        commit(call, after);
    }
    Ok(id(before.fsuid))
}

fn setfsgid(call: &Call) -> Result<Outcome> {
    let wanted = call.uint(0);
    let before = call.credentials();
    let known = [before.gid, before.egid, before.sgid, before.fsgid].contains(&wanted);
    if wanted != UNCHANGED && wanted != before.fsgid && (known || before.capable(Capability::Setgid)) {
        let mut after = (*before).clone();
        after.fsgid = wanted;
        commit(call, after);
    }
    Ok(id(before.fsgid))
}

fn getgroups(call: &Call) -> Result<Outcome> {
    let who = call.credentials();
    let size = call.int(0);
    if size < 0 || (size > 0 && (size as usize) < who.groups.len()) {
        return Err(Errno::EINVAL);
    }
    if size > 0 {
        let bytes: Vec<u8> = who.groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
        call.memory().write(call.address(1), &bytes)?;
    }
    Ok(who.groups.len().into())
}

fn setgroups(call: &Call) -> Result<Outcome> {
    call.require(Capability::Setgid)?;
    let count = call.uint(0) as usize;
    if count > GROUPS {
        return Err(Errno::EINVAL);
    }
    let mut groups: Vec<u32> = call.memory().read_values(call.address(1), count)?;
    if groups.contains(&UNCHANGED) {
        return Err(Errno::EINVAL);
    }
    // groups_sort() in kernel/groups.c: getgroups(2) shows them so.
    groups.sort_unstable();
    let mut after = (*call.credentials()).clone();
    after.groups = groups.into();
    commit(call, after);
    Ok(().into())
}

/// The versions of capget(2)'s header, and how many 32-bit words each set has there.
const VERSIONS: [(u32, usize); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];

/// Reads the header; a version that is not known is answered with the one that is preferred, and `EINVAL`.
fn capability_header(call: &Call) -> Result<(usize, i32)> {
    let [version, pid]: [u32; 2] = call.memory().read_value(call.address(0))?;
    match VERSIONS.iter().find(|(known, _)| *known == version) {
        Some((_, words)) => Ok((*words, pid as i32)),
        None => {
            call.memory().write_value(call.address(0), &VERSIONS[2].0)?;
            Err(Errno::EINVAL)
        }
    }
}

fn capget(call: &Call) -> Result<Outcome> {
    let data = call.address(1);
    let (words, pid) = match capability_header(call) {
        // Asking with an unknown version and no data is how libcap finds out the version.
        Err(Errno::EINVAL) if data.is_null() => return Ok(().into()),
        header => header?,
    };
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    let who = if pid == 0 || pid == call.thread.inner {
        call.credentials()
    } else {
        let process = fork::find(&call.process.container, pid).ok_or(Errno::ESRCH)?;
        let first = process.threads.lock().first().cloned().ok_or(Errno::ESRCH)?;

        first.credentials.read().clone()
    };
    if data.is_null() {
        return Ok(().into());
    }
    let mut bytes = Vec::with_capacity(24);
    for word in 0..words {
        for set in [who.effective, who.permitted, who.inheritable] {
            bytes.extend_from_slice(&((set.0 >> (32 * word)) as u32).to_ne_bytes());
        }
    }
    call.memory().write(data, &bytes)?;
    Ok(().into())
}

fn capset(call: &Call) -> Result<Outcome> {
    let (words, pid) = capability_header(call)?;
    if pid != 0 && pid != call.thread.inner {
        return Err(Errno::EPERM);
    }
    let data: Address = call.address(1);
    let raw: Vec<u32> = call.memory().read_values(data, words * 3)?;
    let set = |which: usize| {
        let wide = (0..words).fold(0u64, |sum, word| sum | u64::from(raw[word * 3 + which]) << (32 * word));
        Capabilities(wide).intersection(Capabilities::ALL)
    };
    let (effective, permitted, inheritable) = (set(0), set(1), set(2));
    let before = call.credentials();
    // cap_capset() in security/commoncap.c.
    let allowed = before.inheritable.union(before.permitted);
    if !before.capable(Capability::Setpcap) && inheritable.difference(allowed) != Capabilities::NONE {
        return Err(Errno::EPERM);
    }
    if inheritable.difference(before.inheritable.union(before.bounding)) != Capabilities::NONE
        || permitted.difference(before.permitted) != Capabilities::NONE
        || effective.difference(permitted) != Capabilities::NONE
    {
        return Err(Errno::EPERM);
    }
    let mut after = (*before).clone();
    after.effective = effective;
    after.permitted = permitted;
    after.inheritable = inheritable;
    after.ambient = after.ambient.intersection(permitted).intersection(inheritable);
    commit(call, after);
    Ok(().into())
}
