//! Seccomp notifications (seccomp_unotify(2)): receiving calls and answering them.

/// The host's name for a received call (`seccomp_notif.id`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NotificationId(pub u64);
