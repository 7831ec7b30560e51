//! Traffic control (tc(8)): a classifier at the door of an interface that sends every packet to another interface.
//!
//! The `clsact` queueing discipline gives an interface two hooks and queues nothing. A classifier at its ingress hook sees a packet
//! before the host's own protocols do; the `mirred` action takes it from there to the way out of another interface (tc-mirred(8)).
//! An interface has at most one such discipline, whoever made it; classifiers on it are told apart by their preference.

use crate::socket::{Error, Socket};
use crate::wire::{Malformed, Request, Writer, attributes, fixed, number, text};

/// `TC_H_CLSACT`: the parent of the discipline with the two hooks.
const CLSACT: u32 = 0xffff_fff1;
/// Its handle, which the kernel gives to every such discipline.
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `ETH_P_ALL`, in network byte order as `tcm_info` has it.
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();
/// `struct tcmsg`.
const TCMSG: usize = 20;

/// linux/pkt_cls.h: `TCA_MATCHALL_ACT`, `TCA_U32_SEL`, `TCA_U32_ACT`, `TC_U32_TERMINAL`, `TCA_ACT_KIND`, `TCA_ACT_OPTIONS`.
const MATCHALL_ACTION: u16 = 2;
const U32_SELECTOR: u16 = 5;
const U32_ACTION: u16 = 7;
const U32_TERMINAL: u8 = 1;
const ACTION_KIND: u16 = 1;
const ACTION_OPTIONS: u16 = 2;
/// linux/tc_act/tc_mirred.h: `TCA_MIRRED_PARMS`, `TCA_EGRESS_REDIR`; linux/pkt_cls.h: `TC_ACT_STOLEN`.
const MIRRED_PARAMETERS: u16 = 2;
const EGRESS_REDIRECT: u32 = 1;
const STOLEN: u32 = 4;

/// Where classifiers stand on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What it received, before the host's protocols (`TC_H_MIN_INGRESS`). The older `ingress` discipline has this one alone.
    Ingress,
    /// What it is about to send (`TC_H_MIN_EGRESS`).
    Egress,
}

impl Hook {
    fn parent(self) -> u32 {
        match self {
            Hook::Ingress => 0xffff_fff2,
            Hook::Egress => 0xffff_fff3,
        }
    }
}

/// A classifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// `matchall`, `u32`, `bpf`.
    pub kind: String,
    /// The lowest comes first.
    pub preference: u16,
}

impl Filter {
    fn decode(payload: &[u8]) -> Result<Filter, Malformed> {
        let (structure, rest) = fixed::<TCMSG>(payload)?;
        let preference = (number(&structure[16..])? >> 16) as u16;
        let mut filter = Filter { kind: String::new(), preference };
        for attribute in attributes(rest) {
            if let (libc::TCA_KIND, value) = attribute? {
                filter.kind = text(value);
            }
        }
        Ok(filter)
    }
}

/// A request about the interface `index`.
fn request(kind: u16, flags: i32, index: u32, handle: u32, parent: u32, info: u32) -> Request {
    Request::new(kind, flags, &[&[0; 4], &index.to_ne_bytes(), &handle.to_ne_bytes(), &parent.to_ne_bytes(), &info.to_ne_bytes()])
}

