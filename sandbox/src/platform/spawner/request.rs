//! What the kernel asks of the spawner, and how it travels between the two.

use bulkhead_protocol::seccomp::Instruction;
pub use bulkhead_protocol::seccomp::Profile;

use crate::errno::{Errno, Result};

/// A process to be made, up to its execve(2).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SpawnRequest {
    /// Its exec root: a directory name below the exec roots.
    pub exec_root: String,
    /// The first process of a PID namespace that it joins; 0 for a new namespace.
    pub join: i32,
    /// The literal path it executes.
    pub path: Vec<u8>,
    /// Its arguments, the program's name first.
    pub arguments: Vec<Vec<u8>>,
    /// Its environment, `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// Limits that the host enforces: `RLIMIT_*`, soft, hard. `RLIMIT_NOFILE` and `RLIMIT_CORE` are the spawner's own.
    pub limits: Vec<(u32, u64, u64)>,
    /// Seccomp programs of the container's own profile, in the order of their installation.
    pub profiles: Vec<Profile>,
}

/// Longest request that is taken: twice what Linux lets a process have of arguments and environment.
pub(super) const LONGEST: usize = 16 << 20;

impl SpawnRequest {
    /// As bytes. `EINVAL` for a string with a NUL byte in it, `E2BIG` for too much.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, self.exec_root.as_bytes())?;
        put_bytes(&mut bytes, &self.path)?;
        for list in [&self.arguments, &self.environment] {
            put_number(&mut bytes, list.len() as u64);
            for string in list {
                put_bytes(&mut bytes, string)?;
            }
        }
        put_number(&mut bytes, self.limits.len() as u64);
        for &(resource, soft, hard) in &self.limits {
            put_number(&mut bytes, u64::from(resource));
            put_number(&mut bytes, soft);
            put_number(&mut bytes, hard);
        }
        put_number(&mut bytes, self.profiles.len() as u64);
        for profile in &self.profiles {
            put_number(&mut bytes, u64::from(profile.flags));
            put_number(&mut bytes, profile.program.len() as u64);
            for instruction in &profile.program {
                let Instruction { code, if_true, if_false, operand } = *instruction;
                let jumps = u64::from(if_true) << 16 | u64::from(if_false) << 24;
                put_number(&mut bytes, u64::from(code) | jumps | u64::from(operand) << 32);
            }
        }
        if bytes.len() > LONGEST { Err(Errno::E2BIG) } else { Ok(bytes) }
    }

    /// From bytes; what the kernel alone uses is left out. `EINVAL` where they are not a request.
    pub(super) fn decode(bytes: &[u8]) -> Result<SpawnRequest> {
        let mut from = Reader(bytes);
        let exec_root = String::from_utf8(from.bytes()?).map_err(|_| Errno::EINVAL)?;
        let path = from.bytes()?;
        let arguments = from.list(Reader::bytes)?;
        let environment = from.list(Reader::bytes)?;
        let limits = from.list(|from| Ok((from.number()? as u32, from.number()?, from.number()?)))?;
        let profiles = from.list(|from| {
            let flags = from.number()? as u32;
            let program = from.list(|from| {
                let word = from.number()?;
                let (code, operand) = (word as u16, (word >> 32) as u32);
                Ok(Instruction { code, if_true: (word >> 16) as u8, if_false: (word >> 24) as u8, operand })
            })?;
            Ok(Profile { program, flags })
        })?;
        Ok(SpawnRequest { exec_root, path, arguments, environment, limits, profiles, ..SpawnRequest::default() })
    }
}

fn put_number(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn put_bytes(bytes: &mut Vec<u8>, string: &[u8]) -> Result<()> {
    if string.contains(&0) {
        return Err(Errno::EINVAL);
    }
    put_number(bytes, string.len() as u64);
    bytes.extend_from_slice(string);
    Ok(())
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Result<u64> {
        let (first, rest) = self.0.split_first_chunk::<8>().ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*first))
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        let length = usize::try_from(self.number()?).map_err(|_| Errno::EINVAL)?;
        let (first, rest) = self.0.split_at_checked(length).ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(first.to_vec())
    }

    fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = self.number()?;
        (0..count).map(|_| element(self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8.., 0..20)
    }

    proptest! {
        #[test]
        fn a_request_arrives_as_it_was_sent(
            exec_root in "[a-z0-9]{0,20}", path in word(),
            arguments in proptest::collection::vec(word(), 0..5),
            environment in proptest::collection::vec(word(), 0..5),
            limit in any::<(u32, u64, u64)>(), flags in any::<u32>(), instruction in any::<(u16, u8, u8, u32)>(),
        ) {
            let (code, if_true, if_false, operand) = instruction;
            let program = vec![Instruction { code, if_true, if_false, operand }];
            let profiles = vec![Profile { program, flags }];
            let request = SpawnRequest { exec_root, path, arguments, environment, limits: vec![limit], profiles, ..SpawnRequest::default() };
            prop_assert_eq!(SpawnRequest::decode(&request.encode().unwrap()).unwrap(), request);
        }

        #[test]
        fn rubbish_is_refused_not_believed(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SpawnRequest::decode(&bytes);
        }
    }

    #[test]
    fn nul_bytes_are_refused() {
        let request = SpawnRequest { path: b"/bin/a\0b".to_vec(), ..SpawnRequest::default() };
        assert_eq!(request.encode().unwrap_err(), Errno::EINVAL);
    }
}
