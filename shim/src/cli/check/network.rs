//! Whether a microVM's network can be made here.
//!
//! A guest's card is a tap device in the pod's network namespace, and every packet goes from the pod's own interface to it and back by traffic control: the
//! `clsact` discipline, a classifier that matches everything (`matchall`, or the older `u32`), and the action `mirred` (tc-mirred(8)). Each is a module that a host may
//! not have and that the kernel loads when it is first asked for. So it is asked: in a thread with a network namespace of its own, where nobody
//! sees it, and which takes everything with it when it ends.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};

use crate::host;
use crate::network::within_thread;

/// `TC_H_CLSACT`, the handle of such a discipline, and the hook in it for what an interface has received (linux/pkt_sched.h).
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
/// `TCA_MATCHALL_ACT`, `TCA_U32_SEL`, `TCA_U32_ACT`, `TC_U32_TERMINAL`, `TCA_ACT_KIND`, `TCA_ACT_OPTIONS`, `TC_ACT_STOLEN` (linux/pkt_cls.h);
/// `TCA_MIRRED_PARMS`, `TCA_EGRESS_REDIR` (linux/tc_act/tc_mirred.h).
const MATCHALL_ACTION: u16 = 2;
const U32_SELECTOR: u16 = 5;
const U32_ACTION: u16 = 7;
const U32_TERMINAL: u8 = 1;
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
const STOLEN: u32 = 4;
const MIRRED_PARAMETERS: u16 = 2;
const EGRESS_REDIRECT: u32 = 1;

/// Makes a tap device.
pub fn tap() -> Result<String, String> {
    let made = within_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        host::tap().map(|(_tap, name)| name)
    });
    made.map(|_| String::from("one was made and removed")).map_err(|error| format!("/dev/net/tun: {error}"))
}

/// Has the kernel send an interface's packets to a tap device.
pub fn redirect() -> Result<String, String> {
    let done = within_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        // Errors of a step are text, so that the one that failed is known; only the thread's own are the host's.
        Ok(redirect_here())
    });
    done.unwrap_or_else(|error| Err(format!("network namespace: {error}")))
}

fn redirect_here() -> Result<String, String> {
    fn step<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
        move |error| format!("{what}: {error}")
    }
    let (_tap, name) = host::tap().map_err(step("tap device"))?;
    let index = if_nametoindex(name.as_str()).map_err(step("tap device"))?;
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute).map_err(step("rtnetlink"))?;
    ask(&socket, &discipline(index)).map_err(step("clsact (sch_ingress)"))?;
    match ask(&socket, &classifier(index, "matchall")) {
        Ok(()) => Ok(String::from("clsact, matchall and mirred work")),
        // ENOENT is also what a missing mirred gives; then the second try gives it again.
        Err(Errno::ENOENT) => match ask(&socket, &classifier(index, "u32")) {
            Ok(()) => Ok(String::from("clsact, u32 and mirred work; there is no matchall")),
            Err(error) => Err(step("matchall, then u32, with mirred (cls_matchall, cls_u32, act_mirred)")(error)),
        },
        Err(error) => Err(step("matchall with mirred")(error)),
    }
}

/// Sends a request; gives the kernel's answer to it.
fn ask(socket: &OwnedFd, request: &[u8]) -> Result<(), Errno> {
    sendto(socket.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledged(&answer[..length])
}

/// Reads an acknowledgement: a header of 16 bytes, whose second word's lower half is the kind, then the error, negative, or zero (netlink(7)).
fn acknowledged(answer: &[u8]) -> Result<(), Errno> {
    let Some((header, [a, b, c, d, ..])) = answer.split_at_checked(16) else { return Err(Errno::EBADMSG) };
    if i32::from(u16::from_ne_bytes([header[4], header[5]])) != libc::NLMSG_ERROR {
        return Err(Errno::EBADMSG);
    }
    match i32::from_ne_bytes([*a, *b, *c, *d]).checked_neg() {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw(error)),
        None => Err(Errno::EBADMSG),
    }
}

fn discipline(interface: u32) -> Vec<u8> {
    request(libc::RTM_NEWQDISC, interface, CLSACT_HANDLE, CLSACT, 0, &attribute(libc::TCA_KIND, b"clsact\0"))
}

