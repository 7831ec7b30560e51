//! Seccomp profiles (`linux.seccomp` of config.json), compiled into programs of classic BPF (seccomp(2)) for both walls.
//!
//! Rules mean what they mean to runc (libseccomp): all conditions of a rule must hold, rules for one call are alternatives, names that this
//! architecture does not have are skipped, a rule without conditions is the last word for its calls, and a rule whose action is the default one says
//! nothing.
//!
//! Most profiles list hundreds of calls one by one; numbers that follow each other and share an action become one interval, and the
//! program looks for the interval.
//!
//! Only this architecture's numbers are known. What becomes of the two other ways into the kernel, the 32-bit entry (`int 0x80`, another
//! architecture to seccomp) and the x32 numbers (bit 30), the caller says: a wall whose own filter ends them lets them through here; where the
//! profile is the only filter they must not be a way around it.

use serde::Deserialize;

use crate::system_calls;

/// One instruction (`struct sock_filter`).
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

/// A program, as seccomp(2) takes it.
pub type Program = Vec<Instruction>;

/// `AUDIT_ARCH_X86_64` (linux/audit.h).
pub const ARCHITECTURE: u32 = 0xc000_003e;
/// `__X32_SYSCALL_BIT` (asm/unistd.h).
pub const X32: u32 = 0x4000_0000;
/// All numbers are below.
const NUMBERS: usize = 512;

/// One that does not jump.
pub fn statement(code: u32, operand: u32) -> Instruction {
    Instruction { code: code as u16, if_true: 0, if_false: 0, operand }
}

/// A conditional jump over `if_true` or `if_false` instructions.
pub fn jump(test: u32, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, if_true, if_false, operand }
}

/// Loads a word of `struct seccomp_data`.
pub fn load(at: u32) -> Instruction {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at)
}

/// Ends the program.
pub fn give(action: u32) -> Instruction {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

/// A compiled profile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// The program.
    pub program: Program,
    /// `SECCOMP_FILTER_FLAG_*` for seccomp(2). Never `NEW_LISTENER`.
    pub flags: u32,
}

/// `linux.seccomp`, as far as it is compiled here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    flags: Vec<String>,
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Vec<Syscalls>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not the JSON of the runtime specification.
    #[error("linux.seccomp: {0}")]
    Malformed(#[from] serde_json::Error),
    /// An action that does not exist, or that needs a listener.
    #[error("linux.seccomp: action {0:?}: not supported")]
    Action(String),
    /// A flag that does not exist, or that is not ours to give.
    #[error("linux.seccomp.flags: {0:?}: not supported")]
    Flag(String),
    /// A comparison that does not exist.
    #[error("linux.seccomp.syscalls[].args[].op: {0:?}: unknown")]
    Operator(String),
    /// A system call has six arguments.
    #[error("linux.seccomp.syscalls[].args[].index: {0}: not below 6")]
    Index(u32),
    /// The wall has the one listener that a process may have.
    #[error("linux.seccomp.listenerPath: not supported: the wall has the one listener that a process may have")]
    Listener,
    /// The kernel takes 4096 instructions.
    #[error("linux.seccomp: {0} instructions are more than the kernel takes")]
    TooLong(usize),
}

/// One comparison of an argument with a constant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Condition {
    argument: u32,
    operator: Operator,
    value: u64,
    second: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// `argument & value == second`.
    MaskedEqual,
}

const OPERATORS: &[(&str, Operator)] = &[
    ("SCMP_CMP_NE", Operator::NotEqual),
    ("SCMP_CMP_LT", Operator::Less),
    ("SCMP_CMP_LE", Operator::LessOrEqual),
    ("SCMP_CMP_EQ", Operator::Equal),
    ("SCMP_CMP_GE", Operator::GreaterOrEqual),
    ("SCMP_CMP_GT", Operator::Greater),
    ("SCMP_CMP_MASKED_EQ", Operator::MaskedEqual),
];

