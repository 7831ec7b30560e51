//! The workload's seccomp filter, compiled from the direct set (seccomp(2)).
//!
//! A classic BPF program: calls by another entry than the 64-bit one (32-bit, x32) are `ENOSYS`; rows of the direct set whose
//! registers match are allowed; everything else is notified. The host caches the rows without an argument filter in a bitmap, so
//! they cost next to nothing (since Linux 5.11).

use super::direct::{Direct, Rule};

/// One BPF instruction (`struct sock_filter`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions skipped where true.
    pub if_true: u8,
    /// Instructions skipped where false.
    pub if_false: u8,
    /// Operand.
    pub operand: u32,
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
const NO_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;
/// `__X32_SYSCALL_BIT`: from here on numbers are x32's.
const X32: u32 = 0x4000_0000;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, operand }
}

fn branch(code: u16, operand: u32, if_true: usize, if_false: usize) -> Instruction {
    Instruction { code, if_true: if_true as u8, if_false: if_false as u8, operand }
}

/// Compiles a table.
pub fn compile(table: &[Direct]) -> Vec<Instruction> {
    let mut program = vec![
        plain(LOAD, ARCHITECTURE),
        branch(EQUAL, X86_64, 1, 0),
        plain(RETURN, NO_CALL),
        plain(LOAD, NUMBER),
        branch(AT_LEAST, X32, 0, 1),
        plain(RETURN, NO_CALL),
    ];
    for row in table {
        let body = body(row.rule);
        program.push(branch(EQUAL, row.number as u32, 0, body.len()));
        program.extend(body);
    }
    program.push(plain(RETURN, NOTIFY));
    program
}

/// What is done once the number has matched; always ends with a return.
fn body(rule: Rule) -> Vec<Instruction> {
    let argument = |index: u8| plain(LOAD, ARGUMENTS + 8 * u32::from(index));
    match rule {
        Rule::Always => vec![plain(RETURN, ALLOW)],
        Rule::OneOf(index, mask, values) => {
            let mut body = vec![argument(index), plain(AND, mask)];
            for (at, value) in values.iter().enumerate() {
                body.push(branch(EQUAL, *value, values.len() - at, 0));
            }
            body.extend([plain(RETURN, NOTIFY), plain(RETURN, ALLOW)]);
            body
        }
        Rule::NoneOf(index, values) => {
            let mut body = vec![argument(index)];
            for (at, value) in values.iter().enumerate() {
                body.push(branch(EQUAL, *value, values.len() - at, 0));
            }
            body.extend([plain(RETURN, ALLOW), plain(RETURN, NOTIFY)]);
            body
        }
        Rule::Bits(index, all, none) => {
            vec![argument(index), plain(AND, all | none), branch(EQUAL, all, 0, 1), plain(RETURN, ALLOW), plain(RETURN, NOTIFY)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::direct::TABLE;
    use super::*;

    /// Runs a program as the host would.
    fn run(program: &[Instruction], number: u32, architecture: u32, arguments: [u64; 6]) -> u32 {
        let (mut at, mut accumulator) = (0usize, 0u32);
        loop {
            let step = program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.if_true } else { step.if_false });
            match step.code {
                LOAD if step.operand == NUMBER => accumulator = number,
                LOAD if step.operand == ARCHITECTURE => accumulator = architecture,
                LOAD => accumulator = arguments[(step.operand - ARGUMENTS) as usize / 8] as u32,
                AND => accumulator &= step.operand,
                EQUAL => at += jump(accumulator == step.operand),
                AT_LEAST => at += jump(accumulator >= step.operand),
                RETURN => return step.operand,
                code => panic!("code {code:#x}"),
            }
        }
    }

    #[test]
    fn only_rows_of_the_table_are_allowed() {
        let program = compile(TABLE);
        assert!(program.len() < 4096);
        for number in 0..0x1000u32 {
            let listed = TABLE.iter().any(|row| row.number == i64::from(number));
            for argument in [0, 1, 3, 6, 0x20, 0x40020, 0x1002, u64::MAX, u64::from(u32::MAX)] {
                let answer = run(&program, number, X86_64, [argument; 6]);
                assert!(answer == NOTIFY || (listed && answer == ALLOW), "{number} {argument:#x}: {answer:#x}");
            }
        }
    }

    #[test]
    fn other_entries_never_execute() {
        let program = compile(TABLE);
        for number in (0..0x600).chain([X32, X32 + 1, X32 | 520, u32::MAX]) {
            assert_eq!(run(&program, number, 0x4000_0003, [0; 6]), NO_CALL);
            if number >= X32 {
                assert_eq!(run(&program, number, X86_64, [0; 6]), NO_CALL);
            }
        }
    }

    #[test]
    fn registers_decide() {
        let program = compile(TABLE);
        let call = |number: i64, index: usize, value: u64| {
            let mut arguments = [0; 6];
            arguments[index] = value;
            run(&program, number as u32, X86_64, arguments)
        };
        assert_eq!(call(libc::SYS_mmap, 3, 0x22), ALLOW);
        assert_eq!(call(libc::SYS_mmap, 3, 0x02), NOTIFY);
        assert_eq!(call(libc::SYS_mmap, 3, 0x22 | libc::MAP_HUGETLB as u64), NOTIFY);
        assert_eq!(call(libc::SYS_mmap, 3, 0x22 | libc::MAP_GROWSDOWN as u64), NOTIFY);
        assert_eq!(call(libc::SYS_futex, 1, 128), ALLOW);
        assert_eq!(call(libc::SYS_futex, 1, 6 | 128), NOTIFY);
        assert_eq!(call(libc::SYS_madvise, 2, 12), NOTIFY);
        assert_eq!(call(libc::SYS_waitid, 0, 3), NOTIFY);
        assert_eq!(call(libc::SYS_waitid, 0, 1), ALLOW);
        assert_eq!(call(libc::SYS_clock_gettime, 0, u64::from(u32::MAX)), NOTIFY);
        assert_eq!(call(libc::SYS_exit_group, 0, 0), NOTIFY);
        assert_eq!(call(libc::SYS_execve, 0, 0), NOTIFY);
    }
}