/// A classifier that matches everything that `interface` receives and sends it out of there again.
fn classifier(interface: u32, kind: &str) -> Vec<u8> {
    // struct tc_mirred: five words common to all actions, of which the third is the verdict, then what to do and where.
    let mirred: Vec<u8> = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, interface].into_iter().flat_map(u32::to_ne_bytes).collect();
    let options = attribute(MIRRED_PARAMETERS, &mirred);
    let action = [attribute(ACTION_KIND, b"mirred\0"), attribute(ACTION_OPTIONS, &options)].concat();
    // A list of actions, numbered from 1.
    let actions = attribute(1, &action);
    let options = match kind {
        "matchall" => attribute(MATCHALL_ACTION, &actions),
        _ => {
            // struct tc_u32_sel with one key (mask, value, two offsets) that looks at no bit.
            let mut selector = [0; 32];
            (selector[0], selector[2]) = (U32_TERMINAL, 1);
            [attribute(U32_SELECTOR, &selector), attribute(U32_ACTION, &actions)].concat()
        }
    };
    let attributes = [attribute(libc::TCA_KIND, format!("{kind}\0").as_bytes()), attribute(libc::TCA_OPTIONS, &options)].concat();
    // The preference, and the protocol in network byte order.
    let info = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    request(libc::RTM_NEWTFILTER, interface, 0, INGRESS, info, &attributes)
}

/// A request that makes something, around a `struct tcmsg`.
fn request(kind: u16, interface: u32, handle: u32, parent: u32, info: u32, attributes: &[u8]) -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    let length = (16 + 20 + attributes.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    // Sequence number and port: one request at a time needs neither. Then the family, and its padding.
    bytes.extend([0; 8 + 4]);
    bytes.extend([interface, handle, parent, info].into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend(attributes);
    bytes
}

/// An attribute: its length without padding, its kind, its content padded to four bytes.
fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = [((4 + content.len()) as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let answer = |kind: i32, error: i32| {
            let mut bytes = vec![0; 16];
            bytes[4..6].copy_from_slice(&(kind as u16).to_ne_bytes());
            bytes.extend(error.to_ne_bytes());
            bytes
        };
        assert_eq!(acknowledged(&answer(libc::NLMSG_ERROR, 0)), Ok(()));
        assert_eq!(acknowledged(&answer(libc::NLMSG_ERROR, -libc::ENOENT)), Err(Errno::ENOENT));
        assert_eq!(acknowledged(&answer(libc::NLMSG_ERROR, i32::MIN)), Err(Errno::EBADMSG));
        assert_eq!(acknowledged(&answer(libc::NLMSG_DONE, 0)), Err(Errno::EBADMSG));
        assert_eq!(acknowledged(&[0; 19]), Err(Errno::EBADMSG));
    }

    /// What this machine has is its own affair; but where taps can be made, nothing of them stays.
    #[test]
    fn nothing_is_left_in_our_own_namespace() {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: it needs root");
            return;
        }
        let interfaces = || {
            std::fs::read_to_string("/proc/thread-self/net/dev")
                .unwrap()
                .lines()
                .map(|line| line.split(':').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let before = interfaces();
        println!("{:?} {:?}", tap(), redirect());
        assert_eq!(interfaces(), before);
    }

    /// Where a kernel has one classifier, the other's request is still well-formed: a kernel that has it takes it.
    #[test]
    fn both_classifiers_are_taken_or_unknown() {
        if !nix::unistd::geteuid().is_root() {
            println!("not run: it needs root");
            return;
        }
        for kind in ["matchall", "u32"] {
            let answer = within_thread(move || {
                unshare(CloneFlags::CLONE_NEWNET)?;
                let (_tap, name) = host::tap()?;
                let index = if_nametoindex(name.as_str())?;
                let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
                ask(&socket, &discipline(index))?;
                Ok(ask(&socket, &classifier(index, kind)))
            });
            match answer {
                Ok(answer) => assert!([Ok(()), Err(Errno::ENOENT)].contains(&answer), "{kind}: {answer:?}"),
                Err(error) => println!("not run: {error}"),
            }
        }
    }
}
