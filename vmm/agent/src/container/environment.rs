//! The environment of a first process, as runc completes it: of a variable that is given twice the last value counts, and where there is no
//! `HOME` it is the user's, by the container's own /etc/passwd (passwd(5)), or `/`. The C library's own lookup is not asked: it would load
//! plug-ins (nsswitch.conf(5)), of the image's choice.

use std::fs::File;
use std::io::Read;

/// As much of /etc/passwd as is looked at.
const LONGEST: u64 = 1 << 20;

/// Completes an environment for a process of this user; `passwd` is the text of the container's /etc/passwd.
pub fn complete(variables: &[String], passwd: &[u8], uid: u32) -> Vec<String> {
    let mut complete: Vec<String> = Vec::with_capacity(variables.len() + 1);
    for variable in variables {
        let name = name(variable);
        match complete.iter_mut().find(|other| self::name(other) == name) {
            Some(earlier) => variable.clone_into(earlier),
            None => complete.push(variable.clone()),
        }
    }
    if complete.iter().find_map(|variable| variable.strip_prefix("HOME=")).is_none_or(str::is_empty) {
        let home = home(passwd, uid).unwrap_or("/");
        complete.retain(|variable| name(variable) != "HOME");
        complete.push(format!("HOME={home}"));
    }
    complete
}

fn name(variable: &str) -> &str {
    variable.split('=').next().unwrap_or_default()
}

/// The /etc/passwd of the tree that this process is in; nothing where it is not there or no regular file.
pub fn passwd() -> Vec<u8> {
    let mut text = Vec::new();
    // A FIFO of the image's would block who opens it.
    if std::fs::metadata("/etc/passwd").is_ok_and(|metadata| metadata.is_file())
        && let Ok(file) = File::open("/etc/passwd")
    {
        let _ = file.take(LONGEST).read_to_end(&mut text);
    }
    text
}

/// A user's home directory.
fn home(passwd: &[u8], uid: u32) -> Option<&str> {
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = std::str::from_utf8(line).ok()?.split(':').skip(2);
        let number: u32 = fields.next()?.parse().ok()?;
        let home = fields.nth(2)?;
        (number == uid && !home.is_empty() && !home.contains('\0')).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(variables: &[&str]) -> Vec<String> {
        variables.iter().map(|variable| (*variable).to_owned()).collect()
    }

    #[test]
    fn the_last_value_counts_and_a_home_is_the_users() {
        let passwd =
            b"# a comment\nroot:x:0:0:root:/root:/bin/sh\nx:x:7:7::\nbroken\nu:x:1000:1000:a:/home/u:/bin/sh\nv:x:1000:1:b:/other:\n";
        assert_eq!(complete(&owned(&["A=1", "B=2", "A=3", "AB=4"]), passwd, 0), owned(&["A=3", "B=2", "AB=4", "HOME=/root"]));
        assert_eq!(complete(&owned(&["HOME=/x"]), passwd, 0), owned(&["HOME=/x"]));
        assert_eq!(complete(&owned(&["HOME="]), passwd, 1000), owned(&["HOME=/home/u"]));
        assert_eq!([7, 5].map(|uid| complete(&[], passwd, uid)), [owned(&["HOME=/"]), owned(&["HOME=/"])]);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_home_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300), uid in 0u32..3) {
            let _ = home(&bytes, uid);
        }

        #[test]
        fn names_are_distinct_and_home_is_there(variables in proptest::collection::vec("[AB]{0,2}=?[01]?", 0..10)) {
            let complete = complete(&variables, b"", 0);
            let unique: std::collections::HashSet<_> = complete.iter().map(|variable| name(variable)).collect();
            prop_assert_eq!(unique.len(), complete.len());
            prop_assert!(unique.contains("HOME"));
        }
    }
}
