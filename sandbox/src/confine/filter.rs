//! The kernel process's own seccomp filter, compiled from [`super::CALLS`].

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

use super::calls::{CALLS, Only};
use crate::errno::{Errno, Result};

/// The program. `otherwise`: what becomes of a call that is not in the table.
pub(super) fn compile(otherwise: SeccompAction) -> Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in CALLS {
        let chain = match call.only {
            None => Vec::new(),
            Some(only) => alternatives(only)?,
        };
        rules.insert(call.number, chain);
    }
    // Threads are made by clone(2), whose flags are in a register; the C library falls back to it when clone3 is not there.
    rules.insert(libc::SYS_clone3, Vec::new());
    let filter = SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64).map_err(refused)?;
    filter.try_into().map_err(refused)
}

/// A second program: clone3 is not there. The host takes the strictest answer of the two.
pub(super) fn without_clone3() -> Result<BpfProgram> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, TargetArch::x86_64).map_err(refused)?;
    filter.try_into().map_err(refused)
}

fn refused<E: std::fmt::Display>(error: E) -> Errno {
    crate::log::error(&format!("compiling the kernel's own filter: {error}"));
    Errno::EINVAL
}

/// One rule for each way to satisfy the condition.
fn alternatives(only: Only) -> Result<Vec<SeccompRule>> {
    let rule = |conditions: Vec<SeccompCondition>| SeccompRule::new(conditions).map_err(refused);
    match only {
        Only::OneOf(argument, values) => values
            .iter()
            .map(|&value| {
                let equal = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(value));
                rule(vec![equal.map_err(refused)?])
            })
            .collect(),
        Only::Bits(argument, set, clear) => {
            let masked = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(set | clear), set);
            Ok(vec![rule(vec![masked.map_err(refused)?])?])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_compiles() {
        let program = compile(SeccompAction::KillProcess).unwrap();
        assert!(program.len() < 4096);
        assert!(without_clone3().is_ok());
    }

    #[test]
    fn what_would_break_out_is_not_in_the_table() {
        let absent = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_perf_event_open,
            libc::SYS_add_key,
            libc::SYS_keyctl,
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_kexec_load,
            libc::SYS_mount_setattr,
            libc::SYS_fsopen,
            libc::SYS_fsmount,
            libc::SYS_open_by_handle_at,
            libc::SYS_setuid,
            libc::SYS_setresuid,
            libc::SYS_seccomp,
        ];
        for number in absent {
            assert!(CALLS.iter().all(|call| call.number != number), "{number}");
        }
    }

    #[test]
    fn every_call_has_one_row_and_a_reason() {
        let mut seen = std::collections::HashSet::new();
        for call in CALLS {
            assert!(seen.insert(call.number), "{} is there twice", call.name);
            assert!(!call.reason.is_empty());
        }
    }
}
