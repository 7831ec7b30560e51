//! The environment of a first process, as runc completes it: of a variable that is given twice the last value counts, and where there is no
//! `HOME` it is the user's, by the container's own /etc/passwd (passwd(5)), or `/`.

use std::fs::File;
use std::io::Read;

use crate::kernel::credentials::Credentials;
use crate::vfs::mount::Location;
use crate::vfs::node::FileType;
use crate::vfs::walk::{self, Walk, WalkFlags};

/// As much of /etc/passwd as is looked at.
const LONGEST: u64 = 1 << 20;

/// Completes an environment for a process of this user.
pub fn complete(variables: &[String], root: &Location, uid: u32) -> Vec<String> {
    let mut complete = distinct(variables);
    let home = complete.iter().find_map(|variable| variable.strip_prefix("HOME="));
    if home.is_none_or(str::is_empty) {
        let home = home_in(&passwd(root), uid).unwrap_or_else(|| String::from("/"));
        complete.retain(|variable| !variable.starts_with("HOME="));
        complete.push(format!("HOME={home}"));
    }
    complete
}

/// Each name once, where it was first, with its last value.
fn distinct(variables: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().map(str::len).unwrap_or(0);
    let mut distinct: Vec<String> = Vec::with_capacity(variables.len());
    let mut places = std::collections::HashMap::new();
    for variable in variables {
        match places.get(&variable[..name(variable)]) {
            Some(&place) => distinct[place] = variable.clone(),
            None => {
                places.insert(&variable[..name(variable)], distinct.len());
                distinct.push(variable.clone());
            }
        }
    }
    distinct
}

/// The container's /etc/passwd; nothing where it is not there or no regular file.
fn passwd(root: &Location) -> Vec<u8> {
    let who = Credentials::kernel();
    let found = walk::resolve(&Walk { root, start: root, who: &who, flags: WalkFlags::empty() }, b"/etc/passwd");
    let mut text = Vec::new();
    if let Ok(found) = found
        && found.node.file_type() == FileType::Regular
        && let Ok(file) = found.node.host_file()
    {
        let _ = File::from(file).take(LONGEST).read_to_end(&mut text);
    }
    text
}

/// A user's home directory.
fn home_in(passwd: &[u8], uid: u32) -> Option<String> {
    let home = |line: &[u8]| {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.split(':').skip(2);
        let number: u32 = fields.next()?.parse().ok()?;
        let home = fields.nth(2)?;
        (number == uid && !home.is_empty() && !home.contains('\0')).then(|| home.to_owned())
    };
    passwd.split(|&byte| byte == b'\n').find_map(home)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(variables: &[&str]) -> Vec<String> {
        variables.iter().map(|variable| (*variable).to_owned()).collect()
    }

    #[test]
    fn the_last_value_counts() {
        assert_eq!(distinct(&owned(&["A=1", "B=2", "A=3", "AB=4"])), owned(&["A=3", "B=2", "AB=4"]));
    }

    #[test]
    fn a_home_is_found_by_its_users_number() {
        let passwd =
            b"# a comment\nroot:x:0:0:root:/root:/bin/sh\nx:x:7:7::\nbroken\nu:x:1000:1000:a:/home/u:/bin/sh\nv:x:1000:1:b:/other:\n";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 1000).as_deref(), Some("/home/u"));
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in(passwd, 5), None);
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_home_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300), uid in 0u32..3) {
            let _ = home_in(&bytes, uid);
        }

        #[test]
        fn names_are_distinct(variables in proptest::collection::vec("[AB]{0,2}=?[01]?", 0..10)) {
            let names: Vec<_> = distinct(&variables).iter().map(|variable| variable.split('=').next().unwrap().to_owned()).collect();
            let unique: std::collections::HashSet<_> = names.iter().collect();
            prop_assert_eq!(unique.len(), names.len());
        }
    }
}