const FLAGS: &[(&str, libc::c_ulong)] = &[
    ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC),
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
];

/// What happens to one call number.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Decision {
    /// In order: the first whose conditions all hold.
    conditional: Vec<(Vec<Condition>, u32)>,
    otherwise: u32,
}

/// Compiles the JSON of `linux.seccomp`. `others` is what happens to calls by other architectures' numbers, for which there is no table here.
///
/// # Errors
/// The field that can not be compiled.
pub fn compile(json: &[u8], others: u32) -> Result<Profile, ProfileError> {
    let profile: Seccomp = serde_json::from_slice(json)?;
    if profile.listener_path.is_some_and(|path| !path.is_empty()) {
        return Err(ProfileError::Listener);
    }
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut decisions = vec![Decision { conditional: Vec::new(), otherwise: default }; NUMBERS];
    for rule in &profile.syscalls {
        let action = action(&rule.action, rule.errno_ret)?;
        let conditions = rule.args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        if action == default {
            continue;
        }
        for number in rule.names.iter().filter_map(|name| system_calls::number(name)) {
            let Some(decision) = decisions.get_mut(number as usize) else { continue };
            if conditions.is_empty() {
                decision.otherwise = action;
            } else {
                decision.conditional.extend(alternatives(&conditions).into_iter().map(|conditions| (conditions, action)));
            }
        }
    }
    let flags = profile.flags.iter().try_fold(0, |flags, name| {
        let flag = FLAGS.iter().find(|row| row.0 == name).ok_or_else(|| ProfileError::Flag(name.clone()))?;
        Ok::<_, ProfileError>(flags | flag.1 as u32)
    })?;
    let program = assemble(&decisions, default, others);
    if program.len() > libc::BPF_MAXINSNS as usize { Err(ProfileError::TooLong(program.len())) } else { Ok(Profile { program, flags }) }
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, ProfileError> {
    // The kernel cuts larger numbers to MAX_ERRNO.
    let errno = errno.unwrap_or(libc::EPERM as u32).min(4095);
    match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(libc::SECCOMP_RET_KILL_THREAD),
        "SCMP_ACT_KILL_PROCESS" => Ok(libc::SECCOMP_RET_KILL_PROCESS),
        "SCMP_ACT_TRAP" => Ok(libc::SECCOMP_RET_TRAP),
        "SCMP_ACT_ERRNO" => Ok(libc::SECCOMP_RET_ERRNO | errno),
        "SCMP_ACT_TRACE" => Ok(libc::SECCOMP_RET_TRACE | errno),
        "SCMP_ACT_LOG" => Ok(libc::SECCOMP_RET_LOG),
        "SCMP_ACT_ALLOW" => Ok(libc::SECCOMP_RET_ALLOW),
        other => Err(ProfileError::Action(other.to_owned())),
    }
}

fn condition(argument: &Argument) -> Result<Condition, ProfileError> {
    let operator = OPERATORS.iter().find(|row| row.0 == argument.op).ok_or_else(|| ProfileError::Operator(argument.op.clone()))?.1;
    if argument.index > 5 {
        return Err(ProfileError::Index(argument.index));
    }
    Ok(Condition { argument: argument.index, operator, value: argument.value, second: argument.value_two })
}

/// Two conditions on one argument are alternatives, as runc has it; on different arguments all must hold.
fn alternatives(conditions: &[Condition]) -> Vec<Vec<Condition>> {
    let repeated = conditions.iter().enumerate().any(|(index, one)| conditions[..index].iter().any(|other| other.argument == one.argument));
    if repeated { conditions.iter().map(|condition| vec![*condition]).collect() } else { vec![conditions.to_vec()] }
}

