//! Credentials as credentials(7) and capabilities(7) describe them. They exist only here: natively every workload
//! process runs as nobody, with no capability.
//!
//! A [`Credentials`] value is immutable; a thread that changes its identity gets a new one. That is what makes a snapshot
//! for fork, for an open file or for `SO_PEERCRED` one reference count.

use std::sync::Arc;

/// A set of capabilities, one bit each (capabilities(7)).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Capabilities(pub u64);

/// A capability's number (include/uapi/linux/capability.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, clippy::upper_case_acronyms)]
pub enum Capability {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    LinuxImmutable = 9,
    NetBindService = 10,
    NetBroadcast = 11,
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    IpcOwner = 15,
    SysModule = 16,
    SysRawio = 17,
    SysChroot = 18,
    SysPtrace = 19,
    SysPacct = 20,
    SysAdmin = 21,
    SysBoot = 22,
    SysNice = 23,
    SysResource = 24,
    SysTime = 25,
    SysTtyConfig = 26,
    Mknod = 27,
    Lease = 28,
    AuditWrite = 29,
    AuditControl = 30,
    Setfcap = 31,
    MacOverride = 32,
    MacAdmin = 33,
    Syslog = 34,
    WakeAlarm = 35,
    BlockSuspend = 36,
    AuditRead = 37,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

impl Capabilities {
    /// The last capability's number, as /proc/sys/kernel/cap_last_cap shows it.
    pub const LAST: u8 = 40;
    /// Every capability there is.
    pub const ALL: Capabilities = Capabilities((1 << (Self::LAST as u64 + 1)) - 1);
    /// None.
    pub const NONE: Capabilities = Capabilities(0);

    /// Whether `capability` is in the set.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u64) != 0
    }

    /// The set with `capability` added.
    pub fn with(self, capability: Capability) -> Capabilities {
        Capabilities(self.0 | 1 << capability as u64)
    }

    /// What is in both.
    pub fn intersection(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }

    /// What is in either.
    pub fn union(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// What is in this set and not in `other`.
    pub fn difference(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & !other.0)
    }
}

/// A thread's identity.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub struct Credentials {
    pub uid: u32,
    pub euid: u32,
    pub suid: u32,
    pub fsuid: u32,
    pub gid: u32,
    pub egid: u32,
    pub sgid: u32,
    pub fsgid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    pub inheritable: Capabilities,
    pub permitted: Capabilities,
    pub effective: Capabilities,
    pub bounding: Capabilities,
    pub ambient: Capabilities,
    /// `SECBIT_*` (prctl(2), PR_SET_SECUREBITS).
    pub securebits: u32,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
}

impl Credentials {
    /// Root with every capability: the kernel's own errands.
    pub fn kernel() -> Arc<Credentials> {
        Arc::new(Credentials::of(0, 0, &[], Capabilities::ALL))
    }

    /// One user with one group, and one set of capabilities in permitted, effective and bounding.
    pub fn of(uid: u32, gid: u32, groups: &[u32], capabilities: Capabilities) -> Credentials {
        Credentials {
            uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups: groups.into(),
            inheritable: Capabilities::NONE,
            permitted: capabilities,
            effective: capabilities,
            bounding: capabilities,
            ambient: Capabilities::NONE,
            securebits: 0,
            no_new_privs: false,
        }
    }

    /// Whether the effective set has `capability`.
    pub fn capable(&self, capability: Capability) -> bool {
        self.effective.has(capability)
    }

    /// Whether the file-system group or a supplementary group is `gid`.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// Whether its owner may look into a process of that identity, which lets others look or does not (`PTRACE_MODE_*_REALCREDS`, ptrace(2)).
    pub fn may_access(&self, theirs: &Credentials, dumpable: bool) -> bool {
        let alike = [theirs.uid, theirs.euid, theirs.suid].iter().all(|id| *id == self.uid)
            && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|id| *id == self.gid);
        let weaker = theirs.permitted.difference(self.permitted) == Capabilities::NONE;
        self.capable(Capability::SysPtrace) || (alike && weaker && dumpable)
    }

    /// The same with the real ids in place of the file-system ids: what access(2) judges by.
    pub fn for_access(&self) -> Credentials {
        let mut real = self.clone();
        real.fsuid = self.uid;
        real.fsgid = self.gid;
        // access(2): with a real user id of 0 the permitted set counts, else none (unless SECBIT_NO_SETUID_FIXUP, bit 2).
        if self.securebits & 4 == 0 {
            real.effective = if self.uid == 0 { self.permitted } else { Capabilities::NONE };
        }
        real
    }
}
