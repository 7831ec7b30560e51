//! What the arguments of the calls are that people look for in a trace: one table.

use super::super::Argument::{self, Descriptor, Directory, Hex, Number, Octal, Path, Pointer, Signal};
use super::flags::{self, Names};

/// How an argument is shown.
#[derive(Clone, Copy)]
pub enum Shape {
    /// As the call's own table has it.
    Plain(Argument),
    /// Bits with names.
    Flags(Names),
    /// One value with a name.
    Choice(Names),
    /// open(2)'s flags, access mode first.
    Open,
    /// The mode of a new file, where the flags in that argument make one.
    OpenMode(usize),
    /// clone(2)'s flags with the signal in their low byte.
    CloneFlags,
    /// A socket's type with its flags.
    SocketType,
    /// A buffer with what the caller gives; its length is that argument.
    Given(usize),
    /// A buffer that the call fills: as much as it returns.
    Filled,
    /// The same, whose room is that argument.
    Target(usize),
    /// A socket address whose length is that argument.
    SocketAddress(usize),
    /// A list of strings.
    Strings,
    /// Two descriptors that the call gives.
    Descriptors,
}

use Shape::{Choice, CloneFlags, Descriptors, Filled, Flags, Given, Open, OpenMode, Plain, SocketAddress, SocketType, Strings, Target};

const FD: Shape = Plain(Descriptor);
const AT: Shape = Plain(Directory);
const PATH: Shape = Plain(Path);
const NUMBER: Shape = Plain(Number);
const POINTER: Shape = Plain(Pointer);
const MODE: Shape = Plain(Octal);
const HEX: Shape = Plain(Hex);
const SIGNAL: Shape = Plain(Signal);

