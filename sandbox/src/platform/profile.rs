//! The seccomp profile of config.json (`linux.seccomp`), as this wall installs it.
//!
//! It is installed on the workload natively, on top of ours, just before its first execve. The host takes the strictest answer of
//! all filters (seccomp(2)): what the profile refuses stays refused, and what it allows still comes to this kernel unless it is in the direct
//! set. Other architectures' calls are let through here: our own filter ends them.

use bulkhead_protocol::seccomp;
pub use bulkhead_protocol::seccomp::ProfileError;

use super::spawner::Profile;

/// Compiles the JSON of `linux.seccomp`.
pub fn compile(json: &[u8]) -> Result<Profile, ProfileError> {
    seccomp::compile(json, libc::SECCOMP_RET_ALLOW)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::filter::tests::interpret;
    use super::super::filter::{ARCHITECTURE, Program, X32};
    use super::*;

    const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];

    fn holds(operator: &str, argument: u64, value: u64, second: u64) -> bool {
        match operator {
            "NE" => argument != value,
            "LT" => argument < value,
            "LE" => argument <= value,
            "EQ" => argument == value,
            "GE" => argument >= value,
            "GT" => argument > value,
            _ => argument & value == second,
        }
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..4, any::<u64>(), (0u64..3, 0u64..3).prop_map(|(high, low)| high << 32 | low)]
    }

    proptest! {
        #[test]
        fn comparisons_are_of_64_bits(
            arguments in proptest::array::uniform6(number()),
            conditions in proptest::collection::vec((0usize..6, 0usize..7, number(), number()), 1..7),
        ) {
            let outcomes: Vec<bool> = conditions
                .iter()
                .map(|(argument, operator, value, second)| holds(OPERATORS[*operator], arguments[*argument], *value, *second))
                .collect();
            let distinct: std::collections::HashSet<usize> = conditions.iter().map(|condition| condition.0).collect();
            // Conditions on one argument are alternatives (libseccomp's rule).
            let holds = if distinct.len() < conditions.len() { outcomes.contains(&true) } else { !outcomes.contains(&false) };
            let list: Vec<String> = conditions
                .iter()
                .map(|(argument, operator, value, second)| {
                    format!(r#"{{"index": {argument}, "value": {value}, "valueTwo": {second}, "op": "SCMP_CMP_{}"}}"#, OPERATORS[*operator])
                })
                .collect();
            let json = format!(
                r#"{{"defaultAction": "SCMP_ACT_LOG", "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{}]}}]}}"#,
                list.join(",")
            );
            let expected = if holds { libc::SECCOMP_RET_TRAP } else { libc::SECCOMP_RET_LOG };
            prop_assert_eq!(interpret(&compile(json.as_bytes()).unwrap().program, ARCHITECTURE, 0, &arguments), expected);
        }
    }

    #[test]
    fn other_entries_are_no_way_around_a_profile_that_stands_alone() {
        let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        let program = seccomp::compile(br#"{"defaultAction": "SCMP_ACT_ALLOW"}"#, refused).unwrap().program;
        for number in [0, 1, 59, 511, 512] {
            assert_eq!(interpret(&program, ARCHITECTURE, number, &[0; 6]), libc::SECCOMP_RET_ALLOW);
            assert_eq!(interpret(&program, ARCHITECTURE, number | X32, &[0; 6]), refused);
            assert_eq!(interpret(&program, 0x4000_0003, number, &[0; 6]), refused);
        }
    }

    fn profile() -> Program {
        let json = br#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["read", "write", "open", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"}
            ]}"#;
        compile(json).unwrap().program
    }

    #[test]
    fn a_profile_means_what_it_means_to_runc() {
        let program = profile();
        let call = |number: i64, first: u64| interpret(&program, ARCHITECTURE, number as u32, &[first, 0, 0, 0, 0, 0]);
        let refused = libc::SECCOMP_RET_ERRNO | 38;
        assert_eq!(call(libc::SYS_read, 0), libc::SECCOMP_RET_ALLOW);
        assert_eq!(call(libc::SYS_close, 0), refused);
        assert_eq!(call(libc::SYS_personality, 8), libc::SECCOMP_RET_ALLOW);
        assert_eq!(call(libc::SYS_personality, 0), libc::SECCOMP_RET_ALLOW);
        assert_eq!(call(libc::SYS_personality, 4), refused);
        assert_eq!(call(libc::SYS_clone, libc::SIGCHLD as u64), libc::SECCOMP_RET_ALLOW);
        assert_eq!(call(libc::SYS_clone, libc::CLONE_NEWUSER as u64), refused);
        assert_eq!(call(libc::SYS_ptrace, 0), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(call(100_000, 0), refused);
        assert_eq!(interpret(&program, 0x4000_0003, 1, &[0; 6]), libc::SECCOMP_RET_ALLOW);
    }
}
