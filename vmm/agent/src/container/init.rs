//! The child's side: from a copy of the agent to the container's program.
//!
//! Until its execve(2) this is the agent's own program, running where the container's processes may see it. So it is made undumpable before it
//! enters (nobody but root with `CAP_SYS_PTRACE` looks into it), its descriptors are those of the program and the gate, and the agent's executable is
//! on a file system that is read-only by then (see [`crate::boot`]): /proc/PID/exe of this process leads to it.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use bulkhead_protocol::call::{Code, Refusal};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{chdir, execve, fchown, setsid};
use oci_spec::runtime::{Process, Spec};

use super::gate::{self, Word};
use super::launch::{Entry, Launch};
use super::{credentials, environment, failed, filesystem, internal, invalid, program, text};
use crate::system;

/// What a process says by its exit status when its program could not be executed, as shells do.
const NOT_EXECUTED: i32 = 127;

/// Becomes the process. Returns only where that is not possible: an exit status.
pub fn run(launch: &Launch<'_>, gate: RawFd) -> i32 {
    let Ok((gate, first)) = arrange(launch, gate) else { return NOT_EXECUTED };
    let gate = system::borrow(gate);
    let refusal = match prepare(launch, first) {
        Ok((program, terminal)) => match gate::say(gate, &Word::Ready, terminal.as_ref().map(|terminal| terminal.as_fd())) {
            Ok(()) => {
                drop(terminal);
                execute(launch, program, gate)
            }
            Err(error) => internal(text(error)),
        },
        Err(refusal) => refusal,
    };
    let _ = gate::say(gate, &Word::Failed(refusal), None);
    NOT_EXECUTED
}

/// Puts the program's descriptors where it will look for them, the gate behind them, and closes all others: what the agent has open (other
/// containers' streams among it) must not be kept alive by a process that waits. Gives the numbers of the gate, and of the handle on the container's first
/// process where this one enters by exec.
fn arrange(launch: &Launch<'_>, gate: RawFd) -> nix::Result<(RawFd, Option<RawFd>)> {
    let count = launch.descriptors.len() as RawFd;
    // First out of the way, so that no one is overwritten before it is in its place.
    let above = |descriptor: BorrowedFd<'_>| fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(count + 1));
    let moved = launch.descriptors.iter().map(|descriptor| above(descriptor.as_fd())).collect::<nix::Result<Vec<_>>>()?;
    let gate = above(system::borrow(gate))?;
    let first = match launch.entry {
        Entry::Exec(first) => Some(above(first)?),
        Entry::First { .. } => None,
    };
    for (number, from) in moved.into_iter().enumerate() {
        system::place_descriptor(from, number as RawFd)?;
    }
    system::place_descriptor(gate, count)?;
    fcntl(system::borrow(count), FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok((count, first))
}

/// A program that can be executed.
struct Program {
    path: String,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

/// Everything up to the gate. What needs the container's descriptors alone comes last.
fn prepare(launch: &Launch<'_>, first: Option<RawFd>) -> Result<(Program, Option<OwnedFd>), Refusal> {
    system::default_signals().map_err(failed("signals"))?;
    nix::sys::prctl::set_dumpable(false).map_err(failed("prctl(PR_SET_DUMPABLE)"))?;
    let process = launch.process;
    if let Some(adjustment) = process.oom_score_adj() {
        write("/proc/self/oom_score_adj", &adjustment.to_string()).map_err(|error| invalid(format!("process.oomScoreAdj: {error}")))?;
    }
    match launch.entry {
        Entry::First { plan, cgroup, .. } => {
            cgroup.join().map_err(|error| internal(error.to_string()))?;
            let own = |wanted, flag| if wanted { flag } else { CloneFlags::empty() };
            let flags = own(plan.own_ipc, CloneFlags::CLONE_NEWIPC) | own(plan.own_uts, CloneFlags::CLONE_NEWUTS);
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP | flags).map_err(failed("unshare"))?;
            settings(&plan.spec)?;
            if plan.names {
                name(&plan.spec)?;
            }
            close_others(launch)?;
            filesystem::enter(&plan.layout, &plan.spec)?;
        }
        Entry::Exec(_) => {
            let first = first.map(system::borrow).ok_or_else(|| internal("exec without a container"))?;
            let all = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP;
            setns(first, all).map_err(failed("entering the container's namespaces"))?;
            close_others(launch)?;
        }
    }
    setsid().map_err(failed("setsid"))?;
    let terminal = launch.terminal.map(|size| terminal(size, matches!(launch.entry, Entry::First { .. }), process)).transpose()?;
    if terminal.is_none() {
        own_streams(process);
    }
    credentials::limit(process)?;
    let cwd = process.cwd();
    chdir(cwd).map_err(|error| {
        invalid(format!("chdir to cwd ({:?}) set in config.json failed: {} (process.cwd)", cwd.to_string_lossy(), text(error)))
    })?;
    umask(Mode::from_bits_truncate(process.user().umask().unwrap_or(0o022) & 0o777));
    let environment = environment::complete(process.env().as_deref().unwrap_or_default(), &environment::passwd(), process.user().uid());
    let alone = process.no_new_privileges().unwrap_or(false);
    if alone {
        nix::sys::prctl::set_no_new_privs().map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    } else {
        // It takes CAP_SYS_ADMIN, which is about to go.
        filter(launch)?;
    }
    credentials::assume(process)?;
    let arguments = process.args().clone().filter(|arguments| !arguments.is_empty()).ok_or_else(|| invalid("process.args: empty"))?;
    let path = program::find(&arguments[0], &environment)?;
    let strings = |texts: Vec<String>, field: &str| {
        let string = |text: String| CString::new(text).map_err(|_| invalid(format!("{field}: holds a zero byte")));
        texts.into_iter().map(string).collect::<Result<Vec<_>, _>>()
    };
    let (arguments, environment) = (strings(arguments, "process.args")?, strings(environment, "process.env")?);
    Ok((Program { path, arguments, environment }, terminal))
}

/// Waits to be let go, and executes the program; gives why not.
fn execute(launch: &Launch<'_>, program: Program, gate: BorrowedFd<'_>) -> Refusal {
    let mut go = [0];
    if nix::unistd::read(gate, &mut go) != Ok(1) {
        // The agent has no use for this process any more.
        system::exit(NOT_EXECUTED);
    }
    if launch.process.no_new_privileges().unwrap_or(false)
        && let Err(refusal) = filter(launch)
    {
        return refusal;
    }
    let Ok(path) = CString::new(program.path.as_str()) else { return Refusal::of_execution(&program.path, Errno::ENOENT) };
    let Err(error) = execve(&path, &program.arguments, &program.environment);
    Refusal::of_execution(&program.path, error)
}

fn filter(launch: &Launch<'_>) -> Result<(), Refusal> {
    launch.seccomp.map_or(Ok(()), |profile| system::install_filter(profile).map_err(failed("linux.seccomp")))
}

/// Closes what `arrange` has left: the agent's own descriptors, one of which (a pidfd) was needed to come here.
fn close_others(launch: &Launch<'_>) -> Result<(), Refusal> {
    system::close_from(launch.descriptors.len() as RawFd + 1).map_err(failed("close_range"))
}

fn write(path: &str, value: &str) -> std::io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

/// `linux.sysctl`, by the agent's /proc: what a process writes there is its own namespaces' (network, IPC).
fn settings(spec: &Spec) -> Result<(), Refusal> {
    for (key, value) in spec.linux().iter().filter_map(|linux| linux.sysctl().as_ref()).flatten() {
        // Names of interfaces may hold dots: a name with slashes is taken as it is (sysctl(8)).
        let path = if key.contains('/') { key.clone() } else { key.replace('.', "/") };
        if Path::new(&path).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            return Err(invalid(format!("linux.sysctl: {key:?}: not the name of a sysctl")));
        }
        write(&format!("/proc/sys/{path}"), value).map_err(|error| invalid(format!("linux.sysctl: {key:?}: {error}")))?;
    }
    Ok(())
}