fn assemble(decisions: &[Decision], default: u32, others: u32) -> Program {
    let mut program = vec![load(4), jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0), give(others), load(0)];
    if others != libc::SECCOMP_RET_ALLOW {
        program.extend([jump(libc::BPF_JSET, X32, 0, 1), give(others)]);
    }
    let mut start = 0;
    while start < decisions.len() {
        let length = decisions[start..].iter().take_while(|decision| **decision == decisions[start]).count();
        let body = body(&decisions[start]);
        // Behind the interval: on to the next one, over the body.
        program.push(jump(libc::BPF_JGE, (start + length) as u32, 0, 1));
        program.push(statement(libc::BPF_JMP | libc::BPF_JA, body.len() as u32));
        program.extend(body);
        start += length;
    }
    program.push(give(default));
    program
}

fn body(decision: &Decision) -> Program {
    let mut body = Vec::new();
    for (conditions, action) in &decision.conditional {
        let mut rest = vec![give(*action)];
        for condition in conditions.iter().rev() {
            let mut test = compare(condition, rest.len());
            test.extend(rest);
            rest = test;
        }
        body.extend(rest);
    }
    body.push(give(decision.otherwise));
    body
}

/// Goes on behind itself where the condition holds, else jumps over `rest` more instructions. Registers have 64 bits, the machine's
/// accumulator has 32: the upper half decides unless it is equal.
fn compare(condition: &Condition, rest: usize) -> Vec<Instruction> {
    let low = load(16 + 8 * condition.argument);
    let high = load(20 + 8 * condition.argument);
    let (value_low, value_high) = (condition.value as u32, (condition.value >> 32) as u32);
    // At most six conditions of at most seven instructions follow: a byte holds every distance.
    let fail = |behind: usize| (rest + behind) as u8;
    // Is the argument above the value (or equal, as `test` says)? The upper halves decide unless they are equal.
    let above = |test: u32| {
        vec![
            high,
            jump(libc::BPF_JGT, value_high, 3, 0),
            jump(libc::BPF_JEQ, value_high, 0, fail(2)),
            low,
            jump(test, value_low, 0, fail(0)),
        ]
    };
    let not_above = |test: u32| {
        vec![
            high,
            jump(libc::BPF_JGT, value_high, fail(3), 0),
            jump(libc::BPF_JEQ, value_high, 0, 2),
            low,
            jump(test, value_low, fail(0), 0),
        ]
    };
    match condition.operator {
        Operator::Equal => vec![high, jump(libc::BPF_JEQ, value_high, 0, fail(2)), low, jump(libc::BPF_JEQ, value_low, 0, fail(0))],
        Operator::NotEqual => vec![high, jump(libc::BPF_JEQ, value_high, 0, 2), low, jump(libc::BPF_JEQ, value_low, fail(0), 0)],
        Operator::Greater => above(libc::BPF_JGT),
        Operator::GreaterOrEqual => above(libc::BPF_JGE),
        Operator::LessOrEqual => not_above(libc::BPF_JGT),
        Operator::Less => not_above(libc::BPF_JGE),
        Operator::MaskedEqual => {
            let (second_low, second_high) = (condition.second as u32, (condition.second >> 32) as u32);
            let and = |mask: u32| statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask);
            vec![
                high,
                and(value_high),
                jump(libc::BPF_JEQ, second_high, 0, fail(3)),
                low,
                and(value_low),
                jump(libc::BPF_JEQ, second_low, 0, fail(0)),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_json_is_compiled_or_refused(text in "\\PC{0,200}") {
            let _ = compile(text.as_bytes(), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[test]
    fn errors_name_the_field_and_the_value() {
        let error = |json: &str| compile(json.as_bytes(), libc::SECCOMP_RET_ALLOW).unwrap_err().to_string();
        assert!(error(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).contains("SCMP_ACT_NOTIFY"));
        assert!(error(r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}"#).contains("linux.seccomp.flags: \"X\""));
        assert!(error(r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}"#).contains("listenerPath"));
        let rule = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#;
        assert!(error(rule).contains("index: 6"));
    }
}
