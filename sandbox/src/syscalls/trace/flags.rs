//! Names of bits and values, as headers have them.

/// Values with their names.
pub type Names = &'static [(u64, &'static str)];

macro_rules! names {
    ($($name:ident),* $(,)?) => { &[$((libc::$name as u64, stringify!($name))),*] };
}

pub const WHENCE: Names = names![SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE];
pub const ACCESS: Names = &[(0, "F_OK"), (4, "R_OK"), (2, "W_OK"), (1, "X_OK")];
pub const AT: Names = names![AT_SYMLINK_NOFOLLOW, AT_EACCESS, AT_SYMLINK_FOLLOW, AT_NO_AUTOMOUNT, AT_EMPTY_PATH];
pub const UNLINK: Names = names![AT_REMOVEDIR];
pub const RENAME: Names = names![RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT];
pub const FLOCK: Names = names![LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN];
pub const DESCRIPTOR: Names = names![O_CLOEXEC, O_NONBLOCK, O_DIRECT];
pub const EVENT: Names = names![EFD_SEMAPHORE, EFD_CLOEXEC, EFD_NONBLOCK];
pub const EPOLL: Names = names![EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD];
pub const CLOCKS: Names = names![CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM];
pub const MEMORY: Names = names![MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB, MFD_NOEXEC_SEAL, MFD_EXEC];
pub const PROTECTION: Names = &[(0, "PROT_NONE"), (1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];
/// `MAP_SHARED_VALIDATE` is the two lowest together: shown as both.
pub const MAP: Names = names![
    MAP_SHARED,
    MAP_PRIVATE,
    MAP_FIXED,
    MAP_ANONYMOUS,
    MAP_GROWSDOWN,
    MAP_DENYWRITE,
    MAP_EXECUTABLE,
    MAP_LOCKED,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_NONBLOCK,
    MAP_STACK,
    MAP_HUGETLB,
    MAP_SYNC,
    MAP_FIXED_NOREPLACE,
];
pub const FAMILY: Names = names![AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_VSOCK, AF_ALG, AF_BLUETOOTH];
pub const SOCKET: Names = names![SOCK_CLOEXEC, SOCK_NONBLOCK];
pub const MESSAGE: Names = names![
    MSG_OOB,
    MSG_PEEK,
    MSG_DONTROUTE,
    MSG_CTRUNC,
    MSG_TRUNC,
    MSG_DONTWAIT,
    MSG_EOR,
    MSG_WAITALL,
    MSG_CONFIRM,
    MSG_ERRQUEUE,
    MSG_NOSIGNAL,
    MSG_MORE,
    MSG_CMSG_CLOEXEC,
];
pub const SHUTDOWN: Names = names![SHUT_RD, SHUT_WR, SHUT_RDWR];
pub const LEVEL: Names = names![SOL_SOCKET, IPPROTO_IP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_IPV6, SOL_NETLINK];
pub const LIMIT: Names = names![
    RLIMIT_CPU,
    RLIMIT_FSIZE,
    RLIMIT_DATA,
    RLIMIT_STACK,
    RLIMIT_CORE,
    RLIMIT_RSS,
    RLIMIT_NPROC,
    RLIMIT_NOFILE,
    RLIMIT_MEMLOCK,
    RLIMIT_AS,
    RLIMIT_LOCKS,
    RLIMIT_SIGPENDING,
    RLIMIT_MSGQUEUE,
    RLIMIT_NICE,
    RLIMIT_RTPRIO,
    RLIMIT_RTTIME,
];
pub const FCNTL: Names = &[
    (0, "F_DUPFD"),
    (1, "F_GETFD"),
    (2, "F_SETFD"),
    (3, "F_GETFL"),
    (4, "F_SETFL"),
    (5, "F_GETLK"),
    (6, "F_SETLK"),
    (7, "F_SETLKW"),
    (8, "F_SETOWN"),
    (9, "F_GETOWN"),
    (10, "F_SETSIG"),
    (11, "F_GETSIG"),
    (15, "F_SETOWN_EX"),
    (16, "F_GETOWN_EX"),
    (36, "F_OFD_GETLK"),
    (37, "F_OFD_SETLK"),
    (38, "F_OFD_SETLKW"),
    (1024, "F_SETLEASE"),
    (1025, "F_GETLEASE"),
    (1026, "F_NOTIFY"),
    (1030, "F_DUPFD_CLOEXEC"),
    (1031, "F_SETPIPE_SZ"),
    (1032, "F_GETPIPE_SZ"),
    (1033, "F_ADD_SEALS"),
    (1034, "F_GET_SEALS"),
];
pub const IOCTL: Names = names![
    TCGETS, TCSETS, TCSETSW, TCSETSF, TCSBRK, TCXONC, TCFLSH, TIOCEXCL, TIOCNXCL, TIOCSCTTY, TIOCGPGRP, TIOCSPGRP, TIOCOUTQ, TIOCSTI,
    TIOCGWINSZ, TIOCSWINSZ, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX, TIOCNOTTY, TIOCGPTN, TIOCSPTLCK, TIOCGSID,
];
pub const PRCTL: Names = names![
    PR_SET_PDEATHSIG,
    PR_GET_PDEATHSIG,
    PR_GET_DUMPABLE,
    PR_SET_DUMPABLE,
    PR_GET_KEEPCAPS,
    PR_SET_KEEPCAPS,
    PR_SET_NAME,
    PR_GET_NAME,
    PR_GET_SECCOMP,
    PR_SET_SECCOMP,
    PR_CAPBSET_READ,
    PR_CAPBSET_DROP,
    PR_GET_SECUREBITS,
    PR_SET_SECUREBITS,
    PR_SET_TIMERSLACK,
    PR_GET_TIMERSLACK,
    PR_SET_MM,
    PR_SET_CHILD_SUBREAPER,
    PR_GET_CHILD_SUBREAPER,
    PR_SET_NO_NEW_PRIVS,
    PR_GET_NO_NEW_PRIVS,
    PR_GET_TID_ADDRESS,
    PR_SET_THP_DISABLE,
    PR_GET_THP_DISABLE,
    PR_CAP_AMBIENT,
    PR_SET_VMA,
    PR_SET_PTRACER,
];
const CLONE: Names = names![
    CLONE_VM,
    CLONE_FS,
    CLONE_FILES,
    CLONE_SIGHAND,
    CLONE_PIDFD,
    CLONE_PTRACE,
    CLONE_VFORK,
    CLONE_PARENT,
    CLONE_THREAD,
    CLONE_NEWNS,
    CLONE_SYSVSEM,
    CLONE_SETTLS,
    CLONE_PARENT_SETTID,
    CLONE_CHILD_CLEARTID,
    CLONE_DETACHED,
    CLONE_UNTRACED,
    CLONE_CHILD_SETTID,
    CLONE_NEWCGROUP,
    CLONE_NEWUTS,
    CLONE_NEWIPC,
    CLONE_NEWUSER,
    CLONE_NEWPID,
    CLONE_NEWNET,
    CLONE_IO,
];
/// `O_LARGEFILE`'s value is not libc's on x86-64. Those that contain others come before them.
const OPEN: Names = &[
    (libc::O_TMPFILE as u64, "O_TMPFILE"),
    (libc::O_SYNC as u64, "O_SYNC"),
    (libc::O_CREAT as u64, "O_CREAT"),
    (libc::O_EXCL as u64, "O_EXCL"),
    (libc::O_NOCTTY as u64, "O_NOCTTY"),
    (libc::O_TRUNC as u64, "O_TRUNC"),
    (libc::O_APPEND as u64, "O_APPEND"),
    (libc::O_NONBLOCK as u64, "O_NONBLOCK"),
    (libc::O_DSYNC as u64, "O_DSYNC"),
    (libc::O_ASYNC as u64, "O_ASYNC"),
    (libc::O_DIRECT as u64, "O_DIRECT"),
    (0o100_000, "O_LARGEFILE"),
    (libc::O_DIRECTORY as u64, "O_DIRECTORY"),
    (libc::O_NOFOLLOW as u64, "O_NOFOLLOW"),
    (libc::O_NOATIME as u64, "O_NOATIME"),
    (libc::O_CLOEXEC as u64, "O_CLOEXEC"),
    (libc::O_PATH as u64, "O_PATH"),
];
const TYPES: Names = names![SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET];
const SIGNALS: Names = names![
    SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM,
    SIGSTKFLT, SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGWINCH, SIGIO, SIGPWR,
    SIGSYS,
];

/// Bits by their names, joined as C joins them; what has no name in hexadecimal.
pub fn bits(names: Names, value: u64) -> String {
    // Registers of `int` arguments may hold anything above.
    let value = value & 0xffff_ffff;
    if value == 0 {
        return names.iter().find(|(known, _)| *known == 0).map_or_else(|| String::from("0"), |(_, name)| (*name).to_owned());
    }
    joined(names, value)
}

fn joined(names: Names, value: u64) -> String {
    let mut rest = value;
    let mut shown: Vec<String> = Vec::new();
    for (bit, name) in names.iter().filter(|(bit, _)| *bit != 0) {
        if rest & bit == *bit {
            shown.push((*name).to_owned());
            rest &= !bit;
        }
    }
    if rest != 0 {
        shown.push(format!("{rest:#x}"));
    }
    shown.join("|")
}

/// One value by its name.
pub fn choice(names: Names, value: u64) -> String {
    let value = value & 0xffff_ffff;
    names.iter().find(|(known, _)| *known == value).map_or_else(|| format!("{value:#x}"), |(_, name)| (*name).to_owned())
}

/// open(2)'s flags.
pub fn open(flags: u32) -> String {
    const MODES: [&str; 4] = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"];
    let mode = MODES[(flags & libc::O_ACCMODE as u32) as usize];
    let rest = joined(OPEN, u64::from(flags & !(libc::O_ACCMODE as u32)));
    if rest.is_empty() { mode.to_owned() } else { format!("{mode}|{rest}") }
}

/// clone(2)'s flags, with the signal of the child's end.
pub fn clone(flags: u64) -> String {
    let ends = (flags & 0xff) as i32;
    let mut shown = joined(CLONE, flags & !0xff);
    if ends != 0 || shown.is_empty() {
        let bar = if shown.is_empty() { "" } else { "|" };
        shown = format!("{shown}{bar}{}", signal(ends));
    }
    shown
}

/// A socket's type, with its flags.
pub fn socket_type(value: u32) -> String {
    let flags = libc::SOCK_CLOEXEC as u32 | libc::SOCK_NONBLOCK as u32;
    let shown = choice(TYPES, u64::from(value & !flags));
    let rest = joined(SOCKET, u64::from(value & flags));
    if rest.is_empty() { shown } else { format!("{shown}|{rest}") }
}

/// A signal's name; real-time signals by their distance from the first.
pub fn signal(number: i32) -> String {
    match number {
        32.. => format!("SIGRT_{}", number - 32),
        _ => SIGNALS
            .iter()
            .find(|(known, _)| *known as i64 == i64::from(number))
            .map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned()),
    }
}