impl Socket {
    /// Gives an interface the two hooks.
    ///
    /// # Errors
    /// The kernel's: `EEXIST` when it has them, or the older `ingress` discipline.
    pub fn add_hooks(&mut self, interface: u32) -> Result<(), Error> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut request = request(libc::RTM_NEWQDISC, flags, interface, CLSACT_HANDLE, CLSACT, 0);
        request.attributes.put_text(libc::TCA_KIND, "clsact");
        self.request(&request)
    }

    /// Takes the hooks away, and the classifiers that stand on them.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` or `ENOENT` when there are none.
    pub fn delete_hooks(&mut self, interface: u32) -> Result<(), Error> {
        self.request(&request(libc::RTM_DELQDISC, 0, interface, CLSACT_HANDLE, CLSACT, 0))
    }

    /// The classifiers at a hook; none where there is no hook. One may be listed more than once: u32 shows its hash tables too.
    ///
    /// # Errors
    /// The kernel's, and those of the conversation.
    pub fn filters(&mut self, interface: u32, hook: Hook) -> Result<Vec<Filter>, Error> {
        let request = request(libc::RTM_GETTFILTER, 0, interface, 0, hook.parent(), 0);
        self.dump(&request, libc::RTM_NEWTFILTER, Filter::decode)
    }

    /// Sends every packet that comes in at `from` out of `to`. A kernel without the classifier that matches everything, `matchall`,
    /// does it with the older u32, whose one key then looks at no bit.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` when it has neither, or no `mirred`.
    pub fn add_redirect(&mut self, from: u32, to: u32, preference: u16) -> Result<(), Error> {
        let added = self.request(&redirect(from, to, preference, Classifier::Matchall));
        match added {
            Err(Error::Refused { errno: nix::errno::Errno::ENOENT, .. }) => self.request(&redirect(from, to, preference, Classifier::U32)),
            other => other,
        }
    }

    /// Removes the classifiers with that preference from an interface's ingress hook.
    ///
    /// # Errors
    /// The kernel's: `ENOENT` when there is none.
    pub fn delete_redirect(&mut self, from: u32, preference: u16) -> Result<(), Error> {
        self.request(&request(libc::RTM_DELTFILTER, 0, from, 0, Hook::Ingress.parent(), information(preference)))
    }
}

/// `tcm_info` of a classifier.
fn information(preference: u16) -> u32 {
    u32::from(preference) << 16 | u32::from(ALL_PROTOCOLS)
}

/// What can match every packet.
#[derive(Debug, Clone, Copy)]
enum Classifier {
    Matchall,
    U32,
}

/// The request of [`Socket::add_redirect`].
fn redirect(from: u32, to: u32, preference: u16, classifier: Classifier) -> Request {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut request = request(libc::RTM_NEWTFILTER, flags, from, 0, Hook::Ingress.parent(), information(preference));
    match classifier {
        Classifier::Matchall => request
            .attributes
            .put_text(libc::TCA_KIND, "matchall")
            .nest(libc::TCA_OPTIONS, |options| _ = options.nest(MATCHALL_ACTION, |actions| send_out_of(to, actions))),
        Classifier::U32 => {
            // tc_u32_sel, of 16 bytes, with one tc_u32_key, of 16 bytes: mask, value, offset, offset's mask.
            let mut selector = [0; 32];
            (selector[0], selector[2]) = (U32_TERMINAL, 1);
            request.attributes.put_text(libc::TCA_KIND, "u32").nest(libc::TCA_OPTIONS, |options| {
                options.put(U32_SELECTOR, &selector).nest(U32_ACTION, |actions| send_out_of(to, actions));
            })
        }
    };
    request
}

/// The list of one action: mirred.
fn send_out_of(to: u32, actions: &mut Writer) {
    // tc_mirred: index, capabilities, verdict, two counts, what to do, the interface.
    let parameters = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to].map(u32::to_ne_bytes).concat();
    actions.nest(1, |action| {
        action.put_text(ACTION_KIND, "mirred").nest(ACTION_OPTIONS, |options| _ = options.put(MIRRED_PARAMETERS, &parameters));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_filters_preference_is_read_from_what_sets_it() {
        let bytes = redirect(3, 4, 0xb001, Classifier::U32).encode(0, 1);
        let filter = Filter::decode(&bytes[crate::wire::HEADER..]).unwrap();
        assert_eq!(filter, Filter { kind: "u32".into(), preference: 0xb001 });
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_filter_or_none(payload in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Filter::decode(&payload);
        }
    }
}
