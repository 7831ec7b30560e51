//! The program of a process: found as runc finds it, with runc's words where it is not. Clients match on them.

use std::path::Path;

use bulkhead_protocol::call::{Code, Refusal};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

/// The path of a program: as it is where it has a slash, else looked for in `PATH`. Asked by a process that has its identity and its tree.
///
/// # Errors
/// [`Refusal::of_execution`]'s, or that it is nowhere in `PATH`.
pub fn find(name: &str, environment: &[String]) -> Result<String, Refusal> {
    if name.contains('/') {
        return look(name).map(|()| name.to_owned()).map_err(|error| Refusal::of_execution(name, error));
    }
    let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or("");
    for directory in path.split(':') {
        let candidate = format!("{}/{name}", if directory.is_empty() { "." } else { directory });
        if !name.is_empty() && look(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(Refusal::new(Code::NotFound, format!("exec: {name:?}: executable file not found in $PATH")))
}

/// Whether it is a file that may be executed.
fn look(path: &str) -> nix::Result<()> {
    let path = Path::new(path);
    if nix::sys::stat::stat(path)?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno::EACCES);
    }
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_refused_in_runcs_words() {
        let environment = vec![String::from("PATH=/nowhere:/bin"), String::from("X=1")];
        assert_eq!(find("sh", &environment).unwrap(), "/bin/sh");
        let message = |name: &str| find(name, &environment).unwrap_err().message;
        assert_eq!(message("no-such"), r#"exec: "no-such": executable file not found in $PATH"#);
        assert_eq!(message(""), r#"exec: "": executable file not found in $PATH"#);
        assert_eq!(message("/no/such"), r#"exec: "/no/such": stat /no/such: no such file or directory"#);
        assert_eq!(message("/etc/passwd"), r#"exec: "/etc/passwd": permission denied"#);
        assert_eq!(message("/etc"), r#"exec: "/etc": permission denied"#);
        assert_eq!(message("/etc/passwd/x"), r#"exec: "/etc/passwd/x": not a directory"#);
        assert!(find("sh", &[]).is_err());
    }
}
