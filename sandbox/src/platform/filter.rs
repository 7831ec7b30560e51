//! The workload's seccomp filter: the direct set, compiled.
//!
//! A program of classic BPF (seccomp(2)) runs before every system call of every workload thread, and says one of three things:
//!
//! * `ALLOW`, for a row of [`direct::TABLE`] whose condition holds;
//! * `USER_NOTIF`, for everything else: the kernel answers;
//! * `ENOSYS`, for the two other ways into the host's kernel: the 32-bit entry (`int 0x80`, another architecture to seccomp) and the x32
//!   numbers (bit 30). Their call numbers mean something else, and nothing here speaks their ABI.
//!
//! It is assembled here rather than with the `seccompiler` crate, because that crate can say neither "this bit is set and that is not"
//! of one argument in one row nor treat the other architectures apart. Calls without a condition cost the host nothing: since
//! Linux 5.11 it remembers which numbers the program always allows.

pub use bulkhead_protocol::seccomp::{ARCHITECTURE, Instruction, Program, X32};
use bulkhead_protocol::seccomp::{give, jump, load, statement};

use super::direct::{self, Condition};

// Where things are in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// The filter of every workload process.
pub fn workload() -> Program {
    let mut program = vec![
        load(ARCHITECTURE_AT),
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        give(ENOSYS),
        load(NUMBER_AT),
        jump(libc::BPF_JSET, X32, 0, 1),
        give(ENOSYS),
    ];
    for row in direct::TABLE {
        let allowed = match row.only {
            None => vec![give(libc::SECCOMP_RET_ALLOW)],
            Some(condition) => compile(condition),
        };
        program.push(jump(libc::BPF_JEQ, row.number as u32, 0, allowed.len() as u8));
        program.extend(allowed);
    }
    program.push(give(libc::SECCOMP_RET_USER_NOTIF));
    program
}

/// Decides by a condition: always ends the program.
fn compile(condition: Condition) -> Program {
    let low = |argument: u32| load(ARGUMENTS_AT + 8 * argument);
    let high = |argument: u32| load(ARGUMENTS_AT + 8 * argument + 4);
    let mut body = Vec::new();
    match condition {
        Condition::OneOf { argument, ignored, values } => {
            body.push(low(argument));
            body.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, !ignored));
            for (index, &value) in values.iter().enumerate() {
                // To the ALLOW behind the USER_NOTIF that follows the last test.
                body.push(jump(libc::BPF_JEQ, value, (values.len() - index) as u8, 0));
            }
            body.push(give(libc::SECCOMP_RET_USER_NOTIF));
            body.push(give(libc::SECCOMP_RET_ALLOW));
        }
        Condition::Flags { argument, set, clear } => {
            body.push(high(argument));
            body.push(jump(libc::BPF_JEQ, 0, 0, 3));
            body.push(low(argument));
            body.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, set | clear));
            body.push(jump(libc::BPF_JEQ, set, 1, 0));
            body.push(give(libc::SECCOMP_RET_USER_NOTIF));
            body.push(give(libc::SECCOMP_RET_ALLOW));
        }
    }
    body
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the host does with a program: an interpreter of the instructions used here.
    pub(in crate::platform) fn interpret(program: &[Instruction], architecture: u32, number: u32, arguments: &[u64; 6]) -> u32 {
        let word = |at: u32| match at {
            0 => number,
            4 => architecture,
            16..64 => (arguments[(at as usize - 16) / 8] >> (8 * (at % 8))) as u32,
            _ => panic!("load at {at}"),
        };
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let instruction = program[at];
            at += 1;
            let code = u32::from(instruction.code);
            let taken = match code {
                _ if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    accumulator = word(instruction.operand);
                    continue;
                }
                _ if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => {
                    accumulator &= instruction.operand;
                    continue;
                }
                _ if code == libc::BPF_RET | libc::BPF_K => return instruction.operand,
                _ if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => accumulator == instruction.operand,
                _ if code == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => accumulator & instruction.operand != 0,
                _ if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => accumulator > instruction.operand,
                _ if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => accumulator >= instruction.operand,
                _ if code == libc::BPF_JMP | libc::BPF_JA => {
                    at += instruction.operand as usize;
                    continue;
                }
                _ => panic!("instruction {code:#x}"),
            };
            at += usize::from(if taken { instruction.if_true } else { instruction.if_false });
        }
    }

    fn expected(number: u32, arguments: &[u64; 6]) -> u32 {
        if direct::is_direct(i64::from(number), arguments) { libc::SECCOMP_RET_ALLOW } else { libc::SECCOMP_RET_USER_NOTIF }
    }

    #[test]
    fn the_program_says_what_the_table_says() {
        let program = workload();
        assert!(program.len() < 4096);
        for number in 0..2048 {
            for arguments in [[0; 6], [1; 6], [0x22; 6], [0x4_0022; 6], [u64::MAX; 6], [1 << 32; 6], [0x1_0000_0022; 6]] {
                assert_eq!(interpret(&program, ARCHITECTURE, number, &arguments), expected(number, &arguments), "{number} {arguments:x?}");
            }
        }
    }

    #[test]
    fn other_entries_are_not_there() {
        let program = workload();
        for number in 0..1024 {
            assert_eq!(interpret(&program, 0x4000_0003, number, &[0; 6]), ENOSYS, "i386 {number}");
            assert_eq!(interpret(&program, ARCHITECTURE, number | X32, &[0; 6]), ENOSYS, "x32 {number}");
        }
        assert_eq!(interpret(&program, ARCHITECTURE, u32::MAX, &[0; 6]), ENOSYS);
    }

    proptest! {
        #[test]
        fn any_call_is_judged_by_the_table(number in 0u32..512, arguments in any::<[u64; 6]>()) {
            prop_assert_eq!(interpret(&workload(), ARCHITECTURE, number, &arguments), expected(number, &arguments));
        }

        #[test]
        fn small_arguments_are_judged_by_the_table(
            row in 0..direct::TABLE.len(), arguments in proptest::array::uniform6(0u64..0x80_000),
        ) {
            let number = direct::TABLE[row].number as u32;
            prop_assert_eq!(interpret(&workload(), ARCHITECTURE, number, &arguments), expected(number, &arguments));
        }
    }
}
