//! Changes of a tmpfs file's attributes, with the rules of chmod(2), chown(2) and utimensat(2).

use super::{Meta, TmpNode};
use crate::errno::{Errno, Result};
use crate::kernel::credentials::{Capability, Credentials};
use crate::vfs::node::{Attributes, FileType, Permission, SetAttributes, SetTime, Timestamp, permits};
use crate::vfs::rights;

impl TmpNode {
    /// chmod, chown, utimensat.
    pub(super) fn change(&self, change: &SetAttributes, who: &Credentials) -> Result<()> {
        let mut meta = self.meta.write();
        if change.is_chown() {
            self.change_owner(&mut meta, change, who)?;
        }
        if let Some(mode) = change.mode {
            if self.kind == FileType::Symlink {
                return Err(Errno::EOPNOTSUPP);
            }
            if who.fsuid != meta.uid && !who.capable(Capability::Fowner) {
                return Err(Errno::EPERM);
            }
            meta.mode = mode & 0o7777;
            if !who.in_group(meta.gid) && !who.capable(Capability::Fsetid) {
                meta.mode &= !libc::S_ISGID;
            }
        }
        if change.accessed.is_some() || change.modified.is_some() {
            self.change_times(&mut meta, change, who)?;
        }
        meta.changed = Timestamp::now();
        Ok(())
    }

    fn change_owner(&self, meta: &mut Meta, change: &SetAttributes, who: &Credentials) -> Result<()> {
        let uid = change.uid.unwrap_or(meta.uid);
        let gid = change.gid.unwrap_or(meta.gid);
        let owner = who.fsuid == meta.uid;
        let capable = who.capable(Capability::Chown);
        let may_give = change.uid.is_none() || (owner && uid == meta.uid);
        let may_regroup = change.gid.is_none() || (owner && (gid == meta.gid || who.in_group(gid)));
        if !capable && (!may_give || !may_regroup) {
            return Err(Errno::EPERM);
        }
        if self.kind != FileType::Directory {
            // One who may neither is stopped by the bits that would go.
            let kept = rights::mode_after_chown(meta.mode, meta.gid, who);
            if kept != meta.mode && !owner && !who.capable(Capability::Fowner) {
                return Err(Errno::EPERM);
            }
            meta.mode = kept;
        }
        (meta.uid, meta.gid) = (uid, gid);
        Ok(())
    }

    fn change_times(&self, meta: &mut Meta, change: &SetAttributes, who: &Credentials) -> Result<()> {
        if who.fsuid != meta.uid && !who.capable(Capability::Fowner) {
            let both_now = change.accessed == Some(SetTime::Now) && change.modified == Some(SetTime::Now);
            if !both_now {
                return Err(Errno::EPERM);
            }
            let mode = self.kind.mode() | meta.mode;
            let shown = Attributes { mode, uid: meta.uid, gid: meta.gid, ..crate::vfs::anonymous::attributes(0, mode, 0) };
            permits(&shown, Permission::WRITE, who)?;
        }
        let time = |time: SetTime| match time {
            SetTime::Now => Timestamp::now(),
            SetTime::To(at) => at,
        };
        if let Some(accessed) = change.accessed {
            meta.accessed = time(accessed);
        }
        if let Some(modified) = change.modified {
            meta.modified = time(modified);
        }
        Ok(())
    }
}
