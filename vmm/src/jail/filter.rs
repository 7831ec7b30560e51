//! A thread's seccomp filter, compiled from [`super::CALLS`].

use std::collections::BTreeMap;
use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

use super::Thread;
use super::calls::{CALLS, HostCall, Only};

/// The calls that a thread makes.
fn calls(thread: Thread) -> impl Iterator<Item = &'static HostCall> {
    CALLS.iter().filter(move |row| row.threads.contains(&thread)).flat_map(|row| row.calls)
}

/// The program. `otherwise`: what becomes of a call that is not in the table.
pub(super) fn compile(thread: Thread, otherwise: SeccompAction) -> io::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for call in calls(thread) {
        let found = rules.entry(call.number).or_insert_with(|| Some(Vec::new()));
        match call.only {
            // Without a condition for one reason: for every one.
            None => *found = None,
            Some(only) => {
                if let Some(chain) = found {
                    chain.extend(alternatives(only)?);
                }
            }
        }
    }
    // Threads are made by clone(2), whose flags are in a register; the C library falls back to it when clone3 is not there: see below.
    rules.insert(libc::SYS_clone3, None);
    let rules = rules.into_iter().map(|(number, chain)| (number, chain.unwrap_or_default())).collect();
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, TargetArch::x86_64).and_then(TryInto::try_into).map_err(io::Error::other)
}

/// A second program: clone3 is not there. The host takes the strictest answer of the two.
pub(super) fn without_clone3() -> io::Result<BpfProgram> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, absent, TargetArch::x86_64).and_then(TryInto::try_into).map_err(io::Error::other)
}

/// One rule for each way to satisfy the condition.
fn alternatives(only: Only) -> io::Result<Vec<SeccompRule>> {
    let rule = |condition: Result<SeccompCondition, _>| {
        condition.and_then(|condition| SeccompRule::new(vec![condition])).map_err(io::Error::other)
    };
    match only {
        Only::OneOf(argument, values) => values
            .iter()
            .map(|&value| rule(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())))
            .collect(),
        Only::Masked(argument, mask, bits) => {
            Ok(vec![rule(SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(mask), bits))?])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn every_threads_table_compiles_and_has_reasons() {
        for thread in Thread::ALL {
            let program = compile(thread, SeccompAction::KillProcess).unwrap();
            assert!(program.len() < 4096, "{thread:?}");
        }
        assert!(without_clone3().is_ok());
        assert!(CALLS.iter().all(|row| !row.reason.is_empty() && !row.threads.is_empty() && !row.calls.is_empty()));
    }

    #[test]
    fn what_would_break_out_is_in_no_table() {
        let absent = [
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
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
            libc::SYS_open_by_handle_at,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_setuid,
            libc::SYS_setresuid,
        ];
        for row in CALLS {
            for call in row.calls {
                assert!(!absent.contains(&call.number), "{}", call.name);
            }
        }
    }

    #[test]
    fn a_virtual_processor_names_nothing() {
        let named = [libc::SYS_open, libc::SYS_openat, libc::SYS_openat2, libc::SYS_connect, libc::SYS_clone, libc::SYS_seccomp];
        assert!(calls(Thread::Vcpu).all(|call| !named.contains(&call.number)));
        assert!(calls(Thread::Devices).all(|call| call.number != libc::SYS_openat));
    }

    /// Makes calls on a thread that is confined so, and gives their errors: 0 where there is none.
    fn try_out<const N: usize>(thread: Thread, calls: [fn() -> i64; N]) -> [i32; N] {
        std::thread::spawn(move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            let program = compile(thread, SeccompAction::Errno(libc::EXDEV as u32)).unwrap();
            seccompiler::apply_filter(&program).unwrap();
            calls.map(|call| if call() < 0 { Errno::last_raw() } else { 0 })
        })
        .join()
        .unwrap()
    }

    #[test]
    fn a_thread_makes_its_calls_and_no_others() {
        // SAFETY: in this function, calls that the filter answers, or that fail for want of a descriptor.
        let run = || unsafe { libc::ioctl(-1, 0xae80) }.into();
        // SAFETY: as above.
        let size = || unsafe { libc::ioctl(-1, libc::TIOCGWINSZ, 0) }.into();
        // SAFETY: as above.
        let inject = || unsafe { libc::ioctl(-1, libc::TIOCSTI, 0) }.into();
        // SAFETY: as above.
        let open = || unsafe { libc::openat(-1, c"x".as_ptr(), 0) }.into();
        // SAFETY: as above; nothing is mapped with a length of 0.
        let code =
            || unsafe { libc::mmap(std::ptr::null_mut(), 0, libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) } as i64;
        // SAFETY: as above.
        let internet = || unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) }.into();
        let calls = [run, size, inject, open, code, internet];
        let (bad, no) = (libc::EBADF, libc::EXDEV);
        assert_eq!(try_out(Thread::Vcpu, calls), [bad, no, no, no, no, no]);
        assert_eq!(try_out(Thread::Control, calls), [no, bad, no, bad, no, no]);
        assert_eq!(try_out(Thread::Files, calls), [no, no, no, bad, no, no]);
        assert_eq!(try_out(Thread::Devices, calls), [no, no, no, no, no, no]);
        assert_eq!(try_out(Thread::Starting, calls), [bad, bad, no, bad, no, no]);
    }
}
