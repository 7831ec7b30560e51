//! What a process may: its limits, its identity, its capabilities.

use std::collections::HashSet;

use bulkhead_protocol::call::Refusal;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl::set_keepcaps;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{Capability as Named, PosixRlimitType, Process};

use super::{failed, internal, invalid, text};

/// Sets the limits of config.json.
///
/// # Errors
/// The limit that the kernel does not take.
pub fn limit(process: &Process) -> Result<(), Refusal> {
    for limit in process.rlimits().iter().flatten() {
        let (name, soft, hard) = (limit.typ().to_string(), limit.soft(), limit.hard());
        if soft > hard {
            return Err(invalid(format!("process.rlimits: {name}: soft {soft} is above hard {hard}")));
        }
        setrlimit(resource(limit.typ()), soft, hard).map_err(|error| invalid(format!("process.rlimits: {name}: {}", text(error))))?;
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

/// Capabilities by the names of config.json; names that nobody knows grant nothing.
fn set(names: Option<&HashSet<Named>>) -> CapsHashSet {
    names.into_iter().flatten().filter_map(|name| caps::to_canonical(&name.to_string()).parse::<Capability>().ok()).collect()
}

/// Takes the identity and the capabilities of config.json. Without `process.capabilities` there are none, root or not, as runc has it.
///
/// The order is capabilities(7)'s: the bounding set while `CAP_SETPCAP` is there; then groups, then users, with the permitted set kept; then the
/// thread's sets, each a subset of what is there before it, and the ambient ones last.
///
/// # Errors
/// What the kernel does not take.
pub fn assume(process: &Process) -> Result<(), Refusal> {
    let wrong = |what: &'static str| move |error: caps::errors::CapsError| internal(format!("process.capabilities.{what}: {error}"));
    let sets = process.capabilities().as_ref();
    let bounding = set(sets.and_then(|sets| sets.bounding().as_ref()));
    for capability in caps::runtime::thread_all_supported().difference(&bounding) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(wrong("bounding"))?;
    }
    set_keepcaps(true).map_err(failed("prctl(PR_SET_KEEPCAPS)"))?;
    let user = process.user();
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|&gid| Gid::from_raw(gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    let wrong_user = |field: &str, error| invalid(format!("process.user.{field}: {}", text(error)));
    setgroups(&groups).map_err(|error| wrong_user("additionalGids", error))?;
    setresgid(gid, gid, gid).map_err(|error| wrong_user("gid", error))?;
    setresuid(uid, uid, uid).map_err(|error| wrong_user("uid", error))?;
    set_keepcaps(false).map_err(failed("prctl(PR_SET_KEEPCAPS)"))?;
    let subset = |one: CapsHashSet, of: &CapsHashSet| one.intersection(of).copied().collect::<CapsHashSet>();
    // Nobody is given what the agent itself does not have.
    let have = caps::read(None, CapSet::Permitted).map_err(wrong("permitted"))?;
    let permitted = subset(subset(set(sets.and_then(|sets| sets.permitted().as_ref())), &bounding), &have);
    let effective = subset(set(sets.and_then(|sets| sets.effective().as_ref())), &permitted);
    let inheritable = subset(subset(set(sets.and_then(|sets| sets.inheritable().as_ref())), &bounding), &have);
    let ambient = subset(subset(set(sets.and_then(|sets| sets.ambient().as_ref())), &permitted), &inheritable);
    caps::set(None, CapSet::Inheritable, &inheritable).map_err(wrong("inheritable"))?;
    caps::set(None, CapSet::Effective, &effective).map_err(wrong("effective"))?;
    caps::set(None, CapSet::Permitted, &permitted).map_err(wrong("permitted"))?;
    caps::set(None, CapSet::Ambient, &ambient).map_err(wrong("ambient"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_known_by_their_names() {
        let names: HashSet<Named> = serde_json::from_str(r#"["CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"]"#).unwrap();
        let expected = [Capability::CAP_NET_BIND_SERVICE, Capability::CAP_SYS_ADMIN, Capability::CAP_CHECKPOINT_RESTORE];
        assert_eq!(set(Some(&names)), expected.into_iter().collect());
        assert!(set(None).is_empty());
    }
}
