//! Taking pending signals off a thread's queue: what a read of a signalfd(2) is.
//!
//! Signals are the host's. Which are pending is in `/proc/TID/status`; taking one off the queue is for the thread itself to do, with
//! rt_sigtimedwait(2), the one call that takes a *blocked* signal without ever unblocking it. So the reading thread is seized (ptrace(2)) and its
//! call answered; on its way out it is stopped, made to execute rt_sigtimedwait in place of its read as often as there are signals to take, and let
//! go with what the read gives. The host fills in a `siginfo_t`, which becomes a `struct signalfd_siginfo` here.
//!
//! Meanwhile the thread has all signals blocked, so that no handler runs in between: a signal that comes is delivered when it is let go. The 128
//! bytes for the `siginfo_t`, which also hold the set and the time-out until it is written, are the reader's own buffer. A racing thread that
//! scribbles there changes which of *its own* signals are taken, and what is said of them; the time-out cannot keep the tracer, since an interrupt
//! is pending before the host looks at it. Where the thread is found anywhere else than in the call it was given, it is killed.
//!
//! Where a seccomp filter of the workload's own forbids rt_sigtimedwait, the read fails as that does.

use std::collections::VecDeque;
use std::sync::Arc;

use super::container::Container;
use super::fork;
use super::task::{Pid, Process, Thread};
use crate::errno::{Errno, Result};
use crate::platform::dispatch::dispatcher;
use crate::platform::memory::{Address, Memory, Segments};
use crate::platform::process::{self, Registers, Status};
use crate::sync::Mutex;
use crate::syscalls::Call;
use crate::vfs::file::Sink;

/// The size of a `siginfo_t` and of a `struct signalfd_siginfo`, bytes.
pub const SIZE: usize = 128;
/// How a stop at a system call's entry or exit shows, with `PTRACE_O_TRACESYSGOOD`.
const AT_CALL: i32 = libc::SIGTRAP | 0x80;
/// What the `syscall` instruction takes.
const INSTRUCTION: u64 = 2;
/// The red zone below a thread's stack pointer (System V ABI), and room for a `siginfo_t` below that.
const BELOW_STACK: u64 = 128 + 256;

/// A `siginfo_t` as the host lays it out.
pub type Information = [i32; SIZE / 4];

/// The signals of `mask` that wait for this thread or its process.
pub fn pending(thread: Pid, mask: u64) -> u64 {
    Status::read(thread).map_or(0, |status| (status.pending | status.shared_pending) & mask)
}

/// Takes what is pending of `mask`, as much as `into` has room for, and answers the call with it. Where another thread has been faster the call is
/// made again. Waits for the host: on a thread of its own.
pub fn take(call: &Call, mask: u64, into: Segments) {
    let tid = call.thread.tid;
    if let Err(error) = process::trace(libc::PTRACE_SEIZE, tid, 0, (libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD) as u64) {
        dispatcher().listener().answer(call.id, Err(error));
        return;
    }
    let taken = process::trace(libc::PTRACE_INTERRUPT, tid, 0, 0).and_then(|()| {
        dispatcher().listener().answer(call.id, Ok(0));
        let mut taking = Taking::begin(call)?;
        taking.run(mask, into)?;
        Ok(taking.stop)
    });
    match taken {
        Ok(stop) => {
            let _ = process::trace(libc::PTRACE_DETACH, tid, 0, 0);
            if stop {
                let _ = process::kill(call.process.pid.0, libc::SIGSTOP);
            }
        }
        // It is gone: another thread of its process has executed a program and may have its number, or all of it ends.
        Err(_) if !process::is_traced(tid) => {}
        // It is where it must not be.
        Err(_) => drop(process::kill(call.process.pid.0, libc::SIGKILL)),
    }
}

/// A reader that is held.
struct Taking<'a> {
    call: &'a Call,
    /// As it would have left its call.
    registers: Registers,
    /// Its own mask.
    blocked: u64,
    /// `SIGSTOP`, which cannot be blocked, came meanwhile: it is sent again once the reader is let go.
    stop: bool,
}