/// The table. Trailing arguments that are not there are not shown.
const TABLE: &[(i64, &[Shape])] = &[
    (libc::SYS_open, &[PATH, Open, OpenMode(1)]),
    (libc::SYS_openat, &[AT, PATH, Open, OpenMode(2)]),
    (libc::SYS_read, &[FD, Filled, NUMBER]),
    (libc::SYS_pread64, &[FD, Filled, NUMBER, NUMBER]),
    (libc::SYS_write, &[FD, Given(2), NUMBER]),
    (libc::SYS_pwrite64, &[FD, Given(2), NUMBER, NUMBER]),
    (libc::SYS_lseek, &[FD, NUMBER, Choice(flags::WHENCE)]),
    (libc::SYS_access, &[PATH, Flags(flags::ACCESS)]),
    (libc::SYS_faccessat, &[AT, PATH, Flags(flags::ACCESS)]),
    (libc::SYS_faccessat2, &[AT, PATH, Flags(flags::ACCESS), Flags(flags::AT)]),
    (libc::SYS_newfstatat, &[AT, PATH, POINTER, Flags(flags::AT)]),
    (libc::SYS_statx, &[AT, PATH, Flags(flags::AT), HEX, POINTER]),
    (libc::SYS_unlinkat, &[AT, PATH, Flags(flags::UNLINK)]),
    (libc::SYS_linkat, &[AT, PATH, AT, PATH, Flags(flags::AT)]),
    (libc::SYS_renameat2, &[AT, PATH, AT, PATH, Flags(flags::RENAME)]),
    (libc::SYS_readlink, &[PATH, Target(2), NUMBER]),
    (libc::SYS_readlinkat, &[AT, PATH, Target(3), NUMBER]),
    (libc::SYS_getcwd, &[Filled, NUMBER]),
    (libc::SYS_fchmodat, &[AT, PATH, MODE]),
    (libc::SYS_fchownat, &[AT, PATH, NUMBER, NUMBER, Flags(flags::AT)]),
    (libc::SYS_utimensat, &[AT, PATH, POINTER, Flags(flags::AT)]),
    (libc::SYS_fcntl, &[FD, Choice(flags::FCNTL), HEX]),
    (libc::SYS_ioctl, &[FD, Choice(flags::IOCTL), HEX]),
    (libc::SYS_flock, &[FD, Flags(flags::FLOCK)]),
    (libc::SYS_pipe, &[Descriptors]),
    (libc::SYS_pipe2, &[Descriptors, Flags(flags::DESCRIPTOR)]),
    (libc::SYS_dup3, &[FD, FD, Flags(flags::DESCRIPTOR)]),
    (libc::SYS_eventfd2, &[NUMBER, Flags(flags::EVENT)]),
    (libc::SYS_epoll_create1, &[Flags(flags::DESCRIPTOR)]),
    (libc::SYS_epoll_ctl, &[FD, Choice(flags::EPOLL), FD, POINTER]),
    (libc::SYS_timerfd_create, &[Choice(flags::CLOCKS), Flags(flags::DESCRIPTOR)]),
    (libc::SYS_memfd_create, &[PATH, Flags(flags::MEMORY)]),
    (libc::SYS_mmap, &[POINTER, NUMBER, Flags(flags::PROTECTION), Flags(flags::MAP), FD, HEX]),
    (libc::SYS_clone, &[CloneFlags, POINTER, POINTER, POINTER, HEX]),
    (libc::SYS_execve, &[PATH, Strings, POINTER]),
    (libc::SYS_execveat, &[AT, PATH, Strings, POINTER, Flags(flags::AT)]),
    (libc::SYS_kill, &[NUMBER, SIGNAL]),
    (libc::SYS_tkill, &[NUMBER, SIGNAL]),
    (libc::SYS_tgkill, &[NUMBER, NUMBER, SIGNAL]),
    (libc::SYS_socket, &[Choice(flags::FAMILY), SocketType, NUMBER]),
    (libc::SYS_socketpair, &[Choice(flags::FAMILY), SocketType, NUMBER, Descriptors]),
    (libc::SYS_connect, &[FD, SocketAddress(2), NUMBER]),
    (libc::SYS_bind, &[FD, SocketAddress(2), NUMBER]),
    (libc::SYS_accept4, &[FD, POINTER, POINTER, Flags(flags::SOCKET)]),
    (libc::SYS_sendto, &[FD, Given(2), NUMBER, Flags(flags::MESSAGE), SocketAddress(5), NUMBER]),
    (libc::SYS_recvfrom, &[FD, Filled, NUMBER, Flags(flags::MESSAGE), POINTER, POINTER]),
    (libc::SYS_sendmsg, &[FD, POINTER, Flags(flags::MESSAGE)]),
    (libc::SYS_recvmsg, &[FD, POINTER, Flags(flags::MESSAGE)]),
    (libc::SYS_shutdown, &[FD, Choice(flags::SHUTDOWN)]),
    (libc::SYS_setsockopt, &[FD, Choice(flags::LEVEL), NUMBER, POINTER, NUMBER]),
    (libc::SYS_getsockopt, &[FD, Choice(flags::LEVEL), NUMBER, POINTER, POINTER]),
    (libc::SYS_prlimit64, &[NUMBER, Choice(flags::LIMIT), POINTER, POINTER]),
    (libc::SYS_getrlimit, &[Choice(flags::LIMIT), POINTER]),
    (libc::SYS_setrlimit, &[Choice(flags::LIMIT), POINTER]),
    (libc::SYS_prctl, &[Choice(flags::PRCTL), HEX, HEX, HEX, HEX]),
];

/// The shapes of a call's arguments, where they are known better than in its own table.
pub fn of(number: i64) -> Option<&'static [Shape]> {
    TABLE.iter().find(|(known, _)| *known == number).map(|(_, shapes)| *shapes)
}

/// Whether a call returns an address.
pub fn gives_address(number: i64) -> bool {
    matches!(number, libc::SYS_mmap | libc::SYS_brk | libc::SYS_mremap)
}

#[cfg(test)]
mod tests {
    use super::super::super::lookup;
    use super::*;

    #[test]
    fn every_row_is_a_call_that_is_served_with_as_many_arguments() {
        for (number, shapes) in TABLE {
            let entry = lookup(*number).unwrap_or_else(|| panic!("{number} is not served"));
            assert!(shapes.len() <= 6, "{}", entry.name);
            assert_eq!(TABLE.iter().filter(|(other, _)| other == number).count(), 1, "{}", entry.name);
        }
    }
}