/// A socket address: family and what it says. At least two bytes.
pub fn address(bytes: &[u8]) -> String {
    let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
    let name = choice(FAMILY, u64::from(family));
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[2], bytes[3]]);
    match i32::from(family) {
        libc::AF_UNIX if bytes.get(2) == Some(&0) && bytes.len() > 3 => format!("{{{name}, @{}}}", super::quoted(&bytes[3..], 108)),
        libc::AF_UNIX => {
            let path = bytes[2..].split(|&byte| byte == 0).next().unwrap_or(&[]);
            format!("{{{name}, {}}}", super::quoted(path, 108))
        }
        libc::AF_INET if bytes.len() >= 8 => {
            format!("{{{name}, {}:{}}}", std::net::Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]), port(bytes))
        }
        libc::AF_INET6 if bytes.len() >= 24 => {
            let mut octets = [0u8; 16];
            octets.copy_from_slice(&bytes[8..24]);
            format!("{{{name}, [{}]:{}}}", std::net::Ipv6Addr::from(octets), port(bytes))
        }
        _ => format!("{{{name}}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_have_names() {
        assert_eq!(bits(PROTECTION, 0), "PROT_NONE");
        assert_eq!(bits(PROTECTION, 5), "PROT_READ|PROT_EXEC");
        assert_eq!(bits(MAP, 0x22), "MAP_PRIVATE|MAP_ANONYMOUS");
        assert_eq!(bits(AT, 0), "0");
        assert_eq!(bits(AT, 0x8100), "AT_SYMLINK_NOFOLLOW|0x8000");
    }

    #[test]
    fn flags_of_open_begin_with_the_access_mode() {
        assert_eq!(open(0), "O_RDONLY");
        assert_eq!(open((libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC) as u32), "O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC");
        assert_eq!(open((libc::O_RDWR | libc::O_TMPFILE) as u32), "O_RDWR|O_TMPFILE");
        assert_eq!(open(libc::O_DIRECTORY as u32), "O_RDONLY|O_DIRECTORY");
    }

    #[test]
    fn children_sockets_and_signals() {
        assert_eq!(clone(libc::SIGCHLD as u64), "SIGCHLD");
        assert_eq!(clone((libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as u64), "CLONE_VM|CLONE_VFORK|SIGCHLD");
        assert_eq!(clone(libc::CLONE_VM as u64), "CLONE_VM");
        assert_eq!(socket_type((libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as u32), "SOCK_DGRAM|SOCK_CLOEXEC");
        assert_eq!((signal(9), signal(0), signal(34)), ("SIGKILL".into(), "0".into(), "SIGRT_2".into()));
    }

    #[test]
    fn addresses_are_readable() {
        assert_eq!(address(b"\x02\x00\x1f\x90\x7f\x00\x00\x01"), "{AF_INET, 127.0.0.1:8080}");
        assert_eq!(address(b"\x01\x00/run/x\0\0"), "{AF_UNIX, \"/run/x\"}");
        assert_eq!(address(b"\x01\x00\0name"), "{AF_UNIX, @\"name\"}");
        assert_eq!(address(b"\x0a\x00"), "{AF_INET6}");
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            #[test]
            fn anything_is_shown(value: u64, bytes in proptest::collection::vec(any::<u8>(), 2..110)) {
                for text in [bits(MAP, value), choice(FAMILY, value), open(value as u32), clone(value), socket_type(value as u32), address(&bytes)] {
                    prop_assert!(!text.is_empty());
                    prop_assert!(text.is_ascii());
                }
            }
        }
    }
}