impl<'a> Taking<'a> {
    /// Waits for the reader on its way out of its call, and blocks its signals.
    fn begin(call: &'a Call) -> Result<Taking<'a>> {
        let tid = call.thread.tid;
        stopped(tid)?;
        let taking = Taking { call, registers: process::registers(tid)?, blocked: process::signal_mask(tid)?, stop: false };
        process::set_signal_mask(tid, u64::MAX)?;
        Ok(taking)
    }

    fn run(&mut self, mask: u64, mut into: Segments) -> Result<()> {
        let tid = self.call.thread.tid;
        let mut total = 0;
        let mut failure = None;
        while into.remaining() >= SIZE && pending(tid, mask) != 0 {
            let at = self.room(&into);
            match self.take_one(mask, at)? {
                Ok(information) => {
                    let container = &self.call.process.container;
                    if let Err(error) = into.put(&encode(&information, |pid| user_of(container, pid))) {
                        failure = Some(error);
                        break;
                    }
                    total += SIZE;
                }
                // Somebody else has taken it.
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let mut after = self.registers;
        match failure {
            Some(Errno(number)) if total == 0 => after.rax = (-i64::from(number)) as u64,
            None if total == 0 => {
                // Back to the call itself, which looks anew.
                after.rax = self.call.number as u64;
                after.rip = self.registers.rip - INSTRUCTION;
            }
            _ => after.rax = total as u64,
        }
        after.orig_rax = u64::MAX;
        process::set_registers(tid, &after)?;
        process::set_signal_mask(tid, self.blocked)
    }

    /// Where the host may write: the front of the reader's buffer, or below its stack where the first segment is too short.
    fn room(&self, into: &Segments) -> Address {
        match into.first() {
            Some((at, length)) if length >= SIZE => at,
            _ => Address(self.registers.rsp.wrapping_sub(BELOW_STACK) & !15),
        }
    }

    /// Has the reader execute rt_sigtimedwait once. The outer error: it is not where it should be.
    fn take_one(&mut self, mask: u64, at: Address) -> Result<Result<Information>> {
        let tid = self.call.thread.tid;
        let memory = Memory::of(tid);
        // The set, and a time-out of zero.
        if let Err(error) = memory.write_value(at, &[mask, 0, 0]) {
            return Ok(Err(error));
        }
        let given = Registers {
            rip: self.registers.rip - INSTRUCTION,
            rax: libc::SYS_rt_sigtimedwait as u64,
            orig_rax: u64::MAX,
            rdi: at.0,
            rsi: at.0,
            rdx: at.offset(8)?.0,
            r10: 8,
            ..self.registers
        };
        process::set_registers(tid, &given)?;
        self.resume_to_call()?;
        let entered = process::registers(tid)?;
        if entered.orig_rax != given.rax || entered.rdi != given.rdi || entered.rip != self.registers.rip {
            return Err(Errno::ESRCH);
        }
        process::trace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
        self.resume_to_call()?;
        let result = process::registers(tid)?.rax as i64;
        if result <= 0 {
            return Ok(Err(Errno(-result as i32)));
        }
        Ok(memory.read_value(at))
    }

    /// Lets the reader run up to the next entry or exit of a call.
    fn resume_to_call(&mut self) -> Result<()> {
        let tid = self.call.thread.tid;
        loop {
            process::trace(libc::PTRACE_SYSCALL, tid, 0, 0)?;
            let status = stopped(tid)?;
            match libc::WSTOPSIG(status) {
                AT_CALL => return Ok(()),
                libc::SIGSTOP if status >> 16 == 0 => self.stop = true,
                _ => {}
            }
        }
    }
}

/// Waits for the next stop. `ESRCH` where the thread ends instead.
fn stopped(tid: Pid) -> Result<i32> {
    let status = process::wait_traced(tid)?;
    if libc::WIFSTOPPED(status) { Ok(status) } else { Err(Errno::ESRCH) }
}

/// What `si_uid` says natively of every process of a workload: they are nobody there.
const NOBODY: i32 = 65534;

/// Which members a `siginfo_t` has (siginfo_layout() in kernel/signal.c).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layout {
    Kill,
    Timer,
    Poll,
    Fault,
    Child,
    Queue,
    Call,
}

impl Layout {
    fn of(signal: i32, code: i32) -> Layout {
        /// `SI_KERNEL`, `SI_TIMER`, `SI_SIGIO` and the last code of SIGPOLL (include/uapi/asm-generic/siginfo.h).
        const KERNEL: i32 = 0x80;
        const TIMER: i32 = -2;
        const SIGIO: i32 = -5;
        const POLLS: i32 = 6;
        match (signal, code) {
            (libc::SIGILL, 1..=11) | (libc::SIGFPE, 1..=15) | (libc::SIGSEGV, 1..=10) | (libc::SIGBUS, 1..=5) | (libc::SIGTRAP, 1..=6) => {
                Layout::Fault
            }
            (libc::SIGCHLD, 1..=6) => Layout::Child,
            (libc::SIGSYS, 1..=2) => Layout::Call,
            (_, 1..=POLLS) => Layout::Poll,
            (_, 0 | 1..KERNEL) | (_, KERNEL..) => Layout::Kill,
            (_, TIMER) => Layout::Timer,
            (_, SIGIO) => Layout::Poll,
            _ => Layout::Queue,
        }
    }
}

/// A `struct signalfd_siginfo` of a `siginfo_t` (signalfd_copyinfo() in fs/signalfd.c). `user`: whose a process is, as far as that is known.
pub fn encode(information: &Information, user: impl Fn(i32) -> Option<u32>) -> [u8; SIZE] {
    let mut bytes = [0u8; SIZE];
    let mut put = |at: usize, words: &[i32]| {
        for (index, word) in words.iter().enumerate() {
            bytes[at + 4 * index..at + 4 * index + 4].copy_from_slice(&word.to_ne_bytes());
        }
    };
    let [signal, error, code, _, a, b, c, d, e, f, g, h, ..] = *information;
    put(0, &[signal, error, code]);
    let uid = if b == NOBODY { user(a).map_or(b, |uid| uid as i32) } else { b };
    // Offsets: ssi_pid 12, ssi_uid 16, ssi_fd 20, ssi_tid 24, ssi_band 28, ssi_overrun 32, ssi_status 40, ssi_int 44, ssi_ptr 48, ssi_utime 56,
    // ssi_stime 64, ssi_addr 72, ssi_addr_lsb 80, ssi_syscall 84, ssi_call_addr 88, ssi_arch 96.
    match Layout::of(signal, code) {
        Layout::Kill => put(12, &[a, uid]),
        Layout::Timer => {
            put(24, &[a]);
            put(32, &[b]);
            put(44, &[c, c, d]);
        }
        Layout::Poll => {
            put(28, &[a]);
            put(20, &[c]);
        }
        Layout::Fault => put(72, &[a, b]),
        Layout::Child => {
            put(12, &[a, uid]);
            put(40, &[c]);
            put(56, &[e, f, g, h]);
        }
        Layout::Queue => {
            put(12, &[a, uid]);
            put(44, &[c, c, d]);
        }
        Layout::Call => {
            put(88, &[a, b]);
            put(84, &[c]);
            put(96, &[d]);
        }
    }
    bytes
}

/// Whose the processes were that ended last, by container and number there: a signal outlives its sender.
static ENDED: Mutex<VecDeque<(usize, i32, u32)>> = Mutex::new(VecDeque::new());
/// How many are remembered.
const REMEMBERED: usize = 256;

fn real_user(process: &Process) -> Option<u32> {
    process.threads.lock().first().map(|thread: &Arc<Thread>| thread.credentials.read().uid)
}

/// A process has ended.
pub fn remember(process: &Process) {
    let Some(uid) = real_user(process) else { return };
    let mut ended = ENDED.lock();
    if ended.len() == REMEMBERED {
        ended.pop_front();
    }
    ended.push_back((Arc::as_ptr(&process.container) as usize, process.inner, uid));
}

/// The real user of a process of this container, living or lately dead.
fn user_of(container: &Arc<Container>, inner: i32) -> Option<u32> {
    if inner == 0 {
        return None;
    }
    if let Some(process) = fork::find(container, inner) {
        return real_user(&process);
    }
    let own = Arc::as_ptr(container) as usize;
    ENDED.lock().iter().rev().find(|(place, number, _)| *place == own && *number == inner).map(|(_, _, uid)| *uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8; SIZE], at: usize) -> i32 {
        i32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn information(words: &[i32]) -> Information {
        let mut all = [0; SIZE / 4];
        all[..words.len()].copy_from_slice(words);
        all
    }

    #[test]
    fn each_kind_of_signal_says_what_it_has() {
        let unknown = |_| None;
        let killed = encode(&information(&[10, 0, 0, 0, 7, NOBODY]), |pid| (pid == 7).then_some(1000));
        assert_eq!((word(&killed, 0), word(&killed, 12), word(&killed, 16)), (10, 7, 1000));
        let queued = encode(&information(&[34, 0, -1, 0, 7, 5, 0x11, 0x22]), unknown);
        assert_eq!(
            (word(&queued, 8), word(&queued, 16), word(&queued, 44), word(&queued, 48), word(&queued, 52)),
            (-1, 5, 0x11, 0x11, 0x22)
        );
        let child = encode(&information(&[libc::SIGCHLD, 0, 1, 0, 9, 0, 3, 0, 1, 0, 2, 0]), unknown);
        assert_eq!((word(&child, 12), word(&child, 40), word(&child, 56), word(&child, 64)), (9, 3, 1, 2));
        let timer = encode(&information(&[14, 0, -2, 0, 4, 2, 6, 0]), unknown);
        assert_eq!((word(&timer, 24), word(&timer, 32), word(&timer, 44)), (4, 2, 6));
        let input = encode(&information(&[libc::SIGIO, 0, 1, 0, 0x41, 0, 5]), unknown);
        assert_eq!((word(&input, 28), word(&input, 20)), (0x41, 5));
        let refused = encode(&information(&[libc::SIGSYS, 0, 1, 0, 0x1000, 0, 39, 7]), unknown);
        assert_eq!((word(&refused, 88), word(&refused, 84), word(&refused, 96)), (0x1000, 39, 7));
    }

    proptest::proptest! {
        #[test]
        fn any_words_are_encoded(words in proptest::array::uniform32(proptest::prelude::any::<i32>())) {
            let bytes = encode(&words, |_| Some(0));
            proptest::prop_assert_eq!(word(&bytes, 0), words[0]);
            // What is behind the last member stays zero.
            proptest::prop_assert!(bytes[100..].iter().all(|byte| *byte == 0));
        }
    }
}