/// `hostname` and `domainname`.
fn name(spec: &Spec) -> Result<(), Refusal> {
    let empty = |name: &&String| !name.is_empty();
    if let Some(name) = spec.hostname().as_ref().filter(empty) {
        nix::unistd::sethostname(name).map_err(|error| invalid(format!("hostname: {name:?}: {}", text(error))))?;
    }
    if let Some(name) = spec.domainname().as_ref().filter(empty) {
        write("/proc/sys/kernel/domainname", name).map_err(|error| invalid(format!("domainname: {name:?}: {error}")))?;
    }
    Ok(())
}

/// Makes a terminal in the container's own devpts, the controlling one of this session and its standard streams. Gives its master.
fn terminal((rows, columns): (u16, u16), first: bool, process: &Process) -> Result<OwnedFd, Refusal> {
    let wrong = |what: &'static str| move |error: Errno| invalid(format!("process.terminal: {what}: {}", text(error)));
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::fcntl::open("/dev/pts/ptmx", flags, Mode::empty()).map_err(wrong("/dev/pts/ptmx"))?;
    let slave = system::open_slave(master.as_fd()).map_err(wrong("opening the terminal"))?;
    if rows != 0 && columns != 0 {
        system::set_window_size(master.as_fd(), rows, columns).map_err(wrong("setting its size"))?;
    }
    fchown(&slave, Some(process.user().uid().into()), None).map_err(wrong("giving it to the user"))?;
    if first {
        let number = system::terminal_number(master.as_fd()).map_err(wrong("its number"))?;
        console(number).map_err(wrong("/dev/console"))?;
    }
    system::control_terminal(slave.as_fd()).map_err(wrong("controlling it"))?;
    for number in 0..3 {
        system::place_descriptor(std::os::fd::AsRawFd::as_raw_fd(&slave), number).map_err(wrong("standard streams"))?;
    }
    Ok(master)
}

/// Mounts the terminal at /dev/console, as runc does.
fn console(number: u32) -> nix::Result<()> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match nix::fcntl::open("/dev/console", flags | OFlag::O_EXCL, Mode::from_bits_truncate(0o600)) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error),
    }
    let tree = system::clone_tree(AT_FDCWD, Path::new(&format!("/dev/pts/{number}")), false)?;
    let place = nix::fcntl::open("/dev/console", OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    system::attach(tree.as_fd(), place.as_fd())
}

/// Gives the standard streams to the user, so that `/dev/stdout` can be opened by it. What can not be given (/dev/null) need not be.
fn own_streams(process: &Process) {
    for number in 0..3 {
        let stream = system::borrow(number);
        if fstat(stream).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO) {
            let _ = fchown(stream, Some(process.user().uid().into()), None);
        }
    }
}

/// A refusal for a process that has ended without a word.
pub fn wordless() -> Refusal {
    Refusal::new(Code::Internal, "the process ended before it was ready")
}
