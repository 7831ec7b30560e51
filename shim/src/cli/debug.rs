//! `debug`: the tables that the wall is made of, and what passes through it.

use bulkhead_protocol::messages::{ContainerRequest, SyscallCount};
use bulkhead_sandbox::confine::CALLS;
use bulkhead_sandbox::platform::{direct, let_go};
use clap::Subcommand;

use super::say;
use crate::lifecycle::{self, Session};

#[derive(Subcommand)]
pub enum Debug {
    /// What a container called, how often, and what was refused
    Syscalls { id: String },
    /// What a workload may have the host execute
    DirectSet,
    /// What the kernel process may have the host execute
    KernelCalls,
    /// Which fields of config.json are honoured
    ConfigFields,
}

impl Debug {
    pub fn run(self, session: &Session) -> anyhow::Result<i32> {
        say(&self.text(session)?)?;
        Ok(0)
    }

    fn text(self, session: &Session) -> anyhow::Result<String> {
        let table = |rows: &mut dyn Iterator<Item = (i64, &'static str, String)>| {
            rows.map(|(number, name, reason)| format!("{number:>4} {name:<24} {reason}\n")).collect::<String>()
        };
        Ok(match self {
            Debug::Syscalls { id } => {
                let (mut client, _) = lifecycle::client(session, &id)?;
                let mut request = ContainerRequest::new();
                request.container_id = id;
                let mut counts = client.syscall_counts(&request)?.counts;
                counts.sort_by_key(|count| std::cmp::Reverse(count.calls));
                let line = |count: &SyscallCount| format!("{:>10} {:>10}  {}\n", count.calls, count.refused, count.name);
                format!("{:>10} {:>10}  CALL\n", "CALLS", "REFUSED") + &counts.iter().map(line).collect::<String>()
            }
            Debug::DirectSet => {
                let direct = direct::TABLE.iter().map(|row| (row.number, row.name, format!("direct: {}", row.reason)));
                let let_go = let_go::TABLE.iter().map(|row| (row.number, row.name, format!("let go: {}", row.reason)));
                table(&mut direct.chain(let_go))
            }
            Debug::KernelCalls => table(&mut CALLS.iter().map(|row| (row.number, row.name, row.reason.to_owned()))),
            Debug::ConfigFields => crate::oci::fields::markdown(),
        })
    }
}
